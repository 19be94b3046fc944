package resolve

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"liege/emperor/quota"
	"liege/sandbox/seccomp"
	"liege/vassal"
)

// noDump is RLIMIT_CORE without core dumps. Of 0 the kernel still starts the
// helper of a core_pattern that begins with "|", as root and outside of the
// sandbox; of 1 neither that nor a file comes of it (core(5)).
const noDump = 1

// rlimits are the core's: the defaults, and what the file says instead.
func (r *resolver) rlimits() []vassal.Rlimit {
	all := []vassal.Rlimit{{Resource: "core", Value: noDump}, {Resource: "nofile", Value: fileLimit()}, {Resource: "memlock", Value: maxLocked}}
	for _, own := range r.cfg.Rlimits {
		all = slices.DeleteFunc(all, func(l vassal.Rlimit) bool { return l.Resource == own.Resource })
		switch {
		case own.Resource == "core":
			own.Value = max(own.Value, noDump)
		case own.Value == 0:
			continue // nothing asked for, which is what there is
		}
		all = append(all, own)
	}
	return all
}

// limits asks the host for what the limits name: controllers and devices.
func (r *resolver) limits() {
	l := &r.res.Config.Limits
	if r.host.Caller == nil {
		r.controllers(l)
	}
	r.quota(l)
	l.IOMax = slices.Clone(l.IOMax)
	for i := range l.IOMax {
		m := &l.IOMax[i]
		dev, err := r.device(m.Path)
		if err != nil {
			r.fail(vassal.CodeNoLimit, m.At, "io-max", err.Error(), "io-max = /dev/sda wbps=20M, or a path on a disk")
			continue
		}
		if slices.ContainsFunc(l.IOMax[:i], func(o vassal.IOMax) bool { return o.Device == dev }) {
			r.fail(vassal.CodeNoLimit, m.At, "io-max", fmt.Sprintf("is about device %s, as a line before it", dev), "write all keys into one line")
		}
		m.Device = dev
	}
}

// quota asks whether the app's directory can be bounded. A quota for everybody
// is no mistake of a vassal that writes nothing to disk.
func (r *resolver) quota(l *vassal.Limits) {
	for _, q := range []struct {
		key string
		n   *int64
		at  vassal.Origin
	}{{"disk-quota", &l.DiskQuota, l.DiskQuotaAt}, {"inode-quota", &l.InodeQuota, l.InodeQuotaAt}} {
		if *q.n == 0 || r.host.Caller != nil && r.host.Caller.UID != 0 { // the latter is told so
			continue
		}
		if _, ok := r.res.Written(); !ok {
			if *q.n = 0; q.at.Layer != vassal.Defaults {
				r.fail(vassal.CodeNoLimit, q.at, q.key, "bounds nothing: the vassal has no directory of its own that it can write to", "chdir = /srv/shop")
			}
			continue
		}
		if g := r.cfg.Guard.Seccomp; g != "" && g != seccomp.DefaultProfile && g != seccomp.StrictProfile {
			r.warn(vassal.CodeNoLimit, q.at, q.key, fmt.Sprintf("with seccomp = %s the app may be able to give its files another project, and to leave the quota", g), "seccomp = default")
		}
		if r.host.Alone { // the numbers that files keep are the Emperor's to give
			*q.n = 0
			r.warn(vassal.CodeNoLimit, q.at, q.key, "not set by liege serve: a directory keeps what the Emperor gave it", "")
			continue
		}
		if r.host.Quota == nil {
			continue // nobody asks
		}
		if err := r.host.Quota(r.res.Dir); err != nil {
			hint := ""
			if m, ok := errors.AsType[*quota.Missing](err); ok {
				hint = m.Hint
			}
			r.fail(vassal.CodeNoLimit, q.at, q.key, fmt.Sprintf("%s cannot be bounded: %v", r.res.Dir, err), hint)
		}
	}
}

// Written is the bind by which the app can write to its own directory; ok is
// false if it cannot.
func (r *Result) Written() (b Bind, ok bool) {
	if r.Dir == "" {
		return b, false
	}
	for _, c := range r.Binds { // parents before children
		if c.Dir && within(r.Dir, c.Source) {
			b = c
		}
	}
	return b, b.Writable
}

const cgroupRoot = "/sys/fs/cgroup"

// sys answers about the kernel.
func (r *resolver) sys() FS {
	if r.host.Sys != nil {
		return r.host.Sys
	}
	return r.host.FS
}

// controllers says which limits this host's kernel cannot keep. Where there is
// no cgroup file system to ask, the start says it.
func (r *resolver) controllers(l *vassal.Limits) {
	unified, err := r.sys().ReadFile(cgroupRoot + "/cgroup.controllers")
	v2 := err == nil
	if _, err := r.sys().Lstat(cgroupRoot); err != nil {
		return
	}
	have := func(names ...string) bool {
		if v2 {
			return slices.Contains(strings.Fields(string(unified)), names[0])
		}
		return slices.ContainsFunc(names, func(n string) bool {
			_, err := r.sys().Lstat(path.Join(cgroupRoot, n))
			return err == nil
		})
	}
	for _, x := range []struct {
		set    bool
		at     vassal.Origin
		key    string
		only   bool // cgroup v2 only
		names  []string
		remedy string
	}{
		{l.MemoryMax > 0, l.MemoryMaxAt, "memory-max", false, []string{"memory"}, "cgroup_enable=memory on the kernel's command line"},
		{l.MemoryHigh > 0, l.MemoryHighAt, "memory-high", true, []string{"memory"}, "memory-max alone"},
		{l.OOMGroup, l.OOMGroupAt, "oom-group", true, []string{"memory"}, "remove the line"},
		{l.CPUMax > 0, l.CPUMaxAt, "cpu-max", false, []string{"cpu", "cpu,cpuacct"}, ""},
		{l.CPUWeight > 0, l.CPUWeightAt, "cpu-weight", false, []string{"cpu", "cpu,cpuacct"}, ""},
		{l.PidsMax > 0, l.PidsMaxAt, "pids-max", false, []string{"pids"}, ""},
		{len(l.IOMax) > 0, ioAt(l), "io-max", false, []string{"io", "blkio"}, ""},
	} {
		switch {
		case !x.set:
		case x.only && !v2:
			r.fail(vassal.CodeNoLimit, x.at, x.key, "this host has cgroup v1, where the kernel has no such limit", x.remedy)
		case !have(x.names...):
			r.fail(vassal.CodeNoLimit, x.at, x.key, fmt.Sprintf("this host has no %s controller", x.names[0]), x.remedy)
		}
	}
}

func ioAt(l *vassal.Limits) vassal.Origin {
	if len(l.IOMax) > 0 {
		return l.IOMax[0].At
	}
	return vassal.Origin{}
}

// device is the disk that p is, or lies on, as MAJOR:MINOR: limits are a
// disk's, not a partition's.
func (r *resolver) device(p string) (string, error) {
	what := p
	if what == "" {
		if what = r.res.Dir; what == "" {
			return "", fmt.Errorf("names no path, and the vassal has no directory of its own")
		}
	}
	w, err := walk(r.host.FS, r.abs(what))
	if err != nil {
		return "", fmt.Errorf("%s", reason(what, err))
	}
	st, ok := w.info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", fmt.Errorf("%s: its device is not known", what)
	}
	dev := st.Dev
	switch {
	case w.info.Mode()&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice:
		dev = st.Rdev
	case w.info.Mode()&fs.ModeDevice != 0:
		return "", fmt.Errorf("%s is not a block device", what)
	}
	if unix.Major(dev) == 0 {
		return "", fmt.Errorf("%s lies on no block device: its file system is in memory, on a network, or over several disks", what)
	}
	id := fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
	sys := "/sys/dev/block/" + id
	if _, err := r.sys().ReadFile(sys + "/partition"); err != nil {
		return id, nil
	}
	whole, err := r.sys().ReadFile(sys + "/../dev")
	if err != nil {
		return "", fmt.Errorf("%s: the disk of partition %s is not known: %w", what, id, err)
	}
	major, minor, ok := strings.Cut(strings.TrimSpace(string(whole)), ":")
	if _, err := strconv.Atoi(major + minor); err != nil || !ok {
		return "", fmt.Errorf("%s: the disk of partition %s is not known", what, id)
	}
	return major + ":" + minor, nil
}
