package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

func parent(p string) string { return path.Dir(p) }
func base(p string) string   { return path.Base(p) }

// siocUnixFile (SIOCUNIXFILE, Linux 4.19) yields an O_PATH descriptor of the
// node that a unix socket is bound to, wherever it is now.
const siocUnixFile = unix.SIOCPROTOPRIVATE + 0

// nodeFile opens the node of a unix socket.
func nodeFile(sock *os.File) (*os.File, error) {
	fd, err := unix.IoctlRetInt(int(sock.Fd()), siocUnixFile)
	if err != nil {
		return nil, fmt.Errorf("node of the socket: %w", err)
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), sock.Name()), nil
}

func node(sock *os.File) (unix.Stat_t, error) {
	var st unix.Stat_t
	n, err := nodeFile(sock)
	if err != nil {
		return st, err
	}
	defer n.Close()
	return st, unix.Fstat(int(n.Fd()), &st)
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

// RootOnly opens the directory dir if no step of the way to it can be changed
// by anybody but root; else the error is ErrShared. Links are followed first, then each step is
// checked on an open descriptor.
func RootOnly(dir string) (*os.File, error) {
	real, err := evalLinks(dir)
	if err != nil {
		return nil, err
	}
	at, err := openDir("/")
	if err != nil {
		return nil, err
	}
	for _, step := range append([]string{""}, strings.Split(strings.Trim(real, "/"), "/")...) {
		if step != "" {
			next, err := unix.Openat2(int(at.Fd()), step, &unix.OpenHow{
				Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
			})
			at.Close()
			if err != nil {
				return nil, &fs.PathError{Op: "open", Path: real, Err: err}
			}
			at = os.NewFile(uintptr(next), real)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(at.Fd()), &st); err != nil || st.Uid != 0 || st.Mode&0o022 != 0 {
			at.Close()
			return nil, ErrShared
		}
	}
	return at, nil
}

// evalLinks is filepath.EvalSymlinks for a directory, in one step and without
// magic links.
func evalLinks(dir string) (string, error) {
	f, err := openDir(dir)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	defer f.Close()
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
}

func openDir(dir string) (*os.File, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, dir, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// makeRunDirs makes the missing directories of dir if it lies beneath /run:
// root's, 0755. It returns those it made, outermost first.
func makeRunDirs(dir string) (made []string, err error) {
	if !strings.HasPrefix(dir, "/run/") {
		return nil, nil
	}
	for i := len("/run/"); i <= len(dir); i++ {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		switch err := os.Mkdir(dir[:i], 0o755); {
		case err == nil:
			made = append(made, dir[:i])
			if err := os.Chmod(dir[:i], 0o755); err != nil { // whatever the umask
				return made, err
			}
		case !errors.Is(err, fs.ErrExist):
			return made, err
		}
	}
	return made, nil
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
