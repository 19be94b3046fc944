package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"liege/serve/direct"
	"liege/serve/worker/lang"
	"liege/vassal"
)

// Times of the supervisor.
const (
	backoffMin  = 100 * time.Millisecond // before a worker that died young is replaced; doubles
	backoffMax  = 30 * time.Second       // for one that was never ready
	servingMax  = 2 * time.Second        // for one that died of a request (uWSGI's forkbomb-delay)
	youth       = time.Second            // a worker that lives longer forgets earlier failures
	partingTime = time.Second            // between a worker's last word and its end
	exitTime    = 2 * time.Second        // what a worker has at least to end, and at most while it loads
	settleTime  = time.Second            // for a thread to note which request it took
	loadTime    = 60 * time.Second       // where LoadTimeout is not set
)

// noMemory is the exit status of a worker that ran out of memory, as its
// program says it.
const noMemory = 23

type eventKind uint8

const (
	evLoaded    eventKind = iota // a worker is ready
	evNotLoaded                  // a worker could not load the application; text
	evProbed                     // a worker took the probe
	evLeaves                     // a worker takes no more requests; probe 1: it was told to
	evLaneEnd                    // a lane ended; err
	evControl                    // the loader said text
	evControlEnd
	evSides   // side processes may run
	evRenew   // those of kind text are to be replaced
	evRest    // those of kind text are to end; none is closed when they have
	evSideEnd // the one with serial probe is gone
	evSideMay // side may start; not with err
)

type event struct {
	kind  eventKind
	proc  *proc
	load  *loader
	text  string
	probe uint64
	err   error
	none  chan struct{}
	side  *side
}

// post hands e to the supervisor.
func (p *Pool) post(e event) {
	select {
	case p.events <- e:
	case <-p.over:
	}
}

// proc is one worker process.
type proc struct {
	number  int // from 1
	serial  uint64
	load    *loader
	slots   int // the first of its threads' slots
	born    time.Time
	claimed int          // the pid that the loader said
	pid     atomic.Int64 // the same once it is known to be the loader's child
	pidfd   int          // -1: none

	lanes  []*lane
	open   int // lanes that have not ended
	loaded bool
	exit   *syscall.WaitStatus
	framed atomic.Bool // it was said that its application frames its answers
	served atomic.Bool // it was given a request
	gone   bool        // its place is free
	why    string      // why we killed it
	partBy time.Time   // when it is killed because its lanes have ended, or it has left
	leave  leave
}

// number is the place of a worker.
type number struct {
	proc  *proc
	fails int
	next  time.Time // when it may be filled
}

// supervisor is the state of a running pool; only its goroutine touches it.
type supervisor struct {
	p       *Pool
	reaper  *reaper
	other   *os.File // the workers' end of the queue
	memory  *os.File // the slots
	bases   []int    // free ranges of slots
	load    *loader
	loadAt  time.Time // when a new loader may start
	loads   int       // failures in a row
	numbers []number
	procs   map[uint64]*proc
	serial  uint64

	ready    bool
	err      error
	stopping bool
	stopBy   time.Time // when the workers are killed
	loadBy   time.Time // when those are that have not loaded
	tick     time.Time // of harakiri
	table    []byte
	probe    uint64
	suspects map[*call]uint64
	judge    time.Time
	rests    map[SideKind][]chan struct{} // who waits in Rest

	crew crew
}

func (s *supervisor) open() error {
	// What the core was started with is not the application's. Where the
	// kernel has no such call (before 5.11), Go has marked its own.
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	conn, other, err := socketPair(unix.SOCK_SEQPACKET)
	if err != nil {
		return err
	}
	s.p.queue, s.p.requests, s.other = conn, direct.New(conn), other
	threads := s.p.most
	ranges := slotRanges * s.p.w.Processes
	fd, err := unix.MemfdCreate("liege-slots", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("memory for the workers: %w", err)
	}
	s.memory = os.NewFile(uintptr(fd), "slots")
	s.table = make([]byte, 8*threads*ranges)
	if err := s.memory.Truncate(int64(len(s.table))); err != nil {
		return fmt.Errorf("memory for the workers: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return fmt.Errorf("memory for the workers: %w", err)
	}
	for i := range ranges {
		s.bases = append(s.bases, i*threads)
	}
	s.p.slots.Store(s.memory)
	return nil
}

func (s *supervisor) close() {
	if s.p.queue != nil {
		s.p.queue.Close()
		s.other.Close()
	}
	if s.memory != nil {
		s.memory.Close()
	}
}

// run is the loop: level-triggered, each turn does what is due.
func (s *supervisor) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	done := ctx.Done()
	for {
		next := s.due(ctx, time.Now())
		if s.stopping && len(s.procs) == 0 && s.load == nil && !s.sidesLeft("") {
			return s.err
		}
		timer.Reset(time.Until(next))
		var ended <-chan syscall.WaitStatus
		if s.load != nil {
			ended = s.load.status
		}
		select {
		case <-done:
			done = nil
			s.stop(s.p.app.Drain)
		case e := <-s.p.events:
			s.handle(e)
		case ws := <-ended:
			s.loaderExited(ws)
		case <-s.p.wake:
			s.awake(time.Now())
		case <-timer.C:
		}
	}
}

// due does what the time asks for, and returns when to look again.
func (s *supervisor) due(ctx context.Context, now time.Time) time.Time {
	next := now.Add(time.Hour)
	at := func(t time.Time) bool {
		if t.IsZero() {
			return false
		}
		if !t.After(now) {
			return true
		}
		if t.Before(next) {
			next = t
		}
		return false
	}
	for _, pr := range s.procs {
		if !at(pr.partBy) {
			continue
		}
		if s.stopping && pr.alive() { // atexit functions, threads: until stopBy, which stopDue sees to
			pr.partBy = now.Add(partingTime)
			at(pr.partBy)
			continue
		}
		if pr.leave.said && !s.stopping && s.leaveDue(pr, now) {
			at(pr.partBy)
			continue
		}
		pr.kill()
		s.gone(pr, nil)
	}
	s.sidesDue(ctx, now, at)
	s.restsDue()
	if s.stopping {
		s.stopDue(at)
		return next
	}
	if s.load == nil && at(orNow(s.loadAt, now)) {
		s.startLoader(now)
	}
	if ld := s.load; ld != nil && !(s.ready && ld.loaded) && at(ld.deadline) {
		if !s.ready {
			s.fail(loadTimeout(s.p, ld))
			return now
		}
		s.p.log.Error("the application's loader is killed: it has not loaded the application in time", "pid", ld.pid, "limit", s.p.loadTime())
		ld.deadline = time.Time{}
		ld.kill()
	}
	if s.load != nil && s.load.loaded {
		lack := s.lacking()
		for i := range s.numbers {
			if n := &s.numbers[i]; n.proc == nil && lack > 0 && len(s.bases) > 0 && at(orNow(n.next, now)) {
				s.spawn(i, now)
				lack--
			}
		}
	}
	if changing(&s.p.w) && at(orNow(s.crew.tick, now)) {
		s.muster(now)
		at(s.crew.tick)
	}
	if s.p.shortest > 0 && at(orNow(s.tick, now)) {
		s.harakiri(now)
		s.tick = now.Add(min(max(s.p.shortest/10, 20*time.Millisecond), time.Second))
		at(s.tick)
	}
	if at(s.judge) {
		s.judgeSuspects()
	}
	return next
}

func orNow(t, now time.Time) time.Time {
	if t.IsZero() {
		return now
	}
	return t
}

// fail ends a pool that is not ready.
func (s *supervisor) fail(problem *vassal.Problem) {
	if s.err == nil {
		s.err = problem
	}
	s.stop(0)
}

func (s *supervisor) handle(e event) {
	switch e.kind {
	case evLoaded:
		s.loaded(e.proc)
	case evNotLoaded:
		problem := s.p.lang.Problem(e.text)
		if !s.ready {
			s.fail(problem)
			return
		}
		s.p.log.Error("a worker could not load the application", "worker", e.proc.number, "err", problem)
	case evProbed:
		if e.probe == s.probe {
			s.judge = time.Now().Add(settleTime)
		}
	case evLeaves:
		s.leaves(e.proc, e.probe == 1)
	case evSides: // see due
	case evRenew:
		s.askSides(SideKind(e.text))
	case evRest:
		s.askSides(SideKind(e.text))
		s.rests[SideKind(e.text)] = append(s.rests[SideKind(e.text)], e.none)
	case evSideEnd:
		if x := s.sideBySerial(e.probe); x != nil {
			s.sideEnded(x)
		}
	case evSideMay:
		s.sidePrepared(e.side, e.err)
	case evLaneEnd:
		s.laneEnded(e.proc, e.err)
	case evControl:
		s.control(e.load, e.text)
	case evControlEnd:
		e.load.silent = true
		switch {
		case e.load != s.load:
		case s.load.exit != nil:
			s.loaderEnded(*s.load.exit)
		default:
			s.load.kill() // it can say nothing any more
		}
	}
}

func (s *supervisor) loaded(pr *proc) {
	pr.loaded = true
	s.p.stats[pr.number-1].accepting.Store(!pr.gone && !pr.leave.said)
	if s.p.life.Loaded != nil {
		s.p.life.Loaded()
	}
	if s.ready || s.stopping {
		return
	}
	if s.lacking() > 0 {
		return
	}
	for i := range s.numbers {
		if pr := s.numbers[i].proc; pr != nil && !pr.loaded {
			return
		}
	}
	s.ready = true
	s.p.ready <- nil
}

func backoff(fails int) time.Duration {
	return min(backoffMin<<min(fails-1, 10), backoffMax)
}

func (s *supervisor) laneEnded(pr *proc, err error) {
	pr.open--
	if !errors.Is(err, io.EOF) && pr.why == "" && !pr.gone {
		pr.why = err.Error()
		pr.kill()
	}
	switch {
	case pr.open > 0:
	case pr.gone:
		s.forget(pr)
	case pr.exit != nil:
		s.gone(pr, pr.exit)
	case pr.leave.said: // it has its time
	default:
		pr.partBy = time.Now().Add(partingTime)
	}
}

// exited takes note of the status of pr. Before it was ready its last word,
// why it is not, is still to be read.
func (s *supervisor) exited(pr *proc, status *syscall.WaitStatus) {
	if pr.loaded || pr.open == 0 {
		s.gone(pr, status)
		return
	}
	pr.exit = status
	for _, l := range pr.lanes {
		endInput(l.conn)
	}
}

// forget frees what a worker that is gone still held.
func (s *supervisor) forget(pr *proc) {
	delete(s.procs, pr.serial)
	s.bases = append(s.bases, pr.slots)
	if pr.pidfd >= 0 {
		unix.Close(pr.pidfd)
		pr.pidfd = -1
	}
}

// gone takes note that pr has ended, with status if that is known.
func (s *supervisor) gone(pr *proc, status *syscall.WaitStatus) {
	pr.partBy = time.Time{}
	if pr.gone {
		return
	}
	pr.gone = true
	now := time.Now()
	n := &s.numbers[pr.number-1]
	stats := &s.p.stats[pr.number-1]
	if !pr.leave.filled {
		stats.accepting.Store(false)
		stats.pid.Store(0)
		stats.slots.Store(0)
		n.proc = nil
	}
	how := ended(status)
	s.p.faulted("worker", pr.number, pr.pid.Load(), status)
	clean := status != nil && status.Exited() && status.ExitStatus() == 0 && pr.why == ""
	switch {
	case s.stopping:
	case pr.leave.filled:
		if status != nil && !clean && !cheap(status) {
			if pr.why != "" {
				how += ": " + pr.why
			}
			s.p.log.Error("a worker that was leaving died", "worker", pr.number, "pid", pr.pid.Load(), "how", how)
		}
	case !s.ready:
		s.fail(s.p.lang.Died(pr.number, how))
	case pr.loaded && pr.why == "" && s.crew.leaving > 0 && cheap(status):
		s.dismissed(n, now)
	case clean && pr.loaded && now.Sub(pr.born) < youth && !pr.served.Load(): // and so would the next one
		s.failed(n, now)
		n.next = now.Add(min(n.next.Sub(now), servingMax))
		stats.respawns.Add(1)
	case clean && pr.loaded:
		n.fails, n.next = 0, now
		stats.respawns.Add(1)
	default:
		if now.Sub(pr.born) >= youth {
			n.fails = 0
		}
		s.failed(n, now)
		if pr.loaded {
			n.next = now.Add(min(n.next.Sub(now), servingMax))
		}
		if n.fails == 1 {
			n.next = now // the first time at once
		}
		stats.respawns.Add(1)
		args := []any{"worker", pr.number, "pid", pr.pid.Load(), "how", how}
		if pr.why != "" {
			args = append(args, "err", pr.why)
		}
		if status != nil && status.Exited() && status.ExitStatus() == noMemory {
			args = append(args, "err", "MemoryError", "hint", lang.MemoryHint(&s.p.w))
		}
		s.p.log.Error("a worker died", append(args, "again", time.Until(n.next).Round(time.Millisecond))...)
		s.sendProbe()
	}
	// What it has already sent is still read; then its lanes end.
	for _, l := range pr.lanes {
		endInput(l.conn)
	}
	if pr.open == 0 {
		s.forget(pr)
	}
}

// ended puts a status in words.
func ended(status *syscall.WaitStatus) string {
	switch {
	case status == nil:
		return "it closed its connection"
	case status.Signaled():
		return "killed by " + unix.SignalName(status.Signal())
	default:
		return fmt.Sprintf("exited with status %d", status.ExitStatus())
	}
}

// alive reports whether the worker has not ended yet.
func (pr *proc) alive() bool {
	return pr.pidfd >= 0 && unix.PidfdSendSignal(pr.pidfd, 0, nil, 0) == nil
}

// kill ends the worker at once.
func (pr *proc) kill() {
	if pr.pidfd >= 0 {
		_ = unix.PidfdSendSignal(pr.pidfd, unix.SIGKILL, nil, 0) // ESRCH: it is dead
	} else if pid := int(pr.pid.Load()); pid > 1 && pid != os.Getpid() && !pr.gone {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}
