package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
)

// TestListenerBroken: a core that its tenant took over breaks its listeners
// for good; after a restart they serve (KERNEL 31).
func TestListenerBroken(t *testing.T) {
	r := layRealm(t)
	r.bin = hostileBin(t, r.bin, "core")
	r.begin()
	r.write("sock/.keep", "")
	r.give("sock", nobody, nobody)
	for _, how := range []string{"shutdown", "disconnect"} {
		t.Run(how, func(t *testing.T) {
			r := r.in(t)
			r.write(how+"/attack", "serve")
			r.drop(how, "uid = nobody\nhttp = 127.0.0.1:0\nhttp = DIR/sock/"+how+".sock\nchdir = DIR/"+how+"\ncheck-static = DIR/"+how+"\n")
			v := r.up(how)
			for _, addr := range v.Listen {
				r.until(addr+" serves", func() bool { return answers(addr) })
			}
			r.write(how+"/attack", how)
			r.liege("restart", how, "--timeout", patience)
			r.until("the attack is over", func() bool {
				said := r.liege("logs", how)
				return strings.Contains(said, how+":") && strings.Contains(said[strings.LastIndex(said, how+":"):], "attack is over")
			})
			// The negative control: they are broken, and stay so.
			broken := 0
			for _, addr := range v.Listen {
				if !answers(addr) {
					broken++
				}
			}
			if broken == 0 || how == "shutdown" && broken < len(v.Listen) {
				t.Fatalf("%d of %d listeners are broken: the test shows nothing", broken, len(v.Listen))
			}
			r.write(how+"/attack", "serve")
			r.liege("restart", how, "--timeout", patience)
			for _, addr := range v.Listen {
				r.until(addr+" serves again", func() bool { return answers(addr) })
			}
		})
	}
}

// answers tells whether an address answers a request within a second.
func answers(addr string) bool {
	c := client(addr, false)
	c.Timeout = time.Second
	resp, err := c.Get("http://vassal/")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// loud is an app that does to its log what it can.
const loud = `
import os
def application(environ, start_response):
    what = environ["PATH_INFO"]
    said = b"ok"
    if what == "/line":
        block = b"x" * 65536
        for i in range(1600):
            n = 0
            while n < len(block):
                n += os.write(2, block[n:])
    elif what == "/flood":
        block = b"a short line\n" * 5000
        for i in range(100):
            n = 0
            while n < len(block):
                n += os.write(2, block[n:])
    elif what == "/stderr":
        with open("/dev/stderr", "w") as f:
            f.write("written to /dev/stderr\n")
        with open("/dev/stdout", "a") as f:
            f.write("written to /dev/stdout\n")
    elif what == "/truncate":
        try:
            os.truncate("/proc/self/fd/2", 0)
            said = b"truncated"
        except OSError as e:
            said = str(e).encode()
    elif what == "/say":
        os.write(2, b"a line like any other\n")
    elif what == "/orphan":
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            import signal, time
            for s in range(1, 32):
                try:
                    signal.signal(s, signal.SIG_IGN)
                except (OSError, ValueError):
                    pass
            os.write(2, b"the orphan lives\n")
            time.sleep(1000)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [said]
`

// TestLogAbuse: what a tenant does to its log harms neither the Emperor nor
// another vassal, and a full disk neither it (KERNEL 25).
func TestLogAbuse(t *testing.T) {
	r := layRealm(t)
	r.log = filepath.Join(r.dir, "log")
	if err := os.Mkdir(r.log, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", r.log, "tmpfs", 0, "size=3m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(r.log, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	r.begin()
	r.write("app/app.py", loud)
	lines := "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\n"
	r.drop("v", lines)
	r.drop("w", lines)
	v, w := r.up("v"), r.up("w")
	addr := v.Listen[0]
	ask := func(path string) string {
		t.Helper()
		code, body := r.get(addr, path)
		if code != 200 {
			t.Errorf("%s: %d", path, code)
		}
		return body
	}

	ask("/stderr")
	r.until("what was written to /dev/stderr is in the log", func() bool {
		said := r.liege("logs", "v")
		return strings.Contains(said, "written to /dev/stderr") && strings.Contains(said, "written to /dev/stdout")
	})
	if got := ask("/truncate"); got == "truncated" {
		t.Error("the tenant truncated its log")
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		c := client(addr, false)
		c.Timeout = time.Minute
		for _, path := range []string{"/line", "/flood"} {
			resp, err := c.Get("http://vassal" + path)
			if err != nil {
				t.Errorf("%s: %v", path, err)
				return
			}
			resp.Body.Close()
		}
	}()
	for n := 0; ; n++ {
		if code, _ := r.get(w.Listen[0], "/"); code != 200 {
			t.Errorf("the neighbour: %d", code)
		}
		r.status("w") // the Emperor answers too
		select {
		case <-over:
			t.Logf("the neighbour answered %d times meanwhile", n)
		case <-time.After(50 * time.Millisecond):
			continue
		}
		break
	}
	if got := memory(t, r.cmd.Process.Pid); got > 64<<20 {
		t.Errorf("the Emperor has %d MB", got>>20)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(r.log, &st); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d KB of the log's disk are free after 106 MB", st.Bfree*uint64(st.Bsize)>>10)

	// The disk is full now, or is made so; everything goes on.
	if err := os.WriteFile(filepath.Join(r.log, "filler"), make([]byte, 4<<20), 0o600); err == nil {
		t.Fatal("the disk is not full: the test shows nothing")
	}
	ask("/flood")
	ask("/say")
	r.liege("reload", "v", "--timeout", patience)
	if got := ask("/"); got != "ok" {
		t.Errorf("with a full disk: %q", got)
	}
	if err := os.Remove(filepath.Join(r.log, "filler")); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(r.log, "v.log"), 0); err != nil {
		t.Fatal(err)
	}
	r.until("there is room again, and lines are kept", func() bool { ask("/say"); return strings.Contains(r.liege("logs", "v"), "a line like any other") })
}

// TestOrphanHoldsLog: neither a process of the vassal that ignores every
// signal nor one outside that holds the FIFO keeps a vassal from ending.
func TestOrphanHoldsLog(t *testing.T) {
	r := newRealm(t)
	r.write("app/app.py", loud)
	r.drop("v", "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\n")
	v := r.up("v")
	fifo, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/2", *v.PID), os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer fifo.Close()
	r.get(v.Listen[0], "/orphan")
	r.until("the orphan lives", func() bool { return strings.Contains(r.liege("logs", "v"), "the orphan lives") })
	cgroup := below(t, *v.PID)
	r.liege("stop", "v", "--timeout", patience)
	for _, pid := range cgroup {
		if testenv.Alive(pid) {
			t.Errorf("process %d of the stopped vassal lives", pid)
		}
	}
	if _, err := fifo.WriteString("from outside, after the stop\n"); err != nil {
		t.Logf("the FIFO after the stop: %v", err) // nobody reads: EPIPE
	}
	r.liege("start", "v", "--timeout", patience)
	now := r.status("v")
	if code, _ := r.get(now.Listen[0], "/say"); code != 200 {
		t.Errorf("after a start: %d", code)
	}
	r.until("its lines are kept", func() bool { return strings.Contains(r.liege("logs", "v"), "a line like any other") })
}

// memory is the resident set of a process, bytes.
func memory(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
