package stage

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"liege/vassal/action"
)

// asRoot runs a built-in action of an as-root hook. See the package comment
// for what is refused.
func (r *run) asRoot(c action.Call) (err error) {
	if c.Kind == action.Hostname {
		return unix.Sethostname([]byte(c.Text))
	}
	if c.Kind == action.Mount {
		return r.mount(c)
	}
	follow := c.Kind != action.Unlink && c.Kind != action.Mkdir && c.Kind != action.Rmdir
	p, err := r.walk(c.Path, follow)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	switch c.Kind {
	case action.Mkdir:
		return p.mkdir()
	case action.Write, action.Writen, action.Append, action.Appendn, action.Create:
		return p.write(c.Content(), c.Kind == action.Append || c.Kind == action.Appendn)
	case action.WriteFIFO, action.SpinFIFO:
		return r.toFIFO(c, p)
	case action.Unlink:
		return unix.Unlinkat(p.dir, p.name, 0)
	case action.Rmdir:
		return unix.Unlinkat(p.dir, p.name, unix.AT_REMOVEDIR)
	case action.Umount:
		return p.umount(c.Flags)
	}
	return r.onFile(p, c)
}

// onFile runs the actions that change an existing file.
func (r *run) onFile(p *place, c action.Call) (err error) {
	fd, err := p.open(unix.O_PATH)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	switch c.Kind {
	case action.Chown, action.Chown2:
		return unix.Fchownat(fd, "", c.UID, c.GID, unix.AT_EMPTY_PATH)
	case action.Chmod, action.Sticky:
		mode := c.Mode
		if c.Kind == action.Sticky {
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil {
				return err
			}
			mode = st.Mode&0o7777 | unix.S_ISVTX
		}
		// fchmodat2 with an empty path is Linux 6.6; the magic link of a
		// descriptor in the real /proc does the same.
		return unix.Fchmodat(r.proc, fmt.Sprintf("thread-self/fd/%d", fd), mode, 0)
	case action.Cd:
		return unix.Fchdir(fd)
	}
	return fmt.Errorf("action %s does not exist", c.Kind)
}

// mkdir makes a directory. One that exists is fine, unlike in uWSGI: the hooks
// run again at each start, and a directory of the app's outlives the first.
func (p *place) mkdir() error {
	err := unix.Mkdirat(p.dir, p.name, 0o777)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var st unix.Stat_t
	if serr := unix.Fstatat(p.dir, p.name, &st, unix.AT_SYMLINK_NOFOLLOW); serr != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	return nil
}

// write replaces the content of a file, or adds to it. It is cut only after the
// look at what was opened.
func (p *place) write(text string, add bool) (err error) {
	flags := unix.O_WRONLY | unix.O_CREAT
	if add {
		flags |= unix.O_APPEND
	}
	fd, err := p.open(flags)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if !add {
		if err := unix.Ftruncate(fd, 0); err != nil && !errors.Is(err, unix.EINVAL) { // a device has no length
			return err
		}
	}
	return writeAll(fd, text)
}

// fifo opens a FIFO for writing: nothing else, and nothing that a tenant could
// have linked there.
func (r *run) fifo(p *place) (int, error) {
	fd, err := unix.Openat(p.dir, p.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return -1, err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFIFO:
		return -1, errNoFIFO
	case p.shared && st.Nlink > 1:
		return -1, errSecondName
	}
	// The name may mean another file by now: what was looked at is opened.
	return unix.Openat(r.proc, fmt.Sprintf("thread-self/fd/%d", fd), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

var errNoFIFO = errors.New("is no FIFO")

// toFIFO writes c's text into the FIFO at p.
func (r *run) toFIFO(c action.Call, p *place) error {
	return r.untilRead(c, func() error {
		fd, err := r.fifo(p)
		if errors.Is(err, unix.ENXIO) {
			return action.ErrNobodyReads
		}
		if err != nil {
			return err
		}
		return errors.Join(writeAll(fd, c.Text), unix.Close(fd))
	})
}

// untilRead repeats write until somebody reads, for spinningfifo; for
// writefifo that nobody reads is no error.
func (r *run) untilRead(c action.Call, write func() error) error {
	for {
		err := write()
		if !errors.Is(err, action.ErrNobodyReads) {
			return err
		}
		if c.Kind == action.WriteFIFO {
			return nil
		}
		if perr := r.pause(); perr != nil {
			return fmt.Errorf("%w: %w", err, perr)
		}
	}
}

func writeAll(fd int, text string) error {
	for b := []byte(text); len(b) > 0; {
		n, err := unix.Write(fd, b)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// umount goes to the parent and unmounts the name there, since an open
// descriptor of the mount would keep it busy.
func (p *place) umount(flags []string) error {
	if p.name == "." {
		return errors.New("the root cannot be unmounted")
	}
	old, err := unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	how := unix.UMOUNT_NOFOLLOW
	for _, f := range flags {
		switch f {
		case "force":
			how |= unix.MNT_FORCE
		case "detach", "rec": // a detached mount takes what is mounted below it along
			how |= unix.MNT_DETACH
		}
	}
	if err = unix.Fchdir(p.dir); err == nil {
		err = errors.Join(unix.Unmount(p.name, how), unix.Fchdir(old))
	}
	return errors.Join(err, unix.Close(old))
}

// asUser runs a built-in action with the tenant's rights.
func (r *run) asUser(c action.Call) error {
	switch c.Kind {
	case action.Cd:
		return unix.Chdir(c.Path)
	case action.SpinFIFO, action.WriteFIFO:
		return r.untilRead(c, func() error { return c.Plain("") })
	}
	return c.Plain("")
}

// attach puts the detached mounts that the Emperor made in their places. The
// places exist: the stage creates nothing for them.
func (r *run) attach() error {
	for _, a := range r.p.Attach {
		if err := r.attachOne(r.p.Files.Mount(a.Mount), a.Target); err != nil {
			f := failure(StepAttach, err)
			f.At, f.What = a.At, a.Target
			return f
		}
	}
	return nil
}

func (r *run) attachOne(mount int, target string) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(mount, &fs); err != nil {
		return fmt.Errorf("the mount: %w", err)
	}
	if fs.Flags&unix.ST_NOSUID == 0 || fs.Flags&unix.ST_NODEV == 0 {
		return errors.New("the mount is not nosuid and nodev")
	}
	to, err := unix.Openat2(r.root, strings.TrimLeft(target, "/"), &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return fmt.Errorf("its place: %w", err)
	}
	return errors.Join(moveMount(mount, to), unix.Close(to))
}

func moveMount(from, to int) error {
	return unix.MoveMount(from, "", to, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}
