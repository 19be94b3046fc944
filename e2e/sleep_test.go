package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"liege/emperor/control"
)

// drowsy drops a vassal that sleeps after idle seconds and counts what it was
// asked.
func (r *realm) drowsy(name, more string) {
	r.t.Helper()
	r.write("app/hello.py", hello("served"))
	r.drop(name, fmt.Sprintf("uid = %d\ngid = %d\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\non-demand = true\n%s", tenant, tenant, more))
}

func (r *realm) sleeps(name string) control.Vassal {
	r.t.Helper()
	r.liege("wait", name, "sleeping", "--timeout", patience)
	return r.status(name)
}

// tcp is the first listener of v that is one of TCP.
func tcpOf(v control.Vassal) string {
	for _, a := range v.Listen {
		if strings.Contains(a, ":") {
			return a
		}
	}
	return "none"
}

// TestSleep: the first connection on any listener wakes, and is answered; the
// vassal sleeps again when nobody asks; the ways in and out of sleep.
func TestSleep(t *testing.T) {
	r := newRealm(t)
	sock := filepath.Join(r.dir, "s.sock")
	r.drowsy("shop", "idle = 1\nhttp = 127.0.0.1:0\nhttp-socket = "+sock+"\ndrain-timeout = 5\n")
	v := r.sleeps("shop")
	if v.Generation != 0 || !v.Applied || v.PID != nil || len(v.Listen) != 2 || living(t) != 0 {
		t.Errorf("asleep: %+v", v)
	}
	addr := tcpOf(v)
	for i, to := range []string{addr, sock} {
		if code, body := r.get(to, "/"); code != 200 || body != "served" {
			t.Errorf("%s: %d %q", to, code, body)
		}
		v = r.sleeps("shop")
		if v.ColdStarts != int64(i+1) || v.Generation != i+1 || living(t) != 0 {
			t.Errorf("after request %d: %+v", i+1, v)
		}
	}
	if out := r.liege("ls"); !strings.Contains(out, "sleeping") {
		t.Errorf("ls: %s", out)
	}

	r.liege("reload", "shop")
	if v := r.status("shop"); v.State != control.Sleeping || v.Generation != 2 {
		t.Errorf("reloaded in its sleep: %+v", v)
	}
	r.liege("suspend", "shop", "--status", "402", "--timeout", patience)
	r.held(addr, 402, "")
	r.liege("resume", "shop", "--timeout", patience)
	r.sleeps("shop")
	r.liege("start", "shop", "--timeout", patience)
	if v := r.status("shop"); v.Generation != 3 {
		t.Errorf("started: %+v", v)
	}
	r.liege("stop", "shop", "--timeout", patience)
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("a stopped vassal listens")
	}
	r.liege("start", "shop", "--timeout", patience)
	v = r.sleeps("shop")

	r.kill()
	r.start()
	v = r.sleeps("shop")
	if code, body := r.get(sock, "/"); code != 200 || body != "served" || r.status("shop").ColdStarts < 3 {
		t.Errorf("after the Emperor was killed: %d %q", code, body)
	}
}

// TestSleepLosesNothing: clients ask around the moment at which the vassal goes
// to sleep, again and again; each is answered.
func TestSleepLosesNothing(t *testing.T) {
	r := newRealm(t)
	r.drowsy("shop", "idle = 1\nhttp = 127.0.0.1:0\n")
	addr := tcpOf(r.sleeps("shop"))
	var wg sync.WaitGroup
	stop := time.Now().Add(6 * time.Second)
	for i := range 3 {
		wg.Go(func() {
			c := client(addr, false)
			// The core looks once a second and has been quiet for at least one
			// then: the pauses lie around that.
			for n := 0; time.Now().Before(stop); n++ {
				resp, err := c.Get("http://vassal/")
				if err != nil {
					t.Errorf("client %d: request %d: %v", i, n, err)
					return
				}
				if resp.Body.Close(); resp.StatusCode != http.StatusOK {
					t.Errorf("client %d: request %d: %s", i, n, resp.Status)
				}
				time.Sleep(1200*time.Millisecond + time.Duration(i*n%17)*60*time.Millisecond)
			}
		})
	}
	wg.Wait()
	if v := r.sleeps("shop"); v.ColdStarts < 1 || v.Restarts != 0 {
		t.Errorf("%+v", v)
	}
}

// TestSleepSlowLoad: a vassal is idle from when it serves, however long it takes to
// load: who has it started finds it running, and what wakes it is not answered by one
// that is about to sleep again.
func TestSleepSlowLoad(t *testing.T) {
	r := newRealm(t)
	r.write("app/slow.py", "import time\ntime.sleep(4)\n"+hello("served"))
	r.drop("shop", fmt.Sprintf("uid = %d\ngid = %d\nchdir = DIR/app\nwsgi-file = DIR/app/slow.py\nneed-app = true\nhttp = 127.0.0.1:0\non-demand = true\nidle = 3\n", tenant, tenant))
	addr := tcpOf(r.sleeps("shop"))
	r.liege("start", "shop", "--timeout", patience)
	if v := r.status("shop"); v.State != control.Running {
		t.Errorf("started: %s", v.State)
	}
	r.sleeps("shop")
	for range 4 { // the first wakes it
		if code, body := r.get(addr, "/"); code != 200 || body != "served" {
			t.Errorf("%d %q", code, body)
		}
		time.Sleep(1500 * time.Millisecond)
	}
	if v := r.status("shop"); v.ColdStarts != 2 || v.State != control.Running {
		t.Errorf("%s after %d cold starts, want running after 2", v.State, v.ColdStarts)
	}
}

// TestSleepBroken: an application that does not start is answered for, and not
// started again and again.
func TestSleepBroken(t *testing.T) {
	r := newRealm(t)
	r.write("app/broken.py", "raise RuntimeError('broken')\n")
	r.drop("shop", fmt.Sprintf("uid = %d\ngid = %d\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/broken.py\non-demand = true\nbackoff-min = 3\n", tenant, tenant))
	addr := tcpOf(r.sleeps("shop"))
	r.held(addr, 503, "") // it waits for the start that fails, and is answered then
	v := r.status("shop")
	if v.State != control.Backoff && v.State != control.Starting || v.Generation > 3 {
		t.Errorf("%+v", v)
	}
	r.write("app/broken.py", hello("mended"))
	r.liege("reload", "shop", "--timeout", patience)
	if code, body := r.get(addr, "/"); code != 200 || body != "mended" {
		t.Errorf("mended: %d %q", code, body)
	}
}

// TestSleepMany: what sleeps is neither a goroutine nor a thread of the
// Emperor's, and no process.
func TestSleepMany(t *testing.T) {
	r := newRealm(t)
	r.drowsy("v000", "http-socket = "+r.dir+"/v000.sock\n")
	r.sleeps("v000")
	threads := r.emperorThreads()
	const n = 80
	for i := 1; i < n; i++ {
		name := fmt.Sprintf("v%03d", i)
		r.drowsy(name, "http-socket = "+r.dir+"/"+name+".sock\n")
	}
	r.sleeps(fmt.Sprintf("v%03d", n-1))
	want := fmt.Sprintf("%d sleeping", n)
	for deadline := time.Now().Add(120 * time.Second); !strings.Contains(r.liege("ls"), want); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not %s: %s", want, r.liege("ls"))
		}
	}
	if more := r.emperorThreads() - threads; more > 40 {
		t.Errorf("%d vassals that sleep made %d threads", n, more)
	}
	if code, body := r.get(r.dir+"/v050.sock", "/"); code != 200 || body != "served" {
		t.Errorf("one of them: %d %q", code, body)
	}
	if out := r.liege("ls"); !strings.Contains(out, fmt.Sprintf("%d sleeping", n-1)) {
		t.Errorf("ls ends with %q", out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:])
	}
}

func (r *realm) emperorThreads() int {
	r.t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", r.cmd.Process.Pid))
	if err != nil {
		r.t.Fatal(err)
	}
	return len(list)
}

// TestSleepHooks: what runs on the host when a vassal begins to sleep, and when
// its file is touched in its sleep; one that fails is an error with its line.
func TestSleepHooks(t *testing.T) {
	r := newRealm(t)
	marks := filepath.Join(r.dir, "marks")
	lines := "idle = 1\nhttp = 127.0.0.1:0\n" +
		"hook-as-on-demand-vassal = exec:echo $LIEGE_VASSAL sleeps $UWSGI_HOOK_CONTEXT >> " + marks + "\n" +
		"hook-as-on-config-vassal = exec:echo changed >> " + marks + "\n"
	r.drowsy("shop", lines)
	v := r.sleeps("shop")
	want := ""
	says := func(more string) {
		t.Helper()
		want += more
		r.until("the hooks ran", func() bool { b, _ := os.ReadFile(marks); return len(b) >= len(want) })
		if b, err := os.ReadFile(marks); err != nil || string(b) != want {
			t.Errorf("they wrote %q, %v; want %q", b, err, want)
		}
	}
	says("shop sleeps vassal\n")
	r.liege("reload", "shop")
	says("changed\n")
	if code, _ := r.get(tcpOf(v), "/"); code != 200 {
		t.Errorf("it answers %d", code)
	}
	r.sleeps("shop")
	says("shop sleeps vassal\n")
	r.drowsy("broken", "http = 127.0.0.1:0\nhook-as-on-demand-vassal = exec:echo why; false\n")
	r.until("the failure is shown", func() bool {
		if _, code := r.try("status", "broken"); code == 66 { // the file has not been seen yet
			return false
		}
		v := r.status("broken")
		return v.Error != nil && v.Error.Line == 8 && strings.Contains(v.Error.Message, "exit status 1")
	})
}
