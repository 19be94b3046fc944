package front

import (
	"io"
	"syscall"

	"liege/serve/exchange"
)

// maxSendfile is how much one sendfile(2) is asked for, in bytes.
const maxSendfile = 1 << 20

// sendfile sends n bytes of f from off. Each time the client takes some, the
// write timeout begins anew.
func (c *conn) sendfile(f exchange.File, off, n int64) error {
	if c.raw == nil {
		return c.copyFile(f, off, n)
	}
	src := int(f.Fd())
	for n > 0 {
		var sent int
		var errno error
		c.armWrite()
		err := c.raw.Write(func(dst uintptr) bool {
			for {
				sent, errno = syscall.Sendfile(int(dst), src, &off, int(min(n, maxSendfile)))
				if errno != syscall.EINTR {
					return errno != syscall.EAGAIN
				}
			}
		})
		switch {
		case err != nil:
			return errClientGone
		case errno == syscall.EINVAL || errno == syscall.ENOSYS || errno == syscall.EOVERFLOW:
			return c.copyFile(f, off, n) // a file system or socket that cannot
		case errno == syscall.EIO:
			return errno
		case errno != nil:
			return errClientGone
		case sent == 0:
			return errFileShrank
		}
		n -= int64(sent)
	}
	return nil
}

// copyFile is sendfile through a buffer.
func (c *conn) copyFile(f exchange.File, off, n int64) error {
	buf := make([]byte, min(n, maxWrite))
	for n > 0 {
		m, err := f.ReadAt(buf[:min(n, int64(len(buf)))], off)
		if m == 0 {
			if err == nil {
				err = io.ErrNoProgress
			}
			return fileError(err)
		}
		if err := c.write(buf[:m]); err != nil {
			return err
		}
		off, n = off+int64(m), n-int64(m)
	}
	return nil
}
