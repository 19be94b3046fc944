package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Work is a directory for one run, below the cache. Close removes it.
type Work struct {
	Dir   string
	cache string
	lock  *os.File
}

// NewWork makes a work directory, after removing those whose makers were
// killed.
func NewWork() (*Work, error) {
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	// A directory that is not locked yet looks abandoned to another.
	making, err := os.OpenFile(filepath.Join(cache, "making"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	defer making.Close()
	if err := flock(making, unix.LOCK_EX); err != nil {
		return nil, err
	}
	old, err := filepath.Glob(filepath.Join(cache, "run-*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range old {
		if err := removeAbandoned(dir); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp(cache, "run-")
	if err != nil {
		return nil, err
	}
	lock, err := lockFile(dir, unix.LOCK_EX)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &Work{Dir: dir, cache: cache, lock: lock}, nil
}

// Close removes the directory and all that is in it.
func (w *Work) Close() error {
	return errors.Join(os.RemoveAll(w.Dir), w.lock.Close())
}

// removeAbandoned removes a work directory unless its maker lives.
func removeAbandoned(dir string) error {
	lock, err := lockFile(dir, unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK), errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	defer lock.Close()
	return os.RemoveAll(dir)
}

// lockFile locks a directory or file until it is closed.
func lockFile(path string, how int) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := flock(f, how); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
}

func cacheDir() (string, error) {
	root, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "liege", "vm")
	return dir, os.MkdirAll(dir, 0o755)
}

// run runs a command without standard input. Its output is shown only in the
// error.
func run(ctx context.Context, name string, args ...string) error {
	_, err := output(ctx, name, args...)
	return err
}

// runApart is run in mount and pid namespaces of their own: whatever the
// command mounts or starts is gone when it ends, even when it is killed.
func runApart(ctx context.Context, name string, args ...string) error {
	return run(ctx, "unshare", append([]string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc", name}, args...)...)
}

// tie makes the kernel end cmd when this process dies, be it killed or by its
// test's time limit. The thread that starts cmd must live as long as it: the
// caller unties it when cmd has ended.
func tie(cmd *exec.Cmd) (untie func()) {
	runtime.LockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return runtime.UnlockOSThread
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	defer tie(cmd)()
	cmd.WaitDelay = 20 * time.Second
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}
	for _, v := range os.Environ() { // how this machine reaches its package mirror
		if key, _, _ := strings.Cut(v, "="); strings.HasSuffix(strings.ToLower(key), "_proxy") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	var out, said strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, tail(out.String()+said.String(), 30))
	}
	return out.String(), nil
}

// tail is the last n lines of text.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
