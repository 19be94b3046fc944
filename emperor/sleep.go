package emperor

import (
	"context"
	"slices"
	"strings"

	"liege/emperor/control"
	"liege/vassal"
)

// A vassal with on-demand sleeps: nothing of it runs, and its listeners are
// open. The first connection on one of them is a wish like another
// (wish.demand). It waits in the kernel's queue until the generation that it
// started accepts it. So does one that comes while the vassal goes to sleep:
// the listeners are watched from when the old generation accepts no more, and
// whatever waits then wakes at once.
//
// Ten thousand that sleep must cost next to nothing. A sleeping actor has no
// goroutine and no timer (box.park): whatever rings its box starts them again.
// Of what was prepared it keeps what status shows (keepsake).

// A Sleeper is a Launcher that can keep a vassal's listeners while nothing of
// it runs.
type Sleeper interface {
	// Sleep makes the listeners of p, or keeps them, and returns the addresses
	// as bound. From then on
	// wake is called once when a connection waits, at once if one does. Launch,
	// Hold and Close end that. With an Error among the problems nothing is
	// watched and the listeners are as they were.
	Sleep(ctx context.Context, p Prepared, wake func()) (bound []string, ps vassal.Problems)
	// Rest gives up what only a running vassal needs. It follows a Sleep, when
	// no Instance lives any more.
	Rest() error
}

// An Idler is an Instance whose core may say that there was no request for as
// long as the file says.
type Idler interface{ Idle() <-chan struct{} }

// keepsake is what is kept of a Prepared while its vassal sleeps.
type keepsake struct {
	digest  vassal.Digest
	restart vassal.Restart
	view    View
}

// keep copies what is kept: a string may be a part of a large text.
func keep(p Prepared, bound []string) *keepsake {
	v := p.View()
	for _, s := range []*string{&v.User, &v.Group, &v.Context, &v.Net, &v.Log, &v.Cgroup} {
		*s = strings.Clone(*s)
	}
	v.Listen, v.Connect = bound, slices.Clone(v.Connect)
	for i := range v.Connect {
		v.Connect[i] = strings.Clone(v.Connect[i])
	}
	r := p.Restart()
	r.OnDemandAt = vassal.Origin{}
	return &keepsake{digest: p.Digest(), restart: r, view: v}
}

func (k *keepsake) Digest() vassal.Digest        { return k.digest }
func (k *keepsake) Restart() vassal.Restart      { return k.restart }
func (k *keepsake) View() View                   { return k.view }
func (k *keepsake) Changed(context.Context) bool { return false } // it is prepared anew when it wakes

// mayLull reports whether p, which is good, sleeps instead of being started:
// nothing of it runs or was tried, and nobody asks for it.
func (a *actor) mayLull(p Prepared) bool {
	return a.canSleep(p) && a.cur == nil && (a.last != died || a.unslept) && a.w.demand <= a.met
}

// canSleep reports whether the vassal sleeps when nobody asks for it.
func (a *actor) canSleep(p Prepared) bool {
	_, can := a.launch.(Sleeper)
	return can && a.hung == nil && p != nil && p.Restart().OnDemand
}

// mayNod reports whether the generation that serves may be ended because nobody asks:
// it is what the file says, and the file says that it sleeps. What serves although the
// file was edited since, and cannot be used, would not come back.
func (a *actor) mayNod() bool { return a.cur != nil && a.last == served && a.canSleep(a.cur.prep) }

// lull makes the listeners of p and lets the vassal sleep.
func (a *actor) lull(ctx context.Context, p Prepared, ps vassal.Problems) stateFn {
	type slept struct {
		bound []string
		ps    vassal.Problems
	}
	sleeper := a.launch.(Sleeper)
	wake := func() { a.box.change(func(w *wish) { w.demand = w.turn }) }
	got, _, h := drive(a, ctx, driven[slept]{what: "going to sleep", settled: true, late: func(slept) {}, call: func(ctx context.Context) (s slept) {
		s.bound, s.ps = sleeper.Sleep(ctx, p, wake)
		return s
	}})
	if h != nil {
		got.ps = vassal.Problems{h.problem(vassal.Error)}
	}
	if ps = append(slices.Clone(ps), got.ps...); got.ps.Failed() {
		a.realm.log.Warn("cannot sleep", "vassal", a.name, "err", got.ps.Error())
		a.unslept = true
		return a.die(ps)
	}
	a.unslept = false
	a.prep, a.bound = keep(p, got.bound), got.bound
	a.last, a.pending, a.problems = asleep, nil, ps
	return a.decide
}

// nod ends the generation that serves, for nobody asks for anything. Its
// listeners are watched as soon as it accepts no more.
func (a *actor) nod(ctx context.Context) stateFn {
	if a.w = a.box.get(); a.w.gone || a.w.intent != wantRun || a.due() {
		return a.decide
	}
	a.met, a.turn = a.w.demand, a.w.turn
	g := a.cur
	a.realm.log.Info("goes to sleep", "vassal", a.name, "gen", g.n)
	a.retire()
	a.enter(control.Draining)
	a.publish()
	for !a.shut(g) {
		var shut <-chan struct{}
		if s, ok := g.inst.(Shutter); ok {
			shut = s.Shut()
		}
		if ev := a.next(ctx, shut, nil); ev == evDone || a.ending {
			break
		}
	}
	a.last = untried // what becomes of it is decided as for a new one
	if a.ending || a.box.get().turn != a.w.turn {
		return a.decide
	}
	return a.lull(ctx, g.prep, nil)
}

// shut reports whether g is gone, or will never be.
func (a *actor) shut(g *generation) bool {
	return !slices.Contains(a.leaving, g) || a.stuck[g]
}

// sleep is the state in which nothing of the vassal runs and its listeners are
// watched.
func (a *actor) sleep(ctx context.Context) stateFn {
	a.giveWay()
	a.fails, a.checks = 0, 0
	a.slumber()
	for !a.quiet() {
		switch a.next(ctx, nil, nil) {
		case evWish, evEnd:
			if a.rouse() {
				return a.decide
			}
		}
		a.slumber()
	}
	select {
	case <-a.box.bell: // what it rang for is looked at now, and does not keep the actor awake
	default:
	}
	if a.rouse() {
		return a.decide
	}
	return a.parked
}

// slumber settles what was wished, once what served has drained: until then the vassal
// does not sleep, and who waits would be told of a failure.
func (a *actor) slumber() {
	if a.departing() > 0 {
		a.enter(control.Draining)
		a.publish()
		return
	}
	a.enter(control.Sleeping)
	a.settle()
}

// rouse reports whether there is something to do for a sleeping vassal.
func (a *actor) rouse() bool {
	w := a.box.get()
	if a.ending || w.gone || w.intent != wantRun {
		return true
	}
	if w.turn == a.w.turn && !a.stale {
		return false
	}
	if a.w = w; a.due() {
		return true
	}
	a.slumber() // a wish that changes nothing is settled by what is
	return false
}

// quiet reports whether the actor has nothing to wait for but its box.
func (a *actor) quiet() bool { return len(a.leaving) == 0 && !a.looking && a.hung == nil }

// parked ends the actor's goroutine until something rings its box.
func (a *actor) parked(context.Context) stateFn {
	if err := a.launch.(Sleeper).Rest(); err != nil {
		a.realm.log.Warn("keeps more than it needs", "vassal", a.name, "err", err)
	}
	a.save(false)
	a.dozing = true
	return nil
}

// awoken is where an actor goes on that was parked, or nearly.
func (a *actor) awoken(ctx context.Context) stateFn {
	a.dozing = false
	if a.ending = ctx.Err() != nil; a.rouse() {
		return a.decide
	}
	return a.sleep
}

// park reports whether the box is empty; then again is called once when that
// changes. It is not when ctx is done.
func (b *box) park(ctx context.Context, again func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ctx.Err() != nil || len(b.bell) > 0 {
		return false
	}
	b.again = again
	return true
}

// ring says that there is something, and brings back an actor that is parked.
func (b *box) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ringLocked()
}

func (b *box) ringLocked() {
	ring(b.bell)
	if again := b.again; again != nil {
		b.again = nil
		again()
	}
}
