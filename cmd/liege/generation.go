package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"liege/emperor/channel"
	"liege/emperor/resolve"
	"liege/sandbox/seccomp"
	"liege/sandbox/stage"
	"liege/selinux"
	"liege/vassal"
)

// generation is one core that liege serve runs: as the caller, or through the
// stage when privileges are to be dropped first.
type generation struct {
	cmd     *exec.Cmd
	control *channel.Channel
	ready   chan vassal.Problems // receives once
	failed  chan vassal.Problem  // capacity 2: what the core or the stage says
	reload  chan struct{}        // receives when the core wishes another generation
	rested  chan time.Time       // receives when its daemons and jobs have ended: Until of that message
	done    chan struct{}        // closed when the core is gone
	err     error                // of Wait; valid after done
	plan    stage.Plan           // what the stage was told, if it was used
	touched *touched

	closeLog func()
}

// startGeneration starts a core with the listeners. It owns no file given to
// it.
func (s *server) startGeneration(ctx context.Context, r *resolve.Result, gen int, listeners []*os.File) (*generation, error) {
	r.App.Generation, r.App.Foreground = gen, true
	if problems := s.certificates(&r.App); problems.Failed() {
		return nil, &exit{code: exitFailed, problems: problems}
	}
	doc, err := json.Marshal(r.App)
	if err != nil {
		return nil, err
	}
	core, err := sibling("liege-core")
	if err != nil {
		return nil, err
	}
	b := &donation{}
	defer b.close()
	g := &generation{ready: make(chan vassal.Problems, 1), failed: make(chan vassal.Problem, 2), reload: make(chan struct{}, 1), rested: make(chan time.Time, 1), done: make(chan struct{}), touched: newTouched(r)}
	var ours *channel.Channel
	var theirs *os.File
	err = selinux.Sockets(r.Plan.Context, func() (err error) {
		ours, theirs, err = channel.Pair()
		return err
	})
	if err != nil {
		return nil, err
	}
	g.control = ours
	b.add(theirs)
	app, err := stage.Seal("liege-app", doc)
	if err != nil {
		ours.Close()
		return nil, err
	}
	b.add(app)
	d := stage.Donated{Listeners: len(listeners)}
	args := []string{"liege-core " + string(r.App.Name), fmt.Sprintf("--app=%d", d.App()), fmt.Sprintf("--control=%d", d.Control())}
	g.cmd = &exec.Cmd{Path: core, Args: args, Env: r.App.Env, Dir: r.Dir}
	var status *os.File
	if throughStage(r) {
		status, err = g.useStage(r, d, core, args, b)
		if err != nil {
			ours.Close()
			return nil, err
		}
	}
	g.cmd.ExtraFiles = append(append([]*os.File{}, listeners...), b.files...)
	g.cmd.Stdout, g.cmd.Stderr, g.closeLog = s.output(ctx, r)
	g.cmd.WaitDelay = lastWords
	// A group of its own: Ctrl-C on the terminal reaches liege alone, which
	// asks the core to drain.
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := g.cmd.Start(); err != nil {
		ours.Close()
		g.closeLog()
		if status != nil {
			status.Close()
		}
		return nil, err
	}
	go g.watch(status)
	return g, nil
}

// donation is the files made for one start, closed here once it is done.
type donation struct{ files []*os.File }

func (d *donation) add(f *os.File) { d.files = append(d.files, f) }

func (d *donation) close() {
	for _, f := range d.files {
		f.Close()
	}
}

// throughStage reports whether ids are to be changed or hooks run first.
func throughStage(r *resolve.Result) bool {
	return os.Geteuid() == 0 && (r.UID != 0 || r.GID != os.Getegid() || len(r.Plan.Hooks) > 0 || r.Plan.Context != "")
}

// useStage makes the stage the program that is started; it becomes the core.
func (g *generation) useStage(r *resolve.Result, d stage.Donated, core string, args []string, b *donation) (*os.File, error) {
	program, err := sibling("liege-stage")
	if err != nil {
		return nil, err
	}
	plan := r.Plan
	if policy, err := selinux.Load(); err == nil {
		plan.Own = policy.Own()
	} else if !errors.Is(err, selinux.ErrOff) {
		return nil, err
	}
	plan.Files, plan.Exec, plan.Args = d, core, args
	plan.Landlock = nil // what it would fence in is the host
	if len(plan.Seccomp) == 0 && !plan.NoSeccomp {
		if plan.Seccomp, err = seccomp.Default(); err != nil {
			return nil, err
		}
	}
	g.plan = plan
	doc, err := plan.Encode()
	if err != nil {
		return nil, err
	}
	sealed, err := stage.Seal("liege-plan", doc)
	if err != nil {
		return nil, err
	}
	var ours, theirs *os.File
	err = selinux.Sockets(plan.Context, func() (err error) {
		ours, theirs, err = packetPair()
		return err
	})
	if err != nil {
		sealed.Close()
		return nil, err
	}
	b.add(sealed)
	b.add(theirs)
	g.cmd.Path, g.cmd.Args, g.cmd.Env, g.cmd.Dir = program, stage.Argv(d), []string{}, "/"
	return ours, nil
}

// watch follows the core until it is gone.
func (g *generation) watch(status *os.File) {
	defer close(g.done)
	staged := make(chan struct{})
	go func() {
		defer close(staged)
		if status == nil {
			return
		}
		defer status.Close()
		buf := make([]byte, stage.MaxFailure+1)
		if n, err := status.Read(buf); err == nil && n > 0 {
			f := stage.ParseFailure(buf[:n], &g.plan)
			g.say(vassal.Problem{Severity: vassal.Error, Code: vassal.CodeStartFailed, File: f.At.File, Line: f.At.Line, Step: string(f.Step), Message: f.What + ifs(f.What != "", ": ") + f.Msg})
		}
	}()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		g.awaitEnd(status)
	}()
	g.messages()
	g.err = g.cmd.Wait()
	g.closeLog()
	<-ended
	<-staged
	g.control.Close()
}

// awaitEnd waits for the core's end and leaves it for Wait: what it and the stage
// have said is still read, but nobody else who holds their ends is waited for.
func (g *generation) awaitEnd(status *os.File) {
	for errors.Is(unix.Waitid(unix.P_PID, g.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
	_ = g.control.End(lastWords) // an error, here and below, says that it was closed
	if status != nil {
		_ = status.SetReadDeadline(time.Now().Add(lastWords))
	}
}

// messages answers the core's until it closes its end. A core that breaks a
// rule of the channel is ended: under another uid it is a stranger.
func (g *generation) messages() {
	ready := false
	for {
		m, err := g.control.Receive()
		if errors.Is(err, channel.ErrBroken) {
			g.say(vassal.Problem{Severity: vassal.Error, Code: vassal.CodeCheckFailed, Message: err.Error()})
			g.kill()
		}
		if err != nil {
			return
		}
		switch m.Type {
		case vassal.Hello:
			g.send(vassal.Verified) // it runs as whoever started it: nothing to check
		case vassal.Ready:
			if !ready {
				ready = true
				g.ready <- m.Notes
			}
		case vassal.Certificates: // the core has written what is wrong with them
		case vassal.Reload:
			select {
			case g.reload <- struct{}{}:
			default: // it was asked for already
			}
		case vassal.Rested:
			var until time.Time
			if m.Until != nil {
				until = *m.Until
			}
			select {
			case g.rested <- until:
			default: // said already
			}
		case vassal.Failed:
			g.say(*m.Reason)
		}
	}
}

// say keeps why the core or the stage failed; the first ones count.
func (g *generation) say(p vassal.Problem) {
	select {
	case g.failed <- p:
	default:
	}
}

// send tells the core. One that is gone is noticed by Wait.
func (g *generation) send(t vassal.MessageType) { _ = g.control.Send(t) }

// sameWish is how long after a signal another one says the same: timeout(1)
// sends one to the process and one to its group.
const sameWish = 500 * time.Millisecond

// end drains the core, and kills it when hurry is readable after a moment or it
// takes longer than it may. next, if any, is told what it may start.
func (g *generation) end(limit time.Duration, hurry <-chan os.Signal, next *generation) {
	g.send(vassal.Drain)
	began := time.Now()
	late := time.NewTimer(limit)
	defer late.Stop()
	for ended := false; !ended; {
		select {
		case until := <-g.rested:
			if next != nil {
				_ = next.control.SendTurn(until) // as send
			}
		case <-g.done:
			ended = true
		case <-hurry:
			if time.Since(began) >= sameWish {
				g.kill()
				hurry = nil
			}
		case <-late.C:
			g.kill()
		}
	}
	if next != nil {
		next.send(vassal.Alone)
	}
}

// kill ends the core and what it started.
func (g *generation) kill() { killTree(g.cmd.Process.Pid) }

// reason is why the core is gone.
func (g *generation) reason() vassal.Problems {
	select {
	case p := <-g.failed:
		return vassal.Problems{p}
	default:
	}
	msg := "the core ended"
	if g.err != nil {
		msg += ": " + g.err.Error()
	}
	return vassal.Problems{{Severity: vassal.Error, Code: vassal.CodeExitedEarly, Message: msg}}
}

// packetPair is the status channel of the stage: ours is read by the runtime's poller.
func packetPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "status"), os.NewFile(uintptr(fds[1]), "status"), nil
}
