package launch

import (
	"context"
	"errors"

	"liege/emperor"
	"liege/emperor/expand"
	"liege/emperor/resolve"
	"liege/vassal"
)

var (
	_ emperor.Sleeper = (*launcher)(nil)
	_ emperor.Idler   = (*instance)(nil)
)

// Idle implements emperor.Idler.
func (in *instance) Idle() <-chan struct{} { return in.idle }

// Sleep implements emperor.Sleeper.
func (l *launcher) Sleep(ctx context.Context, prep emperor.Prepared, wake func()) (bound []string, ps vassal.Problems) {
	l.host.Porter.Leave(l.sockets)
	p, ok := prep.(*prepared)
	if !ok || p.Result == nil {
		return nil, vassal.AsProblems(errors.New("the file was not found good"), "sleep", vassal.CodeInternal)
	}
	s := &start{l: l, p: p}
	err := s.listen(ctx)
	s.finish(nil) // what it made stays
	if err != nil {
		return nil, vassal.AsProblems(err, "listen", vassal.CodeListen)
	}
	for _, b := range s.ch.Bound() {
		bound = append(bound, b.Address)
	}
	s.ch.Commit()
	l.served = listened(p)
	if l.log != nil {
		l.log.Note("sleeps")
	}
	if err := l.host.Porter.Watch(l.sockets, wake); err != nil {
		return nil, vassal.AsProblems(err, "listen", vassal.CodeListen)
	}
	return bound, s.notes
}

// Rest implements emperor.Sleeper. What still drained until now wrote to the log
// and was in the vassal's cgroup.
func (l *launcher) Rest() error {
	var errs []error
	if l.log != nil {
		errs = append(errs, l.log.Close())
		l.log = nil
	}
	if l.host.Sandboxes.Has(l.name) {
		v, err := l.host.Sandboxes.Vassal(l.name)
		if err == nil {
			err = v.Rest()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// listened is what a holding generation needs to know of p, and nothing else:
// it is kept for as long as the vassal sleeps. Nil: nothing.
func listened(p *prepared) *prepared {
	if app := (&start{p: p}).app(); !app.SpeaksTLS() {
		return nil
	}
	c, r := &p.Config, p.Result
	out := &prepared{hup: p.hup, Expanded: expand.Expanded{
		Config: vassal.Config{Name: c.Name, File: c.File, Trust: c.Trust},
		Result: &resolve.Result{UID: r.UID, GID: r.GID, Groups: r.Groups, Listen: r.Listen, App: vassal.App{TLS: r.App.TLS}},
	}}
	out.logsTo(*p.log.Load())
	return out
}
