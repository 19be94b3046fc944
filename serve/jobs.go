package serve

import (
	"context"
	"fmt"
	"net"
	"sync"

	"liege/serve/api"
	"liege/serve/front"
	"liege/serve/worker"
)

// makeAPI makes what the application's processes ask of the core.
func (c *Core) makeAPI() {
	pool, ok := c.pool.(api.Workers)
	if !ok || c.app.Workers == nil && c.app.Jobs == nil {
		return
	}
	c.api = api.New(c.app, c.caches, pool, c.log)
	c.api.Metrics = c.metrics
	c.api.Queue = func() int { return queued(c.listeners.Load()) }
	c.api.Full = c.full
}

// alarm raises an alarm.
func (c *Core) alarm(name, text string) {
	if c.api == nil {
		c.log.Warn("alarm", "name", name, "text", text, "err", "no alarm line has this name")
		return
	}
	c.api.Alarm(name, text)
}

// full says which queue has no place left: a listener's in the kernel, or that
// of the requests which wait for a worker.
func (c *Core) full() string {
	most := worker.MaxWaiting(c.app)
	for _, crew := range c.crews() {
		if crew.Queued >= most {
			return fmt.Sprintf("*** the queue of requests is full: %d wait for a worker ***", most)
		}
	}
	ls := c.listeners.Load()
	if ls == nil {
		return ""
	}
	for _, l := range *ls {
		if waiting, most := front.Queue(l); most > 0 && waiting >= most {
			return fmt.Sprintf("*** listen queue of socket %q full: %d ***", l.Addr(), most)
		}
	}
	return ""
}

// queued is how many connections wait to be accepted.
func queued(ls *[]net.Listener) (n int) {
	if ls == nil {
		return 0
	}
	for _, l := range *ls {
		waiting, _ := front.Queue(l)
		n += waiting
	}
	return n
}

// OnWish has reload and stop called when the application asks for that. Call
// it before Run.
func (c *Core) OnWish(reload func(pid int), stop func()) {
	if c.api != nil {
		c.api.Reload, c.api.Stop = reload, stop
	}
}

// startAPI lets the application's processes reach the services. Jobs end while
// the processes still run, the services when these are gone.
func (c *Core) startAPI(ctx context.Context) (stopJobs, stop func(), err error) {
	if c.api == nil {
		return func() {}, func() {}, nil
	}
	pool, _ := c.pool.(api.Workers) // as in makeAPI
	if err = c.api.MakeSpools(); err == nil {
		err = pool.Attach(c.api)
	}
	if err != nil {
		c.api.Close()
		return nil, nil, err
	}
	ctx = context.WithoutCancel(ctx)
	var serving, working sync.WaitGroup
	answer, end := context.WithCancel(ctx)
	serving.Go(func() { c.api.Run(answer) })
	work, rest := context.WithCancel(ctx)
	working.Go(func() { c.api.Jobs(work) })
	stopJobs = func() {
		rest()
		working.Wait()
	}
	return stopJobs, func() {
		end()
		serving.Wait()
		c.api.Close()
	}, nil
}

// addJobs adds to the stats what uWSGI's have of jobs.
func (c *Core) addJobs(d *stats) {
	if c.api == nil {
		return
	}
	d.Locks, d.Crons = c.api.Locks(), c.api.Crons()
	d.Mules, d.Spoolers = c.api.Sides()
}
