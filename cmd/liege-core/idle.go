package main

import (
	"time"

	"liege/vassal"
)

// An idler says when there was no request for so long that the vassal may
// sleep. A request that is being served, a WebSocket for instance, keeps it
// awake for as long as it takes.
type idler struct {
	after    time.Duration // 0: never
	requests uint64
	since    time.Time // of the last request, or of the last time that it was due
}

// due compares the counts with those of before.
func (i *idler) due(c vassal.Counts, now time.Time) bool {
	if c.Requests != i.requests || c.Active > 0 {
		i.requests, i.since = c.Requests, now
		return false
	}
	if i.after <= 0 || now.Sub(i.since) < i.after {
		return false
	}
	i.since = now
	return true
}
