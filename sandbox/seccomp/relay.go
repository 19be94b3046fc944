package seccomp

import (
	"fmt"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"liege/sandbox/stage"
)

// relayCalls is what liege-relay does once it is told what to do: it accepts
// connections and makes others, and the Go runtime does its own. It opens no
// file, executes nothing, and binds to no address.
var relayCalls = []string{
	// The relay's.
	"accept4", "close", "connect", "fcntl", "getpeername", "getsockopt", "read", "setsockopt", "shutdown", "write",
	// The runtime's: poller, memory, threads, time, signals.
	"epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd2", "pipe2",
	"brk", "madvise", "mincore", "mmap", "mprotect", "munmap", "prctl",
	"exit", "exit_group", "futex", "getpid", "gettid", "restart_syscall", "rseq", "sched_getaffinity", "sched_yield", "set_robust_list", "tgkill",
	"clock_gettime", "clock_nanosleep", "gettimeofday", "nanosleep",
	"getrandom", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack",
}

// Relay compiles the filter of liege-relay. What is not on its list answers
// EPERM, of another ABI it kills; of clone only threads are left. lookup adds
// openat2, for one that has to follow paths itself.
func Relay(lookup bool) ([]stage.Filter, error) {
	rules := map[string][]rule{}
	for _, name := range relayCalls {
		rules[name] = []rule{{then: allow}}
	}
	if lookup {
		rules["openat2"] = []rule{{then: allow}}
	}
	for _, family := range []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6} {
		rules["socket"] = append(rules["socket"], rule{then: allow, conds: []cond{
			{arg: 0, op: specs.OpEqualTo, value: family},
			{arg: 1, op: specs.OpMaskedEqual, mask: 0xf, value: unix.SOCK_STREAM},
			{arg: 2, op: specs.OpEqualTo, value: 0},
		}})
	}
	rules["clone"] = []rule{{then: allow, conds: []cond{
		{arg: 0, op: specs.OpMaskedEqual, mask: unix.CLONE_THREAD | unix.CLONE_VM, value: unix.CLONE_THREAD | unix.CLONE_VM},
	}}}
	rules["clone3"] = []rule{{then: nosys}}
	m, err := machineOf(runtime.GOARCH)
	if err != nil {
		return nil, fmt.Errorf("seccomp: %w", err)
	}
	return compile(m, rules, perm)
}
