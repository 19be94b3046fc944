package resolve

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"liege/emperor/quota"
	"liege/vassal"
)

// kernel is a host whose cgroup file systems are other ones.
type kernel struct {
	FS
	unified string // of cgroup.controllers; empty: v1
	v1      []string
}

func (k kernel) ReadFile(p string) ([]byte, error) {
	if p == cgroupRoot+"/cgroup.controllers" {
		if k.unified == "" {
			return nil, os.ErrNotExist
		}
		return []byte(k.unified), nil
	}
	return k.FS.ReadFile(p)
}

func (k kernel) Lstat(p string) (os.FileInfo, error) {
	if name, ok := strings.CutPrefix(p, cgroupRoot+"/"); ok && !slices.Contains(k.v1, name) {
		return nil, os.ErrNotExist
	}
	if strings.HasPrefix(p, cgroupRoot) {
		p = "/"
	}
	return k.FS.Lstat(p)
}

// What a kernel cannot limit is an error of its line, not less than asked for.
func TestControllers(t *testing.T) {
	at := func(n int) vassal.Origin { return vassal.Origin{Line: n} }
	all := vassal.Limits{MemoryMax: 1, MemoryMaxAt: at(1), MemoryHigh: 1, MemoryHighAt: at(2), OOMGroup: true, OOMGroupAt: at(3), CPUMax: 1, CPUMaxAt: at(4), CPUWeight: 1, CPUWeightAt: at(5), PidsMax: 1, PidsMaxAt: at(6), IOMax: []vassal.IOMax{{Path: "/", At: at(7)}}}
	for _, tc := range []struct {
		name string
		k    kernel
		want []int
	}{
		{"v2", kernel{unified: "cpu io memory pids"}, nil},
		{"v2 without memory and io", kernel{unified: "cpu pids"}, []int{1, 2, 3, 7}},
		{"v1", kernel{v1: []string{"memory", "cpu,cpuacct", "blkio", "pids"}}, []int{2, 3}},
		{"v1 without pids", kernel{v1: []string{"memory", "cpu", "blkio"}}, []int{2, 3, 6}},
	} {
		tc.k.FS = OS{}
		r := &resolver{host: Host{FS: tc.k}, cfg: vassal.Config{File: "a.ini"}, res: &Result{}}
		r.controllers(&all)
		var got []int
		for _, p := range r.res.Problems {
			if p.Code != vassal.CodeNoLimit || p.Severity != vassal.Error {
				t.Errorf("%s: %+v", tc.name, p)
			}
			got = append(got, p.Line)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: errors of lines %v, want %v", tc.name, got, tc.want)
		}
	}
}

// A path is bounded by its disk; what lies on none is an error.
func TestDevice(t *testing.T) {
	r := &resolver{host: Host{FS: OS{}}, res: &Result{}}
	for _, p := range []string{"/proc", "/dev/null", "/no/such"} {
		if dev, err := r.device(p); err == nil {
			t.Errorf("%s: got %s, want an error", p, dev)
		}
	}
	if _, err := r.device(""); err == nil {
		t.Error("no path and no directory: got nil, want an error")
	}
	var st syscall.Stat_t
	if err := syscall.Stat("/", &st); err != nil {
		t.Fatal(err)
	}
	if unix.Major(st.Dev) == 0 {
		return // an overlay: there is no disk to be found
	}
	got, err := r.device("/")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join("/sys/dev/block", got, "partition")); err == nil {
		t.Errorf("/: %s is a partition", got)
	}
	if _, err := os.Stat(filepath.Join("/sys/dev/block", got)); err != nil {
		t.Error(err)
	}
}

// A quota that cannot be kept is an error of its line. One for everybody is no
// mistake of a vassal that writes nothing to disk.
func TestQuota(t *testing.T) {
	lacks := func(string) error { return &quota.Missing{Why: "no quotas there", Hint: "mount it anew"} }
	holds := func(string) error { return nil }
	const alone = "served by hand"
	line, everybody := vassal.Origin{Line: 4}, vassal.Origin{Layer: vassal.Defaults}
	for _, tc := range []struct {
		name     string
		asks     func(string) error
		at       vassal.Origin
		writable bool
		seccomp  string
		want     string // severity of the problem
		kept     bool
	}{
		{"held", holds, line, true, "", "", true},
		{"not held", lacks, line, true, "", "error", true},
		{"nobody asks", nil, line, true, "", "", true},
		{"nothing to write", holds, line, false, "", "error", false},
		{"nothing to write, for everybody", lacks, everybody, false, "", "", false},
		{"no filter", holds, line, true, "off", "warning", true},
		{"strict", holds, line, true, "strict", "", true},
		{alone, holds, line, true, "", "warning", false},
	} {
		r := &resolver{host: Host{Quota: tc.asks, Alone: tc.name == alone}, cfg: vassal.Config{File: "a.ini", Guard: vassal.Guard{Seccomp: tc.seccomp}},
			res: &Result{Dir: "/srv/shop/app", Binds: []Bind{{Source: "/srv/shop", Dir: true, Writable: tc.writable}}}}
		l := vassal.Limits{DiskQuota: 1 << 30, DiskQuotaAt: tc.at}
		r.quota(&l)
		got := ""
		for _, p := range r.res.Problems {
			got += string(p.Severity)
			if p.Code != vassal.CodeNoLimit || p.Key != "disk-quota" || p.Line != tc.at.Line || p.Severity == vassal.Error && p.Hint == "" {
				t.Errorf("%s: %+v", tc.name, p)
			}
		}
		if got != tc.want || l.DiskQuota > 0 != tc.kept {
			t.Errorf("%s: %q, quota %d; want %q, kept %v", tc.name, got, l.DiskQuota, tc.want, tc.kept)
		}
	}
}
