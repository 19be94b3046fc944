// Package serve is the core: it serves the App of one vassal until it is told
// to drain.
//
// What a request passes is built in New and never changes:
//
//	front (HTTP, uwsgi protocol) → static files → application → 404
//
// or, in a holding generation, front → the one answer; and once its answer is complete it is counted and written to the access
// log. A new configuration is a new process: nothing here is reconfigured.
package serve

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"liege/serve/exchange"
	"liege/serve/front"
	"liege/serve/static"
	"liege/vassal"
)

// Application runs the application: package worker's Pool.
type Application interface {
	exchange.Handler
	// Run starts the workers, and stops them when ctx is done. It returns when
	// all are gone. An application that does not load ends it with a
	// *vassal.Problem.
	Run(ctx context.Context) error
	// Ready receives once, when the application is loaded: what is worth
	// telling about it.
	Ready() <-chan vassal.Problems
	Stats() exchange.Stats
}

// Core serves one App.
type Core struct {
	onClosed func()
	app      *vassal.App
	pool     Application
	front    *front.Server
	access   *accessLog
	counts   counts
	log      *slog.Logger
}

// New builds all that serves app. It starts nothing. Lines of the access log
// go to out, whole.
func New(app *vassal.App, pool Application, out io.Writer, log *slog.Logger) *Core {
	c := &Core{app: app, pool: pool, log: log}
	c.access = newAccessLog(app.Log, out)
	var h exchange.Handler = exchange.HandlerFunc(notFound)
	if app.Workers != nil {
		h = pool
	}
	if s := app.Static; len(s.Check)+len(s.Map) > 0 {
		h = static.New(s, h, log)
	}
	if app.Hold != nil {
		h = newHold(app.Hold)
	}
	c.front = front.New(front.Config{Hostname: app.Hostname, Limits: app.HTTP, Drain: app.Drain,
		Handler: h, Done: c.done, Closed: c.closed, Stats: c.stats, Log: log})
	return c
}

var errNotFound = errors.New("no file and no application")

func notFound(_ context.Context, r *exchange.Request, w exchange.Response) error {
	switch r.Get("REQUEST_METHOD") {
	case "GET", "HEAD":
		return &exchange.StatusError{Status: 404, Err: errNotFound}
	}
	return w.Head(405, "", []exchange.Field{{Name: "Allow", Value: "GET, HEAD"}, {Name: "Content-Length", Value: "0"}})
}

// OnClosed has f called when Run accepts no more. Call it before Run.
func (c *Core) OnClosed(f func()) { c.onClosed = f }

func (c *Core) closed() {
	if c.onClosed != nil {
		c.onClosed()
	}
}

// done counts and logs one request.
func (c *Core) done(r *exchange.Request) {
	took := time.Since(r.Start)
	n := c.counts.add(r.Info.Status, took)
	if c.app.Hold != nil {
		return // that it did not serve is no news of any one request
	}
	c.access.request(r, n, took)
}

// Run serves listeners, of which listeners[i] is app.Listen[i], until ctx is
// done; then it finishes what was accepted. It calls ready, with what the
// application's side found, once that is loaded and before the first request
// is taken. It returns when
// nothing of it is left: nil if it was asked to end.
func (c *Core) Run(ctx context.Context, listeners []net.Listener, ready func(vassal.Problems)) error {
	var ls []front.Listener
	for i, l := range listeners {
		ls = append(ls, front.Listener{Listener: l, Protocol: c.app.Listen[i].Protocol})
	}
	stopLog := c.access.start()
	defer stopLog()

	// The workers outlive the front: what was accepted needs them.
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	serving, stop := context.WithCancel(ctx)
	defer stop()
	var pool sync.WaitGroup
	var poolErr error
	pool.Go(func() {
		poolErr = c.pool.Run(work)
		stop()
	})
	var frontErr error
	if notes, ok := c.wait(serving); ok {
		ready(notes)
		frontErr = c.front.Run(serving, ls)
	}
	stopWork()
	pool.Wait()
	if poolErr != nil {
		return poolErr
	}
	return frontErr
}

// wait waits until the application is loaded.
func (c *Core) wait(ctx context.Context) (vassal.Problems, bool) {
	if c.app.Workers == nil {
		return nil, true
	}
	select {
	case notes := <-c.pool.Ready():
		return notes, true
	case <-ctx.Done():
		return nil, false
	}
}

// Reopen opens the access log anew, after somebody rotated it.
func (c *Core) Reopen() error { return c.access.reopen() }
