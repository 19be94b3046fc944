package front

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"liege/serve/direct"
	"liege/serve/exchange"
	"liege/vassal"
)

// waiting says what a connection's goroutine is doing, as far as drain and
// the limit on connections care.
type waiting uint8

const (
	fresh   waiting = iota // nothing received yet
	idle                   // between two requests
	begun                  // a head is being received
	feeding                // more of a body is waited for, and nothing is answered yet
	leaving                // the last answer has been sent: see linger, discard
	busy                   // a request is being answered
)

// How long a connection that is being waited for may still begin a request
// once the server drains: a client that connected or keeps the connection
// busy gets its answer, and learns from "Connection: close" to go elsewhere.
const (
	freshGrace = 3 * time.Second
	idleGrace  = time.Second
)

// minBuffer is the size that a connection's read buffer begins with.
const minBuffer = 4 << 10

// conn is one connection. Its goroutine owns all but what mu guards.
type conn struct {
	s    *Server
	nc   net.Conn
	raw  syscall.RawConn // nil: no sendfile
	own  *direct.Conn    // nil: bytes of nc are not those of a socket
	peer [4]exchange.Var // REMOTE_ADDR, REMOTE_PORT, SERVER_NAME, SERVER_PORT

	modifier2 uint8 // of the last packet
	modifier1 uint8 // of requests that do not say it themselves
	persist   bool  // a gateway's connection may carry another request
	served    bool  // it has carried one

	secure *Secure        // nil: in the clear
	sni    string         // the name that the client connected to
	extra  []exchange.Var // HTTPS and the client's certificate
	h2     bool           // HTTP/2: deadlines are net/http's
	asked  bool           // by HTTP/2: a request has come

	handler  exchange.Handler // who answers
	set      []exchange.Var   // variables of every request
	hostName bool             // SERVER_NAME is the field Host

	buf  []byte // buf[r:w] is received and not yet used
	r, w int

	head head
	req  exchange.Request
	body body
	res  response

	cut atomic.Bool // no write may wait any more

	mu      sync.Mutex
	wait    waiting
	since   time.Time  // of wait; feeding: of this wait for more
	replied bool       // the answer to the request has begun
	streams *h2handler // by HTTP/2: its requests
	readBy  time.Time  // the read deadline that is set
	writeBy time.Time  // and that of writes
	evicted bool       // it makes room, unless a request is there
}

func (s *Server) newConn(nc net.Conn, proto vassal.Protocol) *conn {
	c := &conn{s: s, nc: nc, buf: make([]byte, minBuffer), since: time.Now(), handler: s.handler}
	c.body.c, c.res.c = c, c
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			c.raw = raw
		}
	}
	c.own = direct.New(nc)
	if !gateway(proto) {
		addr, port := hostPort(nc.RemoteAddr())
		_, local := hostPort(nc.LocalAddr())
		c.peer = [4]exchange.Var{{Name: "REMOTE_ADDR", Value: addr}, {Name: "REMOTE_PORT", Value: port},
			{Name: "SERVER_NAME", Value: s.hostname}, {Name: "SERVER_PORT", Value: local}}
	}
	return c
}

// hostPort splits a TCP address. A unix socket has none: then it is what
// uWSGI says, for applications insist on both.
func hostPort(a net.Addr) (host, port string) {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return "0.0.0.0", "80"
	}
	ap := t.AddrPort()
	return ap.Addr().Unmap().WithZone("").String(), strconv.Itoa(int(ap.Port()))
}

// arm sets the read deadline d from now. A deadline that is already set and
// at most an eighth earlier is left alone: setting one costs more than the
// rest of the bookkeeping of a request.
func (c *conn) arm(w waiting, d time.Duration) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case w == feeding && c.wait == leaving:
	case w == feeding && c.replied:
		c.wait = busy
	case w == feeding || w != c.wait:
		c.wait, c.since = w, now
	}
	if c.s.draining.Load() {
		switch w {
		case fresh:
			d = min(d, freshGrace)
		case idle:
			d = min(d, idleGrace)
		}
	}
	by := now.Add(d)
	if early := by.Sub(c.readBy); early < 0 || early > d/8 {
		c.readBy = by
		_ = c.nc.SetReadDeadline(by) // fails only on a closed connection: then the read does
	}
}

// nudge shortens the wait for a request that may never come. The server calls
// it when it begins to drain.
func (c *conn) nudge(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wait >= begun || c.h2 {
		return
	}
	d := freshGrace
	if c.wait == idle {
		d = idleGrace
	}
	if by := now.Add(d); by.Before(c.readBy) {
		c.readBy = by
		_ = c.nc.SetReadDeadline(by) // as in arm
	}
}

// interrupt ends a read that is pending.
func (c *conn) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endRead()
}

func (c *conn) endRead() {
	c.readBy = time.Unix(1, 0)
	_ = c.nc.SetReadDeadline(c.readBy) // as in arm
}

// serving notes that c answers a request from now on.
func (c *conn) serving() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wait, c.replied, c.evicted = busy, false, false
}

// replies notes that the answer begins: c is the application's until it ends.
func (c *conn) replies() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.replied = true; c.wait == feeding {
		c.wait = busy
	}
}

// fed notes that n bytes of a body have come, or none will.
func (c *conn) fed(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wait == feeding {
		c.wait, c.evicted = busy, c.evicted && n == 0
	}
}

// leave notes that the answer is complete, and reports whether what still comes
// may be waited for: a connection that makes room does not.
func (c *conn) leave() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wait != leaving {
		c.wait, c.since = leaving, time.Now()
	}
	return !c.evicted
}

// armHead sets the read deadline of a head of which a part is there.
func (c *conn) armHead(by time.Time) error {
	now := time.Now()
	if !now.Before(by) {
		return errTimeout
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.wait != begun:
		c.wait, c.since, c.evicted = begun, now, false
	case c.evicted:
		return errQuiet
	}
	c.readBy = by
	_ = c.nc.SetReadDeadline(by) // as in arm
	return nil
}

// whyHead says what to answer for an error while such a head is read.
func (c *conn) whyHead(err error) error {
	c.mu.Lock()
	evicted := c.evicted
	c.mu.Unlock()
	switch _, refused := errors.AsType[*refusal](err); {
	case evicted:
		return errQuiet
	case refused:
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errTimeout
	}
	return errQuiet
}

// keptItems is how many fields, or variables, a connection keeps room for.
const keptItems = 32

// rest is called before c waits for a request, or for its client to go, with
// nothing in the buffer that is needed: what the last one took beyond the usual
// is given up, and no string of it is held. There may be thousands of connections, and each may have had a request
// as large as they come.
func (c *conn) rest() {
	c.r, c.w = 0, 0
	if len(c.buf) > minBuffer {
		c.buf = make([]byte, minBuffer)
	}
	c.head = head{fields: emptied(c.head.fields), known: emptied(c.head.known), length: -1}
	c.req = exchange.Request{Vars: emptied(c.req.Vars)}
	c.res.behind, c.res.early = nil, informer{}
}

// emptied is s without elements, and with room for not too many.
func emptied[T any](s []T) []T {
	if cap(s) > keptItems {
		return nil
	}
	clear(s[:cap(s)])
	return s[:0]
}

// fill reads more into the buffer, which grows up to limit bytes.
func (c *conn) fill(limit int) error {
	if c.w == len(c.buf) {
		switch {
		case c.r > 0:
			c.w = copy(c.buf, c.buf[c.r:c.w])
			c.r = 0
		case len(c.buf) < limit:
			c.buf = append(c.buf, make([]byte, min(len(c.buf), limit-len(c.buf)))...)
		default:
			return errLargeHead
		}
	}
	n, err := c.receive(c.buf[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

func (c *conn) receive(p []byte) (int, error) {
	if c.own != nil {
		return c.own.Read(p)
	}
	return c.nc.Read(p)
}

func (c *conn) send(p []byte) (err error) {
	if c.own != nil {
		_, err = c.own.Write(p)
	} else {
		_, err = c.nc.Write(p)
	}
	return err
}

// readBody reads bytes of the body into p: what is buffered, else from the
// connection.
func (c *conn) readBody(p []byte) (int, error) {
	if c.r < c.w {
		n := copy(p, c.buf[c.r:c.w])
		c.r += n
		return n, nil
	}
	c.arm(feeding, c.s.limits.BodyTimeout)
	if len(p) >= len(c.buf) {
		n, err := c.receive(p)
		c.fed(n)
		return n, err
	}
	c.r, c.w = 0, 0
	err := c.fill(len(c.buf))
	if c.fed(c.w); err != nil {
		return 0, err
	}
	n := copy(p, c.buf[c.r:c.w])
	c.r += n
	return n, nil
}

// readLine reads one line of at most limit bytes that ends in CRLF, and
// returns it without that. It is valid until the next read.
func (c *conn) readLine(limit int) ([]byte, error) {
	scanned := 0
	for {
		if i := bytes.IndexByte(c.buf[c.r+scanned:c.w], '\n'); i >= 0 {
			end := c.r + scanned + i
			if end == c.r || c.buf[end-1] != '\r' || end+1-c.r > limit {
				return nil, errChunk
			}
			line := c.buf[c.r : end-1]
			c.r = end + 1
			return line, nil
		}
		if scanned = c.w - c.r; scanned >= limit {
			return nil, errChunk
		}
		c.arm(feeding, c.s.limits.BodyTimeout)
		err := c.fill(max(len(c.buf), limit))
		if c.fed(c.w - c.r - scanned); err != nil {
			return nil, err
		}
	}
}

// maxWrite is how much is handed to the kernel under one write deadline, so
// that a slow but steady reader of a large answer is not cut.
const maxWrite = 64 << 10

// write writes all of p; each maxWrite bytes may take the write timeout.
func (c *conn) write(p []byte) error {
	for len(p) > 0 {
		n := min(len(p), maxWrite)
		c.armWrite()
		if err := c.send(p[:n]); err != nil {
			return errClientGone
		}
		p = p[n:]
	}
	return nil
}

// armWrite sets the write deadline, as arm does for reads. Any goroutine may
// call it: by FastCGI the one that reads a body answers other records.
func (c *conn) armWrite() {
	if c.cut.Load() {
		return
	}
	d := c.s.limits.WriteTimeout
	by := time.Now().Add(d)
	c.mu.Lock()
	defer c.mu.Unlock()
	if early := by.Sub(c.writeBy); early < 0 || early > d/8 {
		c.writeBy = by
		_ = c.nc.SetWriteDeadline(by) // as in arm
		if c.cut.Load() {
			c.interruptWrite()
		}
	}
}

// interruptWrite makes a write that is pending in another goroutine, and every
// later one, fail.
func (c *conn) interruptWrite() {
	c.cut.Store(true)
	_ = c.nc.SetWriteDeadline(time.Unix(1, 0)) // as in arm
}

// Limits of a lingering close.
const (
	lingerWait  = time.Second      // between two reads
	lingerTotal = 10 * time.Second // in all
)

// linger ends the sending side and throws away what the client still sends
// for a moment. Closing with unread input would make the kernel send a reset:
// the client could lose the answer that it is about to read, and nginx
// answers 502 when it cannot send the whole body.
func (c *conn) linger() {
	type closeWriter interface{ CloseWrite() error }
	if cw, ok := c.nc.(closeWriter); !ok || cw.CloseWrite() != nil {
		return
	}
	if !c.leave() {
		return
	}
	c.rest()
	end := time.Now().Add(lingerTotal)
	for !c.s.draining.Load() {
		by := time.Now().Add(lingerWait)
		if by.After(end) {
			return
		}
		_ = c.nc.SetReadDeadline(by) // as in arm
		if _, err := c.nc.Read(c.buf); err != nil {
			return
		}
	}
}

// reset makes the close that follows visible as an error to the client: what
// it got is not the whole answer.
func (c *conn) reset() {
	if t, ok := c.under().(*net.TCPConn); ok {
		_ = t.SetLinger(0) // best effort: a plain close follows
	}
	if c.secure != nil {
		_ = c.under().Close() // without the goodbye that would make it whole
	}
}
