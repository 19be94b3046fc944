// Package emperor keeps the set of running vassals equal to the set of vassal
// files. One goroutine owns the set; one goroutine, an actor, owns each vassal.
package emperor

import (
	"context"
	"io/fs"
	"time"

	"liege/vassal"
)

// A File is one vassal file as the monitor opened it, once: from then on it is
// bytes. A file that cannot be used has Problem set.
type File struct {
	Name    vassal.Name
	Path    string // as found: %p
	Text    []byte
	Trust   vassal.Trust
	Mode    fs.FileMode
	Inode   uint64
	Stamp   string // changes whenever the vassal must be looked at again (CONTRACT 2)
	Problem *vassal.Problem
}

// A Snapshot is the whole desired set at one moment.
type Snapshot struct {
	Files   []File           // in name order
	Skipped []vassal.Problem // notes about files that are not vassals
}

// A Monitor sends a Snapshot whenever the desired set may have changed, until
// ctx is done. It may send the same Snapshot twice.
type Monitor interface {
	Watch(ctx context.Context, out chan<- Snapshot) error
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

// Prepared is one expanded and resolved file, ready to be launched.
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
	Listen      []string
	Log         string
	MemoryMax   int64
	PidsMax     int64
	Cgroup      string
}

// An Instance is one generation of a vassal.
type Instance interface {
	PID() int
	Ready() <-chan vassal.Problems // receives once, the warnings of the core, when the generation serves
	Done() <-chan struct{}         // closed when nothing of it is left
	Exit() vassal.Exit             // valid after Done
	Problems() vassal.Problems     // why it failed; valid after Done
	Drain() error                  // ask it to finish; Done follows
	Kill() error                   // end it now; Done follows
	Alone() error                  // tell it that no other generation lives
	Usage() Usage
}

// Usage is what is known of a running generation; the kernel's figures are for
// the whole vassal, over all its generations.
type Usage struct {
	MemoryBytes, OOMKills, CPUUsec, Pids int64
	Requests                             uint64 // the tenant's own claim
}

// Clock-like settings of the supervisor.
const (
	// KillAfter is how long a killed generation may take to be gone before
	// the vassal is reported as stuck.
	KillAfter = 10 * time.Second
)
