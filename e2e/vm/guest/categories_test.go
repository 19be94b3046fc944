package guest

import (
	"fmt"
	"strings"
	"testing"
)

// TestCategories: two tenants in one domain, each with a pair of categories of
// its own. Each probe is made as the victim's own user, in the shared domain, with
// the other's pair, where it must fail, and with the victim's, where it must
// succeed.
func TestCategories(t *testing.T) {
	h := newHost(t)
	const domain = "system_u:system_r:webapp_shared_t"
	levels := map[string]string{"foo": "s0:c1,c2", "bar": "s0:c1,c3"}
	for name, level := range levels {
		dir := "/srv/www/shared/" + name
		h.hostile(dir, name)
		h.run("chcon", "--recursive", "--type=webapp_shared_rw_t", "--range="+level, dir)
		h.drop(name, fmt.Sprintf("uid = %[1]s\nchdir = %[2]s\nwsgi-file = app.py\nhttp = 127.0.0.1:0\nhttp = /run/liege/%[1]s.sock\nselinux-context = %[3]s:%[4]s\n", name, dir, domain, level))
		v := h.up(name)
		for _, pid := range family(t, *v.PID) {
			if got := readProc(t, pid, "attr/current"); got != domain+":"+level {
				t.Errorf("process %d of %s is %s", pid, name, got)
			}
		}
		h.does(v.Listen[0], "print(open('data/secret').read())", "secret of "+name)
		h.does(v.Listen[0], "open('data/own', 'w').write('x'); open('/tmp/own', 'w').write('x')", "")
		if !strings.Contains(h.run("cat", *v.Log), "network") {
			t.Errorf("the log of %s is empty", name)
		}
		h.run("liege", "reload", name) // the listeners that it inherits are its level's too
		if code, _, err := get("/run/liege/"+name+".sock", "/"); code != 200 || err != nil {
			t.Errorf("after a reload %s answers %d, %v", name, code, err)
		}
		// A unix connection has its client's level: one that no tenant's
		// contains cannot be answered. It is the level of a root shell.
		client := []string{"curl", "--silent", "--show-error", "--fail", "--unix-socket", "/run/liege/" + name + ".sock", "http://vassal/"}
		if said, code := h.try(append([]string{"runcon", "--range=s0-s0:c0.c1023"}, client...)...); code == 0 {
			t.Errorf("a client with all categories is answered: %s", said)
		}
		h.run(append([]string{"runcon", "--range=s0"}, client...)...)
	}
	h.tolerate("webapp_shared_t")
	of := h.status("bar")
	attacks := []probe{
		{name: "read", code: "print(open('/srv/www/shared/bar/data/secret').read())"},
		{name: "write", code: "open('/srv/www/shared/bar/data/secret', 'a').write('x')"},
		{name: "signal", code: fmt.Sprintf("import os, signal; os.kill(%d, signal.SIGCONT)", *of.PID)},
		{name: "stop", code: fmt.Sprintf("import os, signal; os.kill(%d, signal.SIGSTOP); os.kill(%[1]d, signal.SIGCONT)", *of.PID)},
		{name: "connect", code: "import socket; socket.socket(socket.AF_UNIX).connect('/run/liege/bar.sock')"},
		{name: "trace", code: fmt.Sprintf(trace, *of.PID)},
		{name: "look at", code: fmt.Sprintf("print(open('/proc/%d/environ').read())", *of.PID)},
	}
	theirs, own := outside(h, attacks, "bar", domain+":"+levels["foo"]), outside(h, attacks, "bar", domain+":"+levels["bar"])
	for _, p := range attacks {
		if got := theirs[p.name]; strings.HasPrefix(got, "ok") {
			t.Errorf("%s: done with another's categories: %s", p.name, got)
		}
		if got := own[p.name]; !strings.HasPrefix(got, "ok") && p.name != "connect" {
			t.Errorf("%s: not done with the same categories either: %s", p.name, got)
		}
	}
}
