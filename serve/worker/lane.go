package worker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"liege/serve/direct"
	"liege/serve/exchange"
)

// A lane is the stream between the core and one thread of a worker. What comes
// over it is the tenant's: every length is checked or only counted, and the
// first frame that breaks the protocol ends the worker. This is version
// lang.Protocol; the packets of the queue are in packet.go and lang.Encoder,
// those of the loader in loader.go.
//
// Each frame has a header of 24 bytes: its type, three zero bytes, the sizes
// of head and body that follow, an argument (little-endian, 32 bits each) and
// the request.
//
//	worker → core
//	L  loaded: the worker is ready       (request 0)
//	N  not loaded; body: why             (request 0)
//	P  answer to a probe in the queue
//	Q  leaves: the worker takes no more requests, and ends when those that it has
//	   have ended. argument 1: because of liege.retire   (request 0; on a lane
//	   that no WebSocket, file or connection is under way on)
//	A  a whole answer: head, body        argument: size of the body had it not been a HEAD
//	H  head and first piece of the body
//	D  a piece of the body
//	I  an informational response before the answer, argument: its status; body as of T
//	T  fields behind the body; body: name, NUL, value, NUL and so on
//	F  a file; body: offset, length      then, after G, a byte with its descriptor
//	J  takes the connection over; then, after G, a byte with the descriptor of a
//	   stream socket, over which the answer comes. It ends the request here
//	E  end of the answer                 argument 1: by an exception
//	R  wants up to argument bytes of the request's body
//	V  wants the request's variables
//	K  a variable of the access log; body: name, NUL, value
//	W  wants to hear when the client leaves
//	U  accepts a WebSocket; head: fields. See socket.go for what follows
//
//	core → worker
//	B  the body (or variables) asked for; empty at the end.
//	   argument 1: for a body, it cannot be read; for variables, more follow
//	G  send the descriptor
//	X  the client went away: stop
type lane struct {
	p      *Pool
	proc   *proc
	slot   int
	thread int // of its worker, from 0
	conn   *net.UnixConn
	own    *direct.Conn // the same
	memory *os.File     // the slots

	in      []byte // in[r:n] is read and not yet used
	r, n    int
	lent    *[]byte    // in is of it: for a large answer, one of spoolBuffers
	usual   []byte     // what in was before
	wmu     sync.Mutex // of writing: out, told
	out     []byte
	fields  []exchange.Field
	told    uint64 // the request of the last X, if that has gone out
	seen    uint64 // harakiri: the request in the slot, since
	seenAt  time.Time
	since   time.Time // the current call was claimed
	sent    int64     // bytes of its body
	current *call
	chunks  *dechunker // of the current answer, if the application frames it; else nil
}

const (
	headerSize = 24
	maxHead    = 128 << 10 // of an answer's status line and fields
	oddHead    = 16 << 20  // what is longer no application means: it ends the worker
	laneBuffer = 16 << 10
	pieceSize  = spoolBuffer // of a body, at once
)

// laneTimeout is how long a worker may leave what it asked for unread.
const laneTimeout = 30 * time.Second

type frame struct {
	kind            byte
	head, size, arg uint32
	id              uint64
}

// A breach is a violation of the protocol by the worker.
type breach struct{ what string }

func (b *breach) Error() string { return "the worker broke the protocol: " + b.what }

func breachf(format string, a ...any) error { return &breach{fmt.Sprintf(format, a...)} }

// run serves the lane until the worker ends or breaks the protocol; it is
// io.EOF in the first case.
func (l *lane) run() error {
	l.own = direct.New(l.conn)
	l.in = make([]byte, headerSize) // most of an asynchronous worker's lanes are never used
	for {
		f, err := l.header()
		if err != nil {
			return err
		}
		if f.kind == 'Q' {
			if f.head|f.size != 0 || f.id != 0 || f.arg > 1 {
				return breachf("a farewell with contents")
			}
			l.p.post(event{kind: evLeaves, proc: l.proc, probe: uint64(f.arg)})
			continue
		}
		if l.current == nil {
			if own, err := l.hello(f); own || err != nil {
				if err != nil {
					return err
				}
				continue
			}
			if err := l.claim(f.id); err != nil {
				return err
			}
		} else if l.current.id != f.id {
			return breachf("frame %q of another request", f.kind)
		}
		if err := l.handle(f); err != nil {
			return err
		}
	}
}

// hello takes the frames that belong to no request.
func (l *lane) hello(f frame) (bool, error) {
	switch f.kind {
	case 'L', 'N', 'P':
	default:
		return false, nil
	}
	if f.size > 64<<10 || f.head != 0 {
		return true, breachf("a hello of %d bytes", f.size)
	}
	text := make([]byte, f.size)
	if err := l.read(text); err != nil {
		return true, err
	}
	switch f.kind {
	case 'L':
		l.p.post(event{kind: evLoaded, proc: l.proc})
	case 'N':
		l.p.post(event{kind: evNotLoaded, proc: l.proc, text: string(text)})
	case 'P':
		l.p.post(event{kind: evProbed, probe: f.id})
	}
	return true, nil
}

// claim makes the call id the one this lane answers.
func (l *lane) claim(id uint64) error {
	c := l.p.find(id)
	if c == nil || !c.claim(id, l) {
		return breachf("unknown request %#x", id)
	}
	l.current = c
	if !l.proc.served.Load() {
		l.proc.served.Store(true)
	}
	if len(l.in) < laneBuffer {
		l.in = append(l.in, make([]byte, laneBuffer-len(l.in))...)
	}
	l.since = time.Now()
	s := &l.p.stats[l.proc.number-1]
	s.busy.Add(1)
	if l.thread < len(s.threads) {
		s.threads[l.thread].since.Store(l.since.UnixNano())
	}
	return nil
}

// serve runs the lane, and fails the request that its worker was at.
func (l *lane) serve() {
	err := l.run()
	if l.current == nil {
		var b [8]byte
		if _, err := l.memory.ReadAt(b[:], int64(8*l.slot)); err == nil {
			_ = l.claim(binary.LittleEndian.Uint64(b[:])) // else it was at none
		}
	}
	if c := l.current; c != nil {
		l.account()
		l.p.stats[l.proc.number-1].errors.Add(1)
		cause := err
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			cause = errors.New("it died")
		}
		l.current = nil
		l.p.fail(c, 502, fmt.Errorf("worker %d (pid %d): %w", l.proc.number, l.proc.pid.Load(), cause))
	}
	l.conn.Close()
	l.p.post(event{kind: evLaneEnd, proc: l.proc, err: err})
}

// account counts the current request as one that the worker was at.
func (l *lane) account() {
	s := &l.p.stats[l.proc.number-1]
	s.busy.Add(-1)
	s.requests.Add(1)
	s.delta.Add(1)
	if l.thread < len(s.threads) {
		s.threads[l.thread].since.Store(0)
		s.threads[l.thread].requests.Add(1)
	}
	s.running.Add(int64(time.Since(l.since)))
	s.sent.Add(l.sent)
	l.sent = 0
}

// endInput makes the reader of conn end when it has read what was sent: a
// process that the other side has forked may keep the other end open.
func endInput(conn *net.UnixConn) {
	raw, err := conn.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RD) })
	}
}

func (l *lane) handle(f frame) error {
	c := l.current
	if f.head != 0 && f.kind != 'A' && f.kind != 'H' && f.kind != 'U' {
		return breachf("frame %q with a head", f.kind)
	}
	switch f.kind {
	case 'A':
		if err := l.answer(f); err != nil {
			return err
		}
		if err := l.body(f); err != nil {
			return err
		}
		l.done(false)
		return nil
	case 'H':
		if err := l.answer(f); err != nil {
			return err
		}
		return l.piece(f)
	case 'D':
		if !c.started {
			return breachf("a body before the head")
		}
		return l.piece(f)
	case 'E':
		if f.size != 0 || f.arg == 0 && !c.started {
			return breachf("an end without an answer")
		}
		l.done(f.arg != 0)
		return nil
	case 'I':
		return l.inform(f)
	case 'T':
		return l.trailers(f)
	case 'F':
		return l.file(f)
	case 'J':
		return l.takeover(f)
	case 'R':
		return l.request(f)
	case 'K':
		return l.note(f)
	case 'V':
		return l.variables(f)
	case 'W':
		return l.watch(f)
	case 'U':
		return l.upgrade(f)
	}
	return breachf("unknown frame %#x", f.kind)
}

// done ends the current call.
func (l *lane) done(failed bool) {
	c := l.current
	l.unframed(failed)
	l.account()
	if failed {
		l.p.stats[l.proc.number-1].errors.Add(1)
	}
	l.current = nil
	if l.r == l.n {
		l.narrow()
	}
	l.p.finish(c, failed)
}

// widen makes in, of which nothing is left to be used, large for a while.
func (l *lane) widen() {
	if len(l.in) < spoolBuffer {
		l.lent, l.usual = spoolBuffers.Get().(*[]byte), l.in
		l.in = (*l.lent)[:spoolBuffer]
	}
}

// narrow ends that. Nothing of in is used any more.
func (l *lane) narrow() {
	l.r, l.n = 0, 0
	switch {
	case l.lent != nil:
		spoolBuffers.Put(l.lent)
		l.in, l.lent, l.usual = l.usual, nil, nil
	case len(l.in) > laneBuffer: // a large head
		l.in = make([]byte, laneBuffer)
	}
}

// header reads the next frame's header.
func (l *lane) header() (frame, error) {
	if err := l.fill(headerSize); err != nil {
		return frame{}, err
	}
	b := l.in[l.r:]
	l.r += headerSize
	if b[1]|b[2]|b[3] != 0 {
		return frame{}, breachf("garbage instead of a frame")
	}
	return frame{b[0], binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:]),
		binary.LittleEndian.Uint32(b[12:]), binary.LittleEndian.Uint64(b[16:])}, nil
}

// fill reads until in[r:n] has at least want bytes.
func (l *lane) fill(want int) error {
	if l.n-l.r >= want {
		return nil
	}
	if l.r > 0 {
		copy(l.in, l.in[l.r:l.n])
		l.n -= l.r
		l.r = 0
	}
	if want > len(l.in) {
		l.in = append(l.in, make([]byte, want-len(l.in))...)
	}
	for l.n < want {
		n, err := l.own.Read(l.in[l.n:])
		l.n += n
		if err != nil {
			if errors.Is(err, io.EOF) && l.n > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// read fills b.
func (l *lane) read(b []byte) error {
	n := copy(b, l.in[l.r:l.n])
	l.r += n
	_, err := io.ReadFull(l.own, b[n:])
	return err
}

// piece passes a piece of a streamed body on, at once unless more is there.
func (l *lane) piece(f frame) error {
	if err := l.body(f); err != nil {
		return err
	}
	if l.n-l.r < headerSize {
		l.current.flush(&l.p.spooled)
	}
	return nil
}

// body passes f.size bytes on.
func (l *lane) body(f frame) error {
	left := int64(f.size)
	all := &l.p.spooled
	if f.kind == 'A' && left+int64(f.head) <= maxDirect {
		all = nil
	}
	for left > 0 {
		if l.r == l.n {
			l.r, l.n = 0, 0
			if left > laneBuffer {
				l.widen()
			}
			if err := l.fill(1); err != nil {
				return err
			}
		}
		b := l.in[l.r:min(l.n, l.r+int(min(left, pieceSize)))]
		l.r += len(b)
		left -= int64(len(b))
		l.sent += int64(len(b))
		if !l.pass(b, all) {
			if err := l.stop(f.kind); err != nil {
				return err
			}
		}
	}
	return nil
}

// stop tells the worker, once, that nobody wants the rest.
func (l *lane) stop(kind byte) error {
	if kind == 'A' {
		return nil
	}
	return l.gone(l.current.id)
}

// gone tells the worker, once, that the client of request id is gone. It may
// come from another goroutine; a worker that has ended the request meanwhile
// throws it away.
func (l *lane) gone(id uint64) error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if l.told == id {
		return nil
	}
	l.told = id
	return l.write('X', 0, id, nil)
}

func (l *lane) send(kind byte, arg uint32, body []byte) error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	return l.write(kind, arg, l.current.id, body)
}

// write is send with wmu held. A small body goes out in one piece with its
// header; a large one is not copied.
func (l *lane) write(kind byte, arg uint32, id uint64, body []byte) error {
	l.out = append(l.out[:0], kind, 0, 0, 0, 0, 0, 0, 0)
	l.out = binary.LittleEndian.AppendUint32(l.out, uint32(len(body)))
	l.out = binary.LittleEndian.AppendUint32(l.out, arg)
	l.out = binary.LittleEndian.AppendUint64(l.out, id)
	by := time.Now().Add(laneTimeout)
	if kind == 'M' { // nobody asked for it
		by = time.Time{}
	}
	if err := l.conn.SetWriteDeadline(by); err != nil {
		return err
	}
	if len(body) > laneBuffer {
		parts := net.Buffers{l.out, body}
		_, err := parts.WriteTo(l.conn)
		return err
	}
	l.out = append(l.out, body...)
	_, err := l.own.Write(l.out)
	return err
}

// request reads from the request's body and sends it to the worker.
func (l *lane) request(f frame) error {
	if f.size != 0 {
		return breachf("a wish for a body with a body")
	}
	buf := spoolBuffers.Get().(*[]byte)
	defer spoolBuffers.Put(buf)
	piece := (*buf)[:min(f.arg, pieceSize)]
	n, err := l.current.read(piece)
	if err != nil {
		return l.send('B', 1, nil)
	}
	return l.send('B', 0, piece[:n])
}

// read reads from the request's body; 0 bytes are its end.
func (c *call) read(b []byte) (int, error) {
	c.lock(reading)
	defer c.unlock()
	if c.r == nil {
		return 0, errors.New("abandoned")
	}
	if c.bodyErr != nil || len(b) == 0 {
		return 0, c.bodyErr
	}
	for {
		n, err := c.r.Body.Read(b)
		if n > 0 {
			return n, nil
		}
		if err == io.EOF {
			return 0, nil
		}
		if err != nil {
			c.bodyErr = err
			return 0, err
		}
	}
}

// variables sends the worker the variables that did not fit the packet.
func (l *lane) variables(f frame) error {
	l.current.mu.Lock()
	vars := l.current.vars
	l.current.vars = nil
	l.current.mu.Unlock()
	if vars == nil || f.size != 0 {
		return breachf("a wish for variables it has")
	}
	for len(vars) > pieceSize {
		if err := l.send('B', 1, vars[:pieceSize]); err != nil {
			return err
		}
		vars = vars[pieceSize:]
	}
	return l.send('B', 0, vars)
}
