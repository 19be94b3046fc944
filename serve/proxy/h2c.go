package proxy

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"liege/serve/exchange"
)

// HTTP/2 without TLS to a server that is known to speak it (RFC 9113 3.3),
// which is what gRPC servers want. It is net/http's; which connection a request
// takes is decided in h2cpool.go.
//
// Memory is bounded: a server may send h2cStream bytes of an answer ahead, and
// over one connection go so many requests only that those whose clients read
// slowly leave the others room.
const (
	h2cRequests    = 50        // at once over a connection
	h2cStream      = 64 << 10  // bytes that a server may send ahead for one of them
	h2cConn        = 4<<20 - 1 // and for all: more than h2cRequests * h2cStream
	h2cPingAfter   = 15 * time.Second
	h2cPingTimeout = 15 * time.Second
	h2cTries       = 3 // of a request that the server says it has not begun with
)

// newH2C is the transport whose connections are used.
func (c *Client) newH2C() *http.Transport {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, to string) (net.Conn, error) {
			host, _, _ := net.SplitHostPort(to)
			addr, err := hex.DecodeString(host)
			if err != nil {
				return nil, err
			}
			return c.connect(ctx, string(addr))
		},
		Protocols: new(http.Protocols), DisableCompression: true, IdleConnTimeout: idleTime, MaxResponseHeaderBytes: maxHead,
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerConnection: h2cConn, MaxReceiveBufferPerStream: h2cStream,
			SendPingTimeout: h2cPingAfter, PingTimeout: h2cPingTimeout, WriteByteTimeout: c.limits.Silence},
	}
	t.Protocols.SetUnencryptedHTTP2(true)
	return t
}

// H2C sends r on by HTTP/2 without TLS, and answers with what the server says.
// Trailers go through in both directions. When the client is gone, which HTTP/2
// to it can tell, the server is told.
//
// A request is sent again where the server has said that it has not begun with
// it (GOAWAY, REFUSED_STREAM), and where it makes no difference, as in HTTP.
func (c *Client) H2C(ctx context.Context, r *exchange.Request, w exchange.Response, t Target) error {
	r.Info.Backend = "proxy"
	req, err := h2cRequest(r, t)
	if err != nil {
		return err
	}
	again := repeatable(r)
	for tries := 1; ; tries++ {
		cc, old, err := c.h2c.get(ctx, t.Address)
		if err != nil {
			return upstream(t.Address, err)
		}
		x := h2cTrip{c: c, r: r, w: w, addr: t.Address}
		err = x.do(ctx, cc, req)
		switch {
		case err == nil || w.Started() || ctx.Err() != nil || x.body != nil && x.body.begun.Load() || tries == h2cTries:
			return err
		case unbegun(err):
		case old && again && Unanswered(err):
			again = false
		default:
			return err
		}
	}
}

// repeatable reports whether it makes no difference that r is sent twice
// (RFC 9110 9.2.2).
func repeatable(r *exchange.Request) bool {
	m := r.Get("REQUEST_METHOD")
	return (m == "GET" || m == "HEAD" || m == "OPTIONS") && r.Length == 0
}

// h2cRequest is r for net/http, without its body.
func h2cRequest(r *exchange.Request, t Target) (*http.Request, error) {
	host, uri, method := t.Host, t.URI, r.Get("REQUEST_METHOD")
	if host == "" {
		host = r.Get("HTTP_HOST")
	}
	if uri == "" {
		uri = r.Get("REQUEST_URI")
	}
	uri, ok := sentURI(uri)
	if !ok || !token(method) || !visible(host) {
		return nil, errBadRequest
	}
	if host == "" {
		host = "localhost"
	}
	switch {
	case strings.HasPrefix(uri, "//"):
		uri = "http://" + host + uri // net/http takes it off again
	case uri == "" || uri[0] != '/' && uri != "*":
		uri = "/" + uri
	}
	req := &http.Request{Method: method, Host: host, URL: &url.URL{Scheme: "http", Host: host, Opaque: uri}, Header: http.Header{"User-Agent": {""}}, Proto: "HTTP/2.0", ProtoMajor: 2}
	var name []byte
	for i := range r.Vars {
		v := &r.Vars[i]
		if b, ok := appendName(name[:0], v.Name); ok && valid(v.Value) && !doubled(r, v) {
			req.Header[string(b)] = []string{v.Value}
			name = b
		}
	}
	addMetadata(req.Header, r)
	if f := appendForwarded(nil, r.Get("HTTP_X_FORWARDED_FOR"), r.Get("REMOTE_ADDR")); len(f) > 0 {
		_, value, _ := strings.Cut(strings.TrimSuffix(string(f), "\r\n"), ": ")
		req.Header["X-Forwarded-For"] = []string{value}
	}
	if takesTrailers(r.Header) {
		req.Header["Te"] = []string{"trailers"} // gRPC servers insist
	}
	if req.ContentLength = r.Length; r.Length != 0 && r.Trailers != nil {
		req.Trailer = http.Header{}
		for _, f := range r.Trailers() {
			req.Trailer[http.CanonicalHeaderKey(f.Name)] = nil // their values come with the end of the body
		}
	}
	return req, nil
}

// takesTrailers reports whether the client said so (RFC 9110 10.1.4).
func takesTrailers(fields []exchange.Field) bool {
	return slices.ContainsFunc(fields, func(f exchange.Field) bool {
		return strings.EqualFold(f.Name, "TE") && strings.Contains(strings.ToLower(f.Value), "trailers")
	})
}

// h2cTrip is one request and its answer.
type h2cTrip struct {
	c     *Client
	r     *exchange.Request
	w     exchange.Response
	addr  string
	body  *h2cBody // nil: none
	watch *vigil
}

var (
	errSilent     = errors.New("it has been silent for too long")
	errClientLeft = errors.New("the client has left")
)

func (x *h2cTrip) do(ctx context.Context, cc *http.ClientConn, req *http.Request) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	x.watch = newVigil(x.c.limits.Silence, func() { cancel(errSilent) })
	defer x.watch.stop()
	if stop := exchange.Watch(x.w, func() { cancel(errClientLeft) }); stop != nil {
		defer stop()
	}
	req = req.WithContext(ctx)
	if x.r.Length != 0 {
		if p, ok := x.r.Body.(exchange.Patient); ok {
			p.Wait() // x.watch does, for both sides
		}
		x.body = &h2cBody{body: newBody(x.r, nil), watch: x.watch, r: x.r, trailer: req.Trailer}
		req.Body = x.body
	}
	err := x.exchange(cc, req)
	if x.body != nil {
		cancel(nil) // the server wants no more of it
		if cause := x.body.body.take(); err != nil && cause != nil && !x.w.Started() {
			return cause // the client's doing
		}
	}
	switch cause := context.Cause(ctx); {
	case err == nil:
		return nil
	case errors.Is(cause, errSilent):
		return &exchange.StatusError{Status: 504, Err: fmt.Errorf("upstream %s: %w", x.addr, errSilent)}
	case errors.Is(cause, errClientLeft):
		return fmt.Errorf("upstream %s: %w", x.addr, errClientLeft)
	}
	return err
}

// exchange sends the request and sends the answer on.
func (x *h2cTrip) exchange(cc *http.ClientConn, req *http.Request) error {
	res, err := cc.RoundTrip(req)
	if err != nil {
		return x.failed(err)
	}
	defer res.Body.Close()
	x.watch.alive()
	fields, err := h2cFields(res)
	if err != nil {
		return upstream(x.addr, err)
	}
	if err := x.w.Head(res.StatusCode, "", fields); err != nil {
		return err
	}
	if res.ContentLength < 0 { // a stream may have nothing to say for long
		if err := x.w.Flush(); err != nil {
			return err
		}
	}
	if err := copyBody(x.w, lively{res.Body, x.watch}, res.ContentLength, x.addr); err != nil {
		return err
	}
	if len(res.Trailer) > 0 {
		exchange.SendTrailers(x.w, appendHeader(nil, res.Trailer))
	}
	return nil
}

// failed is an error before there was an answer.
func (x *h2cTrip) failed(err error) error {
	switch text := err.Error(); {
	case unbegun(err):
	case strings.Contains(text, "request header list larger than"): // than the server's own limit
		return &exchange.StatusError{Status: 431, Err: fmt.Errorf("upstream %s: %w", x.addr, err)}
	case isStreamError(err), strings.Contains(text, "http2: "), strings.HasPrefix(text, "connection error: "):
		// It has said something, or broken the protocol.
	default:
		err = fmt.Errorf("%w (%w)", errNoAnswer, err)
	}
	return upstream(x.addr, err)
}

// h2cError is net/http's error of one stream, which fills in a struct of this
// shape.
type h2cError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (h2cError) Error() string { return "stream error" }

func isStreamError(err error) bool {
	_, ok := errors.AsType[h2cError](err)
	return ok
}

// unbegun reports whether the server has said that it did not begin with the
// request: RFC 9113 8.7.
func unbegun(err error) bool {
	if e, ok := errors.AsType[h2cError](err); ok {
		return e.Code == 7 // REFUSED_STREAM
	}
	return strings.Contains(err.Error(), "graceful shutdown GOAWAY") || strings.Contains(err.Error(), "client conn not usable")
}

// h2cFields are the fields of an answer but those of one connection.
func h2cFields(res *http.Response) ([]exchange.Field, error) {
	if res.StatusCode < 200 || res.StatusCode > 599 {
		return nil, fmt.Errorf("its status is %d", res.StatusCode)
	}
	for _, name := range []string{"Connection", "Proxy-Connection", "Keep-Alive", "Transfer-Encoding", "Upgrade", "Te", "Trailer", "Content-Length"} {
		delete(res.Header, name)
	}
	fields := appendHeader(nil, res.Header)
	if res.ContentLength >= 0 && (res.ContentLength > 0 || res.Trailer == nil) {
		fields = append(fields, exchange.Field{Name: "Content-Length", Value: strconv.FormatInt(res.ContentLength, 10)})
	}
	if len(fields) > maxFields {
		return nil, errManyField
	}
	return fields, nil
}

// appendHeader appends the fields of h, by name.
func appendHeader(to []exchange.Field, h http.Header) []exchange.Field {
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, v := range h[name] {
			to = append(to, exchange.Field{Name: name, Value: v})
		}
	}
	return to
}

// h2cBody is the body of a request on its way to the server.
type h2cBody struct {
	body    *body
	r       *exchange.Request
	trailer http.Header
	watch   *vigil
	begun   atomic.Bool // it was read
}

func (b *h2cBody) Read(p []byte) (int, error) {
	b.begun.Store(true)
	n, err := b.body.Read(p)
	b.watch.alive()
	if errors.Is(err, io.EOF) && b.trailer != nil {
		for _, f := range b.r.Trailers() {
			if k := http.CanonicalHeaderKey(f.Name); f.Value != "" {
				b.trailer[k] = append(b.trailer[k], f.Value)
			}
		}
	}
	return n, err
}

// Close is called when no more of it is wanted. Whoever owns it takes it back.
func (b *h2cBody) Close() error { return nil }

// lively is an answer's body of which each piece is a sign of life.
type lively struct {
	io.Reader
	watch *vigil
}

func (l lively) Read(p []byte) (int, error) {
	l.watch.alive() // writing what came before may have taken long
	n, err := l.Reader.Read(p)
	l.watch.alive()
	return n, err
}

// vigil calls a function once nothing has been heard for a time.
type vigil struct {
	d     time.Duration
	timer *time.Timer
	last  atomic.Int64
}

func newVigil(d time.Duration, over func()) *vigil {
	v := &vigil{d: d}
	v.last.Store(time.Now().UnixNano())
	v.timer = time.AfterFunc(d, over)
	return v
}

// alive begins the time anew. What is at most an eighth too early is left
// alone.
func (v *vigil) alive() {
	now := time.Now().UnixNano()
	if last := v.last.Load(); now-last > int64(v.d/8) && v.last.CompareAndSwap(last, now) {
		v.timer.Reset(v.d)
	}
}

func (v *vigil) stop() { v.timer.Stop() }
