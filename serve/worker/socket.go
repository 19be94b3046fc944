package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"liege/serve/exchange"
	"liege/serve/websocket"
)

// A WebSocket's frames are read and written by the core; the worker gets and
// sends messages. Once its frame U was obeyed a lane carries, until the
// worker's E, in both directions:
//
//	M  a piece of a message; argument: 1 text, 2 binary, and 4 if it goes on
//	C  the end; argument: the code; body: the reason
//
// The worker's C closes the WebSocket; the core's says that nothing more comes
// of the client. A worker that does not read is waited for, and so is a client:
// neither's messages are piled up here.
const (
	socketMore    = 4
	maxMessage    = 16 << 20 // bytes of a client's message, if the file does not say
	pingAfter     = 30 * time.Second
	pongTime      = 3 * time.Second
	socketPiece   = 16 << 10
	closeTime     = 5 * time.Second // for the client to answer a close
	maxCloseFrame = 125
)

// watch has the worker told when the client leaves.
func (l *lane) watch(f frame) error {
	if f.size != 0 {
		return breachf("a wish to hear of the client with a body")
	}
	c := l.current
	c.mu.Lock()
	id := c.id
	if c.w == nil { // gone already
		c.mu.Unlock()
		return l.gone(id)
	}
	defer c.mu.Unlock()
	w, ok := c.w.(exchange.Watcher)
	if !ok || c.unwatch != nil {
		return nil
	}
	c.unwatch = w.Watch(func() { _ = l.gone(id) }) // a worker that is gone needs not be told
	return nil
}

// socket is a lane's WebSocket.
type socket struct {
	l       *lane
	ws      *websocket.Conn
	stream  exchange.Stream
	reading sync.WaitGroup
	broken  error         // what the worker was sent is not whole; after reading
	over    chan struct{} // closed when nothing more is read
	telling atomic.Bool   // the reader waits for the worker
}

// upgrade makes the request a WebSocket and serves it to its end.
func (l *lane) upgrade(f frame) error {
	c := l.current
	c.mu.Lock()
	r, w, started := c.r, c.w, c.started
	c.started = true
	c.mu.Unlock()
	if started || f.size != 0 {
		return breachf("a WebSocket after a head, or with a body")
	}
	fields, protocol, err := l.socketFields(f)
	if _, ok := errors.AsType[*exchange.StatusError](err); ok {
		return l.refuseSocket(err)
	}
	if err != nil {
		return err
	}
	stream, err := accept(r, w, protocol, fields)
	if err != nil {
		return l.refuseSocket(err)
	}
	c.mu.Lock()
	c.tunnel = stream
	gone := c.w == nil // abandoned meanwhile
	c.mu.Unlock()
	c.long.Store(true)
	if gone {
		stream.Close()
	}
	limits := l.p.app.Sockets
	s := &socket{l: l, ws: websocket.New(stream, cmp.Or(limits.Message, maxMessage)), stream: stream, over: make(chan struct{})}
	s.reading.Go(s.pump)
	if limits.Ping >= 0 {
		s.reading.Go(func() { s.keepAlive(cmp.Or(limits.Ping, pingAfter), cmp.Or(limits.Pong, pongTime)) })
	}
	if err = s.serve(); err != nil {
		_ = s.ws.Close(websocket.Failed, "") // the connection ends in any case
	}
	s.settle(0)
	if err == nil {
		err = s.broken
	}
	if err != nil {
		return err
	}
	l.done(false)
	return nil
}

// settle waits for the reader, which has d to hear the client's goodbye.
func (s *socket) settle(d time.Duration) {
	late := time.AfterFunc(d, func() {
		s.stream.Close()
		_ = s.l.conn.SetWriteDeadline(time.Now().Add(laneTimeout)) // of what the worker does not read
	})
	s.reading.Wait()
	late.Stop()
	s.stream.Close()
}

// Part has every WebSocket closed with "service restart": no more connections
// are accepted, and whoever is connected shall come again to what follows. The
// applications hear of it first, and may say goodbye themselves.
func (p *Pool) Part() {
	if p.fleet != nil {
		for _, q := range p.fleet.pools {
			q.part()
		}
		return
	}
	p.part()
}

func (p *Pool) part() {
	p.parted.Store(time.Now().UnixNano())
	for _, c := range p.calls {
		if !c.long.Load() {
			continue
		}
		c.mu.Lock()
		l, id := c.lane, c.id
		c.mu.Unlock()
		if l != nil {
			// Beside, for a worker may leave what it is told unread.
			p.lanes.Go(func() { _ = l.tell('C', websocket.Restart, id, nil) })
		}
	}
}

// socketFields reads the head of U: fields, among which the subprotocol. What is
// wrong with them is the application's failure, a StatusError.
func (l *lane) socketFields(f frame) (fields []exchange.Field, protocol string, err error) {
	if f.head > maxHead {
		if err := l.skipHead(f.head); err != nil {
			return nil, "", err
		}
		return nil, "", &exchange.StatusError{Status: 500, Err: fmt.Errorf("the application's WebSocket has a head of %d bytes, more than %d", f.head, maxHead)}
	}
	if err := l.fill(int(f.head)); err != nil {
		return nil, "", err
	}
	text := string(l.in[l.r : l.r+int(f.head)])
	l.r += int(f.head)
	for text != "" {
		var x exchange.Field
		var ok bool
		x.Name, text, _ = strings.Cut(text, "\x00")
		if x.Value, text, ok = strings.Cut(text, "\x00"); !ok {
			return nil, "", &exchange.StatusError{Status: 500, Err: errors.New("the application's WebSocket has a NUL in a header field")}
		}
		switch {
		case strings.EqualFold(x.Name, "Sec-WebSocket-Protocol"):
			protocol = x.Value
		case strings.EqualFold(x.Name, "Connection") || strings.EqualFold(x.Name, "Upgrade") ||
			len(x.Name) > 14 && strings.EqualFold(x.Name[:14], "Sec-WebSocket-"): // the core's own
		default:
			fields = append(fields, x)
		}
	}
	return fields, protocol, nil
}

// accept answers the handshake.
func accept(r *exchange.Request, w exchange.Response, protocol string, further []exchange.Field) (exchange.Stream, error) {
	if r == nil {
		return nil, context.Canceled
	}
	fields, err := websocket.Accept(r, protocol)
	if err != nil {
		return nil, err
	}
	t, ok := w.(exchange.Tunneler)
	if !ok {
		return nil, &exchange.StatusError{Status: 501, Err: errors.New("this listener's connections cannot become tunnels")}
	}
	return t.Tunnel(101, "", append(fields, further...))
}

// refuseSocket fails a request that cannot become a WebSocket: the worker hears
// of a close, and its end of the request ends it.
func (l *lane) refuseSocket(err error) error {
	c := l.current
	c.mu.Lock()
	c.started = false // nothing was sent
	c.err = err
	c.mu.Unlock()
	if err := l.send('C', websocket.Abnormal, nil); err != nil {
		return err
	}
	for {
		f, err := l.header()
		switch {
		case err != nil:
			return err
		case f.id != l.current.id || f.head != 0:
			return breachf("frame %q after a WebSocket that was refused", f.kind)
		case f.kind == 'E':
			l.done(false)
			return nil
		}
		if err := l.skip(f.size); err != nil {
			return err
		}
	}
}

// skip throws n bytes away.
func (l *lane) skip(n uint32) error {
	for n > 0 {
		if l.r == l.n {
			l.r, l.n = 0, 0
			if err := l.fill(1); err != nil {
				return err
			}
		}
		k := min(l.n-l.r, int(n))
		l.r += k
		n -= uint32(k)
	}
	return nil
}

// serve sends what the worker has to say until its end of the request.
func (s *socket) serve() error {
	l := s.l
	closed := false
	for {
		f, err := l.header()
		switch {
		case err != nil:
			return err
		case f.id != l.current.id || f.head != 0:
			return breachf("frame %q within a WebSocket", f.kind)
		}
		switch f.kind {
		case 'M':
			err = s.message(f, closed)
		case 'C':
			if closed || f.size > maxCloseFrame {
				return breachf("a second close, or a reason of %d bytes", f.size)
			}
			closed = true
			err = s.close(f)
		case 'E':
			if !closed {
				code := websocket.Normal
				if f.arg != 0 {
					code = websocket.Failed
				}
				s.part(code, "")
			}
			return nil
		default:
			err = breachf("frame %q within a WebSocket", f.kind)
		}
		if err != nil {
			return err
		}
	}
}

// message sends a piece of a message. A client that is gone is the reader's
// news.
func (s *socket) message(f frame, closed bool) error {
	l := s.l
	op := websocket.Op(f.arg &^ socketMore)
	if op != websocket.Text && op != websocket.Binary || f.size > pieceSize {
		return breachf("a message of type %d with %d bytes", f.arg, f.size)
	}
	data := make([]byte, f.size)
	if err := l.read(data); err != nil {
		return err
	}
	l.sent += int64(len(data))
	if !closed {
		_ = s.ws.Write(op, data, f.arg&socketMore != 0)
	}
	return nil
}

// close closes the WebSocket for the worker.
func (s *socket) close(f frame) error {
	reason := make([]byte, f.size)
	if err := s.l.read(reason); err != nil {
		return err
	}
	code := int(f.arg)
	if !websocket.Valid(code) && code != websocket.None {
		code = websocket.Normal
	}
	s.part(code, strings.ToValidUTF8(string(reason), ""))
	return nil
}

// part says goodbye, and gives the client a moment to answer.
func (s *socket) part(code int, reason string) {
	if s.ws.Close(code, reason) != nil {
		s.stream.Close()
		return
	}
	s.settle(closeTime)
}

// pump gives the worker what the client sends, until its end.
func (s *socket) pump() {
	defer close(s.over)
	l, id := s.l, s.l.current.id
	buf := make([]byte, socketPiece)
	for {
		p, err := s.ws.Next(buf)
		if err != nil {
			end := &websocket.Closed{Code: websocket.Abnormal}
			errors.As(err, &end)
			_ = l.tell('C', uint32(end.Code), id, []byte(end.Reason)) // the lane's own goroutine hears of a worker that is gone
			return
		}
		arg := uint32(p.Op)
		if p.More {
			arg |= socketMore
		}
		s.telling.Store(true)
		s.broken = l.tell('M', arg, id, p.Data)
		s.telling.Store(false)
		if s.broken != nil {
			return
		}
	}
}

// keepAlive asks a client that says nothing whether it is there, as uWSGI does,
// and cuts off one that does not answer: it would hold a worker for ever. While
// the worker does not read nobody can tell.
func (s *socket) keepAlive(silence, patience time.Duration) {
	t := time.NewTicker(silence)
	defer t.Stop()
	var asked time.Time // zero: nothing is asked
	for {
		select {
		case <-t.C:
		case <-s.over:
			return
		}
		switch {
		case s.ws.Heard() || s.telling.Load():
			asked = time.Time{}
		case asked.IsZero():
			if asked = time.Now(); s.ws.Ping() != nil {
				return // it was closed
			}
		case time.Since(asked) >= patience:
			s.l.p.log.Info("a WebSocket's client does not answer", "after", time.Since(asked).Round(time.Second))
			s.stream.Close()
			return
		}
	}
}

// tell is send from another goroutine.
func (l *lane) tell(kind byte, arg uint32, id uint64, body []byte) error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	return l.write(kind, arg, id, body)
}
