package proxy

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"liege/serve/exchange"
)

// body is the body of a request for whoever sends it on, which may be at it
// longer than the request lives: take ends its reads.
type body struct {
	mu  sync.Mutex // held while the request's body is read
	r   io.Reader  // nil: taken back
	end io.Closer  // ends a read that is pending; may be nil
	err error      // why it could not be read to its end
	eof bool

	to     *conn       // the server that waits for it
	hungry atomic.Bool // the client is waited for
}

var errTaken = errors.New("the request is over")

// newBody is the body of r for the server at the end of to; nil: it has its own time.
func newBody(r *exchange.Request, to *conn) *body {
	b := &body{r: r.Body, to: to}
	if to != nil {
		to.body = b
	}
	b.end, _ = r.Body.(io.Closer)
	return b
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.r == nil {
		return 0, errTaken
	}
	b.hungry.Store(true)
	n, err := b.r.Read(p)
	if b.to != nil {
		b.to.arm() // before hungry is no more: see conn.Read
	}
	b.hungry.Store(false)
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	b.eof = b.eof || errors.Is(err, io.EOF)
	return n, err
}

// failed reports whether the client's part could not be read.
func (b *body) failed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err != nil
}

// ended reports whether the body was read to its end. It does not wait for a
// read that is pending.
func (b *body) ended() bool {
	if !b.mu.TryLock() {
		return false
	}
	defer b.mu.Unlock()
	return b.eof
}

// take takes the request's body back: nobody reads it afterwards. It returns
// what a client did wrong, if that is why the body ended.
func (b *body) take() error {
	if b.to != nil {
		b.to.body = nil
	}
	if !b.mu.TryLock() {
		if b.end != nil {
			_ = b.end.Close() // ends the read that holds the lock
		}
		b.mu.Lock()
	} else if b.err != nil {
		defer b.mu.Unlock()
		b.r = nil
		return b.err
	}
	defer b.mu.Unlock()
	b.r = nil
	return nil
}
