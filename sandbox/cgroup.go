package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// trees are the cgroup hierarchies of the host: one cgroup2 tree (v2), v1
// hierarchies and a cgroup2 tree without controllers (hybrid), or v1 alone.
// A cgroup is named by its inner path, the same in every hierarchy.
type trees struct {
	unified string            // mount point of the cgroup2 tree; empty: none
	v1      map[string]string // mount point of each v1 controller; empty on v2
	mounts  []string          // every mount point once
}

const cgroupRoot = "/sys/fs/cgroup"

func findTrees() (*trees, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find the cgroup file systems: %w", err)
	}
	t := &trees{v1: map[string]string{}}
	for line := range strings.Lines(string(text)) {
		head, tail, _ := strings.Cut(line, " - ")
		h, f := strings.Fields(head), strings.Fields(tail)
		if len(h) < 5 || len(f) < 3 || h[4] != cgroupRoot && filepath.Dir(h[4]) != cgroupRoot {
			continue
		}
		switch f[0] {
		case "cgroup2":
			t.unified = h[4]
		case "cgroup":
			for c := range strings.SplitSeq(f[2], ",") {
				t.v1[c] = h[4]
			}
		default:
			continue
		}
		if !slices.Contains(t.mounts, h[4]) {
			t.mounts = append(t.mounts, h[4])
		}
	}
	if len(t.mounts) == 0 {
		return nil, fmt.Errorf("%w: no cgroup file system is mounted below %s", ErrNotSupported, cgroupRoot)
	}
	if t.unified != "" && len(t.mounts) == 1 {
		t.v1 = nil
	}
	return t, nil
}

// v2 tells whether the controllers are on the cgroup2 tree.
func (t *trees) v2() bool { return len(t.v1) == 0 }

// dir is where a controller's files of the cgroup are; empty: there is no such
// controller.
func (t *trees) dir(controller, inner string) string {
	if t.v2() {
		return filepath.Join(t.unified, inner)
	}
	if m := t.v1[controller]; m != "" {
		return filepath.Join(m, inner)
	}
	return ""
}

// procsDir is the hierarchy in which the processes of a cgroup are looked up.
// libcontainer puts each process into all of them.
func (t *trees) procsDir(inner string) string {
	if t.unified != "" {
		return filepath.Join(t.unified, inner)
	}
	return t.dir("devices", inner)
}

// delegated tells whether systemd leaves what is below the cgroup to us: it
// marks those of units with Delegate=yes.
func (t *trees) delegated(inner string) bool {
	for _, m := range t.mounts {
		mark := make([]byte, 1)
		n, err := unix.Getxattr(filepath.Join(m, inner), "trusted.delegate", mark)
		if err == nil && n == 1 && mark[0] == '1' {
			return true
		}
	}
	return false
}

func (t *trees) make(inner string) error {
	for _, m := range t.mounts {
		if err := os.MkdirAll(filepath.Join(m, inner), 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	return nil
}

// makeBelow makes the cgroup inner below one that libcontainer made. A cpuset of
// v1 has no CPUs by itself, and takes no process then.
func (t *trees) makeBelow(inner string) error {
	if err := errors.Join(t.make(inner), t.limitSockets(inner, 0)); err != nil {
		return err
	}
	dir := t.dir("cpuset", inner)
	if t.v2() || dir == "" {
		return nil
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		val, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
		if err == nil {
			err = t.put("cpuset", filepath.Join(dir, file), string(val))
		}
		if err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	return nil
}

// removeTries bounds the wait for the kernel to see that a cgroup is empty: a
// process is counted until its last thread has left.
const removeTries = 200

// remove removes the cgroup and those below it in every hierarchy. Processes
// in it make it fail.
func (t *trees) remove(inner string) error {
	var errs []error
	for _, m := range t.mounts {
		dirs := below(filepath.Join(m, inner))
		slices.Reverse(dirs)
		for _, d := range dirs {
			if err := rmdir(d); err != nil {
				errs = append(errs, fmt.Errorf("remove cgroup: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// prune removes the cgroup, and those above it, from the hierarchies in which
// only we have made it: systemd keeps a unit in some of v1's, not in all. What
// holds a process or another cgroup stays, and what is where processes are
// looked up: without it there is no unit.
func (t *trees) prune(inner string) {
	for _, m := range t.mounts {
		if m == t.procsDir("/") {
			continue
		}
		for d := inner; d != "/"; d = filepath.Dir(d) {
			if unix.Rmdir(filepath.Join(m, d)) != nil {
				break
			}
		}
	}
}

func rmdir(dir string) error {
	var err error
	for range removeTries {
		err = unix.Rmdir(dir)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EINTR):
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		time.Sleep(5 * time.Millisecond)
	}
	return &os.PathError{Op: "rmdir", Path: dir, Err: err}
}

// below lists dir and the directories below it, parents first.
func below(dir string) []string {
	var dirs []string
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil // what vanishes while we look is gone
	})
	return dirs
}

// pids lists the processes in the cgroup and below it.
func (t *trees) pids(inner string) []int {
	var pids []int
	for _, d := range below(t.procsDir(inner)) {
		text, err := os.ReadFile(filepath.Join(d, "cgroup.procs"))
		if err != nil {
			continue
		}
		for f := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// kill sends SIGKILL to every process of the cgroup. With cgroup.kill (Linux
// 5.14) none can escape by forking; without it whoever waits for the cgroup to
// be empty calls kill again.
func (t *trees) kill(inner string) error {
	if t.unified != "" {
		err := os.WriteFile(filepath.Join(t.unified, inner, "cgroup.kill"), []byte("1"), 0)
		if err == nil {
			return nil
		}
		if _, serr := os.Stat(filepath.Join(t.unified, inner)); os.IsNotExist(serr) {
			return nil
		}
	}
	var errs []error
	for _, pid := range t.pids(inner) {
		if err := t.killOne(inner, pid); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// killOne kills pid if it still is in the cgroup once a descriptor of it is
// held: a number may have been given to another process meanwhile.
func (t *trees) killOne(inner string, pid int) error {
	return t.signalOne(inner, pid, unix.SIGKILL)
}

func (t *trees) signalOne(inner string, pid int, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // it is gone
	}
	defer unix.Close(fd)
	if !slices.Contains(t.pids(inner), pid) {
		return nil
	}
	err = unix.PidfdSendSignal(fd, sig, nil, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", pid, err)
	}
	return nil
}

// empty kills until no process is left, for as long as that takes: a process
// in the kernel's uninterruptible sleep cannot be killed.
func (t *trees) empty(inner string) {
	for wait := time.Millisecond; len(t.pids(inner)) > 0; wait = min(2*wait, 100*time.Millisecond) {
		_ = t.kill(inner) // tried again until it is empty
		time.Sleep(wait)
	}
}

// sweepTime is how long Sweep waits for all that it kills, and sweepLeast for
// each cgroup even after that.
const (
	sweepTime  = 5 * time.Second
	sweepLeast = 200 * time.Millisecond
)

// emptyBy is empty until end, or sweepLeast if that is later.
func (t *trees) emptyBy(inner string, end time.Time) error {
	if least := time.Now().Add(sweepLeast); end.Before(least) {
		end = least
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		pids := t.pids(inner)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("cgroup %s: %d processes do not die: %v", inner, len(pids), pids)
		}
		_ = t.kill(inner) // tried again until it is empty
		time.Sleep(wait)
	}
}

// enable hands the controllers on to the children of a v2 cgroup. Which are
// missing shows when a limit needs one.
func (t *trees) enable(inner string) {
	if !t.v2() {
		return
	}
	for _, c := range []string{"cpu", "memory", "pids", "io"} {
		_ = os.WriteFile(filepath.Join(t.unified, inner, "cgroup.subtree_control"), []byte("+"+c), 0)
	}
}

// enableAbove hands the controllers on from the root of a v2 tree down to the
// children of the cgroup. systemd has done so for a unit with Delegate=yes; on
// a freshly booted host the root has memory and pids only.
func (t *trees) enableAbove(inner string) {
	if up := filepath.Dir(inner); up != inner {
		t.enableAbove(up)
	}
	t.enable(inner)
}

// usage reads the kernel's counters of the cgroup. A controller that is
// missing counts nothing.
func (t *trees) usage(inner string) (Usage, error) {
	if _, err := os.Stat(t.procsDir(inner)); err != nil {
		return Usage{}, fmt.Errorf("usage: %w", err)
	}
	u := Usage{
		Pids:        readInt(t.dir("pids", inner), "pids.current"),
		PidsRefused: readKey(t.dir("pids", inner), "pids.events", "max"),
	}
	if t.v2() {
		d := filepath.Join(t.unified, inner)
		u.MemoryBytes = readInt(d, "memory.current")
		u.OOMKills = readKey(d, "memory.events", "oom_kill")
		u.MemorySlowed = readKey(d, "memory.events", "high")
		u.CPUUsec = readKey(d, "cpu.stat", "usage_usec")
		u.ThrottledUsec = readKey(d, "cpu.stat", "throttled_usec")
		return u, nil
	}
	u.MemoryBytes = readInt(t.dir("memory", inner), "memory.usage_in_bytes")
	u.OOMKills = readKey(t.dir("memory", inner), "memory.oom_control", "oom_kill")
	u.CPUUsec = readInt(t.dir("cpuacct", inner), "cpuacct.usage") / 1000
	u.ThrottledUsec = readKey(t.dir("cpu", inner), "cpu.stat", "throttled_time") / 1000
	return u, nil
}

func readInt(dir, file string) int64 {
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil || dir == "" {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n
}

func readKey(dir, file, key string) int64 {
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil || dir == "" {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if k, v, _ := strings.Cut(strings.TrimSpace(line), " "); k == key {
			n, _ := strconv.ParseInt(v, 10, 64)
			return n
		}
	}
	return 0
}

// own is the cgroup this process is in: on the cgroup2 tree if there is one,
// else on systemd's v1 hierarchy; "/" where it is in none.
func (t *trees) own() (string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find the Emperor's cgroup: %w", err)
	}
	named := "/"
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(f) != 3:
		case f[1] == "" && t.unified != "":
			return f[2], nil
		case f[1] == "name=systemd":
			named = f[2]
		}
	}
	return named, nil
}
