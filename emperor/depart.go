package emperor

import (
	"slices"
	"time"
)

// retire has the generation that serves drained, beside the actor.
func (a *actor) retire() {
	if a.cur == nil {
		return
	}
	g := a.cur
	a.count(g)
	a.cur = nil
	a.depart(g, restartOf(g.prep).DrainTimeout)
}

// relieve is retire for the sake of another generation.
func (a *actor) relieve() {
	if a.cur == nil {
		return
	}
	if r, ok := a.cur.inst.(Reliever); ok {
		r.Relieve()
	}
	a.retire()
}

// depart ends g: asks it to finish, kills it after patience, and says so if
// that does not help. Patience zero kills at once.
func (a *actor) depart(g *generation, patience time.Duration) {
	a.leaving = append(a.leaving, g)
	e := a.ears
	if r, ok := g.inst.(Rester); ok && patience > 0 {
		a.wg.Go(func() { e.awaitRest(g, r) })
	}
	a.wg.Go(func() {
		if patience > 0 {
			if err := g.inst.Drain(); err != nil {
				a.realm.log.Warn("cannot be asked to finish", "vassal", a.name, "gen", g.n, "err", err)
			}
			select {
			case <-g.inst.Done():
			case <-time.After(patience):
			case <-a.realm.hurry:
			}
		}
		if err := g.inst.Kill(); err != nil {
			a.realm.log.Warn("cannot be killed", "vassal", a.name, "gen", g.n, "err", err)
		}
		select {
		case <-g.inst.Done():
		case <-time.After(KillAfter):
			select {
			case e.slow <- g:
			case <-e.abandon:
				return
			}
			select {
			case <-g.inst.Done():
			case <-e.abandon:
				return
			}
		}
		select {
		case e.gone <- g:
		case <-e.abandon:
		}
	})
}

// buried notes that g is gone.
func (a *actor) buried(g *generation) {
	a.leaving = slices.DeleteFunc(a.leaving, func(x *generation) bool { return x == g })
	delete(a.stuck, g)
	if !g.hold {
		a.ended(g)
		a.tellAlone()
	}
	a.publish()
}

// departing counts the leaving generations of the vassal that may still be
// expected to go.
func (a *actor) departing() (n int) {
	for _, g := range a.leaving {
		if !g.hold && !a.stuck[g] {
			n++
		}
	}
	return n
}

// awaitRest has the actor know when g, which leaves, has no daemons and jobs
// any more.
func (e *ears) awaitRest(g *generation, r Rester) {
	select {
	case <-r.Rested():
	case <-g.inst.Done():
		return
	case <-e.abandon:
		return
	}
	select {
	case e.rests <- g:
	case <-e.abandon:
	}
}

// resting notes that g has no daemons and jobs any more.
func (a *actor) resting(g *generation) {
	g.rested = true
	if until := g.inst.(Rester).Until(); until.After(a.until) {
		a.until = until
	}
	a.tellAlone()
}

// tellAlone tells the generation that serves that its daemons and jobs may
// start, because no other one's run, and that no other lives (CONTRACT 18).
func (a *actor) tellAlone() {
	g := a.cur
	if g == nil || g.alone {
		return
	}
	both := restartOf(g.prep).Both
	if !g.turned && (both || a.working() == 0) {
		g.turned = true
		if err := g.inst.Turn(a.until); err != nil {
			a.realm.log.Warn("cannot be told that its daemons and jobs may start", "vassal", a.name, "gen", g.n, "err", err)
		}
	}
	if both || a.departing() == 0 {
		g.alone = true
		if err := g.inst.Alone(); err != nil {
			a.realm.log.Warn("cannot be told that it is alone", "vassal", a.name, "gen", g.n, "err", err)
		}
	}
}

// working counts the leaving generations that may still have daemons and jobs.
func (a *actor) working() (n int) {
	for _, g := range a.leaving {
		if !g.hold && !a.stuck[g] && !g.rested {
			n++
		}
	}
	return n
}
