package worker

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// Program is a process that is no worker: a CGI program.
type Program struct {
	Path   string
	Argv   []string
	Env    []string
	Dir    string
	Files  [3]*os.File // standard input, output and error
	Limits *vassal.ProcessLimits
}

// Process is a Program that runs. Whoever started it waits for Status, once.
type Process struct {
	PID    int
	Status <-chan syscall.WaitStatus
}

// Start starts a program in a process group of its own. Run waits for it (only
// the pool may wait for children, see reaper), so it must be running.
//
// Limits are set between fork and exec: where there are any, this process's
// own executable is started first, sets them on itself and then executes the
// program (see ExecLimited). An error that is fs.ErrPermission, fs.ErrNotExist
// or ENOEXEC is the program's.
func (p *Pool) Start(prog *Program) (Process, error) {
	path, argv := prog.Path, prog.Argv
	if words := limitWords(prog.Limits); words != "" {
		// What is checked here is checked once more by exec; so a missing
		// program is the caller's error and not an exit status.
		if err := unix.Access(path, unix.X_OK); err != nil {
			return Process{}, &os.PathError{Op: "exec", Path: path, Err: err}
		}
		argv = append([]string{"liege-core", ArgLimited, words, path}, argv...)
		path = "/proc/self/exe"
	}
	pid, status, err := p.reaper.start(path, argv, &syscall.ProcAttr{
		Dir: prog.Dir, Env: prog.Env,
		Files: []uintptr{prog.Files[0].Fd(), prog.Files[1].Fd(), prog.Files[2].Fd()},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return Process{}, &os.PathError{Op: "exec", Path: prog.Path, Err: err}
	}
	p.exposeToOOM(pid)
	return Process{pid, status}, nil
}

// Kill ends the process and what it has started, unless that left its group.
// Call it before Status was received: afterwards the number may be another's.
func (p *Process) Kill() { _ = unix.Kill(-p.PID, unix.SIGKILL) } // ESRCH: it has ended

// Environ is what the application's processes have in their environment.
func (p *Pool) Environ() []string { return p.environ() }

// ArgLimited is the first argument of this program when it is to execute
// another one under limits: ArgLimited LIMITS PROGRAM ARGV0 [ARG…].
const ArgLimited = "--limited"

// limitWords writes l as ExecLimited reads it.
func limitWords(l *vassal.ProcessLimits) string {
	if l == nil {
		return ""
	}
	var words []string
	number := func(name string, n uint64) { words = append(words, name+"="+strconv.FormatUint(n, 10)) }
	if l.Nice != 0 {
		words = append(words, "nice="+strconv.Itoa(l.Nice))
	}
	if l.Umask != nil {
		number("umask", uint64(l.Umask.Perm()))
	}
	for _, r := range l.Rlimits { // last: what limits memory may end this program
		number(r.Resource, r.Value)
	}
	return strings.Join(words, ",")
}

// ExecLimited sets the limits and executes the program that args name: LIMITS
// PROGRAM ARGV0 [ARG…]. It returns only if that cannot be done.
//
// This program has more memory mapped than limit-as allows, so it would die of
// the runtime's next mmap(2): from the first limit on it makes only system
// calls that the runtime does not hear of, with what was made before.
func ExecLimited(args []string) error {
	runtime.LockOSThread() // the nice value is the thread's, and the thread that executes keeps its own
	if len(args) < 3 {
		return fmt.Errorf("usage: %s LIMITS PROGRAM ARGV0 [ARG…]", ArgLimited)
	}
	// It fails, and has put back the soft limit of open files that package
	// syscall raised when this program started.
	_ = syscall.Exec("", args[2:], nil)
	limits, err := readLimits(args[0])
	if err != nil {
		return err
	}
	path, err := syscall.BytePtrFromString(args[1])
	if err != nil {
		return &os.PathError{Op: "exec", Path: args[1], Err: err}
	}
	argv, err := syscall.SlicePtrFromStrings(args[2:])
	if err != nil {
		return &os.PathError{Op: "exec", Path: args[1], Err: err}
	}
	env, err := syscall.SlicePtrFromStrings(os.Environ())
	if err != nil {
		return &os.PathError{Op: "exec", Path: args[1], Err: err}
	}
	debug.SetGCPercent(-1)
	return &os.PathError{Op: "exec", Path: args[1], Err: execRaw(path, &argv[0], &env[0], limits)}
}

// rlimit is a limit as the kernel takes it.
type rlimit struct {
	resource int
	value    unix.Rlimit
}

// readLimits sets the nice value and the umask that words name, and returns the
// limits.
func readLimits(words string) ([]rlimit, error) {
	var limits []rlimit
	for word := range strings.SplitSeq(words, ",") {
		name, value, _ := strings.Cut(word, "=")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("limit %q: %w", word, err)
		}
		resource, ok := resources[name]
		switch {
		case name == "nice":
			err = unix.Setpriority(unix.PRIO_PROCESS, 0, int(n))
			if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
				err = nil // it is nicer already, as nobody here may undo
			}
		case name == "umask":
			unix.Umask(int(n))
		case ok:
			var have unix.Rlimit
			if err = unix.Prlimit(0, resource, nil, &have); err == nil {
				// Nobody here may raise a hard limit: what there is is
				// stricter than what was asked for.
				most := min(uint64(n), have.Max)
				limits = append(limits, rlimit{resource, unix.Rlimit{Cur: most, Max: most}})
			}
		default:
			err = errors.New("no such limit")
		}
		if err != nil {
			return nil, fmt.Errorf("limit %q: %w", word, err)
		}
	}
	return limits, nil
}

// execRaw sets the limits and executes, without the runtime.
func execRaw(path *byte, argv, env **byte, limits []rlimit) syscall.Errno {
	for i := range limits {
		l := &limits[i]
		_, _, errno := syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, uintptr(l.resource), uintptr(unsafe.Pointer(&l.value)), 0, 0, 0)
		if errno != 0 {
			return errno
		}
	}
	_, _, errno := syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(argv)), uintptr(unsafe.Pointer(env)))
	return errno
}

// Wait waits until the process has ended, at most until by; then it is killed.
// It reports whether it ended by itself.
func (p *Process) Wait(by time.Time) (syscall.WaitStatus, bool) {
	t := time.NewTimer(time.Until(by))
	defer t.Stop()
	select {
	case ws := <-p.Status:
		return ws, true
	case <-t.C:
		p.Kill()
		return <-p.Status, false
	}
}
