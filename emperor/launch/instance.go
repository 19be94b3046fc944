package launch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"liege/emperor"
	"liege/emperor/channel"
	"liege/emperor/listen"
	"liege/emperor/logs"
	"liege/emperor/record"
	"liege/sandbox"
	"liege/sandbox/stage"
	"liege/vassal"
)

type closer interface{ Close() error }

// instance is one running generation. It implements emperor.Instance.
type instance struct {
	l       *launcher
	log     *logs.Log
	p       *prepared
	listens *prepared // whose listeners it has: p, or what it holds the place of
	gen     int
	control *channel.Channel // nil: adopted
	record  record.Record    // its Verified and Ready change, with mu held
	box     *sandbox.Sandbox
	relay   closer        // nil: none
	relayed bool          // there was to be one before it ran
	gate    *sandbox.Gate // of one that is adopted with a relay; nil: none
	left    *channel.Left // of one that is adopted: where it leaves its counts; nil: not found yet

	relaySaid sync.Once // relayGone, in the log
	bounded   *os.File  // the app's directory, which has a quota; nil: none

	began    time.Time       // Launch
	hello    atomic.Int64    // nanoseconds from that until its core ran; 0: not yet
	ctx      context.Context // of Launch, without its end
	ready    chan vassal.Problems
	done     chan struct{}
	shut     chan struct{} // closed when it accepts no more, or is gone
	shutOnce sync.Once
	wishes   chan struct{} // its core wishes another generation
	idle     chan struct{} // its core says that it may sleep
	guests   atomic.Int32  // who is inside: Enter
	rested   chan struct{} // closed when its core says that its daemons and jobs have ended
	until    time.Time     // with that
	exit     vassal.Exit
	problems vassal.Problems
	fate     atomic.Int32  // see decide
	verified atomic.Bool   // its posture was found right: it may load the app, and serve
	asked    atomic.Bool   // to drain, or to end
	relieved atomic.Bool   // by another generation
	serving  chan struct{} // closed when it is ready
	renewals sync.WaitGroup

	mu     sync.Mutex
	said   vassal.Problems // why the core says that it fails, why we ended it
	counts vassal.Counts
	usage  emperor.Usage

	unread, untaken vassal.Problems // about certificates: by us, and by the core
	unheeded        vassal.Problems // failures of hooks that end nothing
	blocked         vassal.Problems // about what stands in its network's way

	unwritten error // why record is not on disk as it is; nil: it is, or was not to be changed
}

func newInstance(ctx context.Context, l *launcher, p *prepared, gen int) *instance {
	return &instance{ctx: context.WithoutCancel(ctx), l: l, p: p, gen: gen, ready: make(chan vassal.Problems, 1), done: make(chan struct{}), shut: make(chan struct{}), wishes: make(chan struct{}, 1), idle: make(chan struct{}, 1), rested: make(chan struct{}), serving: make(chan struct{})}
}

// PID implements emperor.Instance, and so do the methods below.
func (in *instance) PID() int                      { return in.box.PID() }
func (in *instance) Ready() <-chan vassal.Problems { return in.ready }
func (in *instance) Done() <-chan struct{}         { return in.done }
func (in *instance) Exit() vassal.Exit             { return in.exit }
func (in *instance) Executed() time.Duration       { return time.Duration(in.hello.Load()) }
func (in *instance) Problems() vassal.Problems     { return in.problems }

// What becomes of a generation: decided once, by whoever is first, its core that
// says that it serves or the actor that gives it up.
const (
	open int32 = iota
	serves
	forgone
)

// decide reports whether fate is what becomes of in.
func (in *instance) decide(fate int32) bool {
	return in.fate.CompareAndSwap(open, fate) || in.fate.Load() == fate
}

// Forgo implements emperor.Instance: serves is never called then.
func (in *instance) Forgo() bool { return in.decide(forgone) }

// Drain ends one that was not verified: it has accepted nothing, and what of it runs,
// such as a hook, hears no message.
func (in *instance) Drain() error {
	if in.Forgo() && in.control != nil && !in.verified.Load() {
		return in.Kill()
	}
	in.asked.Store(true)
	in.findLeft()
	if in.control != nil && in.relieved.Load() {
		_ = in.control.Send(vassal.Relieved) // who cannot be told this cannot be told the rest
	}
	if in.control != nil && in.control.Send(vassal.Drain) == nil {
		return nil
	}
	return gone(in.box.Signal(syscall.SIGTERM))
}

// Relieve implements emperor.Reliever.
func (in *instance) Relieve() { in.relieved.Store(true) }

func (in *instance) Kill() error {
	in.Forgo() // nothing of it is made final any more
	in.asked.Store(true)
	return in.box.Kill()
}

func (in *instance) Alone() error {
	if in.control == nil {
		return nil
	}
	return in.control.Send(vassal.Alone)
}

// Turn implements emperor.Instance.
func (in *instance) Turn(until time.Time) error {
	if in.control == nil {
		return nil
	}
	return in.control.SendTurn(until)
}

// Rested implements emperor.Rester, and so does Until.
func (in *instance) Rested() <-chan struct{} { return in.rested }
func (in *instance) Until() time.Time        { return in.until }

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
			in.usage = emperor.Usage{MemoryBytes: u.MemoryBytes, OOMKills: u.OOMKills, CPUUsec: u.CPUUsec, Pids: u.Pids, MemorySlowed: u.MemorySlowed, PidsRefused: u.PidsRefused, ThrottledUsec: u.ThrottledUsec,
				SentBytes: u.SentBytes, ReceivedBytes: u.ReceivedBytes}
		}
	}
	in.usage.Disk = in.disk()
	in.hearLeft()
	in.usage.Requests = in.counts.Requests
}

// run takes over a started sandbox. Two goroutines live until Done, three with
// certificates: one hears the core, one waits for the end, one watches them. One
// more tries to write a record that could not be written.
func (in *instance) run(box *sandbox.Sandbox, s *start) {
	in.box, in.log, in.unheeded = box, in.l.log, s.unheeded
	ch, heard := s.ch, make(chan struct{})
	in.blocked = s.blocked()
	if in.unread = s.found; s.watch != nil {
		in.renewals.Go(func() { in.renewing(s) })
	}
	go func() {
		defer close(heard)
		in.hear(ch)
	}()
	go in.finish(heard, ch)
}

// hear obeys the core's messages until it closes its end or breaks a rule.
func (in *instance) hear(ch *listen.Change) {
	ready := false
	for {
		m, err := in.control.Receive()
		if err == nil {
			err = in.obey(m, ch, &ready)
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
func (in *instance) obey(m vassal.Message, ch *listen.Change, ready *bool) error {
	switch m.Type {
	case vassal.Hello:
		if in.verified.Load() {
			return fmt.Errorf("%w: hello twice", channel.ErrBroken)
		}
		in.hello.Store(int64(time.Since(in.began)))
		if err := in.box.Verify(); err != nil {
			return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeCheckFailed, File: in.p.Config.File, Step: "verify", Message: err.Error()}
		}
		in.verified.Store(true)
		in.write(func(r *record.Record) { r.Verified = true })
		return in.control.Send(vassal.Verified)
	case vassal.Ready:
		if !in.verified.Load() || *ready {
			return fmt.Errorf("%w: ready at the wrong time", channel.ErrBroken)
		}
		*ready = true
		if !in.decide(serves) {
			return nil // it has been asked to drain, and what it accepted meanwhile is finished
		}
		in.serves(ch)
		in.ready <- append(in.claims(in.notCertificates(m.Notes), vassal.Warning), in.unheeded...)
		close(in.serving)
	case vassal.Failed:
		in.mu.Lock()
		defer in.mu.Unlock()
		if len(in.said) < maxClaims { // the first ones say why
			in.said = append(in.said, in.claims(vassal.Problems{*m.Reason}, vassal.Error)...)
		}
	case vassal.Certificates:
		in.renewed(m.Notes)
	case vassal.Closed:
		in.shutOnce.Do(func() { close(in.shut) })
	case vassal.Rested:
		select {
		case <-in.rested:
			return fmt.Errorf("%w: rested twice", channel.ErrBroken)
		default:
		}
		if m.Until != nil {
			in.until = *m.Until
		}
		close(in.rested)
	case vassal.Reload:
		in.p.hup.Store(true)
		select {
		case in.wishes <- struct{}{}:
		default: // the last one was not yet looked at
		}
	case vassal.Idle:
		if !*ready || in.guests.Load() > 0 {
			return nil // it is said again
		}
		select {
		case in.idle <- struct{}{}:
		default: // it was said already
		}
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
	in.l.served.Store(in.listens)
	in.level()
	in.pidFile(true)
	in.write(func(r *record.Record) { r.Ready = true })
}

// Shut implements emperor.Shutter.
func (in *instance) Shut() <-chan struct{} { return in.shut }

// Wishes implements emperor.Wisher.
func (in *instance) Wishes() <-chan struct{} { return in.wishes }

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
// never worse or milder than it may be. Which file it names is its word: what it
// includes is the tenant's as well.
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

// lastWords is how long what a core that is gone has said is read, should somebody
// else hold its end of the control channel.
const lastWords = time.Second

// finish waits until nothing is left, then says why.
func (in *instance) finish(heard <-chan struct{}, ch *listen.Change) {
	defer close(in.done)
	defer in.shutOnce.Do(func() { close(in.shut) })
	<-in.box.Done()
	in.closeRelay()
	// The last words are in the socket's queue: hear comes to the end of it, and
	// starts nothing any more.
	if in.control != nil {
		_ = in.control.End(lastWords) // an error says that it is closed
	}
	<-heard
	in.renewals.Wait()
	if in.control != nil {
		in.control.Close()
	}
	if ch != nil {
		ch.Abort() // nothing, once it served
	}
	in.mu.Lock()
	in.measure()
	if in.left != nil {
		in.left.Close()
		in.left = nil
	}
	in.mu.Unlock()
	if in.bounded != nil {
		in.bounded.Close()
	}
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
		ps = append(ps, in.barred(f, stageProblem(f, in.p.Config.File)))
	default:
	}
	in.mu.Lock()
	ps = append(ps, in.said...)
	in.mu.Unlock()
	if in.exit.OOM {
		hint := in.memoryHint()
		for i := range ps { // the core does not know how much it may have
			if ps[i].Code == vassal.CodeOOM && !strings.HasPrefix(ps[i].Hint, "limit-") {
				ps[i].Hint = hint
			}
		}
		p := in.problem(vassal.CodeOOM, in.exit.Reason, in.p.Config.Limits.MemoryMaxAt)
		p.Hint = hint
		ps = append(ps, p)
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
		if tail := in.log.Tail(20); len(tail) > 0 {
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

// memoryHint names the limit that the kernel killed for, and its line.
func (in *instance) memoryHint() string {
	l := in.p.Config.Limits
	if l.MemoryMax == 0 {
		return "the host, or a cgroup above, had no more memory: memory-max bounds one vassal"
	}
	hint := fmt.Sprintf("memory-max = %dM is its limit", l.MemoryMax>>20)
	if at := l.MemoryMaxAt; at.Line > 0 {
		hint += fmt.Sprintf(" (%s:%d)", cmp.Or(at.File, in.p.Config.File), at.Line)
	}
	return hint + in.besides()
}

// barred gives p, which is about f, the line and the remedy where the vassal's
// user was kept out of its directory: the check has seen why.
func (in *instance) barred(f *stage.Failure, p vassal.Problem) vassal.Problem {
	if !strings.HasPrefix(f.What, "chdir ") || in.p.Result == nil {
		return p
	}
	i := slices.IndexFunc(in.p.Result.Problems, func(seen vassal.Problem) bool { return seen.Code == vassal.CodeNoAccess })
	if i >= 0 {
		seen := in.p.Result.Problems[i]
		p.Code, p.File, p.Line, p.Key, p.Hint = seen.Code, seen.File, seen.Line, seen.Key, seen.Hint
	}
	return p
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
	if f.Step.Hook() {
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
