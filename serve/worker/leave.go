package worker

import "time"

// leave is what is known of a worker that takes no more requests (max-requests,
// reload-on-rss, cheaper and the like). It has as long as a drain takes to
// finish what it is at and what it does at its end (lifespan.shutdown, atexit
// functions), and is killed then. Most need no time at all; where one does, its place is
// filled meanwhile, so that requests need not wait for it.
type leave struct {
	said     bool
	needless bool      // it was told to: nobody takes its place
	by       time.Time // when it is killed: a little later, so that its program can say what it waits for
	filled   bool      // its place is another's
}

// leaves takes note that pr takes no more requests.
func (s *supervisor) leaves(pr *proc, needless bool) {
	if pr.leave.said || pr.gone {
		return
	}
	now := time.Now()
	pr.leave = leave{said: true, needless: needless, by: now.Add(s.p.app.Drain + partingTime)}
	pr.partBy = now.Add(partingTime)
	s.p.stats[pr.number-1].accepting.Store(false)
}

// leaveDue looks after a worker that has not ended at once. It reports whether
// that may go on, until partBy.
func (s *supervisor) leaveDue(pr *proc, now time.Time) bool {
	if pr.open == 0 && !pr.alive() {
		return false
	}
	if !now.Before(pr.leave.by) {
		s.p.log.Warn("a worker is killed: it has not ended in time", "worker", pr.number, "pid", pr.pid.Load(), "limit", s.p.app.Drain)
		pr.why = "it has not ended in time"
		return false
	}
	if !pr.leave.filled && s.leavers() < s.p.w.Processes {
		s.vacate(pr, now)
	}
	pr.partBy = now.Add(min(partingTime, pr.leave.by.Sub(now)))
	return true
}

// leavers is how many workers there are besides those that have a place.
func (s *supervisor) leavers() (n int) {
	for _, pr := range s.procs {
		if pr.leave.filled && !pr.gone {
			n++
		}
	}
	return n
}

// vacate makes the place of pr free, which is still at something.
func (s *supervisor) vacate(pr *proc, now time.Time) {
	pr.leave.filled = true
	n, stats := &s.numbers[pr.number-1], &s.p.stats[pr.number-1]
	n.proc = nil
	stats.pid.Store(0)
	stats.slots.Store(0)
	if pr.leave.needless && s.crew.leaving > 0 {
		s.dismissed(n, now)
		return
	}
	n.fails, n.next = 0, now
	stats.respawns.Add(1)
}
