package e2e

import (
	"strings"
	"testing"

	"liege/emperor/control"
)

// TestVerifiedFromOutside: a process that came out of a stage which left
// something out never runs, and the field is named (KERNEL 7).
func TestVerifiedFromOutside(t *testing.T) {
	r := layRealm(t)
	r.bin = hostileBin(t, r.bin, "stage")
	r.begin()
	r.write("app/index.html", "a site")
	lines := "gid = nogroup\nhttp = 127.0.0.1:0\nchdir = DIR/app\ncheck-static = DIR/app\nstatic-index = index.html\n"
	for name, field := range map[string]string{
		"bounding": "CapBnd", "groups": "Groups", "gid": "Gid", "uid": "Uid", "nnp": "NoNewPrivs", "filter": "Seccomp",
	} {
		t.Run(name, func(t *testing.T) {
			r := r.in(t)
			r.drop(name, "uid = nobody\nadd-gid = users\n"+lines)
			r.try("wait", name, "backoff", "--timeout", "20s")
			v := r.status(name)
			if v.State == control.Running || v.Error == nil || v.Error.Code != "check-failed" || !strings.Contains(v.Error.Message, field) {
				t.Errorf("%s, %v; want check-failed that names %s", v.State, v.Error, field)
			}
		})
	}
	// The negative control: the same program that leaves out nothing.
	r.drop("honest", "uid = nobody\nadd-gid = users\n"+lines)
	if _, got := r.get(r.up("honest").Listen[0], "/"); got != "a site" {
		t.Errorf("honest: %q", got)
	}
}
