package serve

import (
	"context"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"

	"liege/serve/hook"
	"liege/serve/worker"
	"liege/vassal"
)

// life is the Core's side of the hooks: nil Runner, no hooks.
type life struct {
	*hook.Runner
	begun  chan struct{} // closed when the hooks before the application are done
	loaded chan struct{} // receives when a worker has become ready
	seen   map[int]int   // pids of workers whose hooks were run, by place
	now    atomic.Pointer[context.Context]
}

// makeHooks has the pool call those that come around its life.
func (c *Core) makeHooks(out io.Writer) {
	c.life = &life{Runner: hook.New(c.app, c.pool, out, c.log), begun: make(chan struct{}), loaded: make(chan struct{}, 1), seen: map[int]int{}}
	if c.life.Runner != nil {
		c.life.Alarm = c.alarm
	}
	pool, ok := c.pool.(interface{ Live(worker.Life) })
	if c.life.Runner == nil || !ok {
		close(c.life.begun)
		return
	}
	var mule func(context.Context, int) error
	if c.life.Has(vassal.AsMule) {
		mule = func(ctx context.Context, n int) error {
			return c.life.Run(ctx, vassal.AsMule, "LIEGE_MULE="+strconv.Itoa(n))
		}
	}
	pool.Live(worker.Life{
		Mule: mule,
		Before: func(ctx context.Context) error {
			err := c.life.Run(c.life.ctx(ctx), vassal.PreApp)
			if c.life.ctx(ctx).Err() != nil {
				return nil // it is to end already: no word about what that cut short
			}
			if err == nil {
				close(c.life.begun)
			}
			return err
		},
		After: func() {
			if now := c.life.now.Load(); now != nil {
				_ = c.life.Run(context.WithoutCancel(*now), vassal.AsUserAtexit) // failures are logged
			}
		},
		Loaded: func() {
			select {
			case c.life.loaded <- struct{}{}:
			default: // whoever looks will see this one too
			}
		},
	})
}

// ctx is done when the core accepts no more; before Run it is otherwise.
func (l *life) ctx(otherwise context.Context) context.Context {
	if now := l.now.Load(); now != nil {
		return *now
	}
	return otherwise
}

// prepared waits for the hooks before the application; false: it is to end.
func (l *life) prepared(ctx context.Context) bool {
	select {
	case <-l.begun:
		return true
	case <-ctx.Done():
		return false
	}
}

// afterLoad runs the hooks between the application's load and the first
// request.
func (c *Core) afterLoad(ctx context.Context) error {
	for _, p := range []vassal.Phase{vassal.PostApp, vassal.MasterStart, vassal.AsGateway} {
		if err := c.life.Run(ctx, p); err != nil {
			return err
		}
	}
	return c.life.Workers(ctx, c.workers(), c.life.seen)
}

// workers are those that are ready. What has none of its own counts as one.
func (c *Core) workers() (out []hook.Worker) {
	if c.app.Workers == nil {
		return []hook.Worker{{ID: 1, PID: os.Getpid()}}
	}
	for _, w := range c.pool.Stats().Workers {
		if w.PID > 0 && w.Accepting {
			out = append(out, hook.Worker{ID: w.ID, PID: w.PID})
		}
	}
	return out
}

// follow runs the hooks of files and of workers that come later, until ctx is
// done. A worker whose hooks fail serves on.
func (c *Core) follow(ctx context.Context) (wait func()) {
	var all sync.WaitGroup
	if c.life.Runner == nil {
		return all.Wait
	}
	all.Go(func() { c.life.Watch(ctx) })
	all.Go(func() {
		for {
			select {
			case <-c.life.loaded:
				if err := c.life.Workers(ctx, c.workers(), c.life.seen); err != nil && ctx.Err() == nil {
					c.log.Error("a hook of a worker failed", "err", err)
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return all.Wait
}

// Hook runs the hooks of what the Emperor does: emperor-stop and its kin. They
// end with Run's ctx, and with App.Drain.
func (c *Core) Hook(phase vassal.Phase) {
	now := c.life.now.Load()
	if now == nil || !c.life.Has(phase) {
		return
	}
	ctx, cancel := context.WithTimeout(*now, c.app.Drain)
	defer cancel()
	_ = c.life.Run(ctx, phase) // failures are logged
}
