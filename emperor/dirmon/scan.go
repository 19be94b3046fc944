package dirmon

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"liege/emperor"
	"liege/vassal"
)

// dirState is what is known of a directory that a source names.
type dirState struct {
	owner       uint32
	known       bool   // it was used once
	read        bool   // by the last scan
	kind        uint32 // of file system
	unwatchable bool
}

// entry is what is known of one path.
type entry struct {
	source int
	raw    string // the name, not yet judged

	file    emperor.File // as it counts
	counts  bool         // file is set
	sig     signature    // of the newest state seen
	born    int64        // content.born, likewise
	closed  bool         // found.closed, likewise
	trail   trail        // of the directory in which that was
	since   time.Time    // when that was first seen
	restive time.Time    // since when it has not been at rest; zero: it is
	taken   bool         // that state is what counts
	missing time.Time    // since when it is away; zero: it is there
	seen    bool         // by this scan
}

// scanner is one scan.
type scanner struct {
	m       *Monitor
	now     time.Time
	asked   bool
	first   bool
	again   time.Duration // when something will be at rest
	skipped []vassal.Problem
	failed  map[int][]string // directories of a source that could not be looked at
	partial bool             // and what they hold is not for their user to say
	apart   *apart           // who looks now; nil: the goroutine in Watch
	hung    bool             // a directory was given up in this scan

	files map[inode]*entry // that there are; nil: not asked for yet
}

// scan looks at everything once, and says when there will be more to see.
func (m *Monitor) scan(now time.Time, asked bool) (emperor.Snapshot, time.Duration) {
	m.turn.Lock()
	defer m.turn.Unlock()
	s := &scanner{m: m, now: now, asked: asked, first: m.sent == nil, again: m.period, failed: map[int][]string{}}
	for _, e := range m.entries {
		e.seen = false
	}
	for _, d := range m.dirs {
		d.read = false
	}
	for i, src := range m.sources {
		if src.glob {
			s.pattern(i, src)
		} else {
			s.directory(i, src)
		}
	}
	for p, e := range m.entries {
		s.absent(p, e)
	}
	if m.built == nil || m.changed || s.partial != m.built.partial || !slices.Equal(s.skipped, m.built.skipped) {
		m.built = &built{Snapshot: s.snapshot(), partial: s.partial, skipped: s.skipped}
		m.changed = false
	}
	return m.built.Snapshot, s.again
}

// built is a Snapshot and what it was made of beside the entries.
type built struct {
	emperor.Snapshot
	partial bool
	skipped []vassal.Problem
}

// directory looks at a dir:// source.
func (s *scanner) directory(i int, src source) {
	d := s.open(i, src.path, true)
	if d == nil {
		return
	}
	defer d.close()
	names, err := list(d)
	if err != nil {
		s.alarm(i, src.path, reason(err), "")
		return
	}
	for _, n := range names {
		s.name(i, d, n, path.Join(src.path, n), strings.TrimSuffix(n, ".ini"))
	}
}

// open opens a directory that a source names and judges it. nil: it cannot be
// used, and an alarm says why. strict is for directories whose files are all
// meant.
func (s *scanner) open(i int, dir string, strict bool) *place {
	st := s.m.dirs[dir]
	if st == nil {
		st = &dirState{}
		s.m.dirs[dir] = st
	}
	d, err := s.m.walker.dir(dir)
	if err != nil {
		s.alarm(i, dir, reason(err), "mkdir "+clean(dir)+", or name another directory")
		return nil
	}
	t := d.trail
	switch {
	case strict && t.loose != "":
		s.alarm(i, dir, "is not used: others than its owner can write "+clean(t.loose), "chmod go-w "+clean(t.loose))
	case strict && t.mixed:
		s.alarm(i, dir, "is not used: several users own the way to it", "")
	case strict && st.known && t.owner != st.owner:
		s.alarm(i, dir, fmt.Sprintf("is not used: it belonged to %s and now to %s", userName(st.owner), userName(t.owner)),
			"chown "+userName(st.owner)+" "+clean(dir))
	default:
		st.known, st.owner, st.read, st.kind = true, t.owner, true, fileSystem(d.fd)
		return d
	}
	d.close()
	return nil
}

// alarm says that a directory cannot be used. What it held stays as it was.
func (s *scanner) alarm(i int, dir, message, hint string) {
	s.partial = true
	s.unusable(i, dir, message, hint)
}

// usersAlarm is alarm for a directory below a wildcard, which may be a user's.
// What that user can bring about (a link that leads to itself, too many names)
// leaves everybody else's files known.
func (s *scanner) usersAlarm(i int, dir string, err error) {
	if !errors.Is(err, errTooMany) && !errors.Is(err, unix.ELOOP) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.ENAMETOOLONG) {
		s.partial = true
	}
	s.unusable(i, dir, reason(err), "")
}

func (s *scanner) unusable(i int, dir, message, hint string) {
	s.failed[i] = append(s.failed[i], dir)
	s.skipped = append(s.skipped, vassal.Problem{Severity: vassal.Error, Code: vassal.CodeBadDirectory, File: clean(dir), Step: "open",
		Message: message + "; vassals from it stay as they are", Hint: hint})
}

var errTooMany = errors.New("it holds too many names")

// list returns the names in d.
func list(d *place) ([]string, error) {
	fd, err := unix.Openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), d.path)
	defer f.Close()
	limit := MaxEntries
	if d.trail.owner != 0 {
		limit = MaxUserEntries
	}
	names, err := f.Readdirnames(limit + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(names) > limit {
		return nil, fmt.Errorf("%w: more than %d", errTooMany, limit)
	}
	slices.Sort(names)
	return names, nil
}

// pattern looks at a glob:// source.
func (s *scanner) pattern(i int, src source) {
	d := s.open(i, src.fixed, false)
	if d == nil {
		return
	}
	d.close()
	s.match(i, src, src.fixed, nil)
}

// match looks for what the pattern's components after those found fit, in dir.
func (s *scanner) match(i int, src source, dir string, found []string) {
	part := src.parts[len(found)]
	last := len(found) == len(src.parts)-1
	if !last && !wild(part) {
		s.match(i, src, path.Join(dir, part), append(slices.Clone(found), part))
		return
	}
	var d *place
	defer func() {
		if d != nil {
			d.close()
		}
	}()
	var names []string
	var kind uint32
	var err error
	s.io(func() {
		if d, err = s.m.walker.dir(dir); err == nil {
			if kind = fileSystem(d.fd); wild(part) {
				names, err = list(d)
			} else { // a home may hold any number of files
				names, err = lookFor(d, part)
			}
		}
	})
	if d == nil && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)) {
		return
	}
	if err != nil {
		s.matchAlarm(i, dir, found, err)
		return
	}
	if s.m.dirs[dir] == nil {
		s.m.dirs[dir] = &dirState{}
	}
	s.m.dirs[dir].read, s.m.dirs[dir].kind = true, kind
	for _, n := range names {
		if ok, _ := path.Match(part, n); !ok || strings.HasPrefix(n, ".") && !strings.HasPrefix(part, ".") {
			continue
		}
		f := append(slices.Clone(found), n)
		p := path.Join(dir, n)
		if last {
			raw := ""
			if e := s.m.entries[p]; e != nil && e.raw != "" && e.source == i {
				raw = e.raw // which the path alone decides
			} else {
				raw = globName(src.parts, f)
			}
			s.name(i, d, n, p, raw)
			continue
		}
		deeper := func() {
			switch is, err := s.isDir(d, n); {
			case err != nil:
				s.matchAlarm(i, p, f, err)
			case is:
				s.match(i, src, p, f)
			}
		}
		if s.apart == nil {
			s.inApart(i, p, deeper)
		} else {
			deeper()
		}
	}
}

// lookFor is list for one name, which need not be there.
func lookFor(d *place, name string) ([]string, error) {
	var st unix.Stat_t
	switch err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case errors.Is(err, unix.ENOENT):
		return nil, nil
	case err != nil:
		return nil, os.NewSyscallError("fstatat", err)
	}
	return []string{name}, nil
}

// isDir reports whether name in d is a directory: a tenant's link is not
// followed to look for files. The error is of a file system that has no answer: what
// is there stays as it was. One that does not let root in is its user's own (FUSE).
func (s *scanner) isDir(d *place, name string) (yes bool, err error) {
	s.io(func() {
		var fd int
		var st unix.Stat_t
		if fd, st, err = child(d, name); err == nil {
			unix.Close(fd)
			yes = st.Mode&unix.S_IFMT == unix.S_IFDIR
		}
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) {
		err = nil
	}
	return yes, err
}

// matchAlarm is the alarm for a directory of a pattern, of which found is what
// the wildcards stand for.
func (s *scanner) matchAlarm(i int, dir string, found []string, err error) {
	if len(found) > 0 {
		s.usersAlarm(i, dir, err)
		return
	}
	s.alarm(i, dir, reason(err), "")
}

// name looks at one name of a directory.
func (s *scanner) name(i int, d *place, n, p, raw string) {
	switch kindOf(n) {
	case ignored:
		return
	case foreign:
		s.skipped = append(s.skipped, vassal.Problem{Severity: vassal.Warning, Code: vassal.CodeNotSupported, File: clean(p),
			Message: "is not read: " + filepath.Ext(n) + " is not supported", Hint: "write ini"})
		return
	}
	e := s.m.entries[p]
	if e == nil {
		e = &entry{}
		s.m.entries[p], s.m.changed = e, true
	}
	if e.seen {
		return // two sources find it
	}
	if s.untouched(e, d, n) {
		s.met(e, i, raw)
		return
	}
	f, gone := found{fd: -1}, false
	defer func() { f.close() }()
	s.m.looks++
	s.io(func() { f, gone = s.m.walker.look(d, n, p, s.m.tyrant) })
	if gone {
		return
	}
	s.met(e, i, raw)
	e.missing, e.trail = time.Time{}, d.trail
	s.consider(e, p, f)
}

// met notes that source i has e.
func (s *scanner) met(e *entry, i int, raw string) {
	e.seen, e.source = true, i
	if e.raw != raw {
		e.raw, s.m.changed = raw, true
	}
}

// untouched reports whether name in the directory d is the file that was read
// and counts, as it was then. One system call says so, and nothing is opened:
// most files are, at most times. What was judged by more than the file's state
// is looked at anew: a link, a file that a group can write, one with a problem.
func (s *scanner) untouched(e *entry, d *place, name string) bool {
	if !e.taken || e.file.Problem != nil || !e.missing.IsZero() || e.sig.linkTarget != "" || e.trail != d.trail || e.sig.mode&0o022 != 0 {
		return false
	}
	var st unix.Stat_t
	var err error
	s.io(func() { err = unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return err == nil && signatureOf(&st) == e.sig && s.settled(e)
}

// settled reports whether the times of the file that counts can be believed: it
// was the same for a while, and not changed a moment ago.
func (s *scanner) settled(e *entry) bool {
	return e.taken && e.file.Problem == nil && s.now.Sub(e.since) > racyWindow && !e.sig.young(s.now)
}

// consider decides whether what is at p now counts.
func (s *scanner) consider(e *entry, p string, f found) {
	if f.sig != e.sig || e.since.IsZero() {
		e.sig, e.since, e.taken = f.sig, s.now, false
		if e.restive.IsZero() {
			e.restive = s.now
		}
	}
	e.closed = f.closed
	if f.prob != nil {
		if s.rested(e) {
			s.take(e, p, nil, f.prob)
		}
		return
	}
	if e.taken && e.file.Problem == nil && e.file.Hidden != e.closed {
		file := e.file
		file.Hidden = e.closed
		s.m.keep(e, file)
	}
	if s.settled(e) {
		return // the same as when it was read
	}
	if s.tooMuch(e, f.sig) {
		if s.rested(e) {
			s.take(e, p, nil, problem(p, vassal.CodeTooBig, fmt.Sprintf("the files of %s hold more than %d bytes altogether", userName(f.sig.uid), MaxUserText), ""))
		}
		return
	}
	var c content
	var err error
	s.io(func() { c, err = read(f.fd, f.sig) })
	if err != nil {
		if s.rested(e) {
			s.take(e, p, nil, problem(p, vassal.CodeUnreadable, reason(err), ""))
		}
		return
	}
	if e.born = c.born; e.taken && c.calm && e.file.Stamp == f.sig.stamp(c.text, s.m.touch) {
		return
	}
	if s.ready(e, c.calm, len(c.text) == 0) {
		s.take(e, p, c.text, nil)
	}
}

// tooMuch reports whether a user's file would make what is kept of all files of
// that user more than MaxUserText.
func (s *scanner) tooMuch(e *entry, sig signature) bool {
	if sig.uid == 0 {
		return false
	}
	others := s.m.kept[int(sig.uid)]
	if e.file.Trust.UID == int(sig.uid) {
		others -= len(e.file.Text)
	}
	return int64(others)+sig.size > MaxUserText
}

// keep has f count for e, and its text for the user whose file it is.
func (m *Monitor) keep(e *entry, f emperor.File) {
	m.charge(e.file.Trust.UID, -len(e.file.Text))
	m.charge(f.Trust.UID, len(f.Text))
	e.file, m.changed = f, true
}

func (m *Monitor) charge(uid, n int) {
	if m.kept[uid] += n; m.kept[uid] == 0 {
		delete(m.kept, uid)
	}
}

// ready reports whether the file is at rest, or has been restive for so long
// that it is taken as it is.
func (s *scanner) ready(e *entry, calm, empty bool) bool {
	unrest := s.now.Sub(e.restive)
	switch {
	case !calm && unrest < MaxWriting:
		s.wake(Settle)
		return false
	case empty && unrest < MaxUnrest && s.settling(e, MaxUnrest):
		return false
	}
	return s.rested(e)
}

// rested reports whether the state of e is old enough to count.
func (s *scanner) rested(e *entry) bool {
	return s.asked || s.now.Sub(e.restive) >= MaxUnrest || !s.settling(e, Settle)
}

// settling reports whether e changed less than d ago, and has the next scan
// come when it has not.
func (s *scanner) settling(e *entry, d time.Duration) bool {
	if s.first && (d <= Settle || !e.sig.young(s.now)) {
		return false // it lay there before we came: an earlier Emperor may have run it
	}
	if age := s.now.Sub(e.since); age < d {
		s.wake(d - age)
		return true
	}
	return false
}

func (s *scanner) wake(d time.Duration) { s.again = min(s.again, max(d, time.Millisecond)) }

// take makes what is at p now count.
func (s *scanner) take(e *entry, p string, text []byte, prob *vassal.Problem) {
	e.taken, e.restive = true, time.Time{}
	e.counts = true
	file := emperor.File{Path: p, Text: text, Device: e.sig.dev, Inode: e.sig.ino, Born: e.born, Problem: prob, Mode: fs.FileMode(e.sig.mode & 0o7777), Hidden: e.closed,
		Trust: vassal.Trust{Operator: e.sig.uid == 0, UID: int(e.sig.uid), GID: int(e.sig.gid)},
		Stamp: e.sig.stamp(text, s.m.touch)}
	if prob != nil { // nothing of it is believed
		file.Trust = vassal.Trust{UID: int(e.sig.uid), GID: int(e.sig.gid)}
		file.Stamp = "problem " + prob.Code
	}
	s.m.keep(e, file)
}
