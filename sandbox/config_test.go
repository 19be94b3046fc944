package sandbox

import (
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNoRoom: a full run directory is not taken for a full root.
func TestNoRoom(t *testing.T) {
	dir := t.TempDir()
	st := &starting{m: &Manager{dir: dir + "/sandbox"}}
	for path, want := range map[string]string{
		dir + "/sandbox/state/x/state.json":    "no room in the run directory " + dir + ",",
		dir + "/vassals/v-shop/gen-2.json.tmp": "no room in the run directory " + dir + ",",
		"/sys/fs/cgroup/x":                     "no room in the root or in a cgroup",
	} {
		if got := st.translate(&fs.PathError{Op: "write", Path: path, Err: unix.ENOSPC}).Error(); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
