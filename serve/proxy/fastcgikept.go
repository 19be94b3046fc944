package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"liege/serve/exchange"
)

// FastCGIConn is a connection to a FastCGI responder that takes one request
// after the other on it (FCGI_KEEP_CONN).
type FastCGIConn struct {
	nc   *conn
	recs *bufio.Reader // records
	out  *bufio.Reader // what they say
	from fcgiReader
	used bool
}

// DialFastCGI connects to a responder at addr, as Client does elsewhere.
func (c *Client) DialFastCGI(ctx context.Context, addr string) (*FastCGIConn, error) {
	nc, err := c.dial(ctx, addr)
	if err != nil {
		return nil, upstream(addr, err)
	}
	f := &FastCGIConn{nc: nc, recs: bufio.NewReaderSize(nc, 16<<10)}
	f.out = bufio.NewReaderSize(&f.from, pieceSize)
	return f, nil
}

// Used reports whether a request was sent over it before: then it may have
// been closed meanwhile.
func (f *FastCGIConn) Used() bool { return f.used }

// Close closes it.
func (f *FastCGIConn) Close() { _ = f.nc.Close() } // nothing is written any more

// Control calls fn with the descriptor.
func (f *FastCGIConn) Control(fn func(fd uintptr)) {
	if sc, ok := f.nc.Conn.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			_ = raw.Control(fn) // fails on a closed connection
		}
	}
}

// AppendParam appends a variable as FastCGI wants it (section 3.4).
func AppendParam(b []byte, name, value string) []byte {
	b = append(appendSize(appendSize(b, len(name)), len(value)), name...)
	return append(b, value...)
}

// Trip is how one request went over a FastCGIConn.
type Trip struct {
	Heard bool  // something of an answer has come
	Shut  bool  // it was closed before a script can have begun; of a streamed body nothing was read
	Again bool  // the connection may take another request
	Rest  error // why what the responder still says was not read to its end
}

// Over sends a request over f and answers with what the responder says. params
// are its variables, r's body its input; small says that the body is in
// memory. name is the responder's in messages and in the log.
//
// A responder may answer, and close the connection, before all was sent: it
// has the body when it has CONTENT_LENGTH bytes. So what it says counts, and
// not whether the rest could be sent.
//
// When the client is gone, what the responder says is read to its end all the
// same: it is busy until then.
func (c *Client) Over(ctx context.Context, f *FastCGIConn, name string, params []byte, r *exchange.Request, w exchange.Response, small bool) (Trip, error) {
	said := &complaint{log: func(line string) { c.log.Warn(name+" says", "text", line) }}
	defer said.end()
	f.used, f.nc.addr = true, name
	f.from = fcgiReader{br: f.recs, said: said}
	f.out.Reset(&f.from)
	stop := context.AfterFunc(ctx, func() { f.nc.Close() })
	defer stop()
	var t Trip
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	s := sending{w: f.nc, b: (*buf)[:0]}
	err := s.head(params)
	if small || r.Length == 0 {
		if err == nil {
			err = s.body(r.Body, false)
		}
	} else if err == nil { // a client may take its time for the body, php-cgi does not wait for a request
		err = s.flush()
	}
	switch {
	case err == nil:
	case !s.begun || !Unanswered(err):
		t.Shut = !s.begun && Unanswered(err)
		return t, upstream(name, err)
	}
	if small || r.Length == 0 {
		rerr := c.respond(r, w, f, &t)
		if err != nil { // part of the body is on its way
			f.nc.Close()
			return t, rerr
		}
		f.finish(&t)
		return t, rerr
	}
	return c.overBody(r, w, f, &s)
}

// overBody is the rest of Over for a body that is streamed.
func (c *Client) overBody(r *exchange.Request, w exchange.Response, f *FastCGIConn, s *sending) (t Trip, err error) {
	b := newBody(r, f.nc)
	sent := make(chan error, 1)
	go func() { // ended below
		err := s.body(b, true)
		if b.failed() {
			f.nc.Close() // it must not take a part for the whole
		}
		sent <- err
	}()
	err = c.respond(r, w, f, &t)
	whole := b.ended()
	cause := b.take() // a responder may say all without having read all
	serr := <-sent
	if !whole || serr != nil {
		f.nc.Close()
		if err != nil && cause != nil && !w.Started() {
			return t, cause
		}
		return t, err
	}
	f.finish(&t)
	return t, err
}

// sending is a request on its way to a responder.
type sending struct {
	w     io.Writer
	b     []byte // not yet written
	left  int    // bytes of b up to the head's end, once that is in b
	whole bool   // the head's end is in b, or was
	begun bool   // the head was written whole: a script may run
}

func (s *sending) flush() error {
	n, err := s.w.Write(s.b)
	s.begun = s.begun || s.whole && n >= s.left
	s.b, s.left = s.b[:0], 0
	return err
}

// head puts the beginning of a request and its variables into b.
func (s *sending) head(params []byte) error {
	s.b = appendRecord(s.b, fcgiBegin, []byte{0, responder, 1, 0, 0, 0, 0, 0}) // keep the connection
	for len(params) > 0 {
		n := min(len(params), pieceSize-1<<10)
		if len(s.b)+n+64 > cap(s.b) {
			if err := s.flush(); err != nil {
				return err
			}
		}
		s.b = appendRecord(s.b, fcgiParams, params[:n])
		params = params[n:]
	}
	s.b = appendRecord(s.b, fcgiParams, nil)
	s.left, s.whole = len(s.b), true
	return nil
}

// body sends the body and its end: what is in memory in as few pieces as
// possible, what is streamed as it comes.
func (s *sending) body(from io.Reader, streamed bool) error {
	const head, least = 8, 4 << 10
	for {
		if cap(s.b)-len(s.b) < least || streamed && len(s.b) > 0 {
			if err := s.flush(); err != nil {
				return err
			}
		}
		at := len(s.b)
		n, err := from.Read(s.b[at+head : min(cap(s.b)-head, at+head+pieceSize)])
		if n > 0 {
			s.b = appendRecordHead(s.b, fcgiStdin, n)[:at+head+n]
		}
		if errors.Is(err, io.EOF) {
			s.b = appendRecord(s.b, fcgiStdin, nil)
			return s.flush()
		}
		if err != nil {
			return err
		}
	}
}

func appendRecordHead(b []byte, kind byte, n int) []byte {
	return append(b, 1, kind, 0, fcgiID, byte(n>>8), byte(n), 0, 0)
}

func appendRecord(b []byte, kind byte, content []byte) []byte {
	return append(appendRecordHead(b, kind, len(content)), content...)
}

// respond reads the answer and sends it on.
func (c *Client) respond(r *exchange.Request, w exchange.Response, f *FastCGIConn, t *Trip) error {
	if _, err := f.out.Peek(1); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errNoAnswer
		}
		return upstream(f.nc.addr, err)
	}
	t.Heard = true
	h := &f.nc.head
	if err := h.read(f.out, true); err != nil {
		return upstream(f.nc.addr, err)
	}
	if err := f.from.settle(); err != nil {
		return upstream(f.nc.addr, err)
	}
	if f.from.done && h.length < 0 && !h.chunked {
		h.length = int64(f.out.Buffered()) // all of it is here
	}
	x := trip{c: c, r: r, w: w, nc: f.nc, method: r.Get("REQUEST_METHOD")}
	return x.relay(h, f.out)
}

// settle goes on to the next output, or to the end, as far as it has come.
func (f *fcgiReader) settle() error {
	for f.left == 0 && !f.done && f.br.Buffered() >= f.pad+8 {
		if err := f.next(); err != nil {
			return err
		}
	}
	return nil
}

// finish reads what is left of an answer: the responder is at it until then.
func (f *FastCGIConn) finish(t *Trip) {
	if !t.Heard {
		f.nc.Close()
		return
	}
	_, t.Rest = io.Copy(io.Discard, &f.from)
	if t.Again = t.Rest == nil && f.from.done; !t.Again {
		f.nc.Close()
	}
}

// PingFastCGI asks the responder at addr what it can do (FCGI_GET_VALUES,
// section 4.1), and returns when it has answered.
func (c *Client) PingFastCGI(ctx context.Context, addr string) error {
	nc, err := c.dial(ctx, addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	nc.open() // as long as ctx
	b := []byte{1, fcgiGetValues, 0, 0, 0, 16, 0, 0, 14, 0}
	b = append(b, "FCGI_MAX_CONNS"...)
	if _, err := nc.Write(b); err != nil {
		return err
	}
	var head [8]byte
	if _, err := io.ReadFull(nc, head[:]); err != nil {
		return err
	}
	if head[0] != 1 || head[1] != fcgiGetValuesResult {
		return fmt.Errorf("no FastCGI answer: % x", head)
	}
	return nil
}

// Record types of the connection itself.
const (
	fcgiGetValues       = 9
	fcgiGetValuesResult = 10
)
