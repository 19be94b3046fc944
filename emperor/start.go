package emperor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"liege/emperor/control"
	"liege/vassal"
)

// maxLeaving is how many generations may still be draining when another
// starts; with the one that serves and the new one, three live then.
const maxLeaving = 1

// try makes the next generation ready. While it does, the one that serves, if
// any, goes on serving; if the new one fails, it stays. A vassal that may not
// run twice (CONTRACT 18), or is restarted, drains first, but not before its
// file was found good.
func (a *actor) try(ctx context.Context) stateFn {
	a.byInclude = a.stale && a.stamp == a.w.file.Stamp
	a.stamp, a.turn, a.stale = a.w.file.Stamp, a.w.turn, false
	if a.cur == nil && !(a.retrying && a.last == refused) { // checked again, it stays failed
		a.enter(control.Starting)
	}
	if a.w.file.Problem != nil {
		return a.refuse(nil, vassal.Problems{*a.w.file.Problem})
	}
	if a.launch == nil { // it was stopped
		a.launch = a.realm.launcher(a.name)
	}
	sl, ok := a.admitted(ctx)
	if !ok {
		return a.yield
	}
	defer func() { sl.Release() }()

	c, ok := a.prepared(ctx)
	if !ok {
		return a.yield
	}
	if c.ps.Failed() || c.prep == nil {
		return a.refuse(c.prep, c.ps)
	}
	a.see(c.prep)
	if a.mayLull(c.prep) {
		return a.lull(ctx, c.prep, c.ps)
	}
	if full := a.crowded(c.prep); full != nil || a.mustDrain(c.prep) {
		c.ps = append(c.ps, full...)
		sl.Release()
		a.relieve()
		a.enter(control.Starting)
		a.publish()
		if !a.room(ctx, 0) {
			return a.yield
		}
		if sl, ok = a.admitted(ctx); !ok {
			sl = &slot{}
			return a.yield
		}
	}
	a.freshTurn = a.w.fresh
	next := a.bring(ctx, c.prep, c.ps)
	a.tardy = sl.Release()
	return next
}

// mustDrain reports whether what serves or leaves, if anything, ends before p starts
// because the file or a command says so. What was forgone leaves too.
func (a *actor) mustDrain(p Prepared) bool {
	return (a.cur != nil || a.departing() > 0) && (!restartOf(p).Overlap || a.w.fresh > a.freshTurn)
}

// crowded says why what serves must end before p starts, for want of memory.
func (a *actor) crowded(p Prepared) vassal.Problems {
	c, ok := a.launch.(Crowder)
	if a.cur == nil || a.mustDrain(p) || !ok {
		return nil
	}
	full := c.Crowded(p)
	if full == nil {
		return nil
	}
	a.realm.log.Info("drains before its next generation starts", "vassal", a.name, "gen", a.cur.n, "why", full.Message)
	return vassal.Problems{*full}
}

// bring launches p and waits until it serves.
func (a *actor) bring(ctx context.Context, p Prepared, ps vassal.Problems) stateFn {
	if a.last == asleep {
		a.rec.ColdStarts++
	}
	a.rec.Generation++
	a.met, a.unslept = a.w.demand, false
	a.dirty = true
	a.save(false)
	n := a.rec.Generation
	if a.cur == nil {
		a.enter(control.Starting)
	}
	a.pend("starting", n)
	log := a.realm.log.With("vassal", a.name, "gen", n)
	launcher := a.launch
	l, ok, h := a.driveLaunch(ctx, fmt.Sprintf("the start of generation %d", n), n, p, func(ctx context.Context) (l launched) {
		l.in, l.err = a.realm.launch(ctx, launcher, p, n)
		return l
	})
	switch {
	case h != nil:
		return a.die(append(ps, h.problem(vassal.Error)))
	case l.in == nil && !ok:
		return a.yield
	case l.in == nil:
		log.Warn("not started", "err", l.err)
		return a.die(append(ps, vassal.AsProblems(l.err, "start", vassal.CodeStartFailed)...))
	}
	g, r := &generation{n: n, inst: l.in, prep: p}, restartOf(p)
	limit := r.ReadyTimeout
	res := a.readiness(ctx, l.in, limit, ok)
	switch res.how {
	case pointless:
		a.depart(g, r.DrainTimeout)
		return a.yield
	case ended:
		a.ended(g)
		ps = append(ps, deathOf(g, "start")...)
		log.Warn("ended before it was ready", "err", ps.Error())
		return a.die(ps)
	case late:
		a.depart(g, r.DrainTimeout)
		log.Warn("not ready in time", "limit", limit)
		return a.die(append(ps, vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNotReady, Step: "start",
			Message: fmt.Sprintf("not ready after %v", limit), Hint: "what does its log say? liege logs " + string(a.name)}))
	}
	a.relieve()
	a.giveWay()
	a.cur, a.last, a.pending = g, served, nil
	a.noteBound(g.inst)
	a.problems = append(ps, res.notes...)
	a.enter(control.Running)
	log.Info("ready", "pid", l.in.PID(), "sandbox", executed(l.in))
	if !a.superseded() {
		a.cleared(ctx)
	}
	return a.decide
}

// executed is how long it took to make the sandbox of a generation and execute
// its core there; 0 where nobody knows.
func executed(in Instance) time.Duration {
	t, ok := in.(Timed)
	if !ok {
		return 0
	}
	return t.Executed().Round(100 * time.Microsecond)
}

// preparation is what Prepare returned.
type preparation struct {
	prep Prepared
	ps   vassal.Problems
}

// prepared has a.w's file checked, beside the actor. One at a time: a check that
// was given up and still hangs is not joined by another, and while another call of
// the Launcher hangs nothing could be started.
func (a *actor) prepared(ctx context.Context) (c preparation, ok bool) {
	file, launcher := a.w.file, a.launch
	if a.hung != nil {
		p := a.hung.problem(vassal.Error)
		p.File = file.Path
		return preparation{ps: vassal.Problems{p}}, true
	}
	if a.hangs != nil {
		select {
		case <-a.hangs:
		default:
			return preparation{ps: vassal.Problems{{Severity: vassal.Error, Code: vassal.CodeStartFailed, Step: "check", File: file.Path,
				Message: "an earlier check hangs: a file system that the file names does not answer", Hint: hungHint}}}, true
		}
	}
	a.hangs = nil
	got, done, how := within(a, ctx, bounds{patience: giveUp}, func(ctx context.Context) (c preparation) {
		c.prep, c.ps = a.realm.prepare(ctx, launcher, file)
		return c
	})
	if how == givenUp {
		a.hangs = done
		return c, false
	}
	return got(), how == returned
}

// yield ends a try that a newer wish has made pointless. What was tried counts
// as not tried.
func (a *actor) yield(ctx context.Context) stateFn {
	a.pending = nil
	a.stamp, a.turn = "", 0
	if a.last == untried {
		return a.decide
	}
	a.stale = true
	return a.decide
}

// admitted waits until not too many older generations drain, and for a slot.
func (a *actor) admitted(ctx context.Context) (*slot, bool) {
	a.pend("queued", a.rec.Generation+1)
	if !a.room(ctx, maxLeaving) || !a.paced(ctx) {
		return nil, false
	}
	c := ordinary
	switch {
	case a.w.control > a.settled:
		c = asked
	case a.w.demand > a.met:
		c = demanded
	case a.tardy:
		c = tardy
	case a.last != untried && !a.byInclude:
		c = edited
	}
	if a.queued.IsZero() {
		a.queued = time.Now()
	}
	since, file := a.queued, a.w.file
	type admission struct {
		s   *slot
		err error
	}
	ad, ok := unless(a, ctx, func(ctx context.Context) (ad admission) {
		ad.s, ad.err = a.realm.gate.acquire(ctx, c, since, userOf(file))
		return ad
	})
	if !ok || ad.err != nil {
		if ad.s != nil {
			ad.s.Release()
		}
		return nil, false
	}
	a.queued = time.Time{}
	a.pend("starting", a.rec.Generation+1)
	return ad.s, true
}

// userOf is whom the gate counts f for: its owner, or 0 for the operator.
func userOf(f File) int {
	if f.Trust.Operator {
		return 0
	}
	return f.Trust.UID
}

// room waits until at most n generations are still draining. Stuck ones do not
// count: they may stay for ever (KERNEL 40).
func (a *actor) room(ctx context.Context, n int) bool {
	for a.departing() > n {
		switch a.next(ctx, nil, nil) {
		case evWish, evEnd:
			if a.superseded() {
				return false
			}
		}
	}
	return true
}

// How many generations a vassal may have because its file changed: paceBurst
// at once, then one each paceEvery. Whoever can write a file could otherwise
// keep the Emperor starting it (A17).
const (
	paceBurst = 10
	paceEvery = 6 * time.Second
)

// paced waits until the vassal may have another generation, and counts it.
// Only new tries of a file that serves or served cost anything; the retries of
// back-off have their own pace, and a command is obeyed at once.
func (a *actor) paced(ctx context.Context) bool {
	for {
		now := time.Now()
		a.credit = min(paceBurst, a.credit+now.Sub(a.creditAt).Seconds()/paceEvery.Seconds())
		a.creditAt = now
		free := a.w.control > a.settled || a.last == untried && a.w.demand <= a.met || a.retrying
		if free || a.credit >= 1 {
			if !free {
				a.credit--
			}
			return true
		}
		wait := time.Duration((1-a.credit)*float64(paceEvery)) + time.Millisecond
		switch a.next(ctx, nil, time.After(wait)) {
		case evWish, evEnd:
			if a.superseded() {
				return false
			}
		}
	}
}

// refuse ends a try whose file cannot be used. A bad edit never takes down a
// good vassal.
func (a *actor) refuse(p Prepared, ps vassal.Problems) stateFn {
	if !ps.Failed() {
		ps = append(ps, vassal.Problem{Severity: vassal.Error, Code: vassal.CodeInternal, Step: "check",
			File: a.w.file.Path, Message: "the check came to no result"})
	}
	if a.last != refused || a.problems.Error() != ps.Error() {
		a.realm.log.Warn("refused", "vassal", a.name, "err", ps.Error())
	}
	a.pending, a.last, a.problems = nil, refused, ps
	a.see(p)
	return a.decide
}

// die ends a try that was good on paper.
func (a *actor) die(ps vassal.Problems) stateFn {
	a.pending, a.last, a.problems = nil, died, ps
	return a.decide
}

// see notes what is about to be tried.
func (a *actor) see(p Prepared) {
	a.prep = p
	a.seen = digestOf(p, a.w.file)
}

// pend shows how far the try is.
func (a *actor) pend(state string, n int) {
	if a.pending == nil || a.pending.State != state || a.pending.Generation != n {
		since := control.Time{Time: time.Now()}
		a.pending = &control.Pending{Generation: n, State: state, Since: since}
	}
	a.publish()
}

// readyEnd is how the wait for a new generation ended.
type readyEnd int

const (
	pointless readyEnd = iota // a newer wish came first, and it was forgone
	serves
	ended
	late // it was forgone
)

// awaited is how that wait ended, and what the generation has to say.
type awaited struct {
	how   readyEnd
	notes vassal.Problems
}

// readiness waits until in serves, for no longer than limit. A wish that makes that
// pointless ends the wait, and so does one that came during its launch (wanted is
// false then): but not once in has said that it serves. Then it is the one that
// serves, whatever is wished by now.
func (a *actor) readiness(ctx context.Context, in Instance, limit time.Duration, wanted bool) (res awaited) {
	if wanted {
		res, _ = unless(a, ctx, func(ctx context.Context) awaited { return await(ctx, in, limit) })
	}
	if res.how == serves || res.how == ended || in.Forgo() {
		return res
	}
	res = alongside(a, ctx, func(ctx context.Context) awaited { return await(context.WithoutCancel(ctx), in, giveUp) })
	if res.how == late { // something of it hangs, and it serves
		res.how = serves
	}
	return res
}

func await(ctx context.Context, in Instance, limit time.Duration) awaited {
	over := time.NewTimer(limit)
	defer over.Stop()
	select {
	case notes, ok := <-in.Ready():
		return heard(in, notes, ok)
	case <-in.Done():
		select {
		case notes, ok := <-in.Ready(): // it served before
			return heard(in, notes, ok)
		default:
			return awaited{how: ended}
		}
	case <-over.C:
		return awaited{how: late}
	case <-ctx.Done():
		return awaited{how: pointless}
	}
}

// heard is what was received from in.Ready; not ok: it is closed, which is no word
// of readiness.
func heard(in Instance, notes vassal.Problems, ok bool) awaited {
	if !ok {
		<-in.Done()
		return awaited{how: ended}
	}
	return awaited{how: serves, notes: notes}
}

// prepare is Prepare, of which a panic is one vassal's problem: its text is a
// stranger's, and no stranger's text may end the Emperor.
func (r *realm) prepare(ctx context.Context, l Launcher, f File) (p Prepared, ps vassal.Problems) {
	defer func() {
		if x := recover(); x != nil {
			r.log.Error("defect: check panicked", "vassal", f.Name, "err", fmt.Sprint(x))
			p, ps = nil, vassal.Problems{{Severity: vassal.Error, Code: vassal.CodeInternal, Step: "check", File: f.Path,
				Message: "a defect of Liege was met while checking this file; it is in the Emperor's log"}}
		}
	}()
	return l.Prepare(ctx, f)
}

// launch is Launch with an error instead of neither error nor Instance.
func (r *realm) launch(ctx context.Context, l Launcher, p Prepared, gen int) (Instance, error) {
	in, err := l.Launch(ctx, p, gen)
	if err == nil && in == nil {
		return nil, errors.New("nothing was started")
	}
	if err != nil {
		return nil, err
	}
	return in, nil
}
