package front

import (
	"sync"
	"time"
)

// A limit ends an operation of a stream that lasts longer than d: begin is called
// before it, end behind it. A deadline of net/http would end the stream between
// two of them, too, where it is the application that takes its time.
type limit struct {
	d    time.Duration
	over func() // ends the operation

	mu    sync.Mutex
	timer *time.Timer // nil: there was no operation yet
	since time.Time   // of the one that is under way; zero: none is
}

func (l *limit) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since = time.Now()
	if l.timer == nil {
		l.timer = time.AfterFunc(l.d, l.look)
	}
}

func (l *limit) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since = time.Time{}
}

// began is when the operation began that is under way; zero: none is.
func (l *limit) began() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.since
}

// look ends what has lasted too long, and looks again when that may be so.
func (l *limit) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	left := l.d
	if !l.since.IsZero() {
		left -= time.Since(l.since)
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
