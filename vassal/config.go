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

	Ident   Ident
	Jail    Jail
	Limits  Limits
	Hooks   []Hook // in the order of the file
	Listen  []Listener
	Restart Restart
	Logs    Logs
	Touch   []string // touch-reload: paths whose mtime the Emperor watches
	App     App      // as far as the file says it; resolve completes it
	EnvAt   []Origin // of the lines of App.Env, one for each
}

// Ident says who the application is once its privileges are dropped
// (CONTRACT 7). Empty: the file does not say.
type Ident struct {
	User, Group   string // names or numbers; "auto" as User: a uid of its own
	UserAt        Origin
	GroupAt       Origin
	AddGroups     []string
	NoInitgroups  bool
	Context       string // SELinux context asked for by callret:setcon or selinux-context; empty: none
	ContextAt     Origin
	ContextByHook bool // by hook-as-user = callret:setcon
}

// Jail says what the sandbox isolates and what it shows (CONTRACT 4 and 5).
type Jail struct {
	Hostname string // empty: Name.Hostname
	Chdir    string // the app's directory as written; empty: none named
	ChdirAt  Origin
	Binds    []Bind // bind = lines
	Named    []Bind // paths that other options name, bound unless AutoBind is false
	AutoBind bool
	Net      string // "none" or "host"
	NetAt    Origin
	Umask    os.FileMode
}

// Bind makes a host path visible. Source and Target are absolute, or relative
// to the app's directory.
type Bind struct {
	Source, Target string
	Access         Access
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
	MemoryMax   int64 // bytes
	MemoryMaxAt Origin
	CPUMax      float64 // CPUs: 1.5 is one and a half
	CPUMaxAt    Origin
	PidsMax     int64 // processes and threads, the core's own included
	PidsMaxAt   Origin
}

// Hook is one action of one phase. It is data: package stage runs it.
type Hook struct {
	Phase   Phase  `json:"phase"`
	Action  string `json:"action"`            // "exec", "mount", …
	Arg     string `json:"arg"`               // all after the first colon
	Private bool   `json:"private,omitempty"` // written with "!": Arg is never shown
	At      Origin `json:"at"`
}

// Phase is when a hook runs, named as in its option: hook-as-root.
type Phase string

// The phases that exist; more come with the rest of the sandbox.
const (
	AsRoot Phase = "as-root" // in the sandbox, with every privilege, before the drop
	AsUser Phase = "as-user" // in the sandbox, after the drop
)

// Listener is one address to listen on.
type Listener struct {
	Protocol Protocol     `json:"protocol"`
	Address  string       `json:"address"` // as written; after resolve as bound
	Backlog  int          `json:"backlog,omitempty"`
	Mode     *os.FileMode `json:"mode,omitempty"`  // chmod-socket; nil: 0777 less the umask
	Chown    string       `json:"chown,omitempty"` // chown-socket, "user:group"
	Key      string       `json:"key"`             // the option
	At       Origin       `json:"at"`
}

// Protocol is what is spoken on a Listener.
type Protocol string

// The protocols of this release.
const (
	HTTP  Protocol = "http"
	UWSGI Protocol = "uwsgi"
	Stats Protocol = "stats"
)

// Restart says how generations follow each other.
type Restart struct {
	Overlap      bool          // start the new generation before the old one drains
	ReadyTimeout time.Duration // from exec to ready
	DrainTimeout time.Duration // from drain to kill
	BackoffMin   time.Duration // after the first failure; doubles
	BackoffMax   time.Duration
	StableAfter  time.Duration // running this long forgets earlier failures
}

// Logs says where the vassal's output goes (CONTRACT 11).
type Logs struct {
	To        string // logto, logto2, daemonize; empty: the default log
	ToAt      Origin
	MaxSize   int64 // bytes; 0: the default of 10 MiB
	PidFile   string
	PidFileAt Origin
}

// Exit says how one generation ended.
type Exit struct {
	Code   int       `json:"code"`
	Signal string    `json:"signal,omitempty"` // "SIGKILL"; empty: it exited
	OOM    bool      `json:"oom"`
	Reason string    `json:"reason,omitempty"` // in words; empty when it left as asked
	At     time.Time `json:"at"`
}
