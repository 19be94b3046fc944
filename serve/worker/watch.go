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

// sendProbe finds requests that were lost with a worker between taking them
// and noting so: once a worker has taken the probe, all that was queued before
// it was taken, and what no slot names then is lost.
func (s *supervisor) sendProbe() {
	suspects := make(map[*call]uint64)
	for _, c := range s.p.calls {
		if !c.tryLock() {
			continue // a lane is at it
		}
		if (c.state == queued || c.state == abandoned && c.lane == nil) && c.sent {
			suspects[c] = c.id
		}
		c.mu.Unlock()
	}
	if len(suspects) == 0 {
		return
	}
	s.suspects, s.probe, s.judge = suspects, s.p.seq.Add(1)<<16|0xffff, time.Time{}
	packet := s.p.lang.Dict(nil, []lang.Entry{{Name: "liege.id", Value: lang.ID(s.probe)}, {Name: "liege.probe", Value: true}})
	if _, err := s.p.queue.Write(packet); err != nil {
		s.p.log.Error("queue of the workers", "err", err)
	}
}

func (s *supervisor) judgeSuspects() {
	s.judge = time.Time{}
	if _, err := s.memory.ReadAt(s.table, 0); err != nil {
		return
	}
	taken := make(map[uint64]bool)
	for _, pr := range s.procs {
		for _, l := range pr.lanes {
			taken[binary.LittleEndian.Uint64(s.table[8*l.slot:])] = true
		}
	}
	for c, id := range s.suspects {
		if !taken[id] && c.lose(id) {
			s.p.fail(c, 502, errors.New("the request was lost with a worker that died"))
		}
	}
	s.suspects = nil
}
