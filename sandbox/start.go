package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"liege/sandbox/network"
	"liege/sandbox/stage"
	"liege/selinux"
	"liege/vassal"
)

// starting is one call of Start: what must be undone or closed at its end.
type starting struct {
	ctx  context.Context // of Start, for what runs inside libcontainer's
	m    *Manager
	v    *Vassal
	spec Spec
	box  *Sandbox
	root string       // the composed root, on the host for the time of the start
	gate *Gate        // until it has an owner
	line *network.Net // nil: no way out
	own  []*os.File   // descriptors that only the child needs
	undo []func() error
}

// Start starts spec. It returns when the stage has been executed, or has
// failed to be, or ctx is done; in the last two cases nothing is left behind.
func (m *Manager) Start(ctx context.Context, spec Spec) (_ *Sandbox, err error) {
	v, err := m.Vassal(spec.Name)
	if err != nil {
		return nil, err
	}
	if err := checkSpec(&spec); err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.ID, err)
	}
	spec.Plan.Attach = slices.Clone(spec.Plan.Attach)
	spec.Detached = slices.Clone(spec.Detached)
	st := &starting{ctx: ctx, m: m, v: v, spec: spec, box: &Sandbox{
		m: m, v: v, id: spec.ID, gen: spec.Gen, hostNet: spec.HostNet, timeNS: spec.TimeNS, users: spec.Users, bare: spec.Bare, memory: spec.Limits.MemoryMax, relays: len(spec.Doors.All) > 0,
		cgroup:  v.generation(spec.Gen),
		failure: make(chan *stage.Failure, 1),
		reading: make(chan struct{}),
		ended:   make(chan struct{}),
		done:    make(chan struct{}),
		pidfd:   -1,
	}}
	err = st.run(ctx)
	for _, f := range st.own {
		f.Close()
	}
	if err == nil {
		return st.box, nil
	}
	for _, undo := range slices.Backward(st.undo) {
		err = errors.Join(err, undo())
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%w; %w", context.Cause(ctx), err)
	}
	return nil, fmt.Errorf("start %s: %w", spec.ID, err)
}

// looksUp says which path of the host is looked up from now on.
func (st *starting) looksUp(source string) {
	if st.spec.At != nil {
		st.spec.At(source)
	}
}

func checkSpec(spec *Spec) error {
	switch {
	case !idBytes.MatchString(spec.ID) || len(spec.ID) > 255:
		return errors.New("bad id")
	case spec.Gen < 1:
		return errors.New("generations count from 1")
	case spec.App == nil || spec.Control == nil:
		return errors.New("app and control are needed")
	}
	for i, a := range spec.Plan.Attach {
		if a.Mount < 0 || a.Mount >= len(spec.Detached) {
			return fmt.Errorf("attach %d: no mount %d", i, a.Mount)
		}
	}
	return nil
}

func (st *starting) run(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := st.v.begin(st.box, st.spec.Limits, st.spec.Ceilings, st.spec.MountLabel); err != nil {
		return err
	}
	if st.box.score = st.spec.Plan.OOMScore; st.box.second {
		st.spec.Plan.OOMScore = dieFirst
	}
	st.undo = append(st.undo, func() error { return st.v.end(st.box, Usage{}) })
	if err := st.emperorHooks(vassal.BeforeVassal); err != nil {
		return err
	}
	if err := st.makeGate(); err != nil {
		return err
	}
	if err := st.makeRoot(); err != nil {
		return err
	}
	status, files, err := st.donate()
	if err != nil {
		return err
	}
	st.undo = append(st.undo, status.Close)
	cfg, err := st.config()
	if err != nil {
		return err
	}
	st.undo = append(st.undo, func() error {
		return errors.Join(st.v.hangUp(st.box), st.m.trees.remove(st.box.cgroup), st.m.removeState(st.spec.ID))
	})
	st.box.container, err = libcontainer.Create(st.m.stateDir(), st.spec.ID, cfg)
	if err != nil {
		return err
	}
	st.box.process = st.newProcess(files)
	if err := st.clone(ctx); err != nil {
		if f := reported(status); f != nil && ctx.Err() == nil {
			return f
		}
		return err
	}
	// From here on the box has a process, and its supervisor undoes the rest.
	st.undo = st.undo[:0]
	st.undo = append(st.undo, st.giveUp)
	st.m.running.Add(1)
	go st.box.waitProcess()
	st.box.status = status
	go st.box.readFailure()
	go st.box.supervise()
	err = errors.Join(st.restoreStdout(), st.dropRoot(), st.harden())
	cfg.Rootfs = "/" // that was only there for the start; libcontainer begins Enter in it
	if err == nil {
		err = st.release(ctx)
	}
	return err
}

func (st *starting) newProcess(files []*os.File) *libcontainer.Process {
	args := stage.Argv(st.spec.Plan.Files)
	args[0] = StagePath // libcontainer executes what it is called
	p := &libcontainer.Process{
		Args:       args,
		Env:        []string{"GOMAXPROCS=1"}, // it has one thread that does anything
		Cwd:        "/",
		ExtraFiles: files,
		Init:       true,
	}
	if st.spec.Stdout != nil {
		p.Stdout, p.Stderr = st.spec.Stdout, st.spec.Stdout
	}
	return p
}

// donate makes the plan and the status channel and puts the descriptors into
// the order of stage.Donated.
func (st *starting) donate() (status *os.File, files []*os.File, err error) {
	spec := &st.spec
	spec.Plan.Files = stage.Donated{Listeners: len(spec.Listeners), Mounts: len(spec.Detached)}
	hooks, err := st.donateHooks()
	if err != nil {
		return nil, nil, err
	}
	st.box.plan = spec.Plan
	text, err := spec.Plan.Encode()
	if err != nil {
		return nil, nil, err
	}
	plan, err := stage.Seal("liege-plan", text)
	if err != nil {
		return nil, nil, fmt.Errorf("plan: %w", err)
	}
	st.own = append(st.own, plan)
	status, child, err := statusChannel(spec.Plan.Context)
	if err != nil {
		return nil, nil, err
	}
	st.own = append(st.own, child)
	files = slices.Concat(spec.Listeners, []*os.File{spec.Control, spec.App, plan, child}, spec.Detached, hooks)
	return status, files, nil
}

// statusChannel is a channel on which a stage reports; context is what it may
// have become by then.
func statusChannel(context string) (status, child *os.File, err error) {
	var pair [2]int
	err = selinux.Sockets(context, func() (err error) { // what fails in that domain is reported too (KERNEL 7)
		pair, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("status channel: %w", err)
	}
	status = os.NewFile(uintptr(pair[0]), "status")
	child = os.NewFile(uintptr(pair[1]), "status of the stage")
	// The stage's end blocks, as it expects of any descriptor.
	if err := unix.SetNonblock(pair[1], false); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("status channel: %w", err), status.Close(), child.Close())
	}
	return status, child, nil
}

// clone runs libcontainer until its init waits for the word to execute the
// stage. libcontainer takes no context: when ctx ends, everything in the
// cgroup is killed until it gives up.
func (st *starting) clone(ctx context.Context) error {
	errc := make(chan error, 1)
	go func() { errc <- st.box.container.Start(st.box.process) }()
	var err error
	select {
	case err = <-errc:
	case <-ctx.Done():
		for waiting := true; waiting; {
			_ = st.box.Kill() // until Start has returned
			select {
			case err = <-errc:
				waiting = false
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	if err != nil {
		return st.translate(err)
	}
	st.box.pid, err = st.box.process.Pid()
	if err != nil {
		return err
	}
	// The process is our child and not waited for: the number is its own.
	if st.box.pidfd, err = unix.PidfdOpen(st.box.pid, 0); err != nil {
		_ = st.box.Kill() // and is reaped here
		_, werr := st.box.process.Wait()
		return errors.Join(os.NewSyscallError("pidfd_open", err), werr)
	}
	return nil
}

// giveUp ends a start that had got as far as a process.
func (st *starting) giveUp() error {
	err := st.box.Kill()
	<-st.box.done
	return errors.Join(err, st.dropRoot())
}

// restoreStdout gives the log back to its owner: libcontainer hands the
// standard descriptors to root, but a vassal opens its own /dev/stderr.
func (st *starting) restoreStdout() error {
	if st.spec.Stdout == nil || st.box.logOwner == nil {
		return nil
	}
	return os.NewSyscallError("fchown", unix.Fchown(int(st.spec.Stdout.Fd()), int(st.box.logOwner.Uid), int(st.box.logOwner.Gid)))
}

// release lets the init execute the stage: it waits for a reader of its fifo
// and writes one byte. A reader that is a writer too never waits to be opened,
// so an init that died meanwhile leaves nobody stuck (KERNEL 32).
func (st *starting) release(ctx context.Context) error {
	path := filepath.Join(st.m.stateDir(), st.spec.ID, "exec.fifo")
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("exec fifo: %w", err)
	}
	defer f.Close()
	const executed, gone = '0', 'x'
	got := make(chan byte, 1)
	go func() {
		b := []byte{gone}
		_, _ = f.Read(b) // closed when ctx is done
		got <- b[0]
	}()
	select {
	case b := <-got:
		return errors.Join(ifGone(b != executed), removeFifo(path))
	case <-ctx.Done():
		f.Close()
		<-got
		return errors.New("given up")
	case <-st.box.ended:
		// The stage may have run and ended already: then the init's byte
		// is before ours.
		if _, err := f.Write([]byte{gone}); err != nil {
			f.Close()
		}
		return errors.Join(ifGone(<-got != executed), removeFifo(path))
	}
}

// removeFifo removes the fifo, unless the supervisor of a process that ended
// at once has been faster and removed all of its state.
func removeFifo(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func ifGone(gone bool) error {
	if gone {
		return errors.New("the first process ended before the stage ran")
	}
	return nil
}

func (m *Manager) removeState(id string) error {
	return os.RemoveAll(filepath.Join(m.stateDir(), id))
}

// waitProcess waits for the first process, which is our child.
func (s *Sandbox) waitProcess() {
	defer close(s.ended)
	s.state, _ = s.process.Wait() // a status other than 0 is an error too
}

// readFailure reads the one packet that the stage may send.
func (s *Sandbox) readFailure() {
	defer close(s.reading)
	defer s.status.Close()
	buf := make([]byte, stage.MaxFailure+1)
	n, err := s.status.Read(buf)
	if err != nil || n == 0 {
		return // end of file means nothing
	}
	s.failure <- stage.ParseFailure(buf[:n], &s.plan)
}
