package emperor

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"liege/emperor/control"
	"liege/vassal"
)

// realm is what the actors have in common. It is never modified.
type realm struct {
	gate     *gate
	launcher func(vassal.Name) Launcher
	records  records
	logPath  func(vassal.Name) string
	owner    func(uid int) string
	log      *slog.Logger
	hurry    <-chan struct{} // closed: end at once what drains
	moves    atomic.Uint64   // counts changes of any vassal's state, and of the set: Totals
}

// An actor owns one vassal. Its fields belong to the goroutine in run, except
// those of the first group, which never change and are safe to use from others.
type actor struct {
	realm  *realm
	name   vassal.Name
	box    *box
	board  *board[report]
	poke   chan struct{}      // capacity 1: somebody wants fresh usage
	saves  chan chan struct{} // the counters are to be saved, and the channel closed then
	left   *loaded            // what an earlier Emperor kept of the vassal, until it has begun
	legacy chan Launcher      // capacity 1: from the vassal whose file is now this one's; nil: nothing to wait for

	*ears                 // nil: parked
	launch  Launcher      // nil: closed
	cur     *generation   // the one that serves
	held    holding       // what answers while none serves
	leaving []*generation // on their way out
	looking bool
	wg      sync.WaitGroup

	w         *wish // as last taken from the box
	ending    bool  // the Emperor ends
	prep      Prepared
	seen      string // file_digest
	stamp     string // of the file last tried
	turn      uint64 // of the wish last tried
	freshTurn uint64 // of the restart wish last honoured
	met       uint64 // of the demand last met
	settled   uint64 // turn up to which wishes are fulfilled, or failed
	stale     bool   // what the file includes has changed
	byInclude bool   // this try is because of that
	last      tryResult
	fails     int // tries that died since one was stable or somebody stepped in
	checks    int // refusals in a row of the same file
	tardy     bool
	retrying  bool        // this try is a retry, nobody's wish
	idled     *generation // which has said in its rest that nobody asks; nil: none
	unslept   bool        // the try that died was one to sleep
	dozing    bool        // it needs no goroutine until its box rings
	again     func()      // starts one
	credit    float64     // see paced
	creditAt  time.Time
	queued    time.Time // since when it waits for a slot; zero: it does not

	rec      record
	dirty    bool  // rec has not been saved
	unsaved  error // why the last try failed
	saved    time.Time
	sampled  time.Time
	bound    []string  // the listeners, as long as there are any
	until    time.Time // Rester.Until of the last that rested; zero: nobody's crons are to be taken over
	memory   *int64    // as last sampled
	pids     *int64
	disk     *Disk
	state    control.State
	since    time.Time
	retryAt  time.Time
	pending  *control.Pending
	problems vassal.Problems
	hangs    <-chan struct{} // closed when a check that was given up has ended; nil: none was
	hung     *hungCall       // a call of the Launcher that was given up; nil: none
}

// ears are what an actor hears with while it has a goroutine. One that is parked,
// of which there may be ten thousand, has none.
type ears struct {
	gone           chan *generation
	rests          chan *generation     // leaving, and without daemons and jobs
	slow           chan *generation     // killed, and not gone after KillAfter
	stuck          map[*generation]bool // those
	looked         chan bool            // a finished Prepared.Changed
	abandon        chan struct{}        // closed: nobody hears any more
	lookTick, tick *time.Ticker         // to look, to sample
}

func newEars() *ears {
	return &ears{
		gone: make(chan *generation), rests: make(chan *generation), slow: make(chan *generation),
		stuck: map[*generation]bool{}, looked: make(chan bool, 1), abandon: make(chan struct{}),
		lookTick: time.NewTicker(LookAgain), tick: time.NewTicker(SampleEvery),
	}
}

// close sends those away that still have something to say.
func (e *ears) close() {
	e.lookTick.Stop()
	e.tick.Stop()
	close(e.abandon)
}

// generation is one Instance and what became it.
type generation struct {
	n        int
	inst     Instance
	prep     Prepared // nil: adopted
	requests uint64   // counted already
	rested   bool     // it is leaving, and has no daemons and jobs any more
	turned   bool     // told that its own may start
	alone    bool     // told that no other lives
	hold     bool     // it only holds the vassal's place
}

// tryResult is how the last try ended.
type tryResult int

const (
	untried tryResult = iota
	served
	asleep  // it could, and sleeps
	refused // the file cannot be used
	died    // it could, and then did not start or stay
)

// A stateFn is one state: it waits, acts and returns the next one, or nil.
type stateFn func(context.Context) stateFn

func newActor(r *realm, f File) *actor {
	return &actor{
		realm: r, name: f.Name, launch: r.launcher(f.Name), credit: paceBurst, creditAt: time.Now(),
		box:   newBox(wish{file: f, fileAt: time.Now()}),
		board: newBoard(report{vassal: expected(r, f)}),
		poke:  make(chan struct{}, 1), saves: make(chan chan struct{}),
		w: &wish{},
	}
}

// run lives as long as the vassal: when it returns false nothing of that is
// left. It returns true when the vassal sleeps and needs no goroutine until its
// box rings.
func (a *actor) run(ctx context.Context) (dozing bool) {
	a.ears = newEars()
	st := stateFn(a.begin)
	if a.dozing {
		st = a.awoken
	}
	for st != nil {
		st = st(ctx)
	}
	a.ears.close()
	if a.dozing {
		a.ears = nil
		return true
	}
	a.wg.Wait()
	rep := a.board.value()
	rep.ended = true
	a.board.put(rep)
	return false
}

// begin remembers what an earlier Emperor knew of the vassal, and takes over
// what it left running.
func (a *actor) begin(ctx context.Context) stateFn {
	a.enter(control.Starting)
	rec := a.left.record
	if err := a.left.err; err != nil {
		a.realm.log.Warn("state is damaged and begins anew", "vassal", a.name, "err", err)
	}
	a.rec, a.left = rec, nil
	a.box.change(func(w *wish) {
		if w.intent == "" { // else somebody was quicker
			w.intent, w.by, w.hold = rec.Intent, rec.By, rec.Hold
		}
	})
	a.pending = &control.Pending{Generation: rec.Generation + 1, State: "queued", Since: control.Time{Time: time.Now()}}
	a.publish()
	if a.legacy != nil {
		a.inherit(ctx)
	}
	if ad, ok := a.launch.(Adopter); ok && a.hung == nil {
		a.adopt(ctx, ad)
	}
	a.noteFound()
	if a.cur == nil && a.held.gen == nil && a.hung == nil {
		a.rec.Kernel = kernelCounts{} // a new cgroup counts from nothing
	}
	return a.decide
}

// adopted is what Adopt returned.
type adopted struct {
	found   Survivor
	leaving []Survivor
}

// adopt takes over what an earlier Emperor left running.
func (a *actor) adopt(ctx context.Context, ad Adopter) {
	f, _, h := drive(a, ctx, driven[adopted]{what: "taking over what runs", settled: true, late: a.takeOver, call: func(ctx context.Context) (f adopted) {
		f.found, f.leaving = ad.Adopt(ctx)
		return f
	}})
	if h == nil {
		a.takeOver(f)
	}
}

// takeOver goes on with what was found.
func (a *actor) takeOver(f adopted) {
	before := a.rec.Counted
	a.rec.Counted = nil           // of those that did not survive nothing is to come
	for _, s := range f.leaving { // a new one's daemons and jobs wait for their ends
		a.depart(a.adoptedOne(s, before), restartOf(nil).DrainTimeout)
		if s.Gen < FirstHold {
			a.rec.Generation = max(a.rec.Generation, s.Gen)
		}
	}
	in, gen := f.found.Instance, f.found.Gen
	switch {
	case in == nil:
	case gen >= FirstHold:
		a.adoptHolding(in, gen)
	default:
		a.cur = a.adoptedOne(f.found, before)
		a.cur.turned, a.cur.alone = true, true
		a.enter(control.Running)
		a.noteBound(in)
		a.rec.Generation = max(a.rec.Generation, gen)
		a.realm.log.Info("found running", "vassal", a.name, "gen", gen, "pid", in.PID())
	}
}

// adoptedOne is the generation of a survivor, of whose requests some are counted.
func (a *actor) adoptedOne(s Survivor, counted *map[int]uint64) *generation {
	g := &generation{n: s.Gen, inst: s.Instance, hold: s.Gen >= FirstHold}
	if counted == nil {
		return g
	}
	if g.requests = (*counted)[s.Gen]; g.requests > 0 {
		a.counted(g)
	}
	return g
}

// decide compares the latest wish with what there is.
func (a *actor) decide(ctx context.Context) stateFn {
	a.w = a.box.get()
	switch {
	case a.ending:
		return a.shutdown
	case a.w.gone:
		return a.leave
	case a.w.intent == wantStop:
		return a.stop
	case a.w.intent == wantSuspend:
		return a.suspend
	}
	a.remember()
	idled := a.idled
	a.idled = nil
	switch {
	case a.due():
		a.fails, a.checks, a.retrying = 0, 0, false
		return a.try
	case a.cur != nil && a.cur.prep == nil && a.last == untried:
		return a.try // the successor of a survivor
	case idled != nil && idled == a.cur && a.mayNod():
		return a.nod
	case a.cur != nil:
		return a.serve
	case a.last == asleep:
		return a.sleep
	case a.last == refused:
		return a.failed
	case a.last == died:
		return a.backoff
	}
	return a.try
}

// due reports whether the wish asks for a try that was not made yet.
func (a *actor) due() bool {
	return a.last != untried && (a.stale || a.w.file.Stamp != a.stamp || a.w.force > a.turn ||
		a.cur == nil && max(a.w.control, a.w.demand) > a.turn)
}

// superseded reports whether the wish has so changed that what goes on for
// a.w is pointless. A mere touch waits for its turn.
func (a *actor) superseded() bool {
	w := a.box.get()
	waits := a.pending != nil && a.pending.State == "queued"
	return a.ending || w.gone || w.intent != a.w.intent || w.fresh > a.w.fresh ||
		(w.file.Problem == nil) != (a.w.file.Problem == nil) ||
		w.file.Trust != a.w.file.Trust || !bytes.Equal(w.file.Text, a.w.file.Text) ||
		waits && w.control > a.w.control
}

// event is what ended a wait.
type event int

const (
	evWish  event = iota // there may be a new wish
	evEnd                // the Emperor ends
	evCrash              // the generation that served is no more
	evHold               // the holding generation is no more
	evGone               // one that was leaving is gone, or stuck
	evDone               // what the state waited for
	evTimer              // the state's own time is up
	evIdle               // the generation that serves may sleep
)

// next waits for the next event. Both channels may be nil. What concerns every
// state alike is dealt with here.
func (a *actor) next(ctx context.Context, done <-chan struct{}, timer <-chan time.Time) event {
	for {
		crashed, unheld, wishes, idle := a.signs()
		end := ctx.Done()
		if a.ending {
			end = nil // said once
		}
		select {
		case <-end:
			a.ending = true
			return evEnd
		case <-a.box.bell:
			return evWish
		case <-crashed:
			a.crashed()
			return evCrash
		case <-unheld:
			a.holdEnded()
			return evHold
		case g := <-a.gone:
			a.buried(g)
			return evGone
		case g := <-a.rests:
			a.resting(g)
		case g := <-a.slow:
			a.stuck[g] = true
			a.publish()
			return evGone
		case <-a.hungDone():
			a.freed()
			return evWish
		case <-a.poke:
			a.refresh()
		case done := <-a.saves:
			a.sample()
			a.save(false)
			close(done)
		case <-a.tick.C:
			if a.cur != nil || a.held.gen != nil { // whose troubles may have begun or ended
				a.refresh()
			}
			if time.Since(a.saved) >= SaveEvery {
				a.save(false)
			}
		case <-a.lookTick.C:
			a.look(ctx)
		case <-wishes:
			a.look(ctx)
		case <-idle:
			return evIdle
		case changed := <-a.looked:
			if a.looking = false; changed {
				a.stale = true
				return evWish
			}
		case <-done:
			return evDone
		case <-timer:
			return evTimer
		}
	}
}

// signs are what the generations have to say: the one that serves has ended, or the one
// that holds; the one that serves wishes to be looked at, or may sleep. Nil: nothing.
func (a *actor) signs() (crashed, unheld, wishes, idle <-chan struct{}) {
	if a.held.gen != nil {
		unheld = a.held.gen.inst.Done()
	}
	if a.cur == nil {
		return nil, unheld, nil, nil
	}
	if w, ok := a.cur.inst.(Wisher); ok {
		wishes = w.Wishes()
	}
	if i, ok := a.cur.inst.(Idler); ok && a.mayNod() {
		idle = i.Idle()
	}
	return a.cur.inst.Done(), unheld, wishes, idle
}

// refresh shows what is counted now.
func (a *actor) refresh() {
	a.sample()
	a.publish()
}

// alongside runs f beside the actor, which stays attentive, and returns what f
// returned. Only the end of the Emperor cancels f's context.
func alongside[T any](a *actor, ctx context.Context, f func(context.Context) T) T {
	var (
		out  T
		done = make(chan struct{})
	)
	go func() { defer close(done); out = f(ctx) }()
	for a.next(ctx, done, nil) != evDone {
	}
	return out
}

// unless is alongside, but a wish that makes f pointless cancels f's context.
// ok is false if that happened: what f returned is then the caller's to undo.
func unless[T any](a *actor, ctx context.Context, f func(context.Context) T) (out T, ok bool) {
	got, _, how := within(a, ctx, bounds{}, f)
	return got(), how == returned
}

// look has Prepared.Changed asked, beside the actor. One that hangs, on a dead
// network file system for instance, is not asked again, and waited for by nobody.
func (a *actor) look(ctx context.Context) {
	if a.looking || a.prep == nil || a.pending != nil || a.state == control.Stopped || a.ending {
		return
	}
	a.looking = true
	prep := a.prep
	looked := a.looked
	go func() { looked <- prep.Changed(ctx) }()
}

// crashed records that the generation that served ended by itself.
func (a *actor) crashed() {
	g := a.cur
	a.ended(g)
	a.cur, a.until = nil, time.Time{}
	a.last = died
	a.problems = deathOf(g, "run")
	a.realm.log.Warn("ended", "vassal", a.name, "gen", g.n, "err", a.problems.Error())
	a.enter(control.Starting)
	a.publish()
}

func (a *actor) recordExit(x vassal.Exit) {
	a.rec.LastExit = exitOf(x)
	a.dirty = true
}

// deathOf says why g, whose Done is closed, ended.
func deathOf(g *generation, step string) vassal.Problems {
	ps := g.inst.Problems()
	if ps.Failed() {
		return ps
	}
	x := g.inst.Exit()
	code, what := vassal.CodeExitedEarly, fmt.Sprintf("exited with code %d", x.Code)
	switch {
	case x.Signal != "":
		what = "was ended by " + x.Signal
	case x.Code == vassal.UnknownCode:
		what = "ended"
	}
	if x.OOM {
		code, what = vassal.CodeOOM, what+": out of memory"
	}
	if x.Reason != "" {
		what += ": " + x.Reason
	}
	return append(ps, vassal.Problem{Severity: vassal.Error, Code: code, Step: step, Message: what})
}
