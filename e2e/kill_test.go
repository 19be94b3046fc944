package e2e

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"liege/internal/testenv"
)

// loading is an app that takes a while to load, and says when it does.
const loading = `
import os, time
open("DIR/signs/loading", "w").close()
time.sleep(0.2)
def application(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        open("DIR/signs/slow", "w").close()
        time.sleep(1)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"here"]
`

// point is a moment at which the Emperor is killed. A sign is a pattern of
// files: the moment is when a new one is there.
type point struct {
	name string
	sign string
	slow bool          // a request of the old generation is under way
	wait time.Duration // after the sign
	gone time.Duration // how long there is no Emperor
}

// TestKilledAnywhere: whenever the Emperor is killed, what served serves on;
// the next Emperor finds everything, and leaves nothing (KERNEL 19).
func TestKilledAnywhere(t *testing.T) {
	r := newRealm(t)
	r.write("signs/.keep", "")
	r.give("signs", nobody, nobody)
	r.write("app/app.py", strings.ReplaceAll(loading, "DIR", r.dir))
	lines := "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\nprocesses = 2\nbind = DIR/signs\nconnect = 127.0.0.1:9 unix:/run/nobody.sock\n" +
		"hook-as-user = exec:touch DIR/signs/hook && sleep 0.1\n"
	r.stop()
	clean := entriesBelow(t, r.run) // what an Emperor that ended leaves in its run directory
	r.start()
	r.drop("a", lines)
	r.drop("b", "uid = nobody\nhttp = DIR/signs/b.sock\ncheck-static = DIR/app\n")
	addr := r.up("a").Listen[0]
	b := r.up("b")

	points := []point{
		{name: "sandbox state", sign: r.run + "/sandbox/*/a-g*"},
		{name: "relay", sign: "/sys/fs/cgroup/*/liege-*/vassals/v-a/r*"},
		{name: "cgroup", sign: "/sys/fs/cgroup/*/liege-*/vassals/v-a/g*"},
		{name: "record", sign: r.run + "/vassals/v-a/gen-*"},
		{name: "hook", sign: r.dir + "/signs/hook", wait: 10 * time.Millisecond},
		{name: "loading", sign: r.dir + "/signs/loading", wait: 10 * time.Millisecond},
		{name: "ready", sign: r.dir + "/signs/loading", wait: 210 * time.Millisecond},
		{name: "drain", sign: r.dir + "/signs/loading", wait: 500 * time.Millisecond, slow: true},
	}
	// What was loading serves meanwhile, and nobody has heard that it is ready.
	for range 3 {
		points = append(points, point{name: "ready alone", sign: r.dir + "/signs/loading", gone: 400 * time.Millisecond})
	}
	for range 12 {
		points = append(points, point{name: "anywhere", wait: time.Duration(rand.Int64N(int64(600 * time.Millisecond)))})
	}
	stop := r.loop(addr)
	for _, p := range points {
		r.killAt(t, p, addr)
		time.Sleep(p.gone)
		r.start()
		if p.sign != "" { // else the next one is killed while it takes over
			r.up("a")
		}
	}
	r.up("a")
	r.up("b")
	if now := r.status("b"); now.Listen[0] != b.Listen[0] {
		t.Errorf("b listens on %v, was %v", now.Listen, b.Listen)
	}
	t.Logf("%d requests", stop())

	// The same names start again, and in the end nothing is left.
	for _, name := range []string{"a", "b"} {
		if err := os.Remove(filepath.Join(r.etc, name+".ini")); err != nil {
			t.Fatal(err)
		}
		r.liege("wait", name, "gone", "--timeout", patience)
	}
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("the listener of what is gone accepts: a refusal would not have been seen either")
	}
	if _, err := os.Stat(filepath.Join(r.dir, "signs/b.sock")); err == nil {
		t.Error("the socket of what is gone is left")
	}
	r.drop("a", lines)
	if code, _ := r.get(r.up("a").Listen[0], "/"); code != 200 {
		t.Errorf("the same name again: %d", code)
	}
	r.stop()
	if left := entriesBelow(t, r.run); !slices.Equal(left, clean) {
		t.Errorf("run directory: %v, want %v", left, clean)
	}
	if left := processesOf(t, r.dir); len(left) > 0 {
		t.Errorf("processes: %v", left)
	}
	r.start() // for the realm's own end
}

// killAt reloads a and kills the Emperor at p.
func (r *realm) killAt(t *testing.T, p point, addr string) {
	t.Helper()
	for _, s := range []string{"hook", "loading", "slow"} {
		os.Remove(filepath.Join(r.dir, "signs", s))
	}
	answered := make(chan error, 1)
	if p.slow {
		go func() {
			resp, err := client(addr, false).Get("http://vassal/slow")
			if err == nil && resp.StatusCode != 200 {
				err = fmt.Errorf("status %s", resp.Status)
			}
			if err == nil {
				resp.Body.Close()
			}
			answered <- err
		}()
		r.until("the slow request is under way", func() bool { return exists(filepath.Join(r.dir, "signs/slow")) })
	}
	before := matches(t, p.sign)
	file := filepath.Join(r.etc, "a.ini")
	if err := os.Chtimes(file, time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if p.sign != "" {
		for deadline := time.Now().Add(20 * time.Second); ; {
			if now := matches(t, p.sign); slices.ContainsFunc(slices.Collect(maps.Keys(now)), func(s string) bool { return !before[s] }) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: the Emperor did not come there\n%s", p.name, r.said)
			}
		}
	}
	time.Sleep(p.wait)
	r.kill()
	t.Logf("%s killed at %s: %+v", time.Now().Format("05.000"), p.name, p)
	if p.slow {
		if err := <-answered; err != nil {
			t.Errorf("%s: the request under way: %v", p.name, err)
		}
	}
}

func matches(t *testing.T, pattern string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	names, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		found[n] = true
	}
	return found
}

func entriesBelow(t *testing.T, dir string) []string {
	t.Helper()
	return slices.Sorted(maps.Keys(picture(t, 9, dir)))
}

// processesOf finds the processes that have something of dir mounted.
func processesOf(t *testing.T, dir string) []string {
	t.Helper()
	infos, err := filepath.Glob("/proc/[0-9]*/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range infos {
		if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), dir) {
			cmd, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "cmdline"))
			out = append(out, fmt.Sprintf("%s %q", filepath.Dir(p), cmd))
		}
	}
	return out
}

// chatty logs 10 MB when asked to.
const chatty = `
import sys
def application(environ, start_response):
    if environ["PATH_INFO"] == "/spew":
        line = "x" * 99 + "\n"
        for i in range(100_000):
            sys.stderr.write(line)
        sys.stderr.flush()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"here"]
`

// TestLogWithoutEmperor: apps that log while no Emperor reads neither die nor
// wait for ever (KERNEL 19).
func TestLogWithoutEmperor(t *testing.T) {
	r := newRealm(t)
	file := r.write("app/app.py", chatty)
	r.drop("v", "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\nprocesses = 2\n")
	v := r.up("v")
	addr := v.Listen[0]
	r.kill()
	spewed := make(chan error, 1)
	go func() {
		c := client(addr, false)
		c.Timeout = time.Minute
		resp, err := c.Get("http://vassal/spew")
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %s", resp.Status)
		}
		if err == nil {
			resp.Body.Close()
		}
		spewed <- err
	}()
	// For some seconds: the app has long filled the FIFO.
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if code, body := r.get(addr, "/"); code != 200 || body != "here" {
			t.Fatalf("without an Emperor: %d %q", code, body)
		}
		if !testenv.Alive(*v.PID) {
			t.Fatal("the core is gone")
		}
	}
	r.start()
	if err := <-spewed; err != nil {
		t.Errorf("the request that logged: %v", err)
	}
	if code, _ := r.get(r.up("v").Listen[0], "/"); code != 200 {
		t.Errorf("with the next Emperor: %d", code)
	}
	if said := r.liege("logs", "v"); !strings.Contains(said, "xxxx") {
		t.Error("nothing of it is in the log")
	}

	// The negative control: the same app into a pipe whose reader has died.
	cmd := exec.Command(testenv.SystemPython, "-c", "exec(open('"+file+"').read()); application({'PATH_INFO': '/spew'}, print)")
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr, cmd.Stdout = out, io.Discard
	in.Close()
	err = cmd.Run()
	out.Close()
	if err == nil {
		t.Error("with a pipe it lives too: the test shows nothing")
	}
}

// TestTwoEmperors: one that is killed and started again does not touch the
// other's vassals, whose names are those of cgroup files (KERNEL 22).
func TestTwoEmperors(t *testing.T) {
	one, two := layRealm(t), layRealm(t)
	one.begin()
	two.begin()
	strange := []string{"cgroup.procs", "memory.max", "tasks", "same"}
	pids := func(r *realm) []int {
		var out []int
		for _, name := range strange {
			out = append(out, *r.up(name).PID)
		}
		return out
	}
	for _, r := range []*realm{one, two} {
		r.write("app/index.html", "of "+filepath.Base(r.dir))
		for _, name := range strange {
			r.drop(name, "uid = nobody\nhttp = 127.0.0.1:0\ncheck-static = DIR/app\nstatic-index = index.html\nmemory-max = 100M\npids-max = 100\n")
		}
	}
	before, others := pids(one), pids(two)
	two.kill()
	two.start()
	two.until("the other's vassals are new", func() bool {
		return !slices.ContainsFunc(pids(two), func(pid int) bool { return slices.Contains(others, pid) })
	})
	two.stop()
	if now := pids(one); !slices.Equal(now, before) {
		t.Errorf("processes %v, were %v", now, before)
	}
	for i, name := range strange {
		v := one.status(name)
		if _, got := one.get(v.Listen[0], "/"); got != "of "+filepath.Base(one.dir) {
			t.Errorf("%s: %q", name, got)
		}
		if got := limitOf(t, before[i], "pids", "pids.max", "pids.max"); got != "100" {
			t.Errorf("%s: pids.max is %s, want 100", name, got)
		}
	}
	two.start()
}
