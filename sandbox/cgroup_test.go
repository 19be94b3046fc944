package sandbox

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/vassal"
)

// fakeTrees are directories in the place of cgroup file systems.
func fakeTrees(t *testing.T, layout string) *trees {
	root := t.TempDir()
	tr := &trees{}
	switch layout {
	case "v2":
		tr.unified = root
		tr.mounts = []string{root}
	default:
		tr.v1 = map[string]string{}
		for _, c := range []string{"memory", "cpu", "cpuacct", "pids", "devices"} {
			dir := c
			if c == "cpu" || c == "cpuacct" {
				dir = "cpu,cpuacct" // as systemd mounts them
			}
			tr.v1[c] = filepath.Join(root, dir)
			if c != "cpuacct" {
				tr.mounts = append(tr.mounts, tr.v1[c])
			}
		}
		if layout == "hybrid" {
			tr.unified = filepath.Join(root, "unified")
			tr.mounts = append(tr.mounts, tr.unified)
		}
	}
	return tr
}

// What is written where, for each layout of the host.
func TestLimitFiles(t *testing.T) {
	v1 := map[string]string{"memory/n/memory.limit_in_bytes": "1048576", "cpu,cpuacct/n/cpu.cfs_quota_us": "150000", "pids/n/pids.max": "7"}
	v1none := map[string]string{"memory/n/memory.limit_in_bytes": "-1", "cpu,cpuacct/n/cpu.cfs_quota_us": "-1", "pids/n/pids.max": "max"}
	for _, tc := range []struct {
		layout string
		limits vassal.Limits
		want   map[string]string
	}{
		{"v2", vassal.Limits{MemoryMax: 1 << 20, CPUMax: 1.5, PidsMax: 7}, map[string]string{"n/memory.max": "1048576", "n/cpu.max": "150000 100000", "n/pids.max": "7"}},
		{"v2", vassal.Limits{}, map[string]string{"n/memory.max": "max", "n/cpu.max": "max 100000", "n/pids.max": "max"}},
		{"v1", vassal.Limits{MemoryMax: 1 << 20, CPUMax: 1.5, PidsMax: 7}, v1},
		{"v1", vassal.Limits{}, v1none},
		{"hybrid", vassal.Limits{MemoryMax: 1 << 20, CPUMax: 1.5, PidsMax: 7}, v1},
	} {
		tr := fakeTrees(t, tc.layout)
		if err := tr.make("/n"); err != nil {
			t.Fatal(err)
		}
		root := tr.unified
		if !tr.v2() {
			root = filepath.Dir(tr.v1["memory"])
		}
		if err := tr.limit("/n", tc.limits); err != nil {
			t.Errorf("%s: %v", tc.layout, err)
		}
		got := map[string]string{}
		for _, d := range below(root) {
			for _, name := range entries(d) {
				if text, err := os.ReadFile(filepath.Join(d, name)); err == nil {
					rel, _ := filepath.Rel(root, filepath.Join(d, name))
					got[rel] = string(text)
				}
			}
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.layout, diff)
		}
	}
}

// On v2 every cgroup from the root down hands the controllers on.
func TestEnableAbove(t *testing.T) {
	for layout, want := range map[string]int{"v2": 4, "hybrid": 0} {
		tr := fakeTrees(t, layout)
		if err := tr.make("/a/b/c"); err != nil {
			t.Fatal(err)
		}
		tr.enableAbove("/a/b/c")
		got := 0
		for _, d := range []string{"", "a", "a/b", "a/b/c"} {
			if _, err := os.Stat(filepath.Join(tr.unified, d, "cgroup.subtree_control")); err == nil {
				got++
			}
		}
		if got != want {
			t.Errorf("%s: %d cgroups, want %d", layout, got, want)
		}
	}
}

func TestLimitWithoutController(t *testing.T) {
	tr := fakeTrees(t, "v1")
	delete(tr.v1, "memory")
	if err := tr.make("/n"); err != nil {
		t.Fatal(err)
	}
	if err := tr.limit("/n", vassal.Limits{}); err != nil {
		t.Errorf("no limit asked for: %v", err)
	}
	err := tr.limit("/n", vassal.Limits{MemoryMax: 1})
	if !errors.Is(err, ErrNotSupported) || !strings.Contains(err.Error(), "memory-max") {
		t.Errorf("got %v, want %v with memory-max", err, ErrNotSupported)
	}
}

func TestUsageFiles(t *testing.T) {
	for _, tc := range []struct {
		layout string
		files  map[string]string // controller/file
	}{
		{"v2", map[string]string{"memory/memory.current": "11\n", "memory/memory.events": "low 0\noom 9\noom_kill 2\n", "cpu/cpu.stat": "usage_usec 33\nuser_usec 1\n", "pids/pids.current": "4\n"}},
		{"v1", map[string]string{"memory/memory.usage_in_bytes": "11\n", "memory/memory.oom_control": "under_oom 0\noom_kill 2\n", "cpuacct/cpuacct.usage": "33000\n", "pids/pids.current": "4\n"}},
	} {
		tr := fakeTrees(t, tc.layout)
		if err := tr.make("/n"); err != nil {
			t.Fatal(err)
		}
		for name, text := range tc.files {
			controller, file, _ := strings.Cut(name, "/")
			if err := os.WriteFile(filepath.Join(tr.dir(controller, "/n"), file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := tr.usage("/n")
		if want := (Usage{MemoryBytes: 11, OOMKills: 2, CPUUsec: 33, Pids: 4}); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", tc.layout, got, err, want)
		}
		if _, err := tr.usage("/none"); err == nil {
			t.Errorf("%s: usage of no cgroup: got nil, want an error", tc.layout)
		}
	}
}

// Without cgroup.kill (pure v1) every process is found and killed too.
func TestKillWithoutCgroupKill(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.CgroupV1)
	r := newRig(t)
	spec := r.spec("old", 1, "forkbomb")
	spec.Limits.PidsMax = 40
	b := r.start(spec)
	b.awaitOutput("waiting")
	old := *r.m.trees
	old.unified = ""
	if old.procsDir("/x") == r.m.trees.procsDir("/x") {
		t.Fatal("the same hierarchy")
	}
	old.empty(b.cgroup)
	if e := b.wait(); e.Signal != "SIGKILL" {
		t.Errorf("exit: got %+v", e)
	}
}

// A number that was given to a process outside is not killed.
func TestKillOneLooksTwice(t *testing.T) {
	r := newRig(t)
	b := r.start(r.spec("two", 1, "wait"))
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	if err := r.m.trees.killOne(b.cgroup, cmd.Process.Pid); err != nil {
		t.Error(err)
	}
	// A signal of our own comes after one it may have got.
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // ended by a signal either way
	if got := cmd.ProcessState.Sys().(syscall.WaitStatus).Signal(); got != unix.SIGTERM {
		t.Errorf("a process outside of the cgroup: got %v, want it to live until %v", got, unix.SIGTERM)
	}
}
