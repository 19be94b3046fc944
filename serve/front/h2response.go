package front

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"liege/serve/exchange"
)

// h2response is the exchange.Response of one request by HTTP/2. Until more
// than bodyBuffer bytes of body or a Flush have come nothing is handed on, so
// that a failure can still get its own answer.
type h2response struct {
	w   http.ResponseWriter
	ctx context.Context // ends when the client has left, or reset the stream
	rc  *http.ResponseController
	s   *Server

	headReq bool
	status  int
	begun   bool        // Head was called
	replied atomic.Bool // the same, for other goroutines
	noBody  bool        // HEAD, 204, 304
	started bool        // the head was handed on
	fields  []exchange.Field
	buf     []byte // of the body, not yet handed on
	length  int64  // as declared; -1: not
	sent    int64  // of the body, handed on or buffered
	headLen int
	nfields int
	filed   bool
	behind  []exchange.Field // trailers
	torn    bool             // the stream must be reset
	broken  error
	pause   limit // of each Write and Flush
	last    bool  // a deadline holds for what follows
	early   informer

	mu   sync.Mutex
	done bool // net/http's part is not to be touched any more
}

func newH2Response(ctx context.Context, w http.ResponseWriter, s *Server) *h2response {
	r := &h2response{w: w, ctx: ctx, rc: http.NewResponseController(w), s: s, length: -1}
	r.pause.d, r.pause.over = s.limits.WriteTimeout, r.endWrite
	return r
}

// deadline sets one, unless the request is over.
func (r *h2response) deadline(set func(time.Time) error, t time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.done {
		_ = set(t) // fails on a stream that is gone: then what waits for it does
	}
}

// Started implements exchange.Response, and so do the methods below.
func (r *h2response) Started() bool { return r.started }

// Head checks as strictly as that of HTTP/1.1; a reason has no place here.
func (r *h2response) Head(status int, reason string, fields []exchange.Field) error {
	switch {
	case r.begun:
		return bad(errTwoHeads)
	case status < 200 || status > 599:
		return bad(fmt.Errorf("invalid status %d", status))
	case !validValue(reason):
		return bad(fmt.Errorf("invalid reason phrase %.40q", reason))
	}
	kept := make([]exchange.Field, 0, len(fields))
	size := len(":status") + 3
	for i := range fields {
		value, own, err := checkField(&fields[i])
		if err == nil && own == ownLength {
			n, ok := parseLength(value)
			if !ok || r.length >= 0 {
				err = errAnswerLength(value)
			}
			r.length = n
		}
		if err != nil {
			r.length = -1
			return bad(err)
		}
		if own == ownLength || own == ownConnection || oneConnection(fields[i].Name) {
			continue
		}
		kept = append(kept, exchange.Field{Name: fields[i].Name, Value: strings.Clone(value)})
		size += len(fields[i].Name) + len(value)
	}
	r.status, r.begun, r.fields, r.nfields, r.headLen = status, true, kept, len(fields), size
	r.replied.Store(true)
	r.noBody = r.headReq || status == 204 || status == 304
	return nil
}

// oneConnection reports whether a field concerns one connection of HTTP/1.1
// only (RFC 9113 8.2.2), or announces trailers, which are never sent.
func oneConnection(name string) bool {
	return strings.EqualFold(name, "Upgrade") || strings.EqualFold(name, "Trailer") || strings.EqualFold(name, "TE")
}

// commit hands the head on.
func (r *h2response) commit() {
	if r.settle(); r.started || r.broken != nil {
		return
	}
	r.started = true
	h := r.w.Header()
	h["Content-Type"] = nil // else net/http would guess one
	for _, f := range r.fields {
		k := http.CanonicalHeaderKey(f.Name)
		h[k] = append(h[k], f.Value)
	}
	if r.s.draining.Load() {
		h["Connection"] = []string{"close"} // net/http sends GOAWAY instead
	}
	if r.length >= 0 && r.status != 204 && r.status != 304 {
		h["Content-Length"] = []string{strconv.FormatInt(r.length, 10)}
	}
	r.w.WriteHeader(r.status)
}

// settle is response.settle.
func (r *h2response) settle() {
	if !r.early.wait() && r.broken == nil {
		r.broken = errClientGone
	}
}

// Write may keep p's bytes until Flush.
func (r *h2response) Write(p []byte) (int, error) {
	n, err := r.admit(int64(len(p)))
	if err != nil && n == 0 {
		return 0, err
	}
	if r.noBody {
		return len(p), nil
	}
	p = p[:n]
	if !r.started && len(r.buf)+len(p) <= bodyBuffer {
		r.buf = append(r.buf, p...)
		return len(p), err
	}
	r.sendBuffered()
	r.send(p)
	if err == nil {
		err = r.broken
	}
	return len(p), err
}

// admit is response.admit.
func (r *h2response) admit(n int64) (int64, error) {
	switch {
	case r.broken != nil:
		return 0, r.broken
	case !r.begun:
		return 0, bad(errNoHead)
	case r.noBody:
		return 0, nil
	}
	if r.length >= 0 && n > r.length-r.sent {
		n = r.length - r.sent
		r.sent = r.length
		return n, bad(errLongBody)
	}
	r.sent += n
	return n, nil
}

func (r *h2response) sendBuffered() {
	r.commit()
	r.send(r.buf)
	r.buf = nil
}

// send hands p on; each maxWrite bytes may take the write timeout.
func (r *h2response) send(p []byte) {
	for len(p) > 0 && r.broken == nil {
		if !r.last {
			r.pause.begin()
		}
		n, err := r.w.Write(p[:min(len(p), maxWrite)])
		r.pause.end()
		if err != nil {
			r.broken = errClientGone
		}
		p = p[n:]
	}
}

// finishBy sets the deadline for what is left, of which net/http sends a part
// when the handler has returned.
func (r *h2response) finishBy() {
	r.last = true
	r.deadline(r.rc.SetWriteDeadline, time.Now().Add(r.s.limits.WriteTimeout))
}

func (r *h2response) endWrite() { r.deadline(r.rc.SetWriteDeadline, time.Unix(1, 0)) }

// Flush sends what was written.
func (r *h2response) Flush() error {
	if !r.begun {
		return bad(errNoHead)
	}
	r.sendBuffered()
	r.pause.begin()
	defer r.pause.end()
	if r.broken == nil && r.rc.Flush() != nil {
		r.broken = errClientGone
	}
	return r.broken
}

// File copies: the bytes are to be encrypted.
func (r *h2response) File(f exchange.File, off, n int64) error {
	n, err := r.admit(n)
	if n == 0 {
		return err
	}
	r.filed = true
	r.sendBuffered()
	buf := make([]byte, min(n, maxWrite))
	for n > 0 && r.broken == nil {
		m, e := f.ReadAt(buf[:min(n, int64(len(buf)))], off)
		if m == 0 {
			if e == nil {
				e = io.ErrNoProgress
			}
			r.broken = fileError(e)
			break
		}
		if r.send(buf[:m]); r.broken == nil {
			off, n = off+int64(m), n-int64(m)
		}
	}
	if r.broken != nil {
		r.sent -= n
		return r.broken
	}
	return err
}

// Close makes a Write that is pending in another goroutine, and every later
// one, fail.
func (r *h2response) Close() error {
	r.endWrite()
	return nil
}

// finish is response.finish.
func (r *h2response) finish(err error) error {
	r.settle()
	if err == nil {
		err = r.complete()
	}
	if err != nil && !r.started && !errors.Is(r.broken, errClientGone) {
		r.errorPage(err)
	} else if err != nil {
		r.torn = true
	}
	r.pause.stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = true
	return err
}

func (r *h2response) complete() error {
	switch {
	case r.broken != nil:
		return r.broken
	case !r.begun:
		return bad(errNoAnswer)
	case r.length >= 0 && r.sent < r.length && !r.noBody:
		return bad(errShortBody)
	case r.length < 0 && !r.started && !r.noBody:
		r.length = r.sent
	}
	if !r.noBody {
		r.finishBy()
	}
	r.sendBuffered()
	if !r.noBody && r.broken == nil {
		for _, f := range r.behind {
			r.w.Header().Add(http.TrailerPrefix+f.Name, f.Value)
		}
	}
	return r.broken
}

// Trailers implements exchange.Trailerer.
func (r *h2response) Trailers(fields []exchange.Field) {
	r.behind = trailersAmong(fields)
}

// headOnly are fields that no trailer may be, beside those of the framing.
var headOnly = []string{"authorization", "cache-control", "content-encoding", "content-range", "content-type", "expect", "host", "location", "pragma",
	"proxy-authenticate", "proxy-authorization", "range", "set-cookie", "vary", "www-authenticate"}

// trailersAmong are the fields that may come behind a body: those that say
// nothing about the body's type or who may have it, which who reads only the
// head would miss (RFC 9110 6.5.1).
func trailersAmong(fields []exchange.Field) []exchange.Field {
	return slices.DeleteFunc(looseFields(fields), func(f exchange.Field) bool { return slices.Contains(headOnly, strings.ToLower(f.Name)) })
}

// looseFields are the fields that are valid and do not concern the framing or
// the connection: those that may come outside an answer's head.
func looseFields(fields []exchange.Field) (out []exchange.Field) {
	for i := range fields {
		f := &fields[i]
		value, own, err := checkField(f)
		if err == nil && own == notOwn && !oneConnection(f.Name) {
			out = append(out, exchange.Field{Name: f.Name, Value: value})
		}
	}
	return out
}

// Inform implements exchange.Informer.
func (r *h2response) Inform(status int, fields []exchange.Field) {
	if r.begun || r.started || status < 102 || status > 199 {
		return
	}
	kept := looseFields(fields)
	r.early.add(func() bool { return r.inform(status, kept) })
}

// inform sends an informational response. It is false if the client is gone:
// then net/http may still be reading the header, which nobody may touch any
// more.
func (r *h2response) inform(status int, fields []exchange.Field) bool {
	h := r.w.Header()
	for _, f := range fields {
		h.Add(f.Name, f.Value)
	}
	h["Content-Length"] = nil // net/http leaves it out, of a copy: what it reads when the connection ends is not h
	r.pause.begin()
	r.w.WriteHeader(status)
	r.pause.end()
	if r.ctx.Err() != nil {
		return false
	}
	clear(h) // they are of this one
	return true
}

// Watch implements exchange.Watcher: HTTP/2 tells it at any time.
func (r *h2response) Watch(left func()) (stop func()) {
	done := make(chan struct{})
	off := context.AfterFunc(r.ctx, func() { defer close(done); left() })
	return func() {
		if !off() {
			<-done
		}
	}
}

// errorPage answers err instead of what the backend began.
func (r *h2response) errorPage(err error) {
	status, page, fields, _ := r.s.errorAnswer(err)
	r.begun, r.length, r.sent, r.buf, r.broken = false, -1, 0, nil, nil
	if r.Head(status, "", fields) != nil {
		r.torn = true
		return
	}
	_, _ = io.WriteString(r, page) // buffered
	r.finishBy()
	r.sendBuffered()
}
