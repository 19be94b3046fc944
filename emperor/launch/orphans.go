package launch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"liege/emperor"
	"liege/vassal"
)

// orphans are the names of vassals whose file is gone and of which something survived
// an earlier Emperor. A name is one Launcher's at a time: what an actor has is no
// orphan, and the actor of a file that comes back while an orphan drains waits for the
// end of that, which may have been another user's. It waits as well for the Launcher
// that had the name before, which another actor closes where the file was renamed. The
// zero orphans is empty.
type orphans struct {
	mu     sync.Mutex
	had    map[vassal.Name]*launcher // the last of each that is not closed
	ending map[vassal.Name]*orphan
}

// orphan is what ends.
type orphan struct {
	until time.Time     // when it has ended at the latest, unless it is stuck
	over  chan struct{} // closed when it has
}

// launched notes that there is l.
func (o *orphans) launched(l *launcher) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.had == nil {
		o.had = map[vassal.Name]*launcher{}
	}
	if before := o.had[l.name]; before != nil {
		l.before = before.over
	}
	o.had[l.name], l.over = l, make(chan struct{})
}

// closed notes that nothing is left of l's.
func (o *orphans) closed(l *launcher) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case <-l.over:
		return
	default:
	}
	if close(l.over); o.had[l.name] == l {
		delete(o.had, l.name)
	}
}

// take returns those that no Launcher has and that do not end already, of names that
// have no file and may take so long to be gone. Launchers of theirs wait from then on
// until ended is told.
func (o *orphans) take(names map[vassal.Name]time.Duration) map[vassal.Name]*orphan {
	o.mu.Lock()
	defer o.mu.Unlock()
	taken := map[vassal.Name]*orphan{}
	for n, patience := range names {
		if o.had[n] == nil && o.ending[n] == nil {
			taken[n] = &orphan{until: time.Now().Add(patience), over: make(chan struct{})}
		}
	}
	if o.ending == nil {
		o.ending = map[vassal.Name]*orphan{}
	}
	maps.Copy(o.ending, taken)
	return taken
}

// ended notes that name is no orphan's any more.
func (o *orphans) ended(name vassal.Name) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.ending[name].over)
	delete(o.ending, name)
}

// await waits until nobody else has l's name. The Emperor's end ends orphans too.
func (o *orphans) await(l *launcher) {
	if l.before != nil {
		l.at("wait for the one before", "")
		<-l.before
	}
	o.mu.Lock()
	x := o.ending[l.name]
	o.mu.Unlock()
	if x == nil {
		return
	}
	l.lasting("wait for the one before", "", emperor.StepTime+max(0, time.Until(x.until)))
	<-x.over
}

// EndOrphans begins to end the survivors of vassals whose file is gone. Call it after
// the first scan, and again when more is known. ended returns when those are gone, or
// known not to die; until then none of them holds up another, nor a later call.
func (h *Host) EndOrphans(ctx context.Context, lives func(vassal.Name) bool) (ended func() error, err error) {
	names, err := h.Records.Names()
	if err != nil {
		return nil, err
	}
	lost := map[vassal.Name]time.Duration{}
	for _, name := range names {
		if !lives(name) {
			lost[name] = h.longest(name)
		}
	}
	var wg sync.WaitGroup
	errs := make(chan error, len(lost))
	for name := range h.orphans.take(lost) {
		wg.Go(func() {
			defer h.orphans.ended(name)
			errs <- h.endOrphan(ctx, name)
		})
	}
	return func() error {
		wg.Wait()
		close(errs)
		var all []error
		for err := range errs {
			all = append(all, err)
		}
		return errors.Join(all...)
	}, nil
}

// longest is how long the survivors of name may take to be gone.
func (h *Host) longest(name vassal.Name) (d time.Duration) {
	rs, _ := h.Records.Read(name) // what cannot be believed is not adopted
	for _, r := range rs {
		d = max(d, drainOf(r.Drain))
	}
	return d + emperor.KillAfter
}

func (h *Host) endOrphan(ctx context.Context, name vassal.Name) error {
	l := &launcher{host: h, name: name, sockets: h.Sockets.Set(name)}
	ins := l.adoptAll(ctx)
	errs := make([]error, len(ins))
	var wg sync.WaitGroup
	for i, in := range ins {
		h.Log.Info("ends: its file is gone", "vassal", name, "pid", in.PID())
		wg.Go(func() { errs[i] = in.drained(ctx) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("vassal %s: %w", name, err)
	}
	return l.close() // the name may have another Launcher, which waits
}

// drainOf is d, or what a survivor has whose record does not say.
func drainOf(d time.Duration) time.Duration {
	if d <= 0 {
		return emperor.KillAfter
	}
	return d
}

// drained asks the generation to end, kills it when its time to finish is
// over or ctx is done, and returns when nothing is left. It is the tenant's:
// it need not end because it is asked to.
func (in *instance) drained(ctx context.Context) error {
	err := in.Drain()
	select {
	case <-in.done:
		return err
	case <-time.After(drainOf(in.p.Config.Restart.DrainTimeout)):
	case <-ctx.Done():
	}
	err = errors.Join(err, in.Kill())
	select {
	case <-in.done:
		return err
	case <-time.After(emperor.KillAfter):
		return errors.Join(err, fmt.Errorf("generation %d was killed and does not die: %s", in.gen, in.Remains()))
	}
}
