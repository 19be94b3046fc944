package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"liege/sandbox/network"
	"liege/sandbox/stage"
	"liege/vassal"
)

// Record names a generation so that the next Emperor finds it (KERNEL 19).
type Record struct {
	ID         string            `json:"id"`
	Name       vassal.Name       `json:"name"`
	Gen        int               `json:"gen"`
	PID        int               `json:"pid"`
	StartTime  uint64            `json:"start_time"` // clock ticks since boot
	Cgroup     string            `json:"cgroup"`     // inside every hierarchy
	Namespaces map[string]string `json:"namespaces"`
	HostNet    bool              `json:"host_net"`
	Bare       bool              `json:"bare,omitempty"`
	Second     bool              `json:"second,omitempty"` // to be levelled once it serves
	Score      int               `json:"oom_score_adj,omitempty"`
	Addresses  network.Addresses `json:"addresses,omitzero"` // of net = nat
}

// Record describes the sandbox for Adopt.
func (s *Sandbox) Record() Record {
	return Record{
		ID: s.id, Name: s.v.name, Gen: s.gen, PID: s.pid, StartTime: s.start,
		Cgroup: s.cgroup, Namespaces: s.spaces, HostNet: s.hostNet, Bare: s.bare, Second: s.second, Score: s.score,
		Addresses: s.addresses,
	}
}

// Adopt takes over a generation that a killed Emperor left, so that it can be
// signalled, killed and waited for. How it ends stays unknown: it is not our
// child. plan and limits are what it was started with, for Verify and for
// Vassal.Settle; the vassal's cgroup stays as it is. A Record that does not describe a live process in this
// node's cgroup is an error: use Sweep first and keep it.
func (m *Manager) Adopt(r Record, plan stage.Plan, limits vassal.Limits) (*Sandbox, error) {
	v, err := m.Vassal(r.Name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.PidfdOpen(r.PID, 0)
	if err != nil {
		return nil, fmt.Errorf("adopt %s: process %d: %w", r.ID, r.PID, err)
	}
	start, err := startTime(r.PID)
	switch {
	case err != nil:
	case start != r.StartTime:
		err = fmt.Errorf("process %d is another one now", r.PID)
	case r.Cgroup != v.generation(r.Gen) || !slices.Contains(m.trees.pids(r.Cgroup), r.PID):
		err = fmt.Errorf("process %d, in %s: %w", r.PID, r.Cgroup, ErrElsewhere)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("adopt %s: %w", r.ID, err)
	}
	s := &Sandbox{
		m: m, v: v, id: r.ID, gen: r.Gen, cgroup: r.Cgroup, plan: plan, hostNet: r.HostNet, bare: r.Bare, second: r.Second, score: r.Score, memory: limits.MemoryMax,
		pid: r.PID, start: r.StartTime, spaces: r.Namespaces, pidfd: fd,
		failure: make(chan *stage.Failure, 1), reading: make(chan struct{}),
		ended: make(chan struct{}), done: make(chan struct{}),
	}
	close(s.reading)
	if err := v.adopt(s, limits); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("adopt %s: %w", r.ID, err)
	}
	if err := v.adoptLine(s, r.Addresses); err != nil {
		m.warn("its network is not as it was", s, err)
	}
	m.running.Add(1)
	go s.pollProcess()
	go s.supervise()
	return s, nil
}

// ErrElsewhere is wrapped by Adopt's error about a process that is the recorded
// one, but in another cgroup than this Emperor's vassals are in.
var ErrElsewhere = errors.New("is in another cgroup than this Emperor's vassals")

// Discard ends a generation that an earlier Emperor left in another cgroup
// (ErrElsewhere). It touches nothing unless the record still describes it.
func (m *Manager) Discard(r Record) error {
	start, err := startTime(r.PID)
	if err != nil || start != r.StartTime {
		return nil // it is gone
	}
	v := &Vassal{m: m, name: r.Name}
	if !strings.HasSuffix(r.Cgroup, fmt.Sprintf("/%s/g%d", v.name.Dir(), r.Gen)) || !slices.Contains(m.trees.pids(r.Cgroup), r.PID) {
		return fmt.Errorf("process %d is not in cgroup %s, where its record has it", r.PID, r.Cgroup)
	}
	return errors.Join(m.trees.emptyBy(r.Cgroup, time.Now().Add(sweepTime)), m.trees.remove(r.Cgroup), m.removeState(r.ID), os.RemoveAll(m.nodesDir(v.gateID(r.Gen))))
}

// pollProcess waits for a first process that is not our child.
func (s *Sandbox) pollProcess() {
	defer close(s.ended)
	fds := []unix.PollFd{{Fd: int32(s.pidfd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// Sweep removes what a killed Emperor left below this node and run directory:
// processes, cgroups, mounts and state. Generations for which keep says true
// are spared, for Adopt. Call it once, before the first Start. What does not
// die soon stays, with its cgroup, and is an error: an Emperor must be able to
// start although a process of one vassal hangs in the kernel.
func (m *Manager) Sweep(keep func(name vassal.Name, gen int) bool) error {
	var errs []error
	end := time.Now().Add(sweepTime)
	m.killOrphans(m.leaf())
	m.killOrphans(m.outside())
	if m.hooks != nil {
		for _, id := range entries(m.trees.procsDir(m.outside())) {
			_ = unix.Rmdir(filepath.Join(m.trees.procsDir(m.outside()), id)) // ENOTDIR: a file of the cgroup's
		}
	}
	kept := map[string]bool{}
	for name, gens := range m.found() {
		spared := 0
		for _, gen := range gens {
			if keep(name, gen) {
				kept[fmt.Sprintf("%s-g%d", name, gen)] = true
				spared++
				continue
			}
			inner := fmt.Sprintf("%s/%s/g%d", m.all(), name.Dir(), gen)
			if err := m.trees.emptyBy(inner, end); err != nil {
				errs = append(errs, err)
				spared++ // its vassal's cgroup cannot go either
				continue
			}
			errs = append(errs, m.trees.remove(inner))
		}
		errs = append(errs, m.sweepGates(name, func(gen int) bool { return kept[fmt.Sprintf("%s-g%d", name, gen)] }, end))
		if spared == 0 {
			errs = append(errs, m.sweepVassal(name, end))
		} else {
			kept[name.Dir()] = true
		}
	}
	return errors.Join(append(errs, m.sweepDirs(kept))...)
}

// found lists what is in the cgroup tree, the truth about what is left.
func (m *Manager) found() map[vassal.Name][]int {
	out := map[vassal.Name][]int{}
	for _, mount := range m.trees.mounts {
		top := filepath.Join(mount, m.all())
		for _, dir := range below(top) {
			rel := strings.Split(strings.TrimPrefix(strings.TrimPrefix(dir, top), "/"), "/")
			name, ok := strings.CutPrefix(rel[0], "v-")
			if !ok {
				continue
			}
			n := vassal.Name(name)
			if _, ok := out[n]; !ok {
				out[n] = nil
			}
			if len(rel) == 2 {
				gen, err := strconv.Atoi(strings.TrimPrefix(rel[1], "g"))
				if err == nil && !slices.Contains(out[n], gen) {
					out[n] = append(out[n], gen)
				}
			}
		}
	}
	return out
}

func (m *Manager) sweepVassal(name vassal.Name, end time.Time) error {
	v := &Vassal{m: m, name: name}
	if err := m.trees.emptyBy(v.cgroup(), end); err != nil {
		return err
	}
	return v.remove()
}

// sweepDirs removes libcontainer's state, roots of starts in flight and the
// private directories of vassals that have no cgroup any more.
func (m *Manager) sweepDirs(kept map[string]bool) error {
	var errs []error
	for _, id := range entries(m.stateDir()) {
		if !kept[id] {
			errs = append(errs, m.removeState(id))
		}
	}
	for _, id := range entries(m.doorsDir()) {
		if !kept[id] {
			errs = append(errs, os.RemoveAll(m.nodesDir(id)))
		}
	}
	for _, id := range entries(m.rootDir()) {
		errs = append(errs, (&starting{m: m, root: filepath.Join(m.rootDir(), id)}).dropRoot())
	}
	if _, err := os.Stat(m.netDir()); err == nil {
		errs = append(errs, network.Sweep(m.netDir(), func(name string) bool { return kept[name] }))
	}
	for _, d := range entries(m.dir) {
		name, ok := strings.CutPrefix(d, "v-")
		if ok && !kept[d] {
			errs = append(errs, (&Vassal{m: m, name: vassal.Name(name)}).remove())
		}
	}
	return errors.Join(errs...)
}

func entries(dir string) []string {
	var names []string
	es, _ := os.ReadDir(dir)
	for _, e := range es {
		names = append(names, e.Name())
	}
	return names
}

// killOrphans ends what a killed Emperor left in the cgroup: hook commands,
// and an init that had not been moved on yet. Nothing that descends from this
// process is touched.
func (m *Manager) killOrphans(inner string) {
	if m.trees.unified == "" {
		return
	}
	for _, pid := range m.trees.pids(inner) {
		if !descends(pid) {
			if err := m.trees.killOne(inner, pid); err != nil && m.cfg.Log != nil {
				m.cfg.Log.Warn("an orphan stays", "pid", pid, "err", err)
			}
		}
	}
}

func descends(pid int) bool {
	for pid > 1 {
		if pid == os.Getpid() {
			return true
		}
		status, err := readStatus(pid)
		if err != nil {
			return true // it is gone: nothing to kill
		}
		if pid, err = strconv.Atoi(status["PPid"]); err != nil {
			return true
		}
	}
	return false
}
