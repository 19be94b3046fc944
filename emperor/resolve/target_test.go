package resolve

import (
	"testing"

	"liege/vassal"
)

// What the stage and the core run from is not covered by a bind.
func TestNotOver(t *testing.T) {
	top := t.TempDir()
	for target, want := range map[string]bool{
		"/proc": false, "/proc/self": false, "/.liege": false, "/.liege/liege-core": false, "/sys/fs/cgroup": false, "/dev": false, "/": false,
		"/opt/app": true, "/dev/log": true, "/devel": true,
	} {
		cfg := config()
		cfg.Ident.User = "sammy"
		cfg.Jail.Binds = []vassal.Bind{{Source: top, Target: target, Key: "bind"}}
		if r := Resolve(t.Context(), cfg, Host{FS: OS{}, Users: people{}}); r.Problems.Failed() == want {
			t.Errorf("%s: %v", target, r.Problems)
		}
	}
}
