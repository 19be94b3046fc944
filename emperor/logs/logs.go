// Package logs carries what a vassal prints into its log file (CONTRACT 11,
// KERNEL 25).
//
// stdout and stderr of a vassal are one FIFO in the Emperor's run directory,
// owned by the vassal's user so that /dev/stdout can be opened inside. The
// vassal has it open for reading too, so it never meets a FIFO without a
// reader, not even while the Emperor is dead. One goroutine per vassal moves
// lines from the FIFO to NAME.log, a file that the vassal never touches:
//
//	l, err := logs.Open(settings, "shop", fifo)
//	go l.Run()                       // until Close
//	w, err := l.Writer(uid, gid, "") // for a generation: its stdout and stderr
//	l.Note("network: none")          // Liege's own lines
//	l.Settle(); l.Tail(20)           // what it said before it died
//	l.Close()
//
// Nothing that a vassal prints stops anybody else or fills the disk: more than
// Rate bytes a second are dropped and counted, a flood is read slowly so that
// its author waits, long lines are split, files are rotated at MaxSize, and
// what a full disk refuses is dropped. What was dropped is said in the log, in
// sums, at most once each sayEvery; Trouble says that the disk is full while it is.
package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"liege/selinux"
	"liege/vassal"
)

// Defaults and bounds.
const (
	DefaultMaxSize = 10 << 20               // bytes of one file
	DefaultKeep    = 5                      // rotated files, compressed
	Rate           = 1 << 20                // bytes a second that are kept
	MaxLine        = 16 << 10               // bytes; a longer line is split
	TailLines      = 64                     // kept in memory
	KeepFor        = 7 * 24 * time.Hour     // the log of a vassal that is gone
	flushAfter     = 300 * time.Millisecond // a line without its end is written then
	sayEvery       = time.Second            // what was dropped is said no more often
	warnEvery      = time.Minute            // and in the Emperor's log that a file cannot be written
	chunk          = 64 << 10
	flood          = 8 * Rate // bytes a second that are read of a vassal over its rate
)

// Settings are the same for every vassal of an Emperor.
type Settings struct {
	Dir     string // root's, 0755
	MaxSize int64  // 0: DefaultMaxSize
	Keep    int    // 0: DefaultKeep
	// Tee, if not nil, gets each line too, without its end and without
	// control characters. It is called by every vassal's goroutine.
	Tee func(name vassal.Name, line string)
	// Log, if not nil, is told that a file of Dir cannot be written, and that it
	// can be again: once, not for each line.
	Log *slog.Logger
}

// Log is one vassal's log.
type Log struct {
	set  Settings
	name vassal.Name
	fifo string
	in   *os.File
	done chan struct{}

	mu        sync.Mutex // the lines come from Run, the notes from anybody
	gid       int
	out       *os.File
	size      int64
	torn      bool   // the last line in out has no end: there was room for half of it
	elsewhere *aside // logto: where the vassal's own lines go instead
	tail      []string
	lost      lost
	said      time.Time // when that was last said
	trouble   error     // why the file cannot be written; nil: it can
	warned    time.Time // when the Emperor's log was last told
	told      bool      // it knows that the file cannot be written
	bucket    bucket
	partial   []byte
}

// lost counts what was dropped since the last line that says so.
type lost struct {
	lines, bytes int64
	why          string
}

// Open opens the log of the vassal name and its FIFO, which it makes.
func Open(set Settings, name vassal.Name, fifo string) (*Log, error) {
	if set.MaxSize == 0 {
		set.MaxSize = DefaultMaxSize
	}
	if set.Keep == 0 {
		set.Keep = DefaultKeep
	}
	l := &Log{set: set, name: name, fifo: fifo, gid: -1, done: make(chan struct{}), bucket: bucket{rate: Rate, burst: Rate}}
	if err := makeFIFO(fifo); err != nil {
		return nil, fmt.Errorf("log of %s: %w", name, err)
	}
	var err error
	if l.in, err = os.OpenFile(fifo, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0); err != nil {
		return nil, fmt.Errorf("log of %s: %w", name, err)
	}
	if err := l.open(); err != nil {
		l.in.Close()
		return nil, fmt.Errorf("log of %s: %w", name, err)
	}
	return l, nil
}

// makeFIFO makes the FIFO, or keeps one that an earlier Emperor left: a
// survivor may be writing to it.
func makeFIFO(path string) error {
	err := unix.Mkfifo(path, 0o600)
	if err == nil || !errors.Is(err, unix.EEXIST) {
		return err
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if fi.Mode()&fs.ModeNamedPipe == 0 {
		return fmt.Errorf("%s is not a FIFO", path)
	}
	return nil
}

// Path is the log file.
func (l *Log) Path() string { return PathOf(l.set.Dir, l.name) }

// PathOf is the log file of the vassal name in dir.
func PathOf(dir string, name vassal.Name) string { return filepath.Join(dir, string(name)+".log") }

// Writer opens the FIFO for a generation that runs as uid and gid, and whose
// SELinux domain uses FIFOs of context (empty: it stays what it is). It is open
// for reading too (see above), and blocking. The caller closes it.
func (l *Log) Writer(uid, gid int, context string) (*os.File, error) {
	if err := os.Chown(l.fifo, uid, gid); err != nil {
		return nil, err
	}
	if err := selinux.Relabel(l.fifo, context); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if gid != l.gid {
		if err := l.handOver(gid); err != nil {
			return nil, err
		}
	}
	return l.Feed()
}

// Feed opens the FIFO for what is not the vassal but speaks about it. It stays
// its owner's. The caller closes it.
func (l *Log) Feed() (*os.File, error) {
	fd, err := unix.Open(l.fifo, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), l.fifo), nil
}

// Whole reports whether the FIFO still is where it was made.
func (l *Log) Whole() bool {
	fi, err := os.Lstat(l.fifo)
	if err != nil {
		return false
	}
	own, err := l.in.Stat()
	return err == nil && os.SameFile(fi, own)
}

// Elsewhere sends the vassal's own lines to w, which the Log owns from then
// on, instead of its file; nil: to its file again. hangs, if not nil, is told of a
// write that hangs when w is given up, until done is closed: a thread of this process.
func (l *Log) Elsewhere(w io.WriteCloser, hangs func(done <-chan struct{})) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.elsewhere != nil {
		l.elsewhere.close()
		l.elsewhere = nil
	}
	if w != nil {
		l.elsewhere = newAside(w, hangs)
	}
}

// Run moves lines until Close.
func (l *Log) Run() {
	defer close(l.done)
	for {
		n, fast, err := l.read()
		if fast {
			time.Sleep(time.Duration(n) * time.Second / flood) // its author waits meanwhile
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			l.flush(time.Now())
			var next time.Time
			if l.unfinished() { // it is said later, or tried again
				next = time.Now().Add(sayEvery)
			}
			err = l.in.SetReadDeadline(next)
		case err == nil && l.unfinished():
			err = l.in.SetReadDeadline(time.Now().Add(flushAfter))
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			l.flush(time.Now().Add(sayEvery)) // now or never
			return
		}
	}
}

// chunks are the buffers: a log has one only while there is something to take.
var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// read waits for bytes from the vassal and takes them, under one lock: whoever
// holds it sees them in the FIFO or in the log, never between the two.
func (l *Log) read() (n int, fast bool, err error) {
	c, err := l.in.SyscallConn()
	if err != nil {
		return 0, false, err
	}
	var failed error
	err = c.Read(func(fd uintptr) (done bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		buf := chunks.Get().(*[chunk]byte)
		defer chunks.Put(buf)
		n, failed = unix.Read(int(fd), buf[:])
		if n <= 0 {
			n = 0
			return !errors.Is(failed, unix.EAGAIN)
		}
		fast = l.lines(buf[:n], time.Now())
		return true
	})
	if err == nil {
		err = failed
	}
	return n, fast, err
}

func (l *Log) unfinished() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.partial) > 0 || l.lost.lines > 0
}

// settled reports whether nothing is on its way, from the FIFO to the file.
func (l *Log) settled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := unix.IoctlGetInt(int(l.fd()), unix.TIOCINQ)
	return err != nil || n == 0 && len(l.partial) == 0 && l.lost.lines == 0 &&
		(l.elsewhere == nil || l.elsewhere.busy.Load() == 0)
}

// lines takes bytes from the vassal, with l.mu held; it reports whether they
// came too fast.
func (l *Log) lines(b []byte, now time.Time) (fast bool) {
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		part := b
		if i >= 0 {
			part = b[:i]
		}
		room := MaxLine - len(l.partial)
		if len(part) > room {
			l.partial = append(l.partial, part[:room]...)
			b = b[room:]
			l.line(now)
			continue
		}
		l.partial = append(l.partial, part...)
		if i < 0 {
			break
		}
		b = b[i+1:]
		l.line(now)
	}
	return l.lost.lines > 0
}

// flush ends a line that has no end yet, and says what was lost.
func (l *Log) flush(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.partial) > 0 {
		l.line(now)
	}
	l.sayLost(now)
}

// line takes l.partial as one line of the vassal's.
func (l *Log) line(now time.Time) {
	s := append(l.partial, '\n')
	l.partial = l.partial[:0]
	l.remember(s)
	if !l.bucket.take(len(s), now) {
		l.lose(len(s), fmt.Sprintf("more than %d bytes a second", Rate))
		return
	}
	l.sayLost(now)
	if l.elsewhere != nil {
		if why := l.elsewhere.write(s); why != "" {
			l.lose(len(s), why)
		}
		return
	}
	l.write(s)
}

func (l *Log) lose(n int, why string) {
	l.lost.lines++
	l.lost.bytes += int64(n)
	l.lost.why = why
}

// sayLost writes what was dropped since it last did, whatever the rate: a flood
// that goes on would leave no room for it.
func (l *Log) sayLost(now time.Time) {
	if l.lost.lines == 0 || now.Sub(l.said) < sayEvery {
		return
	}
	s := fmt.Appendf(nil, "liege: %d lines of %d bytes were dropped: %s\n", l.lost.lines, l.lost.bytes, l.lost.why)
	if was := l.lost; l.write(s) {
		l.lost, l.said = lost{}, now
	} else {
		l.lost = was // the disk is still full
	}
}

// Trouble says why lines are lost at this moment: the file that they go to cannot
// be written. Nil: it can, or nobody has tried. A nil Log has none.
func (l *Log) Trouble() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.elsewhere != nil {
		if why := l.elsewhere.bad.Load(); why != nil {
			return fmt.Errorf("the file that logto names: %s", *why)
		}
	}
	return l.trouble
}

// written notes, with l.mu held, whether the file could be written; err: why not.
func (l *Log) written(err error) {
	if l.trouble = err; err != nil {
		l.trouble = fmt.Errorf("%s: %w", l.Path(), err)
	}
	if l.set.Log == nil || l.told == (err != nil) {
		return
	}
	switch now := time.Now(); {
	case err == nil:
		l.told = false
		l.set.Log.Info("the log of a vassal is written again", "vassal", l.name)
	case now.Sub(l.warned) >= warnEvery: // a disk that is full on and off is no flood
		l.told, l.warned = true, now
		l.set.Log.Error("the log of a vassal cannot be written: its lines are lost", "vassal", l.name, "err", l.trouble)
	}
}

// Note writes a line of Liege's own. A nil Log, which could not be opened, drops
// it.
func (l *Log) Note(format string, a ...any) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := "liege: " + Clean(strings.ReplaceAll(fmt.Sprintf(format, a...), "\n", " "))
	if l.set.Tee != nil {
		l.set.Tee(l.name, s)
	}
	l.write([]byte(s + "\n"))
}

// remember keeps a line for Tail, and shows it.
func (l *Log) remember(s []byte) {
	text := Clean(string(s[:min(len(s)-1, 1<<10)]))
	if len(l.tail) == TailLines {
		copy(l.tail, l.tail[1:])
		l.tail = l.tail[:TailLines-1]
	}
	l.tail = append(l.tail, text)
	if l.set.Tee != nil {
		l.set.Tee(l.name, text)
	}
}

// Clean replaces what a terminal might act on.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && (r < ' ' || r >= 0x7f && r < 0xa0) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// Tail returns the vassal's last lines, at most n.
func (l *Log) Tail(n int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.tail[max(0, len(l.tail)-n):]...)
}

// Forget empties what Tail returns: a new generation starts.
func (l *Log) Forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = nil
}

// Settle waits until what was printed before has been moved, but not for long.
func (l *Log) Settle() {
	for range 50 {
		if l.settled() {
			return
		}
		time.Sleep(2 * flushAfter / 50)
	}
}

func (l *Log) fd() (fd uintptr) {
	c, err := l.in.SyscallConn()
	if err != nil {
		return ^uintptr(0)
	}
	if c.Control(func(f uintptr) { fd = f }) != nil {
		return ^uintptr(0)
	}
	return fd
}

// Close ends Run, waits for it, and removes the FIFO. The log file stays.
func (l *Log) Close() error {
	err := l.in.Close()
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out != nil {
		err = errors.Join(err, l.out.Close())
		l.out = nil
	}
	if l.elsewhere != nil {
		l.elsewhere.close()
		l.elsewhere = nil
	}
	if rm := os.Remove(l.fifo); !errors.Is(rm, fs.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return err
}
