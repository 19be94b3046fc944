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
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"

	profiles "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"liege/sandbox/stage"
)

// attrCurrent is LSM_ATTR_CURRENT.
const attrCurrent = 100

// Default compiles the default profile for this machine's architecture. The
// result never changes while the program runs: callers keep it.
func Default() ([]stage.Filter, error) {
	rules, err := profile()
	if err != nil {
		return nil, fmt.Errorf("seccomp: %w", err)
	}
	m, err := machineOf(runtime.GOARCH)
	if err != nil {
		return nil, fmt.Errorf("seccomp: %w", err)
	}
	return compile(m, rules)
}

// verdict is what seccomp(2) is told to do with a call.
type verdict uint32

const (
	allow verdict = unix.SECCOMP_RET_ALLOW
	kill  verdict = unix.SECCOMP_RET_KILL_PROCESS
	perm  verdict = unix.SECCOMP_RET_ERRNO | verdict(unix.EPERM)
	nosys verdict = unix.SECCOMP_RET_ERRNO | verdict(unix.ENOSYS)
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

// profile is Docker's default for no capability, with two additions and fewer
// kinds of sockets.
func profile() (map[string][]rule, error) {
	spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}}
	p, err := profiles.GetDefaultProfile(spec)
	if err != nil {
		return nil, err
	}
	if p.DefaultAction != specs.ActErrno {
		return nil, fmt.Errorf("the profile's default action is %s", p.DefaultAction)
	}
	rules := map[string][]rule{}
	for _, call := range p.Syscalls {
		r, err := newRule(call)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", strings.Join(call.Names, " "), err)
		}
		for _, name := range call.Names {
			rules[name] = append(rules[name], r)
		}
	}
	current := rule{conds: []cond{{op: specs.OpEqualTo, value: attrCurrent}}, then: allow}
	rules["lsm_set_self_attr"] = []rule{current}
	rules["lsm_get_self_attr"] = []rule{current}
	rules["socket"] = sockets()
	rules["socketpair"] = []rule{{conds: []cond{{op: specs.OpEqualTo, value: unix.AF_UNIX}}, then: allow}}
	return rules, nil
}

// sockets are the kinds of sockets that programs use. Docker allows nearly all
// families, and asking for one makes the kernel load its module: RDS, TIPC,
// SCTP, DCCP and others have been ways to root.
func sockets() []rule {
	is := func(arg uint, value uint64) cond { return cond{arg: arg, op: specs.OpEqualTo, value: value} }
	kind := func(value uint64) cond { // without SOCK_CLOEXEC and SOCK_NONBLOCK
		return cond{arg: 1, op: specs.OpMaskedEqual, mask: 0xf, value: value}
	}
	rules := []rule{
		{conds: []cond{is(0, unix.AF_UNIX)}, then: allow},
		{conds: []cond{is(0, unix.AF_NETLINK)}, then: allow},
		{conds: []cond{is(0, unix.AF_INET6), kind(unix.SOCK_DGRAM), is(2, unix.IPPROTO_ICMPV6)}, then: allow},
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
	var r rule
	switch call.Action {
	case specs.ActAllow:
		r.then = allow
	case specs.ActErrno:
		r.then = perm
		if call.ErrnoRet != nil {
			r.then = unix.SECCOMP_RET_ERRNO | verdict(*call.ErrnoRet&unix.SECCOMP_RET_DATA)
		}
	default:
		return r, fmt.Errorf("action %s is not known to this compiler", call.Action)
	}
	for _, a := range call.Args {
		c := cond{arg: a.Index, op: a.Op, value: a.Value}
		switch a.Op {
		case specs.OpEqualTo, specs.OpLessThan:
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
func leaves(m *machine, rules map[string][]rule) []leaf {
	type entry struct {
		num  uint32
		name string
	}
	var known []entry
	for name, num := range m.numbers {
		known = append(known, entry{num, name})
	}
	slices.SortFunc(known, func(a, b entry) int { return int(a.num) - int(b.num) })
	out := []leaf{{lo: 0, other: nosys}}
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
		add(newLeaf(e.num, rules[e.name]))
		add(leaf{lo: e.num + 1, other: nosys})
	}
	return out
}

// newLeaf simplifies: an unconditional rule decides alone.
func newLeaf(num uint32, rules []rule) leaf {
	for _, r := range rules {
		if len(r.conds) == 0 {
			return leaf{lo: num, other: r.then}
		}
	}
	return leaf{lo: num, rules: rules, other: perm}
}
