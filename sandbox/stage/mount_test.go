package stage

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"liege/vassal/action"
)

// Who mounts on a directory that is not there is told which line makes it.
func TestMountOnNothing(t *testing.T) {
	for _, tt := range []struct {
		call action.Call
		err  error
		want string
	}{
		{action.Call{Path: "/mnt", FSType: "tmpfs"}, unix.ENOENT, `hint: the line "tmpfs = /mnt"`},
		{action.Call{Path: "/mnt", Source: "/srv", Flags: []string{"bind"}}, unix.ENOENT, `hint: the line "bind = /srv:/mnt"`},
		{action.Call{Path: "/mnt", FSType: "tmpfs"}, unix.EACCES, ""},
		{action.Call{Path: "/mnt", FSType: "proc"}, unix.ENOENT, ""},
	} {
		got := noPlace(tt.call, fmt.Errorf("/mnt: %w", tt.err)).Error()
		if !strings.Contains(got, tt.want) || strings.Contains(got, "hint") != (tt.want != "") {
			t.Errorf("%+v: %s, want %s", tt.call, got, tt.want)
		}
	}
}
