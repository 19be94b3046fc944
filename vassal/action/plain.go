package action

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// ErrNobodyReads is of a FIFO that nobody has opened for reading.
var ErrNobodyReads = errors.New("nobody reads")

// Plain does an action on files with the rights of the process, which are all
// the protection that is needed: for the vassal's user, never for root. A
// relative path is below dir; empty: below the working directory. It waits for
// nobody, and makes no threads: the stage calls it.
func (c Call) Plain(dir string) error {
	path := c.Path
	if dir != "" && !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	switch c.Kind {
	case Mkdir:
		err := syscall.Mkdir(path, 0o777)
		if st, serr := os.Stat(path); errors.Is(err, syscall.EEXIST) && serr == nil && st.IsDir() {
			return nil
		}
		return err
	case Write, Writen, Create:
		return put(path, c.Content(), syscall.O_CREAT|syscall.O_TRUNC)
	case Append, Appendn:
		return put(path, c.Content(), syscall.O_CREAT|syscall.O_APPEND)
	case WriteFIFO, SpinFIFO:
		err := put(path, c.Text, 0)
		if errors.Is(err, syscall.ENXIO) {
			return ErrNobodyReads
		}
		return err
	case Unlink:
		return syscall.Unlink(path)
	case Rmdir:
		return syscall.Rmdir(path)
	case Chmod:
		return syscall.Chmod(path, c.Mode)
	case Sticky:
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil {
			return err
		}
		return syscall.Chmod(path, st.Mode&0o7777|syscall.S_ISVTX)
	}
	return errors.New("needs root; use hook-as-root")
}

// Content is what the actions that write a file put into it.
func (c Call) Content() string {
	if c.Kind == Writen || c.Kind == Appendn {
		return c.Text + "\n"
	}
	return c.Text
}

// put does not wait for the other end of a FIFO.
func put(path, text string, flags int) error {
	fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_CLOEXEC|syscall.O_NONBLOCK|syscall.O_NOCTTY|flags, 0o666)
	if err != nil {
		return err
	}
	for b := []byte(text); len(b) > 0; {
		n, err := syscall.Write(fd, b)
		if err != nil {
			return errors.Join(err, syscall.Close(fd))
		}
		b = b[n:]
	}
	return syscall.Close(fd)
}
