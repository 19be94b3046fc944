package inifile

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"liege/vassal"
)

// Policy is what the operator's emperor.ini says about every vassal, as far as
// decoding needs it. The zero Policy bounds nothing.
type Policy struct {
	MemoryMax Ceiling // bytes
	CPUMax    Ceiling // CPUs
	PidsMax   Ceiling
	SwapMax   Ceiling // bytes; in force if it has a line
	CPUWeight Ceiling // of operators' files too; a tenant's without one: the usual
	Strict    bool    // unknown keys are errors in every file
	Serve     bool    // liege serve: one instance of the caller's own

	OnDemand *OnDemand // nil: the Emperor names no socket for this vassal
}

// OnDemand is the socket that wakes a vassal, named beside its file:
// emperor-on-demand-extension and its kin.
type OnDemand struct {
	Address string
	Key     string        // the Emperor's option
	Origin  vassal.Origin // where the address is written
}

// Ceiling is one bound and the line that sets it. Zero: none.
type Ceiling struct {
	Value float64
	At    vassal.Origin
}

// CorePids is how many processes and threads the core and the sandbox's first
// process may need: limit-nproc counts the app's only, the kernel counts all.
// A Go program has a thread per CPU in use, a few of its own, and one for each
// call that blocks in the kernel.
const CorePids = 64

// DefaultPids is the pids-max of a vassal that no line bounds: a fork bomb of
// one tenant must not take the host's last pid. It is far above what an app of
// dozens of workers and hundreds of threads has.
const DefaultPids = 2048

// Defaults of a Config that has no line about them; docs/options.md shows the
// same values.
const (
	defaultHeaderTimeout = 15 * time.Second
	defaultIOTimeout     = 60 * time.Second
	defaultBodyTimeout   = 30 * time.Second
	defaultHeaderBytes   = 32 << 10
	defaultConnections   = 4096
	defaultFields        = 128
	defaultBacklog       = 1024
	defaultReady         = 60 * time.Second
	defaultDrain         = 60 * time.Second
	defaultBackoffMin    = time.Second
	defaultBackoffMax    = 180 * time.Second
	defaultStable        = 10 * time.Second
	defaultLogSize       = 10 << 20
	defaultHookTime      = 120 * time.Second
	maxUserDrain         = 10 * time.Minute // what is stopped or removed may be so because of its user
	drainGrace           = 5 * time.Second  // between the end of the drain and the kill
)

// Decode makes a Config of f's settings. It asks the host nothing. The Config
// is usable only if the Problems have no Error; it is filled in as far as
// possible regardless. All problems are reported at once, in the order of the
// lines; those of one kind are one.
func Decode(f *File, p Policy) (vassal.Config, vassal.Problems) {
	d := &decoder{f: f, pol: p, plugins: map[string]bool{}, places: map[string][]int{}, seen: map[string]vassal.Origin{}}
	d.cfg = vassal.Config{
		Name: nameOf(f.Source.Path), File: f.Source.Path, Digest: f.Digest, Trust: f.Source.Trust,
		Jail: vassal.Jail{AutoBind: true, Net: "none", Umask: 0o022},
		Restart: vassal.Restart{
			Overlap: true, ReadyTimeout: defaultReady, DrainTimeout: defaultDrain + drainGrace,
			BackoffMin: defaultBackoffMin, BackoffMax: defaultBackoffMax, StableAfter: defaultStable,
		},
		Logs: vassal.Logs{MaxSize: defaultLogSize}, HookTime: defaultHookTime,
	}
	d.cfg.App = vassal.App{
		Drain: defaultDrain,
		HTTP: vassal.HTTPLimits{
			HeaderTimeout: defaultHeaderTimeout, BodyTimeout: defaultBodyTimeout, WriteTimeout: defaultIOTimeout,
			IdleTimeout: defaultIOTimeout, HeaderBytes: defaultHeaderBytes, Fields: defaultFields, Connections: defaultConnections, KeepAlive: true,
		},
	}
	d.work = vassal.Workers{Language: "python", Processes: 1, Threads: 1, LoadTimeout: defaultReady}
	d.said = operatorsSay(f)
	for _, s := range f.Settings {
		d.setting(s)
	}
	d.finish()
	return d.cfg, d.problems()
}

// nameOf is the name that the monitor gives a file in a directory; whoever
// found the file by a glob sets Config.Name itself (CONTRACT 3).
func nameOf(file string) vassal.Name {
	base := path.Base(file)
	if n, err := vassal.ParseName(strings.TrimSuffix(base, ".ini")); err == nil {
		return n
	}
	return vassal.SuggestName(strings.TrimSuffix(base, ".ini"))
}

// decoder is one call of Decode.
type decoder struct {
	f   *File
	pol Policy
	cfg vassal.Config
	ps  vassal.Problems

	work   vassal.Workers // of an app that a later line may name
	py     vassal.Python
	demand demand
	languages
	mounts   vassal.Mounting
	noMain   bool            // no-default-app
	alone    bool            // mules and spoolers run without an app
	pyOption string          // the option that names the app
	proto    vassal.Protocol // of socket lines; the last protocol line counts for all
	mode     *fileMode
	chown    string
	backlog  int
	nproc    *value // limit-nproc

	secure     vassal.TLS
	depthNamed bool // ssl-verify-depth

	waits    waiting
	oldRoot  string // of pivot_root, as a path in the new one
	own      own
	cgis     vassal.CGI
	cgiAt    vassal.Origin
	modifier map[string]value // by option
	reqLog   vassal.Origin    // of the req-logger line that counts
	cheaper  value
	vhosts   []pending
	workless value // processes, if it may be 0
	youth    bool  // min-worker-lifetime is named

	cache    caching
	job      vassal.Jobs
	raises   []raising // what raises alarms
	metrics  vassal.Metrics
	measured bool // there are metrics

	ioTimeout, bodyTimeout time.Duration

	shared    []value // shared-socket lines
	sockets   vassal.Sockets
	ahead     vassal.Forward
	upstreams []func() // said when the network is known
	mailers   []string // addresses of sendmail lines that are the operator's

	plugins  map[string]bool          // named by plugins lines
	seen     map[string]vassal.Origin // first line of each option's name
	keyed    int                      // bytes of App.Keys, and of what had no room there
	missing  []pending                // options that are not there yet
	comments []Setting                // values that hold " ;" or " #"
	quoted   []Setting
	rest     []trail // numbers and switches that go on after their value
	unknown  []Setting
	theirs   []vassal.Origin          // of rules that a tenant wrote
	said     map[string]vassal.Origin // operatorsSay

	more       int // problems that were not kept
	moreFailed bool

	places map[string][]int // of each name in App.Env
}

// pending is a line of an option that is not there yet.
type pending struct {
	opt *Option
	s   Setting
}

// value is one setting with what its type makes of it.
type value struct {
	Setting
	opt *Option
	on  bool          // Bool
	n   int64         // Int, Size (bytes), Mode
	f   float64       // Number
	dur time.Duration // Duration
}

// tenant reports whether the line is a tenant's: of a tenant's vassal file, or
// with something in it that a tenant's file gave.
func (d *decoder) tenant(s Setting) bool {
	return s.Tenant || !d.cfg.Trust.Operator && s.Origin.Layer == vassal.OwnFile
}

// setting handles one line: who may write it, what its class says, its value.
func (d *decoder) setting(s Setting) {
	d.key(s)
	if s.Placeholder {
		return
	}
	o, ok := Lookup(s.Key)
	if !ok {
		d.unknown = append(d.unknown, s)
		return
	}
	if o.Type == Language {
		return
	}
	if !d.cfg.Trust.Operator && s.Origin.Layer == vassal.Defaults && (o.Name == "uid" || o.Name == "gid") {
		return // a tenant's file runs as its owner (CONTRACT 7)
	}
	if !o.Tenant && d.tenant(s) {
		d.err(vassal.CodeNotForTenants, s, "only a file that belongs to root may use it", "remove the line, or sudo chown root "+cmp.Or(s.Origin.File, d.f.Source.Path))
		return
	}
	if d.cfg.Trust.Operator && s.Tenant && ownersOnly(o) {
		d.err(vassal.CodeNotForTenants, s, "comes from a file that does not belong to root", "write the line into the vassal's own file")
		return
	}
	if by, said := d.said[saying(o, s)]; said && s.Tenant && (by.Layer != vassal.Enforced || s.Origin.Layer != vassal.Enforced) {
		d.warn(vassal.CodeNotForTenants, s, fmt.Sprintf("is left out: a file of root's says it (%s:%d), and one that does not belong to root does not change that", by.File, by.Line), "remove one of the lines")
		return
	}
	if s.Tenant && (d.cfg.Trust.Operator || s.Origin.Layer != vassal.OwnFile) {
		d.cfg.Lent = append(d.cfg.Lent, s.Origin)
	}
	if _, dup := d.seen[o.Name]; !dup {
		d.seen[o.Name] = s.Origin
	}
	if o.Name == "hook-master-start" && strings.HasPrefix(s.Value, "unix_signal:") {
		return // "gracefully_kill_them_all" at SIGTERM and the like: always so
	}
	switch o.Class {
	case NotYet:
		d.missing = append(d.missing, pending{o, s})
		return
	case Refused:
		d.refused(o, s)
		return
	case Always:
		d.always(o, s)
		return
	case Otherwise:
		d.note(vassal.CodeDoneOtherwise, s, o.Effect)
		if !heard(o) {
			return // whatever its value says
		}
	}
	v, ok := d.value(o, s)
	if !ok {
		return
	}
	d.apply(v)
}

// refused says that an option is never there, unless the line switches it off.
// Whether vhost changes anything is known at the end.
func (d *decoder) refused(o *Option, s Setting) {
	switch {
	case o.Type == Bool && !s.Bare && isFalse(firstWord(s.Value)):
	case o.Name == "vhost" || o.Name == "vhost-host":
		d.vhosts = append(d.vhosts, pending{o, s})
	default:
		d.err(vassal.CodeRefused, s, o.Effect, "remove the line")
	}
}

// ownersOnly reports whether an option says as whom the app runs, or has the Emperor
// write, read or connect to what it names as the owner of the vassal's file, so that
// a line that somebody else's file gave would have root's rights in an operator's.
// What such a line names otherwise is bounded as a tenant's is (Config.Lent).
func ownersOnly(o *Option) bool {
	switch o.Path {
	case PathLog, PathCert, PathWatch:
		return true
	}
	switch o.Name {
	case "uid", "gid", "net", "resolv-conf", "chown-socket", "tmpfs":
		return true
	}
	return strings.HasPrefix(o.Name, "wait-for-") || strings.Contains(o.Name, "pidfile")
}

// operatorsSay is what the lines of an operator's file say themselves, and those
// that the operator says last, and which line does: a user's file fills in what they
// leave open. To come later is not enough where two options say the same.
func operatorsSay(f *File) map[string]vassal.Origin {
	if !slices.ContainsFunc(f.Settings, func(s Setting) bool { return s.Tenant }) {
		return nil
	}
	said := map[string]vassal.Origin{}
	for _, s := range f.Settings {
		its := s.Origin.Layer == vassal.Enforced || s.Origin.Layer == vassal.OwnFile && f.Source.Trust.Operator
		if o, ok := Lookup(s.Key); ok && its && !s.Tenant && !s.Placeholder {
			if key := saying(o, s); key != "" {
				said[key] = s.Origin
			}
		}
	}
	return said
}

// saying is what one line says once and for all; empty: it is one of many.
func saying(o *Option, s Setting) string {
	if !o.Many {
		return cmp.Or(o.Says, o.Name)
	}
	if o.Says == "" {
		return ""
	}
	name, _, _ := strings.Cut(s.Value, "=")
	return o.Says + " " + strings.TrimSpace(name)
}

// heard reports whether the value of an option that is done otherwise counts.
func heard(o *Option) bool {
	switch o.Name {
	case "limit-nproc", "lazy", "worker-mount", "daemonize", "daemonize2", "pidfile", "pidfile2", "safe-pidfile", "safe-pidfile2", "touch-chain-reload", "touch-workers-reload", "fs-reload",
		"http-stats", "chroot", "pivot-root", "namespace", "namespace-keep-mount", "unshare", "unshare2", "emperor-use-clone", "log-drain", "log-filter", "async", "asyncio", "ini-paste":
		return true
	}
	return false
}

// apply stores v where it belongs.
func (d *decoder) apply(v value) bool {
	for _, area := range []func(value) bool{
		d.application,
		d.python,
		d.rack,
		d.psgi,
		d.mount,
		d.process,
		d.crew,
		d.listener,
		d.request,
		d.static,
		d.routing,
		d.sending,
		d.cgi,
		d.program,
		d.phpLine,
		d.daemonLine,
		d.tls,
		d.caches,
		d.metric,
		d.modifiers,
		d.jobs,
		d.alarms,
		d.front,
		d.identity,
		d.guard,
		d.jail,
		d.root,
		d.limits,
		d.logs,
		d.requestLog,
		d.life,
		d.sleeping,
		d.hook,
		d.waitFor,
	} {
		if area(v) {
			return true
		}
	}
	return false
}

// always is for options that hold anyway: only a wish for the contrary is
// worth a word.
func (d *decoder) always(o *Option, s Setting) {
	switch {
	case strings.HasSuffix(o.Name, "plugins") || strings.HasSuffix(o.Name, "plugin"):
		d.plugin(o, s)
	case o.Type == Bool && !s.Bare && isFalse(firstWord(s.Value)):
		d.note(vassal.CodeAlwaysSo, s, fmt.Sprintf("%s has no effect: %s", firstWord(s.Value), o.Effect))
	}
}

// application handles what names the app.
func (d *decoder) application(v value) bool {
	switch v.opt.Name {
	case "wsgi-file", "module", "asgi":
		d.names(v, "python")
		if at := d.py.At; d.py.File+d.py.Module != "" && v.opt.Name != d.pyOption {
			d.warn(vassal.CodeTwoApps, v.Setting, fmt.Sprintf("line %d names another app; this one counts", at.Line), "keep one of them")
		}
		d.py.File, d.py.Module, d.py.At, d.py.Key, d.py.Form, d.pyOption = "", "", v.Origin, "", "", v.opt.Name
		switch d.py.ASGI = v.opt.Name == "asgi"; {
		case v.opt.Name == "wsgi-file":
			d.py.File = v.Value
			d.named(v)
		case d.py.ASGI:
			d.asgi(v)
		default:
			d.py.Module = v.Value
		}
	case "callable":
		d.py.Callable = v.Value
	case "home":
		d.py.Virtualenv = v.Value
		d.named(v)
	case "pythonpath":
		if strings.ContainsAny(v.Value, "*?[") {
			d.warn(vassal.CodeNotYet, v.Setting, "patterns are not expanded in pythonpath: the directory is skipped", "name each directory")
			return true
		}
		d.py.Path = append(d.py.Path, v.Value)
		d.named(v)
	case "pyargv":
		d.py.Argv = v.Value
	case "interpreter":
		if !path.IsAbs(v.Value) {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not an absolute path", v.Value), "interpreter = /usr/bin/python3")
			return true
		}
		d.work.Interpreter = v.Value
		d.named(v)
	case "lazy-apps", "lazy":
		d.work.LazyApps = v.on
	default:
		return false
	}
	return true
}

// process handles how many workers there are and how they run.
func (d *decoder) process(v value) bool {
	switch v.opt.Name {
	case "processes":
		d.work.Processes = max(1, d.within(v, 0, maxWorkers, "processes = %k"))
		d.workless = v
	case "threads":
		d.work.Threads = d.atLeast(v, maxWorkers)
	case "harakiri":
		d.work.Harakiri = v.dur
	case "max-requests":
		d.work.MaxRequests = clampInt(v.n)
	case "prio":
		d.work.Nice = int(max(-20, min(19, v.n)))
		if d.work.Nice < 0 && d.tenant(v.Setting) {
			d.err(vassal.CodeNotForTenants, v.Setting, "a negative nice value takes time from others", "prio = 0 or more")
		}
	case "cpu-affinity":
		d.work.CPUAffinity = clampInt(v.n)
	case "procname-prefix":
		d.work.Title, d.work.TitlePlain = v.Value, false
	case "procname-prefix-spaced":
		d.work.Title, d.work.TitlePlain = v.Value+" ", false
	case "procname":
		d.work.Title, d.work.TitlePlain = v.Value, true
	case "env":
		d.env(v)
	case "unenv":
		d.unset(v.Value)
	default:
		return false
	}
	return true
}

// env keeps the order of the lines; a later value of the same name wins when
// the process starts.
func (d *decoder) env(v value) {
	name, _, ok := strings.Cut(v.Value, "=")
	switch {
	case name == "": // nothing to putenv(3)
		d.warn(vassal.CodeBadValue, v.Setting, "no name before the equals sign, so the line has no effect", "env = NAME=value")
	case !ok: // putenv(3) of a name alone takes it away, and so does uWSGI
		d.warn(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%s has no value: the variable is taken away", clip(name)), "env = "+clip(name)+"=value")
		d.unset(name)
	default:
		d.places[name] = append(d.places[name], len(d.cfg.App.Env))
		d.cfg.App.Env = append(d.cfg.App.Env, v.Value)
		d.cfg.EnvAt = append(d.cfg.EnvAt, v.Origin)
	}
}

// unset takes a variable out; its places are emptied and closed up at the end,
// so that many such lines cost no more than they are long.
func (d *decoder) unset(name string) {
	for _, i := range d.places[name] {
		d.cfg.App.Env[i] = ""
	}
	delete(d.places, name)
}

// named remembers a path that an option names, for the automatic binds.
func (d *decoder) named(v value) {
	b := vassal.Bind{Source: v.Value, Key: v.Key, At: v.Origin}
	switch v.opt.Path {
	case PathRO:
	case PathDir:
		b.Source = path.Dir(v.Value)
	case PathHost:
		b.Access = vassal.AsHost
		if v.opt.Type == Keyval {
			_, b.Source, _ = strings.Cut(v.Value, "=")
		}
	default:
		return
	}
	if b.Source == "" || b.Source == "." {
		return // the app's own directory
	}
	b.Target = b.Source
	d.cfg.Jail.Named = append(d.cfg.Jail.Named, b)
}

// maxWorkers bounds processes, and threads of each.
const maxWorkers = 4096

// within is v's number if it lies in the range, else an error and the least.
func (d *decoder) within(v value, least, most int64, hint string) int {
	if v.n < least || v.n > most {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%d is not between %d and %d", v.n, least, most), hint)
		return int(least)
	}
	return int(v.n)
}

// atMostOf is v's number, or most with a warning: a file that uWSGI serves is
// not stopped by a number that is larger than what there can be.
func (d *decoder) atMostOf(v value, most int64) int {
	if v.n > most {
		d.warn(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%d is more than there can be: it is %d", v.n, most), fmt.Sprintf("%s = %d", v.Key, most))
	}
	return int(min(v.n, most))
}

// atLeast is atMostOf for what there is at least one of: 0 means the same in
// uWSGI.
func (d *decoder) atLeast(v value, most int64) int { return max(1, d.atMostOf(v, most)) }

// clampInt keeps a count in a range that no arithmetic overflows.
func clampInt(n int64) int { return int(max(0, min(n, 1<<31-1))) }
