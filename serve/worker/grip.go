package worker

import (
	"fmt"
	"io"
	"sync"
	"time"

	"liege/serve/exchange"
)

// grip is how the supervisor ends a call whose mu is held for a client. Its
// own lock is never held for long.
type grip struct {
	mu    sync.Mutex
	id    uint64
	cause *exchange.StatusError // why the worker is killed
	ends  [3]any                // by direction: an io.Closer ends what is pending
}

// Directions in which bytes move.
const (
	reading = 1 // from the client
	writing = 2 // to the client
)

func (g *grip) set(id uint64, body, response any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.id, g.cause, g.ends = id, nil, [3]any{reading: body, writing: response}
}

// why is the cause noted for call id, or nil.
func (g *grip) why(id uint64) *exchange.StatusError {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.id != id {
		return nil
	}
	return g.cause
}

// condemn notes why the worker of call id is being killed.
func (c *call) condemn(id uint64, limit time.Duration) {
	g := &c.grip
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.id == id {
		g.cause = &exchange.StatusError{Status: 504, Err: fmt.Errorf("harakiri: the request took longer than %v", limit)}
	}
}

// cut ends what the call id still waits for of its client: the worker is dead,
// and its place is needed.
func (c *call) cut(id uint64) {
	g := &c.grip
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.id != id {
		return
	}
	if e, ok := g.ends[c.moving.Load()].(io.Closer); ok {
		_ = e.Close() // it only ends a wait
	}
	if s := c.spool.Load(); s != nil {
		s.interrupt()
	}
}
