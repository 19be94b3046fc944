package stage

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Landlock says what the second fence keeps from a vassal besides writing where
// no mount lets it. Older kernels do less of it, and some have none.
type Landlock struct {
	// NoTCP forbids to connect to TCP ports but those of Ports (Linux 6.7): a
	// listener that was handed into a private network leads out of it
	// (KERNEL 1).
	NoTCP bool     `json:"no_tcp,omitempty"`
	Ports []uint16 `json:"ports,omitempty"`
	// Signals lets signals out, to all that the pid namespace shows.
	Signals bool `json:"signals,omitempty"`
}

// leastLandlock is the first version that is of use: version 1 refuses every
// rename from one directory to another.
const leastLandlock = 2

// The rights to files by version of Landlock: what is handled is forbidden but
// where a rule allows it.
const (
	landRead  = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	landFile  = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | landWrite
	landWrite = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	landMost  = unix.LANDLOCK_ACCESS_FS_IOCTL_DEV<<1 - 1
	landNodes = unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK
)

// handledFS are the rights that a version knows.
func handledFS(version int) uint64 {
	all := uint64(landMost)
	if version < 5 {
		all &^= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if version < 3 {
		all &^= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	return all
}

// setLandlock puts the second fence around the thread: what is seen may be read
// and executed, and written where a mount is writable, so that a mount whose
// flags are got round stays shut. Device nodes are made nowhere. From Linux
// 6.12 on no signal and no connection to an abstract socket goes out.
//
// The rules come from the mounts as they are now: after the last root hook,
// nobody can change them. Writing below /proc stays allowed, since the
// constructor enters the domain there.
func (r *run) setLandlock() error {
	if r.p.Landlock == nil {
		return nil
	}
	version, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno == unix.ENOSYS || errno == unix.EOPNOTSUPP {
		return nil // this kernel has none, or it is switched off
	}
	if errno != 0 {
		return failed(StepLandlock, "version", errno)
	}
	if version < leastLandlock {
		return nil
	}
	if err := r.fence(int(version)); err != nil {
		return failed(StepLandlock, fmt.Sprintf("version %d", version), err)
	}
	return nil
}

func (r *run) fence(version int) error {
	attr := unix.LandlockRulesetAttr{Handled_access_fs: handledFS(version)}
	if version >= 4 && r.p.Landlock.NoTCP {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if version >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
		if !r.p.Landlock.Signals {
			attr.Scoped |= unix.LANDLOCK_SCOPE_SIGNAL
		}
	}
	n, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return fmt.Errorf("create the ruleset: %w", errno)
	}
	rules := ruleset{fd: int(n), handled: attr.Handled_access_fs}
	defer unix.Close(rules.fd)
	if err := r.allowFiles(rules); err != nil {
		return err
	}
	if attr.Handled_access_net != 0 {
		for _, port := range r.p.Landlock.Ports {
			if err := rules.port(port); err != nil {
				return err
			}
		}
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(rules.fd), 0, 0); errno != 0 {
		return fmt.Errorf("landlock_restrict_self: %w", errno)
	}
	return nil
}

func (r *run) allowFiles(rules ruleset) error {
	if err := rules.allow(r.root, landRead); err != nil {
		return fmt.Errorf("/: %w", err)
	}
	// The log can be opened again by /dev/stdout, wherever it lies.
	for fd := range FirstFD {
		if err := rules.allow(fd, landFile); err != nil && !errors.Is(err, unix.EBADFD) && !errors.Is(err, unix.EBADF) {
			return fmt.Errorf("descriptor %d: %w", fd, err)
		}
	}
	if err := rules.devices(); err != nil {
		return err
	}
	text, err := r.readProc("thread-self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		if m, ok := parseMount(line); ok && m.writable {
			if err := rules.mount(m); err != nil {
				return fmt.Errorf("%s: %w", m.point, err)
			}
		}
	}
	return nil
}

// mounted is a line of mountinfo.
type mounted struct {
	id       uint64
	point    string
	kind     string
	writable bool
}

func parseMount(line string) (mounted, bool) {
	head, tail, ok := strings.Cut(line, " - ")
	h, t := strings.Fields(head), strings.Fields(tail)
	if !ok || len(h) < 6 || len(t) < 3 {
		return mounted{}, false
	}
	id, err := strconv.ParseUint(h[0], 10, 64)
	if err != nil {
		return mounted{}, false
	}
	ro := func(options string) bool { return slices.Contains(strings.Split(options, ","), "ro") }
	return mounted{id: id, point: unescape(h[4]), kind: t[0], writable: !ro(h[5]) && !ro(t[2])}, true
}

// unescape undoes what mountinfo does to spaces, tabs, newlines and backslashes.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// ruleset is a Landlock ruleset in the making.
type ruleset struct {
	fd      int
	handled uint64
}

// devices allows what everybody may write to, though /dev is mounted read-only:
// its nodes are no files of that mount.
func (s ruleset) devices() error {
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		fd, err := unix.Open("/dev/"+name, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("/dev/%s: %w", name, err)
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR {
			err = s.allow(fd, landFile)
		}
		if err = errors.Join(err, unix.Close(fd)); err != nil {
			return fmt.Errorf("/dev/%s: %w", name, err)
		}
	}
	return nil
}

// mount allows all that a writable mount may be used for. One that lies below
// another, or where the vassal's user cannot go, needs no rule.
func (s ruleset) mount(m mounted) error {
	fd, err := unix.Open(m.point, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID|unix.STATX_TYPE, &st); err != nil {
		return err
	}
	if st.Mask&unix.STATX_MNT_ID != 0 && st.Mnt_id != m.id {
		return nil
	}
	switch {
	case m.kind == "proc":
		return s.allow(fd, landWrite)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return s.allow(fd, landFile)
	}
	return s.allow(fd, landMost&^landNodes)
}

// allow lets access happen at fd and below it.
func (s ruleset) allow(fd int, access uint64) error {
	attr := unix.LandlockPathBeneathAttr{Allowed_access: access & s.handled, Parent_fd: int32(fd)}
	return s.add(unix.LANDLOCK_RULE_PATH_BENEATH, unsafe.Pointer(&attr))
}

// ruleNetPort is LANDLOCK_RULE_NET_PORT.
const ruleNetPort = 2

// port lets a TCP port be connected to.
func (s ruleset) port(port uint16) error {
	attr := struct{ access, port uint64 }{unix.LANDLOCK_ACCESS_NET_CONNECT_TCP, uint64(port)}
	return s.add(ruleNetPort, unsafe.Pointer(&attr))
}

func (s ruleset) add(kind uintptr, attr unsafe.Pointer) error {
	if _, _, errno := unix.RawSyscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(s.fd), kind, uintptr(attr), 0, 0, 0); errno != 0 {
		return fmt.Errorf("landlock_add_rule: %w", errno)
	}
	return nil
}
