package stage

import (
	"errors"
	"fmt"
	"os"
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
	follow := c.Kind != action.Unlink && c.Kind != action.Mkdir
	p, err := r.walk(c.Path, follow)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	switch c.Kind {
	case action.Mkdir:
		return p.mkdir()
	case action.Write:
		return p.write(c.Text)
	case action.Writen:
		return p.write(c.Text + "\n")
	case action.Unlink:
		return unix.Unlinkat(p.dir, p.name, 0)
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
	case action.Chmod:
		// fchmodat2 with an empty path is Linux 6.6; the magic link of a
		// descriptor in the real /proc does the same.
		return unix.Fchmodat(r.proc, fmt.Sprintf("thread-self/fd/%d", fd), c.Mode, 0)
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

// write replaces the content of a file. It is cut only after the look at what
// was opened.
func (p *place) write(text string) (err error) {
	fd, err := p.open(unix.O_WRONLY | unix.O_CREAT)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if err := unix.Ftruncate(fd, 0); err != nil && !errors.Is(err, unix.EINVAL) { // a device has no length
		return err
	}
	return writeAll(fd, text)
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

// asUser runs a built-in action with the tenant's rights, which are all the
// protection that is needed.
func asUser(c action.Call) error {
	switch c.Kind {
	case action.Mkdir:
		err := unix.Mkdir(c.Path, 0o777)
		if st, serr := os.Stat(c.Path); errors.Is(err, unix.EEXIST) && serr == nil && st.IsDir() {
			return nil
		}
		return err
	case action.Write:
		return userWrite(c.Path, c.Text)
	case action.Writen:
		return userWrite(c.Path, c.Text+"\n")
	case action.Unlink:
		return unix.Unlink(c.Path)
	case action.Chmod:
		return unix.Chmod(c.Path, c.Mode)
	case action.Cd:
		return unix.Chdir(c.Path)
	}
	return fmt.Errorf("%s needs root; use hook-as-root", c.Kind)
}

// userWrite does not wait for the other end of a FIFO.
func userWrite(path, text string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0o666)
	if err != nil {
		return err
	}
	return errors.Join(writeAll(fd, text), unix.Close(fd))
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
