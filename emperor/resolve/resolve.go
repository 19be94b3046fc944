// Package resolve asks the host what a vassal.Config leaves open: users become
// ids, paths become binds, the interpreter is found, listeners get their full
// addresses. It starts and changes nothing, so that check and explain say
// exactly what a start would do:
//
//	r := resolve.Resolve(ctx, cfg, host)
//	if r.Problems.Failed() { … }
//
// A Result names paths, it holds none open: whoever starts the vassal opens
// what a tenant can move once more, by descriptor, and compares (KERNEL 14).
package resolve

import (
	"context"
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strings"

	"liege/sandbox/stage"
	"liege/vassal"
	"liege/vassal/mail"
)

// FS is what resolve asks of the file system. For an operator's file it is the
// host's as root sees it (OS); for a tenant's it is answered by a child with
// the tenant's ids, so that what the host denies the user stays denied.
type FS interface {
	Lstat(path string) (fs.FileInfo, error)
	Readlink(path string) (string, error)
	ReadFile(path string) ([]byte, error) // at most 64 KiB
}

// Host is this machine and its operator's settings.
type Host struct {
	FS           FS
	Sys          FS // is asked about the kernel, its cgroups and disks, which no text names; nil: FS is
	Users        Users
	AutoUID      func(vassal.Name) (int, error) // uid = auto; nil: an error
	SELinux      SELinux
	RunDirs      []string        // names of the Emperor's run directory (package function RunDirs); empty: vassal.RunDir
	OnDemandDirs []string        // names of emperor-on-demand-directory; nil: none
	Alone        bool            // the vassal is served by hand, and what is allotted to it forgotten
	Nameless     bool            // the file is none of the Emperor's: no name in its run directory is the vassal's
	Reserved     []string        // Liege's and the vassals directories: never visible inside
	Etc          []string        // more names of /etc, [emperor] etc
	DenyGroups   []string        // [emperor] deny-groups; nil: DefaultDenyGroups
	DefaultUID   string          // [defaults] uid, for operator's files that name none
	AllowRoot    bool            // [ceilings] root = true
	MinUID       int             // [ceilings] min-uid for tenants' files; 0: 1000
	Binds        []string        // [ceilings] bind: where tenants' binds may lie
	Listen       []string        // [ceilings] listen for tenants
	Connect      []string        // [ceilings] connect for tenants
	Egress       []vassal.Egress // [ceilings] egress for tenants
	Nets         []string        // [ceilings] net: allowed besides "none"; nil for operator's files: all
	// NATAddress allots the addresses of net = nat; nil: nobody asks, nothing is
	// allotted. The second one is not valid where there is no IPv6, for a reason.
	NATAddress func(vassal.Name) (v4, v6 netip.Addr, no6 string, err error)
	Quota      func(dir string) error // whether a directory can be bounded (package quota); nil: nobody asks
	Caller     *Caller                // liege serve; nil under the Emperor

	Mail mail.Caps // [ceilings] sendmail-sender and sendmail-rate, with %U for the user
}

// Caller is the person who runs liege serve.
type Caller struct {
	UID, GID   int
	Cwd        string
	Virtualenv string // $VIRTUAL_ENV
	Path       string // $PATH
}

// Result is a Config resolved against this host.
type Result struct {
	Config  vassal.Config
	UID     int
	GID     int
	User    string // empty: the database has no name for UID
	Group   string
	Home    string  // of the user, empty if unknown
	Groups  []Group // supplementary groups kept
	Dropped []Group // of the user's, but refused
	UIDFrom string  // "file", "owner of the file", "[defaults]", "auto", "caller"
	Dir     string  // the app's directory, every link resolved; empty: none
	// Base is that directory as the file writes it, absolute, or that of the file
	// without one: what root does with a relative path of the operator's begins here,
	// so that a link of somebody else's on the way is seen. BaseByUser: a user's line
	// names it.
	Base       string
	BaseByUser bool
	Net        string
	Connect    []vassal.Connection // what a relay answers for inside; with net = host unix sockets only
	NAT        *NAT                // of net = nat
	Root       Bind                // the system that the app sees; no Source: the host's, which is System
	Foreign    string              // who besides root can change Root; empty: nobody
	System     []Bind              // /usr and the host's part of /etc, read-only
	Links      []Link              // /bin, /lib …, and the chains that lead to bound paths
	Binds      []Bind              // what the file names, parents before children
	Maps       *IDMaps             // of the user namespace; nil: none
	Tmpfs      []vassal.Tmpfs      // parents before children, sizes filled in
	Masked     []string
	Files      []File // generated: /etc/passwd …
	Listen     []vassal.Listener
	App        vassal.App         // but for Generation
	Plan       stage.Plan         // but for the descriptors, the core's path and seccomp
	Reach      map[string][]Reach // of every unix socket, by address: which web servers' users can connect
	Problems   vassal.Problems

	Mail Mail

	HostHooks []vassal.Hook // those that run before the root is entered; the others are in Plan
}

// Mail is what becomes of the vassal's mail (CONTRACT 21).
type Mail struct {
	Server   vassal.Connection // of /usr/sbin/sendmail; no Address: it refuses
	Caps     mail.Caps         // for this user
	Doors    []string          // those addresses of Connect at which the relay speaks SMTP: none of them leads past Caps
	HostName string            // of mail from this host: addresses without a domain get it
}

// Group is one group by number and name.
type Group struct {
	GID  int
	Name string
}

// Bind is one host path that the vassal sees at Target.
type Bind struct {
	Source   string // every link resolved
	Target   string
	Writable bool
	Dir      bool
	Recurse  bool // with the mounts below Source
	NoExec   bool
	IDMap    bool   // the owner that it has on disk, UID and GID, is the vassal's user inside
	UID, GID int    // of Source
	Tenant   bool   // somebody other than root can move it: open by descriptor, attach by the stage
	Led      bool   // somebody other than root said where it is (a link, a pyvenv.cfg): open with the vassal's ids
	Device   uint64 // of Source when it was looked at, to compare
	Inode    uint64
	Why      string // the option that names it; empty: always
	At       vassal.Origin
}

// Link is one symbolic link to make inside.
type Link struct{ Path, Target string }

// File is one file generated for the sandbox.
type File struct {
	Path string
	Text string
	Mode fs.FileMode
}

// Resolve resolves cfg. The Result is usable for a start only if its Problems
// have no Error; what could be resolved is filled in regardless.
func Resolve(ctx context.Context, cfg vassal.Config, h Host) *Result {
	r := &resolver{host: h, cfg: cfg, res: &Result{Config: cfg, Net: cfg.Jail.Net}}
	if r.res.Net == "" {
		r.res.Net = "none"
	}
	for _, step := range []func(){r.identity, r.root, r.directory, r.system, r.binds, r.tmpfs, r.foreignHooks, r.userNS, r.network, r.connections, r.nat, r.listeners, r.app, r.hooks, r.context, r.etcFiles, r.limits, r.plan, r.caller, r.missing, r.reach} {
		if ctx.Err() != nil {
			r.fail(vassal.CodeStartFailed, vassal.Origin{}, "", ctx.Err().Error(), "")
			break
		}
		step()
	}
	return r.res
}

// resolver is one call of Resolve.
type resolver struct {
	host  Host
	cfg   vassal.Config
	res   *Result
	tree  *foreignTree  // of Root; nil: the host's system
	lines []Bind        // what bind lines put into the tree: sources and targets only
	dirAt vassal.Origin // of the line that says where the app's directory is
}

// report notes a problem. What one line says may be asked for several times, to be
// bound and to be served for instance: the same trouble with it is one problem, as
// bad as the worst.
func (r *resolver) report(sev vassal.Severity, code string, at vassal.Origin, key, msg, hint string) {
	p := vassal.Problem{Severity: sev, Code: code, File: at.File, Line: at.Line, Key: key, Step: "resolve", Message: msg, Hint: hint}
	i := slices.IndexFunc(r.res.Problems, func(o vassal.Problem) bool {
		return o.Code == p.Code && o.File == p.File && o.Line == p.Line && o.Key == p.Key && o.Message == p.Message
	})
	switch {
	case i < 0:
		r.res.Problems = append(r.res.Problems, p)
	case sev == vassal.Error:
		r.res.Problems[i].Severity = sev
	}
}

func (r *resolver) fail(code string, at vassal.Origin, key, msg, hint string) {
	r.report(vassal.Error, code, r.at(at), key, msg, hint)
}

func (r *resolver) warn(code string, at vassal.Origin, key, msg, hint string) {
	r.report(vassal.Warning, code, r.at(at), key, msg, hint)
}

// Outside is a path that the Emperor itself uses (logto, pidfile, touch-reload),
// made absolute.
func (r *Result) Outside(p string) string {
	if path.IsAbs(p) {
		return p
	}
	return path.Join(r.Base, p)
}

// at gives a problem the vassal's own file when its origin has none.
func (r *resolver) at(o vassal.Origin) vassal.Origin {
	if o.File == "" {
		o.File = r.cfg.File
	}
	return o
}

// base is the directory that relative paths are relative to before the app's
// directory is known: the caller's, or that of the vassal's file.
func (r *resolver) base() string {
	if r.host.Caller != nil {
		return r.host.Caller.Cwd
	}
	return path.Dir(r.cfg.File)
}

// abs makes p absolute, relative to the app's directory as written, and clean.
func (r *resolver) abs(p string) string {
	if p == "" {
		return ""
	}
	if !path.IsAbs(p) {
		dir := r.base()
		if r.cfg.Jail.Chdir != "" {
			dir = r.appDir()
		}
		p = path.Join(dir, p)
	}
	return canonRun(path.Clean(p))
}

// canonRun makes /run/x of /var/run/x: they are one path (CONTRACT 23).
func canonRun(p string) string {
	if rest, ok := strings.CutPrefix(p, "/var/run"); ok && (rest == "" || rest[0] == '/') {
		return "/run" + rest
	}
	return p
}

// within reports whether p is dir or lies below it.
func within(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}
