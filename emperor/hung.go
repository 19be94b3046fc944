package emperor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"liege/vassal"
)

// A call of the Launcher can hang where no context reaches it: an open of a path
// on a dead network file system, or on a FUSE whose server is mute. It is given up
// then, and the vassal goes on without: its generation serves, it can be stopped,
// and the Emperor ends. Until the call returns the Launcher is the call's, so
// nothing else is asked of it (actor.hung): no start, no holding generation, and its
// listeners stay open. What the call made meanwhile is ended when it returns.

// StepTime is how long a step of a Launcher may take that does not say how long.
const StepTime = time.Minute

// giveUp is how long a call that was cancelled may take to return, and closeTime a
// Close, which nothing cancels, from the Emperor's end on: hundreds may have theirs at
// once, and systemd waits for all (TimeoutStopSec).
const (
	giveUp    = 10 * time.Second
	closeTime = 40 * time.Second
)

// Step is what a Launcher does at a moment.
type Step struct {
	Name  string    // "listen", "mount"
	On    string    // the path or address that it is about; empty: none
	Until time.Time // when it has taken too long; zero: it has a bound of its own
}

func (s Step) String() string {
	if s.On == "" {
		return s.Name
	}
	return s.Name + ", " + s.On
}

// A Stepper is a Launcher that says how far a call is that is under way. Others
// have StepTime for a call.
type Stepper interface {
	// Step may be called by any goroutine.
	Step() Step
	// Hangs tells it that its call was given up, and returns at once; done is closed
	// when the call returns.
	Hangs(done <-chan struct{})
}

// hungCall is a call of the Launcher that was given up.
type hungCall struct {
	what string // what was called: "the start of generation 3"
	at   Step
	done <-chan struct{} // closed when it has returned
	late func()          // then, for the actor: takes what it made
	kill func()          // then, where no actor is any more: ends what it made; nil: it makes no process
}

func (h *hungCall) message() string {
	return fmt.Sprintf("%s hangs: %s: a file system does not answer", h.what, h.at)
}

const hungHint = "umount -l, or mend its server"

// problem says that h hangs: as the reason of a failure, or beside others.
func (h *hungCall) problem(severity vassal.Severity) vassal.Problem {
	code := vassal.CodeStuck
	if severity == vassal.Error {
		code = vassal.CodeStartFailed
	}
	return vassal.Problem{Severity: severity, Code: code, Step: h.at.Name, Message: h.message(), Hint: hungHint}
}

// hungDone is closed when the call that was given up has returned; nil: there is none.
func (a *actor) hungDone() <-chan struct{} {
	if a.hung == nil {
		return nil
	}
	return a.hung.done
}

// freed has what was waited for: the Launcher is the actor's again.
func (a *actor) freed() {
	h := a.hung
	a.hung = nil
	a.realm.log.Info("answers again", "vassal", a.name, "step", h.at.String())
	h.late()
	a.stale, a.stamp = true, "" // whatever was tried, or looked at, meanwhile failed for that
	a.publish()
}

// forsake ends what a call makes that hangs when its actor ends, with the Emperor.
func (a *actor) forsake() {
	h := a.hung
	if h == nil || h.kill == nil {
		return
	}
	go func() {
		<-h.done
		h.kill()
	}()
}

// ending is how a call beside the actor ended.
type ending int

const (
	returned  ending = iota
	cancelled        // it returned, after a newer wish had made it pointless: what it made is the caller's to undo
	givenUp          // it has not
)

// bounds are those of a call that may hang where no context reaches it.
type bounds struct {
	patience time.Duration        // after it was cancelled; 0: for ever
	left     func() time.Duration // of the step that it is at; nil: as long as it likes
	settled  bool                 // no wish makes it pointless; the Emperor's end does
}

// within runs f beside the actor, which stays attentive. A wish that makes f
// pointless cancels f's context, and so does a step that takes too long. got is
// what f returned: not to be called before done is closed.
func within[T any](a *actor, ctx context.Context, b bounds, f func(context.Context) T) (got func() T, done <-chan struct{}, how ending) {
	fctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var out T
	over := make(chan struct{})
	go func() { defer close(over); out = f(fctx) }()
	got, done = func() T { return out }, over
	var timer <-chan time.Time
	stopped := false
	stop := func(why error) {
		if cancel(why); b.patience > 0 && !stopped {
			timer = time.After(b.patience)
		}
		stopped = true
	}
	switch {
	case a.ending && b.patience > 0:
		stop(context.Canceled)
	case b.left != nil:
		timer = time.After(b.left())
	}
	for {
		switch a.next(ctx, done, timer) {
		case evDone:
			return got, done, how
		case evTimer:
			if stopped {
				return got, done, givenUp
			}
			if d := b.left(); d > 0 {
				timer = time.After(d)
				continue
			}
			stop(errStalled)
		case evWish, evEnd:
			if how == returned && (!b.settled && a.superseded() || b.settled && a.ending) {
				how = cancelled
				stop(context.Canceled)
			}
		}
	}
}

var errStalled = errors.New("it takes longer than it may")

// driven is a call of the Launcher.
type driven[T any] struct {
	what    string // in words
	call    func(context.Context) T
	late    func(T) // takes what it returned when it was given up
	kill    func(T) // the same where the actor is gone; nil: nothing
	settled bool    // see bounds
	// patience is that of bounds; 0: giveUp.
	patience time.Duration
}

// drive is unless for a call of the Launcher. One that hangs is given up: h says so,
// and is a.hung until it returns.
func drive[T any](a *actor, ctx context.Context, c driven[T]) (out T, ok bool, h *hungCall) {
	began, last := time.Now(), Step{Name: "launch"}
	left := func() time.Duration {
		s, ok := a.launch.(Stepper)
		if !ok {
			return time.Until(began.Add(StepTime))
		}
		if last = s.Step(); last.Until.IsZero() {
			return StepTime
		}
		return time.Until(last.Until)
	}
	got, done, how := within(a, ctx, bounds{cmp.Or(c.patience, giveUp), left, c.settled}, c.call)
	if how != givenUp {
		return got(), how == returned, nil
	}
	if s, ok := a.launch.(Stepper); ok {
		last = s.Step()
		s.Hangs(done)
	}
	h = &hungCall{what: c.what, at: last, done: done, late: func() { c.late(got()) }}
	if c.kill != nil {
		h.kill = func() { c.kill(got()) }
	}
	a.hung = h
	a.realm.log.Error("hangs", "vassal", a.name, "what", c.what, "step", last.String())
	return out, false, h
}

// launched is what Launch or Hold returned.
type launched struct {
	in  Instance
	err error
}

// driveLaunch is drive for a call that makes a generation, which is ended if it
// comes late.
func (a *actor) driveLaunch(ctx context.Context, what string, n int, p Prepared, f func(context.Context) launched) (l launched, ok bool, h *hungCall) {
	late := func(l launched) {
		if l.in != nil {
			patience := restartOf(p).DrainTimeout
			if n >= FirstHold {
				patience = holdDrain
			}
			a.depart(&generation{n: n, inst: l.in, prep: p, hold: n >= FirstHold}, patience)
		}
	}
	kill := func(l launched) {
		if l.in == nil {
			return
		}
		if err := l.in.Kill(); err != nil {
			a.realm.log.Warn("cannot be killed", "vassal", a.name, "gen", n, "err", err)
		}
	}
	return drive(a, ctx, driven[launched]{what: what, call: f, late: late, kill: kill})
}
