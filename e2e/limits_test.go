package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// limited is an app that tries to take memory and processes.
const limited = `
import os, resource

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    path = environ["PATH_INFO"]
    if path == "/memory":
        try:
            return [b"took %d" % len(bytearray(400 << 20))]
        except MemoryError:
            return [b"MemoryError"]
    if path == "/processes":
        pids = []
        r, w = os.pipe()
        try:
            for i in range(120):
                pid = os.fork()
                if pid == 0:
                    os.close(w)
                    os.read(r, 1)
                    os._exit(0)
                pids.append(pid)
        except OSError:
            pass
        os.close(w)
        for pid in pids:
            os.waitpid(pid, 0)
        os.close(r)
        return [b"%d" % len(pids)]
    return [b"serves"]
`

// TestSmallLimits: limits that would stop a Go program from starting are the
// workers', and the core starts within a small pids-max (KERNEL 5).
func TestSmallLimits(t *testing.T) {
	r := newRealm(t)
	r.write("app/app.py", limited)
	for _, tc := range []struct {
		name, line  string
		as          string // of a worker, bytes
		memory      string // what a worker gets when it asks for 400 MB
		least, most int    // how many children a worker can have
	}{
		{"as", "limit-as = 256", "268435456", "MemoryError", 120, 120},
		{"nproc", "limit-nproc = 10", "unlimited", "took 419430400", 10, 74},
		{"few", "pids-max = 20", "unlimited", "took 419430400", 1, 17},
		{"free", "# no limit: the negative control", "unlimited", "took 419430400", 120, 120},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := r.in(t)
			r.drop(tc.name, "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\n"+tc.line+"\n")
			v := r.up(tc.name)
			addr := v.Listen[0]
			if _, got := r.get(addr, "/"); got != "serves" {
				t.Errorf("got %q", got)
			}
			if got := limit(t, *v.PID, "Max address space"); got != "unlimited" {
				t.Errorf("address space of the core: %s, want unlimited", got)
			}
			workers := 0
			for _, pid := range below(t, *v.PID) {
				if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.Contains(string(comm), "python") || strings.Contains(string(comm), tc.name) {
					workers++
					if got := limit(t, pid, "Max address space"); got != tc.as {
						t.Errorf("address space of %q: %s, want %s", comm, got, tc.as)
					}
				}
			}
			if workers == 0 {
				t.Error("no worker was found")
			}
			if _, got := r.get(addr, "/memory"); got != tc.memory {
				t.Errorf("memory: got %q, want %q", got, tc.memory)
			}
			_, body := r.get(addr, "/processes")
			if n, err := strconv.Atoi(body); err != nil || n < tc.least || n > tc.most {
				t.Errorf("processes: got %q, want %d to %d", body, tc.least, tc.most)
			}
			if _, got := r.get(addr, "/"); got != "serves" {
				t.Errorf("after that: got %q", got)
			}
			if tc.most < 120 {
				r.until("what pids-max refused is counted", func() bool { return r.status(tc.name).PidsRefused > 0 })
				if text := r.liege("status", tc.name); !strings.Contains(text, "refused by pids-max") {
					t.Errorf("status does not say it:\n%s", text)
				}
			} else if n := r.status(tc.name).PidsRefused; n != 0 {
				t.Errorf("%d processes were refused", n)
			}
		})
	}
}

// limit reads the soft value of a line of /proc/PID/limits.
func limit(t *testing.T, pid int, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strings.Fields(rest)[0]
		}
	}
	t.Fatalf("no %s in %s", name, b)
	return ""
}

// below lists the processes whose parent, or parent's parent, is pid.
func below(t *testing.T, pid int) []int {
	t.Helper()
	parent := map[int]int{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range stats {
		b, err := os.ReadFile(p)
		if err != nil {
			continue // it ended
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
		parent[n], _ = strconv.Atoi(f[1])
	}
	var out []int
	for n := range parent {
		for up := parent[n]; up > 1; up = parent[up] {
			if up == pid {
				out = append(out, n)
				break
			}
		}
	}
	return out
}
