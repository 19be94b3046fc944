// Package php answers requests with PHP: the processes of one php-cgi, which
// belongs to the vassal alone, runs in its sandbox as its user, and is kept
// running by package keeper. Its processes share one opcache.
//
// A request's path is resolved beneath the document root by descriptor
// (package beneath) as uWSGI's php plugin does it: the first file on the way
// is the script, what follows is its PATH_INFO; a directory leads to an index
// file. Only files whose name ends as php-allowed-ext says are run: an upload
// "a.jpg" is not run as "a.jpg/x.php". php-app and php-fallback are front
// controllers.
//
// php-cgi speaks FastCGI on a socket that is its standard input, in a
// directory that only the vassal's user can enter. At most one request per
// process is under way; a bounded number waits, and more get 503. Connections
// are kept, each with the process that accepted it. A body that fits is read
// before a process is taken, so that a slow client holds none; a longer one is
// streamed.
//
// Harakiri kills the process that has the request; php-cgi makes another one.
// A process whose client has gone is waited for: until then it is busy.
package php

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"liege/serve/exchange"
	"liege/serve/keeper"
	"liege/serve/proxy"
	"liege/serve/worker"
	"liege/vassal"
	"liege/vassal/route"
)

// Limits of a Handler.
const (
	smallBody = 64 << 10        // of a body that is read before a process is taken
	grace     = 2 * time.Second // between SIGTERM and SIGKILL
)

// Starter starts programs and waits for them: worker.Pool.
type Starter interface {
	Start(*worker.Program) (worker.Process, error)
	Environ() []string
}

// Handler answers with PHP. Make one with New; it is safe for concurrent use,
// and serves while Run runs.
type Handler struct {
	scripts
	p      *vassal.PHP
	start  Starter
	keep   *keeper.Keeper
	client *proxy.Client
	cwd    string
	params [][2]string // of every request
	listen *os.File    // the socket's; while Run runs
	null   *os.File
	dir    string         // of the socket and PHP's settings
	space  *exchange.Room // of bodies in files
	log    *slog.Logger

	places *exchange.Places
	stats  []slotStats
	mu     sync.Mutex
	idle   []*proxy.FastCGIConn
	down   bool

	watch watch // of requests
}

// slotStats are the counts of one of the requests that may be under way.
type slotStats struct{ requests, errors, harakiris, running, since atomic.Int64 }

// New returns a Handler for app.PHP that has started nothing. silence is how
// long PHP may say nothing while it is waited for; bodies that lie in files take
// space. An error is a regular expression that cannot be compiled.
func New(app *vassal.App, start Starter, silence time.Duration, space *exchange.Room, log *slog.Logger) (*Handler, error) {
	p := app.PHP
	silence = max(silence, longest(app)+time.Second)
	n := max(1, p.Processes)
	h := &Handler{p: p, start: start, cwd: app.Dir, client: proxy.New(proxy.Limits{Silence: silence}, log), log: log, space: space,
		places: exchange.NewPlaces(n), stats: make([]slotStats, n)}
	var err error
	if h.scripts, err = newScripts(p, app.Dir); err != nil {
		return nil, err
	}
	h.params = fixedParams(p)
	h.watch = watch{tries: map[*try]struct{}{}, held: func() (map[uint32]int, error) { return sockets(children(h.keep.PID(0))) }}
	h.keep = keeper.New(keeper.Spec{Name: "php", Program: h.program, Check: h.check, Timeout: p.StartTimeout, Changed: h.turned,
		Problem: h.problem, Must: true, Whole: true, Grace: grace}, start, log)
	return h, nil
}

// longest is the longest harakiri that a request of app may have; 0: none has one.
func longest(app *vassal.App) time.Duration {
	d := app.PHP.Harakiri
	if app.Routing == nil {
		return d
	}
	for i := range app.Routing.Request {
		limit, _ := route.Harakiri(&app.Routing.Request[i])
		d = max(d, limit)
	}
	return d
}

// Ready is closed when PHP answers.
func (h *Handler) Ready() <-chan struct{} { return h.keep.Ready() }

// Run keeps PHP running until ctx ends. When it does not come up at the start
// that is a *vassal.Problem.
func (h *Handler) Run(ctx context.Context) error {
	defer h.scripts.close()
	defer h.client.Close()
	close, err := h.open()
	if err != nil {
		return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeStartFailed, Step: "php", Message: err.Error()}
	}
	defer close()
	err = h.keep.Run(ctx)
	h.forget(true)
	return err
}

// open makes what PHP is started with: its socket and its settings.
func (h *Handler) open() (undo func(), err error) {
	dir, err := os.MkdirTemp("", "liege-php-")
	if err != nil {
		return nil, fmt.Errorf("directory for PHP: %w", err)
	}
	var open []io.Closer
	undo = func() {
		for _, c := range open {
			_ = c.Close() // nothing was written
		}
		_ = os.RemoveAll(dir) // what stays is in the private /tmp
	}
	defer func() {
		if err != nil {
			undo()
		}
	}()
	h.dir = dir
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.socket(), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket for PHP: %w", err)
	}
	open = append(open, l)
	if h.listen, err = l.File(); err != nil {
		return nil, fmt.Errorf("socket for PHP: %w", err)
	}
	open = append(open, h.listen)
	if h.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	open = append(open, h.null)
	return undo, h.settings()
}

func (h *Handler) socket() string { return filepath.Join(h.dir, "s") }

func (h *Handler) check(ctx context.Context, _, _ int) error {
	return h.client.PingFastCGI(ctx, h.socket())
}

// turned is told that PHP is up or down.
func (h *Handler) turned(_ int, up bool) {
	if !up {
		h.forget(false)
	}
}

// forget closes the connections that wait; for good when nobody serves any
// more.
func (h *Handler) forget(down bool) {
	h.mu.Lock()
	idle := h.idle
	h.idle, h.down = nil, h.down || down
	h.mu.Unlock()
	for _, f := range idle {
		f.Close()
	}
}

// Serve implements exchange.Handler.
func (h *Handler) Serve(ctx context.Context, r *exchange.Request, w exchange.Response) error {
	r.Info.Backend = "php"
	s, err := h.find(r)
	if err != nil {
		return err
	}
	if s.moved != "" {
		return w.Head(301, "", []exchange.Field{{Name: "Location", Value: exchange.URL(s.moved)}, {Name: "Content-Length", Value: "0"}})
	}
	small, restore, err := h.readBody(r)
	if err != nil {
		return err
	}
	defer restore()
	slot, err := h.places.Take(ctx)
	if err != nil {
		return fmt.Errorf("PHP's processes: %w", err)
	}
	st := &h.stats[slot]
	began := time.Now()
	st.since.Store(began.UnixNano())
	err = h.ask(ctx, slot, s, r, w, small)
	i := &r.Info
	i.Backend, i.Worker, i.Seq, i.PID = "php", slot+1, uint64(st.requests.Add(1)), h.keep.PID(0)
	st.running.Add(int64(time.Since(began)))
	st.since.Store(0)
	if err != nil {
		st.errors.Add(1)
	}
	h.places.Give(slot)
	return err
}

var paramBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 8<<10); return &b }}

// ask has PHP run s.
func (h *Handler) ask(ctx context.Context, slot int, s *script, r *exchange.Request, w exchange.Response, small bool) error {
	buf := paramBuffers.Get().(*[]byte)
	defer paramBuffers.Put(buf)
	*buf = h.appendParams((*buf)[:0], r, s)
	// A process may have ended after its last request, by max-requests, and a
	// connection that it had look open for a moment: what cannot be sent twice
	// gets a new one.
	repeatable := r.Length == 0 && safe(r.Get("REQUEST_METHOD"))
	for fresh, tries := !repeatable, 0; ; fresh = true {
		f, err := h.conn(ctx, fresh)
		if err != nil {
			return err
		}
		used := f.Used()
		t, err := h.over(ctx, slot, f, *buf, r, w, small)
		if t.Again {
			h.put(f)
		}
		if tries++; err != nil && t.Shut && tries < 5 && ctx.Err() == nil {
			rewind(r)
			continue
		}
		if err == nil || !used || t.Heard || w.Started() || ctx.Err() != nil || !proxy.Unanswered(err) {
			return err
		}
	}
}

// rewind puts a body that is in memory back to its beginning; nothing of
// another one has been read when no script has begun (proxy.Trip).
func rewind(r *exchange.Request) {
	if s, ok := r.Body.(*bytes.Reader); ok {
		_, _ = s.Seek(0, io.SeekStart) // cannot fail
	}
}

// safe reports whether a request of the method may be sent twice (RFC 9110
// 9.2.1).
func safe(method string) bool { return method == "GET" || method == "HEAD" || method == "OPTIONS" }

// conn is a connection to a process that is free. One that was used before may
// turn out to be closed, and whoever may use it can send its request again;
// fresh asks for another.
func (h *Handler) conn(ctx context.Context, fresh bool) (*proxy.FastCGIConn, error) {
	h.mu.Lock()
	var f *proxy.FastCGIConn
	if n := len(h.idle); n > 0 {
		f, h.idle = h.idle[n-1], h.idle[:n-1]
	}
	h.mu.Unlock()
	switch {
	case f != nil && !fresh:
		return f, nil
	case f != nil:
		f.Close() // so that its process can take the new one
	}
	return h.client.DialFastCGI(ctx, h.socket())
}

func (h *Handler) put(f *proxy.FastCGIConn) {
	h.mu.Lock()
	down := h.down
	if !down {
		h.idle = append(h.idle, f)
	}
	h.mu.Unlock()
	if down {
		f.Close()
	}
}

var errHarakiri = errors.New("php: harakiri")

// over is one try over f, under harakiri.
func (h *Handler) over(ctx context.Context, slot int, f *proxy.FastCGIConn, params []byte, r *exchange.Request, w exchange.Response, small bool) (proxy.Trip, error) {
	d := r.Harakiri(h.p.Harakiri)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if d > 0 {
		timer := time.AfterFunc(d, func() {
			h.kill(f) // before the connection is closed: it says which process has it
			cancel(errHarakiri)
		})
		defer timer.Stop()
	}
	defer h.watch.end(h.watch.begin(f, func() { cancel(errDead) }))
	t, err := h.client.Over(ctx, f, "php", params, r, w, small)
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errHarakiri):
		h.stats[slot].harakiris.Add(1)
		err = &exchange.StatusError{Status: 504, Err: fmt.Errorf("%w: it ran for %v", errHarakiri, d)}
	case errors.Is(cause, errDead): // as if its end had been seen
		err = &exchange.StatusError{Status: 502, Err: fmt.Errorf("%w: %w", errDead, unix.ECONNRESET)}
	}
	return t, err
}

// Stats tells what the processes have done: each place is a worker.
func (h *Handler) Stats() exchange.Stats {
	k := h.keep.Stats()[0]
	out := exchange.Stats{Queued: h.places.Waiting(), Respawns: k.Respawns}
	pids := children(k.PID)
	for i := range h.stats {
		s := &h.stats[i]
		w := exchange.WorkerStats{ID: i + 1, Requests: uint64(s.requests.Load()), Errors: uint64(s.errors.Load()), Harakiris: uint64(s.harakiris.Load()),
			Respawns: k.Respawns, Accepting: k.Up, Spawned: k.Spawned, Running: time.Duration(s.running.Load())}
		w.Delta = w.Requests
		if i < len(pids) {
			w.PID = pids[i]
		}
		t := exchange.ThreadStats{Requests: w.Requests}
		if at := s.since.Load(); at != 0 {
			w.Busy, t.Since = true, time.Unix(0, at)
		}
		w.Threads = []exchange.ThreadStats{t}
		out.Workers = append(out.Workers, w)
	}
	return out
}
