package guest

import (
	"fmt"
	"os/exec"
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
	for _, c := range []struct {
		root   bool
		script string
		code   int
		want   []string
	}{
		{false, who + "echo mine > /tmp/user && cat /tmp/user; (setsid sleep 1000 >/dev/null 2>&1 &); exit 7", 7, []string{u.Uid, ofFoo, "mine"}},
		{true, who + "touch /tmp/root && chown " + u.Uid + " /tmp/root && stat -c %u /tmp/root /tmp/user; " +
			"kill -0 1 && cat /proc/1/environ > /tmp/environ && ls /proc/1/fd > /tmp/fds && test -s /tmp/environ && cat /proc/1/comm; " +
			"chmod u+s /tmp/root 2>&1; echo x 2>&1 > /usr/x; exit 9", 9, []string{"0", "system_u:system_r:liege_hook_t:s0", u.Uid, u.Uid, "liege-core",
			"chmod: changing permissions of '/tmp/root': Operation not permitted", "sh: 1: cannot create /usr/x: Read-only file system"}},
	} {
		args := []string{"liege", "enter"}
		if c.root {
			args = append(args, "--root")
		}
		got, code := h.try(append(args, "foo", "--", "sh", "-c", c.script)...)
		if d := cmp.Diff(c.want, strings.Split(strings.TrimSpace(got), "\n")); code != c.code || d != "" {
			t.Errorf("root %v: exit %d, want %d (-want +got):\n%s", c.root, code, c.code, d)
		}
	}
	// Root ends what is the user's.
	long := exec.Command("liege", "enter", "foo", "--", "sleep", "1001")
	if err := long.Start(); err != nil {
		t.Fatal(err)
	}
	h.until("the command runs", func() bool {
		_, code := h.try("liege", "enter", "--root", "foo", "--", "pkill", "-KILL", "-f", "^sleep 1001$")
		return code == 0
	})
	if _ = long.Wait(); long.ProcessState.ExitCode() != 137 {
		t.Errorf("root has ended a command of the user's: exit %d, want 137", long.ProcessState.ExitCode())
	}
	h.until("nothing of it is left", func() bool {
		out, _ := h.try("pgrep", "-f", "^sleep 1000$")
		return out == ""
	})
	// On a terminal, which is the sandbox's own and labelled for who is entered.
	for _, root := range []string{"", "--root "} {
		out, code := h.try("script", "-qec", fmt.Sprintf("liege enter %sfoo -- sh -c 'test -t 0 && echo typed > $(tty) && exit 9'", root), "/dev/null")
		if code != 9 || !strings.Contains(out, "typed") {
			t.Errorf("a terminal, %q: exit %d %q", root, code, out)
		}
	}
	h.answers(h.status("foo").Listen[0], "/", "served")
}
