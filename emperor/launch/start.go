package launch

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"liege/emperor"
	"liege/emperor/asuser"
	"liege/emperor/certs"
	"liege/emperor/channel"
	"liege/emperor/listen"
	"liege/emperor/logs"
	"liege/emperor/record"
	"liege/sandbox"
	"liege/sandbox/network"
	"liege/sandbox/stage"
	"liege/selinux"
	"liege/vassal"
)

// start is one Launch: what it makes, and how it is undone.
type start struct {
	l     *launcher
	p     *prepared
	gen   int
	began time.Time
	spec  sandbox.Spec
	undo  []func()
	temp  []*os.File // ours until the sandbox has its copies
	user  *asuser.Session
	ch    *listen.Change

	notes vassal.Problems // warnings about listeners

	logLabel string // SELinux context of the log's FIFO; empty: as it is

	certs *prepared // whose certificates; nil: p's
	files vassal.CertFiles
	found vassal.Problems // about them
	watch *certs.Watch    // of them; nil: no TLS

	unheeded vassal.Problems // failures of hooks that end nothing

	bounded *os.File // the app's directory, if it has a quota
}

// Launch implements emperor.Launcher.
func (l *launcher) Launch(ctx context.Context, prep emperor.Prepared, gen int) (_ emperor.Instance, err error) {
	p, ok := prep.(*prepared)
	if !ok || p.Result == nil {
		return nil, errors.New("launch: the file was not found good")
	}
	l.host.Porter.Leave(l.sockets)
	l.asleep = false
	s := &start{l: l, p: p, gen: gen, began: time.Now()}
	defer l.busy(p)()
	defer func() { s.finish(err) }()
	err = s.through(ctx, step{"labels", s.labels}, step{"log", s.openLog}, step{"listen", s.listen}, step{"certificates", s.certificates},
		step{"mount", s.binds}, step{"quota", s.quota}, step{"mail", s.mailer})
	if err != nil {
		return nil, s.explain(err)
	}
	return s.run(ctx)
}

// finish closes what only the start needed; err undoes the rest.
func (s *start) finish(err error) {
	for _, f := range s.temp {
		f.Close()
	}
	if s.user != nil {
		s.user.Close()
	}
	if err != nil {
		for _, undo := range slices.Backward(s.undo) {
			undo()
		}
	}
}

// labels asks the policy how the things are to be labelled that are made for
// the vassal: by its type_transition rules, so another policy than Liege's is
// served too (KERNEL 10).
func (s *start) labels(context.Context) error {
	h := s.l.host
	if h.Policy == nil {
		return nil
	}
	var err error
	if h.Domains.Hook != "" {
		if s.spec.RootLabel, err = h.Policy.Created(h.Domains.Emperor, tmpfsContext, "dir"); err != nil {
			return err
		}
	}
	domain := s.p.Result.Plan.Context
	if domain == "" {
		return nil
	}
	if s.spec.MountLabel, err = h.Policy.Created(domain, tmpfsContext, "dir"); err != nil {
		return err
	}
	dir, err := selinux.PathContext(h.Records.Path())
	if err != nil {
		return err
	}
	s.logLabel, err = h.Policy.Created(domain, dir, "fifo_file")
	return err
}

// tmpfsContext is what a tmpfs without a label of its own has, in every policy
// of the reference policy's family.
const tmpfsContext = "system_u:object_r:tmpfs_t:s0"

// run starts what the Spec says so far.
func (s *start) run(ctx context.Context) (emperor.Instance, error) {
	in := newInstance(ctx, s.l, s.p, s.gen)
	in.began, in.listens = s.began, cmp.Or(s.certs, s.p)
	s.inBox("")
	if err := s.describe(); err != nil {
		return nil, s.explain(err)
	}
	if err := s.channel(in); err != nil {
		return nil, s.explain(err)
	}
	if err := s.measured(in); err != nil {
		return nil, s.explain(err)
	}
	if err := s.doors(ctx, in); err != nil {
		return nil, s.explain(err)
	}
	s.spec.Told = s.told
	s.spec.At = s.inBox
	s.spec.Created = func(r sandbox.Record) error { return in.note(r, s.ch.Bound()) }
	box, err := s.l.host.Sandboxes.Start(ctx, s.spec)
	if err != nil {
		in.closeRelay()
		err = s.ofNetwork(err)
		_ = s.l.host.Records.Remove(s.l.name, s.gen) // there is none, or it is of nothing
		if f, ok := errors.AsType[*stage.Failure](err); ok {
			err = vassal.Problems{stageProblem(f, s.p.Config.File)}
		}
		return nil, s.explain(err)
	}
	if ctx.Err() != nil {
		in.Forgo() // nobody waits for it any more
	}
	in.run(box, s)
	return in, nil
}

// told keeps the failure of a hook that ends nothing, for who looks at the
// vassal's problems.
func (s *start) told(f *stage.Failure) {
	p := stageProblem(f, s.p.Config.File)
	p.Severity = vassal.Warning
	s.l.log.Note("%s: %s", title(s.gen), p.Error())
	s.unheeded = append(s.unheeded, p)
}

// explain makes problems of an error, and shows them in the vassal's log.
func (s *start) explain(err error) error {
	ps := vassal.AsProblems(err, "start", vassal.CodeStartFailed)
	if s.l.log != nil {
		for _, p := range ps {
			if p.Severity == vassal.Error {
				s.l.log.Note("%s does not start: %s", title(s.gen), p.Error())
			}
		}
	}
	return ps
}

// openLog opens the vassal's log and gives the generation its end.
func (s *start) openLog(ctx context.Context) error {
	l := s.l
	if err := l.ensureLog(); err != nil {
		return err
	}
	r := s.p.Result
	w, err := l.log.Writer(r.UID, r.GID, s.logLabel)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	s.temp = append(s.temp, w)
	s.spec.Stdout = w
	l.log.Forget()
	l.log.Note("generation %d: network: %s", s.gen, reaches(r))
	return s.logto(ctx)
}

// ensureLog opens the vassal's log, once, and again if somebody removed its
// FIFO.
func (l *launcher) ensureLog() error {
	if l.log != nil {
		if l.log.Whole() {
			return nil
		}
		if err := l.log.Close(); err != nil {
			l.host.Log.Warn("log", "vassal", l.name, "err", err)
		}
		l.log = nil
	}
	dir := l.host.Records.Vassal(l.name)
	if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("run directory: %w", err)
	}
	log, err := logs.Open(l.host.Logs, l.name, filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	go log.Run() // until Close
	l.log = log
	return nil
}

// logto opens the file that the vassal's lines go to: with the vassal's ids,
// or, where every directory on the way is root's alone, as root for an
// operator's file (CONTRACT 11).
func (s *start) logto(ctx context.Context) error {
	c := s.p.Config.Logs
	to := c.To
	if to == "" || to == "/dev/stdout" || to == "/dev/stderr" || to == "/dev/null" {
		s.l.log.Elsewhere(nil, nil)
		return nil
	}
	to, mine := s.p.operators(to)
	s.l.at("logto", to)
	var f *os.File
	err := listen.ErrShared
	if mine { // else root opens nothing, and makes nothing
		f, err = listen.OpenRootOnly(to, 0o640, s.p.Result.GID)
	}
	var hangs func(done <-chan struct{})
	if errors.Is(err, listen.ErrShared) {
		var user *asuser.Session
		if user, err = s.asUser(ctx); err == nil {
			f, err = user.OpenLog(to, 0o640)
		}
		whose := who(s.p.Result)
		hangs = func(done <-chan struct{}) { asuser.Hangs(whose, done) }
	}
	if err != nil {
		s.l.log.Elsewhere(nil, nil)
		s.l.log.Note("%s:%d: logto: %v; the lines go to %s", c.ToAt.File, c.ToAt.Line, err, s.l.log.Path())
		return nil
	}
	s.l.log.Elsewhere(f, hangs)
	s.p.logsTo(to)
	return nil
}

// asUser is the child that acts as the vassal's user, one for the whole start.
func (s *start) asUser(ctx context.Context) (*asuser.Session, error) {
	if s.user != nil {
		return s.user, nil
	}
	var err error
	s.user, err = asuser.Start(ctx, who(s.p.Result))
	return s.user, err
}

// listen makes the listeners.
func (s *start) listen(ctx context.Context) error {
	r := s.p.Result
	if err := s.l.host.Sandboxes.Guarded(); err != nil && r.Net != "host" {
		for _, l := range r.Listen {
			if l.Address[0] != '/' && l.Address[0] != '@' {
				return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeListen, File: l.At.File, Line: l.At.Line, Key: l.Key, Step: "listen",
					Message: fmt.Sprintf("%s would be a way out of the private network: %v", l.Address, err), Hint: "a unix socket, or net = host"}
			}
		}
	}
	ch, ps := s.l.sockets.Apply(ctx, listen.Want{
		File: s.p.Config.File, Listeners: r.Listen, UID: r.UID, GID: r.GID, Groups: who(r).Groups,
		Trusted: s.p.Config.Trust.Operator, Umask: s.p.Config.Jail.Umask, Context: r.Plan.Context,
		Owner: s.owner, AsUser: s.asUser, At: func(address string) { s.l.at("listen", address) },
	})
	if ch == nil {
		return ps
	}
	s.notes = ps
	for _, p := range ps {
		if s.l.log != nil { // it goes to sleep
			s.l.log.Note("%s", p.Error())
		}
	}
	s.ch = ch
	s.undo = append(s.undo, ch.Abort)
	s.spec.Listeners = ch.Files()
	return nil
}

// owner resolves the "user:group" of chown-socket.
func (s *start) owner(text string) (uid, gid int, err error) {
	uid, gid = -1, -1
	user, group, _ := strings.Cut(text, ":")
	if user != "" {
		u, err := s.l.host.Users.User(user)
		if err != nil {
			return -1, -1, fmt.Errorf("user %s: %w", user, err)
		}
		uid = u.UID
	}
	if group != "" {
		g, err := s.l.host.Users.Group(group)
		if err != nil {
			return -1, -1, fmt.Errorf("group %s: %w", group, err)
		}
		gid = g.GID
	}
	return uid, gid, nil
}

// describe fills in the rest of the Spec.
func (s *start) describe() error {
	r, h := s.p.Result, s.l.host
	s.spec.ID = fmt.Sprintf("%s-g%d", s.l.name, s.gen)
	s.spec.Name, s.spec.Gen = s.l.name, s.gen
	s.spec.Hostname = r.App.Hostname
	s.spec.HostNet = r.Net == "host"
	if n := r.NAT; n != nil {
		s.spec.NAT = &sandbox.NAT{Addresses: network.Addresses{V4: n.V4, V6: n.V6}, Policy: n.Policy}
	}
	s.spec.Limits = r.Config.Limits
	s.spec.Ceilings = s.p.Ceilings
	n := len(s.spec.Listeners)
	p := &s.spec.Plan
	p.Name = s.l.name
	p.HookEnv = append(slices.Clone(p.HookEnv), fmt.Sprintf("LIEGE_GENERATION=%d", s.gen))
	s.spec.HostHooks = r.HostHooks
	p.Exec = sandbox.CorePath
	p.Args = []string{"liege-core " + string(s.l.name), fmt.Sprintf("--app=%d", stage.FirstFD+n+1), fmt.Sprintf("--control=%d", stage.FirstFD+n)}
	if len(p.Seccomp) == 0 && !p.NoSeccomp {
		p.Seccomp = h.Seccomp
	}
	p.Own, p.HookCon, p.TmpLabel = h.Domains.Stage, h.Domains.Hook, s.spec.MountLabel
	app := r.App
	app.Name, app.Generation = s.l.name, s.gen
	app.Listen, app.CertFiles = slices.Clone(r.Listen), s.files
	bound := make([]string, n)
	for i, b := range s.ch.Bound() {
		app.Listen[i].Address, bound[i] = b.Address, b.Address
	}
	s.p.bound.Store(&bound)
	text, err := json.Marshal(&app)
	if err != nil {
		return err
	}
	f, err := stage.Seal("liege-app", text)
	if err != nil {
		return fmt.Errorf("app: %w", err)
	}
	s.temp = append(s.temp, f)
	s.spec.App = f
	return nil
}

// channel makes the control channel.
func (s *start) channel(in *instance) error {
	var near *channel.Channel
	var far *os.File
	err := selinux.Sockets(s.spec.Plan.Context, func() (err error) {
		near, far, err = channel.Pair()
		return err
	})
	if err != nil {
		return err
	}
	in.control, s.spec.Control = near, far
	s.temp = append(s.temp, far)
	s.undo = append(s.undo, func() { in.control.Close() })
	return nil
}

// note writes the generation's record: before anything of the vassal runs, and
// again when it serves.
func (in *instance) note(r sandbox.Record, bound []listen.Bound) error {
	box, err := json.Marshal(r)
	if err != nil {
		return err
	}
	rec := record.Record{
		Name: in.l.name, Gen: in.gen, File: in.p.Config.File, PID: r.PID, Cgroup: r.Cgroup,
		Digest: in.p.Digest().String(), Drain: in.p.Config.Restart.DrainTimeout, UID: in.p.Result.UID,
		Limits: in.p.Result.Config.Limits, Box: box, Relay: in.relayed,
		Secure: in.listens.secure(),
	}
	for i, b := range bound {
		k := recorded(b)
		k.FD = stage.FirstFD + i
		rec.Listeners = append(rec.Listeners, k)
	}
	in.record = rec
	return in.l.host.Records.Write(rec)
}
