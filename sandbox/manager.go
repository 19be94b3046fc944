package sandbox

import (
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// Paths inside every sandbox, for stage.Plan.Exec and the like.
const (
	LiegeDir  = "/.liege"
	StagePath = LiegeDir + "/liege-stage"
	CorePath  = LiegeDir + "/liege-core"
)

// DefaultTmpBytes bounds the private /tmp, /var/tmp and /dev/shm of a vassal,
// all three together, where half of memory-max does not.
const DefaultTmpBytes = 1 << 30

// ManagerConfig says where a Manager works and with which programs.
type ManagerConfig struct {
	// RunDir belongs to one Emperor; the Manager uses RunDir/sandbox. The
	// caller holds the lock that keeps a second Emperor out.
	RunDir string
	// Stage and Core are the programs on the host, static, owned by root.
	Stage, Core string
	// Cgroup is where the vassals' cgroups are made, as a path inside every
	// hierarchy: that of another unit with Delegate=yes. Empty: at the node.
	Cgroup   string
	TmpBytes int64 // 0: DefaultTmpBytes
	Log      *slog.Logger
}

// Manager makes sandboxes below one run directory and one cgroup node. Its
// methods may be called at the same time.
type Manager struct {
	cfg    ManagerConfig
	dir    string // RunDir/sandbox
	trees  *trees
	origin string // the cgroup this process came from
	below  bool   // it was started one below, in its leaf
	home   string // of this process and of what it runs outside
	node   string // of the vassals; the home, unless ManagerConfig.Cgroup is set
	claim  *os.File
	hooks  *os.File
	guard  error

	mu      sync.Mutex
	vassals map[vassal.Name]*Vassal
	running sync.WaitGroup // supervisors of sandboxes
}

var (
	nodeName = regexp.MustCompile(`^/liege-[0-9a-f]{8}$`)
	idBytes  = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
)

// NewManager finds the cgroups, makes the node and moves this process into its
// leaf "emperor", on the cgroup2 tree. Call it before the first listener is
// opened: only sockets made after it are guarded. From then on this process
// cannot connect to an inet address; what must, runs Outside.
//
// The node is the process's own cgroup when systemd delegated it and it is
// alone there, else /liege-XXXXXXXX with a hash of the run directory.
//
// On cgroup v2 the kernel takes no process into a cgroup that hands controllers
// on to its children: systemd could not start a killed Emperor again in a unit
// in which its vassals still run (status 219/CGROUP). So there the vassals need
// a unit of their own, which ManagerConfig.Cgroup names, or a systemd that
// starts the Emperor in a cgroup below the unit's (DelegateSubgroup=emperor,
// systemd 254).
func NewManager(cfg ManagerConfig) (_ *Manager, err error) {
	m := &Manager{cfg: cfg, vassals: map[vassal.Name]*Vassal{}}
	if cfg.RunDir, err = filepath.EvalSymlinks(cfg.RunDir); err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	if cfg.RunDir, err = filepath.Abs(cfg.RunDir); err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	m.dir = filepath.Join(cfg.RunDir, "sandbox")
	for _, d := range []string{m.stateDir(), m.rootDir()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("run directory: %w", err)
		}
	}
	// Root of a user namespace goes through them to its own root.
	for _, d := range []string{m.dir, m.rootDir()} {
		if err := os.Chmod(d, 0o711); err != nil {
			return nil, fmt.Errorf("run directory: %w", err)
		}
	}
	if m.trees, err = findTrees(); err != nil {
		return nil, err
	}
	if err := m.findHome(cfg.RunDir); err != nil {
		return nil, err
	}
	if err := m.findNode(); err != nil {
		return nil, err
	}
	if err := m.settle(); err != nil {
		return nil, errors.Join(fmt.Errorf("cgroup %s: %w; hint: the Emperor needs to be root and /sys/fs/cgroup writable", m.node, err), m.release())
	}
	routeLogrus(cfg.Log)
	// libcontainer hands it to its init, which has one thread that does anything.
	// This process has read its own when it began.
	if err := os.Setenv("GOMAXPROCS", "1"); err != nil {
		return nil, errors.Join(err, m.release())
	}
	return m, nil
}

func (m *Manager) stateDir() string { return filepath.Join(m.dir, "state") }
func (m *Manager) rootDir() string  { return filepath.Join(m.dir, "root") }

func (m *Manager) leaf() string    { return m.home + "/emperor" }
func (m *Manager) outside() string { return m.home + "/hooks" }
func (m *Manager) all() string     { return m.node + "/vassals" }

// Node is the cgroup below which the vassals are, as a path inside every
// hierarchy.
func (m *Manager) Node() string { return m.node }

// All is the cgroup in which the vassals' own are, each named by vassal.Name.Dir.
func (m *Manager) All() string { return m.all() }

// findHome decides where this process is and what it runs outside (KERNEL 22).
func (m *Manager) findHome(runDir string) error {
	own, err := m.trees.own()
	if err != nil {
		return err
	}
	// A sealed or upgraded Emperor executes itself in its leaf.
	if p, ok := strings.CutSuffix(own, "/emperor"); ok {
		m.below = true
		if own = p; nodeName.MatchString(own) {
			own = "/"
		}
	}
	m.origin = own
	if own != "/" && m.trees.delegated(own) && alone(m.trees.procsDir(own)) {
		m.home = own
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(runDir, &st); err != nil {
		return fmt.Errorf("run directory %s: %w", runDir, err)
	}
	h := fnv.New32a()
	fmt.Fprintf(h, "%d:%d", st.Dev, st.Ino)
	m.home = fmt.Sprintf("/liege-%08x", h.Sum32())
	return nil
}

// findNode decides where the vassals' cgroups are.
func (m *Manager) findNode() error {
	if m.cfg.Cgroup == "" {
		m.node = m.home
		return nil
	}
	m.node = filepath.Join("/", m.cfg.Cgroup)
	return m.claimNode()
}

// claimNode takes the node for this Emperor alone: Sweep ends whatever it
// finds there.
func (m *Manager) claimNode() error {
	if m.node == "/" {
		return errors.New("cgroup = /: the root is not the Emperor's; hint: name the cgroup of a unit with Delegate=yes")
	}
	if !slices.ContainsFunc(m.trees.mounts, func(mount string) bool {
		_, err := os.Stat(filepath.Join(mount, m.node))
		return err == nil
	}) {
		return fmt.Errorf("cgroup = %s: there is no such cgroup; hint: a unit with Delegate=yes makes it: systemctl start %s", m.node, filepath.Base(m.node))
	}
	if err := os.MkdirAll(m.trees.procsDir(m.node), 0o755); err != nil {
		return fmt.Errorf("cgroup = %s: %w", m.node, err)
	}
	dir, err := os.Open(m.trees.procsDir(m.node)) // the same for every Emperor
	if err != nil {
		return fmt.Errorf("cgroup = %s: %w", m.node, err)
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errors.New("another Emperor has its vassals there")
		}
		return errors.Join(fmt.Errorf("cgroup = %s: %w", m.node, err), dir.Close())
	}
	m.claim = dir
	return nil
}

// release lets another Emperor have the node.
func (m *Manager) release() error {
	if m.claim == nil {
		return nil
	}
	return m.claim.Close()
}

// holder is the cgroup below the node for the processes that were in the node
// itself when we came: the one that keeps the unit alive.
func (m *Manager) holder() string { return m.node + "/holder" }

// clearNode moves what is in the node itself one level down: a v2 cgroup with
// processes of its own hands no controllers on.
func (m *Manager) clearNode() error {
	if m.node == m.home || !m.trees.v2() {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(m.trees.procsDir(m.node), "cgroup.procs"))
	if err != nil {
		return err
	}
	for pid := range strings.FieldsSeq(string(text)) {
		if err := os.MkdirAll(m.trees.procsDir(m.holder()), 0o755); err != nil {
			return err
		}
		err := os.WriteFile(filepath.Join(m.trees.procsDir(m.holder()), "cgroup.procs"), []byte(pid), 0)
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("move process %s: %w", pid, err)
		}
	}
	return nil
}

// alone tells whether no other process is in the cgroup.
func alone(dir string) bool {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return false
	}
	for f := range strings.FieldsSeq(string(text)) {
		if f != strconv.Itoa(os.Getpid()) {
			return false
		}
	}
	return true
}

func (m *Manager) settle() error {
	if err := m.trees.make(m.all()); err != nil {
		return err
	}
	if m.trees.unified == "" {
		m.guard = fmt.Errorf("%w: listeners cannot be guarded without a cgroup2 tree", ErrNotSupported)
		return nil
	}
	for _, inner := range []string{m.leaf(), m.outside()} {
		if err := os.MkdirAll(m.trees.procsDir(inner), 0o755); err != nil {
			return err
		}
	}
	if err := m.move(m.leaf()); err != nil {
		return err
	}
	if err := m.clearNode(); err != nil {
		return err
	}
	if m.trees.v2() && m.node == m.origin && !m.below && m.cfg.Log != nil {
		m.cfg.Log.Warn("if the Emperor dies, systemd cannot start it again while vassals run",
			"cgroup", m.node, "hint", "cgroup = the path of a second unit with Delegate=yes, or DelegateSubgroup=emperor (systemd 254)")
	}
	m.trees.enableAbove(m.all())
	m.guard = guard(m.trees.procsDir(m.leaf()))
	var err error
	m.hooks, err = os.Open(m.trees.procsDir(m.outside()))
	return err
}

// move puts this process into a cgroup of the cgroup2 tree.
func (m *Manager) move(inner string) error {
	return os.WriteFile(filepath.Join(m.trees.unified, inner, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
}

// Guarded returns nil if inet listeners that this process opens may be handed
// into a private network, else why not (KERNEL 1).
func (m *Manager) Guarded() error { return m.guard }

// Outside makes cmd start outside the guarded cgroup: hook commands, relays
// and whatever else must connect.
func (m *Manager) Outside(cmd *exec.Cmd) {
	if m.hooks == nil {
		return
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &unix.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD = true
	cmd.SysProcAttr.CgroupFD = int(m.hooks.Fd())
}

// Close gives back the cgroup node and what is below RunDir/sandbox. Every
// Sandbox is done and every Vassal closed, and what Sweep spared has ended; if
// not, it fails, names one and removes nothing.
func (m *Manager) Close() error {
	m.mu.Lock()
	for name := range m.vassals {
		m.mu.Unlock()
		return fmt.Errorf("close: vassal %s is still there", name)
	}
	m.mu.Unlock()
	m.running.Wait()
	if pids := m.trees.pids(m.all()); len(pids) > 0 {
		return fmt.Errorf("close: %d processes of vassals still live: %v", len(pids), pids)
	}
	// Of a vassal that was spared by Sweep and never taken over.
	errs := []error{m.sweepDirs(nil)}
	if m.hooks != nil {
		errs = append(errs, m.hooks.Close())
		m.trees.empty(m.outside())
	}
	errs = append(errs, m.trees.remove(m.all()), m.trees.remove(m.outside()), m.release())
	m.trees.prune(m.node)
	if m.node == m.origin {
		// A unit's cgroup is systemd's, and where controllers are enabled the
		// kernel takes no process back into it.
		return errors.Join(append(errs, os.RemoveAll(m.dir))...)
	}
	if own, err := m.trees.own(); m.trees.unified != "" && err == nil && own == m.leaf() {
		errs = append(errs, m.move(m.origin))
	}
	errs = append(errs, m.trees.remove(m.leaf()))
	if m.home != m.origin {
		errs = append(errs, m.trees.remove(m.home))
	}
	return errors.Join(append(errs, os.RemoveAll(m.dir))...)
}
