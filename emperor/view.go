package emperor

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"liege/emperor/control"
	"liege/vassal"
)

// report is what an actor has on its board.
type report struct {
	vassal  control.Vassal
	settled uint64 // every wish up to this turn is fulfilled, or failed
	ok      bool   // the last try, if there was one, led to what serves
	ended   bool   // the actor is no more
	sampled time.Time
	runs    Instance // the generation that serves; nil: none
}

// enter notes the state.
func (a *actor) enter(s control.State) {
	if a.state == s {
		return
	}
	a.state, a.since = s, time.Now()
}

// settle says that all that a.w asks for is done, as well as it could be.
func (a *actor) settle() {
	a.save(false)
	a.settled = a.w.turn
	rep := a.report()
	rep.settled = a.settled
	old := a.board.value()
	a.post(old, rep)
}

// publish says how things are.
func (a *actor) publish() {
	rep := a.report()
	old := a.board.value()
	rep.settled = old.settled
	a.post(old, rep)
}

// post puts rep on the board in old's place.
func (a *actor) post(old, rep report) {
	a.board.put(rep)
	if rep.vassal.State != old.vassal.State {
		a.realm.moves.Add(1) // after it can be seen
	}
}

func (a *actor) report() report {
	var runs Instance
	if a.cur != nil {
		runs = a.cur.inst
	}
	return report{runs: runs, vassal: a.view(), ok: a.last == served || a.last == asleep || a.last == untried, sampled: a.sampled}
}

// view builds the outside form of the vassal.
func (a *actor) view() control.Vassal {
	f := a.w.file
	if a.w.turn == 0 {
		f = a.box.get().file
	}
	v := fileView(f, a.realm.owner)
	v.State, v.Since = a.state, control.Time{Time: a.since}
	v.Generation = a.rec.Generation
	v.Pending = a.pending
	if !a.retryAt.IsZero() {
		v.RetryAt = &control.Time{Time: a.retryAt}
	}
	v.FileDigest = text(a.seen)
	if p := a.shown(); p != nil {
		a.describe(&v, p)
	}
	if a.bound != nil {
		v.Listen = a.bound
	}
	if v.Log == nil {
		v.Log = text(a.realm.logPath(a.name))
	}
	if g := a.cur; g != nil {
		v.PID = number(g.inst.PID())
		if g.prep != nil {
			v.Digest = text(g.prep.Digest().String())
		}
	}
	if a.last == asleep && a.state == control.Sleeping {
		v.Digest = text(a.seen)
	}
	v.Applied = (a.state == control.Running || a.state == control.Sleeping) && a.pending == nil && v.Digest != nil && *v.Digest == a.seen && f.Stamp == a.stamp
	v.Problems = append(v.Problems, a.problems...)
	for _, g := range []*generation{a.cur, a.held.gen} {
		if g == nil {
			continue
		}
		if t, ok := g.inst.(Troubled); ok {
			v.Problems = append(v.Problems, t.Troubles()...)
		}
	}
	v.Problems = append(v.Problems, a.stuckProblems()...)
	if a.unsaved != nil {
		v.Problems = append(v.Problems, vassal.Problem{Severity: vassal.Warning, Code: vassal.CodeNotSaved,
			Message: fmt.Sprintf("what was asked of it is not on disk, and a new Emperor would not know: %v", a.unsaved), Hint: "make room in the state directory"})
	}
	if a.held.problem != nil {
		v.Problems = append(v.Problems, *a.held.problem)
	}
	v.Error = vassal.Problems(v.Problems).First()
	v.Restarts, v.ColdStarts = a.rec.Restarts, a.rec.ColdStarts
	v.OOMKills, v.CPUUsec, v.Requests = a.rec.OOMKills, a.rec.CPUUsec, a.rec.Requests
	v.NetSent, v.NetReceived = a.rec.Sent, a.rec.Received
	v.MemorySlowed, v.PidsRefused, v.ThrottledUsec = a.rec.MemorySlowed, a.rec.PidsRefused, a.rec.ThrottledUsec
	v.LastExit = a.rec.LastExit
	if a.rec.Hold != nil {
		s := a.rec.Hold.Suspension
		v.Suspended = &s
	}
	v.StoppedBy = text(a.rec.By)
	if a.cur != nil {
		v.MemoryBytes, v.Pids = a.memory, a.pids
		if d := a.disk; d != nil {
			v.DiskBytes, v.DiskMaxBytes = &d.Bytes, above0(d.BytesMax)
			v.DiskInodes, v.DiskInodesMax = &d.Inodes, above0(d.InodesMax)
		}
	}
	return v
}

// shown is the Prepared that the outside sees: of what serves, else of what was
// tried last.
func (a *actor) shown() Prepared {
	if a.cur != nil && a.cur.prep != nil {
		return a.cur.prep
	}
	return a.prep
}

// noteBound notes the addresses of the generation that serves from now on.
// They stay, as the listeners do, until close.
func (a *actor) noteBound(in Instance) {
	a.bound = nil
	if b, ok := in.(Binder); ok {
		a.bound = slices.Concat([]string{}, b.Bound())
	}
}

// noteFound is noteBound of the listeners that were taken over and on which nobody
// answers: inherited, or kept while no Emperor ran.
func (a *actor) noteFound() {
	b, ok := a.launch.(Binder)
	if !ok || a.hung != nil || a.bound != nil {
		return
	}
	if found := b.Bound(); len(found) > 0 {
		a.bound = found
	}
}

func (a *actor) describe(v *control.Vassal, p Prepared) {
	w := p.View()
	if w.User != "" || w.UID > 0 {
		v.UID, v.GID = number(w.UID), number(w.GID)
		v.Users = append(v.Users, w.UID)
	}
	v.User, v.Group = text(w.User), text(w.Group)
	v.Context, v.Net, v.Log, v.Cgroup = text(w.Context), text(w.Net), text(w.Log), text(w.Cgroup)
	v.Listen, v.Connect = append(v.Listen, w.Listen...), append(v.Connect, w.Connect...)
	v.Addresses = append(v.Addresses, w.Addresses...)
	v.MemoryMaxBytes, v.PidsMax = above0(w.MemoryMax), above0(w.PidsMax)
}

// fileView is a view of which only the file is known.
func fileView(f File, owner func(int) string) control.Vassal {
	v := control.Vassal{Name: string(f.Name), File: f.Path, State: control.Failed,
		Listen: []string{}, Addresses: []string{}, Connect: []string{}, Problems: []vassal.Problem{}}
	if f.Trust.Operator || f.Trust.UID > 0 {
		v.Owner = text(owner(f.Trust.UID))
	}
	if !f.Trust.Operator && f.Trust.UID > 0 {
		v.Users = []int{f.Trust.UID}
	}
	v.Private = f.private()
	return v
}

// private reports whether the file is the operator's and not for everybody to read.
func (f File) private() bool { return f.Trust.Operator && (f.Hidden || f.Mode&0o004 == 0) }

// expected is the view of a vassal whose actor has not spoken yet: it is in
// the set, and whoever asks must see it.
func expected(r *realm, f File) control.Vassal {
	now := control.Time{Time: time.Now()}
	v := fileView(f, r.owner)
	v.State, v.Since = control.Starting, now
	v.Pending = &control.Pending{Generation: 1, State: "queued", Since: now}
	v.Log = text(r.logPath(f.Name))
	return v
}

// noVassal is the view of a file that can have no vassal.
func noVassal(f File, since time.Time, owner func(int) string) control.Vassal {
	v := fileView(f, owner)
	v.Since = control.Time{Time: since}
	if f.Problem != nil {
		v.Problems = append(v.Problems, *f.Problem)
		v.Error = f.Problem
	}
	return v
}

// sample asks the generation that serves what it uses.
func (a *actor) sample() {
	a.sampled = time.Now()
	if a.cur != nil {
		a.count(a.cur)
	}
}

// count adds what g used since it was last asked.
func (a *actor) count(g *generation) {
	before := a.rec
	u := g.inst.Usage()
	if g == a.cur {
		a.memory, a.pids, a.disk = &u.MemoryBytes, &u.Pids, u.Disk
	}
	k := &a.rec.Kernel
	a.rec.OOMKills += grown(&k.OOMKills, u.OOMKills)
	a.rec.CPUUsec += grown(&k.CPUUsec, u.CPUUsec)
	a.rec.Sent += grown(&k.Sent, u.SentBytes)
	a.rec.Received += grown(&k.Received, u.ReceivedBytes)
	a.rec.MemorySlowed += grown(&k.MemorySlowed, u.MemorySlowed)
	a.rec.PidsRefused += grown(&k.PidsRefused, u.PidsRefused)
	a.rec.ThrottledUsec += grown(&k.ThrottledUsec, u.ThrottledUsec)
	a.tellLimits(before)
	if u.Requests > g.requests {
		add := u.Requests - g.requests
		g.requests = u.Requests
		a.counted(g)
		a.rec.Requests += min(add, math.MaxUint64-a.rec.Requests) // the tenant's claim: it may be anything
	}
	a.dirty = a.dirty || a.rec != before
}

// counted notes that g.requests are in the record.
func (a *actor) counted(g *generation) {
	if a.rec.Counted == nil {
		a.rec.Counted = &map[int]uint64{}
	}
	(*a.rec.Counted)[g.n] = g.requests
	a.dirty = true
}

// ended counts g, which is gone, for the last time. Nobody could ask it any more what
// it answered, so that is saved.
func (a *actor) ended(g *generation) {
	a.count(g)
	if a.rec.Counted != nil {
		if delete(*a.rec.Counted, g.n); len(*a.rec.Counted) == 0 {
			a.rec.Counted = nil
		}
	}
	a.recordExit(g.inst.Exit())
	a.save(false)
}

// tellLimits logs what limits refused since the figures were last read: one
// line for each kind, however often it happened. That cpu-max or memory-high
// slow a vassal down is what they are for, and only counted.
func (a *actor) tellLimits(before record) {
	if n := a.rec.OOMKills - before.OOMKills; n > 0 {
		a.realm.log.Warn("out of memory: the kernel killed processes of it", "vassal", a.name, "killed", n, "all", a.rec.OOMKills)
	}
	if n := a.rec.PidsRefused - before.PidsRefused; n > 0 {
		a.realm.log.Warn("pids-max refused processes or threads", "vassal", a.name, "refused", n, "all", a.rec.PidsRefused)
	}
}

// grown returns by how much a kernel counter has grown since last, which it
// updates. A counter that is smaller than last began anew.
func grown(last *int64, now int64) int64 {
	now = max(now, 0)
	d := now - *last
	if d < 0 {
		d = now
	}
	*last = now
	return d
}

// remember keeps the intent of a.w where the next Emperor finds it.
func (a *actor) remember() {
	if a.rec.Intent == a.w.intent && a.rec.By == a.w.by && a.rec.Hold == a.w.hold {
		return
	}
	a.rec.Intent, a.rec.By, a.rec.Hold = a.w.intent, a.w.by, a.w.hold
	a.dirty = true
	a.save(true)
	if h := a.rec.Hold; h != nil && a.rec.Intent == wantSuspend {
		a.realm.log.Info("suspended", "vassal", a.name, "status", h.Status, "by", h.By, "reason", h.Reason)
	}
}

// save writes the record if it has changed.
func (a *actor) save(sure bool) {
	f := a.w.file
	if owner := cmp.Or(f.owner(), a.rec.Owner); f.Path != "" && (f.Path != a.rec.File || owner != a.rec.Owner) {
		a.rec.File, a.rec.Owner, a.dirty = f.Path, owner, true
	}
	if !a.dirty {
		return
	}
	err := a.realm.records.save(a.rec, sure)
	if err != nil && a.unsaved == nil {
		a.realm.log.Error("state is not saved", "vassal", a.name, "err", err)
	}
	a.dirty, a.saved, a.unsaved = err != nil, time.Now(), err
}

// digestOf is the digest of what is on disk: p's, or the file's alone.
func digestOf(p Prepared, f File) string {
	if p != nil {
		if d := p.Digest(); d != (vassal.Digest{}) {
			return d.String()
		}
	}
	if f.Text == nil {
		return ""
	}
	return vassal.Digest(sha256.Sum256(f.Text)).String()
}

func exitOf(x vassal.Exit) *control.Exit {
	e := &control.Exit{Signal: text(x.Signal), OOM: x.OOM, Reason: text(x.Reason), At: control.Time{Time: x.At}}
	if x.Code != vassal.UnknownCode {
		e.Code = &x.Code
	}
	return e
}

// text is s as a member that is null when there is nothing.
func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func number(n int) *int { return &n }

// above0 is n as a member that is null when there is nothing.
func above0(n int64) *int64 {
	if n <= 0 {
		return nil
	}
	return &n
}

// userNumber names a user by number.
func userNumber(uid int) string { return strconv.Itoa(uid) }
