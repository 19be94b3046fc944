package serve

import (
	"context"
	"sync"
	"time"

	"liege/serve/daemon"
	"liege/serve/exchange"
	"liege/serve/exec"
	"liege/serve/php"
)

// A server is an application that answers by itself: package exec's programs,
// package php's processes.
type server interface {
	exchange.Handler
	// Run keeps it running until ctx ends and all its processes are gone.
	// When it does not come up at the start that is a *vassal.Problem.
	Run(ctx context.Context) error
	// Ready is closed once it is up.
	Ready() <-chan struct{}
	Stats() exchange.Stats
}

// serversFor makes what app.Exec and app.PHP ask for, and puts it before or in
// place of next.
func (c *Core) serversFor(next exchange.Handler) (exchange.Handler, error) {
	if c.app.Exec != nil {
		x, err := exec.New(c.app, c.pool, c.app.HTTP.WriteTimeout, c.log)
		if err != nil {
			return nil, err
		}
		c.servers, c.exec = append(c.servers, x), x
		next = x
	}
	if c.app.PHP != nil {
		p, err := php.New(c.app, c.pool, c.app.HTTP.WriteTimeout, c.space, c.log)
		if err != nil {
			return nil, err
		}
		c.servers, c.php = append(c.servers, p), p
		next = c.toPHP(next)
	}
	if len(c.app.Daemons) > 0 {
		c.daemons = daemon.New(c.app, c.pool, c.log)
	}
	return next, nil
}

// toPHP hands requests with uWSGI's modifier of PHP to that, and all of them
// where nothing else answers.
func (c *Core) toPHP(app exchange.Handler) exchange.Handler {
	if c.app.Workers == nil && c.app.Exec == nil {
		return c.php
	}
	return exchange.HandlerFunc(func(ctx context.Context, r *exchange.Request, w exchange.Response) error {
		if r.Modifier1 == exchange.ToPHP {
			return c.php.Serve(ctx, r, w)
		}
		return app.Serve(ctx, r, w)
	})
}

// besides runs the servers until stop is called, which waits for their ends;
// one that fails cancels and is the error that stop returns.
func (c *Core) besides(ctx context.Context, cancel func()) (stop func() error) {
	ctx, end := context.WithCancel(context.WithoutCancel(ctx))
	var all sync.WaitGroup
	var mu sync.Mutex
	var first error
	for _, s := range c.servers {
		all.Go(func() {
			if err := s.Run(ctx); err != nil {
				mu.Lock()
				if first == nil {
					first = err
				}
				mu.Unlock()
			}
			cancel()
		})
	}
	return func() error {
		end()
		all.Wait()
		return first
	}
}

// Turn says that no other generation of the vassal has daemons, crons, timers
// or spoolers: its own may start. since is up to which minute the one before
// has seen to its crons; zero: unknown.
func (c *Core) Turn(since time.Time) {
	c.turnOnce.Do(func() { close(c.turn) })
	if c.api != nil {
		c.api.Turn(since)
	}
}

// Alone says that no other generation lives: mules may start too.
func (c *Core) Alone() {
	c.Turn(time.Time{})
	if c.api != nil {
		c.api.Alone()
	}
}

// OnRested has f called when, after ctx of Run has ended, nothing is left of
// what Turn allows; until is for Turn of the next generation. Call it before
// Run.
func (c *Core) OnRested(f func(until time.Time)) { c.onRested = f }

// Relieved says that the end which follows is no stop of the vassal: another
// generation takes over, and commands of crons may end in peace.
func (c *Core) Relieved() {
	c.relieved.Store(true)
	if c.api != nil {
		c.api.Relieved()
	}
}

// handOver runs the daemons once it is the core's turn. When serving ends,
// though requests may still be in hand, they and the jobs end, and the next
// generation is told; quit ends the core. The function that it returns waits
// for that, and then for the mules, which requests may have sent messages.
func (c *Core) handOver(serving context.Context, quit, stopJobs func()) (wait func()) {
	var all, jobs sync.WaitGroup
	var began time.Time
	daemons, endDaemons := context.WithCancel(context.WithoutCancel(serving))
	if c.daemons != nil {
		all.Go(func() {
			select {
			case <-c.turn:
				c.daemons.Run(daemons, quit)
			case <-serving.Done():
			}
		})
	}
	rested := make(chan struct{})
	go func() {
		defer close(rested)
		<-serving.Done()
		began = time.Now()
		if c.api != nil {
			jobs.Go(stopJobs)
			jobs.Go(c.api.Rest)
		}
		if c.relieved.Load() {
			c.outlast(&jobs)
		}
		endDaemons()
		jobs.Wait()
		all.Wait()
		if c.onRested != nil {
			c.onRested(c.until())
		}
	}()
	return func() {
		<-rested
		c.settle(context.WithoutCancel(serving), began)
	}
}

// daemonsEnd is what is left of a drain for the daemons, which are asked to end
// after the jobs that may need them.
const daemonsEnd = 5 * time.Second

// outlast waits for the end of the jobs, but not so long that the daemons would
// be killed.
func (c *Core) outlast(jobs *sync.WaitGroup) {
	over := make(chan struct{})
	go func() { jobs.Wait(); close(over) }()
	t := time.NewTimer(max(0, c.app.Drain-daemonsEnd))
	defer t.Stop()
	select {
	case <-over:
	case <-t.C:
	}
}

// until is up to which minute the jobs have seen to crons.
func (c *Core) until() time.Time {
	if c.api == nil {
		return time.Time{}
	}
	return c.api.Until()
}

// settle has the mules work off what waits for them. It takes no longer than
// mule-reload-mercy and what a drain that has begun then may take.
func (c *Core) settle(ctx context.Context, began time.Time) {
	if c.api == nil || c.app.Jobs == nil {
		return
	}
	limit := c.app.Drain
	if m := c.app.Jobs.MuleMercy; m > 0 {
		limit = min(limit, m)
	}
	ctx, cancel := context.WithDeadline(ctx, began.Add(limit))
	defer cancel()
	if n := c.api.Settle(ctx); n > 0 {
		c.log.Warn("messages that no mule has taken are lost", "messages", n, "limit", limit)
	}
}

// functions are what peers may call; nil: there is no application.
func (c *Core) functions() func(context.Context, string, []string) (string, error) {
	if c.app.Workers == nil || c.app.Hold != nil {
		return nil
	}
	return c.pool.Call
}

// awaitServers waits until all servers are up.
func (c *Core) awaitServers(ctx context.Context) bool {
	for _, s := range c.servers {
		select {
		case <-s.Ready():
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// daemonStats are uWSGI's of a daemon.
type daemonStats struct {
	Cmd      string `json:"cmd"`
	PID      int    `json:"pid"`
	Respawns uint64 `json:"respawns"`
}

func (c *Core) daemonStats() (out []daemonStats) {
	if c.daemons == nil {
		return nil
	}
	for _, d := range c.daemons.Stats() {
		out = append(out, daemonStats{d.Command, d.PID, d.Respawns})
	}
	return out
}

// respawns counts the processes that had to be replaced.
func (c *Core) respawns() uint64 {
	n := c.pool.Stats().Respawns
	for _, s := range c.servers {
		n += s.Stats().Respawns
	}
	return n
}

var (
	_ server = (*exec.Handler)(nil)
	_ server = (*php.Handler)(nil)
)
