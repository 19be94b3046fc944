package sandbox

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"liege/vassal"
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

// TestTooFewPids: a pids-max that is too small for a start is told with its line.
func TestTooFewPids(t *testing.T) {
	st := &starting{m: &Manager{}}
	st.spec.Limits = vassal.Limits{PidsMax: 2, PidsMaxAt: vassal.Origin{File: "a.ini", Line: 3}}
	for _, text := range []string{"runc init error(s): nsexec-0[1608]: unable to spawn stage-1: Resource temporarily unavailable", "procReady not received"} {
		err := st.translate(errors.New(text))
		if p := vassal.AsProblems(err, "", "").First(); p == nil || p.Key != "pids-max" || p.Line != 3 || !strings.Contains(p.Message, "too few") {
			t.Errorf("%v, problem %+v", err, p)
		}
	}
	st.spec.Limits.PidsMax = 2000 // then it is the host's
	if err := st.translate(unix.EAGAIN); !strings.Contains(err.Error(), "no more processes") {
		t.Errorf("%v", err)
	}
}
