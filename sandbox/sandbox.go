// Package sandbox starts one process tree in its own namespaces and cgroup,
// and makes sure nothing of it is left. It is the only package that imports
// libcontainer.
package sandbox

import (
	"context"
	"errors"
	"os"

	"liege/sandbox/stage"
	"liege/vassal"
)

// Spec says what to start. Equal Specs make equal sandboxes; the host is
// consulted only when the sandbox is made.
type Spec struct {
	ID       string // unique on the host's Manager: NAME-gN
	Name     vassal.Name
	Gen      int
	Hostname string
	HostNet  bool // keep the host's network namespace
	Root     []Mount
	Files    []GenFile // generated files, such as /etc/passwd
	Limits   vassal.Limits
	Plan     stage.Plan // Plan.Files is filled in by Start

	Listeners []*os.File // in App.Listen's order; Start does not close any file
	Control   *os.File   // the core's end
	App       *os.File   // sealed memfd
	Detached  []*os.File // mounts for Plan.Attach
	Stdout    *os.File   // of the vassal: its log; stderr too
}

// Mount is one bind of a root-owned host path into the composed root, mounted
// by libcontainer. What a tenant can move is a detached mount instead.
type Mount struct {
	Source, Target string
	Writable       bool
	Exec           bool // without it: noexec
	File           bool // Source is a regular file
}

// GenFile is a file made for this sandbox, read-only inside.
type GenFile struct {
	Path string
	Text []byte
	Mode os.FileMode
	Link string // a symbolic link to this instead
}

// ErrNotSupported is wrapped by every error about a missing kernel feature.
var ErrNotSupported = errors.New("not supported by this kernel")

// Manager makes sandboxes below one run directory and one cgroup node.
type Manager struct{}

// Start starts spec. It returns when the stage has been executed, or has
// failed to be, or ctx is done; in the last two cases nothing is left behind.
func (m *Manager) Start(ctx context.Context, spec Spec) (*Sandbox, error) {
	return nil, errors.ErrUnsupported
}

// Sandbox is one running sandbox.
type Sandbox struct{ done chan struct{} }

// PID is the host's pid of the sandbox's first process.
func (s *Sandbox) PID() int { return 0 }

// Failure yields what the stage reports when it cannot become the core.
func (s *Sandbox) Failure() <-chan *stage.Failure { return nil }

// Verify reads, from outside, the ids, capabilities, no_new_privs, seccomp,
// context and namespaces of the first process and compares them with the
// Spec. The error names the field that differs.
func (s *Sandbox) Verify() error { return errors.ErrUnsupported }

// Done is closed when no process of the sandbox is left and its cgroup, mounts
// and state are removed.
func (s *Sandbox) Done() <-chan struct{} { return s.done }

// Exit is valid once Done is closed.
func (s *Sandbox) Exit() vassal.Exit { return vassal.Exit{} }

// Signal signals the first process.
func (s *Sandbox) Signal(sig os.Signal) error { return errors.ErrUnsupported }

// Kill kills every process, by the cgroup. It never waits for a lock that
// Start may hold.
func (s *Sandbox) Kill() error { return errors.ErrUnsupported }

// Usage is what the kernel counted for the sandbox's cgroup.
type Usage struct {
	MemoryBytes, OOMKills, CPUUsec, Pids int64
}

// Usage reads the cgroup.
func (s *Sandbox) Usage() (Usage, error) { return Usage{}, errors.ErrUnsupported }
