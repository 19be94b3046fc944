package worker

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"liege/serve/exchange"
)

// A worker is free when it has sent its answer, however slowly the client
// reads: what the kernel's buffers do not take waits here, within bounds. Above
// them the worker waits, as it would for any reader that is slower.
const (
	spoolBuffer = 64 << 10        // bytes of a buffer, and what is handed to the client at once
	spoolEach   = 5 * spoolBuffer // that one answer may have: 320 KiB, with the buffer in the client's hands
	spoolAll    = 16 << 20        // that all answers of an application may have, beyond one buffer each
	fileSize    = spoolEach       // what an open file counts as: nothing comes behind it before it is sent
	maxDirect   = 12 << 10        // of a whole answer: a Response keeps so much until Flush
)

// spoolBuffers holds buffers of spools and lanes. It is a cache.
var spoolBuffers = sync.Pool{New: func() any { b := make([]byte, 0, spoolBuffer); return &b }}

// spool has what a worker sent of a body and its client has not taken yet. The
// lane puts it in; Serve takes it out.
//
// Serve adopts the spool when it hears of it. From then on the two talk through
// it alone: when the worker has sent all, the call is free for another request,
// while this one's client still reads.
type spool struct {
	all   *atomic.Int64 // buffers of all spools, in bytes
	more  chan struct{} // told when something was put in, is to be flushed, or has ended
	space chan struct{} // told when something was taken out, or nothing is wanted

	mu      sync.Mutex
	w       exchange.Response // of the client; nil: not adopted
	items   []spooled
	size    int   // bytes of buffers, that in the client's hands included
	closed  bool  // nothing more is wanted
	err     error // why
	posted  bool  // the call has ended before the spool was adopted
	ended   bool  // the call has ended since, with result
	result  error
	busy    bool // a piece is in the client's hands
	cut     bool // no other follows: see call.cut
	leaving bool // Serve takes the call back
}

func newSpool(all *atomic.Int64) *spool {
	return &spool{all: all, more: make(chan struct{}, 1), space: make(chan struct{}, 1)}
}

// adopt begins to serve w. It is false when the call has ended already: then
// its result comes as that of every call.
func (s *spool) adopt(w exchange.Response) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.w = w
	return !s.posted
}

// end is told how the call ends. It is false if Serve does not hear it here.
func (s *spool) end(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.w == nil || s.leaving {
		s.posted = true
		return false
	}
	s.ended, s.result = true, err
	tell(s.more)
	return true
}

// leave is false when the call has ended: else it may be taken back.
func (s *spool) leave() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving = !s.ended
	return s.leaving
}

// interrupt ends what the client keeps waiting: the worker is dead.
func (s *spool) interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut = true
	if c, ok := s.w.(io.Closer); ok && s.busy {
		_ = c.Close() // it only ends a wait
	}
}

// spooled is a piece of a body: bytes, or a part of a file.
type spooled struct {
	data   *[]byte
	file   *os.File
	off, n int64
}

// errCut is why a body ends whose worker was killed while its client was slow.
var errCut = errors.New("the worker was killed while the client took its time")

func tell(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // it knows already
	}
}

// put appends b, and waits while there is too much. It is false when nobody
// wants it any more.
func (s *spool) put(b []byte) bool {
	for len(b) > 0 {
		last, wanted := s.room()
		if !wanted {
			return false
		}
		if last == nil {
			<-s.space
			continue
		}
		n := min(len(b), spoolBuffer-len(*last))
		*last = append(*last, b[:n]...)
		b = b[n:]
		s.mu.Unlock()
		tell(s.more)
	}
	return true
}

// room is the buffer to append to, with mu held; nil, without it, where there
// is none for now.
func (s *spool) room() (last *[]byte, wanted bool) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, false
	}
	if n := len(s.items); n > 0 && s.items[n-1].data != nil && len(*s.items[n-1].data) < spoolBuffer {
		return s.items[n-1].data, true
	}
	if s.size >= spoolEach || s.size > 0 && s.all.Load() >= spoolAll {
		s.mu.Unlock()
		return nil, true
	}
	b := spoolBuffers.Get().(*[]byte)
	*b = (*b)[:0]
	s.items = append(s.items, spooled{data: b})
	s.size += spoolBuffer
	s.all.Add(spoolBuffer)
	return b, true
}

// putFile appends n bytes of f from off, waits until there is no other file, and
// closes f in the end.
func (s *spool) putFile(f *os.File, off, n int64) {
	for {
		s.mu.Lock()
		switch {
		case s.closed:
			s.mu.Unlock()
			f.Close()
			return
		case s.size < spoolEach:
			s.size += fileSize
			s.items = append(s.items, spooled{file: f, off: off, n: n})
			s.mu.Unlock()
			tell(s.more)
			return
		}
		s.mu.Unlock()
		<-s.space
	}
}

// take is the next piece.
func (s *spool) take() (i spooled, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.items) == 0 {
		return spooled{}, false
	}
	i, s.items = s.items[0], s.items[1:]
	return i, true
}

// hand has f write to the client, unless that was cut.
func (s *spool) hand(f func() error) error {
	s.mu.Lock()
	s.busy = !s.cut || s.ended
	may := s.busy
	s.mu.Unlock()
	if !may {
		return errCut
	}
	err := f()
	s.mu.Lock()
	s.busy = false
	s.mu.Unlock()
	return err
}

// give sends the piece to the client.
func (s *spool) give(i spooled) error {
	defer s.drop(i)
	return s.hand(func() error {
		if i.file != nil {
			return s.w.File(i.file, i.off, i.n)
		}
		_, err := s.w.Write(*i.data)
		return err
	})
}

// drop frees what a piece held.
func (s *spool) drop(i spooled) {
	size := spoolBuffer
	if i.file != nil {
		i.file.Close()
		size = fileSize
	} else {
		spoolBuffers.Put(i.data)
		s.all.Add(-spoolBuffer)
	}
	s.mu.Lock()
	s.size -= size
	s.mu.Unlock()
	tell(s.space)
}

// close throws away what is there, and all that may still come, because of err.
func (s *spool) close(err error) {
	s.mu.Lock()
	items := s.items
	s.items = nil
	if !s.closed {
		s.closed, s.err = true, err
	}
	s.mu.Unlock()
	for _, i := range items {
		s.drop(i)
	}
	tell(s.space)
}

// pour sends what is there to the client. Where nothing more follows at once the
// client gets what the front still keeps, too, and ended is false.
func (s *spool) pour() (ended bool, err error) {
	for {
		for i, ok := s.take(); ok; i, ok = s.take() {
			if err := s.give(i); err != nil {
				s.close(err)
			}
		}
		s.mu.Lock()
		more, ended, closed := len(s.items) > 0, s.ended, s.closed
		s.mu.Unlock()
		switch {
		case more:
		case ended:
			return true, s.outcome(s.result)
		case closed:
			return false, nil
		default:
			if err := s.hand(s.w.Flush); err != nil {
				s.close(err)
			}
			return false, nil
		}
	}
}

// rest sends all that is left of an answer that has ended with err, and returns
// how it ended for the client.
func (s *spool) rest(w exchange.Response, err error) error {
	s.mu.Lock()
	s.w, s.ended, s.result = w, true, err
	s.mu.Unlock()
	_, err = s.pour()
	return err
}

// failure is why the client has not got all so far.
func (s *spool) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// outcome is how the answer ended for the client.
func (s *spool) outcome(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil && err == nil:
		return s.err
	case err != nil && !s.closed:
		_ = s.w.Flush() // so that the client sees an answer that breaks off
	}
	return err
}

// serve hands the client what comes of call c, until it ends.
func (s *spool) serve(ctx context.Context, p *Pool, c *call) error {
	for {
		select {
		case <-s.more:
			if ended, err := s.pour(); ended {
				return err
			}
		case <-ctx.Done():
			if !s.leave() { // all of it is there
				return s.rest(s.w, s.result)
			}
			if c.abandon() {
				return context.Cause(ctx)
			}
			return p.finished(c, s.w, <-c.done)
		}
	}
}
