package launch

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"liege/emperor"
	"liege/sandbox"
	"liege/sandbox/stage"
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
	defer l.busy(p)()
	err := s.through(ctx, step{"listen", s.listen}, step{"hooks", s.lullaby})
	s.finish(err)
	if err != nil {
		return nil, vassal.AsProblems(err, "listen", vassal.CodeListen)
	}
	for _, b := range s.ch.Bound() {
		bound = append(bound, b.Address)
	}
	s.ch.Commit()
	l.served.Store(p.secured().prepared(l))
	l.asleep = true
	if l.log != nil {
		l.log.Note("sleeps")
	}
	if err := l.host.Porter.Watch(l.sockets, wake); err != nil {
		return nil, vassal.AsProblems(err, "listen", vassal.CodeListen)
	}
	l.store(p.Config.File)
	return bound, s.notes
}

// lullaby runs the hooks of a vassal that begins to sleep, or whose file changed in
// its sleep.
func (s *start) lullaby(ctx context.Context) error {
	l, r, phase := s.l, s.p.Result, vassal.OnDemand
	if l.asleep {
		phase = vassal.OnConfig
	}
	h := stage.HostPlan{HookTime: r.Plan.HookTime, HookEnv: append(slices.Clone(r.Plan.HookEnv), "UWSGI_HOOK_CONTEXT=vassal"),
		Own: l.host.Domains.Stage, HookCon: l.host.Domains.Hook, Proc: "/proc"}
	for _, hook := range r.HostHooks {
		if hook.Phase == phase {
			h.Hooks = append(h.Hooks, hook)
		}
	}
	if len(h.Hooks) == 0 {
		return nil
	}
	l.lasting("hooks", "", s.boxTime())
	if err := errors.Join(s.labels(ctx), l.ensureLog()); err != nil {
		return err
	}
	out, err := l.log.Writer(r.UID, r.GID, s.logLabel)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	s.temp = append(s.temp, out)
	_, err = l.host.Sandboxes.RunHooks(ctx, sandbox.HostHooks{ID: string(l.name) + "-asleep", Plan: h, Output: out})
	if f, ok := errors.AsType[*stage.Failure](err); ok {
		p := stageProblem(f, s.p.Config.File)
		l.log.Note("does not sleep: %s", p.Error())
		return &p
	}
	return err
}

// Rest implements emperor.Sleeper. What still drained until now wrote to the log
// and was in the vassal's cgroup.
func (l *launcher) Rest() error {
	return l.release((*sandbox.Vassal).Rest)
}
