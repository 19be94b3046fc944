package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"liege/emperor/control"
)

// TestWishAsItServes: a generation serves before the Emperor knows, which writes its
// pidfile first. What is wished in that time, a bad edit or a stop, breaks off no
// request, and what serves is what listens.
func TestWishAsItServes(t *testing.T) {
	r := newRealm(t)
	for _, d := range []string{"marks", "pids"} {
		r.write(d+"/.keep", "")
		r.give(d, tenant, tenant)
	}
	mark := filepath.Join(r.dir, "marks/asked")
	r.write("app/hello.py", "import time\ndef application(e, s):\n    open('"+mark+"', 'w').close()\n    time.sleep(1)\n    s('200 OK', [])\n    return [b'x']\n")
	lines := fmt.Sprintf("uid = %d\ngid = %d\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\nneed-app = true\nbind = DIR/marks\nprocesses = 2\npidfile = DIR/pids/pid\n", tenant, tenant)
	// asked returns when the application has begun with the first request on sock, and
	// what comes of that.
	asked := func(sock string) (answer <-chan string) {
		out := make(chan string, 1)
		path := filepath.Join(r.dir, sock)
		os.Remove(mark)
		go func() {
			for {
				resp, err := client(path, false).Get("http://vassal/")
				if err != nil && (strings.Contains(err.Error(), "no such file") || strings.Contains(err.Error(), "refused")) {
					time.Sleep(time.Millisecond)
					continue
				}
				if err != nil {
					out <- err.Error()
					return
				}
				resp.Body.Close()
				out <- resp.Status
				return
			}
		}()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond / 4) {
			if _, err := os.Stat(mark); err == nil || time.Now().After(deadline) {
				return out
			}
		}
	}
	for range 4 {
		r.drop("v", lines+"http-socket = DIR/a.sock\n")
		r.up("v")
		r.drop("v", lines+"http-socket = DIR/b.sock\n")
		answer := asked("b.sock")
		r.drop("v", lines+"http-socket = DIR/a.sock\nprocesses = many\n")
		r.try("reload", "v", "--timeout", patience)
		if got := <-answer; got != "200 OK" {
			t.Errorf("a bad edit as it serves: its first request got %s", got)
		}
		v := r.status("v")
		if v.State != control.Running || len(v.Listen) != 1 {
			t.Fatalf("after a bad edit: %s on %v", v.State, v.Listen)
		}
		if _, err := os.Stat(v.Listen[0]); err != nil {
			t.Errorf("it runs, and what it listens on is not there: %v", err)
		}
		r.liege("stop", "v", "--timeout", patience)
		r.drop("v", lines+"http-socket = DIR/a.sock\n")
		started := make(chan struct{})
		go func() { defer close(started); r.try("start", "v", "--timeout", patience) }()
		answer = asked("a.sock")
		r.liege("stop", "v", "--timeout", patience)
		if got := <-answer; got != "200 OK" {
			t.Errorf("a stop as it serves: its first request got %s", got)
		}
		<-started
		r.liege("start", "v", "--timeout", patience)
	}
}

// TestOrphanComesBack: a file that went while no Emperor looked, and is back while what
// survived of it drains: it runs when that is gone, on the same addresses, and with its
// log.
func TestOrphanComesBack(t *testing.T) {
	r := newRealm(t)
	r.write("app/hello.py", "import time\ndef application(e, s):\n    if e['PATH_INFO'] == '/hold':\n        time.sleep(14)\n    print('asked', e['PATH_INFO'], flush=True)\n    s('200 OK', [])\n    return [b'x']\n")
	sock := filepath.Join(r.dir, "app/v.sock")
	r.give("app", tenant, tenant)
	lines := fmt.Sprintf("uid = %d\ngid = %d\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\nneed-app = true\nhttp-socket = %s\n", tenant, tenant, sock)
	r.drop("v", lines)
	r.up("v")
	held := make(chan int, 1)
	go func() {
		code, _ := r.get(sock, "/hold")
		held <- code
	}()
	time.Sleep(500 * time.Millisecond)
	r.kill()
	file := filepath.Join(r.etc, "v.ini")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.until("it ends", func() bool {
		b, err := os.ReadFile(filepath.Join(r.log, "v.log"))
		return err == nil && strings.Contains(string(b), "outlived the Emperor")
	})
	r.drop("v", lines)
	r.liege("wait", "v", "running", "--timeout", patience)
	if code := <-held; code != 200 {
		t.Errorf("a request that drained got %d", code)
	}
	for range 3 { // the end of the one before takes nothing away
		if code, _ := r.get(sock, "/again"); code != 200 {
			t.Errorf("afterwards: %d", code)
		}
		time.Sleep(time.Second)
	}
	if v := r.status("v"); v.State != control.Running || v.Restarts != 0 || v.Error != nil {
		t.Errorf("%+v", v)
	}
	r.until("its lines reach the log", func() bool { return strings.Contains(r.liege("logs", "v"), "asked /again") })
}
