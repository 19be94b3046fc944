// Package front brings requests in and answers out: HTTP/1.1 (RFC 9110, 9112)
// and the uwsgi protocol, over TCP and unix sockets, with every timeout and
// size bounded.
//
// There is one parser for HTTP, strict by construction: what is ambiguous is
// refused, never repaired, and the connection ends after every refusal. What
// the backends see is rebuilt from what was parsed: CGI variables, a body
// whose end is known. What a backend answers is checked as strictly: it names
// status, fields and bytes, and the front alone does the framing.
//
// A goroutine serves one connection. Run owns them all: it returns when the
// last is gone.
package front

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"liege/serve/exchange"
	"liege/vassal"
)

// Config is what a Server needs. All of it is required, but for Stats.
type Config struct {
	Hostname string // SERVER_NAME
	Limits   vassal.HTTPLimits
	Closed   func()        // called when no more is accepted; nil: nobody asks
	Drain    time.Duration // how long requests may take to finish once Run's context is done
	Handler  exchange.Handler
	// Done is called once for each request when its answer is complete or was
	// cut short, with r.Info filled in; also for a request that was refused,
	// which has few variables. It must not keep r.
	Done  func(r *exchange.Request)
	Stats func() []byte // what a stats listener sends
	Log   *slog.Logger
}

// Listener is one listening socket and what is spoken on it.
type Listener struct {
	net.Listener
	Protocol vassal.Protocol
}

// Server serves listeners. Make one with New.
type Server struct {
	cfg      Config
	limits   vassal.HTTPLimits
	hostname string
	handler  exchange.Handler
	dateLine atomic.Pointer[dateLine]
	draining atomic.Bool
	active   atomic.Int64
	hinted   [hints]atomic.Int64 // unix time of the last such line

	mu    sync.Mutex
	conns map[*conn]struct{}
}

// New returns a Server that listens to nothing yet.
func New(cfg Config) *Server {
	return &Server{cfg: cfg, limits: Complete(cfg.Limits), hostname: cfg.Hostname,
		handler: cfg.Handler, conns: make(map[*conn]struct{})}
}

// Complete returns l with what is zero replaced by the default: 0 is never
// "no limit", but for BodyBytes.
func Complete(l vassal.HTTPLimits) vassal.HTTPLimits {
	for _, d := range [...]struct {
		at   *time.Duration
		dflt time.Duration
	}{{&l.HeaderTimeout, 20 * time.Second}, {&l.BodyTimeout, 30 * time.Second},
		{&l.WriteTimeout, 30 * time.Second}, {&l.IdleTimeout, 60 * time.Second}} {
		if *d.at <= 0 {
			*d.at = d.dflt
		}
	}
	if l.HeaderBytes <= 0 {
		l.HeaderBytes = 32 << 10
	}
	if l.Fields <= 0 {
		l.Fields = 128
	}
	if l.Connections <= 0 {
		l.Connections = 4096
	}
	return l
}

// Active is the number of requests being served.
func (s *Server) Active() int { return int(s.active.Load()) }

// Run accepts and serves until ctx is done or a listener breaks; then it
// accepts no more, finishes what was accepted within the drain time, cuts the
// rest, and returns when all connections are gone. It closes the listeners.
func (s *Server) Run(ctx context.Context, ls []Listener) error {
	accept, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	base, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	slots := make(chan struct{}, s.limits.Connections+len(ls)-1) // each loop holds one while it waits
	var loops, conns sync.WaitGroup
	for i := range ls {
		unblock := context.AfterFunc(accept, func() { _ = ls[i].Close() }) // ends Accept
		defer unblock()
		loops.Go(func() {
			if err := s.accept(accept, base, &ls[i], slots, &conns); err != nil {
				stop(err)
			}
		})
	}
	<-accept.Done()
	s.drain()
	loops.Wait()
	if s.cfg.Closed != nil {
		s.cfg.Closed()
	}
	end := time.AfterFunc(s.cfg.Drain, func() { cut(); s.cutAll() })
	conns.Wait()
	end.Stop()
	if err := context.Cause(accept); err != nil && !errors.Is(err, ctx.Err()) {
		return err
	}
	return nil
}

// accept takes connections from l until ctx is done.
func (s *Server) accept(ctx, base context.Context, l *Listener, slots chan struct{}, conns *sync.WaitGroup) error {
	for {
		if !s.slot(ctx, slots) {
			return nil
		}
		nc, err := l.Accept()
		if err != nil {
			<-slots
			switch {
			case ctx.Err() != nil:
				return nil
			case !passing(err):
				return fmt.Errorf("%s: accept: %w", l.Addr(), err)
			}
			s.hint(hintAccept, "cannot accept a connection: "+err.Error(), "raise limit-nofile or lower the number of connections", nil)
			pause(ctx, 50*time.Millisecond)
			continue
		}
		conns.Go(func() {
			defer func() { <-slots }()
			s.one(base, nc, l.Protocol)
		})
	}
}

// slot waits until there may be another connection. When there are as many as
// there may be, the one that has been idle longest makes room.
func (s *Server) slot(ctx context.Context, slots chan struct{}) bool {
	for {
		select {
		case slots <- struct{}{}:
			return true
		default:
		}
		s.evict()
		t := time.NewTimer(100 * time.Millisecond)
		select {
		case slots <- struct{}{}:
			t.Stop()
			return true
		case <-ctx.Done():
			t.Stop()
			return false
		case <-t.C:
		}
	}
}

// passing reports whether accept(2) may succeed later after err: the peer is
// gone already (accept(2), "Error handling"), or memory or descriptors ran
// out.
func passing(err error) bool {
	for _, e := range [...]syscall.Errno{syscall.ECONNABORTED, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS,
		syscall.ENOMEM, syscall.EPERM, syscall.EPROTO, syscall.ENETDOWN, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// one serves one connection to its end.
func (s *Server) one(ctx context.Context, nc net.Conn, proto vassal.Protocol) {
	defer nc.Close()
	if proto == vassal.Stats {
		s.sendStats(nc)
		return
	}
	c := s.newConn(nc, proto)
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	if proto == vassal.UWSGI {
		c.serveUWSGI(ctx)
		return
	}
	c.serveHTTP(ctx)
}

// serve hands a request to the handler.
func (s *Server) serve(ctx context.Context, r *exchange.Request, w *response) error {
	s.active.Add(1)
	defer s.active.Add(-1)
	return s.handler.Serve(ctx, r, w)
}

func (s *Server) sendStats(nc net.Conn) {
	if s.cfg.Stats == nil {
		return
	}
	doc := s.cfg.Stats()
	if s.limits.StatsHTTP {
		// What is left unread when a connection is closed resets it, and the
		// peer may lose the answer. What it asks for makes no difference.
		_ = nc.SetReadDeadline(time.Now().Add(s.limits.HeaderTimeout)) // fails with the read
		if _, err := nc.Read(make([]byte, statsRequest)); err != nil {
			return
		}
		doc = append(fmt.Appendf(nil, "HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", len(doc)), doc...)
	}
	_ = nc.SetWriteDeadline(time.Now().Add(s.limits.WriteTimeout)) // fails with the write
	_, _ = nc.Write(doc)                                           // whoever asked is gone: nobody to tell
}

// statsRequest is how much of a request to a stats listener is read, as in
// uWSGI: its head, from every client that exists.
const statsRequest = 4096

// drain shortens the wait on connections that have no request.
func (s *Server) drain() {
	s.draining.Store(true)
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.nudge(now)
	}
}

// cutAll ends every connection.
func (s *Server) cutAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.nc.Close() // its goroutine closes it again and ignores that too
	}
}

// evict ends the connection that waits longest for another request.
func (s *Server) evict() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest *conn
	var since time.Time
	for c := range s.conns {
		if t, ok := c.idleSince(); ok && (oldest == nil || t.Before(since)) {
			oldest, since = c, t
		}
	}
	if oldest != nil {
		oldest.interrupt()
	}
}

// hintKind is a mistake that is logged at most once a minute.
type hintKind int

const (
	hintHTTP hintKind = iota
	hintUwsgi
	hintTLS
	hintModifier
	hintAccept
	hints
)

// hint logs what went wrong and how to mend it, at most once a minute.
func (s *Server) hint(k hintKind, what, hint string, nc net.Conn) {
	now := time.Now().Unix()
	if last := s.hinted[k].Load(); now-last < 60 || !s.hinted[k].CompareAndSwap(last, now) {
		return
	}
	var at string
	if nc != nil {
		at = nc.LocalAddr().String()
	}
	s.cfg.Log.Warn(what, "listener", at, "hint", hint)
}
