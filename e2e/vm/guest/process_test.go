package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// spaces are the namespaces that each vassal has of its own.
var spaces = []string{"mnt", "pid", "ipc", "uts", "net", "cgroup"}

// posture is what the kernel shows of a process's rights.
type posture struct {
	uid, gid, groups, caps, nnp, seccomp, context string
	spaces                                        map[string]string
}

func postureOf(t *testing.T, pid int) posture {
	t.Helper()
	s := statusOf(t, pid)
	p := posture{
		uid: s["Uid"], gid: s["Gid"], groups: s["Groups"], nnp: s["NoNewPrivs"], seccomp: s["Seccomp"],
		caps:    strings.Join([]string{s["CapInh"], s["CapPrm"], s["CapEff"], s["CapBnd"], s["CapAmb"]}, " "),
		context: readProc(t, pid, "attr/current"), spaces: map[string]string{},
	}
	for _, ns := range spaces {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		if err != nil {
			t.Fatal(err)
		}
		p.spaces[ns] = to
	}
	return p
}

func statusOf(t *testing.T, pid int) map[string]string {
	t.Helper()
	fields := map[string]string{}
	for line := range strings.Lines(readProc(t, pid, "status")) {
		key, value, _ := strings.Cut(line, ":")
		fields[key] = strings.Join(strings.Fields(value), " ")
	}
	return fields
}

func readProc(t *testing.T, pid int, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(string(b), "\x00\n")
}

// family is a process and all its descendants.
func family(t *testing.T, root int) []int {
	t.Helper()
	parent := map[int]int{}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		stat, err := os.ReadFile(dir + "/stat")
		if err != nil {
			continue // it is gone
		}
		// pid (comm) state ppid: comm may hold anything.
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		pid, _ := strconv.Atoi(filepath.Base(dir))
		parent[pid], _ = strconv.Atoi(f[1])
	}
	kin := []int{root}
	for i := 0; i < len(kin); i++ {
		for pid, up := range parent {
			if up == kin[i] {
				kin = append(kin, pid)
			}
		}
	}
	slices.Sort(kin)
	return kin
}

// cgroupDir is where the limits of a controller are for the cgroup that
// "liege status" names.
func cgroupDir(controller, cgroup string) string {
	if cgroupV1() {
		return filepath.Join("/sys/fs/cgroup", controller, cgroup)
	}
	return filepath.Join("/sys/fs/cgroup", cgroup)
}

// cgroupV1 tells whether the controllers are on cgroup v1.
func cgroupV1() bool {
	_, err := os.Stat("/sys/fs/cgroup/memory")
	return err == nil
}
