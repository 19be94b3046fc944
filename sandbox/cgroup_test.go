package sandbox

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

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
		for _, c := range []string{"memory", "cpu", "cpuacct", "pids", "devices", "blkio"} {
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
	with := func(all ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(all); i += 2 {
			m[all[i]] = all[i+1]
		}
		return m
	}
	v1 := with("memory/n/memory.limit_in_bytes", "1048576", "memory/n/memory.kmem.tcp.limit_in_bytes", "1048576", "memory/n/memory.memsw.limit_in_bytes", "1048576", "cpu,cpuacct/n/cpu.cfs_quota_us", "150000", "cpu,cpuacct/n/cpu.shares", "1024", "pids/n/pids.max", "7")
	v1none := with("memory/n/memory.limit_in_bytes", "-1", "memory/n/memory.kmem.tcp.limit_in_bytes", "-1", "memory/n/memory.memsw.limit_in_bytes", "-1", "cpu,cpuacct/n/cpu.cfs_quota_us", "-1", "cpu,cpuacct/n/cpu.shares", "1024", "pids/n/pids.max", "max")
	v1all := with("memory/n/memory.limit_in_bytes", "1048576", "memory/n/memory.kmem.tcp.limit_in_bytes", "1048576", "memory/n/memory.memsw.limit_in_bytes", "1048676", "cpu,cpuacct/n/cpu.cfs_quota_us", "-1", "cpu,cpuacct/n/cpu.shares", "512", "pids/n/pids.max", "max",
		"blkio/n/blkio.throttle.read_bps_device", "8:0 5", "blkio/n/blkio.throttle.write_iops_device", "8:0 6")
	swap, any := int64(100), int64(vassal.NoSwapLimit)
	disk := []vassal.IOMax{{Device: "8:0", ReadBytes: 5, WriteOps: 6}}
	for _, tc := range []struct {
		layout string
		limits vassal.Limits
		want   map[string]string
	}{
		{"v2", vassal.Limits{MemoryMax: 1 << 20, CPUMax: 1.5, PidsMax: 7}, with("n/memory.max", "1048576", "n/memory.high", "max", "n/memory.swap.max", "0", "n/cpu.max", "150000 100000", "n/cpu.weight", "100", "n/pids.max", "7")},
		{"v2", vassal.Limits{}, with("n/memory.max", "max", "n/memory.high", "max", "n/memory.swap.max", "max", "n/cpu.max", "max 100000", "n/cpu.weight", "100", "n/pids.max", "max")},
		{"v2", vassal.Limits{MemoryMax: 1 << 20, MemoryHigh: 9, SwapMax: &swap, CPUWeight: 50, IOMax: disk}, with("n/memory.max", "1048576", "n/memory.high", "9", "n/memory.swap.max", "100", "n/cpu.max", "max 100000", "n/cpu.weight", "50", "n/pids.max", "max", "n/io.max", "8:0 rbps=5 wbps=max riops=max wiops=6")},
		{"v2", vassal.Limits{MemoryMax: 1 << 20, SwapMax: &any}, with("n/memory.max", "1048576", "n/memory.high", "max", "n/memory.swap.max", "max", "n/cpu.max", "max 100000", "n/cpu.weight", "100", "n/pids.max", "max")},
		{"v1", vassal.Limits{MemoryMax: 1 << 20, SwapMax: &swap, CPUWeight: 50, IOMax: disk}, v1all},
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
	delete(tr.v1, "blkio")
	if err := tr.make("/n"); err != nil {
		t.Fatal(err)
	}
	if err := tr.limit("/n", vassal.Limits{}); err != nil {
		t.Errorf("no limit asked for: %v", err)
	}
	at := vassal.Origin{File: "a.ini", Line: 3}
	for key, l := range map[string]vassal.Limits{
		"memory-max":  {MemoryMax: 1, MemoryMaxAt: at},
		"memory-high": {MemoryHigh: 1, MemoryHighAt: at}, // v1 has none
		"io-max":      {IOMax: []vassal.IOMax{{Device: "8:0", ReadBytes: 1, At: at}}},
	} {
		err := tr.limit("/n", l)
		p := vassal.AsProblems(err, "", "").First()
		if !errors.Is(err, ErrNotSupported) || p == nil || p.Key != key || p.File != "a.ini" || p.Line != 3 {
			t.Errorf("%s: got %v, problem %+v, want %v of line 3", key, err, p, ErrNotSupported)
		}
	}
}

// What a generation before this one bounded and this one does not is lifted.
func TestLiftedDevices(t *testing.T) {
	for layout, want := range map[string]string{"v2": "8:16 rbps=max wbps=max riops=max wiops=max", "v1": "8:16 0"} {
		tr := fakeTrees(t, layout)
		if err := tr.make("/n"); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(tr.dir("io", "/n"), "io.max")
		if layout == "v1" {
			file = filepath.Join(tr.dir("blkio", "/n"), "blkio.throttle.write_bps_device")
		}
		if err := os.WriteFile(file, []byte("8:16 20\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := tr.limit("/n", vassal.Limits{}); err != nil {
			t.Error(err)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", layout, got, err, want)
		}
	}
}

// The real kernel takes every limit that its layout has, and shows it.
func TestEveryLimit(t *testing.T) {
	r := newRig(t)
	spec := r.spec("all", 1, "wait")
	swap := int64(10 << 20)
	spec.Limits = vassal.Limits{MemoryMax: 256 << 20, SwapMax: &swap, CPUMax: 1.5, CPUWeight: 50, PidsMax: 77}
	if dev := disk(t); dev != "" {
		spec.Limits.IOMax = []vassal.IOMax{{Device: dev, WriteBytes: 10 << 20, ReadOps: 500}}
	}
	want := map[string]string{"memory/memory.limit_in_bytes": "268435456", "memory/memory.memsw.limit_in_bytes": "278921216", "cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.shares": "512", "pids/pids.max": "77"}
	if r.m.trees.v2() {
		spec.Limits.MemoryHigh, spec.Limits.OOMGroup = 200<<20, true
		want = map[string]string{"memory/memory.max": "268435456", "memory/memory.high": "209715200", "memory/memory.swap.max": "10485760", "cpu/cpu.max": "150000 100000", "cpu/cpu.weight": "50", "pids/pids.max": "77"}
	}
	b := r.start(spec)
	b.awaitOutput("waiting")
	v, err := r.m.Vassal("all")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range want {
		controller, file, _ := strings.Cut(name, "/")
		got, err := os.ReadFile(filepath.Join(r.m.trees.dir(controller, v.cgroup()), file))
		if errors.Is(err, os.ErrNotExist) && strings.Contains(file, "sw") && !hostSwaps() {
			continue // a kernel that does not count swap, and a host that has none
		}
		if strings.TrimSpace(string(got)) != text {
			t.Errorf("%s: got %q, %v, want %s", file, got, err, text)
		}
	}
	if r.m.trees.v2() {
		got, err := os.ReadFile(filepath.Join(r.m.trees.unified, b.cgroup, "memory.oom.group"))
		if err != nil || string(got) != "1\n" {
			t.Errorf("memory.oom.group of the generation: %q, %v", got, err)
		}
	}
	for _, m := range spec.Limits.IOMax {
		file := map[bool]string{true: "io.max", false: "blkio.throttle.write_bps_device"}[r.m.trees.v2()]
		dir := r.m.trees.dir(map[bool]string{true: "io", false: "blkio"}[r.m.trees.v2()], v.cgroup())
		if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || !strings.Contains(string(got), m.Device+" ") || !strings.Contains(string(got), "10485760") {
			t.Errorf("%s: got %q, %v, want %s", file, got, err, m.Device)
		}
	}
}

// disk is a block device of this machine that holds a file system; empty: none.
func disk(t *testing.T) string {
	t.Helper()
	for _, name := range entries("/sys/block") {
		dev, err := os.ReadFile(filepath.Join("/sys/block", name, "dev"))
		size, _ := os.ReadFile(filepath.Join("/sys/block", name, "size"))
		if err == nil && strings.TrimSpace(string(size)) != "0" && !strings.HasPrefix(name, "loop") {
			return strings.TrimSpace(string(dev))
		}
	}
	return ""
}

// What limits refused and held up is counted, also after the generation.
func TestLimitsAreCounted(t *testing.T) {
	r := newRig(t)
	spec := r.spec("counted", 1, "forkbomb")
	spec.Limits.PidsMax, spec.Limits.CPUMax = 20, 0.05
	b := r.start(spec)
	v, err := r.m.Vassal("counted")
	if err != nil {
		t.Fatal(err)
	}
	met := func() Usage {
		u, err := v.Usage()
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	eventually(t, "forks are refused and the CPU is short", func() bool { u := met(); return u.PidsRefused > 0 && u.ThrottledUsec > 0 })
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	b.wait()
	if u := met(); u.PidsRefused == 0 || u.ThrottledUsec == 0 {
		t.Errorf("after its end: got %+v", u)
	}
	// Nobody refuses a vassal without such limits.
	r.start(r.spec("free", 1, "exit", "0")).wait()
	if v, err = r.m.Vassal("free"); err != nil {
		t.Fatal(err)
	}
	if u := met(); u.PidsRefused != 0 || u.ThrottledUsec != 0 {
		t.Errorf("without limits: got %+v", u)
	}
}

// eventually polls for what has no event.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
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
