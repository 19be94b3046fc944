package sandbox

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"liege/sandbox/network"
	"liege/selinux"
	"liege/vassal"
)

// Door is an address inside the sandbox on which a relay outside answers.
type Door struct {
	TCP  netip.AddrPort // in the sandbox's own network; not valid: Path counts
	Path string         // of a unix socket inside
}

// Doors are those of one generation, and the SELinux contexts of what is made
// for them; empty ones: as the Emperor makes things.
type Doors struct {
	All  []Door
	TCP  string // of TCP listeners: the relay's
	Unix string // of unix listeners: the vassal's, which may connect to its own
	Node string // of the nodes of unix listeners
	// Opened is called when the listeners are there and before anything of the
	// vassal runs. If it returns nil, the gate is its to close, even if the
	// start fails later.
	Opened func(*Gate) error
}

// DoorError is why a door cannot be made. Door is its index in Doors.All.
type DoorError struct {
	Door int
	Err  error
}

func (e *DoorError) Error() string { return e.Err.Error() }
func (e *DoorError) Unwrap() error { return e.Err }

// Gate is what stands between a generation and its relay: the listeners inside,
// and a cgroup of the vassal's in which the relay is counted, outside the
// Emperor's guarded one (KERNEL 35). It lives longer than the generation: what
// that has said is still to be passed on.
type Gate struct {
	// Listeners are in the order of the doors, in blocking mode: see
	// asuser.BindIn.
	Listeners []*os.File

	m      *Manager
	cgroup string
	nodes  string // directory of the unix sockets, root's alone
}

// RelayPids is what is added to a vassal's pids-max for its relay: a Go program
// that waits for the network has five to eight threads.
const RelayPids = 12

const backlog = 1024

func (v *Vassal) relay(gen int) string       { return fmt.Sprintf("%s/r%d", v.cgroup(), gen) }
func (m *Manager) doorsDir() string          { return filepath.Join(m.dir, "doors") }
func (m *Manager) nodesDir(id string) string { return filepath.Join(m.doorsDir(), id) }
func (v *Vassal) gateID(gen int) string      { return fmt.Sprintf("%s-g%d", v.name, gen) }
func (v *Vassal) newGate(gen int, n int) *Gate {
	return &Gate{m: v.m, cgroup: v.relay(gen), nodes: v.m.nodesDir(v.gateID(gen)), Listeners: make([]*os.File, n)}
}

// Gate returns the gate of a generation that a killed Emperor started: without
// listeners, to be closed when the generation has ended. There need be none.
func (v *Vassal) Gate(gen int) *Gate { return v.newGate(gen, 0) }

// makeGate makes the cgroup of the relay and the unix sockets, which are bound
// into the root.
func (st *starting) makeGate() error {
	doors := st.spec.Doors.All
	if len(doors) == 0 {
		return nil
	}
	g := st.v.newGate(st.spec.Gen, len(doors))
	st.gate = g
	st.undo = append(st.undo, st.dropGate)
	if err := errors.Join(g.m.trees.make(g.cgroup), g.m.trees.limitSockets(g.cgroup, st.spec.Limits.MemoryMax)); err != nil {
		return err
	}
	if err := os.MkdirAll(g.nodes, 0o700); err != nil {
		return fmt.Errorf("doors: %w", err)
	}
	st.spec.Root = slices.Clone(st.spec.Root)
	for i, d := range doors {
		if d.TCP.IsValid() {
			continue
		}
		node := filepath.Join(g.nodes, strconv.Itoa(i))
		f, err := st.bindNode(node)
		if err != nil {
			return &DoorError{i, err}
		}
		g.Listeners[i] = f
		st.spec.Root = append(st.spec.Root, Mount{Source: node, Target: d.Path, File: true})
	}
	return nil
}

// bindNode listens on a unix socket in a directory that only root enters. All
// of the vassal may connect, who sees it through a mount.
func (st *starting) bindNode(node string) (*os.File, error) {
	fd := -1
	err := selinux.Sockets(st.spec.Doors.Unix, func() (err error) {
		fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), node)
	dir, err := os.Open(filepath.Dir(node))
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(node))})
		dir.Close()
	}
	if err == nil {
		err = errors.Join(unix.Listen(fd, backlog), os.Chmod(node, 0o666), selinux.Relabel(node, st.spec.Doors.Node))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openGate makes the TCP listeners in the sandbox's network, and hands the gate
// over. lo is up.
func (st *starting) openGate(pid int) error {
	if st.gate == nil {
		return nil
	}
	var at []netip.AddrPort
	var to []int
	for i, d := range st.spec.Doors.All {
		if d.TCP.IsValid() {
			at, to = append(at, d.TCP), append(to, i)
		}
	}
	if len(at) > 0 {
		if st.spec.HostNet {
			return errors.New("a door of the host's network would be the host's own")
		}
		fs, err := listenInside(pid, at, st.spec.Doors.TCP)
		if e, ok := errors.AsType[*DoorError](err); ok {
			return &DoorError{to[e.Door], e.Err}
		}
		if err != nil {
			return err
		}
		for i, f := range fs {
			st.gate.Listeners[to[i]] = f
		}
	}
	if err := st.spec.Doors.Opened(st.gate); err != nil {
		return err
	}
	st.gate = nil // it has an owner
	return nil
}

// dropGate undoes what nobody took over.
func (st *starting) dropGate() error {
	if st.gate == nil {
		return nil
	}
	return st.gate.Close()
}

// listenInside listens in the network of process pid. Nothing of this process
// is left there but the sockets, which the relay alone is given.
func listenInside(pid int, at []netip.AddrPort, context string) (fs []*os.File, err error) {
	ns, err := network.Of(pid)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	err = network.Inside(ns, func() error {
		fs, err = listenThere(at, context)
		return err
	})
	return fs, err
}

// listenThere listens in the network of the calling thread, which does nothing
// else any more.
func listenThere(at []netip.AddrPort, context string) (fs []*os.File, err error) {
	defer func() {
		if err != nil {
			for _, f := range fs {
				f.Close()
			}
		}
	}()
	if err := addAddresses(at); err != nil {
		return nil, err
	}
	if err := selinux.ThreadSockets(context); err != nil { // this thread's, for ever
		return nil, err
	}
	for i, a := range at {
		f, err := listenTCP(a)
		if err != nil {
			return fs, &DoorError{i, err}
		}
		fs = append(fs, f)
	}
	return fs, nil
}

// addAddresses gives lo the addresses that it has not by itself.
func addAddresses(at []netip.AddrPort) error {
	for i, a := range at {
		if a.Addr().IsLoopback() {
			continue
		}
		if err := network.AddLocal(a.Addr()); err != nil {
			return &DoorError{i, err}
		}
	}
	return nil
}

func listenTCP(a netip.AddrPort) (*os.File, error) {
	family := unix.AF_INET6
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	if a.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), a.String())
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Start starts the relay, by start, and puts it into its cgroup; it is told
// nothing before. It does not start there: the thread that forks waits until
// the child execs, and a vassal that is out of CPU time or memory would have
// that take as long as it likes (clone3 with CLONE_INTO_CGROUP and CLONE_VFORK).
func (g *Gate) Start(cmd *exec.Cmd, start func(*exec.Cmd) error) error {
	g.m.Outside(cmd)
	if err := start(cmd); err != nil {
		return err
	}
	return g.m.trees.join(g.cgroup, cmd.Process.Pid)
}

// join puts a process into a cgroup, in the cgroup2 tree and in those of the v1
// controllers that count.
func (t *trees) join(inner string, pid int) error {
	dirs := []string{t.procsDir(inner)}
	if !t.v2() {
		for _, c := range []string{"memory", "pids", "cpu", "cpuacct", "devices"} {
			if dir := t.dir(c, inner); dir != "" && !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	for _, dir := range dirs {
		err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("cgroup of the relay: %w", err)
		}
	}
	return nil
}

// RelayTime is how long a relay may take to pass on what a generation said that
// has ended; gateTime how long one that was killed may take to be gone.
const (
	RelayTime = 3 * time.Second
	gateTime  = 5 * time.Second
)

// Alive reports whether the relay runs.
func (g *Gate) Alive() bool { return len(g.m.trees.pids(g.cgroup)) > 0 }

// finish asks a relay to end that nobody else has asked: that of a survivor.
func (g *Gate) finish() {
	for _, pid := range g.m.trees.pids(g.cgroup) {
		if err := g.m.trees.signalOne(g.cgroup, pid, unix.SIGTERM); err != nil {
			return // it is killed
		}
	}
	for end := time.Now().Add(RelayTime); len(g.m.trees.pids(g.cgroup)) > 0 && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
}

// Close kills what is left in the gate's cgroup and removes all that it was
// made of.
func (g *Gate) Close() error {
	var errs []error
	for _, f := range g.Listeners {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	g.finish()
	errs = append(errs, g.m.trees.emptyBy(g.cgroup, time.Now().Add(gateTime)), g.m.trees.remove(g.cgroup), os.RemoveAll(g.nodes))
	return errors.Join(errs...)
}

// sweepGates ends the relays of generations that were not spared.
func (m *Manager) sweepGates(name vassal.Name, kept func(gen int) bool, end time.Time) error {
	v := &Vassal{m: m, name: name}
	var errs []error
	seen := map[int]bool{}
	for _, mount := range m.trees.mounts {
		for _, e := range entries(filepath.Join(mount, v.cgroup())) {
			gen, err := strconv.Atoi(e[1:])
			if e[0] != 'r' || err != nil || seen[gen] || kept(gen) {
				continue
			}
			seen[gen] = true
			errs = append(errs, m.trees.emptyBy(v.relay(gen), end), m.trees.remove(v.relay(gen)))
		}
	}
	return errors.Join(errs...)
}
