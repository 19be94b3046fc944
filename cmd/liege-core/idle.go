package main

import (
	"time"

	"liege/vassal"
)

// A pace says how often counters are looked at.
type pace struct {
	may   bool      // they need not be looked at each second for another's sake
	since time.Time // of the last change
	slow  bool
}

// ripe reports whether it may be looked seldom, unless something has changed now.
func (p *pace) ripe(now time.Time) bool { return p.may && now.Sub(p.since) >= dozeAfter }

// next returns the time between looks from now on; 0: as before.
func (p *pace) next(changed bool, now time.Time) time.Duration {
	if changed {
		p.since = now
	}
	slow := p.ripe(now)
	if slow == p.slow {
		return 0
	}
	p.slow = slow
	if slow {
		return restEvery
	}
	return countEvery
}

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
