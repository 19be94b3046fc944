package listen

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"liege/vassal/regular"
)

func parent(p string) string { return path.Dir(p) }
func base(p string) string   { return path.Base(p) }

// siocUnixFile (SIOCUNIXFILE, Linux 4.19) yields an O_PATH descriptor of the
// node that a unix socket is bound to, wherever it is now.
const siocUnixFile = unix.SIOCPROTOPRIVATE + 0

// nodeFile opens the node of a unix socket, which was bound to addr.
func nodeFile(sock *os.File, addr string) (*os.File, error) {
	fd, err := unix.IoctlRetInt(int(sock.Fd()), siocUnixFile)
	if errors.Is(err, unix.EPERM) && os.Geteuid() != 0 {
		return ownNode(addr)
	}
	if err != nil {
		return nil, fmt.Errorf("node of the socket: %w", err)
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), sock.Name()), nil
}

// ownNode opens the node at addr without the kernel's help, which needs
// CAP_NET_ADMIN: liege serve of a plain user, whose own sockets it makes with
// his own rights. It is a socket that belongs to him and has no other name:
// what somebody else put in its place is not, and what he put there himself is
// his to lose.
func ownNode(addr string) (*os.File, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, addr, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: addr, Err: err}
	}
	f := os.NewFile(uintptr(fd), addr)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "stat", Path: addr, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK || int(st.Uid) != os.Geteuid() || st.Nlink > 1 {
		f.Close()
		return nil, &fs.PathError{Op: "open", Path: addr, Err: errors.New("not the socket that was made")}
	}
	return f, nil
}

// locate notes which node k is bound to, and where the kernel says it is.
func (k *socket) locate() error {
	n, err := nodeFile(k.file, k.addr)
	if err != nil {
		return err
	}
	defer n.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(n.Fd()), &st); err != nil {
		return err
	}
	at, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", n.Fd()))
	if err != nil {
		return err
	}
	k.dev, k.ino, k.dir = st.Dev, st.Ino, parent(at)
	return nil
}

// healthy reports whether k still can be connected to: the tenant holds it
// too, and shutdown(2) or connect(AF_UNSPEC) end it for everybody.
func (k *socket) healthy() bool {
	fd := int(k.file.Fd())
	if v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || v != 1 {
		return false
	}
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	if n, err := unix.Poll(p, 0); err != nil || n > 0 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0 {
		return false
	}
	if _, err := unix.Getsockname(fd); err != nil {
		return false
	}
	if k.ino == 0 {
		return true
	}
	var st unix.Stat_t
	err := unix.Lstat(k.addr, &st)
	return err == nil && st.Dev == k.dev && st.Ino == k.ino
}

// ErrShared is returned for a directory that somebody besides root can change.
var ErrShared = errors.New("not root's alone")

// maxLinks is the kernel's own limit on links in one path (MAXSYMLINKS).
const maxLinks = 40

// RootOnly opens the directory dir if no step of the way to it can be changed
// by anybody but root; else the error is ErrShared. A link is followed only
// where root alone can have made it: one in somebody's own directory would
// lead root to wherever its owner likes (CVE-2016-1247).
func RootOnly(dir string) (*os.File, error) {
	at, err := rootDir("/")
	if err != nil {
		return nil, err
	}
	steps := strings.Split(dir, "/")
	var above []*os.File
	defer func() {
		for _, f := range above {
			f.Close()
		}
	}()
	for links := 0; len(steps) > 0; {
		step := steps[0]
		steps = steps[1:]
		switch step {
		case "", ".":
			continue
		case "..":
			if n := len(above); n > 0 {
				at.Close()
				at, above = above[n-1], above[:n-1]
			}
			continue
		}
		next, target, err := rootStep(at, step)
		switch {
		case err != nil:
			at.Close()
			return nil, err
		case next != nil:
			above, at = append(above, at), next
			continue
		}
		if links++; links > maxLinks {
			at.Close()
			return nil, &fs.PathError{Op: "open", Path: dir, Err: unix.ELOOP}
		}
		steps = append(strings.Split(target, "/"), steps...)
		for n := len(above); n > 0 && strings.HasPrefix(target, "/"); n = len(above) {
			at.Close()
			at, above = above[n-1], above[:n-1]
		}
	}
	return at, nil
}

// rootStep opens the directory name in at, which is root's alone, or says
// where the link of that name leads.
func rootStep(at *os.File, name string) (next *os.File, target string, err error) {
	fd, err := unix.Openat(int(at.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", &fs.PathError{Op: "open", Path: path.Join(at.Name(), name), Err: err}
	}
	f := os.NewFile(uintptr(fd), path.Join(at.Name(), name))
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, "", &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if !rootAlone(&st) {
			f.Close()
			return nil, "", ErrShared
		}
		return f, "", nil
	case unix.S_IFLNK:
		defer f.Close()
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", buf)
		if err != nil || n == 0 {
			return nil, "", &fs.PathError{Op: "readlink", Path: f.Name(), Err: cmp.Or(err, error(unix.ENOENT))}
		}
		return nil, string(buf[:n]), nil
	}
	f.Close()
	return nil, "", &fs.PathError{Op: "open", Path: f.Name(), Err: unix.ENOTDIR}
}

func rootAlone(st *unix.Stat_t) bool { return st.Uid == 0 && st.Mode&0o022 == 0 }

// rootDir opens the directory dir, which holds no links, if it is root's alone.
func rootDir(dir string) (*os.File, error) {
	f, err := openDir(dir)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || !rootAlone(&st) {
		f.Close()
		return nil, ErrShared
	}
	return f, nil
}

// openDir opens a directory through no link at all.
func openDir(dir string) (*os.File, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, dir, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// makeRunDirs makes the missing directories of dir if it lies beneath /run:
// root's, 0755. It returns those it made, outermost first. It makes nothing
// beneath a directory that is not root's alone: whoever can change that one
// could put a link in the place of what was made.
func makeRunDirs(dir string) (made []string, err error) {
	if !strings.HasPrefix(dir, "/run/") {
		return nil, nil
	}
	at, err := rootDir("/run")
	if err != nil {
		return nil, sharedIsFine(err)
	}
	defer func() { at.Close() }()
	for step := range strings.SplitSeq(strings.TrimPrefix(dir, "/run/"), "/") {
		if step == "" {
			continue
		}
		next, target, err := rootStep(at, step)
		if errors.Is(err, fs.ErrNotExist) {
			if next, err = makeIn(at, step); err == nil {
				made = append(made, next.Name())
			}
		}
		if err != nil || target != "" { // a link's target is there, or is not ours to make
			return made, sharedIsFine(err)
		}
		at.Close()
		at = next
	}
	return made, nil
}

// sharedIsFine drops ErrShared: the vassal's user then says what is missing.
func sharedIsFine(err error) error {
	if errors.Is(err, ErrShared) {
		return nil
	}
	return err
}

// makeIn makes the directory name in at, with mode 0755 whatever the umask.
func makeIn(at *os.File, name string) (*os.File, error) {
	if err := unix.Mkdirat(int(at.Fd()), name, 0o755); err != nil && err != unix.EEXIST {
		return nil, &fs.PathError{Op: "mkdir", Path: path.Join(at.Name(), name), Err: err}
	}
	fd, err := unix.Openat(int(at.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path.Join(at.Name(), name), Err: err}
	}
	f := os.NewFile(uintptr(fd), path.Join(at.Name(), name))
	if err := f.Chmod(0o755); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// ReadRootOnly opens the regular file path to read it, if nobody but root can
// change it or any step of the way to it; else the error is ErrShared. Its last
// component may not be a symbolic link.
func ReadRootOnly(p string) (*os.File, error) {
	dir, err := RootOnly(parent(p))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), base(p), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: p, Err: err}
	}
	at := os.NewFile(uintptr(fd), p)
	defer at.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: p, Err: err}
	}
	if !rootAlone(&st) {
		return nil, ErrShared
	}
	return regular.Reopen(at)
}

// OpenRootOnly opens the file path to append to, and makes it with mode and
// group if it is missing, if no step of the way to it can be changed by anybody
// but root; else the error is ErrShared. Its last component may not be a
// symbolic link.
func OpenRootOnly(p string, mode fs.FileMode, gid int) (*os.File, error) {
	dir, err := RootOnly(parent(p))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	const flags = unix.O_WRONLY | unix.O_APPEND | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOCTTY
	fd, err := unix.Openat(int(dir.Fd()), base(p), flags, 0)
	if errors.Is(err, unix.ENOENT) {
		if fd, err = unix.Openat(int(dir.Fd()), base(p), flags|unix.O_CREAT|unix.O_EXCL, uint32(mode)); err == nil {
			err = unix.Fchown(fd, 0, gid)
		}
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: p, Err: err}
	}
	f := os.NewFile(uintptr(fd), p)
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return nil, &fs.PathError{Op: "open", Path: p, Err: errors.New("not a regular file")}
	}
	return f, nil
}
