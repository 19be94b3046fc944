package serve

import (
	"sync/atomic"
	"time"

	"liege/vassal"
)

// counts are what the core counts about requests.
type counts struct {
	requests, errors, static atomic.Uint64
	busy                     atomic.Int64 // nanoseconds

	dozes atomic.Bool   // who looks at them waits for the next request
	woken chan struct{} // has room for one
}

// add counts one request, and returns how many there were.
func (c *counts) add(status int, took time.Duration) uint64 {
	if status >= 500 {
		c.errors.Add(1)
	}
	c.busy.Add(int64(took))
	n := c.requests.Add(1)
	if c.dozes.Load() && c.dozes.CompareAndSwap(true, false) {
		select {
		case c.woken <- struct{}{}:
		default:
		}
	}
	return n
}

// Doze has the next request that is counted be told to Woken. Look at Counts after
// it: what was counted before is not told.
func (c *Core) Doze() { c.counts.dozes.Store(true) }

// Woken has a value when there was a request since Doze.
func (c *Core) Woken() <-chan struct{} { return c.counts.woken }

// Counts returns what was counted since the start.
func (c *Core) Counts() vassal.Counts {
	return vassal.Counts{
		Requests: c.counts.requests.Load(),
		Errors:   c.counts.errors.Load(),
		Active:   c.front.Active(),
		Respawns: c.respawns(),
		Busy:     time.Duration(c.counts.busy.Load()),
	}
}
