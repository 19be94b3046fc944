package stage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rlimits are those that a Go program lives with. RLIMIT_AS, _DATA, _NPROC and
// _CPU are the workers' (KERNEL 5).
var rlimits = map[string]int{
	"nofile": unix.RLIMIT_NOFILE, "core": unix.RLIMIT_CORE, "memlock": unix.RLIMIT_MEMLOCK,
	"stack": unix.RLIMIT_STACK, "fsize": unix.RLIMIT_FSIZE,
	"nice": unix.RLIMIT_NICE, "rtprio": unix.RLIMIT_RTPRIO, "rttime": unix.RLIMIT_RTTIME,
}

// usualFiles is the soft limit that every Linux gives a program (FD_SETSIZE).
const usualFiles = 1024

// setLimits sets hard and soft limits. Where the hard limit may not be raised
// (no CAP_SYS_RESOURCE) the value is cut to it with a line in the log, since
// less than wanted isolates no less.
//
// Without a limit of its own for descriptors the core gets the usual soft one:
// the Go runtime has raised the stage's to the hard limit, and programs that
// use select(2) break on descriptors above it.
func (r *run) setLimits() error {
	var have unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &have); err != nil {
		return failed(StepLimits, "nofile", err)
	}
	have.Cur = min(have.Max, usualFiles)
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &have, nil); err != nil {
		return failed(StepLimits, "nofile", err)
	}
	for _, l := range r.p.Rlimits {
		res, want := rlimits[l.Resource], unix.Rlimit{Cur: l.Value, Max: l.Value}
		err := unix.Prlimit(0, res, &want, nil)
		if errors.Is(err, unix.EPERM) {
			var have unix.Rlimit
			if err = unix.Prlimit(0, res, nil, &have); err == nil && have.Max < l.Value {
				want.Cur, want.Max = have.Max, have.Max
				err = unix.Prlimit(0, res, &want, nil)
				fmt.Fprintf(os.Stderr, "liege: %s:%d: limit of %s: %d is above this system's %d, which is used\n",
					l.At.File, l.At.Line, l.Resource, l.Value, have.Max)
			}
		}
		if err != nil {
			return &Failure{Step: StepLimits, At: l.At, What: l.Resource + " = " + strconv.FormatUint(l.Value, 10), Msg: err.Error()}
		}
	}
	return nil
}

// setOOMScore raises the score to the planned one. Lowering needs
// CAP_SYS_RESOURCE; where that is missing the higher score stays, which makes
// the vassal die earlier, not later.
func (r *run) setOOMScore() error {
	const file = "self/oom_score_adj"
	old, err := r.readProc(file)
	if err != nil {
		return failed(StepLimits, "oom_score_adj", err)
	}
	have := atoi(strings.TrimSpace(old))
	err = r.writeProc(file, strconv.Itoa(r.p.OOMScore))
	if err != nil && have > r.p.OOMScore && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)) {
		return nil
	}
	if err != nil {
		return failed(StepLimits, fmt.Sprintf("oom_score_adj = %d", r.p.OOMScore), err)
	}
	return nil
}

func (r *run) dropBounding() error {
	for c := uintptr(0); ; c++ {
		set, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if err != nil {
			if c > unix.CAP_SYS_ADMIN && errors.Is(err, unix.EINVAL) {
				break // past the last one of this kernel
			}
			return failed(StepCaps, "bounding set", err)
		}
		if set == 0 || slices.Contains(r.p.Caps, int(c)) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return failed(StepCaps, fmt.Sprintf("bounding set, capability %d", c), err)
		}
	}
	return r.expect(StepCaps, "CapBnd", CapSet(r.p.Caps))
}

// CapSet is a set of capabilities as /proc shows it.
func CapSet(caps []int) string {
	var set uint64
	for _, c := range caps {
		set |= 1 << c
	}
	return fmt.Sprintf("%016x", set)
}

// The calls that change ids are made raw: package syscall's change every
// thread, and cannot in a cgo program (KERNEL 6).
func (r *run) setGroups() error {
	list := make([]uint32, len(r.p.Groups)+1) // one more, so that there is a first
	var want []string
	for i, g := range r.p.Groups {
		list[i] = uint32(g)
	}
	for _, g := range slices.Sorted(slices.Values(r.p.Groups)) {
		want = append(want, strconv.Itoa(g))
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(r.p.Groups)), uintptr(unsafe.Pointer(&list[0])), 0)
	if errno != 0 {
		return failed(StepIdentity, "groups "+strings.Join(want, " "), errno)
	}
	return r.expect(StepIdentity, "Groups", strings.Join(want, " "))
}

func (r *run) setGID() error {
	g := uintptr(r.p.GID)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, g, g, g); errno != 0 {
		return failed(StepIdentity, fmt.Sprintf("gid %d", g), errno)
	}
	return r.expect(StepIdentity, "Gid", four(r.p.GID))
}

func (r *run) setUID() error {
	u := uintptr(r.p.UID)
	if len(r.p.Caps) > 0 { // the permitted set outlives the change; dropCaps cuts it
		if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
			return failed(StepCaps, "PR_SET_KEEPCAPS", err)
		}
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, u, u, u); errno != 0 {
		return failed(StepIdentity, fmt.Sprintf("uid %d", u), errno)
	}
	return r.expect(StepIdentity, "Uid", four(r.p.UID))
}

// four is how /proc shows the real, effective, saved and file system id.
func four(id int) string {
	s := strconv.Itoa(id)
	return strings.Join([]string{s, s, s, s}, " ")
}

// dropCaps leaves the planned capabilities, which are none but for an operator's
// word. They outlive an exec by the ambient set alone.
func (r *run) dropCaps() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return failed(StepCaps, "ambient set", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var kept [2]unix.CapUserData
	for _, c := range r.p.Caps {
		kept[c/32].Permitted |= 1 << (c % 32)
	}
	for i := range kept {
		kept[i].Effective, kept[i].Inheritable = kept[i].Permitted, kept[i].Permitted
	}
	if err := unix.Capset(&header, &kept[0]); err != nil {
		return failed(StepCaps, "", err)
	}
	for _, c := range r.p.Caps {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c), 0, 0); err != nil {
			return failed(StepCaps, fmt.Sprintf("ambient set, capability %d", c), err)
		}
	}
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if err := r.expect(StepCaps, set, CapSet(r.p.Caps)); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) noNewPrivs() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return failed(StepNoNew, "", err)
	}
	return r.expect(StepNoNew, "NoNewPrivs", "1")
}

// setSeccomp loads the filter for this thread; the others end at the exec.
func (r *run) setSeccomp() error { return r.loadFilter(r.p.Seccomp) }

func (r *run) loadFilter(filter []Filter) error {
	if r.p.NoSeccomp {
		return r.expect(StepSeccomp, "Seccomp", "0")
	}
	// Opened before: a filter of an operator's own may refuse openat2.
	status, err := r.procFile(ownStatus, unix.O_RDONLY)
	if err != nil {
		return failed(StepSeccomp, "", err)
	}
	defer status.Close()
	code := make([]unix.SockFilter, len(filter))
	for i, f := range filter {
		code[i] = unix.SockFilter{Code: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K}
	}
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return failed(StepSeccomp, fmt.Sprintf("a filter of %d instructions", len(code)), errno)
	}
	return expectIn(status, StepSeccomp, "Seccomp", "2")
}

// ownStatus is this thread's, which /proc writes when it is read.
const ownStatus = "thread-self/status"

// expect reads a field of this thread's status back and compares it.
func (r *run) expect(s Step, field, want string) error {
	status, err := r.procFile(ownStatus, unix.O_RDONLY)
	if err != nil {
		return failed(s, field, err)
	}
	return errors.Join(expectIn(status, s, field, want), status.Close())
}

func expectIn(status io.Reader, s Step, field, want string) error {
	text, err := io.ReadAll(io.LimitReader(status, maxProc))
	if err != nil {
		return failed(s, field, err)
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if name != field {
			continue
		}
		if got := strings.Join(strings.Fields(value), " "); got != want {
			return failed(s, field, fmt.Errorf("is %q after it was set, want %q", got, want))
		}
		return nil
	}
	return failed(s, field, errors.New("the kernel does not show it"))
}

// openProc opens the proc file system at path, the real one: a proc file system, at its own root
// (CVE-2019-19921, CVE-2025-52881: a process can be made to talk to a fake).
func openProc(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Fstatfs(fd, &fs), unix.Fstat(fd, &st)); err != nil {
		return -1, fmt.Errorf("%s: %w", path, err)
	}
	if fs.Type != unix.PROC_SUPER_MAGIC || st.Ino != 1 {
		return -1, fmt.Errorf("%s is not a proc file system", path)
	}
	return fd, nil
}

// procFile opens name below /proc, through no mount and no magic link.
func (r *run) procFile(name string, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(r.proc, name, &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, fmt.Errorf("open /proc/%s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), "/proc/"+name), nil
}

// maxProc bounds what is read of a file below /proc, in bytes.
const maxProc = 1 << 20

func (r *run) readProc(name string) (string, error) {
	f, err := r.procFile(name, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxProc))
	return string(b), errors.Join(err, f.Close())
}

func (r *run) writeProc(name, text string) error {
	f, err := r.procFile(name, unix.O_WRONLY)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func trimContext(s string) string { return string(bytes.TrimRight([]byte(s), "\x00\n")) }
