package guest

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"liege/internal/testenv"
)

// TestUnit: systemd started the Emperor at boot, it said READY, and nothing was
// denied so far. It is the first test of all.
func TestUnit(t *testing.T) {
	h := newHost(t)
	h.watchDenials(0)
	for property, want := range map[string]string{
		"ActiveState": "active", "SubState": "running", "Type": "notify", "NRestarts": "0", "TasksMax": "infinity",
	} {
		if got := h.run("systemctl", "show", "--value", "--property="+property, "liege"); got != want {
			t.Errorf("%s is %q, want %q", property, got, want)
		}
	}
	if text := h.run("systemctl", "show", "--value", "--property=StatusText", "liege"); !strings.Contains(text, "running") {
		t.Errorf("the status says %q; want how many are running", text)
	}
}

// TestDenialSeen: a test that is denied something without expecting it would
// fail. dmesg has a domain of its own, which may not write what root may.
func TestDenialSeen(t *testing.T) {
	h := newHost(t)
	from := h.auditMark()
	out, err := os.Create("/srv/probe")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(out.Name())
	defer out.Close()
	h.expectDenial("dmesg_t var_t:file read", "dmesg_t var_t:file write")
	cmd := exec.Command("dmesg")
	cmd.Stdout = out
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if seen := h.deniedSince(from); len(seen) != 2 {
		t.Errorf("denials %v; want two", seen)
	}
}

// TestLayout: this boot has the cgroup layout that it was made for.
func TestLayout(t *testing.T) {
	testenv.Need(t, testenv.Guest)
	promised := slices.Contains(strings.Split(os.Getenv("TEST_HAVE"), ","), string(testenv.CgroupV1))
	if cgroupV1() != promised {
		t.Errorf("controllers on cgroup v1: %v, want %v", cgroupV1(), promised)
	}
}
