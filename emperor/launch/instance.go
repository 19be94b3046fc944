package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"liege/emperor"
	"liege/emperor/channel"
	"liege/emperor/listen"
	"liege/emperor/logs"
	"liege/emperor/record"
	"liege/sandbox"
	"liege/sandbox/stage"
	"liege/vassal"
)

// instance is one running generation. It implements emperor.Instance.
type instance struct {
	l       *launcher
	log     *logs.Log
	p       *prepared
	gen     int
	control *channel.Channel // nil: adopted
	record  record.Record
	box     *sandbox.Sandbox

	ctx      context.Context // of Launch, without its end
	ready    chan vassal.Problems
	done     chan struct{}
	shut     chan struct{} // closed when it accepts no more, or is gone
	shutOnce sync.Once
	exit     vassal.Exit
	problems vassal.Problems
	asked    atomic.Bool // to drain, or to end

	mu     sync.Mutex
	said   vassal.Problems // why the core says that it fails, why we ended it
	counts vassal.Counts
	usage  emperor.Usage
}

func newInstance(ctx context.Context, l *launcher, p *prepared, gen int) *instance {
	return &instance{ctx: context.WithoutCancel(ctx), l: l, p: p, gen: gen, ready: make(chan vassal.Problems, 1), done: make(chan struct{}), shut: make(chan struct{})}
}

// PID implements emperor.Instance, and so do the methods below.
func (in *instance) PID() int                      { return in.box.PID() }
func (in *instance) Ready() <-chan vassal.Problems { return in.ready }
func (in *instance) Done() <-chan struct{}         { return in.done }
func (in *instance) Exit() vassal.Exit             { return in.exit }
func (in *instance) Problems() vassal.Problems     { return in.problems }

func (in *instance) Drain() error {
	in.asked.Store(true)
	if in.control != nil && in.control.Send(vassal.Drain) == nil {
		return nil
	}
	return gone(in.box.Signal(syscall.SIGTERM))
}

func (in *instance) Kill() error {
	in.asked.Store(true)
	return in.box.Kill()
}

func (in *instance) Alone() error {
	if in.control == nil {
		return nil
	}
	return in.control.Send(vassal.Alone)
}

// gone drops the error that says that there is nobody to signal.
func gone(err error) error {
	if errors.Is(err, syscall.ESRCH) || errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Usage implements emperor.Instance.
func (in *instance) Usage() emperor.Usage {
	in.mu.Lock()
	defer in.mu.Unlock()
	select {
	case <-in.done:
		return in.usage
	default:
	}
	in.measure()
	return in.usage
}

// measure reads what the kernel counts, with in.mu held.
func (in *instance) measure() {
	if v, err := in.l.host.Sandboxes.Vassal(in.l.name); err == nil {
		if u, err := v.Usage(); err == nil {
			in.usage = emperor.Usage{MemoryBytes: u.MemoryBytes, OOMKills: u.OOMKills, CPUUsec: u.CPUUsec, Pids: u.Pids}
		}
	}
	in.usage.Requests = in.counts.Requests
}

// run takes over a started sandbox. Two goroutines live until Done: one hears
// the core, one waits for the end.
func (in *instance) run(box *sandbox.Sandbox, ch *listen.Change) {
	in.box, in.log = box, in.l.log
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		in.hear(ch)
	}()
	go in.finish(heard, ch)
}

// hear obeys the core's messages until it closes its end or breaks a rule.
func (in *instance) hear(ch *listen.Change) {
	verified, ready := false, false
	for {
		m, err := in.control.Receive()
		if err == nil {
			err = in.obey(m, ch, &verified, &ready)
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			in.end(err)
			return
		}
	}
}

// obey acts on one message. An error ends the generation.
func (in *instance) obey(m vassal.Message, ch *listen.Change, verified, ready *bool) error {
	switch m.Type {
	case vassal.Hello:
		if *verified {
			return fmt.Errorf("%w: hello twice", channel.ErrBroken)
		}
		if err := in.box.Verify(); err != nil {
			return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeCheckFailed, File: in.p.Config.File, Step: "verify", Message: err.Error()}
		}
		*verified = true
		in.record.Verified = true
		in.write()
		return in.control.Send(vassal.Verified)
	case vassal.Ready:
		if !*verified || *ready {
			return fmt.Errorf("%w: ready at the wrong time", channel.ErrBroken)
		}
		*ready = true
		in.serves(ch)
		in.ready <- in.claims(m.Notes, vassal.Warning)
	case vassal.Failed:
		in.mu.Lock()
		defer in.mu.Unlock()
		if len(in.said) < maxClaims { // the first ones say why
			in.said = append(in.said, in.claims(vassal.Problems{*m.Reason}, vassal.Error)...)
		}
	case vassal.Closed:
		in.shutOnce.Do(func() { close(in.shut) })
	case vassal.Reload:
		in.p.hup.Store(true)
	case vassal.Counters:
		in.mu.Lock()
		defer in.mu.Unlock()
		in.counts = *m.Counts
	}
	return nil
}

// serves makes final what the start changed.
func (in *instance) serves(ch *listen.Change) {
	ch.Commit()
	in.pidFile(true)
	in.record.Ready = true
	in.write()
}

// write brings the generation's record up to date.
func (in *instance) write() {
	if err := in.l.host.Records.Write(in.record); err != nil {
		in.l.host.Log.Warn("the record of a generation is not up to date", "vassal", in.l.name, "gen", in.gen, "err", err)
	}
}

// Shut implements emperor.Shutter.
func (in *instance) Shut() <-chan struct{} { return in.shut }

// Bound implements emperor.Binder.
func (in *instance) Bound() []string {
	var out []string
	for _, l := range in.record.Listeners { // written once, before Launch returned
		out = append(out, l.Bound)
	}
	return out
}

// maxRemains bounds how many processes Remains names.
const maxRemains = 8

// Remains implements emperor.Remainer: which processes are left and what in
// the kernel they wait for (KERNEL 40).
func (in *instance) Remains() string {
	pids := in.box.Processes()
	if len(pids) == 0 {
		return "no process is left, but its cgroup or mounts cannot be removed yet"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d processes are left:", len(pids))
	for _, pid := range pids[:min(len(pids), maxRemains)] {
		fmt.Fprintf(&b, " %d", pid)
		if w, err := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", pid)); err == nil && len(w) > 1 {
			fmt.Fprintf(&b, " (in %s)", w)
		}
	}
	return b.String()
}

// maxClaims bounds what is kept of a core's problems.
const maxClaims = 50

// claims makes what a core says fit to be shown: bounded, on printable lines,
// never worse or milder than it may be, and about no file but its own.
func (in *instance) claims(ps vassal.Problems, worst vassal.Severity) vassal.Problems {
	var out vassal.Problems
	for _, p := range ps[:min(len(ps), maxClaims)] {
		if p.Severity == vassal.Error || worst == vassal.Error {
			p.Severity = worst
		} else if p.Severity != vassal.Note {
			p.Severity = vassal.Warning
		}
		if !vassal.KnownCode(p.Code) {
			p.Code = vassal.CodeStartFailed
		}
		for _, s := range []*string{&p.File, &p.Key, &p.Step, &p.Message, &p.Hint} {
			*s = cleanLines(*s)
		}
		out = append(out, p)
	}
	return out
}

// cleanLines is logs.Clean of each line.
func cleanLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = logs.Clean(lines[i])
	}
	return strings.Join(lines, "\n")
}

// end ends the generation because of err.
func (in *instance) end(err error) {
	ps := vassal.AsProblems(err, "control", vassal.CodeProtocol)
	in.mu.Lock()
	in.said = append(in.said, ps...)
	in.mu.Unlock()
	if err := in.box.Kill(); err != nil {
		in.l.host.Log.Error("a generation that must end cannot be killed", "vassal", in.l.name, "gen", in.gen, "err", err)
	}
}

// finish waits until nothing is left, then says why.
func (in *instance) finish(heard <-chan struct{}, ch *listen.Change) {
	defer close(in.done)
	defer in.shutOnce.Do(func() { close(in.shut) })
	<-in.box.Done()
	if in.control != nil {
		// The last words are in the socket's queue: the core's end is closed,
		// so hear comes to the end of it.
		<-heard
		in.control.Close()
	}
	if ch != nil {
		ch.Abort() // nothing, once it served
	}
	in.mu.Lock()
	in.measure()
	in.mu.Unlock()
	in.pidFile(false)
	in.exit = in.box.Exit()
	in.problems = in.why()
	if in.asked.Load() && !in.problems.Failed() {
		in.exit.Reason = ""
	}
	if err := in.l.host.Records.Remove(in.l.name, in.gen); err != nil {
		in.l.host.Log.Warn("the record of a generation stays", "vassal", in.l.name, "gen", in.gen, "err", err)
	}
}

// why says why the generation ended; nothing if it was asked to and could.
func (in *instance) why() vassal.Problems {
	var ps vassal.Problems
	select {
	case f := <-in.box.Failure():
		ps = append(ps, stageProblem(f, in.p.Config.File))
	default:
	}
	in.mu.Lock()
	ps = append(ps, in.said...)
	in.mu.Unlock()
	if in.exit.OOM {
		ps = append(ps, in.problem(vassal.CodeOOM, in.exit.Reason, in.p.Config.Limits.MemoryMaxAt))
	}
	if len(ps) == 0 && !in.asked.Load() {
		reason := in.exit.Reason
		if reason == "" {
			reason = "exited with status 0"
		}
		ps = append(ps, in.problem(vassal.CodeExitedEarly, reason, vassal.Origin{}))
	}
	if len(ps) > 0 && in.log != nil {
		in.log.Settle()
		if tail := in.log.Tail(12); len(tail) > 0 {
			ps = append(ps, vassal.Problem{Severity: vassal.Note, Code: vassal.CodeLastLines, Step: "log", Message: strings.Join(tail, "\n")})
		}
		for _, p := range ps {
			if p.Severity == vassal.Error {
				in.log.Note("%s ended: %s", title(in.gen), p.Error())
			}
		}
	}
	return ps
}

func (in *instance) problem(code, msg string, at vassal.Origin) vassal.Problem {
	file := at.File
	if file == "" {
		file = in.p.Config.File
	}
	return vassal.Problem{Severity: vassal.Error, Code: code, File: file, Line: at.Line, Step: "run", Message: msg}
}

// stageProblem is what the stage reports, for people.
func stageProblem(f *stage.Failure, file string) vassal.Problem {
	p := vassal.Problem{Severity: vassal.Error, Code: vassal.CodeStartFailed, File: f.At.File, Line: f.At.Line, Step: string(f.Step), Message: f.Msg}
	if p.File == "" {
		p.File = file
	}
	if f.Step == stage.StepRootHook || f.Step == stage.StepUserHook {
		p.Code = vassal.CodeHookFailed
	}
	if f.What != "" {
		p.Message = f.What + ": " + f.Msg
	}
	if f.Output != "" {
		p.Message += "; it said: " + cleanLines(strings.TrimSpace(f.Output))
	}
	return p
}
