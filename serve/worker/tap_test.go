package worker

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestListen: what the application writes reaches the log as it is, and line by
// line whoever listens.
func TestListen(t *testing.T) {
	p, app, log := newFixture(t, `
import os, sys
print('loading')
def application(environ, start_response):
    start_response('200 OK', [])
    if environ['PATH_INFO'] == '/child':
        if os.fork() == 0:  # keeps the pipe open
            import time
            os.setsid()
            open('child', 'w').write(str(os.getpid()))
            time.sleep(30)
            os._exit(0)
    os.write(1, b'ha')
    os.write(1, b'lf\n')
    os.write(2, b'x' * 20000 + b'\n\n\xff\nend')
    return [b'ok']
`, nil)
	var mu sync.Mutex
	var got []string
	p.Listen(func(line []byte) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, string(line))
	})
	lines := func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Sorted(slices.Values(got))
	}
	stderr := p.Stderr
	r := run(t, p, app, log)
	t.Cleanup(func() {
		b, err := os.ReadFile(filepath.Join(app.Dir, "child"))
		if pid, _ := strconv.Atoi(string(b)); err == nil && pid > 1 {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	r.get("/child")
	eventually(t, "the lines", func() bool { return len(lines()) == 5 })
	began := time.Now()
	r.close()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it ends after %v", took)
	}
	want := []string{"", "end", "half", "loading", strings.Repeat("x", maxLine), "\xff"}
	if got := lines(); !slices.Equal(got, want) {
		t.Errorf("%.60q", got)
	}
	b, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(b), strings.Repeat("x", 20000)+"\n\n\xff\nend") || !strings.Contains(string(b), "half\n") {
		t.Errorf("the log is not what was written: %d bytes, %v", len(b), err)
	}
	if p.Stderr != stderr {
		t.Error("Stderr is another after Run")
	}
}
