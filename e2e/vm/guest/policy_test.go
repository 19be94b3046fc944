package guest

import (
	"os"
	"strings"
	"testing"
)

// TestPolicyLive: an app's module is made, installed into the running system
// and removed again. Before and afterwards its domain is an error of the file;
// in between the app runs in it.
func TestPolicyLive(t *testing.T) {
	h := newHost(t)
	const dir, domain = "/srv/www/live", "system_u:system_r:webapp_live_t:s0"
	h.hostile(dir, "foo")
	label := func() string { return h.run("stat", "--format=%C", dir+"/app.py") }
	before := label()
	file := lone(dir) + byExec + domain
	unknown := func(when string) {
		t.Helper()
		if v := h.refused("live"); v.Error.Line != line || !strings.Contains(v.Error.Message, "is the module with webapp_live_t installed") {
			t.Errorf("%s: line %d: %s", when, v.Error.Line, v.Error.Message)
		}
	}
	h.drop("live", file)
	unknown("before the module is installed")

	modules := t.TempDir()
	h.run("liege", "policy", "new", "live", "--path", dir, "--path", dir+"/data:rw", "--output", modules)
	h.run("liege", "policy", "install", modules+"/webapp_live.cil")
	if got := label(); !strings.Contains(got, ":webapp_live_content_t:") {
		t.Errorf("installed: the app's file is %s", got)
	}
	h.run("liege", "start", "live")
	v := h.up("live")
	for _, pid := range family(t, *v.PID) {
		if got := readProc(t, pid, "attr/current"); got != domain {
			t.Errorf("process %d is %s", pid, got)
		}
	}
	h.does(v.Listen[0], "open('data/own', 'w').write('x')", "")

	if err := os.Remove(vassals + "/live.ini"); err != nil {
		t.Fatal(err)
	}
	if err := h.wait("live", "gone"); err != nil {
		t.Fatal(err)
	}
	h.run("liege", "policy", "remove", "live")
	if got := label(); got != before {
		t.Errorf("removed: the app's file is %s, was %s", got, before)
	}
	h.drop("live", file)
	unknown("after the module was removed")
}
