package guest

import (
	"os/user"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestEnter: under enforcement a command beside the app is in the app's domain,
// root of the sandbox in that of root's hooks, and both do what the manual says
// of them.
func TestEnter(t *testing.T) {
	h := newHost(t)
	h.hostile("/srv/www/foo", "foo")
	h.write("/srv/www/foo/app.py", hello("served"))
	h.drop("foo", lone("/srv/www/foo")+byExec+ofFoo)
	h.up("foo")
	u, err := user.Lookup("foo")
	if err != nil {
		t.Fatal(err)
	}
	// Each takes seconds on an emulated machine.
	const who = "id -u; echo $(tr -d '\\0' < /proc/self/attr/current); "
	script := who + "echo mine > /tmp/user && cat /tmp/user; (setsid sleep 1000 >/dev/null 2>&1 &); exit 7"
	got, code := h.try("liege", "enter", "foo", "--", "sh", "-c", script)
	if d := cmp.Diff([]string{u.Uid, ofFoo, "mine"}, strings.Split(strings.TrimSpace(got), "\n")); code != 7 || d != "" {
		t.Errorf("exit %d, want 7 (-want +got):\n%s", code, d)
	}
	if got, code := h.try("liege", "enter", "--root", "foo", "--", "true"); code != 1 || !strings.Contains(got, "root of the host") {
		t.Errorf("root without a user namespace: exit %d %q", code, got)
	}
	h.until("nothing of it is left", func() bool {
		out, _ := h.try("pgrep", "-f", "^sleep 1000$")
		return out == ""
	})
	// On a terminal, which is the sandbox's own and labelled for who is entered.
	out, code := h.try("script", "-qec", "liege enter foo -- sh -c 'test -t 0 && echo typed > $(tty) && exit 9'", "/dev/null")
	if code != 9 || !strings.Contains(out, "typed") {
		t.Errorf("a terminal: exit %d %q", code, out)
	}
	h.answers(h.status("foo").Listen[0], "/", "served")
}
