package worker

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// oomWorse is how much sooner than the core a worker is killed when memory
// runs out (KERNEL 37).
const oomWorse = 300

var resources = map[string]int{
	"as": unix.RLIMIT_AS, "data": unix.RLIMIT_DATA, "stack": unix.RLIMIT_STACK,
	"cpu": unix.RLIMIT_CPU, "nproc": unix.RLIMIT_NPROC, "nofile": unix.RLIMIT_NOFILE,
	"core": unix.RLIMIT_CORE, "fsize": unix.RLIMIT_FSIZE, "memlock": unix.RLIMIT_MEMLOCK,
	"msgqueue": unix.RLIMIT_MSGQUEUE, "sigpending": unix.RLIMIT_SIGPENDING,
}

// limit sets the limits of process pid, which waits for its program: they are
// the application's, and the core could not live with them (KERNEL 5).
func limit(pid int, limits []vassal.Rlimit) error {
	for _, l := range limits {
		resource, ok := resources[l.Resource]
		if !ok {
			return fmt.Errorf("limit-%s: no such limit", l.Resource)
		}
		want := unix.Rlimit{Cur: l.Value, Max: l.Value}
		err := unix.Prlimit(pid, resource, &want, nil)
		if errors.Is(err, unix.EPERM) {
			// Above the hard limit, which nobody here may raise: what there
			// is is stricter than what was asked for.
			var have unix.Rlimit
			if unix.Prlimit(pid, resource, nil, &have) == nil && have.Max < l.Value {
				want = unix.Rlimit{Cur: have.Max, Max: have.Max}
				err = unix.Prlimit(pid, resource, &want, nil)
			}
		}
		if err != nil {
			return fmt.Errorf("limit-%s = %d: %w", l.Resource, l.Value, err)
		}
	}
	return nil
}

// exposeToOOM makes process pid die before the core. Where /proc does not let
// us there is no better place for it, so there is no error.
func (p *Pool) exposeToOOM(pid int) {
	if score := childScore(); score != "" {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(score), 0)
	}
}

// childScore is the oom_score_adj of what the core starts, empty if its own is
// not known. That is another one when it serves than when it starts: the Emperor
// sets it.
func childScore() string {
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return ""
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(own)))
	if err != nil {
		return ""
	}
	return strconv.Itoa(min(score+oomWorse, 1000))
}
