package stage

import (
	"fmt"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// become re-executes this binary into its constructor, which enters the
// context and executes the core. The constructor has one thread, which is what
// a change of domain needs (EPERM with more); it is reached by descriptor, so
// nothing that a hook did to /proc or to the binary's path matters.
func (r *run) become() error {
	f := r.p.Files
	keep := []int{f.Control(), f.App(), f.Status()}
	for i := range f.Listeners {
		keep = append(keep, FirstFD+i)
	}
	argv := append([]string{r.p.Args[0]}, r.p.Args[1:]...)
	return r.execBecome(keep, r.p.Context, r.p.Exec, argv, r.environ(r.p.Env))
}

// execBecome gives the constructor the descriptors keep, of which it closes
// status at its own exec.
func (r *run) execBecome(keep []int, context, program string, argv, env []string) error {
	for _, fd := range keep {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return failed(StepExec, program, fmt.Errorf("fd %d: %w", fd, err))
		}
	}
	full := append([]string{"liege-stage", argBecome, context, strconv.Itoa(r.status), "--", program}, argv...)
	return failed(StepExec, program, execveat(r.self, full, env))
}

// execveat executes the open file fd. It returns only on failure.
func execveat(fd int, argv, env []string) error {
	argvp, err := pointers(argv)
	if err != nil {
		return err
	}
	envp, err := pointers(env)
	if err != nil {
		return err
	}
	empty := [1]byte{}
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(&empty[0])),
		uintptr(unsafe.Pointer(&argvp[0])), uintptr(unsafe.Pointer(&envp[0])), unix.AT_EMPTY_PATH, 0)
	return fmt.Errorf("execveat of liege-stage: %w", errno)
}

// pointers is a list of strings as execve(2) wants it.
func pointers(list []string) ([]*byte, error) {
	out := make([]*byte, 0, len(list)+1)
	for _, s := range list {
		p, err := unix.BytePtrFromString(s)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return append(out, nil), nil
}
