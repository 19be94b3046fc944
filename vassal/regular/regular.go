// Package regular opens regular files, and nothing else, at paths that somebody
// else may change meanwhile.
//
// A device may act on being opened (/dev/watchdog is armed by it), and a FIFO
// waits for a writer: to look at what was opened is too late. So a path is
// opened with O_PATH first, which opens no file but takes hold of it, and what
// that is opened again through /proc if it is a regular file. Nothing here waits
// for anybody but the file system.
//
// It follows links, as whoever runs it: it is no answer to whose file that is.
package regular

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Open opens the regular file that path leads to, to read it. The error is an
// fs.PathError; of what is no regular file it says what that is, and is
// fs.ErrInvalid.
func Open(path string) (*os.File, error) {
	return open(path, 0)
}

// OpenNoLink is Open where the last component of path may not be a symbolic
// link.
func OpenNoLink(path string) (*os.File, error) {
	return open(path, unix.O_NOFOLLOW)
}

func open(path string, flags int) (*os.File, error) {
	at, err := os.OpenFile(path, unix.O_PATH|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	return Reopen(at)
}

// Reopen opens what at, an O_PATH descriptor, has hold of. The error is as of
// Open; at stays the caller's.
func Reopen(at *os.File) (*os.File, error) {
	info, err := at.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: at.Name(), Err: notRegular(kindOf(info.Mode()))}
	}
	const flags = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	name := "self/fd/" + strconv.Itoa(int(at.Fd()))
	fd, err := unix.Open("/proc/"+name, flags, 0)
	if errors.Is(err, unix.ENOENT) { // at has hold of the file: it is /proc that is not there
		fd, err = openInProc(name, flags)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: at.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), at.Name()), nil
}

// openInProc opens name in a procfs of our own.
func openInProc(name string, flags int) (int, error) {
	root, err := ownProc()
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	return unix.Openat(root, name, flags, 0)
}

// ownProc mounts a procfs where nobody sees it, for root in a tree without one:
// a chroot in which packages are installed.
func ownProc() (int, error) {
	none := errors.New("/proc is not mounted")
	fd, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, none
	}
	defer unix.Close(fd)
	if unix.FsconfigCreate(fd) != nil {
		return -1, none
	}
	root, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, none
	}
	return root, nil
}

// List returns the names of at most limit entries of the directory dir, in no
// order. Symbolic links are not followed, on the way neither: the caller did,
// and nobody can put one there since.
func List(dir string, limit int) ([]string, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, dir, &unix.OpenHow{
		// O_DIRECTORY is asked before anything is opened.
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	names, err := f.Readdirnames(limit)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}

// notRegular is what a file is instead.
type notRegular string

func (k notRegular) Error() string      { return "is " + string(k) + ", not a regular file" }
func (notRegular) Is(target error) bool { return target == fs.ErrInvalid }

func kindOf(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&fs.ModeSymlink != 0:
		return "a symbolic link"
	case m&fs.ModeNamedPipe != 0:
		return "a FIFO"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeDevice != 0:
		return "a device"
	}
	return "something else"
}
