package emperor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"liege/vassal"
)

// While a vassal is suspended, and while it waits for its next start, a
// holding generation answers on its listeners (CONTRACT 13). It is none of the
// vassal's generations: it counts as no start and no restart, its end is no
// exit, and no generation waits for it. The next good generation takes its
// place as it would that of an older one.

// Times of holding generations.
const (
	// bridgeFrom is the shortest back-off that is bridged: the first failures
	// are retried sooner than clients give up, and a holding generation would
	// cost as much as the retry.
	bridgeFrom = 2 * time.Second
	// holdReady is how long one may take to answer, holdDrain to finish, and
	// holdLinger is how much of that a start waits for.
	holdReady  = 10 * time.Second
	holdDrain  = 5 * time.Second
	holdLinger = time.Second
	// holdAgain is how long after a failure another is tried, and how long
	// one of a suspended vassal waits for a slot.
	holdAgain = 30 * time.Second
	// What clients are told of when to come again.
	suspendedRetry = 5 * time.Minute
	backoffRetry   = 10 * time.Second
)

// stepHold is the step of the problem that says that nobody answers.
const stepHold = "hold"

// holding is what an actor knows of its holding generation.
type holding struct {
	gen     *generation     // nil: none
	answers *hold           // what it answers; nil: as in back-off
	again   time.Time       // not tried again before this; zero: at any time
	turn    uint64          // of the wish last tried for
	problem *vassal.Problem // why nobody answers
}

// answer is what clients get while h lasts; nil: in back-off.
func (h *hold) answer() vassal.Hold {
	if h == nil {
		return vassal.Hold{Status: 503, RetryAfter: backoffRetry}
	}
	return vassal.Hold{Status: cmp.Or(h.Status, 503), Page: h.Page, RetryAfter: suspendedRetry}
}

// keepPlace has a holding generation answer as h says. It returns when that
// serves, or cannot be had: because nothing can be started, it took longer than
// patience, or a newer wish made it pointless. The caller looks at a.ending.
func (a *actor) keepPlace(ctx context.Context, h *hold, patience time.Duration) {
	if a.launch == nil { // suspended after it was stopped
		a.launch = a.realm.launcher(a.name)
	}
	if a.hung != nil {
		return
	}
	holder, ok := a.launch.(Holder)
	same := a.held.gen != nil && a.held.answers == h
	if !ok || same || a.w.control <= a.held.turn && time.Now().Before(a.held.again) {
		return
	}
	a.held.turn = a.w.turn
	defer func() {
		if a.box.get().turn != a.w.turn {
			ring(a.box.bell) // it was heard here
		}
	}()
	until := time.Now().Add(patience)
	sl, ok := a.holdSlot(ctx, h, until)
	if !ok {
		return
	}
	defer sl.Release()
	g, err := a.launchHolding(ctx, holder, h, until)
	switch {
	case err != nil:
		a.notHeld(vassal.AsProblems(err, stepHold, vassal.CodeStartFailed))
		return
	case g == nil:
		return
	}
	old := a.held.gen
	a.held = holding{gen: g, answers: h, turn: a.held.turn}
	if old != nil {
		a.depart(old, holdDrain)
	}
	a.noteBound(g.inst)
	a.realm.log.Info("held", "vassal", a.name, "status", h.answer().Status, "pid", g.inst.PID())
	a.publish()
}

// holdSlot waits for a slot of the gate as everybody does.
func (a *actor) holdSlot(ctx context.Context, h *hold, until time.Time) (*slot, bool) {
	c := tardy
	if h != nil {
		c = ordinary
		if a.w.control > a.settled {
			c = asked
		}
	}
	file := a.w.file
	type admission struct {
		s   *slot
		err error
	}
	ad, ok := unless(a, ctx, func(ctx context.Context) (ad admission) {
		ctx, cancel := context.WithDeadline(ctx, until)
		defer cancel()
		ad.s, ad.err = a.realm.gate.acquire(ctx, c, time.Now(), userOf(file))
		return ad
	})
	switch {
	case !ok && ad.s != nil:
		ad.s.Release()
	case ok && ad.err != nil && h != nil:
		a.held.again = time.Now().Add(holdAgain)
	}
	return ad.s, ok && ad.err == nil
}

// launchHolding starts a holding generation and waits until it serves. It
// returns none, and no error, where there are no listeners, a newer wish made
// it pointless or, in back-off, there was no time for it.
func (a *actor) launchHolding(ctx context.Context, l Holder, h *hold, until time.Time) (*generation, error) {
	a.rec.Holds++
	a.dirty = true
	a.save(false)
	n, prep := FirstHold+a.rec.Holds, a.prep
	got, ok, hung := a.driveLaunch(ctx, "the start of a holding generation", n, nil, func(ctx context.Context) (got launched) {
		ctx, cancel := context.WithDeadline(ctx, until)
		defer cancel()
		got.in, got.err = l.Hold(ctx, prep, h.answer(), n)
		return got
	})
	g := &generation{n: n, inst: got.in, hold: true}
	switch {
	case hung != nil:
		p := hung.problem(vassal.Error)
		return nil, &p
	case !ok && got.in == nil:
		return nil, nil
	case got.err != nil && h == nil && !time.Now().Before(until):
		return nil, nil
	case got.err != nil:
		return nil, got.err
	case got.in == nil:
		a.held.again = time.Now().Add(holdAgain)
		return nil, nil
	}
	limit := min(holdReady, time.Until(until))
	switch res := a.readiness(ctx, got.in, limit, ok); {
	case res.how == pointless, res.how == late && h == nil: // the retry is due
		a.depart(g, holdDrain)
		return nil, nil
	case res.how == ended:
		return nil, deathOf(g, stepHold)
	case res.how == late:
		a.depart(g, holdDrain)
		return nil, fmt.Errorf("not ready after %v", limit)
	}
	return g, nil
}

// notHeld notes why nobody answers on the vassal's listeners. That is no
// failure of the vassal: it stays what it is.
func (a *actor) notHeld(ps vassal.Problems) {
	what, hint := "nobody answers on its listeners: "+ps.Error(), ""
	if first := ps.First(); first != nil {
		hint = first.Hint
	}
	a.realm.log.Warn("not held", "vassal", a.name, "err", ps.Error())
	a.held.again = time.Now().Add(holdAgain)
	a.held.problem = &vassal.Problem{Severity: vassal.Warning, Code: vassal.CodeStartFailed, Step: stepHold, Message: what, Hint: hint}
	a.publish()
}

// holdEnded notes that the holding generation ended by itself.
func (a *actor) holdEnded() {
	g := a.held.gen
	a.held.gen = nil
	a.notHeld(deathOf(g, stepHold))
}

// giveWay ends the holding generation: another serves, or nobody shall.
func (a *actor) giveWay() {
	g := a.held.gen
	a.held = holding{}
	if g != nil {
		a.depart(g, holdDrain)
	}
}

// cleared waits, at most holdLinger, until what held the place is gone and what
// served accepts no more: whoever asked for a start or edited the file meets
// the new application when he is told that it runs.
func (a *actor) cleared(ctx context.Context) {
	late := time.After(holdLinger)
	for _, g := range slices.Clone(a.leaving) {
		s, ok := g.inst.(Shutter)
		for ok && !a.stuck[g] {
			switch a.next(ctx, s.Shut(), late) {
			case evDone:
				ok = false
			case evGone: // perhaps another
			default:
				return
			}
		}
	}
	for slices.ContainsFunc(a.leaving, func(g *generation) bool { return g.hold && !a.stuck[g] }) {
		if a.next(ctx, nil, late) != evGone {
			return
		}
	}
}

// holdTimer fires when the holding generation that is missing is tried again.
func (a *actor) holdTimer() <-chan time.Time {
	if a.held.gen != nil || a.held.again.IsZero() {
		return nil
	}
	return time.After(time.Until(a.held.again))
}

// adoptHolding takes over what held the vassal's place under an earlier
// Emperor. It is replaced by the first that holds or serves.
func (a *actor) adoptHolding(in Instance, n int) {
	a.held = holding{gen: &generation{n: n, inst: in, hold: true}, answers: &hold{}}
	a.rec.Holds = max(a.rec.Holds, n-FirstHold)
	a.noteBound(in)
	a.realm.log.Info("found held", "vassal", a.name, "pid", in.PID())
}
