package front

import (
	"sync"
	"sync/atomic"
	"time"
)

// A limit ends an operation of a stream that lasts longer than d: begin is called
// before it, end behind it. A deadline of net/http would end the stream between
// two of them, too, where it is the application that takes its time.
type limit struct {
	d    time.Duration
	over func() // ends the operation

	mu    sync.Mutex
	timer *time.Timer  // nil: there was no operation yet
	since atomic.Int64 // of the one that is under way, after epoch; 0: none is
}

var epoch = time.Now()

func (l *limit) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since.Store(max(1, int64(time.Since(epoch))))
	if l.timer == nil {
		l.timer = time.AfterFunc(l.d, l.look)
	}
}

// end reports whether an operation was under way.
func (l *limit) end() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.since.Swap(0) != 0
}

// began is when the operation began that is under way; zero: none is. It waits for
// nobody: over, which net/http may keep waiting, is called with mu held.
func (l *limit) began() time.Time {
	if since := l.since.Load(); since != 0 {
		return epoch.Add(time.Duration(since))
	}
	return time.Time{}
}

// look ends what has lasted too long, and looks again when that may be so.
func (l *limit) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	left := l.d
	if since := l.began(); !since.IsZero() {
		left -= time.Since(since)
	}
	switch {
	case l.timer == nil: // stopped
	case left <= 0:
		l.over()
	default:
		l.timer.Reset(left)
	}
}

// stop is called when no operation follows.
func (l *limit) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}
