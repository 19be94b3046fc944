// Package serve is the core: it serves the App of one vassal until it is told
// to drain.
//
// What a request passes is built in New and never changes:
//
//	front (HTTP, uwsgi protocol) → mount points → routing rules → static files → application → 404
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
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"liege/serve/api"
	"liege/serve/cache"
	"liege/serve/certs"
	"liege/serve/cgi"
	"liege/serve/compress"
	"liege/serve/daemon"
	"liege/serve/exchange"
	"liege/serve/exec"
	"liege/serve/front"
	"liege/serve/metrics"
	"liege/serve/php"
	"liege/serve/proxy"
	"liege/serve/route"
	"liege/serve/static"
	"liege/vassal"
)

// Application runs the application: package worker's Pool.
type Application interface {
	exchange.Handler
	// Call calls a function that the application has registered.
	Call(ctx context.Context, function string, args []string) (string, error)
	// Run starts the workers, and stops them when ctx is done. It returns when
	// all are gone. An application that does not load ends it with a
	// *vassal.Problem.
	Run(ctx context.Context) error
	// Ready receives once, when the application is loaded: what is worth
	// telling about it.
	Ready() <-chan vassal.Problems
	Stats() exchange.Stats
	// Start and Environ are for CGI programs: nobody else in the process may
	// start and wait for one.
	cgi.Starter
}

// Core serves one App.
type Core struct {
	onClosed func()
	app      *vassal.App
	pool     Application
	cgi      *cgi.Handler // nil: none
	front    *front.Server
	access   *accessLog
	proxy    *proxy.Client // nil: no rules
	forward  *forward      // nil: no http-to
	certs    *certs.Store  // nil: no TLS
	notes    vassal.Problems
	vars     []exchange.Var
	pages    map[int][]byte
	caches   *cache.Set   // nil: none
	metrics  *metrics.Set // nil: none
	api      *api.Host    // nil: no application to serve
	servers  []server
	exec     *exec.Handler // nil: none
	php      *php.Handler  // nil: none
	daemons  *daemon.Set   // nil: none
	life     *life
	counts   counts

	space       *exchange.Room // of bodies in files
	compressors compress.Lender

	turn     chan struct{} // closed when daemons may start
	turnOnce sync.Once
	onRested func(time.Time)
	relieved atomic.Bool // by another generation

	listeners atomic.Pointer[[]net.Listener] // while Run serves

	log *slog.Logger
}

// New builds all that serves app. It starts nothing. Lines of the access log
// go to out, whole. An error is a *vassal.Problem about a routing rule.
func New(app *vassal.App, pool Application, out io.Writer, log *slog.Logger) (_ *Core, err error) {
	c := &Core{app: app, pool: pool, log: log, turn: make(chan struct{}), space: exchange.NewRoom(app.Upload.Space), counts: counts{woken: make(chan struct{}, 1)}}
	c.access = newAccessLog(app.Log, out)
	if err = c.secure(); err != nil {
		return nil, err
	}
	if err := c.makeCaches(); err != nil {
		return nil, err
	}
	c.makeMetrics()
	c.makeAPI()
	c.makeHooks(out)
	defer func() {
		if err != nil {
			c.caches.Close()
		}
	}()
	var h exchange.Handler = exchange.HandlerFunc(notFound)
	if app.Workers != nil {
		h = pool
	}
	if h, err = c.serversFor(h); err != nil {
		return nil, err
	}
	if app.CGI != nil {
		if c.cgi, err = cgi.New(app, pool, log); err != nil {
			return nil, err
		}
		h = c.toCGI(h)
	}
	h = c.uploads(h)
	if h, err = c.inFront(h); err != nil {
		return nil, err
	}
	if h, err = c.options(c.fromCache(mounted(app.Mounting, h))); err != nil {
		return nil, err
	}
	if app.Hold != nil {
		h = newHold(app.Hold)
		c.forward = nil
	}
	if c.cgi != nil {
		c.cgi.Whole(h)
	}
	c.front = front.New(front.Config{Hostname: app.Hostname, Limits: app.HTTP, Drain: app.Drain,
		Handler: h, Done: c.done, Closed: c.closed, CGI: c.cgi != nil, PHP: c.php != nil, Own: app.Workers.Modifier(), Call: c.functions(), Ask: app.Modifiers, Stats: c.stats, Pages: c.pages, Log: log})
	return c, nil
}

// inFront puts static files and routing rules in front of h. Without rules
// nothing of them is on the way.
func (c *Core) inFront(h exchange.Handler) (exchange.Handler, error) {
	app := c.app
	files := app.Static.Any()
	switch {
	case !app.Routing.Empty():
		c.proxy = proxy.New(proxy.Limits{Silence: app.HTTP.WriteTimeout}, c.log)
		cfg := route.Config{App: app, Next: h, Stats: c.pool.Stats, Proxy: c.proxy, Compressors: &c.compressors, Cache: c.caches, Metrics: c.metrics, Alarm: c.alarm, Log: c.log}
		if app.Workers != nil {
			cfg.Call = c.pool
		}
		if c.api != nil {
			cfg.Signal = c.api.Signal
		}
		return route.New(cfg, files)
	case files:
		return static.New(app.Static, h, c.log), nil
	}
	return h, nil
}

// toCGI hands requests with uWSGI's modifier of CGI to that, and all of them
// where there is no application.
func (c *Core) toCGI(app exchange.Handler) exchange.Handler {
	if c.app.Workers == nil && c.app.Exec == nil && c.app.PHP == nil {
		return c.cgi
	}
	return exchange.HandlerFunc(func(ctx context.Context, r *exchange.Request, w exchange.Response) error {
		if r.Modifier1 == exchange.ToCGI {
			return c.cgi.Serve(ctx, r, w)
		}
		return app.Serve(ctx, r, w)
	})
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
	if p, ok := c.pool.(interface{ Part() }); ok {
		p.Part()
	}
	if c.onClosed != nil {
		c.onClosed()
	}
}

// done counts and logs one request.
func (c *Core) done(r *exchange.Request) {
	if then := r.Info.Then; then != nil {
		then()
	}
	took := time.Since(r.Start)
	n := c.counts.add(r.Info.Status, took)
	if r.Info.Backend == "static" {
		c.counts.static.Add(1)
	}
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
	ls := c.fronts()
	for i, l := range listeners {
		ls[i].Listener = l
	}
	c.keep(listeners)
	stopLog := c.access.start()
	defer stopLog()

	// The workers outlive the front: what was accepted needs them.
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	serving, stop := context.WithCancel(ctx)
	defer stop()
	c.life.now.Store(&serving)
	stopJobs, stopAPI, err := c.startAPI(work)
	if err != nil {
		return err
	}
	var pool sync.WaitGroup
	var poolErr error
	pool.Go(func() {
		poolErr = c.pool.Run(work)
		stop()
	})
	var aside sync.WaitGroup
	aside.Go(func() { c.caches.Run(work) })
	aside.Go(func() { c.watchThresholds(work) })
	var frontErr error
	stopServers := func() error { return nil }
	if c.life.prepared(serving) {
		stopServers = c.besides(ctx, stop)
		frontErr = c.serve(serving, stop, stopJobs, ls, ready)
	}
	stopJobs()
	serversErr := stopServers()
	stopWork()
	pool.Wait()
	stopAPI()
	aside.Wait()
	c.caches.Close()
	if c.proxy != nil {
		c.proxy.Close()
	}
	if c.forward != nil {
		c.forward.client.Close()
	}
	if c.cgi != nil {
		c.cgi.Close()
	}
	switch {
	case poolErr != nil:
		return poolErr
	case serversErr != nil:
		return serversErr
	}
	return frontErr
}

// serve is Run's part from the application's load to the last request.
func (c *Core) serve(ctx context.Context, stop, stopJobs func(), ls []front.Listener, ready func(vassal.Problems)) error {
	notes, ok := c.wait(ctx)
	if !ok {
		return nil
	}
	if err := c.afterLoad(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	ready(slices.Concat(notes, c.notes, c.access.note(c.app.Log.At)))
	rested, hooks := c.handOver(ctx, stop, stopJobs), c.follow(ctx)
	err := c.front.Run(ctx, ls)
	hooks()
	rested()
	return err
}

// wait waits until the application is loaded.
func (c *Core) wait(ctx context.Context) (vassal.Problems, bool) {
	if !c.awaitServers(ctx) {
		return nil, false
	}
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
