package front

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"liege/serve/exchange"
)

// HTTP/2 (RFC 9113) is net/http's. It does framing, flow control and HPACK,
// and keeps clients from making it work for nothing:
//
//   - streams that are reset at once (CVE-2023-44487): a handler counts until it
//     has returned, whatever the client did; those that wait for a place are at
//     most four times as many as may run, then the connection ends;
//   - CONTINUATION without end (CVE-2023-45288, as CVE-2024-27316 elsewhere):
//     the connection ends soon after the header has become too large;
//   - control frames that want an answer which is not read (CVE-2019-9512 and
//     its kin): the connection ends after 10,000 of them.
//
// What a request means is decided here, by the code that decides it for
// HTTP/1.1: fields, target and Host are checked as strictly, the same
// variables come of them, and a backend's answer is checked as well.
//
// What a client sends ahead of whoever reads the body lies in net/http, beside
// the bounds of package upload: maxH2Ahead of each request. It is as much
// as the kernel keeps of a connection by HTTP/1.1 that nobody reads (the middle
// value of tcp_rmem); an upload over 100 ms of path has 1.3 MB/s by it. There are
// no more requests than HTTP/1.1 may have connections, so together it is the same.
//
// A client that is silent is asked whether it is there (PING) no sooner than a
// body would be given up, and may take as long to answer as to read: what it
// sends lies before its answer, and a slow line needs its time for that.
//
// A connection may have that of all its requests. With less, bodies that wait
// until an application is free would keep from it the rest of the one that it
// reads, and all of them wait for each other.
const (
	maxStreams = 100       // at once on a connection
	maxH2Ahead = 128 << 10 // bytes that a stream may send ahead
	maxH2Frame = 16 << 10  // the least that the RFC allows
)

// noAccept is a listener on which nobody ever comes.
type noAccept struct{}

func (noAccept) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (noAccept) Close() error              { return nil }
func (noAccept) Addr() net.Addr            { return &net.TCPAddr{} }

// newH2 makes the server whose HTTP/2 is used. Its connections come from us,
// by the hook that net/http has for protocols that ALPN chose; Serve puts that
// in and then finds that nobody comes.
func (s *Server) newH2() (*http.Server, error) {
	hs := &http.Server{
		MaxHeaderBytes: s.limits.HeaderBytes, IdleTimeout: s.limits.IdleTimeout,
		ErrorLog:  slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
		Protocols: new(http.Protocols), TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}},
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReadFrameSize: maxH2Frame,
			MaxReceiveBufferPerConnection: maxStreams * maxH2Ahead, // its comment wants less; TestH2SentAhead says whether it is taken
			MaxReceiveBufferPerStream:     maxH2Ahead,
			WriteByteTimeout:              s.limits.WriteTimeout, SendPingTimeout: s.limits.BodyTimeout, PingTimeout: s.limits.WriteTimeout},
		ConnState: s.h2State,
	}
	hs.Protocols.SetHTTP2(true)
	_ = hs.Serve(noAccept{}) // net.ErrClosed
	if hs.TLSNextProto["h2"] == nil {
		return nil, errors.New("net/http has no HTTP/2 to offer (GODEBUG=http2server=0?)")
	}
	return hs, nil
}

// h2State follows whether a connection is idle.
func (s *Server) h2State(nc net.Conn, st http.ConnState) {
	s.mu.Lock()
	c := s.h2conns[nc]
	s.mu.Unlock()
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch st {
	case http.StateActive:
		c.asked = c.wait != fresh // the first one is that of the preface
		c.wait = busy
		if s.draining.Load() {
			_ = nc.SetReadDeadline(time.Time{}) // as in arm
		}
	case http.StateIdle:
		c.wait, c.since = idle, time.Now()
		if s.draining.Load() { // one that came while it drains, or between two steps of drain
			d := idleGrace
			if !c.asked {
				d = freshGrace
			}
			_ = nc.SetReadDeadline(c.since.Add(d)) // as in arm
		}
	}
}

// serveH2 serves a connection that has chosen HTTP/2, to its end.
func (c *conn) serveH2(ctx context.Context) {
	tc := c.nc.(*tls.Conn)
	c.mu.Lock()
	c.h2, c.buf = true, nil
	_ = tc.SetDeadline(time.Time{}) // as in arm
	if c.s.draining.Load() {
		_ = tc.SetReadDeadline(time.Now().Add(freshGrace)) // as in arm
	}
	c.mu.Unlock()
	c.s.mu.Lock()
	c.s.h2conns[tc] = c
	c.s.mu.Unlock()
	defer func() {
		c.s.mu.Lock()
		delete(c.s.h2conns, tc)
		c.s.mu.Unlock()
	}()
	h := &h2handler{c: c, ctx: ctx, nobody: make(chan struct{}), bodies: make(map[*h2body]struct{})}
	c.mu.Lock()
	c.streams = h
	c.mu.Unlock()
	c.s.h2.TLSNextProto["h2"](c.s.h2, tc, h)
	h.wait()
}

// h2handler serves the requests of one connection. Requests of it run at the
// same time, so they share nothing of conn that changes.
type h2handler struct {
	c   *conn
	ctx context.Context // that of HTTP/1.1: a client that goes ends no request

	mu     sync.Mutex
	n      int                  // streams whose handler runs
	bodies map[*h2body]struct{} // of those
	over   bool                 // the connection has ended
	nobody chan struct{}        // closed when the last of them has returned
}

// ServeHTTP implements http.Handler.
func (h *h2handler) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	s := h.c.s
	r := &exchange.Request{Start: time.Now(), Body: eof{}}
	res := newH2Response(hr.Context(), w, s)
	res.headReq = hr.Method == "HEAD"
	b := &h2body{res: res, body: hr.Body, limit: s.limits.BodyBytes}
	b.pause.d, b.pause.over = s.limits.BodyTimeout, b.endRead
	if !h.enter(b) {
		panic(http.ErrAbortHandler) // net/http starts handlers of a connection that has just ended
	}
	defer h.leave(b)
	var err error
	if n := s.streams.Add(1); n > int64(s.limits.Connections) && !s.evictBody() {
		err = errStreams // as many requests at once as HTTP/1.1 can have
	} else {
		err = h.request(hr, r, b)
	}
	if err != nil {
		r.Vars = []exchange.Var{h.c.peer[0], {Name: "REQUEST_METHOD", Value: hr.Method}, {Name: "REQUEST_URI", Value: hr.RequestURI}}
	} else {
		err = s.serve(h.ctx, h.c.handler, r, res)
	}
	if err = res.finish(err); err != nil {
		r.Info.Err = err
	}
	b.pause.stop()
	s.streams.Add(-1)
	i := &r.Info
	i.Status, i.Bytes, i.Fields, i.Head, i.File = res.status, res.sent, res.nfields, res.headLen, res.filed
	s.cfg.Done(r)
	if res.torn {
		// The stream is reset, so that a client can tell. It is how net/http is
		// told, which says nothing of it to anybody else.
		panic(http.ErrAbortHandler)
	}
}

// enter and leave count a handler; wait waits until none runs, and lets no
// other one begin.
func (h *h2handler) enter(b *h2body) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return false
	}
	h.n++
	h.bodies[b] = struct{}{}
	return true
}

func (h *h2handler) leave(b *h2body) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.bodies, b)
	if h.n--; h.n == 0 && h.over {
		close(h.nobody)
	}
}

func (h *h2handler) wait() {
	h.mu.Lock()
	h.over = true
	if h.n == 0 {
		close(h.nobody)
	}
	h.mu.Unlock()
	<-h.nobody
}

var errStreams = &exchange.StatusError{Status: 503, RetryAfter: time.Second, Err: errors.New("too many requests at once")}

// request fills in r from hr by way of a head, as if it had come by HTTP/1.1.
func (h *h2handler) request(hr *http.Request, r *exchange.Request, b *h2body) error {
	hd := head{method: hr.Method, target: hr.RequestURI, minor: 1, length: -1}
	if err := hd.h2(hr, h.c.s.limits.Fields); err != nil {
		return err
	}
	switch {
	case h.c.misdirected(hd.host):
		return errMisdirected
	case hd.length >= 0 && hd.length != max(hr.ContentLength, 0):
		return errLength // a body that ended with the header
	}
	var err error
	if r.Vars, err = h.c.variablesOf(&hd, nil, "HTTP/2.0"); err != nil {
		return err
	}
	r.Header, r.Modifier1, r.Trailing = hd.fields, h.c.modifier1, true
	switch r.Length = max(hd.length, 0); {
	case hr.ContentLength < 0:
		r.Length = -1
	case hr.ContentLength == 0:
		return nil
	}
	if b.limit > 0 && r.Length > b.limit {
		return errBodyLarge
	}
	r.Body = b
	if len(hr.Trailer) > 0 {
		r.Trailers = func() []exchange.Field { return trailersOf(hr) }
	}
	return nil
}

// trailersOf are the fields behind the body, of those that the head announced:
// net/http takes no others. They are checked as those of the head are.
func trailersOf(hr *http.Request) (out []exchange.Field) {
	for _, name := range slices.Sorted(maps.Keys(hr.Trailer)) {
		values := hr.Trailer[name]
		if len(values) == 0 {
			values = []string{""} // not there yet
		}
		for _, value := range values {
			if n, v, err := field(name + ":" + value); err == nil {
				out = append(out, exchange.Field{Name: n, Value: v})
			}
		}
	}
	return out
}

// h2 checks a request's fields and target, and fills in the rest of h.
func (h *head) h2(hr *http.Request, maxFields int) error {
	for i := range len(h.method) {
		if !methodByte[h.method[i]] {
			return errMethod
		}
	}
	if h.method == "CONNECT" {
		return errConnect
	}
	if h.target == "" || !validTarget(h.target) || h.target[0] != '/' && h.target != "*" {
		return errTarget // RFC 9113 8.3.1: path and query, or the asterisk
	}
	names := make([]string, 0, len(hr.Header))
	for name := range hr.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range hr.Header[name] {
			if len(h.fields) >= maxFields {
				return errManyFields
			}
			n, v, err := field(name + ":" + value)
			if err != nil {
				return err
			}
			k := lookup(n)
			h.fields, h.known = append(h.fields, exchange.Field{Name: n, Value: v}), append(h.known, k)
			if err := h.take(k, v); err != nil {
				return err
			}
		}
	}
	return h.h2Host(hr.Host)
}

// h2Host compares :authority with Host, if both are there (RFC 9113 8.3.1),
// and checks the rest.
func (h *head) h2Host(authority string) error {
	switch {
	case authority == "":
		return errNoHost
	case !validHost(authority):
		return errHost
	case h.host != "" && h.host != authority:
		return errHostConflict
	}
	h.host, h.upgrade, h.expect = authority, false, false
	if h.chunked { // refused by net/http already
		return errTransferEncoding
	}
	return h.checkTarget()
}

// h2body is the body of a request by HTTP/2.
type h2body struct {
	res    *h2response
	body   io.Reader
	limit  int64 // 0: none
	total  int64
	pause  limit // of each Read
	err    error
	closed atomic.Bool
	waits  bool // a Read has no timeout
}

// Wait implements exchange.Patient.
func (b *h2body) Wait() { b.waits = true }

// Read implements io.Reader. Each call waits at most the body timeout.
func (b *h2body) Read(p []byte) (int, error) {
	switch {
	case b.closed.Load():
		return 0, errBodyClosed
	case b.err != nil || len(p) == 0:
		return 0, b.err
	}
	if !b.waits {
		b.pause.begin()
	}
	n, err := b.body.Read(p)
	b.pause.end()
	b.total += int64(n)
	switch {
	case b.limit > 0 && b.total > b.limit:
		n, b.err = 0, errBodyLarge
	case err == nil:
	case errors.Is(err, io.EOF):
		b.err = io.EOF
	case b.closed.Load():
		b.err = errBodyClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		b.err = errBodyTimeout
	default:
		b.err = errCutBody
	}
	if n > 0 {
		return n, nil
	}
	return 0, b.err
}

// Close makes a Read that is pending in another goroutine, and every later
// one, fail.
func (b *h2body) Close() error {
	if !b.closed.Swap(true) {
		b.endRead()
	}
	return nil
}

func (b *h2body) endRead() { b.res.deadline(b.res.rc.SetReadDeadline, time.Unix(1, 0)) }
