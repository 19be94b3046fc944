package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"liege/emperor"
	"liege/emperor/control"
	"liege/emperor/dirmon"
	"liege/emperor/expand"
	"liege/emperor/fdstore"
	"liege/emperor/launch"
	"liege/emperor/listen"
	"liege/emperor/logs"
	"liege/emperor/record"
	"liege/emperor/resolve"
	"liege/sandbox"
	"liege/sandbox/network"
	"liege/sandbox/seccomp"
	"liege/sandbox/stage"
	"liege/vassal"
	"liege/vassal/inifile"
)

// realm is everything of one Emperor, in the order in which it is made.
type realm struct {
	flags    flags
	cfg      inifile.EmperorConfig
	log      *slog.Logger
	claims   map[vassal.Name]string // where the files of vassals were when the last Emperor ended
	records  *record.Dir
	boxes    *sandbox.Manager
	machine  *host
	expander *expand.Expander
	porter   *listen.Porter
	launch   *launch.Host
	emperor  *emperor.Emperor
}

// supervise runs the Emperor until a signal ends it.
func supervise(ctx context.Context, f flags) error {
	cfg, ps, err := load(f)
	if err != nil {
		return err
	}
	log := newLog(cfg.LogFormat)
	for _, p := range ps {
		if p.Severity == vassal.Warning {
			log.Warn(p.Error(), "hint", p.Hint)
		}
	}
	monitor := func(claims map[vassal.Name]string) (emperor.Monitor, error) {
		m, err := dirmon.New(dirmon.Options{Sources: cfg.Vassals, Touch: cfg.Touch, Tyrant: cfg.Tyrant, Period: cfg.Rescan, Claims: claims, Log: log})
		if err != nil {
			return nil, &exitError{exitConfig, "", err}
		}
		return m, nil
	}
	tee := &terminal{out: os.Stdout}
	if !isTerminal(os.Stdout) {
		tee = nil
	}
	r, err := newRealm(f, cfg, log, monitor, tee)
	if err != nil {
		return err
	}
	if err = r.run(ctx); errors.Is(err, errHandedOver) {
		return nil // what close would undo is the next one's
	}
	return errors.Join(err, r.close())
}

// errHandedOver says that this Emperor ends as if it had been killed: goroutines
// still look after vassals, and only the end of the process ends them.
var errHandedOver = errors.New("handed over")

// newRealm makes everything that run needs. monitor is told which file had which name.
func newRealm(f flags, cfg inifile.EmperorConfig, log *slog.Logger, monitor func(claims map[vassal.Name]string) (emperor.Monitor, error), tee *terminal) (r *realm, err error) {
	r = &realm{flags: f, cfg: cfg, log: log}
	found, err := programs()
	if err != nil {
		return nil, err
	}
	for dir, mode := range map[string]os.FileMode{cfg.RunDir: 0o755, cfg.LogDir: 0o755, cfg.StateDir: 0o700} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return nil, err
		}
	}
	if r.records, err = record.Open(cfg.RunDir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	kept, err := emperor.Keep(cfg.StateDir) // the lock is ours: nobody writes there any more
	if err != nil {
		log.Warn("who had some of the names before is not known", "err", err)
	}
	r.claims = kept.Claims()
	m, err := monitor(r.claims)
	if err != nil {
		return r, err
	}
	if r.boxes, err = sandbox.NewManager(sandbox.ManagerConfig{RunDir: cfg.RunDir, Stage: found.stage, Core: found.core, Cgroup: cfg.Cgroup, Log: log}); err != nil {
		return r, err
	}
	if err := r.records.SetCgroup(r.boxes.All()); err != nil {
		log.Warn("liege check takes processes of vassals for others", "err", err)
	}
	if err := r.boxes.Guarded(); err != nil {
		log.Warn("vassals with a private network cannot listen on TCP", "err", err)
	}
	if r.machine, err = newHost(cfg, f.apart, found.stage, found.core); err != nil {
		return r, err
	}
	lives := func(n vassal.Name) bool { return emperor.Remembered(cfg.StateDir, n) }
	if err := r.machine.nat.Forget(lives); err != nil {
		log.Warn("addresses of vassals that are gone are kept", "err", err)
	}
	filter, err := seccomp.Default()
	if err != nil {
		return r, err
	}
	relay, err := launch.NewRelay(found.relay)
	if err != nil {
		return r, err
	}
	r.expander = expand.New(r.machine.settings(cfg))
	if r.porter, err = listen.NewPorter(); err != nil {
		return r, err
	}
	given := fdstore.Given()
	sockets := listen.NewRegistry()
	sockets.RunDirs, sockets.Lives, sockets.Cgroup = slices.Concat(f.apart.runDirs, resolve.RunDirs(cfg.RunDir)), lives, r.boxes.All()
	if f.one == "" { // whose records go with it
		sockets.Store = fdstore.Open(given)
	}
	users := resolve.Files{Asked: &resolve.Asked{}}
	local := users.Local()
	r.launch = &launch.Host{
		Sandboxes: r.boxes, Records: r.records, Sockets: sockets, Porter: r.porter, Given: given,
		Logs:  logs.Settings{Dir: cfg.LogDir, Tee: tee.line(), Log: log},
		Users: users, Seccomp: filter, Relay: relay, Mailer: found.mailer, Quotas: launch.NewProjects(cfg.StateDir, lives), Policy: r.machine.policy, Domains: r.machine.domains, HoldUID: r.machine.holdUID, Expand: r.expander.Expand, Log: log,
	}
	if err := errors.Join(r.boxes.Sweep(r.launch.Keep), r.launch.Tidy()); err != nil {
		log.Warn("something of an earlier Emperor is left", "err", err)
	}
	r.emperor = emperor.New(emperor.Options{
		Monitor: m, Launcher: r.launch.Launcher, StateDir: cfg.StateDir, LogDir: cfg.LogDir, Kept: kept,
		Concurrency: cfg.Concurrency, Owner: func(uid int) string { return ownerName(local, uid) }, Log: log,
	})
	return r, nil
}

// close undoes newRealm.
func (r *realm) close() error {
	var errs []error
	if r.boxes != nil {
		errs = append(errs, r.boxes.Close())
	}
	return errors.Join(append(errs, r.records.Close())...)
}

// run supervises until ctx is done or a signal asks for the end, and every
// vassal has drained; or until it hands over.
func (r *realm) run(ctx context.Context) (err error) {
	ctx, stop := context.WithCancel(ctx)
	defer func() {
		if !errors.Is(err, errHandedOver) { // else it would have the vassals drained
			stop()
		}
	}()
	gid, err := groupID(r.cfg.ControlGroup)
	if err != nil {
		return &exitError{exitConfig, "", err}
	}
	ln, err := control.Listen(control.Socket(r.cfg.RunDir), gid)
	if err != nil {
		return err
	}
	users, err := control.ListenUsers(control.UsersSocket(r.cfg.RunDir))
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	exe, err := sandbox.Executable()
	if err != nil {
		return errors.Join(err, ln.Close(), users.Close())
	}
	if err := r.hooks(ctx, vassal.EmperorStart); err != nil {
		return errors.Join(err, ln.Close(), users.Close())
	}
	server := &control.Server{Backend: r.emperor, Group: gid, Version: version, Binary: exe, Log: r.log}
	// The socket answers until the last vassal has drained.
	serving, quiet := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	ended, over, left := make(chan error, 2), make(chan error, 1), make(chan struct{})
	wg.Go(func() { ended <- server.Serve(serving, ln) })
	wg.Go(func() { ended <- server.ServeUsers(serving, users) })
	wg.Go(func() {
		r.signals(serving, func() {
			r.launch.Sockets.Leave()
			stop()
		}, func() { close(left) })
	})
	wg.Go(func() { r.notify(serving) })
	wg.Go(func() { r.keepHouse(ctx) })
	wg.Go(func() { trim(serving) })
	wg.Go(func() { r.keepRules(serving) })
	wg.Go(func() {
		if err := r.porter.Run(serving); err != nil {
			r.log.Error("vassals that sleep are not woken any more", "err", err)
		}
	})
	r.log.Info("Emperor", "version", version, "vassals", r.cfg.Vassals, "run-dir", r.cfg.RunDir)
	go func() { over <- r.emperor.Run(ctx) }()
	select {
	case err = <-over:
	case <-left:
		quiet() // a wish from now on is the next one's
		return errHandedOver
	}
	_ = r.hooks(context.WithoutCancel(ctx), vassal.EmperorEnd) // failures are logged
	quiet()
	wg.Wait()
	for _, socket := range []string{control.Socket(r.cfg.RunDir), control.UsersSocket(r.cfg.RunDir)} {
		if rm := os.Remove(socket); !errors.Is(rm, os.ErrNotExist) {
			err = errors.Join(err, rm)
		}
		if serr := <-ended; serr != nil && !errors.Is(serr, context.Canceled) {
			err = errors.Join(err, serr)
		}
	}
	return err
}

// keepRules makes the host's rules for net = nat anew when somebody flushed them.
func (r *realm) keepRules(ctx context.Context) {
	err := network.Keep(ctx, func(err error) {
		r.log.Warn("somebody removed the table inet liege; it is made again", "err", err)
	})
	if err != nil {
		r.log.Warn("net = nat", "err", err, "hint", "after nft flush ruleset: liege reload of any vassal with net = nat")
	}
}

// hookTime is how long one of the Emperor's own hooks may take.
const hookTime = 120 * time.Second

// hooks runs the Emperor's own of a phase. What they print goes to its log.
func (r *realm) hooks(ctx context.Context, phase vassal.Phase) error {
	p := stage.HostPlan{HookTime: int(hookTime.Seconds()), Proc: "/proc", Own: r.machine.domains.Stage, HookCon: r.machine.domains.Hook,
		HookEnv: []string{resolve.RootPath, "LANG=C.UTF-8"}}
	for _, h := range r.cfg.Hooks {
		if h.Phase == phase {
			p.Hooks = append(p.Hooks, h)
		}
	}
	told, err := r.boxes.RunHooks(ctx, sandbox.HostHooks{ID: string(phase), Plan: p, Output: os.Stderr})
	for _, f := range told {
		r.log.Warn("a hook failed", "err", f)
	}
	return err
}

// orphanGrace is how long a survivor may wait for its file to be found.
const orphanGrace = 5 * time.Second

// houseDay is how often old logs are looked at.
const houseDay = 24 * time.Hour

// keepHouse ends what survived of vassals whose files are gone, now and as long as
// not every directory could be read; and removes old logs, now and once a day.
func (r *realm) keepHouse(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-r.emperor.Scanned():
	}
	var ending sync.WaitGroup // of what may drain for long
	defer ending.Wait()
	// A file that is being written is not listed yet: there is no hurry.
	wait, whole := orphanGrace, false
	for expired := (time.Time{}); ; wait = time.Minute {
		if whole {
			wait = houseDay
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if !whole {
			whole = r.endOrphans(ctx, &ending)
		}
		if time.Since(expired) < houseDay {
			continue
		}
		expired = time.Now()
		if err := logs.Expire(r.cfg.LogDir, r.lives, expired); err != nil {
			r.log.Warn("old logs", "err", err)
		}
	}
}

// endOrphans has the survivors ended, in ending, that are known to have no file, and
// reports whether that is known of all.
func (r *realm) endOrphans(ctx context.Context, ending *sync.WaitGroup) (whole bool) {
	whole = r.emperor.Complete()
	ended, err := r.launch.EndOrphans(ctx, r.lives)
	if err != nil {
		r.log.Warn("survivors without a file are not looked for", "err", err)
		return false
	}
	ending.Go(func() {
		if err := ended(); err != nil {
			r.log.Warn("a survivor without a file", "err", err)
		}
	})
	return whole && r.emperor.Complete()
}

// lives reports whether the vassal n has a file, or may have.
func (r *realm) lives(n vassal.Name) bool { return !r.emperor.Gone(n, r.claims[n]) }

// installed are the paths of the other programs.
type installed struct {
	stage, core, relay string
	mailer             string // the directory that holds sendmail
}

// programs finds them beside this program or in ../libexec/liege.
func programs() (p installed, err error) {
	exe, err := sandbox.Executable()
	if err != nil {
		return p, err
	}
	find := func(name string) string {
		for _, dir := range []string{filepath.Dir(exe), filepath.Join(filepath.Dir(exe), "../libexec/liege")} {
			if p := filepath.Join(dir, name); unix.Access(p, unix.X_OK) == nil {
				return p
			}
		}
		err = errors.Join(err, fmt.Errorf("%s is neither beside %s nor in ../libexec/liege", name, exe))
		return ""
	}
	p = installed{stage: find("liege-stage"), core: find("liege-core"), relay: find("liege-relay"), mailer: filepath.Dir(find("sbin/sendmail"))}
	return p, err
}

// groupID is the gid of a group's name; -1 for none.
func groupID(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	g, err := resolve.Files{}.Group(name)
	if err != nil {
		return -1, fmt.Errorf("control-group = %s: %w", name, err)
	}
	return g.GID, nil
}

// ownerName is the name of the owner of a vassal's file, to be shown. The loop
// that all vassals share asks for it: no name service is, which may be away.
func ownerName(users resolve.Users, uid int) string {
	if u, err := users.User(strconv.Itoa(uid)); err == nil && u.Name != "" {
		return u.Name
	}
	return strconv.Itoa(uid)
}
