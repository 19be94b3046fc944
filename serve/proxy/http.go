package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"

	"liege/serve/exchange"
)

// Target is an HTTP server and what it is asked for.
type Target struct {
	Address string // HOST:PORT, the path of a socket, or @name
	Host    string // the field Host; empty: the client's
	URI     string // the request target; empty: REQUEST_URI
	Upgrade bool   // an upgraded connection becomes a tunnel
}

// buffers holds those of requests and bodies. It is a cache.
var buffers = sync.Pool{New: func() any { b := make([]byte, pieceSize); return &b }}

// HTTP sends r on and answers with what the server says.
//
// A connection that has been used before may turn out to be closed by now. A
// request for which that makes no difference (RFC 9110 9.2.2, without a body)
// is sent again over a new one; others get a new one at once.
func (c *Client) HTTP(ctx context.Context, r *exchange.Request, w exchange.Response, t Target) error {
	r.Info.Backend = "proxy"
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	request, upgrade, err := appendRequest((*buf)[:0], r, t)
	if err != nil {
		return err
	}
	m := r.Get("REQUEST_METHOD")
	again := (m == "GET" || m == "HEAD" || m == "OPTIONS") && r.Length == 0 && !upgrade
	for tried := false; ; {
		nc, old, err := c.get(ctx, t.Address, again)
		if err != nil && tried { // it is not Unsent any more
			err = fmt.Errorf("%w, and then: %s", errNoAnswer, err.Error())
		}
		if err != nil {
			return upstream(t.Address, err)
		}
		x := trip{c: c, r: r, w: w, nc: nc, old: old, method: m, upgrade: upgrade}
		switch err = x.do(ctx, request); {
		case errors.Is(err, errStale): // the next one
		case !x.heard && old && err != nil && exchange.StatusOf(err) == 502 && ctx.Err() == nil:
			again, tried = false, true // once: over a new connection
		default:
			return err
		}
	}
}

// trip is one request and its answer over one connection.
type trip struct {
	c       *Client
	r       *exchange.Request
	w       exchange.Response
	nc      *conn
	old     bool // nc was used before
	method  string
	upgrade bool
	heard   bool // something of the answer has come
	whole   bool // the request was sent, the answer read: the connection can be used again
}

func (x *trip) do(ctx context.Context, request []byte) error {
	nc := x.nc
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer func() {
		if stop() && x.whole {
			x.c.pool.put(nc)
			return
		}
		nc.Close()
	}()
	var err error
	switch {
	case x.r.Length != 0:
		return x.withBody(ctx, request)
	case x.old:
		err = nc.again(request)
	default:
		_, err = nc.Write(request)
	}
	switch {
	case errors.Is(err, errStale):
		return err
	case err != nil:
		return upstream(nc.addr, err)
	}
	return x.answer(ctx)
}

// withBody sends the request by a goroutine of its own, which is gone when it
// returns: a server may answer before it has the whole body.
func (x *trip) withBody(ctx context.Context, request []byte) error {
	nc, b := x.nc, newBody(x.r, x.nc)
	sent := make(chan error, 1)
	chunked := x.r.Length < 0
	go func() {
		_, err := nc.Write(request)
		if err == nil {
			err = sendBody(nc, b, chunked)
		}
		if b.failed() {
			nc.Close() // ends the wait for an answer
		}
		sent <- err
	}()
	err := x.answer(ctx)
	if !b.ended() {
		nc.Close() // the server wants no more of it
	}
	cause := b.take()
	if serr := <-sent; serr != nil {
		x.whole = false
	}
	if err != nil && cause != nil && !x.w.Started() {
		return cause // the client's doing
	}
	return err
}

// sendBody sends the request's body on, each piece at once.
func sendBody(w io.Writer, b *body, chunked bool) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	const room = 16 // for the size of a chunk
	for {
		n, err := b.Read((*buf)[room : len(*buf)-2])
		piece := (*buf)[room : room+n]
		if n > 0 && chunked {
			head := strconv.AppendInt(make([]byte, 0, room), int64(n), 16)
			head = append(head, "\r\n"...)
			at := room - len(head)
			copy((*buf)[at:], head)
			piece = append((*buf)[at:room+n], "\r\n"...)
		}
		if n > 0 {
			if _, werr := w.Write(piece); werr != nil {
				return werr
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			if chunked {
				_, err = io.WriteString(w, "0\r\n\r\n")
				return err
			}
			return nil
		case err != nil:
			return err
		}
	}
}

// maxInterim bounds the 1xx answers before the answer.
const maxInterim = 8

// answer reads the answer and sends it on.
func (x *trip) answer(ctx context.Context) error {
	nc := x.nc
	h := &nc.head
	for range maxInterim {
		if _, err := nc.br.Peek(1); err != nil {
			if errors.Is(err, io.EOF) {
				err = errNoAnswer
			}
			return upstream(nc.addr, err)
		}
		x.heard = true
		if err := h.read(nc.br, false); err != nil {
			return upstream(nc.addr, err)
		}
		switch {
		case h.status == 101:
			return x.c.switched(ctx, h, x.w, nc, nc.br, x.upgrade)
		case h.status >= 200:
			return x.relay(h, nc.br)
		}
	}
	return upstream(nc.addr, errors.New("it sends one interim answer after the other"))
}

// relay sends an answer on whose body is in br.
func (x *trip) relay(h *head, br *bufio.Reader) error {
	if err := x.w.Head(h.status, h.reason, h.fields); err != nil {
		return err
	}
	none := x.method == "HEAD" || h.status == 204 || h.status == 304
	var err error
	switch {
	case none:
	case h.chunked:
		err = copyBody(x.w, &chunks{br: br}, -1, x.nc.addr)
	case h.length >= 0:
		err = x.counted(br, h.length)
	default:
		err = copyBody(x.w, br, -1, x.nc.addr)
		h.last = true
	}
	x.whole = err == nil && !h.last && br.Buffered() == 0
	return err
}

// counted sends a body of n bytes on; one that is there already without a copy.
func (x *trip) counted(br *bufio.Reader, n int64) error {
	if n <= int64(br.Buffered()) {
		b, err := br.Peek(int(n))
		if err == nil {
			_, err = x.w.Write(b)
		}
		if err == nil {
			_, err = br.Discard(int(n))
		}
		return err
	}
	body := &io.LimitedReader{R: br, N: n}
	if err := copyBody(x.w, body, n, x.nc.addr); err != nil {
		return err
	}
	if body.N > 0 {
		return upstream(x.nc.addr, io.ErrUnexpectedEOF)
	}
	return nil
}

// pieceSize is how much of a body is in hand at once.
const pieceSize = 32 << 10

// copyBody sends on what comes, each piece at once unless the whole is there.
func copyBody(w exchange.Response, from io.Reader, length int64, addr string) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	sent := int64(0)
	for {
		n, err := from.Read(*buf)
		if n > 0 {
			if _, werr := w.Write((*buf)[:n]); werr != nil {
				return werr
			}
			if sent += int64(n); sent != length && err == nil {
				if werr := w.Flush(); werr != nil {
					return werr
				}
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return upstream(addr, err)
		}
	}
}

var errBadRequest = &exchange.StatusError{Status: 400, Err: errors.New("the method, target or host for the upstream has an invalid byte")}

// appendRequest appends the head to send. The header fields are the variables
// HTTP_*: what rules have set goes with it, and what concerns the client's
// connection does not.
func appendRequest(b []byte, r *exchange.Request, t Target) ([]byte, bool, error) {
	uri, method, host := t.URI, r.Get("REQUEST_METHOD"), t.Host
	if uri == "" {
		uri = r.Get("REQUEST_URI")
	}
	if host == "" {
		host = r.Get("HTTP_HOST")
	}
	uri, ok := sentURI(uri)
	if !ok || !token(method) || !valid(host) || strings.ContainsAny(host, " \t") {
		return b, false, errBadRequest
	}
	b = append(append(b, method...), ' ')
	if uri == "" || uri[0] != '/' && uri != "*" {
		b = append(b, '/')
	}
	b = append(append(b, uri...), " HTTP/1.1\r\nHost: "...)
	b = append(append(b, host...), "\r\n"...)
	for i := range r.Vars {
		if v := &r.Vars[i]; valid(v.Value) && !doubled(r, v) {
			b = appendField(b, v.Name, v.Value)
		}
	}
	b = appendForwarded(b, r.Get("HTTP_X_FORWARDED_FOR"), r.Get("REMOTE_ADDR"))
	upgrade := t.Upgrade && r.Length == 0 && Upgrades(r)
	switch {
	case upgrade:
		b = append(b, "Connection: Upgrade\r\nUpgrade: "+r.Get("HTTP_UPGRADE")+"\r\n"...) // as the client wrote it
	case r.Length > 0:
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), r.Length, 10), "\r\n"...)
	case r.Length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case method == "POST" || method == "PUT" || method == "PATCH":
		b = append(b, "Content-Length: 0\r\n"...) // RFC 9110 8.6
	}
	return append(b, "\r\n"...), upgrade, nil
}

// appendForwarded appends X-Forwarded-For: what the client said of itself, and
// then its address.
func appendForwarded(b []byte, old, addr string) []byte {
	if old == "" || !valid(old) {
		old = ""
	} else if addr != "" {
		old += ", "
	}
	if !valid(addr) || old+addr == "" {
		return b
	}
	return append(append(append(append(b, "X-Forwarded-For: "...), old...), addr...), "\r\n"...)
}

// sentURI is uri as an upstream gets it; false: it would end the request line.
// It has no dot segments: rules have decided about the path without them. Bytes
// from 0x80 are encoded: servers refuse them (Puma does), or take 0x85 and 0xa0
// for blanks (Python's http.server).
func sentURI(uri string) (string, bool) {
	for i := range len(uri) {
		if c := uri[i]; c <= ' ' || c == 0x7f {
			return "", false
		}
	}
	return exchange.URL(exchange.Undotted(uri)), true
}

func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// doubled reports whether v would be a second Content-Type, or an empty one.
// Web servers send the client's field beside the variable that they make of it
// (nginx's uwsgi_params and the like: empty where there is none), and of two
// that a server gets each may believe another.
func doubled(r *exchange.Request, v *exchange.Var) bool {
	switch v.Name {
	case "CONTENT_TYPE":
		return v.Value == ""
	case "HTTP_CONTENT_TYPE":
		return v.Value == "" || slices.ContainsFunc(r.Vars, func(o exchange.Var) bool { return o.Name == "CONTENT_TYPE" })
	}
	return false
}

// appendField appends the header field that the variable name came from;
// nothing for what appendName refuses.
func appendField(b []byte, name, value string) []byte {
	b, ok := appendName(b, name)
	if !ok {
		return b
	}
	return append(append(append(b, ": "...), value...), "\r\n"...)
}

// appendName appends the name of the header field that a variable came from,
// unless there is none, or it concerns the client's connection or is made
// anew.
func appendName(b []byte, variable string) ([]byte, bool) {
	rest, ok := strings.CutPrefix(variable, "HTTP_")
	if variable == "CONTENT_TYPE" {
		rest, ok = variable, true
	}
	if !ok {
		return b, false
	}
	switch rest {
	case "", "HOST", "CONNECTION", "UPGRADE", "KEEP_ALIVE", "TE", "TRAILER", "TRANSFER_ENCODING", "CONTENT_LENGTH", "PROXY", "PROXY_CONNECTION", "EXPECT", "X_FORWARDED_FOR":
		return b, false
	}
	start, up := len(b), true
	for i := range len(rest) {
		c := rest[i]
		switch {
		case c == '_':
			b, up = append(b, '-'), true
			continue
		case c >= 'A' && c <= 'Z' && !up:
			c |= 0x20
		case (c < 'A' || c > 'Z') && (c < '0' || c > '9'):
			return b[:start], false
		}
		b, up = append(b, c), false
	}
	return b, true
}
