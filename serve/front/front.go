// Package front brings requests in and answers out: HTTP/1.1 (RFC 9110, 9112)
// and what web servers speak to those behind them (uwsgi, FastCGI, SCGI), over TCP and unix sockets, with every timeout and
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
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

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
	Done func(r *exchange.Request)
	CGI  bool  // the uwsgi protocol's modifier of CGI is served
	PHP  bool  // and that of PHP
	Own  uint8 // the application's own modifier, besides 0
	// Call calls a function of the application for a peer; nil: none is served.
	Call  func(ctx context.Context, function string, args []string) (string, error)
	Ask   vassal.Modifiers
	Stats func() []byte  // what a stats listener sends
	Pages map[int][]byte // HTML for errors of the server itself, by status
	Log   *slog.Logger
}

// Listener is one listening socket and what is spoken on it.
type Listener struct {
	net.Listener
	Protocol  vassal.Protocol
	Modifier1 uint8            // of requests that do not say it: see exchange.Request
	Secure    *Secure          // nil: in the clear
	Handler   exchange.Handler // nil: the Server's
	Vars      []exchange.Var   // of every request by HTTP, whatever the client says
	HostName  bool             // SERVER_NAME of requests by HTTP is their field Host
}

// Server serves listeners. Make one with New.
type Server struct {
	cfg      Config
	limits   vassal.HTTPLimits
	hostname string
	handler  exchange.Handler
	dateLine atomic.Pointer[dateLine]
	asked    [256]int16 // by modifier1 of a packet: what it means; -1: nothing here
	draining atomic.Bool
	active   atomic.Int64
	hinted   [hints]atomic.Int64 // unix time of the last such line

	streams atomic.Int64 // requests by HTTP/2
	h2      *http.Server // nil until a listener speaks TLS

	mu      sync.Mutex
	conns   map[*conn]struct{}
	h2conns map[net.Conn]*conn // those that speak HTTP/2
}

// New returns a Server that listens to nothing yet.
func New(cfg Config) *Server {
	return &Server{cfg: cfg, limits: Complete(cfg.Limits), hostname: cfg.Hostname,
		handler: cfg.Handler, conns: make(map[*conn]struct{}), asked: askable(&cfg)}
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

// Queue is how many connections wait to be accepted on l, and how many may:
// TCP_INFO of a listening socket says so (Linux), nothing of a unix socket
// does.
func Queue(l net.Listener) (waiting, most int) {
	sc, ok := l.(syscall.Conn)
	if _, tcp := l.(*net.TCPListener); !ok || !tcp {
		return 0, 0
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, 0
	}
	_ = raw.Control(func(fd uintptr) { // fails on a closed listener: nobody waits then
		if i, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			waiting, most = int(i.Unacked), int(i.Sacked)
		}
	})
	return waiting, most
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
	if slices.ContainsFunc(ls, func(l Listener) bool { return l.Secure != nil }) {
		var err error
		if s.h2, err = s.newH2(); err != nil {
			return err
		}
		s.h2conns = make(map[net.Conn]*conn)
	}
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
	s.drain(base)
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
			s.hint(hintAccept, "cannot accept a connection: "+err.Error(), "lower max-connections, or raise the limit of open files that liege is started with (LimitNOFILE, ulimit -n)", nil)
			if scarce(err) {
				s.evict()
			}
			pause(ctx, 50*time.Millisecond)
			continue
		}
		conns.Go(func() {
			defer func() { <-slots }()
			s.one(base, nc, l)
		})
	}
}

// slot waits until there may be another connection. When there are as many as
// there may be, one that has no request makes room.
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

// scarce reports whether err says that descriptors or memory ran out: then a
// connection without a request has what another one needs.
func scarce(err error) bool {
	for _, e := range [...]syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
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
func (s *Server) one(ctx context.Context, nc net.Conn, l *Listener) {
	defer nc.Close()
	if l.Protocol == vassal.Stats {
		s.sendStats(nc)
		return
	}
	nc = l.server(nc)
	c := s.newConn(nc, l.Protocol)
	c.modifier1, c.set, c.hostName = l.Modifier1, l.Vars, l.HostName
	if l.Handler != nil {
		c.handler = l.Handler
	}
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	if s.limits.ProxyProtocol && !gateway(l.Protocol) && !c.takeProxyHeader(c.under()) {
		return
	}
	proto, ok := c.handshake(l)
	switch {
	case !ok:
	case proto == "h2":
		c.serveH2(ctx)
	case gateway(l.Protocol):
		c.serveGateway(ctx, l.Protocol)
	default:
		c.serveHTTP(ctx)
	}
}

// serve hands a request to the handler.
func (s *Server) serve(ctx context.Context, h exchange.Handler, r *exchange.Request, w exchange.Response) error {
	s.active.Add(1)
	defer s.active.Add(-1)
	return h.Serve(ctx, r, w)
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
func (s *Server) drain(ctx context.Context) {
	s.draining.Store(true)
	if s.h2 != nil {
		// GOAWAY to every connection; it knows of no other, so it does not wait.
		_ = s.h2.Shutdown(ctx)
	}
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
		_ = c.under().Close() // its goroutine closes it again and ignores that too
	}
}

// hintKind is a mistake that is logged at most once a minute.
type hintKind int

const (
	hintHTTP hintKind = iota
	hintUwsgi
	hintTLS
	hintPlain
	hintFastCGI
	hintProxy
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
