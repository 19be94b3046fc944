// Package seccomp compiles the list of system calls that a vassal may make
// into the classic BPF program that the stage loads.
//
//	filter, err := seccomp.Default()
//	plan.Seccomp = filter
//
// The list is Docker's default profile for a container without capabilities.
// What differs:
//
//   - a call that did not exist when the list was made, and clone3, answer
//     ENOSYS, so that a C library takes its older way; a known call that is
//     not on the list answers EPERM;
//   - personality(2) stays the usual one, and vmsplice is not there;
//   - nor is kernel AIO: io_setup answers ENOSYS, as of a kernel without it, and
//     programs take another way. Whoever asks for all that the host has
//     (fs.aio-max-nr) would have it, and a database outside could not start;
//   - nor are huge pages, which are the host's too and count in no memory-max:
//     asking for some is answered as where none is left, ENOMEM;
//   - the limit of core dumps cannot be changed;
//   - nor can a file's attributes (chattr), its quota project among them;
//   - nor can the range from which the kernel picks a socket's port;
//   - a call of another ABI (i386, x32) kills the process: their numbers mean
//     other calls, and nothing that runs here needs them;
//   - sockets are of the families unix, inet, inet6 and netlink, and inet ones
//     are TCP, UDP or ping: asking for another loads its kernel module;
//   - lsm_set_self_attr and lsm_get_self_attr are allowed for the attribute
//     "current" alone, since the stage enters its SELinux domain after the
//     filter is loaded. The same act through /proc is only an open and a
//     write: the policy decides about both, not this list.
//
// The compiler is pure Go and makes a binary search over the call numbers, so
// a call costs about ten instructions wherever it is on the list.
package seccomp

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"

	profiles "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"liege/sandbox/stage"
	"liege/vassal"
)

// Requests of ioctl(2) that change what chattr(1) does: the project of a file,
// and whether a directory hands its own on. A file's owner may, and would leave
// the quota of the vassal's directory with it.
const (
	fsSetXAttr   = 0x401c5820 // FS_IOC_FSSETXATTR
	fsSetFlags32 = 0x40046602 // FS_IOC32_SETFLAGS
)

// ipLocalPortRange is IP_LOCAL_PORT_RANGE of ip(7).
const ipLocalPortRange = 51

// shmHugeTLB is SHM_HUGETLB of shmget(2).
const shmHugeTLB = 0o4000

// attrCurrent is LSM_ATTR_CURRENT.
const attrCurrent = 100

// The profiles that have a name. Off is no profile: nothing is compiled.
const (
	DefaultProfile = "default"
	StrictProfile  = "strict"
	Off            = "off"
)

// Profile says which calls a vassal may make.
type Profile struct {
	Strict bool
	// Text is a profile of the operator's in the form of Docker's or an OCI
	// runtime's instead of ours; nil: none.
	Text []byte
	Caps []int // the capabilities that it keeps: some calls come with one
	// Dumps leaves the limit of core dumps to the app. Without it setting the
	// limit does nothing, and says that it did: of 0 the kernel would start
	// the helper of a core_pattern that begins with "|".
	Dumps bool
}

// Default compiles the default profile for this machine's architecture. The
// result never changes while the program runs: callers keep it.
func Default() ([]stage.Filter, error) { return Compile(Profile{}) }

// Compile compiles a profile for this machine's architecture.
func Compile(p Profile) ([]stage.Filter, error) {
	rules, other, err := p.rules()
	if err != nil {
		return nil, fmt.Errorf("seccomp: %w", err)
	}
	m, err := machineOf(runtime.GOARCH)
	if err != nil {
		return nil, fmt.Errorf("seccomp: %w", err)
	}
	return compile(m, rules, other)
}

// verdict is what seccomp(2) is told to do with a call.
type verdict uint32

const (
	allow verdict = unix.SECCOMP_RET_ALLOW
	kill  verdict = unix.SECCOMP_RET_KILL_PROCESS
	perm  verdict = unix.SECCOMP_RET_ERRNO | verdict(unix.EPERM)
	nosys verdict = unix.SECCOMP_RET_ERRNO | verdict(unix.ENOSYS)
	nomem verdict = unix.SECCOMP_RET_ERRNO | verdict(unix.ENOMEM)
	done  verdict = unix.SECCOMP_RET_ERRNO // of 0: the call is not made and says that it was
)

// rule is one way in which a call can match: all of its conditions hold.
type rule struct {
	conds []cond
	then  verdict
}

// cond compares one argument of a call.
type cond struct {
	arg   uint // 0 to 5
	op    specs.LinuxSeccompOperator
	value uint64
	mask  uint64 // of OpMaskedEqual
}

// rules are those of the profile, and what becomes of the other known calls.
func (p Profile) rules() (map[string][]rule, verdict, error) {
	spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}}
	for _, c := range p.Caps {
		name := vassal.CapabilityName(c)
		if name == "" {
			return nil, 0, fmt.Errorf("capability %d is none that a vassal may have", c)
		}
		spec.Process.Capabilities.Bounding = append(spec.Process.Capabilities.Bounding, "CAP_"+strings.ToUpper(name))
	}
	if p.Text != nil {
		return fromText(p.Text, spec)
	}
	docker, err := profiles.GetDefaultProfile(spec)
	if err != nil {
		return nil, 0, err
	}
	rules, other, err := translate(docker)
	if err != nil {
		return nil, 0, err
	}
	if other != perm {
		return nil, 0, fmt.Errorf("the profile's default action is %s", docker.DefaultAction)
	}
	p.adjust(rules)
	return rules, other, nil
}

// adjust makes ours of Docker's default: fewer kinds of sockets, and what the
// package comment says.
func (p Profile) adjust(rules map[string][]rule) {
	current := rule{conds: []cond{{op: specs.OpEqualTo, value: attrCurrent}}, then: allow}
	rules["lsm_set_self_attr"] = []rule{current}
	rules["lsm_get_self_attr"] = []rule{current}
	rules["socket"] = sockets(p.Caps)
	rules["socketpair"] = []rule{{conds: []cond{{op: specs.OpEqualTo, value: unix.AF_UNIX}}, then: allow}}
	// The usual one, and the question for it: others switch off the random
	// layout of addresses, or make all memory executable.
	rules["personality"] = []rule{{conds: []cond{low(0, 0)}, then: allow}, {conds: []cond{low(0, 0xffffffff)}, then: allow}}
	delete(rules, "vmsplice") // pages of one process in another's pipe: Dirty Pipe and its kin
	rules["io_setup"] = []rule{{then: nosys}}
	for call, flags := range map[string]cond{
		"mmap": {arg: 3, mask: unix.MAP_HUGETLB}, "memfd_create": {arg: 1, mask: unix.MFD_HUGETLB}, "shmget": {arg: 2, mask: shmHugeTLB},
	} {
		flags.op, flags.value = specs.OpMaskedEqual, flags.mask
		rules[call] = []rule{{then: allow}, {conds: []cond{flags}, then: nomem}}
	}
	if !p.Dumps {
		rules["setrlimit"] = []rule{{conds: []cond{low(0, unix.RLIMIT_CORE)}, then: done}, {then: allow}}
		rules["prlimit64"] = []rule{{conds: []cond{low(1, unix.RLIMIT_CORE), {arg: 2, op: specs.OpNotEqual}}, then: done}, {then: allow}}
	}
	refused := []uint64{fsSetXAttr, unix.FS_IOC_SETFLAGS, fsSetFlags32}
	if p.Strict {
		for _, name := range notStrict {
			delete(rules, name)
		}
		refused = append(refused, unix.TIOCSTI, unix.TIOCLINUX) // nothing is typed into a terminal
	}
	// The listeners have it set for all that they accept (emperor/listen).
	rules["setsockopt"] = []rule{{then: allow}, {conds: []cond{low(1, unix.IPPROTO_IP), low(2, ipLocalPortRange)}, then: perm}}
	ioctls := []rule{{then: allow}}
	for _, request := range refused {
		ioctls = append(ioctls, rule{conds: []cond{low(1, request)}, then: perm})
	}
	rules["ioctl"] = ioctls
}

// notStrict are calls of the default profile that a web application has no use
// for: other processes' memory and descriptors, the scheduler's and the memory
// policy's finer points, watching whole file systems, and ways of old.
var notStrict = []string{
	"ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease", "kcmp", "pidfd_getfd",
	"sched_setscheduler", "sched_setparam", "sched_setattr", "mbind", "get_mempolicy", "set_mempolicy", "set_mempolicy_home_node", "migrate_pages", "move_pages",
	"fanotify_mark", "name_to_handle_at", "memfd_secret", "remap_file_pages", "modify_ldt", "syslog", "acct", "adjtimex", "clock_adjtime",
	"userfaultfd", "seccomp", "landlock_create_ruleset", "io_submit", "io_cancel", "io_destroy", "io_getevents", "io_pgetevents",
	"mq_open", "mq_unlink", "mq_timedsend", "mq_timedreceive", "mq_notify", "mq_getsetattr", "mknod", "mknodat", "tee", "getcpu_cache", "uselib", "ustat", "sysfs", "_sysctl", "vhangup",
}

// low compares the lower half of an argument, which is all that the kernel
// looks at in calls that take an int.
func low(arg uint, value uint64) cond {
	return cond{arg: arg, op: specs.OpMaskedEqual, mask: 0xffffffff, value: value}
}

// fromText reads a profile of the operator's.
func fromText(text []byte, spec *specs.Spec) (map[string][]rule, verdict, error) {
	p, err := profiles.LoadProfile(string(text), spec)
	if err != nil {
		return nil, 0, err
	}
	if p == nil {
		return nil, 0, errors.New("the profile has neither a defaultAction nor syscalls")
	}
	rules, other, err := translate(p)
	if err != nil {
		return nil, 0, err
	}
	// The stage needs these after the filter is loaded: without them nothing
	// would start.
	for _, name := range []string{"execve", "execveat"} {
		if len(rules[name]) == 0 && other != allow {
			return nil, 0, fmt.Errorf("the profile forbids %s, with which the core is started", name)
		}
	}
	return rules, other, nil
}

// translate turns a profile into rules.
func translate(p *specs.LinuxSeccomp) (map[string][]rule, verdict, error) {
	other, err := verdictOf(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, 0, fmt.Errorf("defaultAction: %w", err)
	}
	rules := map[string][]rule{}
	for _, call := range p.Syscalls {
		r, err := newRule(call)
		if err != nil {
			return nil, 0, fmt.Errorf("%s: %w", strings.Join(call.Names, " "), err)
		}
		for _, name := range call.Names {
			rules[name] = append(rules[name], r)
		}
	}
	return rules, other, nil
}

func verdictOf(action specs.LinuxSeccompAction, errno *uint) (verdict, error) {
	switch action {
	case specs.ActAllow:
		return allow, nil
	case specs.ActErrno:
		if errno != nil {
			return unix.SECCOMP_RET_ERRNO | verdict(*errno&unix.SECCOMP_RET_DATA), nil
		}
		return perm, nil
	case specs.ActKill, specs.ActKillProcess, specs.ActKillThread:
		return kill, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	}
	return 0, fmt.Errorf("action %q is not known to this compiler", action)
}

// sockets are the kinds of sockets that programs use. Docker allows nearly all
// families, and asking for one makes the kernel load its module: RDS, TIPC,
// SCTP, DCCP and others have been ways to root.
func sockets(caps []int) []rule {
	is := func(arg uint, value uint64) cond { return cond{arg: arg, op: specs.OpEqualTo, value: value} }
	kind := func(value uint64) cond { // without SOCK_CLOEXEC and SOCK_NONBLOCK
		return cond{arg: 1, op: specs.OpMaskedEqual, mask: 0xf, value: value}
	}
	rules := []rule{
		{conds: []cond{is(0, unix.AF_UNIX)}, then: allow},
		{conds: []cond{is(0, unix.AF_NETLINK)}, then: allow},
		{conds: []cond{is(0, unix.AF_INET6), kind(unix.SOCK_DGRAM), is(2, unix.IPPROTO_ICMPV6)}, then: allow},
	}
	if slices.Contains(caps, unix.CAP_NET_RAW) {
		for _, family := range []uint64{unix.AF_INET, unix.AF_INET6} {
			rules = append(rules, rule{conds: []cond{is(0, family), kind(unix.SOCK_RAW)}, then: allow})
		}
	}
	for _, family := range []uint64{unix.AF_INET, unix.AF_INET6} {
		for _, typ := range []uint64{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
			// 0, ICMP, TCP and UDP; above are SCTP, DCCP, UDP-Lite and MPTCP.
			upTo := cond{arg: 2, op: specs.OpLessThan, value: unix.IPPROTO_UDP + 1}
			rules = append(rules, rule{conds: []cond{is(0, family), kind(typ), upTo}, then: allow})
		}
	}
	return rules
}

func newRule(call specs.LinuxSyscall) (rule, error) {
	then, err := verdictOf(call.Action, call.ErrnoRet)
	if err != nil {
		return rule{}, err
	}
	r := rule{then: then}
	for _, a := range call.Args {
		c := cond{arg: a.Index, op: a.Op, value: a.Value}
		switch a.Op {
		case specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterThan, specs.OpGreaterEqual:
		case specs.OpMaskedEqual: // value is the mask there
			c.mask, c.value = a.Value, a.ValueTwo
		default:
			return r, fmt.Errorf("operator %s is not known to this compiler", a.Op)
		}
		if a.Index > 5 {
			return r, fmt.Errorf("argument %d", a.Index)
		}
		r.conds = append(r.conds, c)
	}
	return r, nil
}

// machine is an architecture's numbers.
type machine struct {
	audit   uint32
	x32     bool // has the second ABI that is told by a bit of the number
	numbers map[string]uint32
}

func machineOf(goarch string) (*machine, error) {
	m := &machine{}
	switch goarch {
	case "amd64":
		m.audit, m.x32 = unix.AUDIT_ARCH_X86_64, true
	case "arm64":
		m.audit = unix.AUDIT_ARCH_AARCH64
	default:
		return nil, fmt.Errorf("no table of system calls for %s", goarch)
	}
	var err error
	m.numbers, err = parseTable(table(goarch))
	return m, err
}

// parseTable reads lines of "name number".
func parseTable(text string) (map[string]uint32, error) {
	numbers := map[string]uint32{}
	for line := range strings.Lines(text) {
		name, num, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseUint(num, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("table of system calls: %q", line)
		}
		numbers[name] = uint32(n)
	}
	return numbers, nil
}

// leaf is what happens to the calls from number lo up to the next leaf's.
type leaf struct {
	lo    uint32
	rules []rule
	other verdict // if no rule matches
}

// leaves covers all numbers, neighbours with the same simple verdict joined.
//
// A call that no table knows answers ENOSYS, unless everything is allowed.
func leaves(m *machine, rules map[string][]rule, other verdict) []leaf {
	unknown := nosys
	if other == allow {
		unknown = allow
	}
	type entry struct {
		num  uint32
		name string
	}
	var known []entry
	for name, num := range m.numbers {
		known = append(known, entry{num, name})
	}
	slices.SortFunc(known, func(a, b entry) int { return int(a.num) - int(b.num) })
	out := []leaf{{lo: 0, other: unknown}}
	add := func(l leaf) {
		last := &out[len(out)-1]
		switch {
		case len(last.rules) == 0 && len(l.rules) == 0 && last.other == l.other:
		case last.lo == l.lo:
			*last = l
		default:
			out = append(out, l)
		}
	}
	for _, e := range known {
		add(newLeaf(e.num, rules[e.name], other))
		add(leaf{lo: e.num + 1, other: unknown})
	}
	return out
}

// newLeaf simplifies: of an unconditional rule only those differ that say
// something else under a condition.
func newLeaf(num uint32, rules []rule, other verdict) leaf {
	always := slices.IndexFunc(rules, func(r rule) bool { return len(r.conds) == 0 })
	if always < 0 {
		return leaf{lo: num, rules: rules, other: other}
	}
	l := leaf{lo: num, other: rules[always].then}
	for _, r := range rules {
		if len(r.conds) > 0 && r.then != l.other {
			l.rules = append(l.rules, r)
		}
	}
	return l
}
