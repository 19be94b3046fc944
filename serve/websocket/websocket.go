// Package websocket is the server's side of RFC 6455 on a connection that has
// become a tunnel: the handshake, frames in and frames out, with the rules that
// a client may break. It knows nothing of HTTP beyond a request's variables.
//
//	fields, err := websocket.Accept(r, "chat")        // of the 101
//	c := websocket.New(stream, limit)
//	p, err := c.Next(buf)                             // a piece of a message, or *Closed
//	err = c.Write(websocket.Text, data, false)
//	err = c.Close(1000, "")
//	err = c.Ping(); … c.Heard()                       // is the client still there?
//
// One goroutine reads. Any may write; a message that is written in pieces is one
// goroutine's. Pings are answered by Next. No extension is spoken, so a frame
// with a reserved bit is a breach.
//
// The libraries for this take over a request of net/http, which the front has
// no part in, or bring the same rules and a second handshake: what is left for
// them is less than what it takes to fit them in.
package websocket

import (
	"crypto/sha1" //nolint:gosec // the handshake of RFC 6455 4.2.2, no signature
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"liege/serve/exchange"
)

// Op is what a message is.
type Op byte

// The messages.
const (
	Text   Op = 1
	Binary Op = 2
)

// Opcodes of frames that are no messages (RFC 6455 5.2).
const (
	opContinue = 0
	opClose    = 8
	opPing     = 9
	opPong     = 10
)

// Codes of a close (RFC 6455 7.4.1; 1012 is IANA's).
const (
	Normal      = 1000
	GoingAway   = 1001
	Protocol    = 1002
	None        = 1005 // the client sent no code; never sent itself
	Abnormal    = 1006 // the connection broke; never sent itself
	BadData     = 1007
	TooBig      = 1009
	Failed      = 1011
	Restart     = 1012
	maxControl  = 125
	maxHead     = 14
	acceptMagic = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
)

// Closed is the end of what a client sends: its own close, or the one that its
// breach was answered with.
type Closed struct {
	Code   int
	Reason string
}

func (e *Closed) Error() string { return fmt.Sprintf("websocket closed: %d %q", e.Code, e.Reason) }

var errVersion = errors.New("not version 13 of the WebSocket protocol")

// Accept checks that r asks for a WebSocket (RFC 6455 4.2.1) and returns the
// fields of the answer with status 101. Its error has status 400, or 426.
func Accept(r *exchange.Request, protocol string) ([]exchange.Field, error) {
	key := r.Get("HTTP_SEC_WEBSOCKET_KEY")
	raw, err := base64.StdEncoding.DecodeString(key)
	switch {
	case r.Get("REQUEST_METHOD") != "GET" || !strings.EqualFold(r.Get("HTTP_UPGRADE"), "websocket"):
		return nil, &exchange.StatusError{Status: 400, Err: errors.New("the request asks for no WebSocket")}
	case r.Get("HTTP_SEC_WEBSOCKET_VERSION") != "13":
		return nil, &exchange.StatusError{Status: 426, Err: errVersion}
	case err != nil || len(raw) != 16:
		return nil, &exchange.StatusError{Status: 400, Err: errors.New("Sec-WebSocket-Key is not 16 bytes in base64")}
	}
	sum := sha1.Sum([]byte(key + acceptMagic)) //nolint:gosec // as above
	fields := []exchange.Field{{Name: "Connection", Value: "Upgrade"}, {Name: "Upgrade", Value: "websocket"},
		{Name: "Sec-WebSocket-Accept", Value: base64.StdEncoding.EncodeToString(sum[:])}}
	if protocol != "" {
		fields = append(fields, exchange.Field{Name: "Sec-WebSocket-Protocol", Value: protocol})
	}
	return fields, nil
}

// Conn is one connection.
type Conn struct {
	rw    io.ReadWriter
	limit int64

	// The frame at hand, and the message that it belongs to.
	left   int64
	fin    bool
	mask   [4]byte
	at     int // in the mask
	op     Op  // 0: no message is being read
	size   int64
	partly []byte // of a character that is still to be completed
	ended  *Closed

	heard atomic.Bool

	mu       sync.Mutex // of what is written
	out      []byte
	within   bool // a message is being written
	goodbye  bool // a close was written
	scratch  [maxHead]byte
	controls [maxControl]byte
}

// New is a connection whose messages have at most limit bytes.
func New(rw io.ReadWriter, limit int64) *Conn { return &Conn{rw: rw, limit: limit} }

// Piece is a part of a message: More says that it goes on.
type Piece struct {
	Op   Op
	Data []byte
	More bool
}

// Next reads the next piece of a message into buf, which is not empty. A
// message has at least one piece, which may be empty. The error is a *Closed,
// also when the connection breaks.
func (c *Conn) Next(buf []byte) (Piece, error) {
	if c.ended != nil {
		return Piece{}, c.ended
	}
	p, err := c.next(buf)
	if err == nil {
		return p, nil
	}
	if !errors.As(err, &c.ended) {
		c.ended = &Closed{Code: Abnormal}
	}
	return Piece{}, c.ended
}

func (c *Conn) next(buf []byte) (Piece, error) {
	for c.left == 0 {
		whole, err := c.header()
		if err != nil {
			return Piece{}, err
		}
		if whole { // an empty last frame of a message
			break
		}
	}
	b := buf[:min(int64(len(buf)), c.left)]
	if _, err := io.ReadFull(c.rw, b); err != nil {
		return Piece{}, err
	}
	for i := range b {
		b[i] ^= c.mask[c.at&3]
		c.at++
	}
	c.heard.Store(true)
	c.left -= int64(len(b))
	p := Piece{Op: c.op, Data: b, More: c.left > 0 || !c.fin}
	if c.op == Text && !c.text(b, !p.More) {
		return p, c.breach(BadData, "text is not UTF-8")
	}
	if !p.More {
		c.op = 0
	}
	return p, nil
}

// header reads the head of a frame, and deals with what is no message. It is
// true for a last frame without data.
func (c *Conn) header() (last bool, err error) {
	h := c.scratch[:2]
	if _, err := io.ReadFull(c.rw, h); err != nil {
		return false, err
	}
	c.heard.Store(true)
	fin, op, n := h[0]&0x80 != 0, h[0]&0x0f, int64(h[1]&0x7f)
	switch {
	case h[0]&0x70 != 0:
		return false, c.breach(Protocol, "a reserved bit is set")
	case h[1]&0x80 == 0:
		return false, c.breach(Protocol, "a frame of a client is not masked")
	case op >= opClose && (n > maxControl || !fin):
		return false, c.breach(Protocol, "a long or fragmented control frame")
	}
	if n > maxControl {
		size := 2 << (2 * (n - 126)) // 2 or 8
		ext := c.scratch[:size]
		if _, err := io.ReadFull(c.rw, ext); err != nil {
			return false, err
		}
		switch v := binary.BigEndian.Uint64(append(make([]byte, 8-size, 8), ext...)); {
		case v >= 1<<63:
			return false, c.breach(Protocol, "a length with its highest bit set")
		default:
			n = int64(v)
		}
	}
	if _, err := io.ReadFull(c.rw, c.mask[:]); err != nil {
		return false, err
	}
	c.at = 0
	if op >= opClose {
		return false, c.control(op, int(n))
	}
	return c.data(op, fin, n)
}

// data begins a frame of a message.
func (c *Conn) data(op byte, fin bool, n int64) (last bool, err error) {
	switch {
	case op == opContinue && c.op == 0:
		return false, c.breach(Protocol, "a continuation of nothing")
	case op != opContinue && c.op != 0:
		return false, c.breach(Protocol, "a message within a message")
	case op > byte(Binary):
		return false, c.breach(Protocol, "an unknown opcode")
	case op != opContinue:
		c.op, c.size, c.partly = Op(op), 0, c.partly[:0]
	}
	if n > c.limit-c.size {
		return false, c.breach(TooBig, "the message is too long")
	}
	c.size += n
	c.left, c.fin = n, fin
	return n == 0 && fin, nil
}

// control obeys a control frame of n bytes.
func (c *Conn) control(op byte, n int) error {
	b := c.controls[:n]
	if _, err := io.ReadFull(c.rw, b); err != nil {
		return err
	}
	for i := range b {
		b[i] ^= c.mask[i&3]
	}
	switch op {
	case opPing:
		return c.frame(opPong, b)
	case opPong:
		return nil
	case opClose:
		return c.closed(b)
	}
	return c.breach(Protocol, "an unknown control frame")
}

// closed answers a close.
func (c *Conn) closed(b []byte) error {
	if len(b) == 0 {
		_ = c.frame(opClose, nil) // nothing follows in any case
		return &Closed{Code: None}
	}
	if len(b) == 1 {
		return c.breach(Protocol, "half a close code")
	}
	code, reason := int(binary.BigEndian.Uint16(b)), string(b[2:])
	switch {
	case !Valid(code):
		return c.breach(Protocol, "an invalid close code")
	case !utf8.ValidString(reason):
		return c.breach(BadData, "a close reason that is not UTF-8")
	}
	_ = c.frame(opClose, b[:2]) // as above
	return &Closed{code, reason}
}

// Valid reports whether a close code may be sent.
func Valid(code int) bool {
	return code >= 1000 && code <= 1003 || code >= 1007 && code <= 1014 || code >= 3000 && code <= 4999
}

// breach closes the connection because of what the client did.
func (c *Conn) breach(code int, why string) error {
	_ = c.Close(code, why) // nothing follows in any case
	return &Closed{code, why}
}

// text reports whether b continues a text in UTF-8; one may be cut within a
// character unless it ends here.
func (c *Conn) text(b []byte, end bool) bool {
	for len(c.partly) > 0 && len(b) > 0 {
		c.partly = append(c.partly, b[0])
		b = b[1:]
		if utf8.FullRune(c.partly) {
			if !utf8.Valid(c.partly) {
				return false
			}
			c.partly = c.partly[:0]
		}
	}
	cut := len(b)
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if utf8.RuneStart(b[len(b)-i]) {
			if !utf8.FullRune(b[len(b)-i:]) {
				cut = len(b) - i
			}
			break
		}
	}
	c.partly = append(c.partly, b[cut:]...)
	return utf8.Valid(b[:cut]) && (!end || len(c.partly) == 0)
}

// errGone is for what is written after a close.
var errGone = errors.New("websocket: closed")

// Write sends a message, or a piece of one: more says that it goes on.
func (c *Conn) Write(op Op, data []byte, more bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := byte(op)
	if c.within {
		first = opContinue
	}
	if !more {
		first |= 0x80
	}
	c.within = more
	return c.send(first, data)
}

// Close sends a close frame, unless one was sent; with code None it has no
// code. A long reason is cut.
func (c *Conn) Close(code int, reason string) error {
	if code == None {
		return c.frame(opClose, nil)
	}
	if len(reason) > maxControl-2 {
		reason = strings.ToValidUTF8(reason[:maxControl-2], "")
	}
	return c.frame(opClose, append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...))
}

// Ping asks the client whether it is there. Its answer is seen by Heard.
func (c *Conn) Ping() error { return c.frame(opPing, nil) }

// Heard reports whether anything came of the client since it was last asked.
func (c *Conn) Heard() bool { return c.heard.Swap(false) }

// frame sends a control frame.
func (c *Conn) frame(op byte, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.send(op|0x80, data)
	if op == opClose {
		c.goodbye = true
	}
	return err
}

// send is called with mu held.
func (c *Conn) send(first byte, data []byte) error {
	if c.goodbye {
		return errGone
	}
	c.out = append(c.out[:0], first)
	switch n := len(data); {
	case n <= maxControl:
		c.out = append(c.out, byte(n))
	case n < 1<<16:
		c.out = binary.BigEndian.AppendUint16(append(c.out, 126), uint16(n))
	default:
		c.out = binary.BigEndian.AppendUint64(append(c.out, 127), uint64(n))
	}
	c.out = append(c.out, data...)
	_, err := c.rw.Write(c.out)
	if cap(c.out) > maxKept {
		c.out = nil
	}
	return err
}

// maxKept is how much of a written frame's memory is kept for the next.
const maxKept = 8 << 10
