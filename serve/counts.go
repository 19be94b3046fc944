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
}

// add counts one request, and returns how many there were.
func (c *counts) add(status int, took time.Duration) uint64 {
	if status >= 500 {
		c.errors.Add(1)
	}
	c.busy.Add(int64(took))
	return c.requests.Add(1)
}

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
