package stage

import (
	"errors"
	"fmt"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// become makes the core of this process. The status channel ends with it.
//
// Without a context to enter it executes the core. With one, but without ByExec, it
// re-executes this binary into its constructor, which enters
// the context and executes the core. The constructor has one thread, which is
// what a change of domain needs (EPERM with more); it is reached by descriptor,
// so nothing that a hook did to /proc or to the binary's path matters.
//
// With ByExec the kernel changes the domain when it executes the core, whatever
// the number of threads, and closes what the new domain may not use (KERNEL 13).
func (r *run) become() error {
	f := r.p.Files
	var keep []int
	if !f.Guest {
		keep = append(keep, f.Control(), f.App())
	}
	for i := range f.Listeners {
		keep = append(keep, FirstFD+i)
	}
	env := r.environ(r.p.Env)
	switch {
	case r.p.ByExec:
		return r.execInto(keep, r.p.Exec, r.p.Args, env)
	case r.p.Context == "":
		if err := unseal(keep); err != nil {
			return failed(StepExec, r.p.Exec, err)
		}
		return failed(StepExec, r.p.Exec, execve(r.p.Exec, r.p.Args, env))
	}
	return r.execBecome(append(keep, f.Status()), r.p.Context, r.p.Exec, r.p.Args, env)
}

// setContext has the next exec enter the context, if an exec is to.
func (r *run) setContext() error {
	if !r.p.ByExec {
		return nil
	}
	if err := r.setExec(r.p.Context); err != nil {
		return failed(StepSetcon, r.p.Context, err)
	}
	return nil
}

// execInto executes program in the context of setContext, with the descriptors
// keep.
func (r *run) execInto(keep []int, program string, argv, env []string) error {
	if err := unseal(keep); err != nil {
		return failed(StepExec, program, err)
	}
	err := execve(program, argv, env)
	if errors.Is(err, unix.EACCES) {
		err = fmt.Errorf("%w; with an exec into %s that is the policy's word too: see its denials (ausearch -m avc)", err, r.p.Context)
	}
	return failed(StepExec, program, err)
}

// setExec gives the next exec of this thread, or of a child that it forks, a
// context of its own, and reads it back; an empty one is the policy's choice
// again.
func (r *run) setExec(context string) error {
	const file = "thread-self/attr/exec"
	if err := r.writeProc(file, context); err != nil {
		return err
	}
	got, err := r.readProc(file)
	if err != nil {
		return err
	}
	if got := trimContext(got); got != context {
		return fmt.Errorf("the kernel shows %q as the context of the next exec after %q was set", got, context)
	}
	return nil
}

// unseal lets the descriptors survive an exec.
func unseal(fds []int) error {
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("fd %d: %w", fd, err)
		}
	}
	return nil
}

// execBecome gives the constructor the descriptors keep, of which it closes
// status at its own exec.
func (r *run) execBecome(keep []int, context, program string, argv, env []string) error {
	if err := unseal(keep); err != nil {
		return failed(StepExec, program, err)
	}
	full := append([]string{"liege-stage", argBecome, context, strconv.Itoa(r.status), "--", program}, argv...)
	return failed(StepExec, program, execveat(r.self, full, env))
}

// execve executes program. It returns only on failure. package syscall's would
// do: this one leaves the thread alone.
func execve(program string, argv, env []string) error {
	argvp, err := pointers(argv)
	if err != nil {
		return err
	}
	envp, err := pointers(env)
	if err != nil {
		return err
	}
	path, err := unix.BytePtrFromString(program)
	if err != nil {
		return err
	}
	_, _, errno := unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(&argvp[0])), uintptr(unsafe.Pointer(&envp[0])))
	return errno
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
