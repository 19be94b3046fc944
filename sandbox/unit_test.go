package sandbox

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/vassal"
)

// unit is a cgroup as systemd makes it for a unit with Delegate=yes.
type unit struct {
	t    *testing.T
	tr   *trees
	path string
}

func newUnit(t *testing.T, name string) unit {
	t.Helper()
	tr, err := findTrees()
	if err != nil {
		t.Fatal(err)
	}
	slice := fmt.Sprintf("/liege-test-%d.slice", os.Getpid())
	u := unit{t, tr, slice + "/" + name + ".service"}
	// On v1 systemd makes it in some hierarchies only.
	if err := os.MkdirAll(tr.procsDir(u.path), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.remove(u.path); err != nil {
			t.Error(err)
		}
		if len(below(tr.procsDir(slice))) == 1 { // the last unit of the test
			if err := rmdir(tr.procsDir(slice)); err != nil {
				t.Error(err)
			}
		}
		for _, m := range tr.mounts {
			if _, err := os.Stat(filepath.Join(m, u.path)); err == nil {
				t.Errorf("%s%s is still there", m, u.path)
			}
		}
	})
	if err := unix.Setxattr(tr.procsDir(u.path), "trusted.delegate", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	return u
}

// open is for starting a process in the unit, or in a cgroup below it.
func (u unit) open(below string) *os.File {
	u.t.Helper()
	f, err := os.Open(filepath.Join(u.tr.procsDir(u.path), below))
	if err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() { f.Close() })
	return f
}

func needUnits(t *testing.T) {
	t.Helper()
	testenv.Need(t, testenv.Root, testenv.CgroupV2, testenv.OpenTree)
	testenv.Leaks(t)
}

func untilClosed(t *testing.T) func(*bufio.Scanner) {
	return func(lines *bufio.Scanner) {
		scanRecords(t, lines, 1)
		for lines.Scan() { // until it has closed its output
		}
	}
}

func wantCgroups(t *testing.T, node string) func(*bufio.Scanner) {
	return func(lines *bufio.Scanner) {
		for i, rec := range scanRecords(t, lines, 2) {
			want := fmt.Sprintf("%s/vassals/v-%s/g1", node, []string{"one", "two"}[i])
			if rec.Cgroup != want {
				t.Errorf("cgroup: got %s, want %s", rec.Cgroup, want)
			}
		}
	}
}

// An Emperor alone in a cgroup that was delegated to it works below that, and
// the next one there finds what it left. On cgroup v2 the next one cannot be
// started in the unit itself: DelegateSubgroup=emperor.
func TestOwnCgroup(t *testing.T) {
	needUnits(t)
	u := newUnit(t, "own")
	dir := t.TempDir()
	killedEmperorIn(t, u.open(""), wantCgroups(t, u.path), dir, "once")
	if got := len(u.tr.pids(u.path)); got != 2 {
		t.Errorf("processes after the kill: got %d, want the 2 survivors", got)
	}
	killedEmperorIn(t, u.open("emperor"), untilClosed(t), dir, "close")
	if got := u.tr.pids(u.path); len(got) != 0 {
		t.Errorf("processes after the sweep: got %v", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "sandbox")); err == nil {
		t.Error("RunDir/sandbox is still there")
	}
}

// With the vassals in a unit of their own a killed Emperor can be started in
// its unit again while they run, on cgroup v2 too, and finds them.
func TestCgroupOfAnotherUnit(t *testing.T) {
	needUnits(t)
	own, theirs := newUnit(t, "emperor"), newUnit(t, "vassals")
	holder := startIn(t, theirs, "sleep", "1000") // as liege-vassals.service has one
	dir := t.TempDir()
	killedEmperorIn(t, own.open(""), wantCgroups(t, theirs.path), dir, "once", theirs.path)
	if got := len(own.tr.pids(theirs.path)); got != 3 {
		t.Errorf("processes after the kill: got %d, want the 2 survivors and the holder", got)
	}
	killedEmperorIn(t, own.open(""), untilClosed(t), dir, "close", theirs.path)
	if got := own.tr.pids(theirs.path); len(got) != 1 || got[0] != holder {
		t.Errorf("processes after the sweep: got %v, want the holder, %d", got, holder)
	}
	for _, m := range own.tr.mounts {
		if _, err := os.Stat(filepath.Join(m, filepath.Dir(own.path))); err == nil && m != own.tr.procsDir("/") {
			t.Errorf("%s%s is still there: systemd had not made it", m, filepath.Dir(own.path))
		}
	}
	for _, d := range append(below(own.tr.procsDir(own.path))[1:], below(own.tr.procsDir(theirs.path))[1:]...) {
		if filepath.Base(d) != "holder" {
			t.Errorf("%s is still there", d)
		}
	}
}

// Sweep ends what it finds, so a node has one Emperor.
func TestCgroupIsClaimed(t *testing.T) {
	needUnits(t)
	u := newUnit(t, "claimed")
	r := &rig{t: t}
	manager := func(cgroup string) (*Manager, error) {
		cfg := r.config(t.TempDir())
		cfg.Cgroup = cgroup
		return NewManager(cfg)
	}
	one, err := manager(u.path)
	if err != nil {
		t.Fatal(err)
	}
	for cgroup, want := range map[string]string{
		u.path:           "another Emperor",
		u.path + "-none": "there is no such cgroup",
		"/":              "the root is not the Emperor's",
	} {
		m, err := manager(cgroup)
		if err == nil {
			t.Errorf("%s: a second Emperor is let in at %s", cgroup, m.Node())
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", cgroup, err, want)
		}
	}
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := manager(u.path)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// What systemd did not delegate stays systemd's: a session, a scope.
func TestNotDelegated(t *testing.T) {
	needUnits(t)
	u := newUnit(t, "scope")
	if err := unix.Removexattr(u.tr.procsDir(u.path), "trusted.delegate"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	killedEmperorIn(t, u.open(""), func(lines *bufio.Scanner) {
		for _, rec := range scanRecords(t, lines, 2) {
			if strings.HasPrefix(rec.Cgroup, u.path) || !strings.HasPrefix(rec.Cgroup, "/liege-") {
				t.Errorf("cgroup: got %s", rec.Cgroup)
			}
		}
	}, dir, "once")
	m, err := NewManager(ManagerConfig{RunDir: dir, Stage: self(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Sweep(func(vassal.Name, int) bool { return false }); err != nil {
		t.Error(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// startIn starts a program in the unit, to its end with the test, and returns
// its pid.
func startIn(t *testing.T, u unit, name string, args ...string) int {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(u.open("").Fd())}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		cmd.Wait()
	})
	return cmd.Process.Pid
}
