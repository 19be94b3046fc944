// Package control is the Emperor's control socket: the wire form, the server
// and the client. One connection carries one Request and its Replies as lines
// of JSON over a SOCK_STREAM unix socket; SO_PEERCRED says who asks.
//
// A command calls
//
//	err := control.Call(ctx, control.Socket(runDir), req, func(r control.Reply) error { … })
//	os.Exit(control.ExitCode(err))
//
// The Emperor's main calls Listen, as root, and Serve with itself as Backend.
// Nothing a client does or omits holds up a vassal or another client: the
// request has a size and a time, replies have a time, and clients are bounded
// in number, altogether and for each user.
package control

import (
	"time"

	"liege/vassal"
)

// Version of the protocol. A server answers other versions with a Problem.
const Version = 1

// MaxRequest bounds a request line, in bytes.
const MaxRequest = 64 << 10

// Verb is what is asked. ClassOf says who may.
type Verb string

// The verbs.
const (
	List    Verb = "list"    // read: every vassal that matches
	Status  Verb = "status"  // read
	Reload  Verb = "reload"  // act
	Restart Verb = "restart" // act
	Stop    Verb = "stop"    // act
	Start   Verb = "start"   // act
	Suspend Verb = "suspend" // act
	Resume  Verb = "resume"  // act
	Enter   Verb = "enter"   // admin: a command in a vassal's sandbox
	Wait    Verb = "wait"    // read
	Logs    Verb = "logs"    // read: where the vassal's lines go
	About   Verb = "version" // read: of the running Emperor
)

// Class is what a Verb does, and so who may ask for it.
type Class uint8

// The classes.
const (
	Read  Class = iota + 1 // changes nothing: a vassal's own user for its own
	Mend                   // makes a new generation of what runs: its own user too
	Act                    // changes what runs: root and the control group
	Admin                  // root alone
)

// verbs is the one table of who may ask what (KERNEL 49).
var verbs = map[Verb]Class{
	List: Read, Status: Read, Wait: Read, Logs: Read, About: Read,
	Reload:  Mend,
	Enter:   Admin,
	Restart: Act, Stop: Act, Start: Act, Suspend: Act, Resume: Act,
}

// ClassOf returns the class of v, or false for an unknown verb.
func ClassOf(v Verb) (Class, bool) { c, ok := verbs[v]; return c, ok }

// Request is one request.
type Request struct {
	V       int           `json:"v"`
	Verb    Verb          `json:"verb"`
	Names   []string      `json:"names,omitempty"` // names or shell patterns
	All     bool          `json:"all,omitempty"`
	NoWait  bool          `json:"no_wait,omitempty"`
	Timeout time.Duration `json:"timeout,omitempty"` // of all together; 0: DefaultTimeout for each vassal
	Goal    string        `json:"goal,omitempty"`    // wait: "applied", "gone" or a State
	Status  int           `json:"status,omitempty"`  // suspend: HTTP status
	Page    []byte        `json:"page,omitempty"`    // suspend: body
	Reason  string        `json:"reason,omitempty"`  // suspend

	// Enter: the command, none: a shell; the terminal's type; whether the
	// descriptor that comes with the request is a console socket, else the
	// three that come are the command's; and whether it is root inside.
	Command []string `json:"command,omitempty"`
	Term    string   `json:"term,omitempty"`
	Console bool     `json:"console,omitempty"`
	Root    bool     `json:"root,omitempty"`

	Began time.Time `json:"-"` // set by the server: when it came
	Paced bool      `json:"-"` // likewise: a vassal's own user wishes it, whose wishes are as an edit of the file
}

// Reply is one line of the answer. The last has Done.
type Reply struct {
	Vassal  *Vassal         `json:"vassal,omitempty"`
	Name    string          `json:"name,omitempty"` // act verbs: whom Result is about
	OK      bool            `json:"ok"`
	Code    int             `json:"code,omitempty"` // exit code of the command
	Text    string          `json:"text,omitempty"` // one line for people
	Path    string          `json:"path,omitempty"` // logs: the file
	Problem *vassal.Problem `json:"problem,omitempty"`
	Version string          `json:"version,omitempty"`
	Binary  string          `json:"binary,omitempty"`
	Done    bool            `json:"done,omitempty"`
}

// State is where a vassal is (CONTRACT 16).
type State string

// The states.
const (
	Starting  State = "starting"
	Running   State = "running"
	Draining  State = "draining"
	Backoff   State = "backoff"
	Failed    State = "failed"
	Stopped   State = "stopped"
	Suspended State = "suspended"
	Sleeping  State = "sleeping"
)

// Vassal is the JSON of ls and status: a promise to its readers. Every member
// is always there, null where there is nothing; arrays are never null. Times
// are UTC with milliseconds.
type Vassal struct {
	Name           string           `json:"name"`
	File           string           `json:"file"`
	Owner          *string          `json:"owner"`
	Account        *string          `json:"account"`
	State          State            `json:"state"`
	Since          Time             `json:"since"`
	RetryAt        *Time            `json:"retry_at"`
	Generation     int              `json:"generation"`
	Digest         *string          `json:"digest"`
	FileDigest     *string          `json:"file_digest"`
	Applied        bool             `json:"applied"`
	Pending        *Pending         `json:"pending"`
	PID            *int             `json:"pid"`
	UID            *int             `json:"uid"`
	GID            *int             `json:"gid"`
	User           *string          `json:"user"`
	Group          *string          `json:"group"`
	Context        *string          `json:"context"`
	Net            *string          `json:"net"`
	Addresses      []string         `json:"addresses"` // its own, with net = nat
	Connect        []string         `json:"connect"`   // what it may connect to outside; of net = host not all
	Listen         []string         `json:"listen"`
	Log            *string          `json:"log"`
	Problems       []vassal.Problem `json:"problems"`
	Error          *vassal.Problem  `json:"error"`
	Restarts       int64            `json:"restarts"`
	ColdStarts     int64            `json:"cold_starts"`
	LastExit       *Exit            `json:"last_exit"`
	Suspended      *Suspension      `json:"suspended"`
	StoppedBy      *string          `json:"stopped_by"`
	Cgroup         *string          `json:"cgroup"`
	MemoryBytes    *int64           `json:"memory_bytes"`
	MemoryMaxBytes *int64           `json:"memory_max_bytes"`
	OOMKills       int64            `json:"oom_kills"`
	CPUUsec        int64            `json:"cpu_usec"`
	MemorySlowed   int64            `json:"memory_slowed"`      // times that memory-high held it up
	PidsRefused    int64            `json:"pids_refused"`       // processes and threads that pids-max refused
	ThrottledUsec  int64            `json:"cpu_throttled_usec"` // that cpu-max kept it waiting
	NetSent        int64            `json:"net_sent_bytes"`     // by net = nat, as the kernel counts
	NetReceived    int64            `json:"net_received_bytes"` // likewise
	Pids           *int64           `json:"pids"`
	PidsMax        *int64           `json:"pids_max"`
	DiskBytes      *int64           `json:"disk_bytes"` // of the app's directory, with a quota
	DiskMaxBytes   *int64           `json:"disk_max_bytes"`
	DiskInodes     *int64           `json:"disk_inodes"`
	DiskInodesMax  *int64           `json:"disk_inodes_max"`
	Requests       uint64           `json:"requests"`

	// Users may see and reload the vassal: the one it runs as and, of a
	// tenant's file, the owner.
	Users []int `json:"-"`
	// Private says that not everybody may read its file, which Users do not own.
	Private bool `json:"-"`
}

// Exit is vassal.Exit in the form of ls and status.
type Exit struct {
	Code   *int    `json:"code"` // nil: unknown, it outlived the Emperor that started it
	Signal *string `json:"signal"`
	OOM    bool    `json:"oom"`
	Reason *string `json:"reason"`
	At     Time    `json:"at"`
}

// Pending is a generation that is being made.
type Pending struct {
	Generation int    `json:"generation"`
	State      string `json:"state"` // "queued", "starting"
	Since      Time   `json:"since"`
}

// Suspension says why a vassal is suspended.
type Suspension struct {
	Status int    `json:"status"`
	Reason string `json:"reason"`
	By     string `json:"by"`
	Since  Time   `json:"since"`
}

// Time is a time.Time whose JSON is RFC 3339, UTC, with milliseconds.
type Time struct{ time.Time }

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) {
	return []byte(t.UTC().Format(`"2006-01-02T15:04:05.000Z"`)), nil
}
