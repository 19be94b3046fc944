// Package launch starts the generations of vassals: it is the Emperor's
// Launcher (package emperor).
//
//	host := &launch.Host{Sandboxes: manager, Records: dir, …}
//	e, err := emperor.New(emperor.Options{Launcher: host.Launcher, …})
//
// # One start
//
//	Prepare   the file's text → Config → resolved against this host
//	Launch    listeners made or kept (package listen)
//	          a tenant's paths opened with the tenant's ids, as detached mounts
//	          the log's FIFO, the sealed App, the control channel
//	          sandbox.Start: namespaces, cgroup; then, before anything of the
//	          vassal runs, the record on disk; then the stage
//	Instance  hello ◄── the core runs; its posture is read from outside
//	          verified ──► it may load the app
//	          ready ◄── listeners that it doesn't have are closed
//	          … drain ──► or kill; nothing is left when Done is closed
//
// What a start made is undone, in the opposite order, when it fails. What the
// vassal keeps over its generations (listeners, log, cgroup, private
// directories) belongs to its Launcher and goes with Close.
//
// While no generation serves, Hold starts one that answers every request with a
// status and a page: the same core without anything of the vassal's.
//
// A core is the tenant: what it says on the control channel is a claim, is
// bounded in size and rate, and a packet that breaks a rule ends the
// generation.
package launch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"liege/emperor"
	"liege/emperor/asuser"
	"liege/emperor/expand"
	"liege/emperor/fdstore"
	"liege/emperor/listen"
	"liege/emperor/logs"
	"liege/emperor/quota"
	"liege/emperor/record"
	"liege/emperor/resolve"
	"liege/sandbox"
	"liege/sandbox/stage"
	"liege/selinux"
	"liege/vassal"
)

// Host is what the Launchers of all vassals share. Every member is needed but
// those that say otherwise. It is not copied and not changed once used.
type Host struct {
	Sandboxes *sandbox.Manager
	Records   *record.Dir
	Sockets   *listen.Registry
	Porter    *listen.Porter
	Logs      logs.Settings
	Users     resolve.Users
	Seccomp   []stage.Filter
	Relay     Relay
	Quotas    *quota.Projects
	Mailer    string              // directory with liege-sendmail in it, named sendmail, and nothing else
	HoldUID   func() (int, error) // the user of holding generations, and its group: nobody else's
	Policy    *selinux.Policy     // nil: SELinux is off
	Domains   selinux.Domains     // of Liege's own parts, by Policy
	// Expand makes of a file what one start needs. It may be called by many
	// goroutines.
	Expand func(context.Context, emperor.File) expand.Expanded
	Given  *fdstore.Gift // what systemd kept of an earlier Emperor's; nil: nothing
	Log    *slog.Logger

	full    sync.Once // it was said that systemd keeps no more
	orphans orphans
}

// Launcher returns the Launcher of the vassal name.
func (h *Host) Launcher(name vassal.Name) emperor.Launcher {
	l := &launcher{host: h, name: name, sockets: h.Sockets.Set(name)}
	h.orphans.launched(l)
	return l
}

// launcher is the Launcher of one vassal. One goroutine uses it, but for Step and Hangs.
type launcher struct {
	host    *Host
	name    vassal.Name
	sockets *listen.Set
	log     *logs.Log // nil until the first start
	asleep  bool      // nothing was started since Sleep
	steps   steps

	before, over chan struct{} // closed with the Launcher that had the name, and with this one; see orphans

	served atomic.Pointer[prepared] // whose listeners they are: what served last, or sleeps; nil: nothing yet

	// hup: the core got SIGHUP (CONTRACT 11, pidfile), or its application's code
	// changed. It outlives a start that failed: the generation that serves on may
	// ask once more.
	hup atomic.Bool
}

var (
	_ emperor.Launcher = (*launcher)(nil)
	_ emperor.Adopter  = (*launcher)(nil)
	_ emperor.Heir     = (*launcher)(nil)
	_ emperor.Binder   = (*launcher)(nil)
	_ emperor.Remainer = (*instance)(nil)
	_ emperor.Troubled = (*instance)(nil)
	_ emperor.Timed    = (*instance)(nil)
)

// prepared implements emperor.Prepared.
type prepared struct {
	expand.Expanded
	cgroup  string
	log     atomic.Pointer[string]   // the file that the vassal's lines go to
	bound   atomic.Pointer[[]string] // once launched: what it listens on, as bound
	touched []time.Time              // mtimes of Config.Touch when it was prepared
	hup     *atomic.Bool             // the launcher's
}

// Prepare implements emperor.Launcher.
func (l *launcher) Prepare(ctx context.Context, f emperor.File) (emperor.Prepared, vassal.Problems) {
	if f.Problem != nil {
		return nil, vassal.Problems{*f.Problem}
	}
	x := l.host.Expand(ctx, f)
	x.Config.Name = l.name // that of a glob is not in the path (CONTRACT 3)
	p := &prepared{Expanded: x, hup: &l.hup}
	p.logsTo(logs.PathOf(l.host.Logs.Dir, l.name))
	p.cgroup = l.host.Sandboxes.Cgroup(l.name)
	p.touched = p.touch()
	return p, x.Problems
}

func (p *prepared) logsTo(path string)      { p.log.Store(&path) }
func (p *prepared) Digest() vassal.Digest   { return p.Expanded.Digest }
func (p *prepared) Restart() vassal.Restart { return p.Config.Restart }

// operators makes path absolute. mine says that the whole of it is the operator's
// word, so that root may do what it asks for where every directory on the way is
// root's alone.
func (p *prepared) operators(path string) (abs string, mine bool) {
	return p.Result.Outside(path), p.Config.Trust.Operator && (filepath.IsAbs(path) || !p.Result.BaseByUser)
}

// touch returns the mtimes of the files of touch-reload; zero: missing.
func (p *prepared) touch() []time.Time {
	var paths []string
	for _, path := range p.Config.Touch {
		if p.Result != nil {
			path, _ = p.operators(path)
		}
		paths = append(paths, path)
	}
	var as asuser.Who // root, for the operator's word
	switch {
	case len(paths) == 0:
		return nil
	case p.Config.Trust.Operator:
	case p.Result == nil:
		return make([]time.Time, len(paths))
	default:
		as = who(p.Result)
	}
	return asuser.Times(as, paths)
}

// Changed implements emperor.Prepared. A file of touch-reload that is gone has
// not been touched (uWSGI says so too).
func (p *prepared) Changed(ctx context.Context) bool {
	if p.hup.Swap(false) {
		return true
	}
	for i, now := range p.touch() {
		if !now.IsZero() && !now.Equal(p.touched[i]) {
			return true
		}
	}
	return p.Expanded.Changed != nil && p.Expanded.Changed(ctx)
}

// View implements emperor.Prepared.
func (p *prepared) View() emperor.View {
	v := emperor.View{
		Context: p.Config.Ident.Context, Net: p.Config.Jail.Net, Log: *p.log.Load(), Cgroup: p.cgroup,
		MemoryMax: p.Config.Limits.MemoryMax, PidsMax: p.Config.Limits.PidsMax,
	}
	if r := p.Result; r != nil {
		v.UID, v.GID, v.User, v.Group, v.Net = r.UID, r.GID, r.User, r.Group, r.Net
		v.Connect = r.Reaches()
		if r.NAT != nil {
			v.Addresses, v.Connect = addressesOf(r.NAT), append(r.NAT.Says(), v.Connect...)
		}
		if r.Plan.Context != "" {
			v.Context = r.Plan.Context
		}
		for _, l := range r.Listen {
			v.Listen = append(v.Listen, l.Address)
		}
		if b := p.bound.Load(); b != nil {
			v.Listen = *b
		}
	}
	return v
}

// Close implements emperor.Launcher.
func (l *launcher) Close() error {
	defer l.host.orphans.closed(l)
	return l.close()
}

func (l *launcher) close() error {
	defer l.steps.now.Store(nil)
	l.at("close", "")
	l.host.Porter.Leave(l.sockets)
	left := l.sockets.Close()
	errs := []error{l.release((*sandbox.Vassal).Close)}
	if !left {
		errs = append(errs, l.host.Records.RemoveAsleep(l.name), l.host.Records.RemoveVassal(l.name))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("vassal %s: %w", l.name, err)
	}
	return nil
}

// release closes the log, and gives back by let what the sandboxes keep for the
// vassal, if there is anything.
func (l *launcher) release(let func(*sandbox.Vassal) error) error {
	var errs []error
	if l.log != nil {
		errs = append(errs, l.log.Close())
		l.log = nil
	}
	if l.host.Sandboxes.Has(l.name) {
		v, err := l.host.Sandboxes.Vassal(l.name)
		if err == nil {
			err = let(v)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Inherit implements emperor.Heir.
func (l *launcher) Inherit(old emperor.Launcher) error {
	o, ok := old.(*launcher)
	if !ok {
		return fmt.Errorf("inherit: %T is not of this package", old)
	}
	defer l.steps.now.Store(nil)
	l.at("inherit", "")
	l.host.Porter.Leave(o.sockets)
	l.sockets.Inherit(o.sockets)
	l.served.Store(o.served.Load())
	return nil
}

// Bound implements emperor.Binder.
func (l *launcher) Bound() (as []string) {
	for _, b := range l.sockets.Bound() {
		as = append(as, b.Address)
	}
	return as
}

// who is the user that p runs as.
func who(r *resolve.Result) asuser.Who {
	w := asuser.Who{UID: r.UID, GID: r.GID}
	if r.Config.Trust.Operator {
		w.For = string(r.Config.Name)
	}
	for _, g := range r.Groups {
		w.Groups = append(w.Groups, g.GID)
	}
	return w
}
