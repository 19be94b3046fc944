package relay

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// conn is one connected stream socket. It is an os.File and no net.Conn: that
// package asks the kernel about addresses and protocols, with calls that a
// relay has no use for.
type conn struct {
	file *os.File
	raw  syscall.RawConn
	tcp  bool
}

// newConn takes over fd, which is in non-blocking mode.
func newConn(fd, family int) (*conn, error) {
	c := &conn{file: os.NewFile(uintptr(fd), "socket"), tcp: family != unix.AF_UNIX}
	var err error
	if c.raw, err = c.file.SyscallConn(); err != nil {
		c.file.Close()
		return nil, err
	}
	if c.tcp { // none of these can fail on a TCP socket, and nothing depends on them
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepAlive)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, keepAlive)
	}
	return c, nil
}

// keepAlive is how often a silent peer is asked whether it lives, in seconds.
const keepAlive = 60

func (c *conn) close() { _ = c.file.Close() } // says nothing that matters any more

// reset closes the connection so that the peer sees that it broke. A unix socket
// knows no reset: there it is the end.
func (c *conn) reset() {
	if c.tcp {
		_ = c.raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		})
	}
	c.close()
}

// shut ends one direction: SHUT_WR or SHUT_RD.
func (c *conn) shut(how int) {
	_ = c.raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), how) }) // fails where the peer is gone
}

// bufferSize is how much is read at once.
const bufferSize = 32 << 10

// buffers holds those that nobody uses: a connection has one only while there
// is something to pass on.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// read waits until there is something to read and reads it into a buffer of the
// pool. The end is io.EOF.
func (c *conn) read() (buf *[bufferSize]byte, n int, err error) {
	werr := c.raw.Read(func(fd uintptr) bool {
		buf = buffers.Get().(*[bufferSize]byte)
		n, err = unix.Read(int(fd), buf[:])
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Read(int(fd), buf[:])
		}
		if errors.Is(err, unix.EAGAIN) {
			buffers.Put(buf)
			buf = nil
			return false
		}
		return true
	})
	switch {
	case werr != nil: // closed, or too late
		err = werr
	case err == nil && n == 0:
		err = io.EOF
	}
	if err != nil && buf != nil {
		buffers.Put(buf)
		buf = nil
	}
	return buf, n, err
}

// How one direction ended.
type ended int

const (
	byEnd    ended = iota // the source said that it is done
	bySource              // the source broke
	byTarget              // the target takes no more
)

// pump passes on what comes from src until it ends or dst takes no more.
func pump(dst, src *conn) ended {
	for {
		buf, n, err := src.read()
		if errors.Is(err, io.EOF) {
			dst.shut(unix.SHUT_WR)
			return byEnd
		}
		if err != nil {
			return bySource
		}
		_, err = dst.file.Write(buf[:n])
		buffers.Put(buf)
		if err != nil {
			return byTarget
		}
	}
}

// lastWords is how long a service is heard whose client is gone: without that
// what the client wrote last would be lost, for a socket that is closed with
// unread data takes back what it has not sent.
const lastWords = 5 * time.Second

// join passes bytes in both directions until both have ended, and closes both.
func join(client, service *conn) {
	done := make(chan struct{})
	broken := false // by the service
	go func() {
		defer close(done)
		switch pump(client, service) {
		case bySource:
			broken = true
			client.reset() // the other direction ends too
		case byTarget: // the client is gone: the service may not know yet
			service.drain()
		case byEnd:
		}
	}()
	switch pump(service, client) {
	case bySource: // it is gone, or was closed above
		service.shut(unix.SHUT_WR)
		_ = service.file.SetReadDeadline(time.Now().Add(lastWords)) // closed: then nobody reads
	case byTarget:
		client.shut(unix.SHUT_RD)
	case byEnd:
	}
	<-done
	if !broken {
		client.close()
	}
	service.close()
}

// drain reads what nobody wants any more.
func (c *conn) drain() {
	_ = c.file.SetReadDeadline(time.Now().Add(lastWords))
	for {
		buf, _, err := c.read()
		if err != nil {
			return
		}
		buffers.Put(buf)
	}
}
