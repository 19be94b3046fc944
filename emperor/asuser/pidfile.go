package asuser

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxText bounds what WriteFile writes, in bytes.
const maxText = 4 << 10

// WriteFile puts a small file at path, whole, in place of what is there.
func (s *Session) WriteFile(path, text string, mode fs.FileMode) error {
	r, _, _, err := s.call(request{Op: "write", Path: path, Text: text, Mode: mode, GID: -1}, false)
	if err != nil {
		return err
	}
	return r.err("write", path)
}

// RemoveFile removes the file at path if it holds text.
func (s *Session) RemoveFile(path, text string) error {
	r, _, _, err := s.call(request{Op: "remove", Path: path, Text: text, GID: -1}, false)
	if err != nil {
		return err
	}
	return r.err("remove", path)
}

// WriteIn is WriteFile of a name in an open directory, with the caller's own
// rights.
func WriteIn(dir *os.File, base, text string, mode fs.FileMode) error {
	if len(text) > maxText {
		return syscall.EFBIG
	}
	at, tmp := int(dir.Fd()), "."+base+".liege"
	if err := unix.Unlinkat(at, tmp, 0); err != nil && err != unix.ENOENT {
		return err
	}
	fd, err := unix.Openat(at, tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(mode.Perm()))
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	_, err = f.WriteString(text)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = unix.Renameat(at, tmp, at, base)
	}
	if err != nil {
		_ = unix.Unlinkat(at, tmp, 0) // just made
	}
	return err
}

// RemoveTextIn is RemoveFile of a name in an open directory.
func RemoveTextIn(dir *os.File, base, text string) error {
	fd, err := unix.Openat(int(dir.Fd()), base, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxText+1))
	if err != nil || string(b) != text {
		return err
	}
	return unix.Unlinkat(int(dir.Fd()), base, 0)
}

// inDir opens the directory of path for do.
func inDir(path string, do func(dir *os.File, base string) error) error {
	dir, err := open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	return do(dir, filepath.Base(path))
}
