package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"liege/internal/testenv"
)

// TestRelayJoins: a relay is forked outside of its vassal's cgroup, whose limits
// would hold up who forks it, and is in it when Start returns.
func TestRelayJoins(t *testing.T) {
	testenv.Need(t, testenv.CgroupV2)
	r := newRig(t)
	g := (&Vassal{m: r.m, name: "v"}).newGate(1, 0)
	if err := r.m.trees.make(g.cgroup); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		v := &Vassal{m: r.m, name: "v"}
		if err := r.m.trees.remove(v.cgroup()); err != nil {
			t.Error(err)
		}
	})
	of := func(pid int) string {
		t.Helper()
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	cmd := exec.Command("/bin/cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	err = g.Start(cmd, func(cmd *exec.Cmd) error {
		err := cmd.Start()
		if err == nil && !strings.Contains(of(cmd.Process.Pid), "::"+r.m.outside()+"\n") {
			t.Errorf("forked into %s", of(cmd.Process.Pid))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := of(cmd.Process.Pid); strings.Contains(got, r.m.outside()) || !strings.Contains(got, "::"+g.cgroup+"\n") {
		t.Errorf("it runs in %s", got)
	}
	for _, c := range []string{"memory", "pids", "cpu"} {
		if dir := r.m.trees.dir(c, g.cgroup); dir != "" {
			if procs, err := os.ReadFile(dir + "/cgroup.procs"); err != nil || strings.TrimSpace(string(procs)) != fmt.Sprint(cmd.Process.Pid) {
				t.Errorf("%s counts %q (%v)", c, procs, err)
			}
		}
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
}
