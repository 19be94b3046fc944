package emperor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"liege/emperor/control"
	"liege/vassal"
)

// Options are what an Emperor is made of. Monitor, Launcher and Log are needed.
type Options struct {
	Monitor     Monitor
	Launcher    func(vassal.Name) Launcher // makes the Launcher of one vassal; must not block
	StateDir    string                     // exists, root's alone; empty: nothing outlives the Emperor
	LogDir      string                     // of the default logs, for status
	Kept        *Kept                      // what was read in StateDir before; nil: nothing. It is the Emperor's then
	Concurrency int                        // start-concurrency; less than 1: startsPerCPU
	Owner       func(uid int) string       // the name of a user; nil: numbers
	Log         *slog.Logger
}

// Emperor is the supervisor. Its methods may be called by any goroutine while
// Run runs. It is the control.Backend.
type Emperor struct {
	monitor     Monitor
	realm       *realm
	concurrency int
	kept        *Kept
	public      *board[public]
	barrier     chan chan struct{}
	hurry       chan struct{}
	hurryOnce   sync.Once
	scanned     chan struct{}
	log         *slog.Logger

	countMu   sync.Mutex
	counted   *Totals // nil: not yet
	countedAt uint64  // realm.moves then
}

// public is what the rest of the world sees of the set: a new one whenever the
// set changes.
type public struct {
	actors map[vassal.Name]*actor
	others []control.Vassal // files that can have no vassal
	want   Snapshot
}

var _ control.Backend = (*Emperor)(nil)

// New returns an Emperor. Call Run.
func New(o Options) *Emperor {
	e := &Emperor{
		monitor:     o.Monitor,
		concurrency: o.Concurrency,
		kept:        o.Kept,
		public:      newBoard(public{}),
		barrier:     make(chan chan struct{}),
		hurry:       make(chan struct{}),
		scanned:     make(chan struct{}),
		log:         o.Log,
	}
	if e.concurrency < 1 {
		e.concurrency = startsPerCPU * runtime.NumCPU()
	}
	e.realm = &realm{
		gate:     newGate(e.concurrency),
		launcher: o.Launcher,
		records:  records{o.StateDir},
		logPath:  func(vassal.Name) string { return "" },
		owner:    o.Owner,
		log:      o.Log,
		hurry:    e.hurry,
	}
	if o.LogDir != "" {
		e.realm.logPath = func(n vassal.Name) string { return filepath.Join(o.LogDir, string(n)+".log") }
	}
	if o.Owner == nil {
		e.realm.owner = userNumber
	}
	return e
}

// Scanned is closed after the first scan: the moment for READY=1.
func (e *Emperor) Scanned() <-chan struct{} { return e.scanned }

// Complete reports whether the last scan could read every directory: only then
// is a vassal that is not in the set known to have no file.
func (e *Emperor) Complete() bool {
	p := e.public.value()
	return !p.want.Partial
}

// Gone reports whether the vassal n, whose file was at path when it was last known,
// is known to have none. Where it was is unknown: path is empty.
func (e *Emperor) Gone(n vassal.Name, path string) bool {
	p := e.public.value()
	if p.actors[n] != nil || slices.ContainsFunc(p.others, func(v control.Vassal) bool { return v.Name == string(n) }) {
		return false
	}
	return !p.want.Partial || path != "" && !p.want.MayHold(path)
}

// Hurry makes everything that drains, now or later, end at once: the second
// SIGTERM (CONTRACT 17).
func (e *Emperor) Hurry() { e.hurryOnce.Do(func() { close(e.hurry) }) }

// Run supervises until ctx is done or the Monitor fails, and returns when
// every vassal has drained and is gone, or is known not to die. The error is
// nil if ctx was done.
func (e *Emperor) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		s = &set{emperor: e, ctx: ctx, kept: e.kept, entries: map[vassal.Name]*entry{},
			ended: make(chan vassal.Name), told: map[string]bool{}}
		snapshots = make(chan Snapshot)
		failed    = make(chan error, 1)
		watching  = true
		err       error
	)
	go func() { failed <- e.monitor.Watch(ctx, snapshots) }()
	ending, late := ctx.Done(), (<-chan time.Time)(nil)
	for watching || len(s.entries) > 0 {
		select {
		case <-ending:
			ending, late = nil, time.After(WatchTime)
			for _, en := range s.entries {
				en.actor.box.ring() // it may be parked, and hear nothing else
			}
		case <-late:
			if watching {
				watching = false
				e.log.Warn("the file system of the vassal files hangs: nobody waits for it any more")
			}
		case err = <-failed:
			watching = false
			if ctx.Err() != nil {
				err = nil
			} else if err == nil {
				err = errors.New("the monitor of the vassal files ended")
			}
			cancel()
		case snap := <-snapshots:
			if ctx.Err() == nil {
				s.apply(snap)
			}
		case n := <-s.ended:
			s.end(n)
		case done := <-e.barrier:
			close(done)
		}
	}
	return err
}

// set is the set of actors. It belongs to the goroutine in Run.
type set struct {
	emperor *Emperor
	ctx     context.Context // of Run: the actors live in it
	entries map[vassal.Name]*entry
	want    Snapshot
	first   time.Time            // of the first scan
	refused map[string]time.Time // since when, by path: files that can have no vassal
	kept    *Kept                // of vassals whose files were not seen yet; nil: nothing
	pruned  bool
	ended   chan vassal.Name
	told    map[string]bool // alarms that stand, told once
}

type entry struct {
	actor *actor
	file  File
	owner int    // uid of the last user's file that it was; 0: it was always the operator's
	gone  bool   // its actor has been told so
	heir  *actor // that waits for its listeners
}

// apply brings the set closer to want. An actor that is on its way out is
// left alone: its end calls apply again.
func (s *set) apply(want Snapshot) {
	if !s.pruned && (s.first.IsZero() || !want.Partial) {
		s.pruned = !want.Partial // else it is not known of all who are gone
		s.prune(want)
	}
	s.want = want
	here := map[vassal.Name]bool{}
	var added []File
	for _, f := range want.Files {
		if f.NoVassal {
			continue
		}
		here[f.Name] = true
		en := s.entries[f.Name]
		switch {
		case en == nil:
			added = append(added, f)
		case en.gone && en.heir != nil: // its listeners are promised away: a new actor follows
		case another(en.owner, f): // nothing of the old one's is the new one's: a new actor follows
			if !en.gone {
				en.gone = true
				en.actor.box.change(func(w *wish) { w.gone, w.forget = true, true })
			}
		case en.gone, !same(en.file, f):
			en.file, en.owner, en.gone = f, cmp.Or(f.owner(), en.owner), false
			en.actor.box.change(func(w *wish) { w.file, w.fileAt, w.fileT, w.gone = f, time.Now(), w.turn, false })
		default:
			en.file = f // it may be another inode, by which it is known when it is renamed
		}
	}
	lost := s.lost(here, len(added))
	for _, f := range added {
		a := newActor(s.emperor.realm, f)
		_, heir := a.launch.(Heir)
		if old := renamed(f, lost); heir && old != nil {
			a.legacy = make(chan Launcher, 1)
			old.heir, old.gone = a, true
			old.actor.box.change(func(w *wish) { w.gone, w.heir = true, a })
		}
		en := &entry{actor: a, file: f, owner: f.owner()}
		if s.entries[f.Name] = en; s.left(en) { // it ends with that, and a new actor follows
			en.gone = true
			a.box.change(func(w *wish) { w.gone, w.forget = true, true })
		}
		a.again = func() { go s.live(a) }
		a.again()
	}
	for n, en := range s.entries {
		if !here[n] && !en.gone {
			en.gone = true
			en.actor.box.change(func(w *wish) { w.gone = true })
		}
	}
	if !want.Partial {
		s.kept = nil // of others nothing is kept any more
	}
	s.alarm()
	s.publish()
	if first := s.first.IsZero(); first {
		s.first = time.Now()
		close(s.emperor.scanned)
	}
}

// live runs a until it is parked, or at its end.
func (s *set) live(a *actor) {
	for a.run(s.ctx) {
		if a.box.park(s.ctx, a.again) {
			return // a is another goroutine's now
		}
	}
	s.ended <- a.name
}

// prune forgets what is kept of vassals whose files went while no Emperor
// looked.
func (s *set) prune(want Snapshot) {
	there := make(map[vassal.Name]bool, len(want.Files))
	for _, f := range want.Files {
		there[f.Name] = true
	}
	all := s.emperor.realm.records
	err := all.prune(func(n vassal.Name) bool {
		if there[n] {
			return true
		}
		rec, err := all.load(n)
		switch {
		case err == nil && rec.locked():
			return true
		case !want.Partial:
			return false
		}
		stays := err != nil || rec.File == "" || want.MayHold(rec.File)
		if !stays {
			s.kept.take(n) // a file that is made anew has nothing of it
		}
		return stays
	})
	if err != nil {
		s.emperor.log.Warn("state of vassals that are gone is not removed", "err", err)
	}
}

// lost are the entries whose files are not here any more, by inode and in the
// order of their names; nil if nothing was added that could be one of them. They
// are listed once for all that was added: ten thousand files may come at once.
func (s *set) lost(here map[vassal.Name]bool, added int) map[uint64][]*entry {
	if added == 0 {
		return nil
	}
	var names []vassal.Name
	for n, en := range s.entries {
		if !here[n] && en.heir == nil && en.file.Inode != 0 {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	all := map[uint64][]*entry{}
	for _, n := range names {
		en := s.entries[n]
		all[en.file.Inode] = append(all[en.file.Inode], en)
	}
	return all
}

// renamed returns the entry among the lost whose file is now called f, or nil.
func renamed(f File, lost map[uint64][]*entry) *entry {
	if f.Inode == 0 || f.Problem != nil {
		return nil
	}
	for _, en := range lost[f.Inode] {
		if en.heir == nil && en.file.Path != f.Path && en.file.Trust == f.Trust && sameInode(en.file, f) {
			return en
		}
	}
	return nil
}

// sameInode reports whether a and b, which have the number of their inode in common,
// are one file. A number is one file's on one file system only, and another's as soon as
// that file is gone. Where nobody knows how old an inode is, a file that was renamed is
// told by what renaming leaves alone.
func sameInode(a, b File) bool {
	return a.Device == b.Device && a.Born == b.Born && (a.Born != 0 || a.Stamp == b.Stamp)
}

// same reports whether nothing about the file asks for a look.
func same(a, b File) bool {
	return a.Stamp == b.Stamp && a.Path == b.Path && a.Trust == b.Trust && a.private() == b.private() &&
		(a.Problem == nil) == (b.Problem == nil) && (a.Problem == nil || *a.Problem == *b.Problem)
}

// load returns what is kept of n.
func (s *set) load(n vassal.Name) (l loaded) {
	if rec, ok := s.kept.take(n); ok {
		return loaded{record: rec}
	}
	l.record, l.err = s.emperor.realm.records.load(n)
	return l
}

// end removes an actor that has returned, and those that wait to be removed
// with it: a directory that is emptied is compared once, not once a vassal.
func (s *set) end(n vassal.Name) {
	s.remove(n)
	for more := true; more; {
		select {
		case n := <-s.ended:
			s.remove(n)
		default:
			more = false
		}
	}
	if s.ctx.Err() == nil {
		s.apply(s.want)
	}
}

func (s *set) remove(n vassal.Name) {
	if h := s.entries[n].heir; h != nil {
		select {
		case h.legacy <- nil: // it ended before it knew of its heir
		default:
		}
	}
	delete(s.entries, n)
}

// alarm logs what is wrong with whole directories, once.
func (s *set) alarm() {
	now := map[string]bool{}
	for _, p := range s.want.Skipped {
		key := p.Error()
		now[key] = true
		if s.told[key] {
			continue
		}
		level := slog.LevelInfo
		if p.Severity == vassal.Error {
			level = slog.LevelError
		}
		s.emperor.log.Log(s.ctx, level, "vassal files", "file", p.File, "err", p.Message, "hint", p.Hint)
	}
	s.told = now
}

func (s *set) publish() {
	p := public{actors: make(map[vassal.Name]*actor, len(s.entries)), want: s.want}
	for n, en := range s.entries {
		p.actors[n] = en.actor
	}
	now, before := time.Now(), s.refused
	s.refused = map[string]time.Time{}
	for _, f := range s.want.Files {
		if !f.NoVassal {
			continue
		}
		since, known := before[f.Path]
		if !known {
			since = now
		}
		s.refused[f.Path] = since
		p.others = append(p.others, noVassal(f, since, s.emperor.realm.owner))
	}
	s.emperor.public.put(p)
	s.emperor.realm.moves.Add(1) // after it can be seen
}

// Totals counts vassals by state.
type Totals struct {
	All     int
	ByState map[control.State]int
	Alarms  []vassal.Problem // about whole directories
}

// Totals returns how many vassals there are, for STATUS= of sd_notify, where
// somebody asks every few seconds: while nothing changes they are counted once.
// The caller changes nothing in it.
func (e *Emperor) Totals() Totals {
	e.countMu.Lock()
	defer e.countMu.Unlock()
	if now := e.realm.moves.Load(); e.counted == nil || now != e.countedAt {
		t := e.count() // what changes meanwhile is counted the next time
		e.counted, e.countedAt = &t, now
	}
	return *e.counted
}

func (e *Emperor) count() Totals {
	p := e.public.value()
	t := Totals{ByState: map[control.State]int{control.Failed: len(p.others)}, All: len(p.others) + len(p.actors)}
	for _, a := range p.actors {
		rep := a.board.value()
		t.ByState[rep.vassal.State]++
	}
	for _, s := range p.want.Skipped {
		if s.Severity == vassal.Error {
			t.Alarms = append(t.Alarms, s)
		}
	}
	return t
}

// String is such as "612 of 800 running, 3 failed".
func (t Totals) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d running", t.ByState[control.Running], t.All)
	for _, s := range []control.State{control.Failed, control.Backoff, control.Starting, control.Draining, control.Stopped, control.Suspended, control.Sleeping} {
		if n := t.ByState[s]; n > 0 {
			fmt.Fprintf(&b, ", %d %s", n, s)
		}
	}
	for _, p := range t.Alarms {
		fmt.Fprintf(&b, "; %s", p.Error())
	}
	return b.String()
}

// Lines is one line for each vassal: what SIGUSR1 logs (CONTRACT 17).
func (e *Emperor) Lines() []string {
	var out []string
	for _, v := range e.list() {
		l := fmt.Sprintf("%s: %s since %s, generation %d", v.Name, v.State, v.Since.UTC().Format(time.RFC3339), v.Generation)
		if v.PID != nil {
			l += fmt.Sprintf(", pid %d", *v.PID)
		}
		if v.Error != nil {
			l += ": " + v.Error.Error()
		}
		out = append(out, l)
	}
	return out
}
