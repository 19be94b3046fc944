package stage

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"liege/vassal"
	"liege/vassal/action"
)

// hooks runs the hooks of one phase in their order. The first that fails ends
// the start, unless the phase is one whose failures are only told.
func (r *run) hooks(phase vassal.Phase) error {
	for _, h := range r.p.Hooks {
		if h.Phase != phase {
			continue
		}
		f := r.hook(h)
		if f == nil {
			continue
		}
		if phase.Fatal() {
			return f
		}
		report(r.status, f)
	}
	return nil
}

// hook runs one hook; a Failure is why it failed and that this matters.
func (r *run) hook(h vassal.Hook) *Failure {
	r.limit = r.hookTime(h)
	r.late = time.Now().Add(r.limit)
	c, err := action.Parse(h)
	var output string
	if err == nil {
		output, err = r.do(h, c)
	}
	if err == nil {
		return nil
	}
	f := failure(HookStep(h.Phase), err)
	f.Step, f.At, f.What = HookStep(h.Phase), h.At, hookText(h)
	f.Output = output
	if h.Private {
		conceal(f, c)
	}
	if c.Ignored && !errors.Is(err, errOrphan) {
		fmt.Fprintf(os.Stderr, "liege: %s; it does not matter\n", printable(f.Error()))
		return nil
	}
	return f
}

// conceal takes out of f what can quote a private hook's argument: the output
// of a shell, and the paths in a message.
func conceal(f *Failure, c action.Call) {
	f.Output = ""
	if c.Kind == action.Exec || c.Kind == action.Safeexec {
		return // how it ended says nothing about the command
	}
	f.Msg = "does not work"
	if f.Errno != 0 {
		f.Msg = syscall.Errno(f.Errno).Error()
	}
}

// do runs one action, and returns the last lines of a command's output.
func (r *run) do(h vassal.Hook, c action.Call) (string, error) {
	user := h.Phase.Place() == vassal.AtUser
	switch c.Kind {
	case action.Exec, action.Safeexec:
		return r.command(h, c.Text)
	case action.Putenv:
		r.env = append(r.env, c.Text)
		return "", nil
	case action.Print:
		_, err := fmt.Fprintln(os.Stdout, c.Text)
		return "", err
	case action.Setcon:
		return "", nil // checked with the plan; it is the last step
	case action.Exit:
		return "", fmt.Errorf("ends the start, as it says: status %d", c.Code)
	case action.Umask:
		unix.Umask(int(c.Mode)) // of root's until the file's own is set
		return "", nil
	case action.WaitFS, action.WaitFile, action.WaitDir, action.WaitMount:
		return "", r.await(c, user)
	}
	if user {
		return "", r.asUser(c)
	}
	return "", r.asRoot(c)
}

// limitText is the time of the hook that runs.
func (r *run) limitText() string { return fmt.Sprintf("%d s", int(r.limit.Seconds())) }

// errOrphan ends a start whose Emperor is gone: nobody would undo it, or know
// of what it made.
var errOrphan = errors.New("the Emperor is gone")

// pause waits a little within the hook's time.
func (r *run) pause() error {
	if time.Now().After(r.late) {
		return fmt.Errorf("it took longer than %s", r.limitText())
	}
	fds := []unix.PollFd{{Fd: int32(r.status)}}
	if _, err := unix.Poll(fds, 20); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("poll: %w", err)
	}
	if fds[0].Revents&unix.POLLHUP != 0 {
		return errOrphan
	}
	return nil
}

// await waits until a path is there, and is what it is to be.
func (r *run) await(c action.Call, user bool) error {
	for {
		there, err := r.there(c, user)
		if there || err != nil {
			return err
		}
		if err := r.pause(); err != nil {
			return fmt.Errorf("%s: %w", c.Path, err)
		}
	}
}

// there reports whether what c waits for is there. A path that cannot be
// walked safely is an error; one that ends somewhere is not there yet.
func (r *run) there(c action.Call, user bool) (bool, error) {
	dir, name, flags := unix.AT_FDCWD, c.Path, 0
	if !user {
		p, err := r.walk(c.Path, true)
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			return false, nil
		case err != nil:
			return false, err
		}
		defer p.close() //nolint:errcheck // O_PATH
		dir, name, flags = p.dir, p.name, unix.AT_SYMLINK_NOFOLLOW
	}
	var st unix.Statx_t
	err := unix.Statx(dir, name, flags, unix.STATX_TYPE, &st)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return false, nil
	case err != nil:
		return false, err
	}
	kind := st.Mode & unix.S_IFMT
	switch c.Kind {
	case action.WaitFile:
		return kind == unix.S_IFREG, nil
	case action.WaitDir:
		return kind == unix.S_IFDIR, nil
	case action.WaitMount:
		return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
	}
	return true, nil
}
