// Package direct reads and writes sockets without a word to Go's scheduler.
//
// A system call on a socket never blocks here: one that would is left to the
// poller. But the scheduler takes each for one that may. It writes down that the
// thread is in the kernel, and its monitor takes the processor from a thread that
// it finds there twice in a row, which on a busy machine is any: then another
// thread is woken for it, looks for work, and sleeps again. That was a third of
// the CPU time that the core needed for a request (docs/performance.md).
//
//	d := direct.New(nc)  // nil: nc is no socket
//	d.Read(p); d.Write(p) // as nc's; deadlines and Close are those of nc
//
// What the call costs is then as any other computation of the goroutine. So it has
// to be short: a Write of more than 16 KiB is left to nc. MSG_DONTWAIT keeps it
// so, whoever else has the descriptor's flags in hand.
package direct

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// most is the longest Write of its own, in bytes.
const most = 16 << 10

// Conn is a socket. It is safe for concurrent use, as a net.Conn is.
type Conn struct {
	nc   net.Conn
	raw  syscall.RawConn
	r, w side
}

// side is one direction.
type side struct {
	mu    sync.Mutex // guards all, and is held while a call waits
	p     []byte
	n     int // bytes of p that are done
	errno syscall.Errno
	do    func(fd uintptr) bool // once for all: RawConn's argument escapes
}

// New returns nil if nc is no socket of this process's.
func New(nc net.Conn) *Conn {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	c := &Conn{nc: nc, raw: raw}
	c.r.do, c.w.do = c.r.receive, c.w.send
	return c
}

func (s *side) receive(fd uintptr) bool {
	s.n, s.errno = Receive(fd, s.p)
	return s.errno != syscall.EAGAIN
}

func (s *side) send(fd uintptr) bool {
	for s.n < len(s.p) {
		var n int
		if n, s.errno = Send(fd, s.p[s.n:]); s.errno != 0 {
			return s.errno != syscall.EAGAIN
		}
		s.n += n
	}
	return true
}

// Read implements io.Reader.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s := &c.r
	s.mu.Lock()
	defer s.mu.Unlock()
	s.p, s.n, s.errno = p, 0, 0
	err := c.raw.Read(s.do)
	s.p = nil
	switch {
	case err != nil:
		return 0, err
	case s.errno != 0:
		return 0, os.NewSyscallError("recvfrom", s.errno)
	case s.n == 0:
		return 0, io.EOF
	}
	return s.n, nil
}

// Write implements io.Writer.
func (c *Conn) Write(p []byte) (int, error) {
	if len(p) > most {
		return c.nc.Write(p)
	}
	s := &c.w
	s.mu.Lock()
	defer s.mu.Unlock()
	s.p, s.n, s.errno = p, 0, 0
	err := c.raw.Write(s.do)
	s.p = nil
	if err == nil && s.errno != 0 {
		err = os.NewSyscallError("sendto", s.errno)
	}
	return s.n, err
}

// Raw is for functions of the caller's own, which use Receive, Send and Silent.
func (c *Conn) Raw() syscall.RawConn { return c.raw }
