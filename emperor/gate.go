package emperor

import (
	"context"
	"slices"
	"sync"
	"time"
)

// class says who goes first through the gate.
type class int

const (
	asked    class = iota // by a command: somebody waits
	demanded              // by a first request
	edited                // a file that was changed: its author looks at it
	ordinary              // the set at start-up, a changed template
	tardy                 // retries, and vassals whose last start overstayed
)

// handicap is by how much later than it came a waiter counts as come. It is
// finite, so that the tardy are not starved by a stream of others, and small
// for an edit, because a tenant can make as many as he likes.
var handicap = [...]time.Duration{asked: -10 * time.Minute, demanded: -5 * time.Minute, edited: -5 * time.Second, ordinary: 0, tardy: 30 * time.Second}

// startsPerCPU is how many vassals start at once for each CPU. A start waits for much
// of its time: for the kernel's grace periods, when a process enters its cgroups and
// when a mount is dissolved, and between programs that take turns. With one for each
// CPU these idled while a hundred vassals waited.
const startsPerCPU = 2

// A gate bounds how many vassals start at once (CONTRACT 19). A slot is held
// for SlotTime at most: a start that takes longer goes on without, so a vassal
// that sleeps in a hook delays the others by that once, and comes as tardy the
// next time.
type gate struct {
	mu      sync.Mutex
	free    int
	waiting []*waiter // in the order in which they go
}

type waiter struct {
	key  time.Time
	user int           // whose file; 0: the operator's
	turn chan struct{} // closed when the slot is this waiter's
}

func newGate(slots int) *gate { return &gate{free: slots} }

// A slot is the right to start. Release may be called more than once; the zero
// slot is released.
type slot struct {
	gate  *gate
	once  sync.Once
	timer *time.Timer
	came  time.Time
	late  bool
}

// Release gives the slot back and reports whether it was overstayed.
func (s *slot) Release() (tardy bool) {
	if s.gate == nil {
		return false
	}
	s.timer.Stop()
	s.give()
	return s.late
}

func (s *slot) give() {
	s.once.Do(func() {
		s.gate.mu.Lock()
		defer s.gate.mu.Unlock()
		s.late = time.Since(s.came) >= SlotTime
		s.gate.free++
		s.gate.admit()
	})
}

// acquire waits for a slot. since is when the vassal first wanted one: trying
// again keeps the place. user owns the vassal's file, 0 for the operator: each of
// a user's that waits already counts as a slot taken, so that a user with a
// thousand files that hang does not go before everybody else with one.
func (g *gate) acquire(ctx context.Context, c class, since time.Time, user int) (*slot, error) {
	w := &waiter{key: since.Add(handicap[c]), user: user, turn: make(chan struct{})}
	g.mu.Lock()
	for _, o := range g.waiting {
		if user != 0 && o.user == user {
			w.key = w.key.Add(SlotTime)
		}
	}
	i, _ := slices.BinarySearchFunc(g.waiting, w, func(a, b *waiter) int {
		if a.key.After(b.key) {
			return 1
		}
		return -1 // equals stay in the order in which they came
	})
	g.waiting = slices.Insert(g.waiting, i, w)
	g.admit()
	g.mu.Unlock()

	select {
	case <-w.turn:
	case <-ctx.Done():
		g.mu.Lock()
		defer g.mu.Unlock()
		if i := slices.Index(g.waiting, w); i >= 0 {
			g.waiting = slices.Delete(g.waiting, i, i+1)
		} else { // it had its turn meanwhile
			g.free++
			g.admit()
		}
		return nil, ctx.Err()
	}
	s := &slot{gate: g, came: time.Now()}
	s.timer = time.AfterFunc(SlotTime, s.give)
	return s, nil
}

// admit lets in as many as there are slots. The caller holds mu.
func (g *gate) admit() {
	for g.free > 0 && len(g.waiting) > 0 {
		g.free--
		close(g.waiting[0].turn)
		g.waiting = slices.Delete(g.waiting, 0, 1)
	}
}
