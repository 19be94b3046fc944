package front

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"

	"liege/serve/exchange"
)

// Sizes of an answer's buffers.
const (
	bodyBuffer = 16 << 10 // of a body of unknown length before it is sent in chunks
	joinLimit  = 64 << 10 // head and body up to here go out in one write
	maxBuffer  = 96 << 10 // what is kept for the next answer
)

// buffers holds the buffers of answers. It is the only state of the package,
// and a cache.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// framing says how the end of an answer's body is found.
type framing uint8

const (
	undecided framing = iota
	counted           // Content-Length
	chunks            // Transfer-Encoding: chunked
	untilEnd          // the connection's end
	noBody            // HEAD, 204, 304
)

// response is the exchange.Response of one request.
type response struct {
	c    *conn
	gate sync.Mutex // 100 Continue against the head

	minor   int  // of HTTP/1.x, in the status line
	gateway bool // not HTTP to the peer: no Date, no Connection, no chunks
	style   headStyle
	single  bool // the connection cannot become a tunnel
	ended   bool // the protocol itself says where a body of unknown length ends
	cut     bool // the answer ended before its end
	// trailing: the client takes fields behind a body in chunks.
	trailing bool
	behind   []exchange.Field
	headReq  bool // the method is HEAD
	keep     bool // the connection may go on

	status  int
	begun   bool // Head was called
	framing framing
	framed  bool   // out holds the whole head
	started bool   // bytes were handed to the kernel
	out     []byte // ready to be sent
	outBuf  *[]byte
	body    []byte // of a body of unknown length, not yet framed
	bodyBuf *[]byte
	length  int64 // as declared; -1: not
	sent    int64 // of the body, handed to the kernel or buffered
	dated   bool  // the backend gave a Date
	headLen int   // bytes of the head
	nfields int   // its fields
	filed   bool  // bytes of a file were sent
	broken  error // sticky
	early   informer
}

// begin prepares r for a request.
func (r *response) begin(minor int, keep, headReq, gateway bool) {
	r.gate.Lock()
	defer r.gate.Unlock()
	r.minor, r.keep, r.headReq, r.gateway = minor, keep, headReq, gateway
	r.style, r.single, r.ended, r.cut = statusLine, false, false, false
	r.trailing, r.behind = false, nil
	r.status, r.begun, r.framing, r.framed, r.started = 0, false, undecided, false, false
	r.length, r.sent, r.dated, r.broken = -1, 0, false, nil
	r.headLen, r.nfields, r.filed = 0, 0, false
	r.early = informer{}
	if r.outBuf == nil {
		r.outBuf = buffers.Get().(*[]byte)
	}
	r.out, r.body = (*r.outBuf)[:0], nil
}

// end gives the buffers back.
func (r *response) end() {
	if cap(r.out) <= maxBuffer {
		*r.outBuf = r.out[:0]
		buffers.Put(r.outBuf)
	}
	if r.bodyBuf != nil && cap(r.body) <= maxBuffer {
		*r.bodyBuf = r.body[:0]
		buffers.Put(r.bodyBuf)
	}
	r.outBuf, r.bodyBuf, r.out, r.body = nil, nil, nil, nil
}

// Started implements exchange.Response.
func (r *response) Started() bool { return r.started }

// Head implements exchange.Response.
func (r *response) Head(status int, reason string, fields []exchange.Field) error {
	r.gate.Lock()
	defer r.gate.Unlock()
	if r.begun {
		return bad(errTwoHeads)
	}
	if status < 200 || status > 599 {
		return bad(fmt.Errorf("invalid status %d", status))
	}
	if reason == "" {
		reason = exchange.Reason(status)
	} else if !validValue(reason) {
		return bad(fmt.Errorf("invalid reason phrase %.40q", reason))
	}
	out := r.out[:0]
	switch {
	case r.style == statusField:
		out = append(out, "Status: "...)
	case r.minor == 0:
		out = append(out, "HTTP/1.0 "...)
	default:
		out = append(out, "HTTP/1.1 "...)
	}
	out = strconv.AppendInt(out, int64(status), 10)
	out = append(out, ' ')
	out = append(out, reason...)
	out = append(out, "\r\n"...)
	var err error
	for i := range fields {
		if out, err = r.appendField(out, &fields[i]); err != nil {
			r.length, r.dated = -1, false
			return bad(err)
		}
	}
	r.out, r.status, r.begun, r.nfields = out, status, true, len(fields)
	r.c.replies()
	if r.headReq || status == 204 || status == 304 {
		r.framing = noBody
	}
	if r.length >= 0 {
		r.frame()
	}
	return nil
}

// ownField is a field of a backend's answer that concerns the framing.
type ownField uint8

const (
	notOwn ownField = iota
	ownDate
	ownLength
	ownConnection
)

// checkField checks one field of a backend, and returns its value without the
// white space around it.
func checkField(f *exchange.Field) (value string, own ownField, err error) {
	if f.Name == "" {
		return "", notOwn, fmt.Errorf("header field without a name")
	}
	for i := range len(f.Name) {
		if !tokenByte[f.Name[i]] {
			return "", notOwn, fmt.Errorf("invalid header field name %.40q", f.Name)
		}
	}
	value = trim(f.Value)
	if !validValue(value) {
		return "", notOwn, fmt.Errorf("invalid value of header field %s: %.40q", f.Name, value)
	}
	switch len(f.Name) {
	case len("Date"):
		if strings.EqualFold(f.Name, "Date") {
			own = ownDate
		}
	case len("Connection"), len("Content-Length"), len("Proxy-Connection"), len("Transfer-Encoding"):
		switch {
		case strings.EqualFold(f.Name, "Content-Length"):
			own = ownLength
		case strings.EqualFold(f.Name, "Transfer-Encoding"):
			return "", notOwn, fmt.Errorf("header field Transfer-Encoding: framing is the server's")
		case strings.EqualFold(f.Name, "Connection"), strings.EqualFold(f.Name, "Keep-Alive"), strings.EqualFold(f.Name, "Proxy-Connection"):
			own = ownConnection
		}
	}
	return value, own, nil
}

func errAnswerLength(value string) error {
	return fmt.Errorf("invalid or repeated Content-Length %.40q", value)
}

// appendField appends one field of a backend, unless it is the front's own.
func (r *response) appendField(out []byte, f *exchange.Field) ([]byte, error) {
	value, own, err := checkField(f)
	if err != nil {
		return nil, err
	}
	switch own {
	case ownDate:
		r.dated = true
	case ownLength:
		n, ok := parseLength(value)
		if !ok || r.length >= 0 {
			return nil, errAnswerLength(value)
		}
		r.length = n
		return out, nil
	case ownConnection:
		if strings.EqualFold(value, "close") {
			r.keep = false
		}
		return out, nil
	}
	out = append(out, f.Name...)
	out = append(out, ": "...)
	out = append(out, value...)
	return append(out, "\r\n"...), nil
}

// frame decides the framing and completes the head.
func (r *response) frame() {
	if r.framed {
		return
	}
	r.framed = true
	if r.framing == undecided {
		switch {
		case r.length >= 0:
			r.framing = counted
		case r.minor == 1 && !r.gateway:
			r.framing = chunks
		default:
			r.framing, r.keep = untilEnd, r.keep && r.ended
		}
	}
	if r.c.s.draining.Load() {
		r.keep = false
	}
	out := r.out
	if !r.dated && !r.gateway {
		out = append(out, r.c.s.date()...)
	}
	switch {
	case r.framing == chunks:
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	case r.length >= 0 && r.status != 204 && r.status != 304:
		out = append(out, "Content-Length: "...)
		out = strconv.AppendInt(out, r.length, 10)
		out = append(out, "\r\n"...)
	}
	switch {
	case r.gateway:
	case !r.keep && r.minor == 1:
		out = append(out, "Connection: close\r\n"...)
	case r.keep && r.minor == 0:
		out = append(out, "Connection: keep-alive\r\n"...)
	}
	r.out = append(out, "\r\n"...)
	r.headLen = len(r.out)
}

// Write implements exchange.Response. It may keep p's bytes until Flush.
func (r *response) Write(p []byte) (int, error) {
	n, err := r.admit(int64(len(p)))
	if err != nil && n == 0 {
		return 0, err
	}
	if r.framing == noBody {
		return len(p), nil
	}
	p = p[:n]
	switch {
	case r.framing == undecided && len(r.body)+len(p) <= bodyBuffer:
		r.keepBody(p)
	case r.framing == undecided || r.framing == chunks:
		r.frame()
		r.chunk(int64(len(r.body) + len(p)))
		r.emit(r.body, p)
		r.body = r.body[:0]
		r.endChunk()
	default:
		r.emit(p)
	}
	if err == nil {
		err = r.broken
	}
	return len(p), err
}

// admit checks that n more bytes of body may come, and returns how many are
// to be sent.
func (r *response) admit(n int64) (int64, error) {
	switch {
	case r.broken != nil:
		return 0, r.broken
	case !r.begun:
		return 0, bad(errNoHead)
	case r.framing == noBody:
		return 0, nil
	}
	if r.length >= 0 && n > r.length-r.sent {
		n = r.length - r.sent
		r.sent, r.keep = r.length, false
		return n, bad(errLongBody)
	}
	r.sent += n
	return n, nil
}

func (r *response) keepBody(p []byte) {
	if r.bodyBuf == nil {
		r.bodyBuf = buffers.Get().(*[]byte)
		r.body = (*r.bodyBuf)[:0]
	}
	r.body = append(r.body, p...)
}

// chunk opens a chunk of n bytes, if that is the framing.
func (r *response) chunk(n int64) {
	if r.framing == chunks {
		r.out = strconv.AppendInt(r.out, n, 16)
		r.out = append(r.out, "\r\n"...)
	}
}

func (r *response) endChunk() {
	if r.framing == chunks {
		r.out = append(r.out, "\r\n"...)
	}
}

// emit queues parts behind what is queued, and sends when it is much: small
// parts are joined into one write, large ones are not copied.
func (r *response) emit(parts ...[]byte) {
	n := len(r.out)
	for _, p := range parts {
		n += len(p)
	}
	if n <= joinLimit {
		for _, p := range parts {
			r.out = append(r.out, p...)
		}
		if n > bodyBuffer {
			r.send()
		}
		return
	}
	v := make(net.Buffers, 0, 1+len(parts))
	v = append(v, r.out)
	for _, p := range parts {
		for len(p) > maxWrite {
			v, p = append(v, p[:maxWrite]), p[maxWrite:]
		}
		if len(p) > 0 {
			v = append(v, p)
		}
	}
	r.sendv(v)
	r.out = r.out[:0]
}

// sendv sends v, a few parts under one deadline.
func (r *response) sendv(v net.Buffers) {
	r.settle()
	for len(v) > 0 && r.broken == nil {
		k := min(len(v), 2)
		part := v[:k:k]
		v = v[k:]
		r.started = true
		r.c.armWrite()
		if _, err := part.WriteTo(r.c.nc); err != nil {
			r.broken = errClientGone
		}
	}
}

// settle waits until the informational responses are sent.
func (r *response) settle() {
	if !r.early.wait() && r.broken == nil {
		r.broken = errClientGone
	}
}

// send sends what is queued.
func (r *response) send() {
	if r.settle(); len(r.out) == 0 || r.broken != nil {
		return
	}
	r.started = true
	r.broken = r.c.write(r.out)
	r.out = r.out[:0]
}

// Close implements io.Closer: see exchange.Response.
func (r *response) Close() error {
	r.c.interruptWrite()
	return nil
}

// Flush implements exchange.Response: all that was written goes out now.
func (r *response) Flush() error {
	if !r.begun {
		return bad(errNoHead)
	}
	r.frame()
	if len(r.body) > 0 {
		r.chunk(int64(len(r.body)))
		r.out = append(r.out, r.body...)
		r.body = r.body[:0]
		r.endChunk()
	}
	r.send()
	return r.broken
}

// sendContinue tells the client to send its body, unless the answer began.
func (r *response) sendContinue() error {
	r.gate.Lock()
	defer r.gate.Unlock()
	if r.begun {
		return nil
	}
	if !r.early.wait() {
		return errClientGone
	}
	return r.c.write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
}

// Inform implements exchange.Informer.
func (r *response) Inform(status int, fields []exchange.Field) {
	r.gate.Lock()
	defer r.gate.Unlock()
	if r.begun || r.minor == 0 || r.gateway || status < 102 || status > 199 {
		return
	}
	out := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\n", status, exchange.Reason(status))
	for _, f := range looseFields(fields) {
		out = append(append(append(append(out, f.Name...), ": "...), f.Value...), "\r\n"...)
	}
	out = append(out, "\r\n"...)
	r.early.add(func() bool { return r.c.write(out) == nil })
}

// finish completes the answer after the backend returned err, and returns
// what the access log should say went wrong.
func (r *response) finish(err error) error {
	r.settle()
	if err == nil {
		err = r.complete()
	}
	if err != nil && !r.started && !errors.Is(r.broken, errClientGone) {
		return r.errorPage(err)
	}
	r.send() // after an error too: what came of the body, and then no end
	if err != nil || r.broken != nil {
		r.keep, r.cut = false, true
		if r.framing == untilEnd {
			r.c.reset()
		}
	}
	if err == nil {
		err = r.broken
	}
	return err
}

// complete checks that the answer is whole and queues its end.
func (r *response) complete() error {
	switch {
	case r.broken != nil:
		return r.broken
	case !r.begun:
		return bad(errNoAnswer)
	case !r.framed && r.framing == undecided && len(r.behind) > 0:
		r.frame()
		if len(r.body) > 0 { // an empty chunk is the last one
			r.chunk(int64(len(r.body)))
			r.emit(r.body)
			r.body = r.body[:0]
			r.endChunk()
		}
		r.lastChunk()
	case !r.framed && r.framing == undecided:
		r.length = r.sent
		r.frame()
		r.emit(r.body)
		r.body = r.body[:0]
	case !r.framed:
		r.frame()
	case r.framing == chunks:
		r.lastChunk()
	case r.framing == counted && r.sent < r.length:
		return bad(errShortBody)
	}
	return r.broken
}

// lastChunk queues the end of a body in chunks, with the fields behind it (RFC
// 9112 7.1.2).
func (r *response) lastChunk() {
	r.out = append(r.out, "0\r\n"...)
	for _, f := range r.behind {
		r.out = append(append(append(append(r.out, f.Name...), ": "...), f.Value...), "\r\n"...)
	}
	r.out = append(r.out, "\r\n"...)
}

// Trailers implements exchange.Trailerer. A client that has not said that it
// takes them gets none (RFC 9110 6.5.1).
func (r *response) Trailers(fields []exchange.Field) {
	if r.trailing {
		r.behind = trailersAmong(fields)
	}
}

// errorPage answers err instead of what the backend began.
func (r *response) errorPage(err error) error {
	status, page, fields, refused := r.c.s.errorAnswer(err)
	r.begun, r.framed, r.framing, r.broken = false, false, undecided, nil
	r.length, r.sent, r.dated, r.body, r.behind = -1, 0, false, r.body[:0], nil
	if refused {
		r.keep = false // a refusal: where the next request begins is not known
	}
	if e := r.Head(status, "", fields); e != nil {
		return e
	}
	if _, e := io.WriteString(r, page); e != nil {
		return e
	}
	r.send()
	if r.broken != nil {
		r.keep = false
	}
	return err
}
