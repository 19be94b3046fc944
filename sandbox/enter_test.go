package sandbox

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"liege/sandbox/stage"
)

// TestAsRoot: a guest is root only where that is nobody on the host, with capabilities
// of its user namespace that make no devices and change no mounts.
func TestAsRoot(t *testing.T) {
	for _, tt := range []struct {
		name  string
		users *IDMaps
		want  error
	}{
		{"root of the host", nil, ErrHostRoot},
		{"root of a user namespace", &IDMaps{Root: nsRoot, Users: []int{33}}, nil},
		{"root of the host, by its own number", &IDMaps{Root: nsRoot, Users: []int{0}}, ErrHostRoot},
	} {
		p := stage.Plan{UID: 33, Landlock: &stage.Landlock{}, Caps: []int{unix.CAP_SETFCAP}}
		err := (&Sandbox{users: tt.users}).asRoot(&p)
		if !errors.Is(err, tt.want) || err == nil && p.UID != 0 || err != nil && p.UID != 33 {
			t.Errorf("%s: %v, uid %d", tt.name, err, p.UID)
		}
		for _, c := range []int{unix.CAP_FSETID, unix.CAP_MKNOD, unix.CAP_SYS_ADMIN, unix.CAP_SETFCAP} {
			if err == nil && slices.Contains(p.Caps, c) {
				t.Errorf("%s: has capability %d", tt.name, c)
			}
		}
	}
}
