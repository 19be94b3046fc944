// Package keeper keeps programs running: servers that answer by themselves,
// PHP's processes, daemons beside the app.
//
// A Keeper starts Spec.Count copies of a program, each in a process group of
// its own, with what Spec.Program says: so in the vassal's sandbox, as its user
// and under its limits, with the vassal's log for what they print. A copy that
// ends is started again: at once if it had run for a while or was asked to
// end, after a pause that doubles if not. Most callers do:
//
//	k := keeper.New(spec, pool, log)
//	go k.Run(ctx)  // until ctx ends and every copy is gone
//	<-k.Ready()    // every copy has passed Spec.Check once
//
// With Spec.Must the first copy that ends, or is not ready in time, before all
// have been ready makes Run return a *vassal.Problem: the app does not start.
// Later failures are logged and retried for ever.
//
// When ctx ends, each copy gets Spec.Signal, and what is left of its group
// after Spec.Grace is killed. What a copy starts outside its process group is
// ended by the core's own end (worker.Pool, Adopt).
package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"liege/serve/worker"
	"liege/vassal"
)

// Times of a Keeper.
const (
	backoffMin = 100 * time.Millisecond // before a copy that ended early is started again; doubles
	backoffMax = 30 * time.Second
	stable     = 5 * time.Second // a copy that ran so long forgets earlier failures
	forever    = 1 << 62
)

// Starter starts programs: worker.Pool.
type Starter interface {
	Start(*worker.Program) (worker.Process, error)
}

// Spec says what is kept running.
type Spec struct {
	Name  string // for messages: "exec", "attach-daemon"
	Count int
	// Program is asked before each start of copy n, from 0.
	Program func(n int) (*worker.Program, error)
	// Check returns when copy n, process pid, is ready, or with ctx's end why
	// it is not. nil: a copy is ready once it was started.
	Check   func(ctx context.Context, n, pid int) error
	Timeout time.Duration // for Check; 0: none
	// Changed is told when copy n is ready, and when it is no more; nil:
	// nobody. It must not wait.
	Changed func(n int, up bool)
	// Problem explains why copy n was not ready in time (err) or ended before
	// (how); nil: a plain one.
	Problem func(n int, how string, err error) *vassal.Problem

	Must   bool           // it cannot do without: a first start that fails is an error of Run
	Signal syscall.Signal // asks a copy to end; 0: SIGTERM
	Whole  bool           // the whole process group gets the signal, not its leader alone
	Leave  bool           // what a copy leaves behind in its group is not killed
	Grace  time.Duration  // between the signal and SIGKILL
	Pause  time.Duration  // at least, before a copy that ended is started again
	Times  int            // how often a copy that ended is started again; 0: for ever
	// Ended is told how copy n ended, and says whether it is started again;
	// nil: it is.
	Ended func(n int, how string) (again bool)
}

// Keeper keeps the copies of one program running. Make one with New.
type Keeper struct {
	spec    Spec
	start   Starter
	log     *slog.Logger
	copies  []kept
	ready   chan struct{}
	waiting int // copies that were never ready
	mu      sync.Mutex
}

// kept is one copy; its fields are guarded by the Keeper's mutex.
type kept struct {
	pid     int // 0: none
	up      bool
	ever    bool // it was ready once
	asked   bool // it was asked to end
	spawned time.Time
	starts  uint64
	wish    chan struct{} // somebody wants it anew
}

// Stat is what is known of one copy.
type Stat struct {
	PID      int // 0: none at the moment
	Up       bool
	Spawned  time.Time
	Respawns uint64
}

// New returns a Keeper that has started nothing.
func New(spec Spec, start Starter, log *slog.Logger) *Keeper {
	spec.Count = max(1, spec.Count)
	if spec.Timeout <= 0 {
		spec.Timeout = forever
	}
	if spec.Signal == 0 {
		spec.Signal = unix.SIGTERM
	}
	k := &Keeper{spec: spec, start: start, log: log, copies: make([]kept, spec.Count), ready: make(chan struct{}), waiting: spec.Count}
	for i := range k.copies {
		k.copies[i].wish = make(chan struct{}, 1)
	}
	return k
}

// Ready is closed when every copy has been ready once.
func (k *Keeper) Ready() <-chan struct{} { return k.ready }

// Run keeps the copies running until ctx ends, and returns when all are gone.
func (k *Keeper) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var all sync.WaitGroup
	for n := range k.copies {
		all.Go(func() {
			if err := k.keep(ctx, n); err != nil {
				stop(err)
			}
		})
	}
	all.Wait()
	if p, ok := errors.AsType[*vassal.Problem](context.Cause(ctx)); ok {
		return p
	}
	return nil
}

// keep is the life of one copy.
func (k *Keeper) keep(ctx context.Context, n int) error {
	fails := 0
	for times := 0; ; times++ {
		began := time.Now()
		how, err := k.once(ctx, n)
		if ctx.Err() != nil {
			return nil
		}
		if k.spec.Must && !k.wasReady() {
			return k.problem(n, how, err)
		}
		asked := k.copies[n].takeAsked(&k.mu)
		if k.spec.Ended != nil && !k.spec.Ended(n, how) {
			return nil
		}
		if k.spec.Times > 0 && times >= k.spec.Times {
			k.log.Warn(k.spec.Name+": ended, and is not started again", append([]any{"copy", n + 1}, why(how, err)...)...)
			return nil
		}
		switch {
		case asked || time.Since(began) >= stable:
			fails = 0
		default:
			fails++
		}
		pause := k.spec.Pause
		if fails > 0 {
			pause = max(pause, min(backoffMin<<min(fails-1, 16), backoffMax))
		}
		if !asked {
			k.log.Warn(k.spec.Name+": ended, and is started again", append([]any{"copy", n + 1, "after", pause}, why(how, err)...)...)
		}
		if !k.pause(ctx, n, pause) {
			return nil
		}
	}
}

// pause waits for d, or until Restart asks for the copy.
func (k *Keeper) pause(ctx context.Context, n int, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-k.copies[n].wish:
	case <-ctx.Done():
		return false
	}
	return true
}

func (c *kept) takeAsked(mu *sync.Mutex) bool {
	mu.Lock()
	defer mu.Unlock()
	asked := c.asked
	c.asked = false
	return asked
}

func (k *Keeper) wasReady() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.waiting == 0
}

// once starts copy n and waits for its end: how it ended, and what went wrong
// if it did not end by itself.
func (k *Keeper) once(ctx context.Context, n int) (how string, err error) {
	prog, err := k.spec.Program(n)
	if err != nil {
		return "not started", err
	}
	p, err := k.start.Start(prog)
	if err != nil {
		return "not started", err
	}
	k.began(n, p.PID)
	select {
	case <-k.copies[n].wish: // came before it was started
	default:
	}
	checked := make(chan error, 1)
	cctx, cancel := context.WithTimeout(ctx, k.spec.Timeout)
	var check sync.WaitGroup
	defer check.Wait()
	defer cancel() // before the wait
	check.Go(func() {
		var err error
		if k.spec.Check != nil {
			err = k.spec.Check(cctx, n, p.PID)
		}
		checked <- err
	})
	for {
		select {
		case ws := <-p.Status:
			k.ended(n, p.PID)
			return wordsOf(ws), err
		case cerr := <-checked:
			if checked = nil; cerr == nil {
				k.up(n)
				continue
			}
			if ctx.Err() == nil {
				err = cerr
			}
			return wordsOf(k.stop(n, &p)), err
		case <-k.copies[n].wish:
			k.mu.Lock()
			k.copies[n].asked = true
			k.mu.Unlock()
			return wordsOf(k.stop(n, &p)), err
		case <-ctx.Done():
			return wordsOf(k.stop(n, &p)), err
		}
	}
}

// stop asks the copy to end, and kills it after the grace.
func (k *Keeper) stop(n int, p *worker.Process) syscall.WaitStatus {
	k.down(n)
	k.signal(n, k.spec.Signal)
	ws, ok := p.Wait(time.Now().Add(k.spec.Grace))
	if !ok {
		k.log.Warn(k.spec.Name+": killed: it did not end when asked", "copy", n+1, "pid", p.PID, "after", k.spec.Grace)
	}
	k.ended(n, p.PID)
	return ws
}

// signal sends s to the copy that runs, if one does.
func (k *Keeper) signal(n int, s syscall.Signal) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch pid := k.copies[n].pid; {
	case pid == 0:
	case k.spec.Whole || s == unix.SIGKILL:
		_ = unix.Kill(-pid, s) // ESRCH: it has ended
	default:
		_ = unix.Kill(pid, s)
	}
}

func (k *Keeper) began(n, pid int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := &k.copies[n]
	c.pid, c.spawned = pid, time.Now()
	c.starts++
}

// up says that copy n is ready.
func (k *Keeper) up(n int) {
	k.mu.Lock()
	c := &k.copies[n]
	c.up = true
	if !c.ever {
		c.ever = true
		if k.waiting--; k.waiting == 0 {
			close(k.ready)
		}
	}
	k.mu.Unlock()
	if k.spec.Changed != nil {
		k.spec.Changed(n, true)
	}
}

func (k *Keeper) down(n int) {
	k.mu.Lock()
	was := k.copies[n].up
	k.copies[n].up = false
	k.mu.Unlock()
	if was && k.spec.Changed != nil {
		k.spec.Changed(n, false)
	}
}

// ended forgets a process that was waited for, and kills what it left behind
// in its group.
func (k *Keeper) ended(n, pid int) {
	k.down(n)
	k.mu.Lock()
	k.copies[n].pid = 0
	k.mu.Unlock()
	if !k.spec.Leave {
		_ = unix.Kill(-pid, unix.SIGKILL) // ESRCH: nothing was left
	}
}

// Restart asks copy n to end, and starts it anew: at once if it waits after a
// failure.
func (k *Keeper) Restart(n int) {
	select {
	case k.copies[n].wish <- struct{}{}:
	default: // it is wished already
	}
}

// Signal sends copy n, if it runs, a signal.
func (k *Keeper) Signal(n int, s syscall.Signal) { k.signal(n, s) }

// Kill kills copy n; it is started anew at once.
func (k *Keeper) Kill(n int) {
	k.mu.Lock()
	k.copies[n].asked = true
	k.mu.Unlock()
	k.signal(n, unix.SIGKILL)
}

// PID is the process of copy n; 0: none.
func (k *Keeper) PID(n int) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.copies[n].pid
}

// Stats tells what is known of the copies.
func (k *Keeper) Stats() []Stat {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]Stat, len(k.copies))
	for i, c := range k.copies {
		out[i] = Stat{PID: c.pid, Up: c.up, Spawned: c.spawned}
		if c.starts > 0 {
			out[i].Respawns = c.starts - 1
		}
	}
	return out
}

func (k *Keeper) problem(n int, how string, err error) *vassal.Problem {
	if k.spec.Problem != nil {
		return k.spec.Problem(n, how, err)
	}
	p := &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeExitedEarly, Step: k.spec.Name, Message: how}
	if err != nil {
		p.Message += fmt.Sprintf(": %v", err)
	}
	return p
}

// why is for the log: how a process ended, and what went wrong if anything did.
func why(how string, err error) []any {
	if err != nil {
		return []any{"how", how, "err", err}
	}
	return []any{"how", how}
}

// wordsOf says how a process ended.
func wordsOf(ws syscall.WaitStatus) string {
	if ws.Signaled() {
		return "killed by " + unix.SignalName(ws.Signal())
	}
	return fmt.Sprintf("exit status %d", ws.ExitStatus())
}
