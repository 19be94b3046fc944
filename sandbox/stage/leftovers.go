package stage

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// killLeftovers ends every process that hooks left, and reaps them. As PID 1
// that is everything in the namespace; else the children, which are all of
// them because orphans come to a subreaper.
func (r *run) killLeftovers(s Step) error {
	deadline := time.Now().Add(r.hookTime(vassal.Hook{}))
	for {
		err := r.killChildren()
		done := false
		if err == nil {
			done, err = reap()
		}
		if err == nil && !done && time.Now().After(deadline) {
			err = errors.New("they do not die")
		}
		if err != nil {
			return failed(s, "processes that hooks left", err)
		}
		if done {
			return nil
		}
		// Their end comes as SIGCHLD; a short poll needs no handler.
		if _, err := unix.Poll(nil, 2); err != nil && !errors.Is(err, unix.EINTR) {
			return failed(s, "processes that hooks left", err)
		}
	}
}

// reap collects every dead child. It reports whether there is no child left.
func reap() (done bool, err error) {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.ECHILD):
			return true, nil
		case errors.Is(err, unix.EINTR), err == nil && pid > 0:
		case err != nil:
			return false, fmt.Errorf("wait: %w", err)
		default:
			return false, nil
		}
	}
}

func (r *run) killChildren() error {
	if os.Getpid() == 1 {
		if err := unix.Kill(-1, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill: %w", err)
		}
		return nil
	}
	tasks, err := r.procFile("self/task", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	names, err := tasks.Readdirnames(-1)
	if err = errors.Join(err, tasks.Close()); err != nil {
		return err
	}
	for _, tid := range names {
		list, err := r.readProc("self/task/" + tid + "/children")
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) {
			return err // a thread that ended takes no child with it
		}
		for _, pid := range strings.Fields(list) {
			if err := unix.Kill(atoi(pid), unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill %s: %w", pid, err)
			}
		}
	}
	return nil
}
