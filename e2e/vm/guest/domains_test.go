package guest

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"liege/emperor/control"
	"liege/vassal"
)

// lone is what a hostile app of the user foo in dir needs; what is added to it
// stands in line 6 of its file.
func lone(dir string) string {
	return "uid = foo\nchdir = " + dir + "\nwsgi-file = app.py\nhttp = 127.0.0.1:0\n"
}

const (
	line    = 6
	ofFoo   = "system_u:system_r:webapp_foo_t:s0"
	byExec  = "selinux-context = "
	bySetup = "hook-as-user = callret:setcon "
)

// TestEveryProcessHasItsDomain: a vassal that names no context, one that enters
// its own by exec, one by setcon, and one that is suspended.
func TestEveryProcessHasItsDomain(t *testing.T) {
	h := newHost(t)
	h.hostile("/srv/www/foo", "foo")
	h.hostile("/srv/unlabelled", "foo")
	if got := readProc(t, h.emperor(), "attr/current"); got != "system_u:system_r:liege_emperor_t:s0-s0:c0.c1023" {
		t.Errorf("the Emperor is %s", got)
	}
	for _, c := range []struct{ name, dir, line, want string }{
		{"default", "/srv/unlabelled", "", "system_u:system_r:webapp_t:s0"},
		{"exec", "/srv/www/foo", byExec + ofFoo, ofFoo},
		{"hooks", "/srv/www/foo", "hook-as-user = exec:cat /proc/self/attr/current\n" + byExec + ofFoo, ofFoo},
		{"setcon", "/srv/www/foo", bySetup + ofFoo, ofFoo},
	} {
		h.drop(c.name, lone(c.dir)+c.line)
		v := h.up(c.name)
		for _, pid := range family(t, *v.PID) {
			if got := readProc(t, pid, "attr/current"); got != c.want {
				t.Errorf("%s: process %d is %s, want %s", c.name, pid, got, c.want)
			}
		}
		if v.Context == nil || *v.Context != c.want {
			t.Errorf("%s: status says %v", c.name, v.Context)
		}
		log := strings.TrimSuffix(strings.TrimPrefix(c.want, "system_u:system_r:"), "_t:s0") + "_log_t"
		if got := h.run("stat", "--format=%C", "/run/liege/vassals/v-"+c.name+"/log"); !strings.Contains(got, log) {
			t.Errorf("%s: its log's FIFO is %s, want %s", c.name, got, log)
		}
	}
	v := h.status("exec")
	h.run("liege", "suspend", "exec")
	if code, _, err := get(v.Listen[0], "/"); code != 503 || err != nil {
		t.Errorf("suspended, it answers %d, %v", code, err)
	}
	if got := h.run("ps", "-eZ"); !strings.Contains(got, "liege_router_t") {
		t.Errorf("no holding generation among\n%s", got)
	}
	h.run("liege", "resume", "exec")
	h.up("exec")
}

// TestContextRefused: every context that cannot be entered is an error with the
// line of the file, nothing is started, and what ran goes on.
func TestContextRefused(t *testing.T) {
	h := newHost(t)
	h.tolerate("init_t") // systemd says what it makes of a role that it does not know
	h.hostile("/srv/www/foo", "foo")
	type attempt struct{ name, how, context, want string }
	var wrong []attempt
	for i, c := range []struct{ context, want string }{
		{"webapp_foo_t", "is not an SELinux context"},
		{"system_u:system_r:webapp_nobody_t:s0", "is the module with webapp_nobody_t installed"},
		{"system_u:system_r:webapp_foo_t:s0:c5000", "does not know this context"},
		{"unconfined_u:unconfined_r:unconfined_t:s0", "cannot change to unconfined_u:unconfined_r"},
		{"system_u:system_r:init_t:s0", "the policy lacks: allow liege_stage_t init_t:process"},
		{"system_u:system_r:liege_emperor_t:s0", "the policy lacks: allow liege_stage_t liege_emperor_t:process"},
	} {
		for j, how := range []string{byExec, bySetup} {
			wrong = append(wrong, attempt{fmt.Sprintf("wrong%d%d", i, j), how, c.context, c.want})
		}
	}
	for _, w := range wrong {
		h.drop(w.name, lone("/srv/www/foo")+w.how+w.context)
	}
	checked, code := h.try("liege", "check", vassals)
	if code != 78 {
		t.Errorf("liege check: exit %d", code)
	}
	for _, w := range wrong {
		v := h.refused(w.name)
		if v.State != control.Failed || v.Error.Line != line || v.Error.File != vassals+"/"+w.name+".ini" || !strings.Contains(v.Error.Message, w.want) {
			t.Errorf("%s%s: %s, line %d: %s", w.how, w.context, v.State, v.Error.Line, v.Error.Message)
		}
		if !strings.Contains(checked, fmt.Sprintf("%s.ini:%d", w.name, line)) {
			t.Errorf("liege check does not name line %d of %s:\n%s", line, w.name, checked)
		}
	}
	if running := h.run("ps", "-ef"); strings.Contains(running, "liege-core wrong") {
		t.Errorf("one of them runs:\n%s", running)
	}
	h.drop("edited", lone("/srv/www/foo")+byExec+ofFoo)
	before := h.up("edited")
	h.drop("edited", lone("/srv/www/foo")+byExec+"system_u:system_r:webapp_nobody_t:s0")
	if v := h.refused("edited"); v.State != control.Running || v.Applied || v.Error.Line != line || *v.PID != *before.PID {
		t.Errorf("after a bad edit: %+v", v)
	}
	h.does(before.Listen[0], "print(1)", "1")
}

// TestPermissive: where nothing is enforced any more, a vassal that asks for a
// domain is not started, and one that runs goes on; the operator may decide
// otherwise.
func TestPermissive(t *testing.T) {
	h := newHost(t)
	h.hostile("/srv/www/foo", "foo")
	h.drop("foo", lone("/srv/www/foo")+byExec+ofFoo)
	v := h.up("foo")
	h.run("setenforce", "0")
	t.Cleanup(func() { h.run("setenforce", "1") })
	if said, code := h.try("liege", "reload", "foo"); code != 1 || !strings.Contains(said, "permissive") {
		t.Errorf("reload where SELinux is permissive: exit %d\n%s", code, said)
	}
	if v := h.status("foo"); v.State != control.Running || v.Error == nil || v.Error.Line != line {
		t.Errorf("after it: %+v", v)
	}
	h.does(v.Listen[0], "print(1)", "1")

	const settings = "/etc/liege/emperor.ini"
	old, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.write(settings, string(old))
		h.run("systemctl", "reload", "liege")
	})
	h.write(settings, "[emperor]\nselinux = warn\n"+string(old))
	h.run("systemctl", "reload", "liege")
	h.run("liege", "reload", "foo")
	v = h.status("foo")
	if v.State != control.Running || !slices.ContainsFunc(v.Problems, func(p vassal.Problem) bool {
		return p.Severity == vassal.Warning && p.Line == line && strings.Contains(p.Message, "permissive")
	}) {
		t.Errorf("with selinux = warn: %+v", v.Problems)
	}
	if got := readProc(t, *v.PID, "attr/current"); got != ofFoo {
		t.Errorf("it runs as %s all the same", got)
	}
}

// TestHooksStayWhereTheyAre: a command of a hook cannot enter another domain,
// be it root's or the user's.
func TestHooksStayWhereTheyAre(t *testing.T) {
	h := newHost(t)
	h.hostile("/srv/www/foo", "foo")
	const enter = `python3 -c "import os; os.write(os.open('/proc/self/attr/current', os.O_WRONLY), b'system_u:system_r:webapp_bar_t:s0'); os._exit(0)"`
	h.run("sh", "-c", enter) // the control: nobody keeps the test's own domain from it
	for phase, domain := range map[string]string{"as-root": "liege_hook_t", "as-user": "webapp_foo_t"} {
		h.drop(phase, lone("/srv/www/foo")+"hook-"+phase+" = exec:"+enter+"\n"+byExec+ofFoo)
		if v := h.refused(phase); v.Error.Line != line || !strings.Contains(v.Error.Message, "exit status") {
			t.Errorf("line %d: %s", v.Error.Line, v.Error.Message)
		}
		h.expectDenial(domain + " " + domain + ":process setcurrent")
		os.Remove(vassals + "/" + phase + ".ini") // it would be tried again and again
	}
}

// TestCoreNotExecutable: what fails after the domain was entered is reported
// with its step all the same: the channel for it belongs to that domain.
func TestCoreNotExecutable(t *testing.T) {
	h := newHost(t)
	h.hostile("/srv/www/foo", "foo")
	const core = "/usr/libexec/liege/liege-core"
	h.run("chcon", "--type=liege_var_lib_t", core)
	t.Cleanup(func() { h.run("restorecon", "-F", core) })
	h.drop("setcon", lone("/srv/www/foo")+bySetup+ofFoo)
	if v := h.refused("setcon"); v.Error.Step != "exec" || !strings.Contains(v.Error.Message, "permission denied") {
		t.Errorf("step %q: %s", v.Error.Step, v.Error.Message)
	}
	h.expectDenial("webapp_foo_t liege_var_lib_t:file execute")
	h.tolerate("liege_router_t") // nor can a holding generation start
	h.drop("exec", lone("/srv/www/foo")+byExec+ofFoo)
	if v := h.refused("exec"); v.Error.Line != line || !strings.Contains(v.Error.Message, "entrypoint") {
		t.Errorf("by exec: line %d: %s", v.Error.Line, v.Error.Message)
	}
}
