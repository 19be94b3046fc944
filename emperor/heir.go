package emperor

import (
	"context"
	"time"
)

// inherit waits until the vassal that the file belonged to has drained, and
// takes its listeners over.
func (a *actor) inherit(ctx context.Context) {
	old := alongside(a, ctx, func(context.Context) Launcher { return <-a.legacy })
	if old == nil {
		return
	}
	heir := a.launch.(Heir) // set.apply made it sure
	_, _, h := drive(a, ctx, driven[struct{}]{what: "taking over listeners", settled: true, late: func(struct{}) {}, call: func(context.Context) (none struct{}) {
		if err := heir.Inherit(old); err != nil {
			a.realm.log.Warn("listeners are not taken over", "vassal", a.name, "err", err)
		}
		return none
	}})
	if h == nil {
		a.closeOld(ctx, old)
	}
}

// closeOld closes what is left of the vassal that was renamed. One that hangs is nobody's
// any more: this one goes on without.
func (a *actor) closeOld(ctx context.Context, old Launcher) {
	until := time.Now().Add(closeTime)
	b := bounds{patience: giveUp, settled: true, left: func() time.Duration { return time.Until(until) }}
	closed, _, how := within(a, ctx, b, func(context.Context) error { return old.Close() })
	if how == givenUp {
		a.realm.log.Error("hangs", "vassal", a.name, "what", "closing what the renamed vassal had")
		return
	}
	if err := closed(); err != nil {
		a.realm.log.Warn("the renamed vassal leaves something behind", "vassal", a.name, "err", err)
	}
}

// giveUpHeir tells the vassal that waits for this one's listeners that it will
// not get them.
func (a *actor) giveUpHeir() {
	if h := a.box.get().heir; h != nil && a.box.change(func(w *wish) { w.heir = nil }) > 0 {
		h.legacy <- nil
	}
}
