// Package dirmon finds vassal files in directories and by patterns, and says
// when one has changed. It is an emperor.Monitor.
//
//	m, err := dirmon.New(dirmon.Options{Sources: []string{"/etc/vassals", "glob:///srv/*/uwsgi.ini"}, Touch: true})
//	go m.Watch(ctx, snapshots)
//
// The truth is a scan, made at least every Period: it works on every file
// system and whatever happens to inotify. fsnotify is a hint to make the next
// scan sooner, nothing else.
//
// A scan opens each file once, without following what a tenant could have put
// in the way, and judges the open file (open.go; CONTRACT 1, KERNEL 27). From
// then on a file is bytes. No message about a file quotes it.
//
// A file that is being written is not looked at until it is at rest: unchanged
// for Settle, not empty, and open for writing by nobody; until then its last
// state counts. A file that has gone counts until it was away for as long, so
// that an editor that deletes and writes anew is one change.
//
// A directory that cannot be used any more (gone, given away, open to
// everybody) takes nothing down: its files stay as they were, and every
// Snapshot says what is wrong with it. So it is with one below a wildcard whose
// file system does not answer, which holds up nobody else (apart.go).
package dirmon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"liege/emperor"
	"liege/vassal"
	"liege/vassal/regular"
)

// Times and limits.
const (
	Period         = 3 * time.Second        // between scans when nothing hints (CONTRACT 23)
	Settle         = 200 * time.Millisecond // changes within count once (CONTRACT 2)
	MaxUnrest      = 2 * time.Second        // a file that changes all the time is taken then, or
	MaxWriting     = 10 * time.Second       // then, if somebody keeps it open for writing
	MaxFile        = 1 << 20                // bytes
	MaxEntries     = 65536                  // names in one directory
	MaxUserEntries = 1024                   // names in one directory of a user's, or below one
	MaxUserText    = 8 << 20                // bytes of all files of one user, which are kept in memory
	MaxWatches     = 1024                   // directories that inotify is asked about
	minGap         = 50 * time.Millisecond  // between scans
	scanShare      = 4                      // a scan that took t is not repeated before 4·t
	idleShare      = 10000                  // nor before 10000·t without a hint, where every change is hinted at
	maxIdle        = time.Minute            // which is no longer than this
	racyWindow     = 2 * time.Second        // a file's times cannot be believed while they are that young
	maxLinkHops    = 40
)

// Options say what to watch.
type Options struct {
	// Sources are directories, as "dir://PATH" or PATH, and patterns, as
	// "glob://PATTERN" or any PATTERN with one of *?[ in it. A relative one is
	// relative to the working directory.
	Sources []string
	// Touch makes a file's mtime count, not only its bytes ([emperor] touch).
	Touch bool
	// Tyrant refuses operator's files too (emperor-tyrant).
	Tyrant bool
	// Primary returns the primary group of a user; nil asks /etc/passwd.
	Primary func(uid int) (gid int, ok bool)
	// Period is how soon a change is seen that the file system does not announce
	// ([emperor] rescan); 0: Period, the constant.
	Period time.Duration
	// Claims are the names that files had when an earlier Emperor ended, in any case:
	// the path of each. Who had a name keeps it.
	Claims map[vassal.Name]string
	// Root is the directory below which all paths are; empty: /.
	Root string
	Log  *slog.Logger
}

// Monitor watches vassal files. Its fields belong to the goroutine in Watch.
type Monitor struct {
	sources []source
	touch   bool
	tyrant  bool
	walker  walker
	log     *slog.Logger
	asks    chan ask

	dirs    map[string]*dirState // by path, of dir sources and fixed parts of patterns
	entries map[string]*entry    // by path
	kept    map[int]int          // bytes of the texts of each user's files
	claims  map[string]string    // lower-case name → path that has it
	hints   *fsnotify.Watcher    // nil: inotify is not to be had
	deaf    bool                 // inotify is not wanted
	period  time.Duration        // Options.Period
	watched map[string]bool
	sent    *emperor.Snapshot
	built   *built // the Snapshot of the last scan
	changed bool   // an entry did, since that was built
	looks   int    // so far: files that were opened and judged

	turn     sync.Mutex        // who owns all of this: apart.go
	stuck    map[string]*apart // directories below a wildcard that do not answer
	patience time.Duration     // Overdue
	quit     <-chan struct{}   // of Watch
}

// ask is a wish for a scan now.
type ask struct{ done chan struct{} }

// New returns a Monitor, or an error about a source that makes no sense.
func New(o Options) (*Monitor, error) {
	m := &Monitor{
		touch: o.Touch, tyrant: o.Tyrant, log: o.Log,
		walker:  walker{root: o.Root, primary: o.Primary},
		asks:    make(chan ask),
		period:  cmp.Or(o.Period, Period),
		dirs:    map[string]*dirState{},
		entries: map[string]*entry{},
		kept:    map[int]int{},
		claims:  claimed(o.Claims),
		watched: map[string]bool{},

		stuck: map[string]*apart{}, patience: Overdue,
	}
	if m.walker.root == "" {
		m.walker.root = "/"
	}
	if m.walker.primary == nil {
		m.walker.primary = primaryGroup
	}
	for _, s := range o.Sources {
		src, err := parseSource(s, m.walker.root)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(m.sources, func(x source) bool { return x.path == src.path }) {
			m.sources = append(m.sources, src)
		}
	}
	if len(m.sources) == 0 {
		return nil, errors.New("no vassals directory is named")
	}
	return m, nil
}

// Rescan implements emperor.Monitor. What is at rest at this moment is in the
// Snapshot, without waiting for Settle; what has gone is gone after Settle even
// so, or a command would take down what an editor is about to write anew.
func (m *Monitor) Rescan(ctx context.Context) error {
	a := ask{make(chan struct{})}
	select {
	case m.asks <- a:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-a.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Watch implements emperor.Monitor. It returns only when ctx is done.
func (m *Monitor) Watch(ctx context.Context, out chan<- emperor.Snapshot) error {
	m.quit = ctx.Done()
	hints, stop := m.openHints()
	defer stop()
	var asked []ask
	for {
		began := time.Now()
		snap, again := m.scan(began, len(asked) > 0)
		if m.watchDirs() { // what happened there before was not hinted at
			again = 0
		}
		if m.sent == nil || len(asked) > 0 || !equal(*m.sent, snap) {
			select {
			case out <- snap:
				m.sent = &snap
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		for _, a := range asked {
			close(a.done)
		}
		took := time.Since(began)
		gap := max(minGap, scanShare*took)
		if again == m.period && m.announced() { // nothing is expected
			again = max(again, min(idleShare*took, maxIdle))
		}
		next := max(again, gap)
		var err error
		if asked, err = m.rest(ctx, hints, next, gap); err != nil {
			return err
		}
	}
}

// rest waits until the next scan: next from now, or gap after the first hint,
// or at once when asked.
func (m *Monitor) rest(ctx context.Context, hints <-chan struct{}, next, gap time.Duration) ([]ask, error) {
	timer := time.NewTimer(next)
	defer timer.Stop()
	began, hinted := time.Now(), false
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case a := <-m.asks:
			return []ask{a}, nil
		case <-timer.C:
			return nil, nil
		case <-hints:
			if !hinted {
				hinted = true
				timer.Reset(min(gap, max(next-time.Since(began), 0)))
			}
		}
	}
}

// openHints opens inotify. Without it the scans are enough.
func (m *Monitor) openHints() (hints <-chan struct{}, stop func()) {
	if m.deaf {
		return nil, func() {}
	}
	w, err := fsnotify.NewBufferedWatcher(64)
	if err != nil {
		m.log.Warn("no inotify: changes are seen by scans alone", "period", m.period, "err", err)
		return nil, func() {}
	}
	m.hints = w
	out := make(chan struct{}, 1) // a token: there was something
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case _, ok := <-w.Events:
				if !ok {
					return
				}
			case _, ok := <-w.Errors: // an overflow is a hint too
				if !ok {
					return
				}
			}
			select {
			case out <- struct{}{}:
			default:
			}
		}
	}()
	return out, func() {
		if m.hints == nil { // given up: it would not close
			return
		}
		if err := w.Close(); err != nil {
			m.log.Debug("inotify", "err", err)
		}
		<-done
		m.hints = nil
	}
}

// watchDirs asks inotify about the directories that the last scan read, and
// reports whether there are new ones among them.
func (m *Monitor) watchDirs() (added bool) {
	if m.hints == nil {
		return false
	}
	for d, st := range m.dirs {
		switch {
		case m.hints == nil:
			return added
		case m.watched[d] && !st.read:
			delete(m.watched, d)
			if err := m.hints.Remove(filepath.Join(m.walker.root, d)); err != nil && !errors.Is(err, fsnotify.ErrNonExistentWatch) {
				m.log.Debug("inotify", "dir", d, "err", err)
			}
		case !m.watched[d] && st.read && len(m.watched) < MaxWatches && !st.unwatchable:
			err := errServed
			if !served(st.kind) {
				err = m.hear(filepath.Join(m.walker.root, d))
			}
			if err != nil {
				st.unwatchable = true
				m.log.Info("inotify does not watch: changes are seen by scans", "dir", d, "period", m.period, "err", err)
				continue
			}
			m.watched[d], added = true, true
		case !st.read && !st.known:
			delete(m.dirs, d)
		}
	}
	return added
}

// announced reports whether the kernel tells of every change: all directories
// are watched and on file systems of this host's, and no file is a link, whose
// target may lie anywhere. Then ten thousand files need not be looked at every
// few seconds.
func (m *Monitor) announced() bool {
	if m.hints == nil {
		return false
	}
	for d, st := range m.dirs {
		if st.read && (!m.watched[d] || !local(st.kind)) {
			return false
		}
	}
	for _, e := range m.entries {
		if e.sig.linkTarget != "" {
			return false
		}
	}
	return true
}

// equal reports whether two Snapshots say the same, in all that they say: who
// takes them compares more than a Stamp (a mode decides who may read about a file).
func equal(a, b emperor.Snapshot) bool {
	if len(a.Files) > 0 && len(a.Files) == len(b.Files) && &a.Files[0] == &b.Files[0] {
		return true // they are the same one
	}
	return reflect.DeepEqual(a, b)
}

// problem is an Error about a file.
func problem(path, code, message, hint string) *vassal.Problem {
	return &vassal.Problem{Severity: vassal.Error, Code: code, File: clean(path), Step: "open", Message: message, Hint: hint}
}

// reason is err in words for the person who can act.
func reason(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "does not exist"
	case errors.Is(err, fs.ErrPermission):
		return "may not be read"
	case errors.Is(err, unix.ENOTDIR):
		return "is not a directory"
	case errors.Is(err, unix.ELOOP):
		return "is a loop of symbolic links"
	case errors.Is(err, regular.ErrKernel):
		return regular.ErrKernel.Error()
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return "cannot be opened: out of file descriptors"
	}
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fmt.Sprintf("cannot be read: %v", err)
}

var _ emperor.Monitor = (*Monitor)(nil)

// sortedKeys is for loops whose order must not depend on the map.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
