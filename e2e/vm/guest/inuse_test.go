package guest

import (
	"fmt"
	"strings"
	"testing"
)

// TestPolicyInUse: the module of an app that runs is not taken away under it.
func TestPolicyInUse(t *testing.T) {
	h := newHost(t)
	h.hostile("/srv/www/foo", "foo")
	h.drop("foo", lone("/srv/www/foo")+byExec+ofFoo)
	v := h.up("foo")
	out, code := h.try("liege", "policy", "remove", "foo")
	if code != 1 || !strings.Contains(out, "processes run as webapp_foo_t") || !strings.Contains(out, fmt.Sprint(*v.PID)) {
		t.Errorf("remove of a module in use: exit %d\n%s", code, out)
	}
	if out, code := h.try("liege", "policy", "remove", "nobody"); code != 66 {
		t.Errorf("remove of no module: exit %d\n%s", code, out)
	}
	h.does(v.Listen[0], "print(open('data/secret').read())", "secret of foo")
}
