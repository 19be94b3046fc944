// Package vassal is the vocabulary of the project: the immutable description
// of one web application, the problems found in it, and what crosses a
// process boundary. It imports only the standard library, and every other
// package may import it.
//
// A vassal file becomes a Config (package inifile): everything the file says
// and nothing the host says. Package resolve asks the host and makes of it the
// plan of one start and an App, which is all that the core ever sees.
package vassal

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"slices"
	"time"
)

// A Digest identifies every byte that a Config was made from: the vassal's own
// file, all it includes, and the answers the host gave.
type Digest [sha256.Size]byte

// String is "sha256:" and hexadecimal; empty for the zero Digest.
func (d Digest) String() string {
	if d == (Digest{}) {
		return ""
	}
	return "sha256:" + hex.EncodeToString(d[:])
}

// Origin is where a value was written, for messages about it.
type Origin struct {
	File  string `json:"file,omitempty"`
	Line  int    `json:"line,omitempty"`  // from 1; 0: the file as a whole
	Layer Layer  `json:"layer,omitempty"` // empty: the vassal's file
}

// Layer is which set of lines a value came from.
type Layer string

// The layers, weakest first.
const (
	BuiltIn  Layer = "built in"
	Defaults Layer = "[defaults]"
	OwnFile  Layer = ""
	Enforced Layer = "[ceilings]"
	Flag     Layer = "flag"        // liege serve only
	Environ  Layer = "environment" // UWSGI_*, liege serve only
)

// Trust says as whom a file is believed. It follows the open file, never its
// path (CONTRACT 1).
type Trust struct {
	Operator bool // owned by root, writable by nobody else: every option
	UID, GID int  // of the open file; a tenant's file runs as this UID
}

// Config is everything a vassal file says, decoded and checked, and nothing
// the host says. It is made once and never modified: treat what its slices and
// maps hold as read-only. Names of users and paths are as written.
type Config struct {
	Name   Name
	File   string // the path under which the monitor found it
	Digest Digest
	Trust  Trust
	// Lent are the lines of the operator's, of the file or of [defaults], that
	// somebody else's file gave, in part or whole: they may do what a line of a
	// tenant's file may.
	Lent []Origin

	Ident   Ident
	Guard   Guard
	Jail    Jail
	Limits  Limits
	Rlimits []Rlimit // that the core has too: only root may raise them
	Hooks   []Hook   // in the order in which they run
	Listen  []Listener
	Restart Restart
	Logs    Logs
	Touch   []string // touch-reload: paths whose mtime is watched
	App     App      // as far as the file says it; resolve completes it
	EnvAt   []Origin // of the lines of App.Env, one for each
	TouchAt []Origin // the same of Touch

	HookTime    time.Duration // that one hook may take
	HookDaemons bool          // what hooks inside leave running is kept
}

// Tenant reports whether the line at o may do only what a tenant's may: in a
// user's file those of [defaults] too.
func (c *Config) Tenant(o Origin) bool { return !c.Trust.Operator || c.ByUser(o) }

// ByUser reports whether a user wrote the line at o, or a part of it.
func (c *Config) ByUser(o Origin) bool {
	return !c.Trust.Operator && o.Layer == OwnFile || slices.Contains(c.Lent, o)
}

// Ident says who the application is once its privileges are dropped
// (CONTRACT 7). Empty: the file does not say.
type Ident struct {
	User, Group   string // names or numbers; "auto" as User: a uid of its own
	UserAt        Origin
	GroupAt       Origin
	AddGroups     []AddGroup
	NoInitgroups  bool
	Context       string // SELinux context asked for by callret:setcon or selinux-context; empty: none
	ContextAt     Origin
	ContextByHook bool // by hook-as-user = callret:setcon
}

// AddGroup is a further group of the app.
type AddGroup struct {
	Name string // or number
	At   Origin
}

// Guard says what the processes keep, and what the kernel lets them do. The zero
// Guard is the default.
type Guard struct {
	Seccomp    string // a profile's name or path; empty: the default
	SeccompAt  Origin
	Caps       []int // capabilities
	NoLandlock bool
	OOMScore   *int // oom_score_adj of the core
}

// Jail says what the sandbox isolates and what it shows (CONTRACT 4 and 5).
type Jail struct {
	Hostname string // empty: Name.Hostname
	Chdir    string // the app's directory as written; empty: none named
	ChdirAt  Origin
	Binds    []Bind // bind = lines
	Named    []Bind // paths that other options name, bound unless AutoBind is false
	AutoBind bool
	Net      string // "none", "nat" or "host"
	NetAt    Origin
	Connect  []Connection // connect = lines, canonical, each once
	Egress   []Egress     // the targets of egress lines, in their order
	Sendmail Connection   // the last sendmail = line that counts; no Address: there is no mail
	Mailers  []string     // every address that a sendmail line names: [ceilings] hold there
	Umask    os.FileMode
	Root     Root
	Tmpfs    []Tmpfs // tmpfs = lines
	HidePID  bool
	Resolv   string // resolv-conf: "none", "host" or a path; empty: what net brings
	ResolvAt Origin
	UserNS   Origin // of the line that asks for a user namespace; zero: none does
	TimeNS   Origin // likewise, for a time namespace
}

// Root is which system the app sees: the host's /usr, or another tree.
type Root struct {
	Dir string // absolute; empty: the host's
	Key string // the option that names it
	At  Origin
	// Inside: the file's other paths are paths inside Dir, as under chroot.
	Inside bool
}

// Tmpfs is an empty file system in memory at a path inside.
type Tmpfs struct {
	Target string
	Size   int64 // bytes; 0: the default
	At     Origin
}

// Bind makes a host path visible. Source and Target are absolute, or relative
// to the app's directory.
type Bind struct {
	Source, Target string
	Access         Access
	Recursive      bool   // with what is mounted below Source
	NoExec         bool   // nothing there can be executed
	IDMap          bool   // the owner of Source on disk is the vassal's user inside
	Key            string // the option that names it
	At             Origin
}

// Access is with which right a path is bound.
type Access uint8

// The rights. AsHost gives what the owner and mode on the host give the
// vassal's user: a read-write mount.
const (
	ReadOnly Access = iota
	ReadWrite
	AsHost
)

// Limits are the cgroup's. Zero means none.
type Limits struct {
	MemoryMax    int64 // bytes
	MemoryMaxAt  Origin
	MemoryHigh   int64 // bytes from which on it is slowed down and reclaimed from
	MemoryHighAt Origin
	SwapMax      *int64 // bytes, NoSwapLimit; nil: none where there is a memory-max
	SwapMaxAt    Origin
	CPUMax       float64 // CPUs: 1.5 is one and a half
	CPUMaxAt     Origin
	CPUWeight    int64 // share when CPUs are short, 1 to 10000; the usual is 100
	CPUWeightAt  Origin
	PidsMax      int64 // processes and threads, the core's own included
	PidsMaxAt    Origin
	IOMax        []IOMax
	OOMGroup     bool // out of memory ends the whole generation
	OOMGroupAt   Origin

	// Of the app's directory, by the file system's project quota.
	DiskQuota    int64 // bytes
	DiskQuotaAt  Origin
	InodeQuota   int64 // files and directories
	InodeQuotaAt Origin
}

// Any tells whether anything is limited.
func (l *Limits) Any() bool {
	return l.MemoryMax > 0 || l.MemoryHigh > 0 || l.SwapMax != nil || l.CPUMax > 0 || l.CPUWeight > 0 || l.PidsMax > 0 || len(l.IOMax) > 0 || l.OOMGroup || l.DiskQuota > 0 || l.InodeQuota > 0
}

// Ceilings are what the operator lets no vassal pass, also while two of its
// generations live; 0: nothing is said.
type Ceilings struct {
	MemoryMax int64 // bytes
	PidsMax   int64
}

// NoSwapLimit as SwapMax lets a vassal swap as much as there is.
const NoSwapLimit = -1

// IOMax bounds what is read from and written to one block device. Zero means
// no bound.
type IOMax struct {
	Path       string // a block device, or a path on it; empty: the app's directory
	Device     string // MAJOR:MINOR, once resolved
	ReadBytes  int64  // a second
	WriteBytes int64
	ReadOps    int64
	WriteOps   int64
	At         Origin
}

// Listener is one address to listen on.
type Listener struct {
	Protocol Protocol     `json:"protocol"`
	Address  string       `json:"address"` // as written; after resolve as bound
	Backlog  int          `json:"backlog,omitempty"`
	Mode     *os.FileMode `json:"mode,omitempty"`    // chmod-socket; nil: 0777 less the umask
	Chown    string       `json:"chown,omitempty"`   // chown-socket, "user:group"
	Tenant   bool         `json:"tenant,omitempty"`  // after resolve: a tenant's line says so
	ByUser   bool         `json:"by_user,omitempty"` // after resolve: nobody but the vassal's user makes it, whoever's the directory is
	Key      string       `json:"key"`               // the option
	At       Origin       `json:"at"`

	Modifier1 uint8   `json:"modifier1,omitempty"` // who answers requests that do not say it: http-modifier1
	Sockets   Sockets `json:"sockets,omitzero"`

	TLS       *KeyPair `json:"tls,omitempty"`        // nil: in the clear
	HTTPSPort uint16   `json:"https_port,omitempty"` // of a Redirect: where it leads to; 0: 443
}

// Protocol is what is spoken on a Listener.
type Protocol string

// The protocols of this release. The nph forms (non-parsed header) answer with
// a status line where the others answer with a Status field.
const (
	HTTP       Protocol = "http"
	UWSGI      Protocol = "uwsgi"
	PUWSGI     Protocol = "puwsgi" // uwsgi with connections that persist
	FastCGI    Protocol = "fastcgi"
	FastCGINPH Protocol = "fastcgi-nph"
	SCGI       Protocol = "scgi"
	SCGINPH    Protocol = "scgi-nph"
	Stats      Protocol = "stats"

	HTTPS    Protocol = "https"         // HTTP/1.1 and HTTP/2 over TLS
	SUWSGI   Protocol = "suwsgi"        // the uwsgi protocol over TLS
	Redirect Protocol = "http-to-https" // HTTP, and every answer leads to https
)

// Restart says how generations follow each other.
type Restart struct {
	Overlap      bool          // start the new generation before the old one drains
	Both         bool          // with Overlap: its daemons, jobs and mules do not wait for the end of the old one's
	ReadyTimeout time.Duration // from exec to ready
	DrainTimeout time.Duration // from drain to kill
	BackoffMin   time.Duration // after the first failure; doubles
	BackoffMax   time.Duration
	StableAfter  time.Duration // running this long forgets earlier failures

	OnDemand   bool // no generation until somebody connects, nor after App.Sleep without a request
	OnDemandAt Origin
}

// Logs says where the vassal's output goes (CONTRACT 11).
type Logs struct {
	To        string // logto, logto2, daemonize; empty: the default log
	ToAt      Origin
	MaxSize   int64 // bytes; 0: the default of 10 MiB
	PidFile   string
	PidFileAt Origin
}

// UnknownCode is the Exit.Code of a generation that outlived the Emperor that
// started it: the kernel tells only the parent.
const UnknownCode = -1

// Exit says how one generation ended.
type Exit struct {
	Code   int       `json:"code"`             // UnknownCode: nobody could ask
	Signal string    `json:"signal,omitempty"` // "SIGKILL"; empty: it exited, or Code is unknown
	OOM    bool      `json:"oom"`
	Reason string    `json:"reason,omitempty"` // in words; empty when it left as asked
	At     time.Time `json:"at"`
}
