package guest

import (
	"fmt"
	"strings"
	"testing"
)

// TestEnter: a command beside the application is in its domain, whichever way
// that is entered, as root in that of root's hooks; what goes in and comes out
// passes, through pipes and a terminal.
func TestEnter(t *testing.T) {
	h := newHost(t)
	h.hostile("/srv/www/foo", "foo")
	for name, line := range map[string]string{"byexec": byExec + ofFoo, "setcon": bySetup + ofFoo, "none": ""} {
		want := "webapp_foo_t:s0"
		if line == "" {
			want = "webapp_t:s0"
		}
		h.drop(name, lone("/srv/www/foo")+line)
		h.up(name)
		for _, c := range []struct{ root, want string }{{"", want}, {"--root", "liege_hook_t:s0"}} {
			enter := fmt.Sprintf("liege enter %s %s -- sh -c '%%s; id -u; cat /proc/self/attr/current; echo; exit 7'", c.root, name)
			for way, shell := range map[string]string{
				"pipes":    "echo typed | " + fmt.Sprintf(enter, "cat") + " | cat; exit ${PIPESTATUS[1]}",
				"terminal": "script -qec \"" + fmt.Sprintf(enter, "tty | sed s,/dev/pts/.,typed,") + "\" /dev/null < /dev/null",
			} {
				said, code := h.try("bash", "-c", shell)
				if !strings.Contains(said, "typed") || !strings.Contains(said, c.want) || code != 7 || (c.root != "") != strings.Contains(strings.ReplaceAll(said, "\r", ""), "\n0\n") {
					t.Errorf("%s, %q, %s: exit %d %q, want 7 and %s", name, c.root, way, code, said, c.want)
				}
			}
		}
	}
}
