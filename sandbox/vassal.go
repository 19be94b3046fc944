package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"liege/sandbox/network"
	"liege/selinux"
	"liege/vassal"
)

// A Vassal is what outlives a generation: the cgroup that holds the limits and
// the counters, and the private /tmp, /var/tmp and /dev/shm.
type Vassal struct {
	m    *Manager
	name vassal.Name

	mu     sync.Mutex
	live   map[int]*Sandbox
	closed bool
	rests  bool  // its cgroup and private directories were given back
	gone   Usage // counted in generations that are gone, where the vassal's own cgroup does not count it
	before Usage // counted in cgroups of the vassal that were given back
	size   int64 // of the private tmpfs

	lineMu    sync.Mutex
	net       *network.Net // nil: it has none, or none yet
	connected int          // generations on it
}

// The private directories and where they are seen.
var private = []struct{ dir, target string }{
	{"tmp", "/tmp"}, {"var-tmp", "/var/tmp"}, {"shm", "/dev/shm"},
}

// Vassal returns the vassal of that name, and makes its cgroup and private
// directories when they are not there. Those a killed Emperor left are used
// again.
func (m *Manager) Vassal(name vassal.Name) (*Vassal, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v := m.vassals[name]; v != nil {
		return v, nil
	}
	if _, err := vassal.ParseName(string(name)); err != nil {
		return nil, err
	}
	v := &Vassal{m: m, name: name, live: map[int]*Sandbox{}}
	if err := v.make(); err != nil {
		return nil, err
	}
	m.vassals[name] = v
	return v, nil
}

// make makes the cgroup and the private directories.
func (v *Vassal) make() error {
	if err := v.m.trees.make(v.cgroup()); err != nil {
		return err
	}
	v.m.trees.enable(v.cgroup())
	if err := v.makePrivate(); err != nil {
		return errors.Join(err, v.removePrivate(), v.m.trees.remove(v.cgroup()))
	}
	return nil
}

// Cgroup is the cgroup that the vassal has, or would have: Vassal makes it.
func (m *Manager) Cgroup(name vassal.Name) string { return (&Vassal{m: m, name: name}).cgroup() }

// Has reports whether there is something of the vassal: made here, or left by
// a killed Emperor. A vassal that was never started has nothing.
func (m *Manager) Has(name vassal.Name) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.vassals[name] != nil {
		return true
	}
	_, err := os.Lstat((&Vassal{m: m, name: name}).dir())
	return err == nil
}

func (v *Vassal) cgroup() string           { return v.m.all() + "/" + v.name.Dir() }
func (v *Vassal) generation(n int) string  { return fmt.Sprintf("%s/g%d", v.cgroup(), n) }
func (v *Vassal) dir() string              { return filepath.Join(v.m.dir, v.name.Dir()) }
func (v *Vassal) private(of string) string { return filepath.Join(v.dir(), of) }

// Cgroup is the vassal's cgroup, as a path inside every hierarchy.
func (v *Vassal) Cgroup() string { return v.cgroup() }

const tmpfsFlags = unix.MS_NOSUID | unix.MS_NODEV

// makePrivate mounts one small file system for all three directories, so that
// a tenant fills its own and not the host's /run.
func (v *Vassal) makePrivate() error {
	if err := os.MkdirAll(v.dir(), 0o755); err != nil {
		return fmt.Errorf("private directories: %w", err)
	}
	mounted, err := isMount(v.dir())
	if err != nil {
		return fmt.Errorf("private directories: %w", err)
	}
	if !mounted {
		if err := unix.Mount("liege", v.dir(), "tmpfs", tmpfsFlags, tmpfsSize(v.m.tmpBytes(0))); err != nil {
			return fmt.Errorf("private directories: mount %s: %w", v.dir(), err)
		}
		v.size = v.m.tmpBytes(0)
	}
	// Everybody may write to what is in it: nobody but the vassal gets there.
	if err := os.Chmod(v.dir(), 0o700); err != nil {
		return fmt.Errorf("private directories: %w", err)
	}
	for _, p := range private {
		d := v.private(p.dir)
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("private directories: %w", err)
		}
		if err := os.Chmod(d, 0o777|os.ModeSticky); err != nil {
			return fmt.Errorf("private directories: %w", err)
		}
	}
	return nil
}

// resize gives the private directories the size that goes with memory-max.
func (v *Vassal) resize(memoryMax int64) {
	n := v.m.tmpBytes(memoryMax)
	if n == v.size {
		return
	}
	if err := unix.Mount("", v.dir(), "", unix.MS_REMOUNT|tmpfsFlags, tmpfsSize(n)); err == nil {
		v.size = n // smaller than what is in it: EINVAL, the old size stays
	}
}

// tmpBytes is the size of the private directories: never more than half of
// memory-max, which counts what is in them. A vassal that fills them gets ENOSPC,
// and still has memory to serve, and to remove something.
func (m *Manager) tmpBytes(memoryMax int64) int64 {
	limit := m.cfg.TmpBytes
	if limit <= 0 {
		limit = DefaultTmpBytes
	}
	if memoryMax > 0 {
		limit = min(limit, memoryMax/2)
	}
	return limit
}

func tmpfsSize(n int64) string { return fmt.Sprintf("mode=0700,size=%d,nr_inodes=1m", n) }

// isMount tells whether a file system is mounted on dir.
func isMount(dir string) (bool, error) {
	var st, up unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return false, &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if err := unix.Lstat(filepath.Dir(dir), &up); err != nil {
		return false, &os.PathError{Op: "lstat", Path: filepath.Dir(dir), Err: err}
	}
	return st.Dev != up.Dev, nil
}

// takes returns why s cannot be taken in. v.mu is held.
func (v *Vassal) takes(s *Sandbox) error {
	switch {
	case v.closed:
		return fmt.Errorf("vassal %s is being closed", v.name)
	case v.live[s.gen] != nil:
		return fmt.Errorf("generation %d of %s is already there", s.gen, v.name)
	}
	return nil
}

// begin takes in a new generation and sets the vassal's limits for it.
//
// The private directories get label, and with them what is made there from
// then on.
func (v *Vassal) begin(s *Sandbox, l vassal.Limits, ceilings vassal.Ceilings, label string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.takes(s); err != nil {
		return err
	}
	if v.rests {
		if err := v.make(); err != nil {
			return err
		}
		v.rests = false
	}
	if s.bare {
		v.live[s.gen] = s
		return nil
	}
	for _, p := range private {
		if err := selinux.Relabel(v.private(p.dir), label); err != nil {
			return fmt.Errorf("private directories: %w", err)
		}
	}
	v.resize(l.MemoryMax)
	if s.relays && l.PidsMax > 0 {
		l.PidsMax += RelayPids
	}
	s.limits = l
	s.second = v.serving() > 0
	if err := v.m.trees.limit(v.cgroup(), v.raised(l, ceilings)); err != nil {
		return errors.Join(err, v.settle())
	}
	v.live[s.gen] = s
	return nil
}

// adopt takes in a generation that a killed Emperor started. The limits in force
// may be those for two, and the other one may not be known yet: lowered now they
// would kill what serves (v2), or not be taken (v1).
func (v *Vassal) adopt(s *Sandbox, l vassal.Limits) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.takes(s); err != nil {
		return err
	}
	_, err := os.Lstat(v.m.trees.procsDir(v.relay(s.gen)))
	s.relays = err == nil
	if s.relays && l.PidsMax > 0 {
		l.PidsMax += RelayPids
	}
	s.limits, v.live[s.gen] = l, s
	return nil
}

// Settle puts the limits of the only generation in force. Call it when all that
// a killed Emperor left of the vassal was adopted.
func (v *Vassal) Settle() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.settle()
}

// end takes a generation out; with the last but one the limits fall back. u is
// what the kernel counted for it.
func (v *Vassal) end(s *Sandbox, u Usage) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.live, s.gen)
	v.gone.add(u)
	return v.settle()
}

// settle puts the limits of the only generation in force, whichever it is: the
// old one, where a new one has failed. Two keep those that begin has raised.
// v.mu is held.
func (v *Vassal) settle() error {
	var only *Sandbox
	for _, s := range v.live {
		if s.bare {
			continue
		}
		if only != nil {
			return nil
		}
		only = s
	}
	if only == nil {
		return nil
	}
	v.resize(only.limits.MemoryMax)
	if err := v.m.trees.limit(v.cgroup(), only.limits); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("lower the limits of %s again: %w", v.name, err)
	}
	return nil
}

// add adds what is counted: the events that some kernels count only in the
// cgroup where they happened.
func (u *Usage) add(o Usage) {
	u.OOMKills += o.OOMKills
	u.MemorySlowed += o.MemorySlowed
	u.PidsRefused += o.PidsRefused
	u.ThrottledUsec += o.ThrottledUsec
}

// Usage is what the kernel counted for the vassal, over all its generations
// since the Vassal was made.
//
// Memory and CPU time are the cgroup's with those below it. Of events that is
// true of some kernels only: v1 counts a kill where the process was, v2 before
// Linux 6.11 a refused fork where it was tried. There the vassal's own count
// stays at 0. What cpu-max held up is counted where the quota ran out, in the
// vassal's cgroup or in a generation's.
func (v *Vassal) Usage() (Usage, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	u := Usage{}
	var err error
	if !v.rests {
		u, err = v.counted()
	}
	u.add(v.before)
	u.CPUUsec += v.before.CPUUsec
	t := v.traffic()
	u.SentBytes, u.ReceivedBytes = t.Sent, t.Received
	return u, err
}

// counted is what was counted in the cgroup that there is, with v.mu held.
func (v *Vassal) counted() (Usage, error) {
	u, err := v.m.trees.usage(v.cgroup())
	if err != nil {
		return u, err
	}
	below := v.gone
	for gen := range v.live {
		if g, err := v.m.trees.usage(v.generation(gen)); err == nil {
			below.add(g)
		}
	}
	u.OOMKills = max(u.OOMKills, below.OOMKills)
	u.MemorySlowed = max(u.MemorySlowed, below.MemorySlowed)
	u.PidsRefused = max(u.PidsRefused, below.PidsRefused)
	u.ThrottledUsec += below.ThrottledUsec
	return u, nil
}

// Rest gives the cgroup and the private directories back, until the next Start
// makes them anew; Usage goes on counting from where it was. Both stay where
// something lies in the directories: that is the vassal's until it removes it,
// and the memory in which it lies is charged to the cgroup. They also stay while
// anything of the vassal lives.
func (v *Vassal) Rest() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed || v.rests || len(v.live) > 0 || len(v.m.trees.pids(v.cgroup())) > 0 {
		return nil
	}
	if holds, err := v.holds(); err != nil || holds {
		return err
	}
	u, err := v.counted()
	if err != nil {
		return err
	}
	v.rests = true // whatever of it succeeds, the next start makes anew what is missing
	if err := errors.Join(v.m.trees.remove(v.cgroup()), v.removePrivate()); err != nil {
		return fmt.Errorf("rest: %w", err)
	}
	v.before.add(u)
	v.before.CPUUsec += u.CPUUsec
	v.gone = Usage{}
	return nil
}

// holds tells whether something lies in the private directories.
func (v *Vassal) holds() (bool, error) {
	for _, p := range private {
		d, err := os.Open(v.private(p.dir))
		if err != nil {
			return false, fmt.Errorf("private directories: %w", err)
		}
		_, err = d.Readdirnames(1)
		d.Close()
		if !errors.Is(err, io.EOF) {
			return true, err
		}
	}
	return false, nil
}

// Close removes the cgroup and the private directories with all that is in
// them. No Sandbox of the vassal lives any more.
func (v *Vassal) Close() error {
	v.mu.Lock()
	if n := len(v.live); n > 0 {
		v.mu.Unlock()
		return fmt.Errorf("close vassal %s: %d generations still live", v.name, n)
	}
	v.closed = true
	err := v.remove() // may take its time, and only this vassal waits
	v.mu.Unlock()
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	if v.m.vassals[v.name] == v {
		delete(v.m.vassals, v.name)
	}
	return err
}

func (v *Vassal) remove() error {
	v.lineMu.Lock()
	err := v.closeLine()
	v.lineMu.Unlock()
	return errors.Join(err, v.removePrivate(), v.m.trees.remove(v.cgroup()))
}

// removePrivate removes the private directories with all that is in them.
func (v *Vassal) removePrivate() error {
	if mounted, err := isMount(v.dir()); err == nil && mounted {
		if err := unix.Unmount(v.dir(), unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", v.dir(), err)
		}
	}
	v.size = 0
	// Only ever the empty mount point: a file system that is still mounted
	// makes this fail.
	if err := os.Remove(v.dir()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
