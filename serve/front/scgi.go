package front

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"time"

	"liege/serve/exchange"
)

// SCGI (python.ca/scgi/protocol.txt): a netstring of names and values, each
// ended by NUL, then the body. The first name is CONTENT_LENGTH, one is SCGI
// with the value 1. The answer is that of a CGI program, ended by the
// connection's end.

var (
	errSCGI       = &refusal{400, "malformed SCGI request"}
	errSpokenSCGI = &refusal{400, "this socket speaks SCGI, not HTTP; " +
		"write http-socket = instead of scgi-socket =, or in nginx scgi_pass instead of proxy_pass"}
)

// serveSCGI serves the one request of a connection.
func (c *conn) serveSCGI(ctx context.Context, nph bool) {
	style := statusField
	if nph {
		style = statusLine
	}
	length, err := c.readSCGI()
	if m := c.s.limits.BodyBytes; err == nil && m > 0 && length > m {
		err = errBodyLarge
	}
	if err != nil {
		if errors.Is(err, errSpokenSCGI) {
			style = statusLine
		}
		c.refuseGateway(err, style)
		c.linger()
		return
	}
	c.req.Header, c.req.Info, c.req.Length, c.req.Body = nil, exchange.Info{}, length, eof{}
	c.req.Modifier1 = c.modifier1
	if length > 0 {
		c.body.start(length, false)
		c.req.Body = &c.body
	}
	c.res.begin(c.minorVersion(), false, c.req.Get("REQUEST_METHOD") == "HEAD", true)
	c.res.style, c.res.single = style, true
	c.answer(ctx)
	c.done()
	if c.unread(length) {
		c.linger()
	}
}

// readSCGI reads the names and values, within the header timeout, and returns
// the length of the body.
func (c *conn) readSCGI() (int64, error) {
	if err := c.firstBytes(); err != nil {
		return 0, err
	}
	by := time.Now().Add(c.s.limits.HeaderTimeout)
	c.req.Start = time.Now()
	for {
		b := c.buf[:c.w]
		if spokenHTTP(b) {
			c.s.hint(hintHTTP, "HTTP came to an SCGI listener", "http-socket = instead of scgi-socket =, or in nginx scgi_pass instead of proxy_pass", c.nc)
			return 0, errSpokenSCGI
		}
		start, size, err := netstring(b)
		switch {
		case err != nil:
			return 0, err
		case size > c.s.limits.HeaderBytes:
			return 0, errLargeHead
		case start > 0 && len(b) > start+size:
			if b[start+size] != ',' {
				return 0, errSCGI
			}
			c.r = start + size + 1
			return c.variablesSCGI(string(b[start : start+size]))
		}
		if err := c.more(max(start+size+1, minBuffer), by); err != nil {
			return 0, err
		}
	}
}

// netstring reads the length that b begins with. start is 0 as long as it is
// not complete.
func netstring(b []byte) (start, size int, err error) {
	const digits = 7
	i := bytes.IndexByte(b[:min(len(b), digits+1)], ':')
	end := i
	if i < 0 {
		end = min(len(b), digits)
	}
	for _, d := range b[:end] {
		if !digit(d) {
			return 0, 0, errSCGI
		}
		size = size*10 + int(d-'0')
	}
	switch {
	case i == 0, i > 1 && b[0] == '0', i < 0 && len(b) > digits:
		return 0, 0, errSCGI
	case i < 0:
		return 0, 0, nil
	}
	return i + 1, size, nil
}

// variablesSCGI takes the names and values over into the request.
func (c *conn) variablesSCGI(s string) (length int64, err error) {
	c.req.Vars = c.req.Vars[:0]
	first, marked := true, false
	for s != "" {
		name, rest, ok := strings.Cut(s, "\x00")
		if !ok {
			return 0, errSCGI
		}
		value, rest, ok := strings.Cut(rest, "\x00")
		if !ok {
			return 0, errSCGI
		}
		s = rest
		switch {
		case first:
			// What ends the body is said once, and first.
			if name != "CONTENT_LENGTH" {
				return 0, errSCGI
			}
			if length, err = packetLength(value); err != nil {
				return 0, err
			}
			first = false
		case name == "CONTENT_LENGTH":
			n, err := packetLength(value)
			if err != nil || n != length && value != "" {
				return 0, errTwoLengths
			}
			continue
		case name == "SCGI":
			marked = value == "1"
			continue
		}
		if err := c.variable(name, value); err != nil {
			return 0, err
		}
	}
	if first || !marked || c.req.Get("REQUEST_METHOD") == "" {
		return 0, errSCGI
	}
	c.located()
	return length, nil
}
