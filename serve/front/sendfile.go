package front

import (
	"errors"
	"io"
	"syscall"

	"golang.org/x/sys/unix"

	"liege/serve/exchange"
)

// maxSendfile is how much one sendfile(2) is asked for, in bytes.
const maxSendfile = 1 << 20

// File implements exchange.Response.
func (r *response) File(f exchange.File, off, n int64) error {
	n, err := r.admit(n)
	if n == 0 {
		return err
	}
	if r.framing == undecided {
		r.frame()
	}
	if len(r.body) > 0 {
		r.chunk(int64(len(r.body)))
		r.emit(r.body)
		r.body = r.body[:0]
		r.endChunk()
	}
	r.chunk(n)
	r.filed = true
	if left := r.file(f, off, n); r.broken != nil {
		r.sent -= left
		return r.broken
	}
	r.endChunk()
	return err
}

// file queues a small file with what is queued, or sends a large one with
// sendfile(2). It returns how many bytes it could not.
func (r *response) file(f exchange.File, off, n int64) (left int64) {
	if int64(len(r.out))+n <= joinLimit {
		at := len(r.out)
		r.out = append(r.out, make([]byte, n)...)
		if m, err := f.ReadAt(r.out[at:], off); int64(m) < n {
			r.out = r.out[:at+m]
			r.broken, left = fileError(err), n-int64(m)
		}
		return left
	}
	if r.sendMore(); r.broken != nil {
		return n
	}
	left, r.broken = r.c.sendfile(f, off, n)
	return left
}

// sendMore is send before the bytes of a file.
func (r *response) sendMore() {
	if r.settle(); len(r.out) == 0 || r.broken != nil {
		return
	}
	r.started = true
	r.broken = r.c.writeMore(r.out)
	r.out = r.out[:0]
}

func fileError(err error) error {
	if errors.Is(err, io.EOF) {
		return errFileShrank
	}
	return err
}

// sendfile sends n bytes of f from off, and returns how many it could not. Each
// time the client takes some, the write timeout begins anew.
func (c *conn) sendfile(f exchange.File, off, n int64) (left int64, _ error) {
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
			return n, errClientGone
		case errno == syscall.EINVAL || errno == syscall.ENOSYS || errno == syscall.EOVERFLOW:
			return c.copyFile(f, off, n) // a file system or socket that cannot
		case errno == syscall.EIO:
			return n, errno
		case errno != nil:
			return n, errClientGone
		case sent == 0:
			return n, errFileShrank
		}
		n -= int64(sent)
	}
	return 0, nil
}

// writeMore writes p, behind which the bytes of a file follow at once. The
// kernel sends both together: a head of its own would wake the client for
// nothing, and the client's processor would then do most of the sending
// (measured: 1.5 times as many files of 1 MB on loopback).
func (c *conn) writeMore(p []byte) error {
	if c.raw == nil {
		return c.write(p)
	}
	var errno error
	c.armWrite()
	err := c.raw.Write(func(fd uintptr) bool {
		for len(p) > 0 {
			var n int
			n, errno = unix.SendmsgN(int(fd), p, nil, nil, unix.MSG_MORE|unix.MSG_NOSIGNAL)
			switch errno {
			case nil:
				p = p[n:]
			case unix.EINTR:
			default:
				return errno != unix.EAGAIN
			}
		}
		return true
	})
	if err != nil || errno != nil {
		return errClientGone
	}
	return nil
}

// copyFile is sendfile through a buffer.
func (c *conn) copyFile(f exchange.File, off, n int64) (left int64, _ error) {
	buf := make([]byte, min(n, maxWrite))
	for n > 0 {
		m, err := f.ReadAt(buf[:min(n, int64(len(buf)))], off)
		if m == 0 {
			if err == nil {
				err = io.ErrNoProgress
			}
			return n, fileError(err)
		}
		if err := c.write(buf[:m]); err != nil {
			return n, err
		}
		off, n = off+int64(m), n-int64(m)
	}
	return 0, nil
}
