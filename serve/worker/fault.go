package worker

import (
	"fmt"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// faults are the signals by which the kernel ends a program that has gone wrong.
// uWSGI's handlers know the first two; the others mean the same.
var faults = []syscall.Signal{unix.SIGSEGV, unix.SIGFPE, unix.SIGBUS, unix.SIGILL}

// OnFault has heard called with a line about each worker, mule and spooler that
// ends by a fault. It must not wait. Call it before Run.
func (p *Pool) OnFault(heard func(text string)) { p.fault = heard }

// faulted tells of the process, if it ended by a fault.
func (p *Pool) faulted(kind string, number int, pid int64, status *syscall.WaitStatus) {
	if p.fault == nil || status == nil || !status.Signaled() || !slices.Contains(faults, status.Signal()) {
		return
	}
	p.fault(fmt.Sprintf("*** %s %d (pid %d) was ended by %s ***", kind, number, pid, unix.SignalName(status.Signal())))
}
