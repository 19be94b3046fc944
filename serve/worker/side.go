package worker

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"liege/serve/worker/lang"
	"liege/vassal"
)

// A side process is forked by the loader as a worker is, but takes no
// requests: a mule, or a spooler's process. It has no lanes; one stream pair,
// which it never uses, tells by its end that the process is gone, whoever its
// parent is by then. What it does it learns from the services (package api).
//
// Side processes belong to the first application. They start when Sides says
// that no other generation has any, and end by Rest or with the workers.

// SideKind is what a side process is for.
type SideKind string

// The kinds.
const (
	Mule    SideKind = "mule"
	Spooler SideKind = "spooler"
)

// SideStats is what is known of a side process.
type SideStats struct {
	Kind     SideKind
	Number   int // from 1, of its kind
	PID      int // 0: none at the moment
	Respawns uint64
	Spooler  *vassal.Spooler // of a Spooler
}

// side is the place of a side process. What is not atomic is the supervisor's.
type side struct {
	kind    SideKind
	number  int
	entries []lang.Entry
	spooler *vassal.Spooler
	mercy   time.Duration

	pid, respawns atomic.Int64

	serial  uint64 // of the process; 0: none
	load    *loader
	claimed int
	born    time.Time
	pidfd   int
	asked   bool      // to end
	prepare func()    // ends what runs before the process (Life.Mule); nil: nothing does
	may     bool      // that is done: it may start
	killBy  time.Time // when it is killed, because it was asked
	endBy   time.Time // when it is taken for gone, though nobody has said how; zero: it lives
	fails   int
	next    time.Time
}

// Doorman makes doors: package api's Host.
type Doorman interface {
	// Door is the descriptor that a pool's processes inherit.
	Door(pool int) (*os.File, error)
}

// Attach has the application's processes reach h. Call it before Run.
func (p *Pool) Attach(h Doorman) error {
	for i, q := range p.pools() {
		if q.w.Language != "python" {
			continue // its program asks for nothing yet
		}
		door, err := h.Door(i)
		if err != nil {
			return err
		}
		q.door = door
	}
	return nil
}

// pools are the pool and those of the further applications.
func (p *Pool) pools() []*Pool {
	if p.fleet != nil {
		return p.fleet.pools
	}
	return []*Pool{p}
}

// enlistSides makes the places that the file asks for.
func (p *Pool) enlistSides() {
	j := p.app.Jobs
	if j == nil || p.door == nil || p.further {
		return
	}
	for i := range j.Mules {
		mercy := j.MuleMercy
		if mercy <= 0 || mercy > p.app.Drain {
			mercy = p.app.Drain
		}
		p.sides = append(p.sides, &side{kind: Mule, number: i + 1, mercy: mercy, pidfd: -1,
			entries: []lang.Entry{{Name: "run", Value: j.Mules[i].Run}}})
	}
	n := 0
	for i := range j.Spoolers {
		s := &j.Spoolers[i]
		for range max(1, j.Spool.Processes) {
			if s.External {
				break
			}
			n++
			p.sides = append(p.sides, &side{kind: Spooler, number: n, mercy: p.app.Drain, pidfd: -1, spooler: s,
				entries: []lang.Entry{{Name: "run", Value: s.In(p.app.Dir)}}})
		}
	}
}

// may is whether side processes of a kind may run.
func (p *Pool) may(kind SideKind) *atomic.Bool {
	if kind == Spooler {
		return &p.spoolers
	}
	return &p.mules
}

// Sides says that side processes of a kind may run: no other generation has
// any.
func (p *Pool) Sides(kind SideKind) {
	p.may(kind).Store(true)
	p.post(event{kind: evSides})
}

// Rest has those of a kind end once they have finished what they are at, and
// returns when none is left.
func (p *Pool) Rest(kind SideKind) {
	p.may(kind).Store(false)
	none := make(chan struct{})
	p.post(event{kind: evRest, text: string(kind), none: none})
	select {
	case <-none:
	case <-p.over:
	}
}

// Renew replaces the side processes of a kind: each finishes what it is at.
func (p *Pool) Renew(kind SideKind) { p.post(event{kind: evRenew, text: string(kind)}) }

// SideStats tells what side processes there are.
func (p *Pool) SideStats() (out []SideStats) {
	for _, x := range p.sides {
		out = append(out, SideStats{x.kind, x.number, int(x.pid.Load()), uint64(x.respawns.Load()), x.spooler})
	}
	return out
}

// signalName is the function that a worker calls for a signal: no application
// can register one of this name.
const signalName = "\x00signal"

// Signal has the handler of uwsgi.register_signal run in any worker of a pool,
// of which the first is 0.
func (p *Pool) Signal(ctx context.Context, pool, n int) error {
	all := p.pools()
	if pool >= len(all) {
		return errors.New("there is no such application")
	}
	_, err := all[pool].callOwn(ctx, signalName, []string{string([]byte{byte(n)})})
	return err
}

// sidesDue starts, and ends, the side processes that are due.
func (s *supervisor) sidesDue(ctx context.Context, now time.Time, at func(time.Time) bool) {
	for _, x := range s.p.sides {
		switch {
		case x.serial != 0:
			if at(x.endBy) {
				s.sideGone(x, nil)
			} else if at(x.killBy) {
				x.killBy = time.Time{}
				x.signal(unix.SIGKILL)
				if x.pidfd < 0 {
					s.sideGone(x, nil)
				}
			}
		case x.prepare != nil:
		case s.ready && !s.stopping && s.p.may(x.kind).Load() && s.load != nil && s.load.loaded && at(orNow(x.next, now)):
			if x.kind == Mule && s.p.life.Mule != nil && !x.may {
				s.prepareSide(ctx, x)
				continue
			}
			x.may = false
			s.spawnSide(x, now)
		}
	}
}

// prepareSide has done what comes before a mule.
func (s *supervisor) prepareSide(ctx context.Context, x *side) {
	ctx, cancel := context.WithCancel(ctx)
	x.prepare, x.asked = cancel, false
	s.p.lanes.Go(func() {
		err := s.p.life.Mule(ctx, x.number)
		s.p.post(event{kind: evSideMay, side: x, err: err})
	})
}

// sidePrepared takes note of its end.
func (s *supervisor) sidePrepared(x *side, err error) {
	x.prepare()
	x.prepare = nil
	switch now := time.Now(); {
	case x.asked: // it was not wanted any more
		x.asked, x.next = false, now
	case err != nil:
		x.fails++
		x.next = now.Add(backoff(x.fails))
		s.p.log.Error("a "+string(x.kind)+" does not start", "number", x.number, "err", err, "again", x.next.Sub(now).Round(time.Millisecond))
	default:
		x.may = true
	}
}

// spawnSide has the loader fork a side process.
func (s *supervisor) spawnSide(x *side, now time.Time) {
	conn, other, err := socketPair(unix.SOCK_STREAM)
	if err == nil {
		s.serial++
		err = s.load.order(append([]lang.Entry{{Name: "worker", Value: 0}, {Name: "serial", Value: int(s.serial)},
			{Name: "slots", Value: 0}, {Name: "side", Value: string(x.kind)}, {Name: "number", Value: x.number}}, x.entries...),
			[]int{int(other.Fd())})
		other.Close()
	}
	if err != nil {
		if conn != nil {
			conn.Close()
		}
		x.fails++
		x.next = now.Add(backoff(x.fails))
		s.p.log.Error("cannot start a "+string(x.kind), "number", x.number, "err", err)
		return
	}
	x.serial, x.load, x.born, x.claimed, x.asked, x.killBy = s.serial, s.load, now, 0, false, time.Time{}
	serial := x.serial
	s.p.lanes.Go(func() { s.p.mourn(conn, serial) })
}

// mourn waits until the process at the other end of conn is gone.
func (p *Pool) mourn(conn *net.UnixConn, serial uint64) {
	gone := make(chan struct{})
	p.lanes.Go(func() {
		select {
		case <-gone:
		case <-p.over: // a process that it has left behind may hold the other end
		}
		conn.Close()
	})
	_, _ = io.Copy(io.Discard, conn) // it says nothing that counts
	close(gone)
	p.post(event{kind: evSideEnd, probe: serial})
}

// sideBySerial finds a side process.
func (s *supervisor) sideBySerial(serial uint64) *side {
	for _, x := range s.p.sides {
		if serial != 0 && x.serial == serial {
			return x
		}
	}
	return nil
}

// sideForked takes note of a pid, as forked does of a worker's.
func (s *supervisor) sideForked(x *side, pid int) {
	x.claimed = pid
	if pid <= 1 || pid == os.Getpid() || parentOf(pid) != x.load.pid {
		return
	}
	x.pid.Store(int64(pid))
	if fd, err := unix.PidfdOpen(pid, 0); err == nil {
		x.pidfd = fd
	}
	if x.asked {
		x.signal(unix.SIGTERM)
	}
	s.p.log.Info("a "+string(x.kind)+" has started", "number", x.number, "pid", pid)
}

func (x *side) signal(sig syscall.Signal) {
	if x.pidfd >= 0 {
		_ = unix.PidfdSendSignal(x.pidfd, sig, nil, 0) // ESRCH: it is gone
	}
}

// ask asks a side process to end.
func (x *side) ask(now time.Time) {
	x.may = false
	if x.prepare != nil {
		x.asked = true
		x.prepare()
		return
	}
	if x.serial == 0 || x.asked {
		return
	}
	x.asked, x.killBy = true, now.Add(x.mercy)
	x.signal(unix.SIGTERM)
}

// statusTime is how long the end of a side process may be seen before its loader,
// whose child it is, has said how it ended.
const statusTime = time.Second

// sideEnded takes note that a side process is gone. How it ended comes next, unless
// its loader is gone as well.
func (s *supervisor) sideEnded(x *side) {
	x.endBy = time.Now()
	if x.load != nil && !x.load.silent {
		x.endBy = x.endBy.Add(statusTime)
	}
}

// sideGone takes note of the end of a side process.
func (s *supervisor) sideGone(x *side, status *syscall.WaitStatus) {
	now := time.Now()
	pid := x.pid.Swap(0)
	s.p.faulted(string(x.kind), x.number, pid, status)
	if x.pidfd >= 0 {
		unix.Close(x.pidfd)
		x.pidfd = -1
	}
	x.serial, x.load, x.claimed, x.killBy, x.endBy = 0, nil, 0, time.Time{}, time.Time{}
	if s.stopping {
		return
	}
	x.respawns.Add(1)
	clean := x.asked || status != nil && status.Exited() && status.ExitStatus() == 0
	if now.Sub(x.born) >= youth {
		x.fails = 0
	}
	if clean && now.Sub(x.born) >= youth || x.asked {
		x.next = now
		return
	}
	x.fails++
	x.next = now.Add(backoff(x.fails))
	s.p.log.Error("a "+string(x.kind)+" died", "number", x.number, "pid", pid, "how", ended(status), "again", x.next.Sub(now))
}

// orphanSides takes note of the end of a loader: what it was to fork is not
// born, what it has forked lives on.
func (s *supervisor) orphanSides(ld *loader) {
	for _, x := range s.p.sides {
		if x.load == ld && x.serial != 0 && x.claimed == 0 {
			s.sideGone(x, nil)
		}
	}
}

// sidesLeft reports whether a side process of a kind is still there; "" is
// every kind.
func (s *supervisor) sidesLeft(kind SideKind) bool {
	for _, x := range s.p.sides {
		if (x.serial != 0 || x.prepare != nil) && (kind == "" || x.kind == kind) {
			return true
		}
	}
	return false
}

// restsDue tells those who wait in Rest.
func (s *supervisor) restsDue() {
	for kind, waiting := range s.rests {
		if s.sidesLeft(kind) {
			continue
		}
		for _, none := range waiting {
			close(none)
		}
		delete(s.rests, kind)
	}
}

// askSides asks all side processes of a kind to end; "" is every kind.
func (s *supervisor) askSides(kind SideKind) {
	for _, x := range s.p.sides {
		if kind == "" || x.kind == kind {
			x.ask(time.Now())
		}
	}
}
