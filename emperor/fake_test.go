package emperor

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"liege/emperor/control"
	"liege/vassal"
)

// A fake vassal's file is words: what its generations do. "good" is ready after
// a second; "slow=60s" later; "mute=2s" says so later than it is; "crash" dies after a second; "dies=5s" is ready
// and dies then; "never" is never ready; "fail" is not launched; "bad" is
// refused; "alone" may not overlap; "both" may run its jobs beside another's; "rests=2s" has none any more
// so long after Drain; "stubborn" does not drain; "stuck" does not
// die; "hang=60s" hangs in Prepare, "dead=60s" whatever its context says; "wedge=60s" hangs like that in Launch, and
// is launched then; "drain=5s" drains that long.
type words map[string]string

func parse(text string) words {
	w := words{}
	for _, f := range strings.Fields(text) {
		k, v, _ := strings.Cut(f, "=")
		w[k] = v
	}
	return w
}

func (w words) has(k string) bool { _, ok := w[k]; return ok }

func (w words) time(k string, or time.Duration) time.Duration {
	if d, err := time.ParseDuration(w[k]); err == nil {
		return d
	}
	return or
}

// world is what the fake Launchers of a test have in common.
type world struct {
	mu       sync.Mutex
	made     map[vassal.Name][]*fake
	open     map[vassal.Name]int // Launchers not closed
	starting int                 // between Launch and ready
	dead     int                 // calls of Prepare and Launch that hung
	closing  time.Duration       // how long Close hangs
	peak     int
	changed  map[vassal.Name]bool
	survivor map[vassal.Name]*fake
	leaving  map[vassal.Name][]*fake // with the survivor
	handed   []string
	holds    words // what holding generations do: "fail", "crash", "none", "slow=5s", "drain=2s"
	held     map[vassal.Name][]*fake
	answers  []string               // of all holding generations, in order
	wakes    map[vassal.Name]func() // of those that sleep
	slept    map[vassal.Name]int    // how often
	queue    map[vassal.Name]bool   // a connection waits
}

func newWorld() *world {
	return &world{made: map[vassal.Name][]*fake{}, open: map[vassal.Name]int{}, changed: map[vassal.Name]bool{}, survivor: map[vassal.Name]*fake{},
		held: map[vassal.Name][]*fake{}, wakes: map[vassal.Name]func(){}, slept: map[vassal.Name]int{}, queue: map[vassal.Name]bool{}}
}

func (w *world) launcher(n vassal.Name) Launcher {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open[n]++
	return &fakeLauncher{w: w, name: n}
}

// alive is how many generations of n are.
func (w *world) alive(n vassal.Name) (out int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.made[n] {
		select {
		case <-f.done:
		default:
			out++
		}
	}
	return out
}

// opened is how many Launchers of n are not closed.
func (w *world) opened(n vassal.Name) int { w.mu.Lock(); defer w.mu.Unlock(); return w.open[n] }

// holding is how many holding generations of n are.
func (w *world) holding(n vassal.Name) (out int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.held[n] {
		select {
		case <-f.done:
		default:
			out++
		}
	}
	return out
}

// most is how many were between Launch and ready at once.
func (w *world) most() int { w.mu.Lock(); defer w.mu.Unlock(); return w.peak }

func (w *world) starts(n vassal.Name) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.made[n])
}

// latest is the newest generation of n.
func (w *world) latest(n vassal.Name) *fake {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.made[n][len(w.made[n])-1]
}

type fakeLauncher struct {
	w     *world
	name  vassal.Name
	busy  sync.Mutex // a Launcher is used by one goroutine
	rests int
}

func (l *fakeLauncher) use() func() {
	if !l.busy.TryLock() {
		panic("launcher of " + string(l.name) + " is used twice at once")
	}
	return l.busy.Unlock
}

func (l *fakeLauncher) Prepare(ctx context.Context, f File) (Prepared, vassal.Problems) {
	w := parse(string(f.Text))
	if d := w.time("dead", 0); d > 0 {
		l.w.mu.Lock()
		l.w.dead++
		l.w.mu.Unlock()
		time.Sleep(d)
	}
	defer l.use()()
	if w.has("panic") {
		panic("a defect")
	}
	if d := w.time("hang", 0); d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	p := &fakePrepared{l: l, f: f, words: w}
	l.w.mu.Lock()
	host := l.w.changed["host"]
	l.w.mu.Unlock()
	if w.has("hostless") && !host {
		return p, vassal.Problems{{Severity: vassal.Error, Code: "no-such-user", Message: "no such user"}}
	}
	if w.has("bad") {
		return p, vassal.Problems{{Severity: vassal.Error, Code: "unknown-option", File: f.Path, Line: 3, Message: "bad file"}}
	}
	return p, nil
}

type fakePrepared struct {
	l     *fakeLauncher
	f     File
	words words
}

func (p *fakePrepared) Digest() vassal.Digest { return sha256.Sum256(p.f.Text) }
func (p *fakePrepared) Restart() vassal.Restart {
	return vassal.Restart{OnDemand: p.words.has("sleepy"), Overlap: !p.words.has("alone"), Both: p.words.has("both"), ReadyTimeout: p.words.time("timeout", 10*time.Second),
		DrainTimeout: 30 * time.Second, BackoffMin: time.Second, BackoffMax: 8 * time.Second, StableAfter: time.Minute}
}
func (p *fakePrepared) View() View {
	return View{UID: 1004, GID: 33, User: "shop", Group: "www-data", Net: "none", Listen: []string{"127.0.0.1:80"}, Connect: []string{"127.0.0.1:5432"}, MemoryMax: 512 << 20}
}
func (p *fakePrepared) Changed(context.Context) bool {
	p.l.w.mu.Lock()
	defer p.l.w.mu.Unlock()
	c := p.l.w.changed[p.l.name]
	delete(p.l.w.changed, p.l.name)
	return c
}

func (l *fakeLauncher) Launch(ctx context.Context, p Prepared, gen int) (Instance, error) {
	defer l.use()()
	w := p.(*fakePrepared).words
	l.w.leave(l.name)
	if w.has("fail") {
		return nil, errors.New("no such image")
	}
	if d := w.time("wedge", 0); d > 0 {
		l.w.mu.Lock()
		l.w.dead++
		first := l.w.dead == 1
		l.w.mu.Unlock()
		if first {
			time.Sleep(d)
		}
	}
	f := &fake{words: w, gen: gen, ready: make(chan vassal.Problems, 1), done: make(chan struct{}), rested: make(chan struct{}), idle: make(chan struct{}, 1)}
	l.w.mu.Lock()
	l.w.made[l.name] = append(l.w.made[l.name], f)
	l.w.starting++
	l.w.peak = max(l.w.peak, l.w.starting)
	l.w.mu.Unlock()
	var once sync.Once
	started := func() {
		once.Do(func() { l.w.mu.Lock(); l.w.starting--; l.w.mu.Unlock() })
	}
	go func() { <-f.done; started() }()
	switch {
	case w.has("crash"):
		f.ps = vassal.Problems{{Severity: vassal.Error, Code: "import-error", Step: "app", Message: "boom"}}
		time.AfterFunc(time.Second, func() { f.die(vassal.Exit{Code: 1, At: time.Now()}) })
	case w.has("never"):
	case w.has("deaf"): // it is ready, and accepts nothing
		time.AfterFunc(time.Second, f.serve)
	default:
		after(w.time("slow", time.Second), func() { started(); l.w.accept(l.name); f.serve() })
		if d := w.time("dies", 0); d > 0 {
			time.AfterFunc(d, func() { f.die(vassal.Exit{Signal: "SIGKILL", OOM: true, At: time.Now()}) })
		}
	}
	return f, nil
}

func (l *fakeLauncher) Hold(ctx context.Context, p Prepared, h vassal.Hold, gen int) (Instance, error) {
	defer l.use()()
	l.w.leave(l.name)
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	w := l.w.holds
	if d := w.time("wedge", 0); d > 0 {
		l.w.mu.Unlock()
		time.Sleep(d)
		l.w.mu.Lock()
	}
	switch {
	case gen < FirstHold:
		panic("a holding generation has the number of another")
	case w.has("none"), p == nil && !w.has("bound"): // it has no listeners
		return nil, nil
	case w.has("fail"):
		return nil, errors.New("no uid")
	}
	f := &fake{words: w, gen: gen, ready: make(chan vassal.Problems, 1), done: make(chan struct{}), idle: make(chan struct{}, 1)}
	l.w.held[l.name] = append(l.w.held[l.name], f)
	l.w.answers = append(l.w.answers, fmt.Sprintf("%d %s", h.Status, h.Page))
	time.AfterFunc(w.time("slow", 100*time.Millisecond), f.serve)
	if w.has("crash") {
		time.AfterFunc(time.Second, func() { f.die(vassal.Exit{Code: 1, At: time.Now()}) })
	}
	return f, nil
}

// Crowded is what a file says by "full".
func (l *fakeLauncher) Crowded(p Prepared) *vassal.Problem {
	if !p.(*fakePrepared).words.has("full") {
		return nil
	}
	return &vassal.Problem{Severity: vassal.Warning, Code: vassal.CodeNoRoom, Message: "no room"}
}

func (l *fakeLauncher) Close() error {
	defer l.use()()
	if l.w.closing > 0 {
		time.Sleep(l.w.closing)
	}
	if n := l.w.alive(l.name) + l.w.holding(l.name); n > 0 {
		panic(fmt.Sprintf("%s: closed while %d live", l.name, n))
	}
	l.w.leave(l.name)
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.w.open[l.name]--
	return nil
}

func (l *fakeLauncher) Inherit(old Launcher) error {
	defer l.use()()
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.w.handed = append(l.w.handed, string(old.(*fakeLauncher).name)+" → "+string(l.name))
	return nil
}

func (l *fakeLauncher) Adopt(context.Context) (found Survivor, leaving []Survivor) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	f := l.w.survivor[l.name]
	delete(l.w.survivor, l.name)
	for _, g := range l.w.leaving[l.name] {
		leaving = append(leaving, Survivor{g, g.gen})
	}
	delete(l.w.leaving, l.name)
	if f == nil {
		return found, leaving
	}
	if f.gen >= FirstHold {
		l.w.held[l.name] = append(l.w.held[l.name], f)
	} else {
		l.w.made[l.name] = append(l.w.made[l.name], f)
	}
	return Survivor{f, f.gen}, leaving
}

type fake struct {
	words  words
	gen    int
	once   sync.Once
	ready  chan vassal.Problems
	done   chan struct{}
	exit   vassal.Exit
	ps     vassal.Problems
	mu     sync.Mutex
	turned bool
	since  time.Time
	rested chan struct{}
	until  time.Time
	alone  bool
	killed bool
	fate   string // "serves" or "forgone"; empty: open
	asked  bool   // to drain
	cut    bool   // it was killed while it served, and not drained before
	usage  Usage
	idle   chan struct{}
}

// serve is what a core does that has loaded: it accepts, and says so. "mute" is slow
// to say it, and "last" dies with that.
func (f *fake) serve() {
	if f.decide("serves") != "serves" {
		return
	}
	after(f.words.time("mute", 0), func() {
		f.ready <- nil
		if f.words.has("last") {
			f.die(vassal.Exit{Code: 1, At: time.Now()})
		}
	})
}

// after does what is due after d, at once if that is nothing.
func after(d time.Duration, do func()) {
	if d == 0 {
		do()
		return
	}
	time.AfterFunc(d, do)
}

// decide decides what becomes of f, once, and returns what became of it.
func (f *fake) decide(fate string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fate = cmp.Or(f.fate, fate)
	return f.fate
}

func (f *fake) Forgo() bool { return f.decide("forgone") == "forgone" }

func (f *fake) die(x vassal.Exit)             { f.once.Do(func() { f.exit = x; close(f.done) }) }
func (f *fake) PID() int                      { return 1000 + f.gen }
func (f *fake) Ready() <-chan vassal.Problems { return f.ready }
func (f *fake) Done() <-chan struct{}         { return f.done }
func (f *fake) Exit() vassal.Exit             { return f.exit }
func (f *fake) Problems() vassal.Problems     { return f.ps }
func (f *fake) Drain() error {
	f.decide("forgone")
	f.mu.Lock()
	f.asked = true
	f.mu.Unlock()
	if d := f.words.time("rests", 0); d > 0 {
		time.AfterFunc(d, func() { f.until = time.Now(); close(f.rested) })
	}
	if !f.words.has("stubborn") && !f.words.has("stuck") {
		if d := f.words.time("drain", 0); d > 0 {
			time.AfterFunc(d, func() { f.die(vassal.Exit{At: time.Now()}) })
		} else {
			f.die(vassal.Exit{At: time.Now()})
		}
	}
	return nil
}
func (f *fake) Kill() error {
	f.decide("forgone")
	f.mu.Lock()
	f.killed = true
	f.cut = f.cut || f.fate == "serves" && !f.asked
	f.mu.Unlock()
	if !f.words.has("stuck") {
		f.die(vassal.Exit{Signal: "SIGKILL", At: time.Now()})
	}
	return nil
}
func (f *fake) Idle() <-chan struct{} { return f.idle }
func (f *fake) Remains() string       { return "1 processes are left: 7 (in nfs_wait)" }
func (f *fake) Bound() []string       { return []string{"127.0.0.1:40001"} }
func (f *fake) Turn(until time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turned, f.since = true, until
	return nil
}
func (f *fake) Rested() <-chan struct{} { return f.rested }
func (f *fake) Until() time.Time        { return f.until }
func (f *fake) Alone() error            { f.mu.Lock(); defer f.mu.Unlock(); f.alone = true; return nil }
func (f *fake) Usage() Usage            { f.mu.Lock(); defer f.mu.Unlock(); return f.usage }

// files is a Monitor whose files the test writes.
type files struct {
	mu      sync.Mutex
	m       map[vassal.Name]File
	bell    chan chan struct{}
	stamps  int
	partial bool
	unseen  []string
}

func newFiles() *files { return &files{m: map[vassal.Name]File{}, bell: make(chan chan struct{})} }

func (f *files) Watch(ctx context.Context, out chan<- Snapshot) error {
	var told chan struct{}
	for {
		select {
		case out <- f.snapshot():
		case <-ctx.Done():
			return ctx.Err()
		}
		if told != nil {
			close(told)
		}
		select {
		case told = <-f.bell:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *files) Rescan(ctx context.Context) error {
	told := make(chan struct{})
	select {
	case f.bell <- told:
		<-told
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *files) snapshot() Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := Snapshot{Partial: f.partial, Unseen: f.unseen}
	for _, x := range f.m {
		s.Files = append(s.Files, x)
	}
	slices.SortFunc(s.Files, func(a, b File) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return s
}

// write writes a file that the next Rescan finds.
func (f *files) write(n vassal.Name, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stamps++
	ino := f.m[n].Inode
	if ino == 0 {
		ino = uint64(1000 + f.stamps)
	}
	f.m[n] = File{Name: n, Path: "/etc/vassals/" + string(n) + ".ini", Text: []byte(text), Inode: ino,
		Trust: vassal.Trust{Operator: true}, Stamp: fmt.Sprint(f.stamps)}
}

// change changes what is known of a file.
func (f *files) change(n vassal.Name, how func(*File)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	x := f.m[n]
	how(&x)
	f.m[n] = x
}

// own gives the file to a user.
func (f *files) own(n vassal.Name, uid int) {
	f.change(n, func(x *File) { x.Trust = vassal.Trust{UID: uid} })
}

func (f *files) remove(n vassal.Name) { f.mu.Lock(); defer f.mu.Unlock(); delete(f.m, n) }

func (f *files) rename(from, to vassal.Name) {
	f.mu.Lock()
	defer f.mu.Unlock()
	x := f.m[from]
	delete(f.m, from)
	x.Name, x.Path = to, "/etc/vassals/"+string(to)+".ini"
	f.m[to] = x
}

// stage is an Emperor over a world and files, in fake time.
type stage struct {
	*testing.T
	*files
	world *world
	e     *Emperor
	ctx   context.Context
	stop  context.CancelFunc
	end   chan error
	dir   string
	slots int
	kept  *Kept
}

// perform runs do against a running Emperor and ends it. Everything must be
// closed then.
func perform(t *testing.T, o Options, do func(s *stage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &stage{T: t, files: newFiles(), world: newWorld(), dir: o.StateDir, slots: o.Concurrency, kept: o.Kept}
		s.start()
		do(s)
		s.finish()
	})
}

func (s *stage) start() {
	s.e = New(Options{Monitor: s.files, Launcher: s.world.launcher, StateDir: s.dir, LogDir: "/var/log/liege", Kept: s.kept,
		Concurrency: s.slots, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	s.ctx, s.stop = context.WithCancel(s.T.Context())
	s.end = make(chan error, 1)
	go func() { s.end <- s.e.Run(s.ctx) }()
	synctest.Wait()
}

func (s *stage) finish() {
	s.Helper()
	s.stop()
	if err := <-s.end; err != nil {
		s.Errorf("Run: %v", err)
	}
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	for n, open := range s.world.open {
		if open != 0 {
			s.Errorf("%s: %d launchers not closed", n, open)
		}
	}
}

// look has the Emperor read the files, then lets d pass.
func (s *stage) look(d time.Duration) {
	s.Helper()
	if err := s.e.Refresh(s.ctx); err != nil {
		s.Fatal(err)
	}
	s.pass(d)
}

func (s *stage) pass(d time.Duration) { time.Sleep(d); synctest.Wait() }

// line is the state of n in one line.
func (s *stage) line(n vassal.Name) string {
	for _, v := range s.e.list() {
		if v.Name == string(n) {
			return lineOf(v)
		}
	}
	return "none"
}

func lineOf(v control.Vassal) string {
	l := fmt.Sprintf("%s %d", v.State, v.Generation)
	if v.Pending != nil {
		l += " " + v.Pending.State
	}
	if v.Error != nil {
		l += ": " + v.Error.Message
	}
	return l
}

func (s *stage) want(n vassal.Name, want string) {
	s.Helper()
	synctest.Wait()
	if got := s.line(n); got != want {
		s.Errorf("%s: got %q, want %q", n, got, want)
	}
}
