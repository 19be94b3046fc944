package hook

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"liege/serve/worker"
	"liege/vassal"
)

// pool starts programs as the real one does, and knows one function.
type pool struct{ calls []string }

func (p *pool) Environ() []string { return []string{"PATH=/usr/bin:/bin", "APP=1"} }

func (p *pool) Start(prog *worker.Program) (worker.Process, error) {
	cmd := &exec.Cmd{Path: prog.Path, Args: prog.Argv, Env: prog.Env, Dir: prog.Dir, Stdin: prog.Files[0], Stdout: prog.Files[1], Stderr: prog.Files[2],
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true}}
	if err := cmd.Start(); err != nil {
		return worker.Process{}, err
	}
	status := make(chan syscall.WaitStatus, 1)
	go func() {
		_ = cmd.Wait()
		status <- cmd.ProcessState.Sys().(syscall.WaitStatus)
	}()
	return worker.Process{PID: cmd.Process.Pid, Status: status}, nil
}

func (p *pool) Call(_ context.Context, function string, args []string) (string, error) {
	p.calls = append(p.calls, function+" "+strings.Join(args, ","))
	if function == "late" && len(p.calls) < 3 {
		return "", errors.New("not yet")
	}
	if function != "late" && function != "f" {
		return "", errors.New("no such function")
	}
	return "x", nil
}

func at(phase vassal.Phase, action, arg string) vassal.Hook {
	return vassal.Hook{Phase: phase, Action: action, Arg: arg, At: vassal.Origin{File: "/etc/vassals/shop.ini", Line: 7}}
}

func runner(t *testing.T, hooks ...vassal.Hook) (*Runner, *pool, *strings.Builder) {
	t.Helper()
	p, out := &pool{}, &strings.Builder{}
	return New(&vassal.App{Hooks: hooks, Dir: t.TempDir(), HookTime: 30 * time.Second}, p, out, slog.New(slog.DiscardHandler)), p, out
}

// Each action, and how it fails.
func TestActions(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, c := range []struct{ action, arg, err string }{
		{"exec", "exit 3", "exit status 3"}, {"exec", "kill -TERM $$", "killed by SIGTERM"}, {"exec", "sleep 600", "took longer than 100ms and was killed"},
		{"exec", `[ "$APP$X" = 1 ] && [ "$PWD" = "$(pwd)" ]`, ""}, {"safeexec", "false", ""}, {"call", "chdir /nowhere", ""}, {"callret", "chdir /nowhere", "no such file"},
		{"mkdir", "d", ""}, {"mkdir", "d", ""}, {"rmdir", "d", ""}, {"rmdir", "d", "no such file"}, {"create", "f", ""}, {"writen", "f a b", ""}, {"append", "f c", ""},
		{"chmod", "f 2640", ""}, {"sticky", "f", ""}, {"unlink", "f", ""}, {"unlink", "f", "no such file"}, {"write", "/proc/none x", "no such file"},
		{"writefifo", "none x", "no such file"}, {"exit", "4", "ends the start, as it says: status 4"}, {"cd", "none", "no such file"}, {"print", "text", ""},
		{"alarm", "a b c", "raised a: b c"}, {"rpc", "f a b", ""}, {"rpc", "g", "no such function"}, {"retryrpc", "late x", ""}, {"retryrpc", "g", "took longer than 100ms"},
		{"wait_for_socket", ln.Addr().String(), ""}, {"wait_for_socket", "/nowhere/sock", "took longer than 100ms"},
		{"wait_for_dir", "/proc", ""}, {"wait_for_file", "/proc", "took longer than 100ms"}, {"wait_for_mountpoint", "/proc", ""}, {"wait_for_fs", "/proc/version", ""},
	} {
		r, _, _ := runner(t, at(vassal.PostApp, c.action, c.arg))
		if strings.HasPrefix(c.err, "took longer") {
			r.limit = 100 * time.Millisecond
		}
		// What an earlier row has made is there again.
		for name, mode := range map[string]os.FileMode{"d": os.ModeDir, "f": 0} {
			if path := filepath.Join(r.base, name); strings.HasPrefix(c.arg, name) && c.err == "" && mode == 0 && c.action != "create" {
				err = os.WriteFile(path, nil, 0o600)
			} else if mode != 0 && c.action == "rmdir" && c.err == "" {
				err = os.Mkdir(path, 0o700)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		raised := ""
		r.Alarm = func(name, text string) { raised = "raised " + name + ": " + text }
		err := r.Run(t.Context(), vassal.PostApp)
		if raised != "" {
			err = explain(&r.hooks[0], errors.New(raised))
		}
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s:%s: %v, want %q", c.action, c.arg, err, c.err)
		}
		if p, ok := errors.AsType[*vassal.Problem](err); err != nil && (!ok || p.Code != vassal.CodeHookFailed || p.Line != 7 || p.Step != "hook post-app") {
			t.Errorf("%s:%s: %+v", c.action, c.arg, p)
		}
	}
}

// cd and putenv are for the hooks that follow; only the phase that is asked
// for runs; a failure ends it, or is logged.
func TestOrder(t *testing.T) {
	r, _, out := runner(t, at(vassal.PreApp, "print", "pre"), at(vassal.PreApp, "cd", "/usr"), at(vassal.PreApp, "putenv", "X=y"),
		at(vassal.PostApp, "exec", `[ "$X$N$(pwd)" = yn/usr ]`), at(vassal.PostApp, "print", "post"), at(vassal.PostApp, "exit", ""), at(vassal.PostApp, "print", "never"),
		at(vassal.AsUserAtexit, "exec", "false"), at(vassal.AsUserAtexit, "print", "end"))
	for _, c := range []struct {
		phase vassal.Phase
		fails bool
	}{{vassal.PreApp, false}, {vassal.PostApp, true}, {vassal.MasterStart, false}, {vassal.AsUserAtexit, false}} {
		if err := r.Run(t.Context(), c.phase, "N=n"); (err != nil) != c.fails {
			t.Errorf("%s: %v", c.phase, err)
		}
	}
	if got := out.String(); got != "pre\npost\nend\n" {
		t.Errorf("got %q", got)
	}
	var none *Runner
	if none.Has(vassal.PreApp) || none.Run(t.Context(), vassal.PreApp) != nil || New(&vassal.App{}, nil, nil, nil) != nil {
		t.Error("no hooks are some")
	}
}

// A private hook's argument is in no message.
func TestPrivate(t *testing.T) {
	for _, h := range []vassal.Hook{at(vassal.PreApp, "exec", "exit 1 # secret"), at(vassal.PreApp, "unlink", "/secret"), at(vassal.PreApp, "cd", "secret")} {
		h.Private = true
		r, _, _ := runner(t, h)
		if err := r.Run(t.Context(), vassal.PreApp); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", h.Action, err)
		}
	}
}

// Whoever waits for its turn waits no longer than it may.
func TestCancelled(t *testing.T) {
	r, _, _ := runner(t, at(vassal.PreApp, "exec", "sleep 600"), at(vassal.EmperorStop, "print", "x"))
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx, vassal.PreApp) }()
	enough := errors.New("enough")
	cancel(enough)
	if err := <-done; err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("got %v", err)
	}
}

// The phases of workers: all of post-fork before accepting, what comes once
// comes once for a place, and a worker that was seen is left out.
func TestWorkers(t *testing.T) {
	var hooks []vassal.Hook
	for _, p := range []vassal.Phase{vassal.PostFork, vassal.Accepting, vassal.AcceptingOnce, vassal.Accepting1, vassal.Accepting1Once} {
		hooks = append(hooks, at(p, "print", string(p)))
	}
	r, _, out := runner(t, hooks...)
	seen := map[int]int{}
	for _, turn := range [][]Worker{{{1, 11}, {2, 12}}, {{1, 11}, {2, 22}}, {{1, 21}, {2, 22}, {3, 13}}, {{1, 21}}} {
		if err := r.Workers(t.Context(), turn, seen); err != nil {
			t.Fatal(err)
		}
		out.WriteString("--\n")
	}
	want := "post-fork\npost-fork\naccepting\naccepting-once\naccepting1\naccepting1-once\naccepting\naccepting-once\n--\n" +
		"post-fork\naccepting\n--\n" +
		"post-fork\npost-fork\naccepting\naccepting1\naccepting\naccepting-once\n--\n--\n"
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// hook-touch: a file that changes, or comes, and no other.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		out := &strings.Builder{}
		var hooks []vassal.Hook
		for _, f := range []string{"a", "b"} {
			h := at(vassal.Touched, "print", f)
			h.File = f
			hooks = append(hooks, h)
		}
		r := New(&vassal.App{Hooks: hooks, Dir: dir}, &pool{}, out, slog.New(slog.NewTextHandler(io.Discard, nil)))
		touch := func(name string, at int64) {
			path := filepath.Join(dir, name)
			if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, time.Time{}, time.Unix(at, 0))); err != nil {
				t.Fatal(err)
			}
		}
		touch("a", 100)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.Watch(ctx)
		}()
		synctest.Wait()
		time.Sleep(lookEvery / 2) // the looks are at whole seconds, the changes between them
		touch("a", 90)
		time.Sleep(2 * lookEvery)
		touch("b", 100)
		time.Sleep(2 * lookEvery)
		if err := os.Remove(filepath.Join(dir, "b")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * lookEvery)
		cancel()
		<-done
		if got := out.String(); got != "a\nb\n" {
			t.Errorf("got %q", got)
		}
	})
}
