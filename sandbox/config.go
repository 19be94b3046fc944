package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // without it a device rule is an error
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"liege/sandbox/stage"
	"liege/vassal"
)

// config is the Spec in libcontainer's words. No seccomp, no uid and no
// no_new_privs: those are the stage's, after its hooks.
func (st *starting) config() (*configs.Config, error) {
	caps, err := ownCaps()
	if err != nil {
		return nil, err
	}
	spaces := configs.Namespaces{
		{Type: configs.NEWNS}, {Type: configs.NEWPID}, {Type: configs.NEWIPC},
		{Type: configs.NEWUTS}, {Type: configs.NEWCGROUP},
	}
	var networks []*configs.Network
	if !st.spec.HostNet {
		spaces = append(spaces, configs.Namespace{Type: configs.NEWNET})
		networks = []*configs.Network{{Type: "loopback"}}
	}
	var offsets map[string]specs.LinuxTimeOffset
	if st.spec.TimeNS {
		spaces = append(spaces, configs.Namespace{Type: configs.NEWTIME})
		if offsets, err = fromNow(); err != nil {
			return nil, err
		}
	}
	var uids, gids []configs.IDMap
	if m := st.spec.Users; m != nil {
		spaces = append(spaces, configs.Namespace{Type: configs.NEWUSER})
		uids, gids = idMap(m.Root, m.Users), idMap(m.Root, m.Groups)
	}
	devs, rules := deviceNodes()
	return &configs.Config{
		UIDMappings:     uids,
		GIDMappings:     gids,
		TimeOffsets:     offsets,
		Rootfs:          st.root,
		RootPropagation: unix.MS_PRIVATE | unix.MS_REC,
		Mounts:          st.mounts(),
		Devices:         devs,
		Hostname:        st.spec.Hostname,
		Namespaces:      spaces,
		Networks:        networks,
		Capabilities:    &configs.Capabilities{Bounding: caps, Effective: caps, Permitted: caps},
		MountLabel:      st.spec.MountLabel,
		ProcessLabel:    st.spec.Plan.Own,
		MaskPaths:       append(append([]string{}, masked...), st.spec.Masked...),
		ReadonlyPaths:   readonly,
		Cgroups: &cgroups.Cgroup{
			Path:      st.box.cgroup,
			Resources: st.resources(rules),
		},
		Hooks: configs.Hooks{
			configs.CreateRuntime:   {configs.NewFunctionHook(st.created)},
			configs.CreateContainer: st.jailHooks(),
		},
	}, nil
}

// idMap maps root to an id of the host, and others to themselves.
func idMap(root int, same []int) []configs.IDMap {
	out := []configs.IDMap{{ContainerID: 0, HostID: int64(root), Size: 1}}
	for _, id := range same {
		out = append(out, configs.IDMap{ContainerID: int64(id), HostID: int64(id), Size: 1})
	}
	return out
}

// fromNow are the offsets that make the clocks since boot begin now: how long
// the host runs is no business of a vassal's.
func fromNow() (map[string]specs.LinuxTimeOffset, error) {
	out := map[string]specs.LinuxTimeOffset{}
	for name, clock := range map[string]int32{"monotonic": unix.CLOCK_MONOTONIC, "boottime": unix.CLOCK_BOOTTIME} {
		var now unix.Timespec
		if err := unix.ClockGettime(clock, &now); err != nil {
			return nil, os.NewSyscallError("clock_gettime", err)
		}
		out[name] = specs.LinuxTimeOffset{Secs: -now.Sec}
	}
	return out, nil
}

// resources are the limits of the generation's own cgroup. Those in force are
// the vassal's (CONTRACT 18), but for a bare generation, which has its own.
// They are repeated here because this cgroup is what the app sees and what its
// runtime sizes itself by; not cpu-max on v1, where a cgroup's quota cannot be
// set below that of a child, so that an old generation would keep a new one
// from having less.
func (st *starting) resources(rules []*devices.Rule) *cgroups.Resources {
	l := st.spec.Limits
	r := &cgroups.Resources{Devices: rules, Memory: l.MemoryMax}
	if l.PidsMax > 0 {
		r.PidsLimit = &l.PidsMax
	}
	if l.OOMGroup && st.m.trees.v2() {
		r.Unified = map[string]string{"memory.oom.group": "1"}
	}
	if l.CPUMax > 0 && st.m.trees.v2() {
		r.CpuQuota, r.CpuPeriod = int64(l.CPUMax*cpuPeriod), cpuPeriod
	}
	return r
}

// created runs in the Emperor when the mounts are made and the child waits.
func (st *starting) created(state *specs.State) error {
	if err := st.attachBinds(state.Pid); err != nil {
		return err
	}
	if err := st.sealRoot(); err != nil {
		return err
	}
	box := st.box
	err := st.m.trees.limitSockets(box.cgroup, st.spec.Limits.MemoryMax)
	if err != nil {
		return err
	}
	if box.spaces, err = namespaces(state.Pid); err != nil {
		return err
	}
	if box.start, err = startTime(state.Pid); err != nil {
		return err
	}
	box.pid = state.Pid
	if st.spec.Stdout != nil {
		box.logOwner = &unix.Stat_t{}
		if err := unix.Fstat(int(st.spec.Stdout.Fd()), box.logOwner); err != nil {
			return os.NewSyscallError("fstat", err)
		}
	}
	// The record names the line's addresses, so that whoever comes after a
	// killed Emperor finds what there is of it.
	if err := st.openLine(); err != nil {
		return err
	}
	if st.spec.Created != nil {
		if err := st.spec.Created(box.Record()); err != nil {
			return err
		}
	}
	if err := st.attachLine(state.Pid); err != nil {
		return err
	}
	if err := st.openGate(state.Pid); err != nil {
		return err
	}
	return st.emperorHooks(vassal.AsEmperor, fmt.Sprintf("UWSGI_VASSAL_PID=%d", state.Pid), rootEnv(st.root), "LIEGE_CGROUP="+box.cgroup)
}

// The usual masks of a container's /proc and /sys.
var (
	masked = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
		"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
		"/proc/timer_stats", "/proc/kallsyms", "/proc/kmsg",
		"/sys/devices/virtual/powercap", "/sys/firmware", "/sys/kernel/debug", "/sys/kernel/tracing",
	}
	readonly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

const (
	nothing = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	tmpfsRO = nothing | unix.MS_RDONLY

	maxTerminals = 256 // of one generation
)

// mounts is what libcontainer mounts in the composed root, in that order; on top
// of it come the binds (CONTRACT 4).
func (st *starting) mounts() []*configs.Mount {
	tty := "newinstance,ptmxmode=0666,mode=0620,gid=5"
	if st.spec.Users != nil { // where tty has no number
		tty = "newinstance,ptmxmode=0666,mode=0600"
	}
	// The host's terminals are counted together (kernel.pty.max, 4096).
	tty += fmt.Sprintf(",max=%d", maxTerminals)
	hide := ""
	if st.spec.HidePID {
		hide = "hidepid=2"
	}
	ms := []*configs.Mount{
		{Device: "proc", Source: "proc", Destination: "/proc", Flags: nothing, Data: hide},
		{Device: "tmpfs", Source: "tmpfs", Destination: "/dev", Flags: unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_STRICTATIME | unix.MS_RDONLY, Data: "mode=755,size=64k"},
		{Device: "devpts", Source: "devpts", Destination: "/dev/pts", Flags: unix.MS_NOSUID | unix.MS_NOEXEC, Data: tty},
		{Device: "mqueue", Source: "mqueue", Destination: "/dev/mqueue", Flags: nothing},
		{Device: "tmpfs", Source: "tmpfs", Destination: "/run", Flags: nothing, Data: "mode=755,size=16m"},
	}
	if !st.hostSys() {
		ms = append(ms, &configs.Mount{Device: "sysfs", Source: "sysfs", Destination: "/sys", Flags: tmpfsRO})
	}
	ms = append(ms, st.placesInRun()...)
	ms = append(ms, st.cgroupMount())
	if st.spec.Bare {
		for _, p := range private {
			ms = append(ms, &configs.Mount{Device: "tmpfs", Source: "tmpfs", Destination: p.target, Flags: tmpfsRO, Data: "mode=755,size=4k"})
		}
	}
	if !st.ownBinds() {
		ms = append(ms, st.bindMounts()...)
	}
	return ms
}

// bindMounts are the binds in libcontainer's words.
func (st *starting) bindMounts() []*configs.Mount {
	var ms []*configs.Mount
	for _, b := range st.binds() {
		ms = append(ms, bind(b))
	}
	return ms
}

// placesInRun are the places of attached mounts in /run, which is empty: what
// is mounted there makes them, and is covered.
func (st *starting) placesInRun() []*configs.Mount {
	var ms []*configs.Mount
	for _, a := range st.spec.Plan.Attach {
		below := slices.ContainsFunc(st.spec.Plan.Attach, func(o stage.Attach) bool { return inside(a.Target, o.Target) })
		if !inside(a.Target, "/run") || below {
			continue
		}
		if isDir, err := st.targetIsDir(a); err == nil && !isDir {
			ms = append(ms, &configs.Mount{Device: "bind", Source: "/dev/null", Destination: a.Target, Flags: unix.MS_BIND | tmpfsRO})
			continue
		}
		ms = append(ms, &configs.Mount{Device: "tmpfs", Source: "tmpfs", Destination: a.Target, Flags: tmpfsRO, Data: "mode=755,size=4k"})
	}
	return ms
}

// bind sets its flags itself: on a recursive bind MS_RDONLY and the others
// would reach the top mount only (KERNEL 15).
func bind(b Mount) *configs.Mount {
	m := &configs.Mount{Device: "bind", Source: b.Source, Destination: b.Target, Flags: unix.MS_BIND | unix.MS_NOSUID | unix.MS_NODEV}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if !b.Writable {
		m.Flags |= unix.MS_RDONLY
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if !b.Exec {
		m.Flags |= unix.MS_NOEXEC
		attr.Attr_set |= unix.MOUNT_ATTR_NOEXEC
	}
	if b.Recursive {
		m.Flags |= unix.MS_REC
		m.RecAttr = attr
	}
	return m
}

// cgroupMount is where the generation finds its own cgroup.
func (st *starting) cgroupMount() *configs.Mount {
	if st.m.trees.v2() {
		return &configs.Mount{Device: "cgroup", Source: "cgroup", Destination: cgroupRoot, Flags: tmpfsRO}
	}
	return &configs.Mount{Device: "tmpfs", Source: "tmpfs", Destination: cgroupRoot, Flags: tmpfsRO, Data: "mode=755,size=4k"}
}

// deviceNodes are those of CONTRACT 4; everything else is denied.
func deviceNodes() ([]*devices.Device, []*devices.Rule) {
	var nodes []*devices.Device
	rules := []*devices.Rule{{Type: devices.WildcardDevice, Major: devices.Wildcard, Minor: devices.Wildcard, Permissions: "rwm"}}
	for _, d := range []struct {
		path         string
		major, minor int64
	}{
		{"/dev/null", 1, 3}, {"/dev/zero", 1, 5}, {"/dev/full", 1, 7},
		{"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0},
		{"", 5, 2}, {"", 136, devices.Wildcard}, // ptmx, pts
	} {
		rule := devices.Rule{Type: devices.CharDevice, Major: d.major, Minor: d.minor, Permissions: "rwm", Allow: true}
		rules = append(rules, &rule)
		if d.path != "" {
			nodes = append(nodes, &devices.Device{Rule: rule, Path: d.path, FileMode: 0o666})
		}
	}
	return nodes, rules
}

// ownCaps lists the capabilities this process has: asking for one it lacks is
// an error.
func ownCaps() ([]string, error) {
	have, err := capability.NewPid2(0)
	if err != nil {
		return nil, fmt.Errorf("capabilities: %w", err)
	}
	if err := have.Load(); err != nil {
		return nil, fmt.Errorf("capabilities: %w", err)
	}
	all, err := capability.ListSupported()
	if err != nil {
		return nil, fmt.Errorf("capabilities: %w", err)
	}
	var names []string
	for _, c := range all {
		if have.Get(capability.EFFECTIVE, c) && have.Get(capability.BOUNDING, c) {
			names = append(names, capName(c))
		}
	}
	return names, nil
}

// capName is libcontainer's name of a capability.
func capName(c capability.Cap) string { return "CAP_" + strings.ToUpper(c.String()) }

// translate puts libcontainer's errors into words that people can act on.
func (st *starting) translate(err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "OOM-killed"):
		return fmt.Errorf("out of memory before anything of it ran: memory-max is %d bytes", st.spec.Limits.MemoryMax)
	case errors.Is(err, unix.ENOSPC) && st.m.full(err):
		return fmt.Errorf("no room in the run directory %s, or no inodes (df -h, df -i): %w", filepath.Dir(st.m.dir), err)
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("no room in the root or in a cgroup: %w", err)
	case errors.Is(err, unix.EAGAIN), strings.Contains(strings.ToLower(text), unix.EAGAIN.Error()), // or libcontainer's C says so
		strings.Contains(text, "procReady not received") && st.spec.Limits.PidsMax > 0: // its init needs threads
		if l := st.spec.Limits; l.PidsMax > 0 && l.PidsMax < fewPids {
			return unkept("pids-max", l.PidsMaxAt, fmt.Errorf("%d processes and threads are too few for a start", l.PidsMax))
		}
		return fmt.Errorf("no more processes or memory for it: %w", err)
	}
	return &initError{err}
}

// fewPids are so few processes and threads that a start may fail for want of them.
const fewPids = 32

// full reports whether it is the run directory that err, ENOSPC, is about: what
// the sandboxes keep there, or the record of a generation.
func (m *Manager) full(err error) bool {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return strings.HasPrefix(e.Path, filepath.Dir(m.dir)+"/")
	}
	var st unix.Statfs_t
	return unix.Statfs(m.dir, &st) == nil && st.Blocks > 0 && (st.Bavail == 0 || st.Files > 0 && st.Ffree == 0)
}

// initError leaves out the layers that libcontainer names.
type initError struct{ err error }

func (e *initError) Unwrap() error { return e.err }

func (e *initError) Error() string {
	text := e.err.Error()
	for _, layer := range []string{"unable to start container process: ", "error during container init: "} {
		text = strings.TrimPrefix(text, layer)
	}
	return text
}
