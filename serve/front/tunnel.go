package front

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"liege/serve/exchange"
)

// errNoTunnel is the answer where a connection cannot become a tunnel.
var errNoTunnel = errors.New("the connection cannot become a tunnel: the request has a body, or is of HTTP/1.0")

// Tunnel implements exchange.Tunneler. With status 101 the head keeps the
// fields Connection and Upgrade, which are the front's own in every other
// answer.
func (r *response) Tunnel(status int, reason string, fields []exchange.Field) (exchange.Stream, error) {
	r.gate.Lock()
	defer r.gate.Unlock()
	switch {
	case r.begun:
		return nil, bad(errTwoHeads)
	case r.c.req.Length != 0 || r.single || r.minor == 0 && !r.gateway:
		return nil, &exchange.StatusError{Status: 400, Err: errNoTunnel}
	case status != 101 && status/100 != 2:
		return nil, bad(fmt.Errorf("invalid status %d of a tunnel", status))
	case !validValue(reason):
		return nil, bad(fmt.Errorf("invalid reason phrase %.40q", reason))
	}
	if reason == "" {
		reason = "Switching Protocols"
	}
	out := append(r.out[:0], "HTTP/1.1 "...)
	out = strconv.AppendInt(out, int64(status), 10)
	out = append(append(append(out, ' '), reason...), "\r\n"...)
	var err error
	for i := range fields {
		f := &fields[i]
		if status == 101 && (strings.EqualFold(f.Name, "Connection") || strings.EqualFold(f.Name, "Upgrade")) {
			if !validValue(f.Value) {
				return nil, bad(fmt.Errorf("invalid value of header field %s: %.40q", f.Name, f.Value))
			}
			out = append(append(append(append(out, f.Name...), ": "...), f.Value...), "\r\n"...)
			continue
		}
		if out, err = r.appendField(out, f); err != nil {
			return nil, bad(err)
		}
	}
	r.begun, r.framed, r.framing, r.status, r.keep, r.length = true, true, untilEnd, status, false, -1
	r.out = append(out, "\r\n"...)
	r.send()
	if r.broken != nil {
		return nil, r.broken
	}
	return r.c.tunnel(), nil
}

// tunnel takes the read deadline off: the connection waits for its peer as
// long as that lives, which TCP keep-alive finds out.
func (c *conn) tunnel() *stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readBy = time.Time{}
	_ = c.nc.SetReadDeadline(c.readBy) // as in arm
	return &stream{c}
}

// stream is a conn as an exchange.Stream: one goroutine reads, one writes.
type stream struct{ c *conn }

func (s *stream) Read(p []byte) (int, error) {
	if c := s.c; c.r < c.w {
		n := copy(p, c.buf[c.r:c.w])
		c.r += n
		return n, nil
	}
	return s.c.nc.Read(p)
}

// Write writes all of p; each maxWrite bytes may take the write timeout.
func (s *stream) Write(p []byte) (int, error) {
	if err := s.c.write(p); err != nil {
		return 0, err
	}
	s.c.res.sent += int64(len(p))
	return len(p), nil
}

func (s *stream) CloseWrite() error {
	if cw, ok := s.c.nc.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.New("the connection cannot be closed by half")
}

// Close makes what is pending in either direction fail. The connection itself
// is closed by the goroutine that serves it.
func (s *stream) Close() error {
	s.c.interrupt()
	s.c.interruptWrite()
	return nil
}
