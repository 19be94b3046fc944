package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"liege/serve/exchange"
	"liege/vassal"
)

const (
	// maxPacket bounds a message of the shared queue: variables and a small
	// body. Nine of them fit the socket's buffer with room to spare, so that
	// the core never waits in send. A larger head goes over the worker's lane.
	maxPacket = 16 << 10
	// backlog is how many requests may lie in the shared queue beyond those
	// that the workers are at. More gain nothing (measured: above 8 the
	// throughput does not change), and what lies in the kernel can no longer be
	// taken back.
	backlog = 8
	// maxWaiting bounds the requests that wait in the core for the queue, where
	// no line (listen) allows more.
	maxWaiting = 1024
)

// MaxWaiting is how many requests may wait for a worker of app.
func MaxWaiting(app *vassal.App) int {
	if app.Workers == nil {
		return maxWaiting
	}
	return max(maxWaiting, app.Workers.Waiting)
}

type callState uint8

const (
	idle      callState = iota
	queued              // sent; no worker has answered yet
	answering           // a lane works for it
	abandoned           // Serve has returned; the lane discards what comes
	done
)

// call is one request between the core and a worker. There are as many as
// requests can be in flight; each is used again. mu guards all from there on,
// and is held while the request's Body or Response is
// used: so Serve can take both back at any time. A body that is large or comes
// in pieces is handed to the Response by Serve itself, without mu. A client decides how long that
// is: who serves more than this request never waits for mu (see tryLock).
type call struct {
	index  int
	done   chan error    // receives once for each call that Serve waits for
	live   atomic.Uint64 // id, while a worker may be at it
	long   atomic.Bool   // a WebSocket: harakiri is not for it
	began  atomic.Int64  // the request, in Unix nanoseconds
	limit  atomic.Int64  // harakiri, in nanoseconds; 0: none
	moving atomic.Int32  // mu is held to use Body or Response: a direction
	grip   grip
	poured chan *spool           // receives spool once
	spool  atomic.Pointer[spool] // of a body that Serve hands to the client; nil: none

	mu      sync.Mutex
	id      uint64 // 0: unused
	state   callState
	sent    bool  // it is in the shared queue
	lane    *lane // that answers it, or discards its answer
	r       *exchange.Request
	w       exchange.Response
	started bool      // Head was given to w
	nobody  bool      // HEAD, 204 and 304 have no body
	left    int64     // of the Content-Length; -1: the application named none
	unwatch func()    // ends the watch for the client's leaving; nil: there is none
	tunnel  io.Closer // the client's end of a WebSocket
	err     error     // the answer cannot be continued
	bodyErr error     // the client's body could not be read
	vars    []byte
	buf     []byte
}

// lock takes mu to use Body or Response.
func (c *call) lock(direction int32) {
	c.mu.Lock()
	c.moving.Store(direction)
}

func (c *call) unlock() {
	c.moving.Store(0)
	c.mu.Unlock()
}

// tryLock takes mu, and is false when a client has to be waited for: then a
// lane is at the call.
func (c *call) tryLock() bool {
	for !c.mu.TryLock() {
		if c.moving.Load() != 0 {
			return false
		}
		runtime.Gosched() // it is held for a moment
	}
	return true
}

// Serve implements exchange.Handler: it puts r into the queue and waits until
// a worker has answered it on w. If ctx ends first it returns at once and the
// worker's answer is thrown away.
//
// Its errors are *exchange.StatusError: 503 when too many requests wait or the
// pool ends, 502 when the worker died, 504 when it took too long, 500 when the
// application failed before it answered. An error after the answer began
// means that it is incomplete: the connection must be cut.
func (p *Pool) Serve(ctx context.Context, r *exchange.Request, w exchange.Response) error {
	r.Info.Backend = p.w.Language
	i, err := mounted(p.app.Mounting, r)
	if err != nil {
		return err
	}
	if p.fleet != nil {
		return p.fleet.serve(ctx, i, r, w)
	}
	return p.serve(ctx, r, w, nil)
}

// serve is Serve; with f it is a function that is called, and r has no
// variables for it.
func (p *Pool) serve(ctx context.Context, r *exchange.Request, w exchange.Response, f *function) error {
	body, err := smallBody(r) // first: nobody else waits for its client
	if err != nil {
		return err
	}
	if p.asleep.Load() {
		p.rouse()
	}
	c, err := p.acquire(ctx)
	if err != nil {
		return err
	}
	p.prepare(c, r, w, p.seq.Add(1), f, body)
	if _, err := p.requests.Write(c.buf); err != nil {
		p.release(c)
		return &exchange.StatusError{Status: 503, RetryAfter: time.Second, Err: fmt.Errorf("queue of the workers: %w", err)}
	}
	c.mu.Lock()
	c.sent = true
	c.mu.Unlock()
	err = p.await(ctx, c, w)
	if t, ok := errors.AsType[*takeover](err); ok {
		return t.relay(ctx, p, r, w)
	}
	return err
}

// await waits until c is answered, and hands the client what comes in pieces.
func (p *Pool) await(ctx context.Context, c *call, w exchange.Response) error {
	select {
	case err := <-c.done:
		return p.finished(c, w, err)
	case s := <-c.poured:
		if s.adopt(w) {
			return s.serve(ctx, p, c)
		}
	case <-ctx.Done():
		if c.abandon() {
			return context.Cause(ctx)
		}
	}
	return p.finished(c, w, <-c.done)
}

// finished frees c, which has ended with err, before its client has the rest.
func (p *Pool) finished(c *call, w exchange.Response, err error) error {
	s := c.spool.Load()
	p.release(c)
	if s != nil {
		return s.rest(w, err)
	}
	return err
}

// acquire waits for a free call.
func (p *Pool) acquire(ctx context.Context) (*call, error) {
	select {
	case c := <-p.free:
		return c, nil
	default:
	}
	defer p.waiting.Add(-1)
	if n := p.waiting.Add(1); n > int64(MaxWaiting(p.app)) {
		return nil, &exchange.StatusError{Status: 503, RetryAfter: time.Second,
			Err: fmt.Errorf("all workers are busy and %d requests wait", n-1)}
	}
	select {
	case c := <-p.free:
		return c, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-p.closed:
		return nil, &exchange.StatusError{Status: 503, RetryAfter: time.Second, Err: errStopping}
	}
}

// release makes c free again.
func (p *Pool) release(c *call) {
	c.live.Store(0)
	c.long.Store(false)
	c.grip.set(0, nil, nil)
	c.spool.Store(nil)
	select {
	case <-c.poured:
	default:
	}
	c.mu.Lock()
	c.id, c.state, c.sent, c.lane = 0, idle, false, nil
	c.r, c.w, c.started, c.nobody, c.left = nil, nil, false, false, -1
	c.err, c.bodyErr, c.vars, c.tunnel = nil, nil, nil, nil
	if cap(c.buf) > 2*maxPacket {
		c.buf = nil
	}
	c.mu.Unlock()
	p.free <- c
}

var errAbandoned = errors.New("abandoned")

// find is the call that id may be of: claim says whether it is.
func (p *Pool) find(id uint64) *call {
	if index := int(id & 0xffff); id != 0 && index < len(p.calls) {
		return p.calls[index]
	}
	return nil
}

// claim gives the call id to lane l. It is false if there is no
// such call or another lane has it.
func (c *call) claim(id uint64, l *lane) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.give(id, l)
}

// lose takes the call id from everybody if it is nobody's.
func (c *call) lose(id uint64) bool {
	if !c.tryLock() {
		return false // a lane has it
	}
	defer c.mu.Unlock()
	return c.give(id, nil)
}

// give is claim with mu held.
func (c *call) give(id uint64, l *lane) bool {
	if c.id != id || c.lane != nil || c.state != queued && c.state != abandoned {
		return false
	}
	if c.state == queued {
		c.state = answering
		if l != nil {
			i := &c.r.Info
			i.Worker, i.PID, i.Thread = l.proc.number, int(l.proc.pid.Load()), l.thread
			i.Seq = uint64(l.p.stats[l.proc.number-1].requests.Load()) + 1
		}
	}
	c.lane = l
	return true
}

// alive reports whether a worker may be at the call id.
func (p *Pool) alive(id uint64) *call {
	if index := int(id & 0xffff); id != 0 && index < len(p.calls) && p.calls[index].live.Load() == id {
		return p.calls[index]
	}
	return nil
}

// describe names the request of call id in the log.
func (c *call) describe(id uint64) string {
	if !c.tryLock() {
		return "its client is slow"
	}
	defer c.mu.Unlock()
	if c.id != id || c.r == nil {
		return "its client is gone"
	}
	return fmt.Sprintf("%s %.200q", c.r.Get("REQUEST_METHOD"), c.r.Get("REQUEST_URI"))
}

// abandon takes request and response back. It is false if the answer is
// complete: then it waits in done.
func (c *call) abandon() bool {
	if b, ok := c.r.Body.(io.Closer); ok {
		b.Close() // ends a Read that holds the lock
	}
	var l *lane
	var id uint64
	defer func() { // without mu: a worker that does not read makes it wait
		if l != nil {
			_ = l.gone(id) // a worker that does not hear it writes, and hears it then
		}
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == done {
		return false
	}
	if c.tunnel != nil { // its worker is told, and ends it
		c.tunnel.Close()
		return false
	}
	c.ignore()
	if c.lane != nil && c.lane.p.lanesEach() > c.lane.p.w.Threads {
		l, id = c.lane, c.id
	}
	c.state, c.r, c.w = abandoned, nil, nil
	if s := c.spool.Load(); s != nil {
		s.close(errAbandoned)
	}
	c.grip.set(c.id, nil, nil)
	return true
}

// ignore ends the watch for the client's leaving.
func (c *call) ignore() {
	if c.unwatch != nil {
		c.unwatch()
		c.unwatch = nil
	}
}

// head hands the status line and fields of an answer to the response.
func (c *call) head(status int, reason string, fields []exchange.Field) error {
	c.lock(writing)
	defer c.unlock()
	if c.started {
		return errors.New("a second head")
	}
	c.started = true
	if status == 204 || status == 304 {
		c.nobody = true
	}
	for _, f := range fields {
		if len(f.Name) == len("Content-Length") && strings.EqualFold(f.Name, "Content-Length") {
			n, err := strconv.ParseInt(f.Value, 10, 64)
			if err != nil || n < 0 {
				c.err = &exchange.StatusError{Status: 500, Err: fmt.Errorf("the application's Content-Length is %q", f.Value)}
				return nil
			}
			c.left = n
		}
	}
	if c.w == nil {
		return nil
	}
	if err := c.w.Head(status, reason, fields); err != nil {
		c.err = &exchange.StatusError{Status: 500, Err: fmt.Errorf("head of the application's answer: %w", err)}
	}
	return nil
}

// write hands a piece of the body to the response, or to the spool. It is
// false when nothing more is wanted.
func (c *call) write(b []byte, all *atomic.Int64) bool {
	c.lock(writing)
	if c.left >= 0 {
		b = b[:min(int64(len(b)), c.left)]
		c.left -= int64(len(b))
	}
	wanted := c.w != nil && c.err == nil
	if !wanted || c.nobody || len(b) == 0 {
		c.unlock()
		return wanted
	}
	if all == nil {
		defer c.unlock()
		_, c.err = c.w.Write(b)
		return c.err == nil
	}
	s := c.spooling(all)
	c.unlock()
	return s.put(b) // without mu: it may wait
}

// spooling is the spool of the body; with mu held.
func (c *call) spooling(all *atomic.Int64) *spool {
	s := c.spool.Load()
	if s == nil {
		s = newSpool(all)
		c.spool.Store(s)
		c.poured <- s
	}
	return s
}

// flush has the client get all that was sent.
func (c *call) flush(all *atomic.Int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.w != nil && c.err == nil {
		tell(c.spooling(all).more)
	}
}

// finish ends the call with the application's own end of the answer: failed
// says that it raised an exception.
func (p *Pool) finish(c *call, failed bool) {
	c.mu.Lock()
	err := c.err
	if s := c.spool.Load(); s != nil && err == nil {
		err = s.failure() // what the application then raises is its consequence
	}
	switch {
	case err != nil:
	case failed && c.bodyErr != nil && !c.started:
		err = c.bodyErr
	case failed && !c.started:
		err = &exchange.StatusError{Status: 500, Err: errors.New("the application raised an exception; see its log")}
	case failed:
		err = errors.New("the application raised an exception while it answered; see its log")
	case c.left > 0 && !c.nobody:
		err = fmt.Errorf("the application sent %d bytes fewer than its Content-Length", c.left)
	}
	p.complete(c, err)
}

// fail ends the call because its worker can not: err is given to Serve, as
// status before the answer began.
func (p *Pool) fail(c *call, status int, err error) {
	c.mu.Lock()
	cause := c.grip.why(c.id)
	switch {
	case cause != nil && !c.started:
		err = cause
	case cause != nil:
		err = cause.Err
	case !c.started:
		err = &exchange.StatusError{Status: status, Err: err}
	}
	p.complete(c, err)
}

// complete is called with c.mu held and unlocks it.
func (p *Pool) complete(c *call, err error) {
	c.lane = nil
	c.ignore()
	if c.state == abandoned {
		if t, ok := errors.AsType[*takeover](err); ok {
			t.conn.Close()
		}
		c.mu.Unlock()
		p.release(c)
		return
	}
	c.state = done
	c.live.Store(0)
	s := c.spool.Load()
	c.mu.Unlock()
	if s != nil && s.end(err) {
		p.release(c)
		return
	}
	c.done <- err
}
