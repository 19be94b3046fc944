package worker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"liege/serve/worker/lang"
)

// harakiri kills workers whose request runs for too long. A slot is the
// worker's own word; a wrong one harms only its own application.
func (s *supervisor) harakiri(now time.Time) {
	if _, err := s.memory.ReadAt(s.table, 0); err != nil {
		return
	}
	for _, pr := range s.procs {
		for _, l := range pr.lanes {
			id := binary.LittleEndian.Uint64(s.table[8*l.slot:])
			c := s.p.alive(id)
			if c == nil || c.long.Load() {
				l.seen = 0
				continue
			}
			if id != l.seen {
				l.seen, l.seenAt = id, now
				continue
			}
			limit := time.Duration(c.limit.Load())
			if ran := now.Sub(l.seenAt); limit > 0 && ran >= limit && pr.why == "" {
				pr.why = fmt.Sprintf("harakiri: a request ran for %v: %s", ran.Round(time.Second/10), c.describe(id))
				s.p.stats[pr.number-1].harakiris.Add(1)
				c.condemn(id, limit)
				pr.kill()
				c.cut(id)
			}
		}
	}
}

// lookout is what is known of requests that may be lost: taken by a process
// that has died before it noted so, or by one that is no worker.
type lookout struct {
	probe    uint64 // the last that was sent
	probedAt time.Time
	probes   int // sent, of which none is answered
	suspects map[*call]uint64
	cause    error                // of their loss
	judge    time.Time            // when they are judged
	heedAt   time.Time            // of watchQueue; zero: there are no requests
	waited   map[uint64]time.Time // requests that no worker has noted, since
}

// Of the watch for requests that nobody is at.
const (
	defaultPatience = 20 * time.Second // with one that is queued, while a worker is free
	maxProbes       = 64               // that lie in the queue: it must never be full
)

// heed has the supervisor watch over the requests for as long as there are some.
func (p *Pool) heed() {
	if !p.heeded.Load() && p.heeded.CompareAndSwap(false, true) {
		p.post(event{kind: evHeed})
	}
}

// watchQueue finds requests that a process has taken which is no worker: one
// that the application has forked has the queue too. Nothing says who took a
// packet, so it is the workers' silence that tells: a request lies in the queue
// for long, and yet one of them is free.
func (s *supervisor) watchQueue(now time.Time) {
	s.heedAt = now.Add(s.p.patience / 4)
	waiting := s.unclaimed()
	if len(waiting) == 0 {
		s.waited = nil
		if s.p.inFlight() == 0 {
			s.heedAt = time.Time{}
			s.p.heeded.Store(false)
			if s.p.inFlight() > 0 {
				s.p.heed() // one came meanwhile
			}
		}
		return
	}
	taken, free := s.taken()
	waited, overdue := make(map[uint64]time.Time), false
	for _, id := range waiting {
		if taken[id] {
			continue
		}
		waited[id] = now
		if since, ok := s.waited[id]; ok {
			waited[id] = since
			overdue = overdue || now.Sub(since) >= s.p.patience
		}
	}
	s.waited = waited
	if overdue && free && s.judge.IsZero() && s.mayProbe(now) {
		s.sendProbe(errStrayed)
	}
}

// mayProbe is false while a probe is yet to be answered. That process may have
// taken it too, so there is another one after a while.
func (s *supervisor) mayProbe(now time.Time) bool {
	if s.probes == 0 {
		return true
	}
	return s.probes < maxProbes && now.Sub(s.probedAt) >= s.p.patience<<min(s.probes-1, 4)
}

var (
	errLost    = errors.New("the request was lost with a worker that died")
	errStrayed = errors.New("the request was taken by a process that is no worker; hint: one that the application has forked, and that goes on as its parent")
)

// unclaimed are the requests that lie in the queue, or were taken by who has
// not answered yet.
func (s *supervisor) unclaimed() map[*call]uint64 {
	waiting := make(map[*call]uint64)
	for _, c := range s.p.calls {
		if !c.tryLock() {
			continue // a lane is at it
		}
		if (c.state == queued || c.state == abandoned && c.lane == nil) && c.sent {
			waiting[c] = c.id
		}
		c.mu.Unlock()
	}
	return waiting
}

// taken are the requests that workers have noted, and whether a thread of
// theirs is at none. It is nil where that cannot be read.
func (s *supervisor) taken() (taken map[uint64]bool, free bool) {
	if _, err := s.memory.ReadAt(s.table, 0); err != nil {
		return nil, false
	}
	taken = make(map[uint64]bool)
	for _, pr := range s.procs {
		for _, l := range pr.lanes {
			id := binary.LittleEndian.Uint64(s.table[8*l.slot:])
			taken[id] = true
			free = free || pr.loaded && !pr.gone && !pr.leave.said && s.p.alive(id) == nil
		}
	}
	return taken, free
}

// sendProbe finds requests that were lost between being taken and being noted,
// as cause says: once a worker has taken the probe, all that was queued before
// it was taken, and what no slot names then is lost.
func (s *supervisor) sendProbe(cause error) {
	suspects := s.unclaimed()
	if len(suspects) == 0 {
		return
	}
	s.suspects, s.cause, s.probe, s.judge = suspects, cause, s.p.seq.Add(1)<<16|0xffff, time.Time{}
	s.probes++
	s.probedAt = time.Now()
	packet := s.p.lang.Dict(nil, []lang.Entry{{Name: "liege.id", Value: lang.ID(s.probe)}, {Name: "liege.probe", Value: true}})
	if _, err := s.p.queue.Write(packet); err != nil {
		s.p.log.Error("queue of the workers", "err", err)
	}
}

// probed takes note of a worker's answer to a probe.
func (s *supervisor) probed(id uint64) {
	if id == s.probe {
		s.probes = 0
		s.judge = time.Now().Add(settleTime)
	}
}

func (s *supervisor) judgeSuspects() {
	s.judge = time.Time{}
	taken, _ := s.taken()
	if taken == nil {
		return
	}
	lost := 0
	for c, id := range s.suspects {
		if !taken[id] && c.lose(id) {
			s.p.fail(c, 502, s.cause)
			lost++
		}
	}
	if lost > 0 && s.cause == errStrayed {
		s.p.log.Error("requests are lost", "count", lost, "err", errStrayed)
	}
	s.suspects = nil
}
