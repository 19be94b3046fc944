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
)

// shell is what runs a hook's command.
const shell = "/bin/sh"

// command runs one command to its end. It is started from this thread, so it
// inherits what this thread has.
func (r *run) command(h vassal.Hook, text string) (string, error) {
	argv := []string{"sh", "-c", text}
	if h.Phase.Place() != vassal.AtUser {
		return r.rootCommand(argv)
	}
	last := tailPlan{Seccomp: r.p.Seccomp, NoSeccomp: r.p.NoSeccomp, Caps: r.p.Caps, Landlock: r.p.Landlock, Context: r.p.Context, ByExec: r.p.ByExec, Env: r.environ(r.p.HookEnv)}
	last.Exec, last.Args = r.p.Through(shell, argv)
	b, err := json.Marshal(last)
	if err != nil {
		return "", err
	}
	plan, err := Seal("hook", b)
	if err != nil {
		return "", err
	}
	pair, err := r.statusPair()
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

// rootCommand runs a command of root's, in a domain that cannot change into any
// other (KERNEL 3). The thread's attribute is inherited by the child it forks,
// and used up by the child's exec.
func (r *run) rootCommand(argv []string) (string, error) {
	if r.p.HookCon == "" {
		return r.supervise(shell, argv, r.p.HookEnv, nil)
	}
	if err := r.setExec(r.p.HookCon); err != nil {
		return "", err
	}
	output, err := r.supervise(shell, argv, r.p.HookEnv, nil)
	return output, errors.Join(err, r.setExec(""))
}

// statusPair is a status channel that the vassal's context may write to after
// it was entered (KERNEL 7).
func (r *run) statusPair() (pair [2]int, err error) {
	const file = "thread-self/attr/sockcreate"
	if r.p.Context != "" {
		if err := r.writeProc(file, r.p.Context); err != nil {
			return pair, err
		}
	}
	pair, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if r.p.Context != "" {
		err = errors.Join(err, r.writeProc(file, ""))
	}
	return pair, err
}

// ArgRun is the first argument of a core that is to execute another program,
// for a hook or a guest in a domain that only the core's file leads into:
// liege-core --run PROGRAM ARGV0 ARG…
const ArgRun = "--run"

// tailPlan is the end of a start, as one command of an as-user hook does it.
type tailPlan struct {
	Caps      []int     `json:"caps,omitempty"`
	Landlock  *Landlock `json:"landlock,omitempty"`
	Seccomp   Program   `json:"seccomp"`
	NoSeccomp bool      `json:"no_seccomp,omitempty"`
	Context   string    `json:"context"`
	ByExec    bool      `json:"by_exec,omitempty"`
	Exec      string    `json:"exec"`
	Args      []string  `json:"args"`
	Env       []string  `json:"env"`
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
	if (len(t.Seccomp) == 0) != t.NoSeccomp || len(t.Args) == 0 {
		return failure(StepPlan, errors.New("a hook without filter or arguments"))
	}
	r.p = &Plan{Landlock: t.Landlock, NoSeccomp: t.NoSeccomp, Context: t.Context, ByExec: t.ByExec}
	caps := CapSet(t.Caps)
	for _, e := range [][2]string{{"CapEff", caps}, {"CapPrm", caps}, {"CapBnd", caps}, {"NoNewPrivs", "1"}} {
		if err := r.expect(StepNoNew, e[0], e[1]); err != nil {
			return failure(StepNoNew, err)
		}
	}
	if err := r.setLandlock(); err != nil {
		return failure(StepLandlock, err)
	}
	if err := r.setContext(); err != nil {
		return failure(StepSetcon, err)
	}
	if err := r.loadFilter(t.Seccomp); err != nil {
		return failure(StepSeccomp, err)
	}
	if t.ByExec {
		return failure(StepExec, r.execInto(nil, t.Exec, t.Args, t.Env))
	}
	return failure(StepExec, r.execBecome([]int{r.status}, t.Context, t.Exec, t.Args, t.Env))
}

// maxOutput is how much of a command's output a Failure can carry.
const maxOutput = 1 << 10

// supervise runs a program with its output going to the log, and waits for it
// by polling: no other thread takes part (KERNEL 6). When its time is over, or
// the Emperor is gone, the program's process group is killed.
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
	late, err := out.wait(pid, pidfd, pipe[0], r.status, r.late)
	if err != nil {
		return out.last(), err
	}
	var ws unix.WaitStatus
	if _, err := unix.Wait4(pid, &ws, 0, nil); err != nil {
		return out.last(), fmt.Errorf("wait: %w", err)
	}
	switch {
	case late:
		err = fmt.Errorf("took longer than %s and was killed", r.limitText())
	case ws.Signaled():
		err = fmt.Errorf("was killed by %s", unix.SignalName(ws.Signal()))
	case ws.ExitStatus() != 0:
		err = fmt.Errorf("exit status %d", ws.ExitStatus())
	}
	return out.last(), err
}

// output copies what a command prints to the log and keeps its end.
type output struct{ end []byte }

// wait returns when the process has ended, and whether it had to be killed
// because it was late.
func (o *output) wait(pid, pidfd, pipe, status int, deadline time.Time) (late bool, err error) {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}, {Fd: int32(pipe), Events: unix.POLLIN}, {Fd: int32(status)}}
	end := func() error {
		if err := unix.Kill(-pid, unix.SIGKILL); err != nil {
			return fmt.Errorf("kill: %w", err)
		}
		return nil
	}
	for orphan := false; ; {
		ms := -1
		if !late {
			ms = int(max(0, time.Until(deadline).Milliseconds()+1))
		}
		if time.Now().After(deadline) && !late {
			late = true
			if err := end(); err != nil {
				return late, err
			}
			continue
		}
		if _, err := unix.Poll(fds, ms); err != nil && !errors.Is(err, unix.EINTR) {
			return late, fmt.Errorf("poll: %w", err)
		}
		if fds[2].Revents&unix.POLLHUP != 0 {
			orphan, fds[2].Fd = true, -1
			if err := end(); err != nil {
				return late, err
			}
		}
		open := true
		if fds[1].Revents != 0 {
			open = o.copy(pipe)
		}
		if fds[0].Revents != 0 {
			o.rest(pipe)
			if orphan {
				err = errOrphan
			}
			return late, err
		}
		if !open {
			fds[1].Fd = -1
		}
	}
}

// rest copies what is left, at most a pipe's worth (64 KiB).
func (o *output) rest(pipe int) {
	for range 16 {
		if !o.more(pipe) || !o.copy(pipe) {
			return
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
