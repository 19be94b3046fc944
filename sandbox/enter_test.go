package sandbox

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"liege/sandbox/seccomp"
	"liege/sandbox/stage"
)

// TestAsRoot: root of the host has the vassal's filter with NoSetID before it,
// or that alone, and no capability that would get round it; root of a user
// namespace has the vassal's.
func TestAsRoot(t *testing.T) {
	filter := stage.Program{{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW}}
	guarded, err := seccomp.NoSetID(filter)
	if err != nil {
		t.Fatal(err)
	}
	alone, err := seccomp.NoSetID(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		users *IDMaps
		have  stage.Program
		want  stage.Program
	}{
		{"root of the host", nil, filter, guarded},
		{"root of the host, seccomp = off", nil, nil, alone},
		{"root of a user namespace", &IDMaps{Root: nsRoot, Users: []int{33}}, filter, filter},
		{"root of a user namespace, seccomp = off", &IDMaps{Root: nsRoot}, nil, nil},
		{"root of the host, by its own number", &IDMaps{Root: nsRoot, Users: []int{0}}, filter, guarded},
	} {
		p := stage.Plan{UID: 33, Seccomp: tt.have, NoSeccomp: tt.have == nil, Landlock: &stage.Landlock{}, Caps: []int{unix.CAP_SETFCAP}}
		if err := (&Sandbox{users: tt.users}).asRoot(&p); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if diff := cmp.Diff(tt.want, p.Seccomp); diff != "" || p.NoSeccomp != (tt.want == nil) {
			t.Errorf("%s: no filter %v, the filter (-want +got):\n%s", tt.name, p.NoSeccomp, diff)
		}
		outer := tt.users.hostUID(0) == 0
		if (p.Landlock != nil) != outer || slices.Contains(p.Caps, unix.CAP_SYS_PTRACE) == outer {
			t.Errorf("%s: fenced %v, capabilities %v", tt.name, p.Landlock, p.Caps)
		}
		for _, c := range []int{unix.CAP_SETFCAP, unix.CAP_FSETID, unix.CAP_MKNOD, unix.CAP_SYS_ADMIN} {
			if slices.Contains(p.Caps, c) {
				t.Errorf("%s: has capability %d", tt.name, c)
			}
		}
	}
}
