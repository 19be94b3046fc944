package worker

import (
	"errors"
	"fmt"
	"io"
	"time"

	"liege/serve/exchange"
	"liege/serve/worker/lang"
)

// The packets of the queue are dicts with these members:
//
//	liege.id      the request's number, 8 bytes little-endian; in every packet
//	liege.large   true: the variables are to be asked for (frame V)
//	liege.rpc     the function to call, with liege.args
//	liege.probe   true: answer with frame P and go on
//	liege.retire  true: finish what the other threads are at, then exit with
//	              dismissedStatus
//
// or else a request's variables, with what the language adds, and for Python
//
//	liege.trailing  true: fields behind the answer's body reach the client

// prepare makes c the call of r, or of a function, and its packet.
func (p *Pool) prepare(c *call, r *exchange.Request, w exchange.Response, seq uint64, f *function, body []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.id = seq<<16 | uint64(c.index)
	c.state, c.r, c.w, c.left = queued, r, w, -1
	c.limit.Store(int64(r.Harakiri(p.w.Harakiri)))
	began := r.Start
	if began.IsZero() {
		began = time.Now() // of a call
	}
	c.began.Store(began.UnixNano())
	c.live.Store(c.id)
	c.grip.set(c.id, r.Body, w)
	c.nobody = r.Get("REQUEST_METHOD") == "HEAD"
	if f != nil {
		c.buf = p.lang.Dict(c.buf[:0], f.entries(c.id))
	} else {
		c.buf = p.lang.Request(c.buf[:0], c.id, r, body)
	}
	if len(c.buf) > maxPacket {
		c.vars = c.buf
		c.buf = p.lang.Dict(nil, []lang.Entry{{Name: "liege.id", Value: lang.ID(c.id)}, {Name: "liege.large", Value: true}})
	}
}

// smallBody reads a body that fits a packet: so a worker is not held up by a
// client that sends it slowly.
func smallBody(r *exchange.Request) ([]byte, error) {
	if r.Length <= 0 || r.Length > maxPacket/2 {
		return nil, nil
	}
	body := make([]byte, r.Length)
	if _, err := io.ReadFull(r.Body, body); err != nil {
		if _, ok := errors.AsType[*exchange.StatusError](err); ok {
			return nil, err
		}
		return nil, &exchange.StatusError{Status: 400, Err: fmt.Errorf("body of the request: %w", err)}
	}
	return body, nil
}
