package exchange

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// MaxWaiting bounds the requests that wait for one of a handler's Places.
const MaxWaiting = 1024

// ErrBusy is within the error of a request that found all Places taken and too
// many waiting.
var ErrBusy = errors.New("all are busy")

// Places are the numbered places at which a handler serves requests: as many
// at once as there are places, and no more than MaxWaiting wait for one.
type Places struct {
	free    chan int
	waiting atomic.Int64
}

// NewPlaces returns n free places, numbered from 0.
func NewPlaces(n int) *Places {
	p := &Places{free: make(chan int, n)}
	for i := range n {
		p.free <- i
	}
	return p
}

// Take waits for a place and returns its number; Give gives it back. An error
// is that of ctx, or a StatusError 503 with ErrBusy when too many wait.
func (p *Places) Take(ctx context.Context) (int, error) {
	select {
	case i := <-p.free:
		return i, nil
	default:
	}
	defer p.waiting.Add(-1)
	if n := p.waiting.Add(1); n > MaxWaiting {
		return 0, &StatusError{Status: 503, RetryAfter: time.Second, Err: fmt.Errorf("%w and %d requests wait", ErrBusy, n-1)}
	}
	select {
	case i := <-p.free:
		return i, nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// Give makes the place i free, which Take returned.
func (p *Places) Give(i int) { p.free <- i }

// Waiting is how many requests wait for a place.
func (p *Places) Waiting() int { return int(max(p.waiting.Load(), 0)) }
