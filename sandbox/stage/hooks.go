package stage

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"liege/vassal"
	"liege/vassal/action"
)

// hooks runs the hooks of one phase in their order. The first that fails ends
// the start.
func (r *run) hooks(phase vassal.Phase, s Step) error {
	for _, h := range r.p.Hooks {
		if h.Phase != phase {
			continue
		}
		c, err := action.Parse(h)
		var output string
		if err == nil {
			output, err = r.do(phase, c)
		}
		if err != nil {
			f := failure(s, err)
			f.Step, f.At, f.What = s, h.At, hookText(h)
			f.Output = output
			if h.Private {
				conceal(f, c)
			}
			return f
		}
	}
	return nil
}

// conceal takes out of f what can quote a private hook's argument: the output
// of a shell, and the paths in a message.
func conceal(f *Failure, c action.Call) {
	f.Output = ""
	if c.Kind == action.Exec {
		return // how it ended says nothing about the command
	}
	f.Msg = "does not work"
	if f.Errno != 0 {
		f.Msg = syscall.Errno(f.Errno).Error()
	}
}

// do runs one action, and returns the last lines of a command's output.
func (r *run) do(phase vassal.Phase, c action.Call) (string, error) {
	switch {
	case c.Kind == action.Exec:
		return r.command(phase, c.Text)
	case c.Kind == action.Putenv:
		r.env = append(r.env, c.Text)
		return "", nil
	case c.Kind == action.Print:
		_, err := fmt.Fprintln(os.Stdout, c.Text)
		return "", err
	case c.Kind == action.Setcon:
		return "", nil // checked with the plan; it is the last step
	case phase == vassal.AsRoot:
		return "", r.asRoot(c)
	}
	return "", asUser(c)
}

// shell is what runs a hook's command.
const shell = "/bin/sh"

// command runs one command to its end. It is started from this thread, so it
// inherits what this thread has.
func (r *run) command(phase vassal.Phase, text string) (string, error) {
	argv := []string{"sh", "-c", text}
	if phase == vassal.AsRoot {
		return r.supervise(shell, argv, r.p.HookEnv, nil)
	}
	last := tailPlan{Seccomp: r.p.Seccomp, Context: r.p.Context, Exec: shell, Args: argv, Env: r.environ(r.p.HookEnv)}
	b, err := json.Marshal(last)
	if err != nil {
		return "", err
	}
	plan, err := Seal("hook", b)
	if err != nil {
		return "", err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return "", errors.Join(err, plan.Close())
	}
	output, err := r.supervise(r.exe, []string{"liege-stage", argHook, "3"}, nil, []uintptr{plan.Fd(), uintptr(pair[1])})
	buf := make([]byte, MaxFailure+1)
	if n, _ := unix.Read(pair[0], buf); n > 0 {
		f := ParseFailure(buf[:n], &Plan{Exec: shell, Context: r.p.Context})
		err = fmt.Errorf("%s: %s: %s", f.Step, f.What, f.Msg)
	}
	return output, errors.Join(err, plan.Close(), unix.Close(pair[0]), unix.Close(pair[1]))
}

// tailPlan is the end of a start, as one command of an as-user hook does it.
type tailPlan struct {
	Seccomp []Filter `json:"seccomp"`
	Context string   `json:"context"`
	Exec    string   `json:"exec"`
	Args    []string `json:"args"`
	Env     []string `json:"env"`
}

// hookChild is the other side: it has the vassal's ids and no_new_privs
// already, and goes the rest of the way.
func (r *run) hookChild() *Failure {
	b, err := readSealed(r.planFD, MaxPlan)
	if err != nil {
		return failure(StepPlan, err)
	}
	var t tailPlan
	if err := json.Unmarshal(b, &t); err != nil {
		return failure(StepPlan, err)
	}
	if len(t.Seccomp) == 0 || len(t.Args) == 0 {
		return failure(StepPlan, errors.New("a hook without filter or arguments"))
	}
	for _, e := range [][2]string{{"CapEff", noCaps}, {"CapPrm", noCaps}, {"CapBnd", noCaps}, {"NoNewPrivs", "1"}} {
		if err := r.expect(StepNoNew, e[0], e[1]); err != nil {
			return failure(StepNoNew, err)
		}
	}
	if err := r.loadFilter(t.Seccomp); err != nil {
		return failure(StepSeccomp, err)
	}
	return failure(StepExec, r.execBecome([]int{r.status}, t.Context, t.Exec, t.Args, t.Env))
}

// maxOutput is how much of a command's output a Failure can carry.
const maxOutput = 1 << 10

// supervise runs a program with its output going to the log, and waits for it
// by polling: no other thread takes part (KERNEL 6). After HookTime the
// program's process group is killed.
func (r *run) supervise(program string, argv, env []string, extra []uintptr) (string, error) {
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open /dev/null: %w", err)
	}
	defer unix.Close(null)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return "", fmt.Errorf("pipe: %w", err)
	}
	defer unix.Close(pipe[0])
	pidfd := -1
	files := append([]uintptr{uintptr(null), uintptr(pipe[1]), uintptr(pipe[1])}, extra...)
	pid, err := syscall.ForkExec(program, argv, &syscall.ProcAttr{
		Env: env, Files: files, Sys: &syscall.SysProcAttr{Setpgid: true, PidFD: &pidfd},
	})
	err = errors.Join(err, unix.Close(pipe[1]), unix.SetNonblock(pipe[0], true))
	if err != nil {
		return "", fmt.Errorf("%s: %w", program, err)
	}
	if pidfd < 0 {
		return "", errors.Join(errors.New("this kernel has no pidfd (Linux 5.4)"), unix.Kill(-pid, unix.SIGKILL))
	}
	defer unix.Close(pidfd)
	out := &output{}
	late, err := out.wait(pid, pidfd, pipe[0], time.Now().Add(r.hookTime()))
	if err != nil {
		return out.last(), err
	}
	var ws unix.WaitStatus
	if _, err := unix.Wait4(pid, &ws, 0, nil); err != nil {
		return out.last(), fmt.Errorf("wait: %w", err)
	}
	switch {
	case late:
		err = fmt.Errorf("took longer than %d s and was killed", r.p.HookTime)
	case ws.Signaled():
		err = fmt.Errorf("was killed by %s", unix.SignalName(ws.Signal()))
	case ws.ExitStatus() != 0:
		err = fmt.Errorf("exit status %d", ws.ExitStatus())
	}
	return out.last(), err
}

// output copies what a command prints to the log and keeps its end.
type output struct{ end []byte }

// wait returns when the process has ended, and whether it had to be killed.
func (o *output) wait(pid, pidfd, pipe int, deadline time.Time) (late bool, err error) {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}, {Fd: int32(pipe), Events: unix.POLLIN}}
	for {
		ms := -1
		if !late {
			ms = int(max(0, time.Until(deadline).Milliseconds()+1))
		}
		if time.Now().After(deadline) && !late {
			late = true
			if err := unix.Kill(-pid, unix.SIGKILL); err != nil {
				return late, fmt.Errorf("kill: %w", err)
			}
			continue
		}
		if _, err := unix.Poll(fds, ms); err != nil && !errors.Is(err, unix.EINTR) {
			return late, fmt.Errorf("poll: %w", err)
		}
		open := true
		if fds[1].Revents != 0 {
			open = o.copy(pipe)
		}
		if fds[0].Revents != 0 {
			for range 16 { // 64 KiB: a pipe's worth
				if !o.more(pipe) || !o.copy(pipe) {
					break
				}
			}
			return late, nil
		}
		if !open {
			fds[1].Fd = -1
		}
	}
}

// more reports whether pipe has bytes now. A daemon that keeps on writing must
// not keep its hook alive, so no more than a pipe's worth is taken at the end.
func (o *output) more(pipe int) bool {
	fds := []unix.PollFd{{Fd: int32(pipe), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return n > 0 && err == nil && fds[0].Revents&unix.POLLIN != 0
}

// copy moves what is there now; false at the end of file.
func (o *output) copy(pipe int) bool {
	buf := make([]byte, 4096)
	n, err := unix.Read(pipe, buf)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return true
	}
	if n <= 0 || err != nil {
		return false
	}
	os.Stdout.Write(buf[:n]) //nolint:errcheck // a log that is gone is no reason to fail a hook
	o.end = append(o.end, buf[:n]...)
	if len(o.end) > 2*maxOutput {
		o.end = append(o.end[:0], o.end[len(o.end)-maxOutput:]...)
	}
	return true
}

func (o *output) last() string { return strings.TrimSpace(tail(string(o.end), maxOutput)) }

// killLeftovers ends every process that hooks left, and reaps them. As PID 1
// that is everything in the namespace; else the children, which are all of
// them because orphans come to a subreaper.
func (r *run) killLeftovers(s Step) error {
	deadline := time.Now().Add(r.hookTime())
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
