package emperor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"liege/emperor/control"
	"liege/vassal"
)

// serve is the state in which a generation serves and nothing is due.
func (a *actor) serve(ctx context.Context) stateFn {
	a.enter(control.Running)
	a.pending = nil
	a.settle()
	if a.cur.prep == nil && a.w.file.Problem == nil {
		return a.succeed(ctx)
	}
	var stable <-chan time.Time
	if a.last == served {
		stable = time.After(restartOf(a.cur.prep).StableAfter)
	}
	a.tellAlone()
	if a.rest(ctx, stable) {
		a.fails = 0
		a.save(false)
		a.rest(ctx, nil)
	}
	return a.decide
}

// succeed is serve for a survivor whose successor did not start: another is
// tried, later each time. What is adopted serves, and hears no command.
func (a *actor) succeed(ctx context.Context) stateFn {
	again := time.After(min(CheckAgain<<min(a.checks, 20), CheckAgainMax))
	a.checks++
	if a.rest(ctx, again) {
		a.tardy, a.retrying = true, true
		return a.try
	}
	return a.decide
}

// backoff is the state after a try that died: another follows, later each
// time.
func (a *actor) backoff(ctx context.Context) stateFn {
	r := restartOf(a.prep)
	delay := min(r.BackoffMin<<min(a.fails, 20), r.BackoffMax)
	a.fails++
	a.retryAt = time.Now().Add(delay)
	a.enter(control.Backoff)
	a.pending = nil
	a.settle()
	defer func() { a.retryAt = time.Time{} }()
	retry := time.After(delay)
	if delay >= bridgeFrom || a.held.gen != nil {
		a.bridge(ctx, delay)
	}
	if !a.ending && a.rest(ctx, retry) {
		a.rec.Restarts++
		a.dirty = true
		a.tardy, a.retrying = true, true
		return a.try
	}
	return a.decide
}

// bridge has clients answered while they wait for a start.
func (a *actor) bridge(ctx context.Context, patience time.Duration) {
	a.keepPlace(ctx, nil, patience)
	if a.stale {
		ring(a.box.bell) // it was heard here
	}
}

// failed is the state of a vassal whose file cannot be used. Listeners that it
// has from before go on to be answered.
func (a *actor) failed(ctx context.Context) stateFn {
	a.enter(control.Failed)
	a.pending = nil
	a.settle()
	var again <-chan time.Time
	if a.w.file.Problem == nil { // what the file asks of the host may come true
		again = time.After(min(CheckAgain<<min(a.checks, 20), CheckAgainMax))
		a.checks++
	}
	if a.held.gen != nil || a.bound != nil {
		a.bridge(ctx, holdAgain)
	}
	if !a.ending && a.rest(ctx, again) {
		a.tardy, a.retrying = true, true
		return a.try
	}
	return a.decide
}

// rest waits for a reason to decide anew, or for the timer, and reports
// whether it was the timer.
func (a *actor) rest(ctx context.Context, timer <-chan time.Time) bool {
	for {
		switch a.next(ctx, nil, timer) {
		case evTimer:
			return true
		case evIdle:
			a.idled = a.cur
			return false
		case evEnd, evCrash:
			return false
		case evWish:
			w := a.box.get()
			if old := a.w.turn; w.turn == old && !a.stale {
				continue
			}
			if a.w = w; w.gone || w.intent != wantRun || a.due() {
				return false
			}
			a.settle() // a wish that changes nothing is settled by what is
		}
	}
}

// stop is the state of a vassal that shall not run. Its listeners are closed.
func (a *actor) stop(ctx context.Context) stateFn {
	a.remember()
	a.giveWay()
	if !a.empty(ctx, func(w *wish) bool { return w.intent == wantStop }) {
		return a.decide
	}
	a.close(ctx)
	a.until = time.Time{}
	a.enter(control.Stopped)
	a.last, a.problems, a.fails = untried, nil, 0
	a.idle(ctx, wantStop)
	return a.decide
}

// suspend is the state of a vassal whose processes are ended and on whose
// listeners a holding generation answers, already while they drain.
func (a *actor) suspend(ctx context.Context) stateFn {
	a.remember()
	a.retire()
	if a.pending = nil; a.departing() > 0 {
		a.enter(control.Draining)
		a.publish()
	}
	if a.prep != nil || a.held.gen == nil { // else what was found answers until the file is checked
		a.keepPlace(ctx, a.w.hold, holdAgain)
	}
	if !a.empty(ctx, func(w *wish) bool { return w.intent == wantSuspend }) {
		return a.decide
	}
	a.last, a.fails, a.until = untried, 0, time.Time{}
	a.idle(ctx, wantSuspend)
	return a.decide
}

// idle rests in a state without processes until another intent is wished. An
// edited file is noted, and tried when the vassal is started again.
func (a *actor) idle(ctx context.Context, in intent) {
	for {
		a.w = a.box.get()
		if a.ending || a.w.gone || a.w.intent != in {
			return
		}
		a.remember()
		if a.cur != nil { // found late: a call that hung had it
			return
		}
		if in == wantSuspend && !a.attend(ctx) {
			continue
		}
		if in == wantStop && a.launch != nil && a.hung == nil && len(a.leaving) <= len(a.stuck) { // a call hung when it was stopped
			a.close(ctx)
			continue
		}
		a.settle()
		a.next(ctx, nil, a.holdTimer())
	}
}

// attend does for a suspended vassal what its latest wish needs, and returns
// false if there is a newer one.
func (a *actor) attend(ctx context.Context) bool {
	if a.w.file.Stamp != a.stamp && !a.checked(ctx) {
		return false
	}
	a.keepPlace(ctx, a.w.hold, holdAgain)
	if a.ending || a.box.get().turn != a.w.turn {
		return false
	}
	a.enter(control.Suspended) // now clients have their answer
	return true
}

// checked checks the file without starting it, and returns false if a newer
// wish made that pointless.
func (a *actor) checked(ctx context.Context) bool {
	a.stamp = a.w.file.Stamp
	if p := a.w.file.Problem; p != nil {
		a.problems = vassal.Problems{*p}
		return true
	}
	if a.launch == nil { // suspended since before this Emperor
		a.launch = a.realm.launcher(a.name)
	}
	sl, ok := a.admitted(ctx)
	defer func() { a.pending = nil }()
	if !ok {
		a.stamp = ""
		return false
	}
	defer sl.Release()
	c, ok := a.prepared(ctx)
	if !ok {
		a.stamp = ""
		return false
	}
	a.see(c.prep)
	a.problems = c.ps
	a.held.again = time.Time{} // it may have listeners now
	return true
}

// leave is the state of a vassal whose file is gone. If it comes back before
// the end, the vassal stays.
func (a *actor) leave(ctx context.Context) stateFn {
	a.giveWay()
	if !a.empty(ctx, func(w *wish) bool { return w.gone }) {
		a.giveUpHeir()
		return a.decide
	}
	for {
		if a.cur != nil { // found late: a call that hung had it
			a.empty(ctx, func(w *wish) bool { return w.gone })
		}
		if a.hung != nil { // nobody knows when it has anything to give
			a.giveUpHeir()
		}
		heir := a.box.get().heir
		// Stuck generations hold what close would remove, and so does a call that hangs.
		if a.hung == nil && (heir != nil && len(a.leaving) <= len(a.stuck) || len(a.leaving) == 0) {
			if heir != nil {
				heir.legacy <- a.launch
				a.launch = nil
			}
			if a.close(ctx) {
				break
			}
		}
		a.enter(control.Draining)
		a.publish()
		if a.next(ctx, nil, nil); a.ending || !a.box.get().gone {
			a.giveUpHeir()
			return a.decide
		}
	}
	if a.rec.locked() && !a.box.get().forget {
		a.save(true)
		return nil
	}
	if err := a.realm.records.remove(a.name); err != nil {
		a.realm.log.Warn("state is not removed", "vassal", a.name, "err", err)
	}
	return nil
}

// shutdown is the end of the vassal with the Emperor. Its wishes are kept for
// the next one.
func (a *actor) shutdown(ctx context.Context) stateFn {
	a.giveWay()
	a.empty(ctx, func(*wish) bool { return true })
	a.giveUpHeir()
	if len(a.leaving) == 0 {
		a.close(ctx)
	}
	a.forsake()
	a.save(true)
	return nil
}

// empty drains what there is and returns true when nothing but stuck
// generations is left; false as soon as the wish is another.
func (a *actor) empty(ctx context.Context, still func(*wish) bool) bool {
	a.pending = nil
	a.retire()
	for len(a.leaving) > len(a.stuck) {
		a.enter(control.Draining)
		a.publish()
		switch a.next(ctx, nil, nil) {
		case evEnd:
			if !a.w.gone {
				return false // decide leads to shutdown
			}
		case evWish:
			if !still(a.box.get()) {
				return false
			}
		}
	}
	return true
}

// close gives up what outlives a generation, and reports whether it could: not while
// a call of the Launcher hangs.
func (a *actor) close(ctx context.Context) bool {
	if a.launch == nil {
		return true
	}
	if a.hung != nil {
		return false
	}
	launcher := a.launch
	err, _, h := drive(a, ctx, driven[error]{what: "closing what it had", settled: true, late: a.closed, patience: closeTime,
		call: func(context.Context) error { return launcher.Close() }})
	if h == nil {
		a.closed(err)
	}
	return h == nil
}

// closed goes on with what Close said.
func (a *actor) closed(err error) {
	if err != nil {
		a.realm.log.Warn("leaves something behind", "vassal", a.name, "err", err)
	}
	a.launch, a.bound = nil, nil
	a.rec.Kernel = kernelCounts{}
}

// stuckProblems says which generations do not go, and what hangs.
func (a *actor) stuckProblems() (ps vassal.Problems) {
	if h := a.hung; h != nil && !slices.ContainsFunc(a.problems, func(p vassal.Problem) bool { return p.Message == h.message() }) {
		ps = append(ps, h.problem(vassal.Warning))
	}
	for g := range a.stuck {
		what := "its processes hang in the kernel"
		if r, ok := g.inst.(Remainer); ok {
			what = r.Remains()
		}
		ps = append(ps, vassal.Problem{Severity: vassal.Warning, Code: vassal.CodeStuck, Step: "stop",
			Message: fmt.Sprintf("generation %d was killed and does not die: %s", g.n, what),
			Hint:    "a dead disk or network file system? cat /proc/PID/wchan"})
	}
	return ps
}

// restartOf returns p's Restart with every time set.
func restartOf(p Prepared) vassal.Restart {
	var r vassal.Restart
	if p != nil {
		r = p.Restart()
	}
	or := func(d *time.Duration, or time.Duration) {
		if *d <= 0 {
			*d = or
		}
	}
	or(&r.ReadyTimeout, 60*time.Second)
	or(&r.DrainTimeout, 60*time.Second)
	or(&r.BackoffMin, time.Second)
	or(&r.BackoffMax, 3*time.Minute)
	or(&r.StableAfter, 10*time.Second)
	return r
}
