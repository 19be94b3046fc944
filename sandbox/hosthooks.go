package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"liege/sandbox/stage"
	"liege/vassal"
)

// HostHooks are hooks of root's outside of a sandbox, and with what they run.
type HostHooks struct {
	ID     string // names their cgroup: what is running under it is not run again meanwhile
	Plan   stage.HostPlan
	Output *os.File // what they print
}

// RunHooks runs hooks in the Emperor's namespaces, outside the guarded cgroup
// and in one of their own, and returns when nothing of them is left. Those of a
// phase whose failures are only told come back as failures; err is the one that
// ended it. When ctx is done, what runs is killed.
func (m *Manager) RunHooks(ctx context.Context, h HostHooks) (told []*stage.Failure, err error) {
	if len(h.Plan.Hooks) == 0 {
		return nil, nil
	}
	cmd, status, own, err := m.hookStage(ctx, &h)
	for _, f := range own {
		defer f.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("hooks: %w", err)
	}
	leave, err := m.hookCgroup(cmd, h.ID)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("hooks: %w", err), status.Close())
	}
	defer func() { err = errors.Join(err, leave()) }()
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("hooks: %w", err), status.Close())
	}
	for _, f := range own {
		f.Close() // the child has its own; its end of the channel must end with it
	}
	told = readFailures(status)
	werr := cmd.Wait()
	if ctx.Err() != nil {
		return told, errors.Join(fmt.Errorf("hooks: %w", context.Cause(ctx)), closed(status.Close()))
	}
	if err := status.Close(); err != nil {
		return told, fmt.Errorf("hooks: %w", err)
	}
	if n := len(told); werr != nil && n > 0 {
		return told[:n-1], told[n-1]
	}
	if werr != nil {
		return told, fmt.Errorf("hooks: %s: %w", filepath.Base(m.cfg.Stage), werr)
	}
	return told, nil
}

// stageMercy is how long a stage has to end what its hooks left, once it was
// told.
const stageMercy = 5 * time.Second

// hookStage is a stage that will run h. The files are the caller's to close.
func (m *Manager) hookStage(ctx context.Context, h *HostHooks) (cmd *exec.Cmd, status *os.File, own []*os.File, err error) {
	plan, err := sealHooks(&h.Plan)
	if err != nil {
		return nil, nil, nil, err
	}
	own = append(own, plan)
	status, child, err := statusChannel("")
	if err != nil {
		return nil, nil, own, err
	}
	own = append(own, child)
	cmd = exec.CommandContext(ctx, m.cfg.Stage)
	cmd.Args, cmd.Env, cmd.Dir = stage.HostArgv(stage.FirstFD, stage.FirstFD+1, 1), []string{}, "/"
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = h.Output, h.Output, []*os.File{plan, child}
	// The stage sees that nobody listens any more and ends what it runs.
	cmd.Cancel, cmd.WaitDelay = status.Close, stageMercy
	return cmd, status, own, nil
}

// closed drops the error that says that it was closed already.
func closed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

func sealHooks(p *stage.HostPlan) (*os.File, error) {
	text, err := p.Encode()
	if err != nil {
		return nil, err
	}
	return stage.Seal("liege-hooks", text)
}

// hookCgroup makes cmd start in a cgroup of its own, where there can be one.
// leave ends what is left in it.
func (m *Manager) hookCgroup(cmd *exec.Cmd, id string) (leave func() error, err error) {
	if m.hooks == nil {
		return func() error { return nil }, nil
	}
	inner := m.outside() + "/" + id
	dir := m.trees.procsDir(inner)
	err = os.Mkdir(dir, 0o755)
	if errors.Is(err, os.ErrExist) { // of an Emperor that was killed
		err = m.trees.emptyBy(inner, time.Now().Add(sweepTime))
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, errors.Join(err, rmdir(dir))
	}
	cmd.SysProcAttr = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	return func() error {
		err := m.trees.emptyBy(inner, time.Now().Add(sweepTime))
		return errors.Join(err, f.Close(), rmdir(dir))
	}, nil
}

// readFailures reads what the stage reports until it has ended.
func readFailures(status io.Reader) (all []*stage.Failure) {
	buf := make([]byte, stage.MaxFailure+1)
	for {
		n, err := status.Read(buf)
		if err != nil || n == 0 {
			return all
		}
		all = append(all, stage.ParseFailure(buf[:n], nil))
	}
}

// at returns the hooks of the Spec that run at a place, for a HostPlan.
func (st *starting) at(place vassal.Place, proc string, env ...string) stage.HostPlan {
	p := &st.spec.Plan
	h := stage.HostPlan{HookTime: p.HookTime, HookEnv: slices.Concat(p.HookEnv, env), Own: p.Own, HookCon: p.HookCon, Proc: proc}
	for _, hook := range st.spec.HostHooks {
		if hook.Phase.Place() == place {
			h.Hooks = append(h.Hooks, hook)
		}
	}
	return h
}

// emperorHooks runs those of one phase in the Emperor's namespaces.
func (st *starting) emperorHooks(phase vassal.Phase, env ...string) error {
	plan := st.at(vassal.AtEmperor, "/proc", env...)
	plan.Hooks = slices.DeleteFunc(plan.Hooks, func(h vassal.Hook) bool { return h.Phase != phase })
	told, err := st.m.RunHooks(st.ctx, HostHooks{ID: st.spec.ID, Plan: plan, Output: st.spec.Stdout})
	if st.spec.Told != nil {
		for _, f := range told {
			st.spec.Told(f)
		}
	}
	return err
}

// jailHooks is libcontainer's wish to run the stage inside the namespaces,
// before the root is entered; nothing where there are no such hooks.
func (st *starting) jailHooks() configs.HookList {
	d := st.spec.Plan.Files
	if !d.Host {
		return nil
	}
	return configs.HookList{configs.NewCommandHook(&configs.Command{
		Path: st.m.cfg.Stage, Args: stage.HostArgv(d.HostPlan(), d.Status(), d.HostLog()), Env: []string{},
	})}
}

// donateHooks makes what jailHooks hands to the stage.
func (st *starting) donateHooks() ([]*os.File, error) {
	plan := st.at(vassal.AtHost, filepath.Join(st.root, "proc"), rootEnv(st.root))
	if len(plan.Hooks) == 0 {
		return nil, nil
	}
	sealed, err := sealHooks(&plan)
	if err != nil {
		return nil, fmt.Errorf("hooks: %w", err)
	}
	st.own = append(st.own, sealed)
	log := st.spec.Stdout
	if log == nil {
		log, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("hooks: %w", err)
		}
		st.own = append(st.own, log)
	}
	st.spec.Plan.Files.Host = true
	return []*os.File{sealed, log}, nil
}

// rootEnv tells a hook where on the host the vassal's root is put together.
func rootEnv(root string) string { return "LIEGE_ROOT=" + root }

// reported is what the stage reported before it became the vassal's first
// program; nil: nothing.
func reported(status *os.File) error {
	buf := make([]byte, stage.MaxFailure+1)
	n, _, err := unix.Recvfrom(int(status.Fd()), buf, unix.MSG_DONTWAIT)
	if err != nil || n <= 0 {
		return nil
	}
	return stage.ParseFailure(buf[:n], nil)
}
