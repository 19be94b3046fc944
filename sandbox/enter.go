package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"liege/sandbox/stage"
)

// Guest is a command to run inside a sandbox beside its core.
type Guest struct {
	Program string // absolute, inside
	Args    []string
	Env     []string
	Dir     string
	// Root: as root of the sandbox instead of the vassal's user, with the few
	// capabilities of rootCaps and, under SELinux, in the domain of root hooks'
	// commands. The rest is the vassal's: namespaces, cgroup, limits,
	// no_new_privs and seccomp. Only where that is nobody on the host: in a user
	// namespace.
	Root bool

	// Console is a socket that is sent the near end of a new pseudo-terminal
	// of the sandbox's own, which the command has as its controlling terminal;
	// nil: it has the three descriptors instead.
	Console               *os.File
	Stdin, Stdout, Stderr *os.File
}

// ErrNotOurs is returned for a sandbox that an earlier Emperor started.
var ErrNotOurs = errors.New("it was started by an earlier Emperor")

// Enter runs g inside and returns its exit status. It goes through the same
// steps as the core: ids, capabilities, no_new_privs, seccomp, context, limits
// (KERNEL 41), as root too. When it ends, when ctx is done, or when the core ends, nothing
// that it started is left. An error says that the command was not run.
func (s *Sandbox) Enter(ctx context.Context, g Guest) (code int, err error) {
	if s.container == nil {
		return 0, ErrNotOurs
	}
	e := &entering{box: s, cgroup: fmt.Sprintf("enter-%d", s.guests.Add(1))}
	defer e.finish()
	if err := e.make(g); err != nil {
		return 0, fmt.Errorf("enter %s: %w", s.id, err)
	}
	return e.run(ctx)
}

// entering is one call of Enter.
type entering struct {
	box     *Sandbox
	cgroup  string // below the generation's
	process *libcontainer.Process
	status  *os.File
	own     []*os.File // that only the child needs
	plan    stage.Plan
}

func (e *entering) inner() string { return e.box.cgroup + "/" + e.cgroup }

// make makes what the command's stage is given.
func (e *entering) make(g Guest) error {
	p := e.box.plan
	p.Files, p.Hooks, p.Attach = stage.Donated{Guest: true}, nil, nil
	p.Env, p.Dir = g.Env, g.Dir
	p.OOMScore = min(e.box.score+workerWorse, dieFirst) // a worker's: the kernel kills it before the core
	if p.Landlock != nil {                              // a fence of its own, beside the core's: nobody could be ended from it
		beside := *p.Landlock
		beside.Signals, p.Landlock = true, &beside
	}
	reports := p.Context // after it was entered (KERNEL 7)
	if g.Root {
		if err := e.box.asRoot(&p); err != nil {
			return err
		}
		p.Exec, p.Args, reports = g.Program, g.Args, ""
	} else {
		p.Exec, p.Args = p.Through(g.Program, g.Args)
	}
	e.plan = p
	text, err := p.Encode()
	if err != nil {
		return err
	}
	plan, err := stage.Seal("liege-plan", text)
	if err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	e.own = append(e.own, plan)
	status, child, err := statusChannel(reports)
	if err != nil {
		return err
	}
	e.status, e.own = status, append(e.own, child)
	if err := e.makeCgroup(); err != nil {
		return err
	}
	args := stage.Argv(p.Files)
	args[0] = StagePath
	e.process = &libcontainer.Process{
		Args: args, Cwd: "/", ExtraFiles: []*os.File{plan, child}, SubCgroupPaths: map[string]string{"": e.cgroup},
		ConsoleSocket: g.Console,
	}
	if g.Console == nil {
		e.process.Stdin, e.process.Stdout, e.process.Stderr = g.Stdin, g.Stdout, g.Stderr
	}
	return nil
}

// rootCaps are what a guest that is root may do: with files, processes and ids
// inside the sandbox. They are those of its user namespace: over files of other ids
// than the vassal's they say nothing, and none leads out of its namespaces, nor to its
// mounts, its network or the kernel's settings.
var rootCaps = []capability.Cap{
	capability.CAP_CHOWN, capability.CAP_DAC_OVERRIDE, capability.CAP_FOWNER,
	capability.CAP_KILL, capability.CAP_SETGID, capability.CAP_SETUID, capability.CAP_SYS_PTRACE,
}

// ErrHostRoot is returned for a root guest of a sandbox whose root is root of the host.
// Whatever of the tenant's such a guest is made to run has the host's root to give: by
// descriptors that are handed in from outside, by what the tenant's file binds, by what
// is left in the app's directory. No filter was found that leaves nothing open.
var ErrHostRoot = errors.New("root inside would be root of the host")

// asRoot makes p that of a guest that is root of the sandbox's user namespace. Landlock
// would keep it from looking into processes that are fenced in beside it, and is about
// what the vassal's user may do.
func (s *Sandbox) asRoot(p *stage.Plan) error {
	if s.users.hostUID(0) == 0 {
		return ErrHostRoot
	}
	have, err := ownCaps()
	if err != nil {
		return err
	}
	p.UID, p.GID, p.Groups, p.Caps, p.Umask, p.Landlock = 0, 0, []int{}, nil, 0o022, nil
	for _, c := range rootCaps {
		if slices.Contains(have, capName(c)) {
			p.Caps = append(p.Caps, int(c))
		}
	}
	p.Context, p.ByExec = p.HookCon, p.HookCon != ""
	return nil
}

// run runs the command until it ends. libcontainer takes no context, here as in
// clone.
func (e *entering) run(ctx context.Context) (code int, err error) {
	started := make(chan error, 1)
	go func() { started <- e.box.container.Start(e.process) }()
	if err := e.wait(ctx, started); err != nil {
		return 0, fmt.Errorf("enter %s: %w", e.box.id, &initError{err})
	}
	e.closeOwn()
	var state *os.ProcessState
	ended := make(chan error, 1)
	go func() {
		var err error
		state, err = e.process.Wait() // a status other than 0 is an error too
		ended <- err
	}()
	err = e.wait(ctx, ended)
	if f := e.failure(); f != nil {
		return 0, f
	}
	if state == nil {
		return 0, fmt.Errorf("enter %s: %w", e.box.id, err)
	}
	ws := state.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return ws.ExitStatus(), nil
}

// wait waits for done, and from when ctx is done on kills what there is.
func (e *entering) wait(ctx context.Context, done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	for {
		_ = e.box.m.trees.kill(e.inner()) // until it has ended
		select {
		case err := <-done:
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// failure is what the stage reported, if it did not become the command.
func (e *entering) failure() *stage.Failure {
	buf := make([]byte, stage.MaxFailure+1)
	n, _, err := unix.Recvfrom(int(e.status.Fd()), buf, unix.MSG_DONTWAIT)
	if err != nil || n <= 0 {
		return nil
	}
	return stage.ParseFailure(buf[:n], &e.plan)
}

func (e *entering) closeOwn() {
	for _, f := range e.own {
		f.Close()
	}
	e.own = nil
}

// makeCgroup makes the command's cgroup while the generation's is there: once
// the core has ended, that is removed with all that is below it.
func (e *entering) makeCgroup() error {
	e.box.mu.Lock()
	defer e.box.mu.Unlock()
	if e.box.pidfd < 0 {
		return errors.New("its core has just ended")
	}
	return e.box.m.trees.makeBelow(e.inner())
}

// leftTime is how long what a command left may take to die.
const leftTime = 10 * time.Second

// finish ends what the command left behind.
func (e *entering) finish() {
	e.closeOwn()
	if e.status != nil {
		e.status.Close()
	}
	err := e.box.m.trees.emptyBy(e.inner(), time.Now().Add(leftTime))
	if err := errors.Join(err, e.box.m.trees.remove(e.inner())); err != nil {
		e.box.m.warn("left behind by a command", e.box, err)
	}
}
