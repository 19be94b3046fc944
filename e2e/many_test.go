package e2e

import (
	"fmt"
	"strings"
	"testing"

	"liege/emperor/control"
)

// TestTwoHundred: 200 vassals dropped at once all run, while one crash-loops,
// one sits in a hook that sleeps for a minute, and one has a broken file.
func TestTwoHundred(t *testing.T) {
	r := newRealm(t)
	r.write("site/index.html", "a site")
	r.write("crash/app.py", "import os\nos._exit(3)\n")
	r.drop("a-broken", "uid = nobody\nhttp = 127.0.0.1:0\nprocesses = none\n")
	r.drop("a-crash", "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/crash\nwsgi-file = DIR/crash/app.py\n")
	r.drop("a-slow", "uid = nobody\nhttp = 127.0.0.1:0\ncheck-static = DIR/site\nhook-as-root = exec:sleep 60\n")
	const n = 200
	for i := range n {
		r.drop(fmt.Sprintf("v%03d", i), "uid = nobody\nhttp-socket = 127.0.0.1:0\ncheck-static = DIR/site\nstatic-index = index.html\n")
	}
	var last []string
	for i := range n {
		v := r.up(fmt.Sprintf("v%03d", i))
		last = v.Listen
	}
	if code, body := r.get(last[0], "/"); code != 200 || body != "a site" {
		t.Errorf("the last of them answers %d %q", code, body)
	}
	if s := r.status("a-broken").State; s != control.Failed {
		t.Errorf("a-broken is %s, want failed", s)
	}
	if v := r.status("a-crash"); v.State == control.Running {
		t.Errorf("a-crash is %s", v.State)
	}
	if v := r.status("a-slow"); v.State == control.Running {
		t.Error("a-slow runs before its hook has slept: the test shows nothing")
	}
	if out := r.liege("ls"); !strings.Contains(out, "203 vassals:") {
		t.Errorf("ls ends with %q", out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:])
	}
}
