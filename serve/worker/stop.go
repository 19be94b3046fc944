package worker

import "time"

// stop lets the workers finish what they are at, which includes what they do
// after an answer: at most for grace since the core began to drain, of which the
// requests may have taken the most.
func (s *supervisor) stop(grace time.Duration) {
	if s.stopping {
		return
	}
	s.stopping = true
	now := time.Now()
	s.stopBy, s.loadBy = now.Add(grace), now.Add(min(grace, exitTime))
	if at := s.p.parted.Load(); at != 0 {
		s.stopBy = time.Unix(0, at).Add(grace)
	}
	if s.stopBy.Before(s.loadBy) {
		s.stopBy = s.loadBy
	}
	close(s.p.closed)
	s.askSides("")
	// Workers read the end of the queue once they have emptied it, and leave.
	s.p.queue.CloseWrite()
}

// stopDue ends what has to end now.
func (s *supervisor) stopDue(at func(time.Time) bool) {
	for _, pr := range s.procs {
		switch {
		case !pr.loaded && at(s.loadBy):
		case !at(s.stopBy):
			continue
		case s.err == nil && !pr.gone:
			s.p.log.Warn("a worker is killed: it has not ended in time", "worker", pr.number, "pid", pr.pid.Load(), "limit", s.p.app.Drain)
		}
		pr.kill()
		s.gone(pr, nil)
	}
	if len(s.procs) > 0 && at(s.stopBy) {
		for _, c := range s.p.calls {
			c.cut(c.live.Load())
		}
		s.stopBy = time.Now().Add(time.Second)
		at(s.stopBy)
	}
	if len(s.procs) == 0 && s.load != nil && !s.load.ending && !s.sidesLeft("") {
		s.load.end()
	}
}
