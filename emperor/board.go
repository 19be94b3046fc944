package emperor

import (
	"sync"
	"time"
)

// A board holds the latest value of something and tells who waits for the
// next. Values are not modified once put.
type board[T any] struct {
	mu   sync.Mutex
	val  T
	next chan struct{} // nil: nobody waits
}

func newBoard[T any](v T) *board[T] { return &board[T]{val: v} }

func (b *board[T]) value() T {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.val
}

// get returns the value and a channel that is closed when there is another.
func (b *board[T]) get() (T, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == nil {
		b.next = make(chan struct{})
	}
	return b.val, b.next
}

func (b *board[T]) put(v T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.val = v; b.next != nil {
		close(b.next)
		b.next = nil
	}
}

// intent is what is wanted of a vassal as a whole. It survives the Emperor.
type intent string

const (
	wantRun     intent = "run"
	wantStop    intent = "stop"
	wantSuspend intent = "suspend"
)

// wish is all that is wanted of one vassal. The actor compares it with what it
// has done; nothing is lost by not seeing one that has been replaced. Whoever is
// given one does not modify it.
type wish struct {
	turn    uint64 // counts changes
	file    File
	fileAt  time.Time // when file last changed
	fileT   uint64    // and the turn of that
	gone    bool      // the file is
	forget  bool      // with gone: the name is another user's by now
	heir    *actor    // with gone: the vassal that the file is now called
	intent  intent
	by      string // who stopped it, also when it is suspended since; empty: nobody
	hold    *hold  // with wantSuspend
	force   uint64 // turn of the last wish for a generation though nothing changed
	fresh   uint64 // turn of the last wish that the old one ends first
	control uint64 // turn of the last wish that somebody waits for
	demand  uint64 // turn of the last wish that it does not sleep: a connection, a start
}

// box is where wishes are left. Any goroutine may leave one.
type box struct {
	mu   sync.Mutex
	w    *wish
	bell chan struct{} // capacity 1: the wish has changed

	again func() // not nil: the actor is parked, and this brings it back
}

func newBox(w wish) *box { return &box{w: &w, bell: make(chan struct{}, 1)} }

// change changes the wish and returns its turn.
func (b *box) change(f func(*wish)) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := *b.w
	w.turn++
	f(&w)
	b.w = &w
	b.ringLocked()
	return w.turn
}

func (b *box) get() *wish {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.w
}

// ring leaves a token in a channel of capacity 1.
func ring(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
