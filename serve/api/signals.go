package api

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Bounds of what the application registers.
const (
	maxTimers   = 64 // timers, of either kind; crons; file monitors: uWSGI's
	maxTarget   = 63 // bytes
	maxPath     = 4096
	anyQueue    = 256 // signals that wait for any free worker
	anyAtOnce   = 8   // of them with the workers at once
	signalTime  = 10 * time.Minute
	maxInterval = 1 << 31 // seconds
)

// signals are the 256 signals of uWSGI, and what raises them.
type signals struct {
	mu     sync.Mutex
	table  [256]handler
	timers []timer
	crons  []cron
	files  []file
	wake   chan struct{} // the jobs have changed
	any    chan anySignal
	lost   uint64
	routed uint64
}

// handler says where a signal goes.
type handler struct {
	set    bool
	pool   int
	target string
}

// timer raises a signal; times 0: for ever.
type timer struct {
	pool, signal int
	every        time.Duration
	times        int
	next         time.Time
}

type cron struct {
	pool, signal                   int
	minute, hour, day, month, week int
}

type file struct {
	pool, signal int
	path         string
	was          state
}

type anySignal struct{ pool, n int }

func (s *signals) init() {
	s.wake, s.any = make(chan struct{}, 1), make(chan anySignal, anyQueue)
}

// Signal raises a signal as its registration says.
func (h *Host) Signal(n int) error {
	if n < 0 || n > 255 {
		return fmt.Errorf("signal %d: not in 0 to 255", n)
	}
	s := &h.signals
	s.mu.Lock()
	t := s.table[n]
	s.mu.Unlock()
	if !t.set {
		return fmt.Errorf("signal %d: nobody has registered it", n)
	}
	err := h.deliver(t.pool, n, t.target)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.lost++
	} else {
		s.routed++
	}
	return err
}

// raised is Signal for what the core itself raises: it goes to the log.
func (h *Host) raised(n int, why string) {
	if err := h.Signal(n); err != nil {
		h.log.Warn("a signal is lost", "signal", n, "of", why, "err", err)
	}
}

// toAny queues a signal for whichever worker is free.
func (s *signals) toAny(pool, n int) error {
	select {
	case s.any <- anySignal{pool, n}:
		return nil
	default:
		return fmt.Errorf("%d signals wait for a free worker already", anyQueue)
	}
}

// runSignals hands signals to free workers.
func (h *Host) runSignals(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for range anyAtOnce {
		all.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case s := <-h.signals.any:
					bound, cancel := context.WithTimeout(ctx, signalTime)
					if err := h.pool.Signal(bound, s.pool, s.n); err != nil && ctx.Err() == nil {
						h.log.Error("a signal's handler failed", "signal", s.n, "err", err)
					}
					cancel()
				}
			}
		})
	}
}

// raise is uwsgi.signal.
func (c *client) raise() bool {
	n, good := c.f.small(0, 0, 255)
	if !good {
		return false
	}
	if err := c.h.Signal(n); err != nil {
		c.a.refuse("%v", err)
	}
	return true
}

// handle is uwsgi.register_signal.
func (c *client) handle() bool {
	n, good := c.f.small(0, 0, 255)
	target := c.f.text(1)
	if !good || len(target) > maxTarget {
		return false
	}
	if !c.h.known(target) {
		c.a.refuse("unknown signal target %q", target)
		return true
	}
	s := &c.h.signals
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table[n] = handler{true, c.pool, target}
	return true
}

// known reports whether target means anybody.
func (h *Host) known(target string) bool {
	switch target {
	case "", "worker", "workers", "active-workers", "spooler", "mule", "mules", "worker0", "mule0":
		return true
	}
	if _, good := numbered(target, "worker"); good {
		return true
	}
	n, good := numbered(target, "mule")
	return good && n < len(h.boxes.mules) || h.boxes.farm(target) != nil
}

func (c *client) handled() bool {
	n, good := c.f.small(0, 0, 255)
	if !good {
		return false
	}
	s := &c.h.signals
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.say(s.table[n].set)
}

// answerJob answers who adds a timer or the like.
func (c *client) answerJob(err error) bool {
	if err != nil {
		c.a.refuse("%v", err)
	}
	return true
}

func (c *client) addTimer() bool {
	n, good := c.f.small(0, 0, 255)
	ms, good2 := c.f.number(1)
	times, good3 := c.f.small(2, 0, 1<<30)
	if !good || !good2 || !good3 {
		return false
	}
	if ms < 1 || ms > maxInterval*1000 {
		c.a.refuse("an interval of %d milliseconds", ms)
		return true
	}
	return c.answerJob(c.h.signals.addTimer(timer{pool: c.pool, signal: n, every: time.Duration(ms) * time.Millisecond, times: times}))
}

// addTimer adds a timer that is not there yet: each process that loads the
// application asks for its own once more.
func (s *signals) addTimer(t timer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.timers {
		if o := &s.timers[i]; o.signal == t.signal && o.every == t.every && o.pool == t.pool && (o.times == 0) == (t.times == 0) {
			return nil
		}
	}
	if len(s.timers) >= maxTimers {
		return fmt.Errorf("timers: %w", errTooMany)
	}
	s.timers = append(s.timers, t)
	s.touch()
	return nil
}

func (s *signals) touch() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (c *client) addCron() bool {
	var v [6]int
	for i := range v {
		n, good := c.f.small(i, -1<<15, 1<<15)
		if !good {
			return false
		}
		v[i] = n
	}
	if v[0] < 0 || v[0] > 255 {
		return false
	}
	k := cron{c.pool, v[0], v[1], v[2], v[3], v[4], v[5]}
	s := &c.h.signals
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.crons {
		if o == k {
			return true
		}
	}
	if len(s.crons) >= maxTimers {
		return c.answerJob(fmt.Errorf("crons: %w", errTooMany))
	}
	s.crons = append(s.crons, k)
	s.touch()
	return true
}

func (c *client) addFile() bool {
	n, good := c.f.small(0, 0, 255)
	path := c.f.text(1)
	if !good || path == "" || len(path) > maxPath {
		return false
	}
	path = absolute(c.h.app.Dir, path)
	s := &c.h.signals
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.files {
		if o := &s.files[i]; o.signal == n && o.path == path {
			return true
		}
	}
	if len(s.files) >= maxTimers {
		return c.answerJob(fmt.Errorf("file monitors: %w", errTooMany))
	}
	s.files = append(s.files, file{c.pool, n, path, look(path)})
	s.touch()
	return true
}
