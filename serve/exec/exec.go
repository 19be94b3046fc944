// Package exec answers requests with a program that serves HTTP by itself:
// node, Go, Java, .NET, any binary (the option exec).
//
// Each copy is told where to listen by its environment, and by the words of
// its command where these hold $PORT or $LIEGE_SOCKET:
//
//	PORT          a TCP port of 127.0.0.1, another one for each copy
//	HOST          127.0.0.1
//	LIEGE_SOCKET  the path of a unix socket, in a directory of its own
//
// It listens on either. It is ready when one of them accepts a connection, or
// answers exec-ready with a status below 400; the socket is asked first, and
// what was found is used until the copy ends. In a network of its own the port
// is nobody else's. In the host's another program could take it first, so the
// port is used only if what listens there belongs to the vassal's user.
//
// A request goes to the copy with the fewest requests in hand, over
// connections that are kept, or, with exec-protocol = h2c, by HTTP/2 without
// TLS, many over one; what was upgraded (WebSocket) is a tunnel. A copy
// that ends is started anew (package keeper). A request that it has not got
// goes to another one; one that it has got too, if it may be repeated (GET,
// HEAD, OPTIONS without a body) and nothing of an answer has come; else the
// answer is 502. While no copy is ready, up to maxWaiting requests wait for
// patience; others get 503 with Retry-After.
//
// Harakiri ends a request, not a copy, which may be at others: 504. After
// max-requests a copy gets no more requests, finishes those it has, and is
// started anew.
package exec

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"liege/serve/exchange"
	"liege/serve/keeper"
	"liege/serve/proxy"
	"liege/serve/worker"
	"liege/vassal"
)

// Limits of a Handler.
const (
	maxWaiting = 1024             // requests that wait for a copy
	patience   = 30 * time.Second // how long each does
	grace      = 3 * time.Second  // between SIGTERM and SIGKILL
)

// Starter starts programs and waits for them: worker.Pool.
type Starter interface {
	Start(*worker.Program) (worker.Process, error)
	Environ() []string
}

// Handler hands requests to the copies. Make one with New; it is safe for
// concurrent use, and serves while Run runs.
type Handler struct {
	x      *vassal.Exec
	start  Starter
	keep   *keeper.Keeper
	client *proxy.Client
	title  string // the command, for messages
	cwd    string
	drain  time.Duration
	dir    string // of the sockets; set by Run
	stderr *os.File
	null   *os.File
	log    *slog.Logger

	mu      sync.Mutex
	copies  []instance
	last    int           // the copy that got the last request
	changed chan struct{} // closed and made anew when a copy has become ready
	waiting atomic.Int64
	hint    atomic.Pointer[string] // for a copy that was not ready in time
}

// instance is one copy.
type instance struct {
	addr     string // where it listens; guarded by mu, as up, busy and served are
	port     int    // that it was told
	up       bool
	busy     int
	served   int  // since it was ready
	life     int  // how often it was ready
	retiring bool // it gets no more requests
	settling int  // failures of the last moment: it may be ending

	requests, errors, harakiris, running atomic.Int64
}

// New returns a Handler for app.Exec that has started nothing. silence is how
// long a copy may say nothing while it is waited for.
func New(app *vassal.App, start Starter, silence time.Duration, log *slog.Logger) (*Handler, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("standard input of exec: %w", err)
	}
	x := app.Exec
	h := &Handler{x: x, start: start, client: proxy.New(proxy.Limits{Silence: silence}, log), title: strings.Join(x.Command, " "), cwd: app.Dir,
		drain: app.Drain, stderr: os.Stderr, null: null, log: log, copies: make([]instance, max(1, x.Processes)), changed: make(chan struct{})}
	h.keep = keeper.New(keeper.Spec{Name: "exec", Count: len(h.copies), Program: h.program, Check: h.check, Timeout: x.StartTimeout,
		Changed: h.turned, Problem: h.problem, Must: true, Grace: grace}, start, log)
	return h, nil
}

// Ready is closed when every copy has been ready once.
func (h *Handler) Ready() <-chan struct{} { return h.keep.Ready() }

// Run keeps the copies running until ctx ends. A copy that does not come up
// at the start is a *vassal.Problem.
func (h *Handler) Run(ctx context.Context) error {
	defer h.client.Close()
	defer h.null.Close()
	dir, err := os.MkdirTemp("", "liege-exec-")
	if err != nil {
		return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeStartFailed, Step: "exec", Message: fmt.Sprintf("directory for LIEGE_SOCKET: %v", err)}
	}
	defer os.RemoveAll(dir)
	h.dir = dir
	return h.keep.Run(ctx)
}

// program is what copy n is started with.
func (h *Handler) program(n int) (*worker.Program, error) {
	port := h.x.Port
	if port == 0 {
		var err error
		if port, err = freePort(); err != nil {
			return nil, err
		}
	}
	socket := h.socket(n)
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	h.mu.Lock()
	h.copies[n].port = port
	h.mu.Unlock()
	own := map[string]string{"PORT": strconv.Itoa(port), "LIEGE_SOCKET": socket, "HOST": "127.0.0.1"}
	env := h.start.Environ()
	for _, kv := range env {
		if name, value, _ := strings.Cut(kv, "="); name == "HOST" {
			own[name] = value // the file says so
		}
	}
	env = append(without(env, own), "PORT="+own["PORT"], "LIEGE_SOCKET="+socket, "HOST="+own["HOST"])
	words := make([]string, len(h.x.Command))
	for i, w := range h.x.Command {
		words[i] = expand(w, own)
	}
	return &worker.Program{Path: words[0], Argv: words, Env: env, Dir: h.cwd,
		Files: [3]*os.File{h.null, h.stderr, h.stderr}, Limits: h.x.Limits}, nil
}

func (h *Handler) socket(n int) string { return filepath.Join(h.dir, strconv.Itoa(n+1)+".sock") }

// without is env without the names of own.
func without(env []string, own map[string]string) (out []string) {
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		if _, ok := own[name]; !ok {
			out = append(out, kv)
		}
	}
	return out
}

// expand puts values in for $NAME and ${NAME}; other dollars stay.
func expand(s string, values map[string]string) string {
	for name, v := range values {
		s = strings.ReplaceAll(s, "${"+name+"}", v)
	}
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 {
			return b.String() + s
		}
		n := i + 1
		for n < len(s) && (s[n] == '_' || s[n] >= 'A' && s[n] <= 'Z' || s[n] >= '0' && s[n] <= '9' || s[n] >= 'a' && s[n] <= 'z') {
			n++
		}
		b.WriteString(s[:i])
		if v, ok := values[s[i+1:n]]; ok {
			b.WriteString(v)
		} else {
			b.WriteString(s[i:n])
		}
		s = s[n:]
	}
}

// turned is told that copy n is ready, or no more.
func (h *Handler) turned(n int, up bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &h.copies[n]
	c.up, c.served, c.retiring = up, 0, false
	if up {
		c.life++
		h.tell()
	}
}

// Serve implements exchange.Handler.
func (h *Handler) Serve(ctx context.Context, r *exchange.Request, w exchange.Response) error {
	scheme(r)
	repeated := false
	for wait := unsentWait; ; wait *= 2 {
		n, addr, err := h.take(ctx)
		if err != nil {
			return err
		}
		err = h.ask(ctx, n, addr, r, w)
		switch {
		case err == nil || w.Started() || ctx.Err() != nil:
			return err
		case proxy.Unsent(err) && wait < unsentMost:
			// It has ended, and the keeper will know in a moment.
			if err := sleep(ctx, wait); err != nil {
				return err
			}
		case repeatable(r) && proxy.Unanswered(err) && !repeated:
			repeated = true // once: it may be the request that ends the copies
		case proxy.Unanswered(err):
			h.fell(n, addr) // the next request must not meet it as it ends
			return err
		default:
			return err
		}
		h.fell(n, addr)
	}
}

// How long a request that no copy has got waits for another try: doubled, and
// 2.5 seconds together.
const (
	unsentWait = 10 * time.Millisecond
	unsentMost = 2 * time.Second
)

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// scheme tells the program by what the client came: X-Forwarded-Proto.
func scheme(r *exchange.Request) {
	switch {
	case r.Get("HTTPS") == "on":
		r.Set("HTTP_X_FORWARDED_PROTO", "https")
	case r.Get("HTTP_X_FORWARDED_PROTO") == "":
		r.Set("HTTP_X_FORWARDED_PROTO", "http")
	}
}

// repeatable reports whether it makes no difference that a request is sent
// twice (RFC 9110 9.2.2).
func repeatable(r *exchange.Request) bool {
	switch r.Get("REQUEST_METHOD") {
	case "GET", "HEAD", "OPTIONS":
		return r.Length == 0 && !proxy.Upgrades(r)
	}
	return false
}

// ask sends r to copy n.
func (h *Handler) ask(ctx context.Context, n int, addr string, r *exchange.Request, w exchange.Response) error {
	c := &h.copies[n]
	began := time.Now()
	d := r.Harakiri(h.x.Harakiri)
	if d > 0 && (h.x.H2C || !proxy.Upgrades(r)) {
		hctx, cancel := context.WithTimeoutCause(ctx, d, errHarakiri)
		defer cancel()
		ctx = hctx
	}
	send := h.client.HTTP
	if h.x.H2C {
		send = h.client.H2C
	}
	err := send(ctx, r, w, proxy.Target{Address: addr, Upgrade: true})
	if err != nil && errors.Is(context.Cause(ctx), errHarakiri) {
		c.harakiris.Add(1)
		err = &exchange.StatusError{Status: 504, Err: fmt.Errorf("%w: copy %d ran for %v", errHarakiri, n+1, d)}
	}
	c.running.Add(int64(time.Since(began)))
	if err != nil {
		c.errors.Add(1)
	}
	i := &r.Info
	i.Backend, i.Worker, i.Seq, i.PID = "exec", n+1, uint64(c.requests.Add(1)), h.keep.PID(n)
	h.give(n)
	return err
}

var errHarakiri = errors.New("exec: harakiri")

// take chooses the copy with the fewest requests in hand, and waits for one.
func (h *Handler) take(ctx context.Context) (n int, addr string, err error) {
	var late <-chan time.Time
	for {
		h.mu.Lock()
		best := -1
		for k := range h.copies {
			i := (h.last + 1 + k) % len(h.copies)
			if c := &h.copies[i]; c.up && !c.retiring && c.settling == 0 && (best < 0 || c.busy < h.copies[best].busy) {
				best = i
			}
		}
		if best >= 0 {
			h.last = best
			c := &h.copies[best]
			c.busy++
			c.served++
			if h.x.MaxRequests > 0 && c.served >= h.x.MaxRequests {
				h.retire(best)
			}
			addr = c.addr
			h.mu.Unlock()
			return best, addr, nil
		}
		changed := h.changed
		h.mu.Unlock()
		if late == nil {
			defer h.waiting.Add(-1)
			if h.waiting.Add(1) > maxWaiting {
				return 0, "", unready(fmt.Errorf("exec: no copy is ready, and %d requests wait", maxWaiting))
			}
			t := time.NewTimer(patience)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-changed:
		case <-late:
			return 0, "", unready(fmt.Errorf("exec: no copy has been ready for %v", patience))
		case <-ctx.Done():
			return 0, "", context.Cause(ctx)
		}
	}
}

func unready(err error) error {
	return &exchange.StatusError{Status: 503, RetryAfter: 5 * time.Second, Err: err}
}

// give ends a request of copy n. One that has had its requests is started anew
// once it has finished them.
func (h *Handler) give(n int) {
	h.mu.Lock()
	c := &h.copies[n]
	c.busy--
	last := c.retiring && c.up && c.busy == 0
	if last {
		c.up = false
	}
	h.mu.Unlock()
	if last {
		h.keep.Restart(n)
	}
}

// retire lets copy n finish what it has, for as long as a drain may take. The
// mutex is held.
func (h *Handler) retire(n int) {
	c := &h.copies[n]
	c.retiring = true
	life := c.life
	time.AfterFunc(h.drain, func() {
		h.mu.Lock()
		stays := c.life == life && c.up && c.retiring // a tunnel that does not end
		h.mu.Unlock()
		if stays {
			h.keep.Restart(n)
		}
	})
}

// fell takes copy n out until it is ready again, if it is still the one that
// did not answer at addr: it ends, and the keeper will know in a moment.
func (h *Handler) fell(n int, addr string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &h.copies[n]
	if c.addr != addr {
		return
	}
	c.settling++
	time.AfterFunc(settleFor, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		c.settling--
		h.tell()
	})
	if len(h.copies) > 1 {
		c.busy += unwell
		time.AfterFunc(fellFor, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			c.busy -= unwell
		})
	}
}

// A copy that did not answer is left alone while the keeper may find that it
// has ended, and asked last for a moment: it may live, and then nobody tells
// that it is ready again.
const (
	settleFor = 50 * time.Millisecond
	unwell    = 1 << 20
	fellFor   = time.Second
)

// tell wakes the requests that wait for a copy. The mutex is held.
func (h *Handler) tell() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// Stats tells what the copies have done: each is a worker.
func (h *Handler) Stats() exchange.Stats {
	out := exchange.Stats{Queued: int(max(h.waiting.Load(), 0))}
	kept := h.keep.Stats()
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.copies {
		c := &h.copies[i]
		w := exchange.WorkerStats{ID: i + 1, PID: kept[i].PID, Requests: uint64(c.requests.Load()), Errors: uint64(c.errors.Load()),
			Respawns: kept[i].Respawns, Harakiris: uint64(c.harakiris.Load()), Busy: c.busy > 0, Accepting: c.up, Spawned: kept[i].Spawned,
			Running: time.Duration(c.running.Load()), Delta: uint64(c.served)}
		w.Threads = []exchange.ThreadStats{{Requests: w.Requests}}
		out.Respawns += w.Respawns
		out.Workers = append(out.Workers, w)
	}
	return out
}
