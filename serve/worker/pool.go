// Package worker runs an application's processes and hands requests to them.
//
// A Pool starts one process of the language's interpreter, the loader, with a
// small program of package shims in it. The loader loads the application once
// and forks the workers; it forks a new one when one dies. The core never
// forks an application itself, and the application never sees the core's
// memory or descriptors other than these:
//
//	queue    one SOCK_SEQPACKET pair that all workers receive from: a packet is
//	         a request, in the form that the language reads at C speed
//	         (lang.Encoder). The kernel gives it to whichever worker is free.
//	lanes    a stream pair per thread of each worker, for the answer, for
//	         bodies and heads too large for a packet, and for descriptors of
//	         files to send. See lane.
//	slots    a memfd in which each thread writes which request it took: so the
//	         core knows what was lost with a worker that died, and how long a
//	         request runs, at no cost to a request.
//	control  a SOCK_SEQPACKET pair between core and loader.
//
// All that comes from a worker is the tenant's and is checked; a worker that
// breaks the protocol is killed. Its worst lie (a wrong request in its slot, a
// wrong pid in the loader's message) ends requests or processes of the same
// tenant.
//
// Most callers do:
//
//	pool, err := worker.New(app, python.New(app), log) // or another language
//	go pool.Run(ctx)      // until ctx ends and every process is gone
//	<-pool.Ready()
//	pool.Serve(ctx, r, w) // an exchange.Handler
//
// A request is answered or failed, never left: see Serve for the statuses.
// What the package does not do: bound a request's body or the client's time
// (the front's Body does), limit memory (the cgroup does), watch files.
package worker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"liege/serve/direct"
	"liege/serve/exchange"
	"liege/serve/worker/lang"
	"liege/vassal"
	"liege/vassal/route"
)

// Limits of a pool. maxCalls is what fits the index part of a request's
// number; maxThreads what fits one SCM_RIGHTS message (SCM_MAX_FD is 253).
const (
	maxCalls   = 1 << 15
	maxThreads = 250
)

// Pool runs the workers of one application.
type Pool struct {
	// Stdout and Stderr are what the application inherits; New sets them to
	// the process's own. They may be changed before Run.
	Stdout, Stderr *os.File
	// Adopt makes the process the parent of all that the application leaves
	// behind, so that Run can end and reap it: nobody else in the process may
	// start or wait for children then. It is always so for PID 1.
	Adopt bool
	// Changed is called, by one goroutine, when a file of the application's code
	// has changed (py-autoreload). It may be set before Run.
	Changed func(file string)

	heard  func(line []byte) // what Listen was told; nil: nobody listens
	fault  func(text string) // what OnFault was told; nil: nobody asks
	app    *vassal.App
	reaper *reaper
	w      vassal.Workers
	lang   lang.Runtime
	life   Life
	log    *slog.Logger

	calls           []*call
	free            chan *call
	queue           *net.UnixConn // requests go in here; set before the first call is freed
	requests        *direct.Conn  // the same
	ready           chan vassal.Problems
	closed          chan struct{} // no more requests are taken
	over            chan struct{} // Run is about to return; without workers from its beginning
	events          chan event
	lanes           sync.WaitGroup
	seq             atomic.Uint64
	waiting         atomic.Int64
	slots           atomic.Pointer[os.File] // the memory of the slots, once there is one
	spooled         atomic.Int64            // bytes of buffers of answers that their clients have not taken
	parted          atomic.Int64            // when the core began to drain, in Unix nanoseconds; 0: it has not
	parked          atomic.Int64            // calls that are out of use because their workers are
	asleep          atomic.Bool             // no worker runs: the next request wakes them
	wake            chan struct{}
	stats           []numberStats
	fleet           *fleet   // nil: there is one application
	door            *os.File // of the services (Attach); nil: none
	sides           []*side
	further         bool          // it is none of a fleet's first
	shortest        time.Duration // harakiri of any request; 0: none has one
	mules, spoolers atomic.Bool   // side processes of that kind may run
	code            code
	width           atomic.Int32 // requests that one worker serves at once, each on a lane of its own
	most            int          // of width
}

// Life is what is called in the course of Run; each may be nil.
type Life struct {
	Before func(context.Context) error // when programs can be started, before the application is loaded; an error is Run's
	After  func()                      // when the application is gone and programs can still be started, if Before was well
	Loaded func()                      // when a worker has become ready; it must not wait
	// Mule is called before each process of a mule, which is not started before
	// it returns, nor after an error: then it is tried again later. ctx is done
	// when the process is no longer wanted.
	Mule func(ctx context.Context, number int) error
}

// Live sets what is called in the course of Run. Call it before Run.
func (p *Pool) Live(l Life) { p.life = l }

// numberStats are the counts of one worker's place, whoever holds it.
type numberStats struct {
	pid, spawned, requests, delta, errors, respawns, harakiris, busy, running, sent atomic.Int64

	slots     atomic.Int64 // the first of its threads', from 1; 0: there is no process
	accepting atomic.Bool
	cheap     atomic.Bool // no process is wanted in this place
	threads   []threadStats
}

// threadStats are the counts of one thread of a worker's place.
type threadStats struct{ requests, since atomic.Int64 }

// New makes the pool of app. It starts nothing; an error is the application's
// description being unusable. rt is the runtime of the workers' language; with
// app.Workers nil it is nil too, and Run only does what Adopt says.
func New(app *vassal.App, rt lang.Runtime, log *slog.Logger) (*Pool, error) {
	p := &Pool{
		Stdout: os.Stdout, Stderr: os.Stderr, Adopt: os.Getpid() == 1, app: app, lang: rt, log: log,
		ready: make(chan vassal.Problems, 1), closed: make(chan struct{}), over: make(chan struct{}),
		events: make(chan event, 64), reaper: newReaper(), wake: make(chan struct{}, 1),
	}
	if app.Workers == nil {
		return p, nil
	}
	p.w = *app.Workers
	p.w.Processes, p.w.Threads = max(p.w.Processes, 1), max(p.w.Threads, 1)
	if p.w.Threads > maxThreads || p.w.Processes*p.w.Threads > maxCalls-backlog {
		return nil, &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeBadValue, Step: lang.Step,
			Message: fmt.Sprintf("%d processes of %d threads are too many", p.w.Processes, p.w.Threads),
			Hint:    fmt.Sprintf("at most %d threads, and %d threads in all processes together", maxThreads, maxCalls-backlog)}
	}
	p.shortest = shortest(app)
	p.measure()
	return p, nil
}

// shortest is the shortest harakiri that a request of app may have; 0: none.
func shortest(app *vassal.App) time.Duration {
	d := app.Workers.Harakiri
	if app.Routing == nil {
		return d
	}
	for i := range app.Routing.Request {
		if limit, ok := route.Harakiri(&app.Routing.Request[i]); ok && limit > 0 && (d == 0 || limit < d) {
			d = limit
		}
	}
	return d
}

// Ready receives once, when every worker has the application loaded.
func (p *Pool) Ready() <-chan vassal.Problems {
	if p.fleet != nil {
		return p.fleet.ready
	}
	return p.ready
}

// Run starts the workers and keeps them running until ctx is done: then they
// finish what they are at, for as long as App.Drain says, and all that is left
// of the application is killed. An application that does not load, or whose
// workers die before they are ready, makes Run return a *vassal.Problem.
func (p *Pool) Run(ctx context.Context) error {
	reaper := p.reaper
	reaper.adopt = p.Adopt
	var err error
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	reaped := make(chan error, 1)
	go func() { reaped <- reaper.run(work) }()
	if p.life.Before != nil {
		err = p.life.Before(ctx)
	}
	if err == nil {
		if p.w.Language == "" {
			close(p.over) // nobody attends to events: whoever waits for one to be seen to would for ever
			<-ctx.Done()
		} else {
			err = p.tapped(func() error { return p.superviseAll(ctx, reaper) })
		}
		if p.life.After != nil {
			p.life.After()
		}
	}
	if p.Adopt {
		err = errors.Join(err, reaper.killAll())
	}
	stop()
	return errors.Join(err, <-reaped)
}

// supervise is Run with workers.
func (p *Pool) supervise(ctx context.Context, r *reaper) error {
	s := &supervisor{p: p, reaper: r, numbers: make([]number, p.w.Processes), procs: make(map[uint64]*proc), rests: map[SideKind][]chan struct{}{}}
	s.enlist()
	p.enlistSides()
	if err := s.open(); err != nil {
		s.close()
		return err
	}
	for _, c := range p.calls {
		p.free <- c
	}
	s.park()
	p.watchCode()
	err := s.run(ctx)
	close(p.over)
	p.lanes.Wait()
	p.failAll()
	s.close()
	return err
}

// failAll ends what is still queued when the last worker is gone.
func (p *Pool) failAll() {
	for _, c := range p.calls {
		c.mu.Lock()
		if c.state == queued || c.state == abandoned {
			p.complete(c, &exchange.StatusError{Status: 503, RetryAfter: time.Second, Err: errStopping})
			continue
		}
		c.mu.Unlock()
	}
}

var errStopping = errors.New("the workers are stopping")

// inFlight is how many requests are with the workers or in their queue.
func (p *Pool) inFlight() int { return len(p.calls) - len(p.free) - int(p.parked.Load()) }

// Stats tells what the workers have done.
func (p *Pool) Stats() exchange.Stats {
	out := p.ownStats()
	if p.fleet != nil {
		p.fleet.add(&out)
	}
	return out
}

// ownStats is Stats of the first application alone.
func (p *Pool) ownStats() exchange.Stats {
	out := exchange.Stats{Queued: int(max(p.waiting.Load(), 0))}
	slots := p.readSlots()
	for i := range p.stats {
		s := &p.stats[i]
		w := exchange.WorkerStats{ID: i + 1, PID: int(s.pid.Load()), Requests: uint64(s.requests.Load()),
			Errors: uint64(s.errors.Load()), Respawns: uint64(s.respawns.Load()), Harakiris: uint64(s.harakiris.Load()),
			Busy: s.busy.Load() > 0, Accepting: s.accepting.Load(), Running: time.Duration(s.running.Load()),
			Sent: uint64(s.sent.Load()), Cheap: s.cheap.Load(), Delta: uint64(s.delta.Load())}
		for j := range s.threads[:p.width.Load()] {
			t := exchange.ThreadStats{Requests: uint64(s.threads[j].requests.Load())}
			if at := s.threads[j].since.Load(); at != 0 {
				t.Since = time.Unix(0, at)
			}
			if since := p.noted(slots, int(s.slots.Load())-1, j); !since.IsZero() && t.Since.IsZero() {
				w.Busy, t.Since = true, since
			}
			w.Threads = append(w.Threads, t)
		}
		if at := s.spawned.Load(); at != 0 {
			w.Spawned = time.Unix(0, at)
		}
		out.Respawns += w.Respawns
		out.Workers = append(out.Workers, w)
	}
	return out
}

// slotRanges is how many places for slots there are for each worker: one that
// dies keeps its own until the answers it has left behind are sent.
const slotRanges = 4

// readSlots is what the workers have noted; nil if that cannot be read.
func (p *Pool) readSlots() []byte {
	memory := p.slots.Load()
	if memory == nil {
		return nil
	}
	table := make([]byte, 8*p.most*slotRanges*p.w.Processes)
	n, _ := memory.ReadAt(table, 0)
	return table[:n]
}

// noted is when the request began that a thread has noted and not answered yet.
// Until its first frame nothing else tells that it is at one.
func (p *Pool) noted(slots []byte, first, thread int) time.Time {
	at := 8 * (first + thread)
	if first < 0 || len(slots) < at+8 {
		return time.Time{}
	}
	if c := p.alive(binary.LittleEndian.Uint64(slots[at:])); c != nil {
		return time.Unix(0, c.began.Load())
	}
	return time.Time{}
}

// socketPair is a pair of connected Unix sockets: the core's end for Go, the
// other to be given away.
func socketPair(kind int) (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair for the workers: %w", err)
	}
	own, other := os.NewFile(uintptr(fds[0]), "core"), os.NewFile(uintptr(fds[1]), "worker")
	defer own.Close()
	conn, err := net.FileConn(own)
	if err != nil {
		other.Close()
		return nil, nil, fmt.Errorf("socket pair for the workers: %w", err)
	}
	return conn.(*net.UnixConn), other, nil
}
