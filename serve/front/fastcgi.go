package front

import (
	"context"
	"errors"
	"math"
	"time"

	"liege/serve/exchange"
)

// Record types, roles, flags and statuses of FastCGI (its specification,
// section 8).
const (
	fcgiVersion      = 1
	fcgiBegin        = 1
	fcgiAbort        = 2
	fcgiEnd          = 3
	fcgiParams       = 4
	fcgiStdin        = 5
	fcgiStdout       = 6
	fcgiData         = 8
	fcgiGetValues    = 9
	fcgiValuesResult = 10
	fcgiUnknown      = 11

	fcgiResponder = 1
	fcgiKeepConn  = 1

	fcgiComplete    = 0
	fcgiCantMpx     = 1
	fcgiUnknownRole = 3
)

var (
	errFastCGI       = &refusal{400, "malformed FastCGI request"}
	errSpokenFastCGI = &refusal{400, "this socket speaks FastCGI, not HTTP; " +
		"write http-socket = instead of fastcgi-socket =, or in nginx fastcgi_pass instead of proxy_pass"}
	errFastCGIRole = errors.New("a FastCGI role other than responder")
	errAborted     = errors.New("the web server gave the request up")
)

// serveFastCGI serves the requests of one connection, one after the other:
// a second one at the same time is told that this cannot be (the
// specification's FCGI_CANT_MPX_CONN; no web server tries).
func (c *conn) serveFastCGI(ctx context.Context, nph bool) {
	f := &fcgiConn{Conn: c.nc, c: c}
	c.nc, c.raw, c.own = f, nil, nil // no sendfile(2): the bytes go in records
	style := statusField
	if nph {
		style = statusLine
	}
	for c.oneFastCGI(ctx, f, style) {
	}
}

// oneFastCGI serves one request, and reports whether another may follow.
func (c *conn) oneFastCGI(ctx context.Context, f *fcgiConn, style headStyle) bool {
	length, err := c.readFastCGI(f)
	switch {
	case errors.Is(err, errSpokenFastCGI):
		c.nc = f.Conn
		c.refuseGateway(err, statusLine)
		c.linger()
		return false
	case errors.Is(err, errFastCGIRole):
		return f.end(fcgiUnknownRole) == nil && f.keep
	case err != nil:
		if f.id != 0 && !errors.Is(err, errQuiet) {
			c.refuseGateway(err, style)
			_ = f.end(fcgiComplete) // the connection ends in any case
			c.linger()
		}
		return false
	}
	c.req.Header, c.req.Info, c.req.Length, c.req.Body = nil, exchange.Info{}, length, eof{}
	c.req.Modifier1 = c.modifier1
	if length != 0 {
		c.body.start(max(length, 0), false)
		if length < 0 {
			c.body.startToEnd()
		}
		c.req.Body = &c.body
	}
	c.res.begin(c.minorVersion(), f.keep, c.req.Get("REQUEST_METHOD") == "HEAD", true)
	c.res.style, c.res.single, c.res.ended = style, true, true
	c.answer(ctx)
	whole, keep := !c.cutAnswer(), c.res.keep && f.keep
	c.done()
	if !whole {
		return false // without its end, so that the web server can tell
	}
	if f.end(fcgiComplete) != nil {
		return false
	}
	c.served = true
	keep = keep && (length == 0 || !c.body.closed.Load())
	if !keep && !f.stdinEnded {
		c.linger()
	}
	return keep
}

// readFastCGI reads one request up to its body, and returns the length of
// that: -1 if it is not known.
func (c *conn) readFastCGI(f *fcgiConn) (int64, error) {
	if err := c.beginFastCGI(f); err != nil {
		return 0, err
	}
	c.req.Start = time.Now()
	by := c.req.Start.Add(c.s.limits.HeaderTimeout)
	var params []byte
	for {
		if err := c.armHead(by); err != nil {
			return 0, err
		}
		kind, content, err := f.record(c.s.limits.HeaderBytes - len(params))
		switch {
		case err != nil:
			return 0, c.whyHead(err)
		case kind == fcgiAbort:
			return 0, errAborted
		case kind != fcgiParams:
			return 0, errFastCGI
		case len(content) == 0:
			return c.variablesFastCGI(f, string(params), by)
		}
		params = append(params, content...)
	}
}

// beginFastCGI waits for the record that begins a request, and passes over
// what is left of the one before.
func (c *conn) beginFastCGI(f *fcgiConn) error {
	f.id, f.stdinEnded = 0, false
	c.rest()
	wait, d := fresh, c.s.limits.HeaderTimeout
	if c.served {
		wait, d = idle, c.s.limits.IdleTimeout
	}
	c.arm(wait, d)
	if f.skip(f.left+f.pad) != nil {
		return errQuiet
	}
	f.left, f.pad = 0, 0
	for {
		h, err := f.header()
		switch {
		case errors.Is(err, errSpokenFastCGI):
			return err
		case err != nil:
			return errQuiet
		}
		if h.kind != fcgiBegin || h.id == 0 {
			if f.other(h) != nil {
				return errQuiet
			}
			continue
		}
		b, err := f.content(h)
		if err != nil || len(b) != 8 {
			return errQuiet
		}
		f.id, f.keep = h.id, b[2]&fcgiKeepConn != 0
		if b[0] != 0 || b[1] != fcgiResponder {
			return errFastCGIRole
		}
		return nil
	}
}

// variablesFastCGI takes names and values over into the request.
func (c *conn) variablesFastCGI(f *fcgiConn, s string, by time.Time) (int64, error) {
	c.req.Vars = c.req.Vars[:0]
	for s != "" {
		n, rest, ok := fcgiSize(s)
		if !ok {
			return 0, errFastCGI
		}
		m, rest, ok := fcgiSize(rest)
		if !ok || n > len(rest) || m > len(rest)-n {
			return 0, errFastCGI
		}
		if err := c.variable(rest[:n], rest[n:n+m]); err != nil {
			return 0, err
		}
		s = rest[n+m:]
	}
	if c.req.Get("REQUEST_METHOD") == "" {
		return 0, errFastCGI
	}
	c.located()
	text := c.req.Get("CONTENT_LENGTH")
	length, err := packetLength(text)
	if err != nil {
		return 0, err
	}
	if m := c.s.limits.BodyBytes; m > 0 && length > m {
		return 0, errBodyLarge
	}
	if text != "" {
		return length, nil
	}
	// The end of the stream is the end of the body: nginx says no length when
	// it passes a chunked body on as it comes.
	if err := c.armHead(by); err != nil {
		return 0, err
	}
	if err := f.nextStdin(); err != nil {
		return 0, c.whyHead(err)
	}
	if f.stdinEnded {
		return 0, nil
	}
	return -1, nil
}

// fcgiSize takes a size of one byte, or of four with the highest bit set, off s.
func fcgiSize(s string) (n int, rest string, ok bool) {
	switch {
	case s == "":
		return 0, "", false
	case s[0] < 0x80:
		return int(s[0]), s[1:], true
	case len(s) < 4:
		return 0, "", false
	}
	return int(s[0]&0x7f)<<24 | int(s[1])<<16 | int(s[2])<<8 | int(s[3]), s[4:], true
}

// startToEnd makes b a body that ends where the connection's reads do.
func (b *body) startToEnd() {
	b.left, b.toEnd, b.err = math.MaxInt64, true, nil
}
