package asuser

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"liege/selinux"
)

// Rules say how Bind makes a unix socket.
type Rules struct {
	Mode     fs.FileMode // permission bits, exact
	Backlog  int
	UID, GID int    // owner of the node; -1: as made
	Owners   []int  // a stale socket of one of these users may be replaced
	Context  string // SELinux context of the socket; empty: that of this process
}

// Bind binds and listens on a unix stream socket at path, with the caller's
// own rights: the child of a session calls it as the user, and the Emperor
// itself only where every directory on the way is root's alone.
//
// The directory is opened once; the mode is set on the socket before it has a
// name, so it is never wider for a moment; a name that is taken is replaced
// only if it is a socket of one of r.Owners on which nobody answers
// (KERNEL 18).
func Bind(path string, r Rules) (*os.File, error) {
	dir, err := open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	defer dir.Close()
	return BindIn(dir, filepath.Base(path), r)
}

// BindIn is Bind of a name in an open directory.
//
// The socket is in blocking mode, so that os.File leaves it out of the poller:
// this process never accepts, and no connection shall wake it.
func BindIn(dir *os.File, base string, r Rules) (*os.File, error) {
	fd := -1
	err := selinux.Sockets(r.Context, func() (err error) {
		fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), base)
	if err := bindAt(fd, dir, base, r); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func bindAt(fd int, dir *os.File, base string, r Rules) error {
	if err := unix.Fchmod(fd, uint32(r.Mode.Perm())); err != nil {
		return err
	}
	sa := &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), base)}
	err := unix.Bind(fd, sa)
	if errors.Is(err, unix.EADDRINUSE) {
		if err = removeStale(dir, base, sa, r.Owners); err == nil {
			err = unix.Bind(fd, sa)
		}
	}
	if err != nil {
		return err
	}
	// bind(2) takes the process's umask off the mode. A session's child has
	// none; in the Emperor, whose umask all its threads share, the rest is
	// given here, in a directory that is root's alone.
	if err := fixMode(dir, base, r.Mode.Perm()); err != nil {
		return err
	}
	if r.UID >= 0 || r.GID >= 0 {
		if err := unix.Fchownat(int(dir.Fd()), base, r.UID, r.GID, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			_ = unix.Unlinkat(int(dir.Fd()), base, 0) // ours: just made
			return &whyError{fmt.Sprintf("chown to %d:%d: %v", r.UID, r.GID, err), errno(err)}
		}
	}
	return unix.Listen(fd, max(r.Backlog, 1))
}

func fixMode(dir *os.File, base string, want fs.FileMode) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if fs.FileMode(st.Mode&0o777) == want {
		return nil
	}
	return unix.Fchmodat(int(dir.Fd()), base, uint32(want), 0)
}

// removeStale removes base from dir if it is a socket of one of owners and
// refuses connections.
func removeStale(dir *os.File, base string, sa unix.Sockaddr, owners []int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return &whyError{"there is something else of that name, not a socket", syscall.EEXIST}
	case !slices.Contains(owners, int(st.Uid)):
		return &whyError{fmt.Sprintf("there is a socket of uid %d", st.Uid), syscall.EADDRINUSE}
	}
	c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(c)
	if err := unix.Connect(c, sa); err != unix.ECONNREFUSED {
		return &whyError{"somebody answers on it", syscall.EADDRINUSE}
	}
	return unix.Unlinkat(int(dir.Fd()), base, 0)
}

// Remove removes the socket at path if it is the inode given; one that is gone
// or another is left alone without an error.
func Remove(path string, dev, ino uint64) error {
	dir, err := open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}
	defer dir.Close()
	return RemoveIn(dir, filepath.Base(path), dev, ino)
}

// RemoveIn is Remove of a name in an open directory.
func RemoveIn(dir *os.File, base string, dev, ino uint64) error {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT || err == nil && (st.Dev != dev || st.Ino != ino || st.Mode&unix.S_IFMT != unix.S_IFSOCK) {
		return nil
	}
	if err != nil {
		return err
	}
	return unix.Unlinkat(int(dir.Fd()), base, 0)
}

func errno(err error) syscall.Errno {
	if no, ok := errors.AsType[syscall.Errno](err); ok {
		return no
	}
	return syscall.EIO
}

func itoa(fd uintptr) string { return strconv.Itoa(int(fd)) }
