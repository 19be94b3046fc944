package testenv

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// settle is how long what a test made may take to be gone after its end: the
// kernel frees namespaces and cgroups late.
const settle = 5 * time.Second

// looks is how often it is looked for at least: on a busy machine one look at
// all cgroups takes seconds.
const looks = 5

// Leaks compares, at the end of t and after all its other cleanups, with what
// was there when it was called: goroutines, descriptors of this process,
// processes below it and their namespaces, mounts below t's temporary
// directories, and cgroups in all hierarchies. Call it first in a test, and
// not in a parallel one. Other tests may run on the machine at the same time:
// cgroups of a node where another live process is the Emperor are not ours.
//
// The process becomes a subreaper, so that an orphan of the test does not
// escape the search.
func Leaks(t testing.TB) {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatalf("become a subreaper: %v", err)
	}
	mine := filepath.Join(os.TempDir(), topName(t.Name()))
	before := takeSnapshot(mine)
	t.Cleanup(func() {
		deadline := time.Now().Add(settle)
		for n := 1; ; n++ {
			left := before.compare(takeSnapshot(mine))
			if len(left) == 0 {
				return
			}
			if n >= looks && time.Now().After(deadline) {
				t.Errorf("left behind:\n\t%s", strings.Join(left, "\n\t"))
				return
			}
			time.Sleep(10 * time.Millisecond) // the kernel gives no event for most of these
		}
	})
}

func topName(test string) string {
	top, _, _ := strings.Cut(test, "/")
	return top
}

type snapshot struct {
	stacks []string        // of goroutines
	things map[string]bool // "kind what"
}

func takeSnapshot(mine string) snapshot {
	s := snapshot{stacks: Goroutines(), things: map[string]bool{}}
	for fd, to := range openFDs() {
		s.things[fmt.Sprintf("fd %s -> %s", fd, to)] = true
	}
	kin := descendants()
	for pid, what := range kin {
		s.things[fmt.Sprintf("process %d %s", pid, what)] = true
		for _, ns := range namespaces(pid) {
			s.things["namespace "+ns] = true
		}
	}
	for _, m := range mountsBelow(mine) {
		s.things["mount "+m] = true
	}
	for _, c := range cgroups(kin) {
		s.things["cgroup "+c] = true
	}
	return s
}

func (s snapshot) compare(now snapshot) []string {
	var left []string
	for thing := range now.things {
		if !s.things[thing] {
			left = append(left, thing)
		}
	}
	slices.Sort(left)
	if len(now.stacks) > len(s.stacks) {
		left = append(left, fmt.Sprintf("%d goroutines, were %d:\n%s", len(now.stacks), len(s.stacks), strings.Join(now.stacks, "\n\n")))
	}
	return left
}

// Goroutines are the stacks of all goroutines but the runtime's own. NumGoroutine
// counts for seconds what runs cleanups of dead objects too.
func Goroutines() []string {
	for size := 1 << 16; ; size *= 2 {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, true); n < size {
			return strings.Split(strings.TrimSpace(string(buf[:n])), "\n\n")
		}
	}
}

// openFDs lists this process's descriptors, but those made when first needed
// and kept: of the runtime's poller, and libcontainer's handles of procfs and
// of the cgroup root.
func openFDs() map[string]string {
	fds := map[string]string{}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || slices.Contains([]string{"anon_inode:[eventpoll]", "anon_inode:[eventfd]", "/", "/sys/fs/cgroup"}, to) || strings.HasPrefix(to, "/proc/") && strings.HasSuffix(to, "/fd") {
			continue
		}
		fds[e.Name()] = to
	}
	return fds
}

// Alive tells whether process pid is there and not dead: nobody may have waited
// for a dead one yet, so that signals still reach it.
func Alive(pid int) bool {
	_, _, alive := look(pid)
	return alive
}

// look reads a process's "pid (comm)" and its parent (proc_pid_stat(5)).
func look(pid int) (what string, ppid int, alive bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	i := bytes.LastIndexByte(stat, ')') // comm may hold anything
	if err != nil || i < 0 {
		return "", 0, false
	}
	f := strings.Fields(string(stat[i+1:]))
	if len(f) < 2 || f[0] == "Z" || f[0] == "X" {
		return "", 0, false
	}
	ppid, _ = strconv.Atoi(f[1])
	return string(stat[:i+1]), ppid, true
}

// descendants are the live processes below this one.
func descendants() map[int]string {
	type proc struct {
		ppid int
		what string
	}
	all := map[int]proc{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if what, ppid, alive := look(pid); alive {
			all[pid] = proc{ppid, what}
		}
	}
	kin := map[int]string{}
	self := os.Getpid()
	for pid, p := range all {
		for up := p.ppid; up > 1; up = all[up].ppid {
			if up == self {
				kin[pid] = p.what
				break
			}
		}
	}
	return kin
}

func namespaces(pid int) []string {
	var out []string
	for _, ns := range []string{"mnt", "pid", "ipc", "uts", "net", "cgroup", "user"} {
		if to, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns)); err == nil {
			out = append(out, to)
		}
	}
	return out
}

func mountsBelow(prefix string) []string {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	var out []string
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], prefix) {
			out = append(out, f[4])
		}
	}
	return out
}

// cgroups lists every cgroup below a Manager's node: /liege-XXXXXXXX, or
// below the cgroup this process is in.
func cgroups(kin map[int]string) []string {
	own := ownCgroups()
	var out []string
	for _, root := range append(slices.Collect(maps.Keys(v1Mounts())), unifiedMount()) {
		if root == "" {
			continue
		}
		nodes, _ := filepath.Glob(root + "/liege-*")
		if o := own[root]; o != "" && o != "/" && !strings.HasPrefix(o, "/liege-") {
			nodes = append(nodes, filepath.Join(root, o))
		}
		for _, n := range nodes {
			if foreign(filepath.Base(n), kin) {
				continue
			}
			_ = filepath.WalkDir(n, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					out = append(out, path)
				}
				return nil // what vanishes while we look is not left behind
			})
		}
	}
	return out
}

// foreign tells whether a process that is neither this one nor below it is
// the Emperor of the node.
func foreign(node string, kin map[int]string) bool {
	text, _ := os.ReadFile(filepath.Join(unifiedMount(), node, "emperor", "cgroup.procs"))
	for f := range strings.FieldsSeq(string(text)) {
		pid, _ := strconv.Atoi(f)
		if _, ours := kin[pid]; pid != os.Getpid() && !ours {
			return true
		}
	}
	return false
}

// ownCgroups maps a hierarchy's mount point to this process's cgroup there.
func ownCgroups() map[string]string {
	v1, out := v1Mounts(), map[string]string{}
	text, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		if f[1] == "" {
			out[unifiedMount()] = f[2]
		}
		for root, opts := range v1 {
			if f[1] != "" && slices.Contains(opts, strings.Split(f[1], ",")[0]) {
				out[root] = f[2]
			}
		}
	}
	return out
}

func v1Mounts() map[string][]string { return cgroupMounts("cgroup") }

func unifiedMount() string {
	for m := range cgroupMounts("cgroup2") {
		return m
	}
	return ""
}

// cgroupMounts maps the mount points of a cgroup file system below
// /sys/fs/cgroup to their super options.
func cgroupMounts(fstype string) map[string][]string {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	out := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		head, tail, _ := strings.Cut(line, " - ")
		h, f := strings.Fields(head), strings.Fields(tail)
		if len(h) > 4 && len(f) > 2 && f[0] == fstype && strings.HasPrefix(h[4], "/sys/fs/cgroup") {
			out[h[4]] = strings.Split(f[2], ",")
		}
	}
	return out
}
