package worker

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"liege/serve/worker/lang"
	"liege/vassal"
)

// crew is how many workers the supervisor wants at the moment: fewer than
// there are places when there is less to do (cheaper), none when there is
// nothing (cheap, idle).
//
// A worker is dismissed by a packet in the shared queue: whichever is free
// takes it, finishes what its other threads are at, and leaves with a status
// that says so. So none is chosen that has work, and no request is lost.
type crew struct {
	want     int // workers, at most as many as places
	leaving  int // packets that dismiss one, not yet obeyed
	told     time.Time
	parked   []*call
	tick     time.Time
	busy     int // seconds for which all were busy
	idle     int // seconds for which more than one was idle
	requests int64
	quiet    time.Time // since when there was no request
}

// Times of the crew.
const (
	musterEvery     = time.Second
	defaultOverload = 3 * time.Second
	leavingTime     = time.Minute // for a worker to obey; then the packet was lost with one
)

// dismissedStatus is the exit status of a worker that was not needed, as its
// program says it (and uWSGI's).
const dismissedStatus = 15

func cheap(status *syscall.WaitStatus) bool {
	return status != nil && status.Exited() && status.ExitStatus() == dismissedStatus
}

// changing reports whether the number of workers may change, or one is watched
// for its memory.
func changing(w *vassal.Workers) bool {
	return w.Cheaper != (vassal.Cheaper{}) || w.Worn.EvilRSS > 0 || w.Worn.EvilAS > 0
}

// enlist sets how many workers there are at the start.
func (s *supervisor) enlist() {
	c := &s.p.w.Cheaper
	s.crew.want, s.crew.quiet = s.p.w.Processes, time.Now()
	switch {
	case c.Cheap:
		s.crew.want = 0
		s.p.asleep.Store(true)
	case c.Least > 0:
		s.crew.want = s.first()
	}
	for i := range s.p.stats {
		s.p.stats[i].cheap.Store(i >= s.crew.want)
	}
}

// first is how many workers there are when there is something to do again.
func (s *supervisor) first() int {
	c := &s.p.w.Cheaper
	switch {
	case c.Least <= 0:
		return s.p.w.Processes
	case c.Initial > 0:
		return min(max(c.Initial, c.Least), s.p.w.Processes)
	}
	return min(c.Least, s.p.w.Processes)
}

// lacking is how many workers are to be started.
func (s *supervisor) lacking() int {
	n := 0
	for i := range s.numbers {
		if s.numbers[i].proc != nil {
			n++
		}
	}
	return s.crew.want - (n - s.crew.leaving)
}

// dismissed takes note that a worker left because it was told to.
func (s *supervisor) dismissed(n *number, now time.Time) {
	n.fails, n.next = 0, now
	s.crew.leaving = max(0, s.crew.leaving-1)
	for i := range s.numbers {
		if &s.numbers[i] == n && s.lacking() <= 0 {
			s.p.stats[i].cheap.Store(true)
		}
	}
}

// muster compares the crew with the work, once a second.
func (s *supervisor) muster(now time.Time) {
	s.crew.tick = now.Add(musterEvery)
	s.watchMemory()
	if !s.ready || s.stopping {
		return
	}
	if s.crew.leaving > 0 && now.Sub(s.crew.told) > leavingTime && s.p.inFlight() == 0 {
		s.crew.leaving = 0
	}
	c := &s.p.w.Cheaper
	if c.Idle > 0 && s.sleeps(now, c.Idle) {
		return
	}
	if c.Least > 0 && s.crew.want > 0 {
		s.spare(c)
	}
	s.park()
}

// sleeps dismisses everybody when there has been no request for d.
func (s *supervisor) sleeps(now time.Time, d time.Duration) bool {
	var n int64
	for i := range s.p.stats {
		n += s.p.stats[i].requests.Load()
	}
	if n != s.crew.requests || s.p.inFlight() > 0 || s.p.waiting.Load() > 0 {
		s.crew.requests, s.crew.quiet = n, now
		return false
	}
	if s.crew.want == 0 || now.Sub(s.crew.quiet) < d {
		return s.crew.want == 0
	}
	s.p.asleep.Store(true) // a request that comes now wakes new ones
	s.p.log.Info("no request came: the workers end until the next one", "idle", d)
	s.dismiss(s.crew.want)
	s.park()
	return true
}

// rouse tells the supervisor that a request has come.
func (p *Pool) rouse() {
	if p.asleep.CompareAndSwap(true, false) {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// awake wants workers again.
func (s *supervisor) awake(now time.Time) {
	if s.stopping {
		return
	}
	s.crew.want, s.crew.quiet, s.crew.busy, s.crew.idle = s.first(), now, 0, 0
	s.park()
}

// spare is uWSGI's algorithm of that name: when all have been busy for the
// overload time there are more, when more than one has been idle for it there
// is one less, and one that is idle is left alone.
func (s *supervisor) spare(c *vassal.Cheaper) {
	here := 0
	for i := range s.numbers {
		if pr := s.numbers[i].proc; pr != nil && pr.loaded {
			here++
		}
	}
	// Who is free takes what is queued: so many are at something, though of a
	// request nothing may have come back yet.
	busy := min(here, s.p.inFlight()/s.p.lanesEach())
	overload := c.Overload
	if overload <= 0 {
		overload = defaultOverload
	}
	ticks := max(1, int(overload/musterEvery))
	switch {
	case here > 0 && busy >= here || s.p.waiting.Load() > 0:
		s.crew.busy, s.crew.idle = s.crew.busy+1, 0
	case here-busy > 1:
		s.crew.busy, s.crew.idle = 0, s.crew.idle+1
	default:
		s.crew.busy, s.crew.idle = 0, 0
	}
	if s.crew.busy >= ticks {
		s.crew.busy = 0
		s.crew.want = min(s.crew.want+max(1, c.Step), s.p.w.Processes)
	}
	if s.crew.idle >= ticks {
		s.crew.idle = 0
		if s.crew.want > c.Least {
			s.dismiss(1)
		}
	}
}

// dismiss wants n workers less.
func (s *supervisor) dismiss(n int) {
	for range n {
		id := s.p.seq.Add(1)<<16 | 0xffff
		packet := s.p.lang.Dict(nil, []lang.Entry{{Name: "liege.id", Value: lang.ID(id)}, {Name: "liege.retire", Value: true}})
		_ = s.p.queue.SetWriteDeadline(time.Now().Add(time.Second)) // fails with the write
		_, err := s.p.queue.Write(packet)
		_ = s.p.queue.SetWriteDeadline(time.Time{})
		if err != nil {
			s.p.log.Error("queue of the workers", "err", err)
			return
		}
		s.crew.want--
		s.crew.leaving++
		s.crew.told = time.Now()
	}
}

// park takes as many calls out of use as threads that are not there could
// answer: else requests would pile up in the shared queue, where nobody can
// take them back.
func (s *supervisor) park() {
	most := (s.p.w.Processes - s.crew.want) * s.p.lanesEach()
	for len(s.crew.parked) > most {
		last := len(s.crew.parked) - 1
		s.p.parked.Add(-1)
		s.p.free <- s.crew.parked[last]
		s.crew.parked = s.crew.parked[:last]
	}
	for len(s.crew.parked) < most {
		select {
		case c := <-s.p.free:
			s.crew.parked = append(s.crew.parked, c)
			s.p.parked.Add(1)
			continue
		default:
		}
		return // all are in use: later
	}
}

// watchMemory kills workers that are over evil-reload-on-rss or -as, whatever
// they are at.
func (s *supervisor) watchMemory() {
	w := &s.p.w.Worn
	if w.EvilRSS <= 0 && w.EvilAS <= 0 {
		return
	}
	for _, pr := range s.procs {
		size, resident := MemoryOf(int(pr.pid.Load()))
		switch {
		case pr.why != "" || pr.gone:
		case w.EvilRSS > 0 && resident >= w.EvilRSS:
			pr.why = fmt.Sprintf("evil-reload-on-rss: %d MB", resident>>20)
			pr.kill()
		case w.EvilAS > 0 && size >= w.EvilAS:
			pr.why = fmt.Sprintf("evil-reload-on-as: %d MB", size>>20)
			pr.kill()
		}
	}
}

// spawn has the loader fork worker i+1.
func (s *supervisor) spawn(i int, now time.Time) {
	s.serial++
	pr := &proc{number: i + 1, serial: s.serial, load: s.load, born: now, pidfd: -1,
		slots: s.bases[len(s.bases)-1]}
	var others []int
	var files []*os.File
	var err error
	for t := range s.p.lanesEach() {
		var conn *net.UnixConn
		var other *os.File
		if conn, other, err = socketPair(unix.SOCK_STREAM); err != nil {
			break
		}
		files = append(files, other)
		others = append(others, int(other.Fd()))
		pr.lanes = append(pr.lanes, &lane{p: s.p, proc: pr, slot: pr.slots + t, thread: t, conn: conn, memory: s.memory})
	}
	if err == nil {
		clear(s.table[:8*s.p.lanesEach()])
		_, err = s.memory.WriteAt(s.table[:8*s.p.lanesEach()], int64(8*pr.slots))
	}
	if err == nil {
		err = s.load.fork(pr, others)
	}
	for _, f := range files {
		f.Close()
	}
	if err != nil {
		for _, l := range pr.lanes {
			l.conn.Close()
		}
		s.failed(&s.numbers[i], now)
		s.p.log.Error("cannot start a worker", "worker", i+1, "err", err)
		return
	}
	s.bases = s.bases[:len(s.bases)-1]
	s.numbers[i].proc = pr
	s.p.stats[i].cheap.Store(false)
	s.p.stats[i].slots.Store(int64(pr.slots) + 1)
	s.procs[pr.serial] = pr
	pr.open = len(pr.lanes)
	for _, l := range pr.lanes {
		s.p.lanes.Go(l.serve)
	}
}

// failed makes place n wait before it is filled again.
func (s *supervisor) failed(n *number, now time.Time) {
	n.fails++
	n.next = now.Add(backoff(n.fails))
}
