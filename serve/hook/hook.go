// Package hook runs the hooks of an application's life: from before it is
// loaded to after its last worker has ended. They are the vassal's own, with
// its rights and no others: the core runs as its user, and a command is started
// as every other program of the vassal is.
//
//	r, err := hook.New(app, pool, out, log)
//	err = r.Run(ctx, vassal.PreApp)
//
// A hook has its time; a command that takes longer is killed with its process
// group. What a command leaves behind ends with the core.
package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"liege/serve/worker"
	"liege/vassal"
	"liege/vassal/action"
)

// Pool is what hooks need of the application: worker.Pool.
type Pool interface {
	Start(*worker.Program) (worker.Process, error)
	Environ() []string
	Call(ctx context.Context, function string, args []string) (string, error)
}

// Runner runs the hooks of one App. Make one with New; it is safe for
// concurrent use, and runs one phase at a time.
type Runner struct {
	hooks []vassal.Hook
	limit time.Duration
	pool  Pool
	out   io.Writer // what print says
	log   *slog.Logger

	// Alarm raises an alarm; nil: hooks cannot.
	Alarm func(name, text string)

	busy chan struct{} // holds one while a phase runs
	base string        // the application's directory

	dir string   // of cd
	env []string // of putenv
}

// Default is how long a hook may take where the App does not say.
const Default = 120 * time.Second

// New returns the Runner of app's hooks; nil, which has none, where there are
// none.
func New(app *vassal.App, pool Pool, out io.Writer, log *slog.Logger) *Runner {
	if len(app.Hooks) == 0 {
		return nil
	}
	r := &Runner{hooks: app.Hooks, limit: app.HookTime, pool: pool, out: out, log: log, busy: make(chan struct{}, 1), base: app.Dir}
	if r.limit <= 0 {
		r.limit = Default
	}
	if r.base == "" {
		r.base = "/"
	}
	r.dir = r.base
	return r
}

// Has reports whether there are hooks of a phase.
func (r *Runner) Has(phases ...vassal.Phase) bool {
	if r == nil {
		return false
	}
	for _, h := range r.hooks {
		for _, p := range phases {
			if h.Phase == p {
				return true
			}
		}
	}
	return false
}

// Run runs the hooks of a phase in their order. The first that fails ends it
// with a *vassal.Problem, if the phase is one whose failures matter; else they
// are logged. env are further variables of commands.
func (r *Runner) Run(ctx context.Context, phase vassal.Phase, env ...string) error {
	if r == nil {
		return nil
	}
	return r.run(ctx, func(h *vassal.Hook) bool { return h.Phase == phase }, env)
}

func (r *Runner) run(ctx context.Context, which func(*vassal.Hook) bool, env []string) error {
	select {
	case r.busy <- struct{}{}:
		defer func() { <-r.busy }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for i := range r.hooks {
		h := &r.hooks[i]
		if !which(h) {
			continue
		}
		err := r.one(ctx, h, env)
		if err == nil {
			continue
		}
		problem := explain(h, err)
		if h.Phase.Fatal() {
			return problem
		}
		r.log.Warn("a hook failed", "err", problem)
	}
	return nil
}

// one runs one hook within its time.
func (r *Runner) one(ctx context.Context, h *vassal.Hook, env []string) error {
	limit := r.limit
	if h.Time > 0 {
		limit = time.Duration(h.Time) * time.Second
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("took longer than %v", limit))
	defer cancel()
	c, err := action.Parse(*h)
	if err != nil {
		return err
	}
	err = r.do(ctx, c, env)
	if err != nil && c.Ignored && ctx.Err() == nil {
		r.log.Info("a hook failed; it does not matter", "err", explain(h, err))
		return nil
	}
	return err
}

// explain names the hook; of a private one nothing that quotes its argument.
func explain(h *vassal.Hook, err error) *vassal.Problem {
	what, msg := h.Arg, err.Error()
	if strings.HasPrefix(h.Option(), "hook-") {
		what = h.Action + ":" + h.Arg
	}
	if h.Private {
		what = "!" + h.Action + ":…"
		if errno, ok := errors.AsType[syscall.Errno](err); ok {
			msg = errno.Error()
		} else if h.Action != string(action.Exec) {
			msg = "does not work"
		}
	}
	if len(what) > 200 {
		what = what[:200] + "…"
	}
	return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeHookFailed, File: h.At.File, Line: h.At.Line,
		Key: h.Option(), Step: "hook " + string(h.Phase), Message: what + ": " + msg}
}

// do runs one action, while nobody else does.
func (r *Runner) do(ctx context.Context, c action.Call, env []string) error {
	switch c.Kind {
	case action.Exec, action.Safeexec:
		return r.command(ctx, c.Text, env)
	case action.Print:
		_, err := fmt.Fprintln(r.out, c.Text)
		return err
	case action.Putenv:
		r.env = append(r.env, c.Text)
		return nil
	case action.Cd:
		return r.enter(c.Path)
	case action.Exit:
		return fmt.Errorf("ends the start, as it says: status %d", c.Code)
	case action.RPC:
		_, err := r.pool.Call(ctx, c.Text, c.Args)
		return err
	case action.RetryRPC:
		return again(ctx, func() (bool, error) {
			_, err := r.pool.Call(ctx, c.Text, c.Args)
			return err == nil, err
		})
	case action.Alarm:
		if r.Alarm == nil {
			return errors.New("there are no alarms")
		}
		r.Alarm(c.Path, c.Text)
		return nil
	case action.WaitSocket:
		return again(ctx, func() (bool, error) { return accepts(ctx, c.Text) })
	case action.WaitFS, action.WaitFile, action.WaitDir, action.WaitMount:
		return again(ctx, func() (bool, error) { return there(c.Kind, r.abs(c.Path)) })
	case action.SpinFIFO:
		return again(ctx, func() (bool, error) {
			err := c.Plain(r.dir)
			return err == nil, err
		})
	case action.WriteFIFO:
		if err := c.Plain(r.dir); !errors.Is(err, action.ErrNobodyReads) {
			return err
		}
		return nil
	}
	return c.Plain(r.dir)
}

func (r *Runner) abs(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(r.dir, path)
}

// enter changes the directory of the hooks that follow, not the core's.
func (r *Runner) enter(path string) error {
	path = r.abs(path)
	if st, err := os.Stat(path); err != nil {
		return err
	} else if !st.IsDir() {
		return fmt.Errorf("%s: %w", path, syscall.ENOTDIR)
	}
	r.dir = path
	return nil
}

// command runs a shell command to its end.
func (r *Runner) command(ctx context.Context, text string, env []string) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	all := append(append(r.pool.Environ(), env...), r.env...)
	p, err := r.pool.Start(&worker.Program{Path: "/bin/sh", Argv: []string{"sh", "-c", text}, Env: all, Dir: r.dir, Files: [3]*os.File{null, os.Stderr, os.Stderr}})
	if err != nil {
		return err
	}
	var ws syscall.WaitStatus
	select {
	case ws = <-p.Status:
	case <-ctx.Done():
		p.Kill()
		<-p.Status
		return fmt.Errorf("%w and was killed", context.Cause(ctx))
	}
	switch {
	case ws.Signaled():
		return fmt.Errorf("was killed by %s", unix.SignalName(ws.Signal()))
	case ws.ExitStatus() != 0:
		return fmt.Errorf("exit status %d", ws.ExitStatus())
	}
	return nil
}

// pause is between two tries of what waits.
const pause = 50 * time.Millisecond

// again tries until it works, or the time is over: then with the last error.
func again(ctx context.Context, try func() (bool, error)) error {
	t := time.NewTicker(pause)
	defer t.Stop()
	for {
		ok, err := try()
		if ok {
			return nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// accepts reports whether somebody accepts a connection at a path or an
// address.
func accepts(ctx context.Context, address string) (bool, error) {
	network := "tcp"
	if strings.HasPrefix(address, "/") || strings.HasPrefix(address, "@") {
		network = "unix"
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return false, err
	}
	return true, c.Close()
}

// there reports whether what is waited for is at path.
func there(kind action.Kind, path string) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_TYPE, &st); err != nil {
		return false, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	switch mode := st.Mode & unix.S_IFMT; kind {
	case action.WaitFile:
		return mode == unix.S_IFREG, nil
	case action.WaitDir:
		return mode == unix.S_IFDIR, nil
	case action.WaitMount:
		return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
	}
	return true, nil
}
