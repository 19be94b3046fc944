package launch

import (
	"context"
	"fmt"
	"time"

	"liege/emperor"
	"liege/emperor/expand"
	"liege/emperor/resolve"
	"liege/sandbox/stage"
	"liege/vassal"
)

// HoldName is the name under which the allotter of uids knows the user of
// holding generations. No vassal can have it: it begins with a dash.
const HoldName vassal.Name = "-hold"

// What a holding generation may use: it is a core without files and workers.
const (
	holdMemory = 128 << 20 // bytes; GOMEMLIMIT keeps it below
	holdPids   = 64        // threads; a core that serves has 10 to 20
	holdFiles  = 4096      // descriptors
	holdConns  = 1024      // connections at once; with heads of 32 KiB they fit its memory
	holdDrain  = 5 * time.Second
)

var _ emperor.Holder = (*launcher)(nil)

// Hold implements emperor.Holder. A holding generation has nothing of the
// vassal's but its listeners: no mount, no hook, no network, no code, and a
// user of its own, which all holding generations have in common. Its lines go
// to the vassal's log.
func (l *launcher) Hold(ctx context.Context, prep emperor.Prepared, h vassal.Hold, gen int) (_ emperor.Instance, err error) {
	of, ok := prep.(*prepared)
	if !ok || of.Result == nil || of.Problems.Failed() {
		of = nil // its listeners are not known: those of before
	}
	if of != nil && len(of.Result.Listen) == 0 || of == nil && len(l.sockets.Bound()) == 0 {
		return nil, nil
	}
	l.host.Porter.Leave(l.sockets)
	p, err := l.holding(of, h)
	if err != nil {
		return nil, err
	}
	s := &start{l: l, p: p, gen: gen, began: time.Now()}
	defer l.busy(p)()
	defer func() { s.finish(err) }()
	err = s.through(ctx, step{"log", s.feed}, step{"listen", func(ctx context.Context) error { return s.keepListeners(ctx, of) }},
		step{"certificates", func(ctx context.Context) error {
			if err := s.keepCertificates(ctx, of); err != nil {
				l.log.Note("%s: https listeners are without a certificate: %v", title(gen), err)
			}
			return nil
		}}, step{"labels", s.labels})
	if err != nil {
		return nil, s.explain(err)
	}
	l.log.Note("%s: every request is answered with %d", title(gen), h.Status)
	return s.run(ctx)
}

// feed gives a holding generation its end of the vassal's log.
func (s *start) feed(context.Context) error {
	if err := s.l.ensureLog(); err != nil {
		return err
	}
	w, err := s.l.log.Feed()
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	s.temp = append(s.temp, w)
	s.spec.Stdout, s.spec.Bare, s.spec.Plan = w, true, s.p.Result.Plan
	return nil
}

// holding is what would be prepared of a file that says no more than h.
func (l *launcher) holding(of *prepared, h vassal.Hold) (*prepared, error) {
	uid, err := l.host.HoldUID()
	if err != nil {
		return nil, fmt.Errorf("the user of holding generations: %w", err)
	}
	p := &prepared{Expanded: expand.Expanded{Config: vassal.Config{Name: l.name}}, hup: &l.hup}
	p.Config.Limits = vassal.Limits{MemoryMax: holdMemory, PidsMax: holdPids}
	p.Config.Restart.DrainTimeout = holdDrain
	env := []string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8", "GOMEMLIMIT=96MiB"}
	p.Result = &resolve.Result{Config: p.Config, UID: uid, GID: uid, Net: "none",
		App: vassal.App{Hostname: l.name.Hostname(), Env: env, Hold: &h, Drain: holdDrain, HTTP: vassal.HTTPLimits{KeepAlive: true, Connections: holdConns}},
		Plan: stage.Plan{UID: uid, GID: uid, Groups: []int{}, Umask: 0o077, OOMScore: 100, Env: env, Rlimits: []vassal.Rlimit{
			{Resource: "core"}, {Resource: "nofile", Value: holdFiles}, {Resource: "memlock"}}},
	}
	p.Result.Plan.Context, p.Result.Plan.ByExec = l.host.Domains.Router, l.host.Domains.Router != ""
	if of != nil {
		p.Config.File, p.Result.Listen, p.Result.App.Hostname = of.Config.File, of.Result.Listen, of.Result.App.Hostname
		p.Result.App.TLS = of.Result.App.TLS
		return p, nil
	}
	secure := map[string]vassal.Listener{}
	if served := l.served.Load(); served != nil {
		p.Result.App.TLS = served.Result.App.TLS
		for _, k := range served.Result.Listen {
			secure[k.Address] = k
		}
	}
	for _, b := range l.sockets.Bound() {
		p.Config.File = b.From.File
		p.Result.Listen = append(p.Result.Listen, vassal.Listener{Address: b.Named, Protocol: b.Protocol, At: b.From, TLS: secure[b.Named].TLS})
	}
	return p, nil
}

// keepListeners makes and mends the listeners of of, with the rights of its
// user, as a start of it would; nil: it takes those that the vassal has.
func (s *start) keepListeners(ctx context.Context, of *prepared) error {
	if of == nil {
		s.ch = s.l.sockets.Keep()
		s.undo = append(s.undo, s.ch.Abort)
		s.spec.Listeners = s.ch.Files()
		return nil
	}
	vassals := &start{l: s.l, p: of, gen: s.gen}
	defer vassals.finish(nil) // what it made is s's to undo
	if err := vassals.listen(ctx); err != nil {
		return err
	}
	s.ch, s.undo, s.spec.Listeners = vassals.ch, vassals.undo, vassals.spec.Listeners
	return nil
}

// keepCertificates reads the certificates of of, with the rights of its user;
// nil: those of what served last.
func (s *start) keepCertificates(ctx context.Context, of *prepared) error {
	if s.certs = of; of == nil {
		s.certs = s.l.served.Load()
	}
	if s.certs == nil {
		return nil
	}
	return s.certificates(ctx)
}

// title names generation gen in the vassal's log.
func title(gen int) string {
	if gen >= emperor.FirstHold {
		return fmt.Sprintf("holding generation %d", gen-emperor.FirstHold)
	}
	return fmt.Sprintf("generation %d", gen)
}
