package asuser

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"liege/vassal/regular"
)

// Open opens path, through symbolic links but no magic ones, as an O_PATH
// descriptor of a directory, a regular file or a socket, and says where it led
// to: the kernel says so, not the child.
func (s *Session) Open(path string) (f *os.File, real string, err error) {
	var r *reply
	r, _, f, err = s.call(request{Op: "open", Path: path, GID: -1}, true)
	if err == nil {
		err = r.err("open", path)
	}
	if err == nil {
		err = s.checkPath(f, path)
	}
	if err == nil {
		real, err = os.Readlink("/proc/self/fd/" + itoa(f.Fd()))
	}
	if err != nil {
		closeIf(f)
		return nil, "", err
	}
	return f, real, nil
}

// Part is the part of the host that a text of the user's may ask about: what lies
// below a directory, wherever links lead, and what belongs to the user. All else is
// not there, and so is whatever lies behind a link and cannot be opened: how it
// cannot would tell what is there.
type Part struct {
	s   *Session
	dir string // empty: everywhere
}

// Below is the Part of a text in the directory dir.
func (s *Session) Below(dir string) Part { return Part{s, dir} }

// everywhere is the Part that is bounded by the user's rights alone.
func (s *Session) everywhere() Part { return Part{s, ""} }

// ReadFile reads a regular file of at most max bytes (no more than MaxRead),
// and says what Stat says of it.
func (s *Session) ReadFile(path string, max int) ([]byte, fs.FileInfo, error) {
	return s.everywhere().ReadFile(path, max)
}

// ReadFile is Session.ReadFile.
func (p Part) ReadFile(path string, max int) ([]byte, fs.FileInfo, error) {
	r, data, _, err := p.s.call(request{Op: "read", Path: path, Max: min(max, MaxRead), GID: -1, Below: p.dir}, false)
	if err == nil {
		err = r.err("read", path)
	}
	if err == nil && r.Info == nil {
		err = p.s.fail("read", path, "no answer")
	}
	if err != nil {
		return nil, nil, err
	}
	r.Info.N = filepath.Base(path)
	return data, r.Info, nil
}

// Stat follows symbolic links. Sys of the answer is a *syscall.Stat_t that
// holds owner, device and inode only.
func (s *Session) Stat(path string) (fs.FileInfo, error) { return s.everywhere().Stat(path) }

// Stat is Session.Stat.
func (p Part) Stat(path string) (fs.FileInfo, error) {
	return p.s.stat(request{Op: "stat", Path: path, GID: -1, Below: p.dir})
}

// Lstat is Stat of a link itself.
func (s *Session) Lstat(path string) (fs.FileInfo, error) {
	return s.stat(request{Op: "lstat", Path: path, GID: -1})
}

func (s *Session) stat(q request) (fs.FileInfo, error) {
	op, path := q.Op, q.Path
	r, _, _, err := s.call(q, false)
	if err != nil {
		return nil, err
	}
	if err := r.err(op, path); err != nil {
		return nil, err
	}
	if r.Info == nil {
		return nil, s.fail(op, path, "no answer")
	}
	r.Info.N = filepath.Base(path)
	return r.Info, nil
}

// Readlink returns what the symbolic link at path holds.
func (s *Session) Readlink(path string) (string, error) {
	r, _, _, err := s.call(request{Op: "readlink", Path: path, GID: -1}, false)
	if err != nil {
		return "", err
	}
	return r.Real, r.err("readlink", path)
}

// Glob is filepath.Glob with at most MaxGlob names.
func (s *Session) Glob(pattern string) ([]string, error) { return s.everywhere().Glob(pattern) }

// Glob is Session.Glob, of names that lead to something in p.
func (p Part) Glob(pattern string) ([]string, error) {
	s := p.s
	r, data, _, err := s.call(request{Op: "glob", Path: pattern, Max: MaxRead, GID: -1, Below: p.dir}, false)
	if err != nil {
		return nil, err
	}
	if err := r.err("glob", pattern); err != nil {
		return nil, err
	}
	var names []string
	if len(data) > 0 {
		if err := json.Unmarshal(data, &names); err != nil {
			return nil, s.fail("glob", pattern, "no list of names")
		}
	}
	return names, nil
}

// Socket is a unix stream socket to bind.
type Socket struct {
	Path    string      // absolute
	Mode    fs.FileMode // permission bits, exact: no umask applies
	Backlog int
	GID     int    // group of the node, one of the user's; -1: as made
	Context string // SELinux context of the socket; empty: that of this process
}

// Listen binds and listens on k. A socket that is there is replaced if it
// belongs to root or the user and nobody answers on it.
func (s *Session) Listen(k Socket) (*os.File, error) {
	r, _, f, err := s.call(request{Op: "listen", Path: k.Path, Mode: k.Mode, Backlog: k.Backlog, GID: k.GID, Context: k.Context}, true)
	if err == nil {
		err = r.err("listen", k.Path)
	}
	if err == nil {
		err = s.checkSocket(f, k.Path)
	}
	if err != nil {
		closeIf(f)
		return nil, err
	}
	return f, nil
}

// Unlink removes the socket at path if it still is the inode given.
func (s *Session) Unlink(path string, dev, ino uint64) error {
	r, _, _, err := s.call(request{Op: "unlink", Path: path, Dev: dev, Ino: ino, GID: -1}, false)
	if err != nil {
		return err
	}
	return r.err("unlink", path)
}

// OpenLog opens path to append to, and makes it with mode if it is missing.
// Its last component may not be a symbolic link.
func (s *Session) OpenLog(path string, mode fs.FileMode) (*os.File, error) {
	return s.openFile("log", path, mode, unix.O_WRONLY|unix.O_APPEND)
}

// OpenRead opens the regular file path to read it. Its last component may not
// be a symbolic link.
func (s *Session) OpenRead(path string) (*os.File, error) {
	return s.openFile("readable", path, 0, unix.O_RDONLY)
}

// openFile has the child open a regular file, and makes sure that flags are
// those of the descriptor.
func (s *Session) openFile(op, path string, mode fs.FileMode, flags int) (*os.File, error) {
	r, _, f, err := s.call(request{Op: op, Path: path, Mode: mode, GID: -1}, true)
	if err == nil {
		err = r.err("open", path)
	}
	if err == nil {
		err = s.checkRegular(f, path, flags)
	}
	if err != nil {
		closeIf(f)
		return nil, err
	}
	return f, nil
}

// checkPath makes sure that f is an O_PATH descriptor of a file or directory.
func (s *Session) checkPath(f *os.File, path string) error {
	if f == nil {
		return s.fail("open", path, "no descriptor")
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_PATH == 0 {
		return s.fail("open", path, "a descriptor of another kind")
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return s.fail("open", path, err.Error())
	}
	if k := st.Mode & unix.S_IFMT; k != unix.S_IFDIR && k != unix.S_IFREG && k != unix.S_IFSOCK {
		return &fs.PathError{Op: "open", Path: path, Err: errors.New("neither a directory, a regular file nor a socket")}
	}
	return nil
}

// checkSocket makes sure that f listens as a unix stream socket at path: a
// descriptor that were a datagram or an inet socket would be a way out of the
// vassal's network (KERNEL 1).
func (s *Session) checkSocket(f *os.File, path string) error {
	if f == nil {
		return s.fail("listen", path, "no descriptor")
	}
	fd := int(f.Fd())
	for opt, want := range map[int]int{unix.SO_DOMAIN: unix.AF_UNIX, unix.SO_TYPE: unix.SOCK_STREAM, unix.SO_ACCEPTCONN: 1} {
		if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, opt); err != nil || got != want {
			return s.fail("listen", path, "a descriptor of another kind")
		}
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return s.fail("listen", path, err.Error())
	}
	if u, ok := sa.(*unix.SockaddrUnix); !ok || !strings.HasSuffix(u.Name, "/"+filepath.Base(path)) {
		return s.fail("listen", path, "a socket of another name")
	}
	return nil
}

// checkRegular makes sure that f is a regular file on disk, open as want says.
// What the kernel's own do may depend on who reads or writes, which is root.
func (s *Session) checkRegular(f *os.File, path string, want int) error {
	if f == nil {
		return s.fail("open", path, "no descriptor")
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return &fs.PathError{Op: "open", Path: path, Err: errors.New("is not a regular file")}
	}
	if err := regular.OnDisk(int(f.Fd())); err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&(unix.O_APPEND|unix.O_ACCMODE|unix.O_PATH) != want {
		return s.fail("open", path, "not open as it was asked for")
	}
	return nil
}

// fail ends the session because its child broke the protocol.
func (s *Session) fail(op, path, why string) error {
	s.dead = fmt.Errorf("uid %d: %s %s: %w: %s", s.who.UID, op, path, ErrGone, why)
	return s.dead
}

func closeIf(f *os.File) {
	if f != nil {
		f.Close()
	}
}
