package worker

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"liege/serve/exchange"
)

// prepare makes c the call of r and its packet.
func (c *call) prepare(r *exchange.Request, w exchange.Response, seq uint64) error {
	body, err := smallBody(r)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.id = seq<<16 | uint64(c.index)
	c.state, c.r, c.w, c.left = queued, r, w, -1
	c.live.Store(c.id)
	c.grip.set(c.id, r.Body, w)
	c.nobody = r.Get("REQUEST_METHOD") == "HEAD"
	c.buf = appendEnviron(c.buf[:0], c.id, r, body)
	if len(c.buf) > maxPacket {
		c.vars = c.buf
		c.buf = appendLarge(nil, c.id)
	}
	return nil
}

// smallBody reads a body that fits a packet: so a worker is not held up by a
// client that sends it slowly.
func smallBody(r *exchange.Request) ([]byte, error) {
	if r.Length <= 0 || r.Length > maxPacket/2 {
		return nil, nil
	}
	body := make([]byte, r.Length)
	if _, err := io.ReadFull(r.Body, body); err != nil {
		if _, ok := errors.AsType[*exchange.StatusError](err); ok {
			return nil, err
		}
		return nil, &exchange.StatusError{Status: 400, Err: fmt.Errorf("body of the request: %w", err)}
	}
	return body, nil
}

// appendEnviron appends the request as the dict that becomes its environ.
func appendEnviron(b []byte, id uint64, r *exchange.Request, body []byte) []byte {
	b = appendDict(b)
	b = appendID(b, id)
	scheme := scheme{}
	for i := range r.Vars {
		v := &r.Vars[i]
		scheme.see(v)
		b = appendNative(appendNative(b, v.Name), v.Value)
	}
	b = appendNative(appendNative(b, "wsgi.url_scheme"), scheme.String())
	b = appendNative(b, "wsgi.input")
	switch {
	case r.Length == 0:
		b = appendNone(b)
	case body != nil:
		b = appendBytes(b, body)
	default:
		b = appendBool(b, true)
	}
	if r.Length < 0 {
		b = appendBool(appendNative(b, "wsgi.input_terminated"), true)
	}
	return appendDictEnd(b)
}

func appendID(b []byte, id uint64) []byte {
	b = appendNative(b, "liege.id")
	var raw [8]byte
	for i := range raw {
		raw[i] = byte(id >> (8 * i))
	}
	return appendBytes(b, raw[:])
}

// appendLarge appends the packet of a request whose variables the worker must
// ask for.
func appendLarge(b []byte, id uint64) []byte {
	b = appendID(appendDict(b), id)
	return appendDictEnd(appendBool(appendNative(b, "liege.large"), true))
}

// scheme finds wsgi.url_scheme as uWSGI does: UWSGI_SCHEME, then
// X-Forwarded-Proto, else "https" if HTTPS or X-Forwarded-SSL say on or 1.
type scheme struct {
	named, forwarded string
	on               bool
}

func (s *scheme) see(v *exchange.Var) {
	switch v.Name {
	case "UWSGI_SCHEME":
		s.named = v.Value
	case "HTTP_X_FORWARDED_PROTO":
		s.forwarded = v.Value
	case "HTTPS", "HTTP_X_FORWARDED_SSL":
		s.on = s.on || v.Value == "1" || len(v.Value) >= 2 && strings.EqualFold(v.Value[:2], "on")
	}
}

func (s *scheme) String() string {
	for _, v := range []string{s.named, s.forwarded} {
		// Anything else a client may write there is not a scheme of ours.
		if v == "http" || v == "https" {
			return v
		}
	}
	if s.on {
		return "https"
	}
	return "http"
}
