package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"liege/emperor/control"
)

// TestLife is the life of one vassal as its operator sees it: dropped, edited
// under load, broken, mended, touched, removed.
func TestLife(t *testing.T) {
	r := newRealm(t)
	r.write("app/hello.py", hello("one"))
	lines := "uid = nobody\ngid = nogroup\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\nprocesses = 2\n"
	r.drop("hello", lines)
	v := r.up("hello")
	addr := v.Listen[0]
	if code, body := r.get(addr, "/"); code != 200 || body != "one" {
		t.Fatalf("first answer: %d %q", code, body)
	}

	stop := r.loop(addr)
	r.write("app/hello.py", hello("two"))
	r.drop("hello", lines+"threads = 2\n")
	v2 := r.up("hello")
	if v2.Generation <= v.Generation {
		t.Errorf("generation %d after an edit, was %d", v2.Generation, v.Generation)
	}
	if code, body := r.get(addr, "/"); code != 200 || body != "two" {
		t.Errorf("after an edit: %d %q", code, body)
	}

	r.drop("hello", lines+"no-such-option-at-all = 1\nprocesses = many\n")
	out, code := r.try("wait", "hello", "applied", "--timeout", patience)
	if code != 1 {
		t.Errorf("wait for a broken edit: exit %d, want 1\n%s", code, out)
	}
	broken := r.status("hello")
	if broken.State != control.Running || broken.Applied {
		t.Errorf("after a broken edit: %s, applied %v; want running, false", broken.State, broken.Applied)
	}
	if p := broken.Error; p == nil || p.Line == 0 || p.Key != "processes" || !strings.HasSuffix(p.File, "hello.ini") {
		t.Errorf("the error of a broken edit is %+v; want processes with file and line", p)
	}

	r.drop("hello", lines)
	r.up("hello")
	before := r.status("hello").Generation
	file := filepath.Join(r.etc, "hello.ini")
	if err := os.Chtimes(file, time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	r.until("a touched file reloads", func() bool { v := r.status("hello"); return v.Generation > before && v.Applied })
	stop()

	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	r.liege("wait", "hello", "gone", "--timeout", patience)
	if out, code := r.try("status", "hello"); code != 66 {
		t.Errorf("status of what is gone: exit %d, want 66\n%s", code, out)
	}
}

// until polls for what no command waits for.
func (r *realm) until(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("not in time: %s\n%s", what, r.said)
		}
	}
}

// TestReloadsAtOnce: an application that asks to be reloaded over and over again is
// reloaded, and breaks off no request by that.
func TestReloadsAtOnce(t *testing.T) {
	r := newRealm(t)
	r.write("app/hello.py", `import time, uwsgi
def application(env, start):
    if env['PATH_INFO'] == '/hold':
        time.sleep(3)
    else:
        for _ in range(300):
            uwsgi.reload()
    start('200 OK', [])
    return [b'done']
`)
	r.drop("hello", "uid = nobody\ngid = nogroup\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\nneed-app = true\nprocesses = 3\n")
	v := r.up("hello")
	held := make(chan string, 1)
	go func() {
		resp, err := client(v.Listen[0], false).Get("http://vassal/hold")
		if err != nil {
			held <- err.Error()
			return
		}
		resp.Body.Close()
		held <- resp.Status
	}()
	if code, body := r.get(v.Listen[0], "/reload"); code != 200 || body != "done" {
		t.Errorf("what asks for reloads got %d %q", code, body)
	}
	if got := <-held; got != "200 OK" {
		t.Errorf("a request beside it got %s", got)
	}
	r.until("it is reloaded", func() bool { v := r.status("hello"); return v.Generation > 1 && v.State == control.Running })
	if v := r.status("hello"); v.Restarts != 0 || v.Generation > 4 {
		t.Errorf("generation %d after %d restarts", v.Generation, v.Restarts)
	}
}

// TestTraceback: what a broken app says on its way up is in status and log.
func TestTraceback(t *testing.T) {
	r := newRealm(t)
	r.write("app/broken.py", "import no_such_module_here\n")
	r.drop("broken", "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/broken.py\n")
	r.liege("wait", "broken", "backoff", "--timeout", patience)
	v := r.status("broken")
	if v.Error == nil || !strings.Contains(v.Error.Message, "no_such_module_here") {
		t.Errorf("the error says %+v; want the module's name", v.Error)
	}
	if v.RetryAt == nil {
		t.Error("backoff has no retry_at")
	}
	if log := r.liege("logs", "broken"); !strings.Contains(log, "ModuleNotFoundError") {
		t.Errorf("the log has no traceback:\n%s", log)
	}
	r.write("app/broken.py", hello("mended"))
	r.liege("start", "broken", "--timeout", patience)
	if _, body := r.get(r.status("broken").Listen[0], "/"); body != "mended" {
		t.Errorf("after mending: %q", body)
	}
}

// TestStopStart: stopped survives the Emperor.
func TestStopStart(t *testing.T) {
	r := newRealm(t)
	r.write("app/hello.py", hello("here"))
	r.drop("hello", "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\n")
	r.up("hello")
	r.liege("stop", "hello")
	if s := r.status("hello").State; s != control.Stopped {
		t.Errorf("after stop: %s", s)
	}
	r.stop()
	r.start()
	r.liege("wait", "hello", "stopped", "--timeout", patience)
	if s := r.status("hello").State; s != control.Stopped {
		t.Errorf("after stop and a new Emperor: %s", s)
	}
	r.liege("start", "hello", "--timeout", patience)
	if _, body := r.get(r.status("hello").Listen[0], "/"); body != "here" {
		t.Errorf("after start: %q", body)
	}
}

// TestEmperorKilled: what runs goes on serving, and the next Emperor takes the
// listeners over without refusing a connection.
func TestEmperorKilled(t *testing.T) {
	r := newRealm(t)
	r.write("app/hello.py", hello("still here"))
	const lines = "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\n"
	r.drop("hello", lines)
	r.drop("another", lines) // it has a port of its own for the same line
	v, other := r.up("hello"), r.up("another").Listen[0]
	addr := v.Listen[0]
	stop := r.loop(addr)
	r.kill()
	if code, body := r.get(addr, "/"); code != 200 || body != "still here" {
		t.Errorf("without an Emperor: %d %q", code, body)
	}
	r.start()
	now := r.up("hello")
	if now.Listen[0] != addr {
		t.Errorf("the new Emperor listens on %v, want %s", now.Listen, addr)
	}
	if old := *v.PID; now.PID == nil || *now.PID == old {
		r.until("the survivor is replaced", func() bool { v := r.status("hello"); return v.PID != nil && *v.PID != old })
	}
	if now := r.up("another").Listen[0]; now != other {
		t.Errorf("the new Emperor listens on %s for the other, want %s", now, other)
	}
	stop()
}

// TestRequestsOfSurvivor: no request is lost or counted twice in status, whether the
// Emperor hands over or is killed, before its counters are saved and after.
func TestRequestsOfSurvivor(t *testing.T) {
	r := newRealm(t)
	r.write("app/hello.py", hello("still here"))
	r.drop("hello", "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\n")
	addr := r.up("hello").Listen[0]
	asked := uint64(0)
	ask := func(n int) {
		t.Helper()
		for range n {
			if code, body := r.get(addr, "/"); code != 200 || body != "still here" {
				t.Fatalf("%d %q", code, body)
			}
			asked++
		}
	}
	counted := func(when string) {
		t.Helper()
		r.until(when+": every request is counted", func() bool { return r.status("hello").Requests >= asked })
		if got := r.status("hello").Requests; got != asked {
			t.Errorf("%s: %d requests, want %d", when, got, asked)
		}
	}
	replaced := func(old int) {
		t.Helper()
		r.until("the survivor is replaced", func() bool { v := r.status("hello"); return v.PID != nil && *v.PID != old && v.Applied })
	}
	ask(7)
	for _, end := range []struct {
		name string
		do   func()
	}{
		{"killed", func() { r.kill(); ask(3); r.start() }},
		{"handed over", func() {
			told := make(chan string, 1)
			go func() {
				out, code := r.try("handover", "--timeout", patience)
				told <- fmt.Sprint(code, " ", out)
			}()
			if err := r.cmd.Wait(); err != nil {
				t.Errorf("the Emperor ended with %v", err)
			}
			ask(3)
			r.start()
			if got := <-told; !strings.HasPrefix(got, "0 ") {
				t.Errorf("liege handover: exit %s", got)
			}
		}},
		{"killed once more", func() { r.kill(); r.start() }},
	} {
		counted("before it is " + end.name)
		old := *r.status("hello").PID
		end.do()
		ask(2)
		replaced(old)
		counted(end.name)
		ask(1)
	}
	counted("at the end")
}

// TestSurvivorWithoutLog: what serves goes on serving under the next Emperor, also
// when that cannot write its log. Its successor cannot start, and says so.
func TestSurvivorWithoutLog(t *testing.T) {
	r := newRealm(t)
	r.write("app/hello.py", hello("still here"))
	r.drop("hello", "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\n")
	v := r.up("hello")
	stop := r.loop(v.Listen[0])
	r.kill()
	log := filepath.Join(r.dir, "log", "hello.log")
	if err := errors.Join(os.Rename(log, log+".old"), os.Mkdir(log, 0o755)); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.until("the successor fails", func() bool { now := r.status("hello"); return now.Error != nil })
	if now := r.status("hello"); now.PID == nil || *now.PID != *v.PID || now.State != "running" {
		t.Errorf("%+v", now)
	}
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	r.liege("reload", "hello")
	r.until("the survivor is replaced", func() bool { now := r.status("hello"); return now.PID != nil && *now.PID != *v.PID })
	stop()
}

// TestLiegeHandover: the Emperor ends because it is told to, nobody's request
// is lost, and the command returns when another one has followed.
func TestLiegeHandover(t *testing.T) {
	r := newRealm(t)
	r.write("app/hello.py", hello("still here"))
	r.drop("hello", "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\n")
	v := r.up("hello")
	stop := r.loop(v.Listen[0])
	settings, err := os.ReadFile(filepath.Join(r.dir, "emperor.ini"))
	if err != nil {
		t.Fatal(err)
	}
	for wrong, want := range map[string]struct {
		code int
		say  string
	}{"[ceiling]\n": {78, "did you mean [ceilings]?"}, "[emperor]\ncgroup = /elsewhere\n": {1, "stays"}} {
		r.write("emperor.ini", wrong) // the next one would not start, or would not find it
		if out, code := r.try("handover", "--timeout", patience); code != want.code || !strings.Contains(out, want.say) {
			t.Errorf("%q: exit %d\n%s", wrong, code, out)
		}
	}
	r.write("emperor.ini", string(settings))
	type result struct {
		out  string
		code int
	}
	told := make(chan result, 1)
	go func() {
		out, code := r.try("handover", "--timeout", patience)
		told <- result{out, code}
	}()
	if err := r.cmd.Wait(); err != nil {
		t.Errorf("the Emperor ended with %v", err)
	}
	if code, body := r.get(v.Listen[0], "/"); code != 200 || body != "still here" {
		t.Errorf("between the two: %d %q", code, body)
	}
	r.start()
	if got := <-told; got.code != 0 || !strings.Contains(got.out, fmt.Sprintf("the Emperor is pid %d now", r.cmd.Process.Pid)) {
		t.Errorf("liege handover: exit %d\n%s", got.code, got.out)
	}
	r.until("the survivor is replaced", func() bool { now := r.status("hello"); return now.PID != nil && *now.PID != *v.PID })
	r.up("hello")
	stop()
}
