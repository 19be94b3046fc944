package worker

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// reaper starts processes and waits for them, and, if it adopts, for every
// orphan that becomes a child of this process: nobody else in the process may
// wait (KERNEL 30: wait4(-1) of one steals the status of the other).
type reaper struct {
	adopt bool // set before run

	mu    sync.Mutex
	known map[int]chan syscall.WaitStatus
}

func newReaper() *reaper {
	return &reaper{known: make(map[int]chan syscall.WaitStatus)}
}

// start starts a process. Its status arrives once on the channel.
func (r *reaper) start(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan syscall.WaitStatus, error) {
	r.mu.Lock() // so that it is known before it can be reaped
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, nil, err
	}
	status := make(chan syscall.WaitStatus, 1)
	r.known[pid] = status
	return pid, status, nil
}

// run reaps until ctx ends.
func (r *reaper) run(ctx context.Context) error {
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	defer signal.Stop(children)
	if r.adopt && os.Getpid() != 1 {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("become the parent of orphans: %w", err)
		}
	}
	for {
		r.reap()
		select {
		case <-children:
		case <-ctx.Done():
			r.reap()
			return nil
		}
	}
}

// reap waits for all that have ended.
func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for pid, status := range r.known {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(pid, &ws, syscall.WNOHANG, nil)
		if got == pid || err == syscall.ECHILD {
			status <- ws
			delete(r.known, pid)
		}
	}
	for r.adopt {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		// One that is known may have ended since the loop above.
		if status, ok := r.known[pid]; ok {
			status <- ws
			delete(r.known, pid)
		}
	}
}

// killAll kills and reaps every child of this process: what an application
// left behind by forking twice. It gives up after a while.
func (r *reaper) killAll() error {
	for deadline := time.Now().Add(5 * time.Second); ; {
		r.reap()
		if r.none() {
			return nil
		}
		left := r.children()
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes that do not die: %v", left)
		}
		time.Sleep(time.Millisecond)
	}
}

// children are this process's own.
func (r *reaper) children() []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	var out []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil && parentOf(pid) == os.Getpid() {
			out = append(out, pid)
		}
	}
	return out
}

// none reports whether this process has no child left, dead or alive.
func (r *reaper) none() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var info unix.Siginfo
	return unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) == unix.ECHILD
}
