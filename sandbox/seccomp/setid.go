package seccomp

import (
	"fmt"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"liege/sandbox/stage"
)

// setID are the bits of a mode with which a program runs as its file's owner
// or group, whoever starts it (inode(7)).
const setID = unix.S_ISUID | unix.S_ISGID

// creates are the flags of open(2) with which it looks at its mode: O_CREAT, and
// what O_TMPFILE has besides O_DIRECTORY.
const creates = unix.O_CREAT | unix.O_TMPFILE&^unix.O_DIRECTORY

// modes are the calls that take a mode, by the argument that it is: chmod(2),
// open(2), mkdir(2), mknod(2). Linux's mkdir takes neither bit over and says
// nothing; here who asks it for them is told.
var modes = []struct {
	call  string
	mode  uint
	flags uint // of open: the argument that says whether there is a mode; else 0
}{
	{"chmod", 1, 0}, {"fchmod", 1, 0}, {"fchmodat", 2, 0}, {"fchmodat2", 2, 0},
	{"creat", 1, 0}, {"open", 2, 1}, {"openat", 3, 2},
	{"mkdir", 1, 0}, {"mkdirat", 2, 0}, {"mknod", 1, 0}, {"mknodat", 2, 0},
}

// NoSetID puts before a filter what keeps root of the host from leaving a
// program in a tenant's sandbox that is root's for whoever starts it outside:
// the directories there are the host's. An empty filter allows the rest.
//
//   - a mode with the set-user-ID or the set-group-ID bit answers EPERM, of
//     directories too: a filter does not see what a path leads to;
//   - openat2 answers ENOSYS, and programs take openat: its mode is behind a
//     pointer, which a filter cannot follow;
//   - io_uring, whose calls no filter sees, answers EPERM;
//   - the calls that set extended attributes answer EOPNOTSUPP, and programs set modes
//     instead: chown(2) lets a file whose group may not execute it keep the
//     set-group-ID bit, and an access control list would make a program of that;
//   - there are no unix sockets: they bring descriptors. By one that somebody outside
//     has opened with O_PATH, root changes mode and owner of any file of the host, and
//     connects to its sockets as root, whatever Landlock says (unix(7), SCM_RIGHTS);
//   - a call that no table knows answers ENOSYS: it may have a mode;
//   - a call of another ABI kills.
//
// What also makes such programs is not for a filter: to set a file's
// capabilities takes CAP_SETFCAP, and not to lose the bits when a file is
// written takes CAP_FSETID (capabilities(7)). chown(2) clears the others for root too.
func NoSetID(filter []stage.Filter) ([]stage.Filter, error) {
	m, err := machineOf(runtime.GOARCH)
	if err != nil {
		return nil, fmt.Errorf("seccomp: %w", err)
	}
	return m.noSetID(filter)
}

func (m *machine) noSetID(filter []stage.Filter) ([]stage.Filter, error) {
	if len(filter) == 0 {
		filter = []stage.Filter{ret(allow)}
	}
	prog := append(m.head(), stage.Filter{Code: opGt, K: m.last(), Jf: 1}, ret(nosys))
	for _, c := range modes {
		r := rule{then: perm}
		if c.flags > 0 {
			r.conds = append(r.conds, cond{arg: c.flags, op: anyBit, mask: creates})
		}
		r.conds = append(r.conds, cond{arg: c.mode, op: anyBit, mask: setID})
		prog = append(prog, m.of(c.call, r)...)
	}
	for _, call := range []string{"io_uring_setup", "io_uring_enter", "io_uring_register"} {
		prog = append(prog, m.of(call, rule{then: perm})...)
	}
	for _, call := range []string{"setxattr", "lsetxattr", "fsetxattr", "setxattrat"} {
		prog = append(prog, m.of(call, rule{then: noSupport})...)
	}
	prog = append(prog, m.of("openat2", rule{then: nosys})...)
	// The kernel looks at 32 bits of it.
	family := cond{arg: 0, op: specs.OpMaskedEqual, value: unix.AF_UNIX, mask: 1<<32 - 1}
	prog = append(prog, m.of("socket", rule{conds: []cond{family}, then: noFamily})...)
	return bounded(append(prog, filter...))
}

// of is r for one call; any other falls out of its end. Nothing for a call that
// this machine does not have.
func (m *machine) of(call string, r rule) []stage.Filter {
	number, ok := m.numbers[call]
	if !ok {
		return nil
	}
	body := r.code()
	return append([]stage.Filter{load(offNumber), {Code: opEq, K: number, Jf: uint8(len(body))}}, body...)
}

// last is the highest number of the table.
func (m *machine) last() (last uint32) {
	for _, n := range m.numbers {
		last = max(last, n)
	}
	return last
}
