package sandbox

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/opencontainers/runc/libcontainer"

	"liege/sandbox/network"
	"liege/sandbox/stage"
	"liege/vassal"
)

// Spec says what to start. Equal Specs make equal sandboxes; the host is
// consulted only when the sandbox is made.
type Spec struct {
	ID       string // unique in the Manager: NAME-gN
	Name     vassal.Name
	Gen      int
	Hostname string
	HostNet  bool // keep the host's network namespace
	NAT      *NAT // the way out of its own one; nil: none
	// Tree is the system that the root is made over (an O_PATH descriptor of
	// its directory); nil: the root has what Root and Files bring. Nothing is
	// ever made in the tree.
	Tree    *os.File
	Root    []Mount
	Files   []GenFile // generated files, such as /etc/passwd
	Users   *IDMaps   // a user namespace with these ids; nil: none
	HidePID bool      // /proc shows each user its own processes only
	TimeNS  bool      // a time namespace: clocks since boot count from the start
	Masked  []string  // paths inside that are shown empty; what does not exist is skipped
	Limits  vassal.Limits
	// Ceilings bound what Limits are raised to while two generations live.
	Ceilings   vassal.Ceilings
	MountLabel string // SELinux context of the file systems made for it: /dev, /run, the private ones
	RootLabel  string // of the composed root and the generated files in it
	Plan       stage.Plan
	// Bare keeps what is the vassal's out of reach: its private /tmp, /var/tmp
	// and /dev/shm are empty and read-only, and Limits hold for the
	// generation's own cgroup and leave the vassal's as they are.
	Bare bool

	Listeners []*os.File // in App.Listen's order; Start does not close any file
	Control   *os.File   // the core's end
	App       *os.File   // sealed memfd
	Detached  []*os.File // mounts for Plan.Attach
	Stdout    *os.File   // of the vassal: its log; stderr too

	// Doors are the addresses inside on which a relay answers.
	Doors Doors

	// Created, if set, is called when the process and its namespaces exist
	// and before anything of the vassal runs in them. The Record it is given
	// is what Adopt needs after the Emperor was killed. An error ends the
	// start.
	Created func(Record) error

	// At, if set, is told of each path of the host that is looked up from then on, by
	// any goroutine: a dead file system holds it up. Empty: that is over.
	At func(source string)

	// HostHooks are the hooks that run before the root is entered; those that
	// run inside are in Plan. Told, if set, is given the failure of one that
	// does not end the start.
	HostHooks []vassal.Hook
	Told      func(*stage.Failure)
}

// IDMaps are the ids of a user namespace: of root inside, and of those ids of
// the host that are themselves. All others are nobody.
type IDMaps struct {
	Root   int // uid and gid on the host
	Users  []int
	Groups []int
}

// host is the host's number of an id inside; -1: it has none.
func (m *IDMaps) host(id int, same []int) int {
	switch {
	case m == nil || slices.Contains(same, id):
		return id
	case id == 0:
		return m.Root
	}
	return -1
}

func (m *IDMaps) hostUID(id int) int {
	if m == nil {
		return id
	}
	return m.host(id, m.Users)
}

func (m *IDMaps) hostGID(id int) int {
	if m == nil {
		return id
	}
	return m.host(id, m.Groups)
}

// Mount is one bind of a root-owned host path into the composed root, mounted
// by libcontainer. What a tenant can move is a detached mount instead.
type Mount struct {
	Source, Target string
	Writable       bool
	Exec           bool // without it: noexec
	File           bool // Source is a regular file
	Recursive      bool // with the mounts below Source, which get the same flags
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

// Sandbox is one running sandbox.
type Sandbox struct {
	m       *Manager
	v       *Vassal
	id      string
	gen     int
	cgroup  string // as an inner path
	plan    stage.Plan
	hostNet bool
	timeNS  bool
	users   *IDMaps
	bare    bool
	second  bool          // another served when it was started: the kernel kills it first, until Level
	score   int           // the core's oom_score_adj
	relays  bool          // it has a relay beside it
	memory  int64         // memory-max
	limits  vassal.Limits // of the vassal while it is the only generation

	nat       bool              // it is on the vassal's line (v.lineMu)
	addresses network.Addresses // there

	pid    int
	start  uint64            // of the process, in ticks since boot
	spaces map[string]string // its namespaces, as made

	container *libcontainer.Container // nil: adopted
	process   *libcontainer.Process
	logOwner  *unix.Stat_t // of the log, before libcontainer changes it

	guests  atomic.Int64 // so far: Enter
	killed  atomic.Bool  // by Kill
	failure chan *stage.Failure
	status  *os.File      // on which the stage reports; nil: adopted
	reading chan struct{} // closed when nobody can report a failure any more
	ended   chan struct{} // closed when the first process has ended
	state   *os.ProcessState
	done    chan struct{}
	exit    vassal.Exit

	mu    sync.Mutex
	pidfd int // -1 once the process was waited for
}

// PID is the host's pid of the sandbox's first process.
func (s *Sandbox) PID() int { return s.pid }

// Cgroup is the generation's cgroup, as a path inside every hierarchy.
func (s *Sandbox) Cgroup() string { return s.cgroup }

// Failure yields what the stage reports when it cannot become the core, at
// most once; it is never closed. What was reported is there before Done is
// closed.
func (s *Sandbox) Failure() <-chan *stage.Failure { return s.failure }

// Done is closed when no process of the sandbox is left and its cgroup, mounts
// and state are removed.
func (s *Sandbox) Done() <-chan struct{} { return s.done }

// Exit is valid once Done is closed.
func (s *Sandbox) Exit() vassal.Exit { return s.exit }

// Signal signals the first process. It is an error when that has ended.
func (s *Sandbox) Signal(sig os.Signal) error {
	n, ok := sig.(unix.Signal)
	if !ok {
		return fmt.Errorf("signal %s: %v is not a signal of this system", s.id, sig)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pidfd < 0 {
		return fmt.Errorf("signal %s: %w", s.id, os.ErrProcessDone)
	}
	if err := unix.PidfdSendSignal(s.pidfd, n, nil, 0); err != nil {
		return fmt.Errorf("signal %s: %w", s.id, err)
	}
	return nil
}

// Kill kills every process, by the cgroup. It never waits for a lock that
// Start may hold, and may be called at any time.
func (s *Sandbox) Kill() error {
	s.killed.Store(true)
	if err := s.m.trees.kill(s.cgroup); err != nil {
		return fmt.Errorf("kill %s: %w", s.id, err)
	}
	return nil
}

// Processes lists the pids in the generation's cgroup: what still does not die
// when Done takes too long.
func (s *Sandbox) Processes() []int { return s.m.trees.pids(s.cgroup) }

// Usage is what the kernel counted for a cgroup.
type Usage struct {
	MemoryBytes, OOMKills, CPUUsec, Pids int64
	MemorySlowed                         int64 // times that memory-high held it up
	PidsRefused                          int64 // processes and threads that pids-max refused
	ThrottledUsec                        int64 // that cpu-max kept it waiting
	// Bytes that left and reached the vassal by net = nat; of the vassal only.
	SentBytes, ReceivedBytes int64
}

// Usage reads the generation's cgroup.
func (s *Sandbox) Usage() (Usage, error) { return s.m.trees.usage(s.cgroup) }

// lastWords is how long what the stage reported is read once it is gone.
const lastWords = time.Second

// supervise waits for the end, removes what is left and closes done. It is the
// only one that waits for the process.
func (s *Sandbox) supervise() {
	defer s.m.running.Done()
	defer close(s.done)
	<-s.ended
	s.mu.Lock()
	unix.Close(s.pidfd)
	s.pidfd = -1
	s.mu.Unlock()
	// PID 1 took its pid namespace with it; the cgroup says whether anything
	// of the start was outside of that.
	s.m.trees.empty(s.cgroup)
	if s.status != nil { // what was reported is there; who else has the stage's end is not waited for
		_ = s.status.SetReadDeadline(time.Now().Add(lastWords)) // an error says that it was read
	}
	<-s.reading
	u, _ := s.m.trees.usage(s.cgroup)
	s.exit = s.describe(u)
	if err := errors.Join(s.dispose(), s.v.end(s, u)); err != nil {
		s.m.warn("left behind", s, err)
	}
}

// dispose removes the generation's cgroup and libcontainer's state.
func (s *Sandbox) dispose() error {
	errs := []error{s.v.hangUp(s)}
	if s.container != nil {
		errs = append(errs, s.container.Destroy())
	}
	return errors.Join(append(errs, s.m.trees.remove(s.cgroup), s.m.removeState(s.id))...)
}

func (s *Sandbox) describe(u Usage) vassal.Exit {
	e := vassal.Exit{At: time.Now().UTC()}
	if s.state == nil {
		e.Code = vassal.UnknownCode
		e.Reason = "the exit status is unknown: it outlived the Emperor that started it"
		return e
	}
	ws := s.state.Sys().(syscall.WaitStatus)
	e.Code = ws.ExitStatus()
	if ws.Signaled() {
		e.Code = 128 + int(ws.Signal())
		e.Signal = unix.SignalName(ws.Signal())
		e.Reason = "killed by " + e.Signal
	} else if e.Code != 0 {
		e.Reason = fmt.Sprintf("exited with status %d", e.Code)
	}
	if e.Code == 0 || s.killed.Load() {
		return e
	}
	if u.PidsRefused > 0 {
		e.Reason += fmt.Sprintf(", after pids-max had refused it %d processes or threads", u.PidsRefused)
	}
	if u.OOMKills > 0 {
		e.OOM = true
		e.Reason = "out of memory"
		if s.memory > 0 {
			e.Reason = fmt.Sprintf("out of memory: memory-max is %d bytes", s.memory)
		}
	}
	return e
}

func (m *Manager) warn(msg string, s *Sandbox, err error) {
	if m.cfg.Log != nil {
		m.cfg.Log.Warn(msg, "vassal", string(s.v.name), "gen", s.gen, "err", err)
	}
}
