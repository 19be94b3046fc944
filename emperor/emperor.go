// Package emperor keeps the set of running vassals equal to the set of vassal
// files. One goroutine owns the set; one goroutine, an actor, owns each vassal.
//
//	e, err := emperor.New(emperor.Options{…})
//	err = e.Run(ctx)    // until ctx is done and every vassal has drained
//
// The set's goroutine compares the Monitor's Snapshots with what there is and
// leaves wishes in the actors' boxes, where the latest wish wins; it never
// waits for an actor. An actor is a state machine whose states are those of
// CONTRACT 16 (actor.go, states.go, start.go); what may take long runs beside
// it, so it hears new wishes at any time. What it has to say it puts on its
// board, where clients of the control socket read it: they never wait for an
// actor, nor it for them. Actors share one thing, the gate that keeps starts
// few (gate.go), and nobody can hold that for long.
package emperor

import (
	"context"
	"io/fs"
	"slices"
	"strings"
	"time"

	"liege/vassal"
)

// A File is one vassal file as the monitor opened it, once: from then on it is
// bytes. A file that cannot be used has Problem set.
type File struct {
	Name    vassal.Name
	Path    string // as found: %p
	Section string // that is read; empty: [uwsgi], then [vassal]
	Text    []byte
	Trust   vassal.Trust
	Mode    fs.FileMode
	Hidden  bool // not everybody may search the directories on the way
	Device  uint64
	Inode   uint64
	Born    int64  // when that inode was made, in nanoseconds; 0: the file system does not say
	Stamp   string // changes whenever the vassal must be looked at again (CONTRACT 2)
	Problem *vassal.Problem
	// NoVassal says that the file cannot have a vassal: its name cannot be
	// used or belongs to another file. It is listed, and nothing else. Name is
	// then for show only.
	NoVassal bool
}

// A Snapshot is the whole desired set at one moment.
type Snapshot struct {
	Files   []File           // in name order
	Skipped []vassal.Problem // about files that are not vassals; an Error: about a directory that cannot be used
	// Partial says that there may be more vassals than Files has: a directory
	// cannot be used, and of what it holds now only what it held before is in
	// Files; or a new file is still being written.
	Partial bool
	// Unseen are the directories that could not be looked at, and new files that are
	// not at rest: what Files has not may be there, and nowhere else.
	Unseen []string
}

// MayHold reports whether a file that is not in Files may be at path all the same.
func (s *Snapshot) MayHold(path string) bool {
	return slices.ContainsFunc(s.Unseen, func(p string) bool {
		return path == p || strings.HasPrefix(path, strings.TrimSuffix(p, "/")+"/")
	})
}

// A Monitor sends a Snapshot whenever the desired set may have changed, until
// ctx is done. It may send the same Snapshot twice.
type Monitor interface {
	Watch(ctx context.Context, out chan<- Snapshot) error
	// Rescan looks at every file anew and returns when the Snapshot of that
	// has been taken from out. Watch must be running.
	Rescan(ctx context.Context) error
}

// A Launcher starts the generations of one vassal. It is used by one goroutine
// and owns what outlives a generation: the listening sockets, the log, the
// vassal's cgroup and private directories.
type Launcher interface {
	// Prepare expands, checks and resolves f. It starts nothing. The
	// Prepared is usable only if the Problems have no Error; it says in any
	// case what was read, so that a mended include is noticed.
	Prepare(ctx context.Context, f File) (Prepared, vassal.Problems)
	// Launch starts generation gen. It returns when the new process tree
	// exists; nothing is left of it when an error is returned. The error is a
	// vassal.Problems or wraps one. While a generation runs, Launch changes
	// only listeners that p adds or removes.
	Launch(ctx context.Context, p Prepared, gen int) (Instance, error)
	// Close gives up the listeners and removes what was kept. No Instance
	// lives any more.
	Close() error
}

// An Adopter is a Launcher that can find a generation that an earlier Emperor
// left running (KERNEL 19).
type Adopter interface {
	// Adopt takes back the listeners that the survivor holds and returns it as
	// generation gen; found.Instance is nil if there is none. Others that
	// still live, but not for long, are leaving: the actor drains them. It is
	// called once, before
	// anything else. A survivor that only holds the vassal's place is ended
	// when another holds or serves. Any other survivor the actor treats as a generation that
	// serves: its successor is started at once, and when that is ready the
	// survivor is drained.
	Adopt(ctx context.Context) (found Survivor, leaving []Survivor)
}

// Survivor is a generation of an earlier Emperor.
type Survivor struct {
	Instance Instance
	Gen      int
}

// An Heir is a Launcher that can take over what another one keeps: the
// listeners of a vassal whose file was renamed (CONTRACT 3).
type Heir interface {
	// Inherit takes from old what both need. No generation of either lives.
	// Afterwards old is closed by the actor and gives up the rest.
	Inherit(old Launcher) error
}

// A Holder is a Launcher that can answer every request on the vassal's
// listeners while no generation of it serves: suspended, or in back-off.
type Holder interface {
	// Hold is Launch of a holding generation, which answers as h says and has
	// nothing of the vassal's: on the listeners of p, which are made if they
	// are not there, or, where p is nil or cannot be used, on those that the
	// vassal has. Without listeners there is neither Instance nor error. gen
	// is FirstHold or more.
	Hold(ctx context.Context, p Prepared, h vassal.Hold, gen int) (Instance, error)
}

// FirstHold is the number from which holding generations are counted, so that
// they are told apart from those that run the application.
const FirstHold = 1_000_000_000

// A Remainer is an Instance that can say what keeps it from being gone, such
// as "pids 412 413 in D state, nfs_wait".
type Remainer interface{ Remains() string }

// A Crowder is a Launcher that can say why a generation of p cannot start beside the
// one that serves, which is then drained first (KERNEL 21); nil: it can.
type Crowder interface {
	Crowded(p Prepared) *vassal.Problem
}

// A Binder is an Instance that knows the addresses of its listeners as bound:
// ":0" has its port there. Others are shown as Prepared.View has them. A Launcher
// may be one too.
type Binder interface{ Bound() []string }

// Troubled is an Instance that can say what is wrong at this moment although it
// serves, such as a renewed certificate without its key.
type Troubled interface{ Troubles() vassal.Problems }

// A Timed is an Instance that knows how long it took from Launch until its first
// program ran in the sandbox; 0: it has not yet.
type Timed interface{ Executed() time.Duration }

// A Shutter is an Instance that can say when, after Drain, it accepts no more.
type Shutter interface{ Shut() <-chan struct{} }

// A Wisher is an Instance whose core may wish to be followed by another
// generation: then Changed of what was prepared for it is asked at once, and
// says so.
type Wisher interface{ Wishes() <-chan struct{} }

// Prepared is one expanded and resolved file, ready to be launched. Changed may
// run while the Launcher is at work.
type Prepared interface {
	Digest() vassal.Digest
	Restart() vassal.Restart
	View() View                   // for status
	Changed(context.Context) bool // what it read besides the file itself differs now
}

// View is what status shows of a Prepared.
type View struct {
	UID, GID    int
	User, Group string
	Context     string
	Net         string
	Connect     []string
	Listen      []string
	Addresses   []string // of net = nat
	Log         string
	MemoryMax   int64
	PidsMax     int64
	Cgroup      string
}

// An Instance is one generation of a vassal. No method waits for it.
type Instance interface {
	PID() int
	Ready() <-chan vassal.Problems // receives once, the warnings of the core, when the generation serves
	Done() <-chan struct{}         // closed when nothing of it is left
	Exit() vassal.Exit             // valid after Done
	Problems() vassal.Problems     // why it failed; valid after Done
	// Forgo gives it up unless it has said that it serves, which it may have before
	// anybody received that: from then on requests may be with it, and the vassal's
	// listeners are those that it wants. False: it has, and Ready receives, or Done is
	// closed. What was forgone changes nothing any more, and is still to be drained:
	// its core may have begun to accept.
	Forgo() bool
	Drain() error               // ask it to finish; Done follows
	Kill() error                // end it now; Done follows
	Turn(until time.Time) error // tell it that no other generation has daemons, crons, timers or spoolers; until is Rester.Until of the one before
	Alone() error               // tell it that no other generation lives
	Usage() Usage               // fast; after Done the last figures
}

// A Reliever is an Instance that wants to know, before it is asked to finish,
// that another generation takes over.
type Reliever interface{ Relieve() }

// A Rester is an Instance that says when, after Drain, it has none of what
// only one generation at a time may have: daemons, crons, timers, spoolers.
type Rester interface {
	Rested() <-chan struct{} // closed then
	Until() time.Time        // the minute up to which its crons were seen to, valid after Rested; zero: unknown
}

// Usage is what is known of a running generation; the kernel's figures are for
// the whole vassal, over all its generations.
type Usage struct {
	MemoryBytes, OOMKills, CPUUsec, Pids int64

	SentBytes, ReceivedBytes int64 // by net = nat

	// What limits did to it, counted.
	MemorySlowed, PidsRefused, ThrottledUsec int64

	Disk *Disk // nil: the app's directory has no quota

	Requests uint64 // the tenant's own claim
}

// Disk is what the app's directory takes of its quota; a maximum of 0 is none.
type Disk struct{ Bytes, BytesMax, Inodes, InodesMax int64 }

// Times of the supervisor.
const (
	// KillAfter is how long a killed generation may take to be gone before
	// the vassal is reported as stuck (KERNEL 40).
	KillAfter = 10 * time.Second
	// WatchTime is how long the Monitor may take to return at the end of Run. A
	// system call that hangs in a file system cannot be called off, and is left to
	// the end of the process.
	WatchTime = 5 * time.Second
	// SlotTime is how long one start may hold a slot of start-concurrency.
	// One that takes longer, because its hook sleeps or its app is large,
	// goes on without.
	SlotTime = 3 * time.Second
	// LookAgain is how often what a vassal read besides its file is compared.
	LookAgain = 3 * time.Second
	// CheckAgain is how long after a refusal a file that did not change is
	// checked again, for what it asks of the host may have changed: a user, a
	// directory. It doubles up to CheckAgainMax.
	CheckAgain    = 5 * time.Second
	CheckAgainMax = 5 * time.Minute
	// SampleEvery is how often usage is sampled when nobody asks.
	SampleEvery = 10 * time.Second
	// SaveEvery is how often the counters are saved when nothing else is.
	SaveEvery = time.Minute
)
