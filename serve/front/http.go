package front

import (
	"context"
	"errors"
	"io"
	"strconv"
	"time"

	"liege/serve/exchange"
)

// serveHTTP serves the requests of one connection.
func (c *conn) serveHTTP(ctx context.Context) {
	wait, d := fresh, c.s.limits.HeaderTimeout
	for {
		c.head.reset()
		s, err := c.readHead(wait, d)
		if err != nil {
			c.refuse(err)
			return
		}
		if err := c.head.parse(s, c.s.limits.Fields); err != nil {
			c.refuse(err)
			return
		}
		if !c.exchangeHTTP(ctx) {
			return
		}
		wait, d = idle, c.s.limits.IdleTimeout
	}
}

// errQuiet ends a connection on which there is nobody to answer.
var errQuiet = errors.New("no request")

// readHead reads one whole head: it waits d for its first byte and the header
// timeout for the rest. An empty line before the first request line is
// skipped (RFC 9112 2.2).
func (c *conn) readHead(w waiting, d time.Duration) (string, error) {
	limit := c.s.limits.HeaderBytes
	line, scanned := 0, 0 // relative to c.r
	if c.r == c.w {
		c.rest()
		c.arm(w, d)
		if err := c.fill(limit); err != nil {
			return "", errQuiet
		}
	}
	if err := c.wrongProtocol(); err != nil {
		return "", err
	}
	var by time.Time
	skipped := false
	for {
		b := c.buf[c.r:c.w]
		if !skipped && len(b) >= 2 && b[0] == '\r' && b[1] == '\n' {
			skipped = true
			c.r += 2
			line, scanned = 0, 0
			continue
		}
		var n int
		var err error
		if n, line, scanned, err = headEnd(b, line, scanned); err != nil {
			return "", err
		}
		if n > limit || n == 0 && len(b) >= limit {
			if line == 0 {
				return "", errLongTarget
			}
			return "", errLargeHead
		}
		if n > 0 {
			s := string(b[:n])
			c.r += n
			return s, nil
		}
		if by.IsZero() {
			by = time.Now().Add(c.s.limits.HeaderTimeout)
		}
		if err := c.more(limit, by); err != nil {
			return "", err
		}
	}
}

// more reads more of a head that must be complete at by.
func (c *conn) more(limit int, by time.Time) error {
	if err := c.armHead(by); err != nil {
		return err
	}
	if err := c.fill(limit + 2); err != nil {
		return c.whyHead(err)
	}
	return nil
}

// wrongProtocol looks at the first bytes of a request: a uwsgi packet
// (modifier 0 or 30, so a byte no method begins with) or a FastCGI record gets
// no answer, which it could not read.
func (c *conn) wrongProtocol() error {
	switch b := c.buf[c.r:c.w]; {
	case b[0] == 0 || b[0] == 30:
		c.s.hint(hintUwsgi, "a uwsgi packet came to an http listener", "use proxy_pass in nginx, or socket = instead of http-socket =", c.nc)
		return errQuiet
	case b[0] == fcgiVersion:
		c.s.hint(hintFastCGI, "a FastCGI record came to an http listener", "use proxy_pass in nginx, or fastcgi-socket = instead of http-socket =", c.nc)
		return errQuiet
	case len(b) > 1 && b[0] == 0x16 && b[1] == 3:
		c.s.hint(hintTLS, "a TLS handshake came to an http listener", "use http://", c.nc)
	}
	return nil
}

// refuse answers a request that is not served, and ends the connection.
func (c *conn) refuse(err error) {
	if errors.Is(err, errQuiet) {
		return
	}
	// For the access log, which escapes what is not valid.
	vars := append(c.req.Vars[:0], c.peer[0], exchange.Var{Name: "REQUEST_METHOD", Value: c.head.method},
		exchange.Var{Name: "REQUEST_URI", Value: c.head.target})
	c.req = exchange.Request{Vars: vars, Body: eof{}, Start: time.Now()}
	c.res.begin(1, false, c.head.method == "HEAD", false)
	c.req.Info.Err = c.res.finish(err)
	c.done()
	c.linger()
}

// eof is the body of a request without one.
type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// exchangeHTTP serves the request that c.head holds, and reports whether
// another may follow.
func (c *conn) exchangeHTTP(ctx context.Context) bool {
	h := &c.head
	c.req.Start = time.Now()
	c.req.Header = h.fields
	err := c.variables()
	if err == nil && c.misdirected(h.host) {
		err = errMisdirected
	}
	if err != nil {
		c.refuse(err)
		return false
	}
	c.req.Info, c.req.Modifier1 = exchange.Info{}, c.modifier1
	c.req.Length = max(h.length, 0)
	c.req.Body = eof{}
	if h.chunked {
		c.req.Length = -1
	}
	if h.hasBody() {
		if m := c.s.limits.BodyBytes; m > 0 && h.length > m {
			c.refuse(errBodyLarge)
			return false
		}
		c.body.start(c.req.Length, h.expect && c.r == c.w)
		c.req.Body = &c.body
	}
	c.res.begin(h.minor, c.s.limits.KeepAlive && h.keep(), h.method == "HEAD", false)
	c.res.trailing = h.trailers && h.minor == 1
	c.req.Trailing = c.res.trailing
	c.answer(ctx)
	keep := c.res.keep
	c.done()
	if h.hasBody() && (!keep || !c.body.discard()) {
		if !errors.Is(c.body.err, io.EOF) {
			c.linger()
		}
		return false
	}
	if !keep && c.r < c.w {
		c.linger()
	}
	return keep
}

// answer hands the request to the handler and completes what it answers.
func (c *conn) answer(ctx context.Context) {
	c.serving()
	if err := c.res.finish(c.s.serve(ctx, c.handler, &c.req, &c.res)); err != nil {
		c.req.Info.Err = err // else what a handler that answered says went wrong
	}
}

// done tells the owner about an answer that is complete, and gives the
// buffers back.
func (c *conn) done() {
	i, res := &c.req.Info, &c.res
	i.Status, i.Bytes, i.Fields, i.Head, i.File = res.status, res.sent, res.nfields, res.headLen, res.filed
	c.s.cfg.Done(&c.req)
	c.res.end()
}

// variables fills in the CGI variables of c.head.
func (c *conn) variables() (err error) {
	proto := "HTTP/1.1"
	if c.head.minor == 0 {
		proto = "HTTP/1.0"
	}
	vars, err := c.variablesOf(&c.head, c.req.Vars[:0], proto)
	if err == nil {
		c.req.Vars = vars
	}
	return err
}

// variablesOf appends the CGI variables of h to v (RFC 3875 4.1, as uWSGI's
// http-socket names them).
func (c *conn) variablesOf(h *head, v []exchange.Var, proto string) ([]exchange.Var, error) {
	raw, query := splitURI(h.uri)
	path, err := cleanPath(raw)
	if err != nil {
		return nil, err
	}
	v = append(v,
		exchange.Var{Name: "REQUEST_METHOD", Value: h.method},
		exchange.Var{Name: "REQUEST_URI", Value: h.uri},
		exchange.Var{Name: "PATH_INFO", Value: path},
		exchange.Var{Name: "QUERY_STRING", Value: query},
		exchange.Var{Name: "SERVER_PROTOCOL", Value: proto},
		exchange.Var{Name: "SCRIPT_NAME", Value: ""},
		exchange.Var{Name: "REQUEST_SCHEME", Value: c.scheme()})
	v = append(v, c.peer[:]...)
	v = append(v, c.extra...)
	if h.length >= 0 {
		v = append(v, exchange.Var{Name: "CONTENT_LENGTH", Value: strconv.FormatInt(h.length, 10)})
	}
	if h.host != "" {
		v = append(v, exchange.Var{Name: "HTTP_HOST", Value: h.host})
	}
	if h.upgrade { // RFC 9110 7.8: without the option of Connection, Upgrade means nothing
		v = append(v, exchange.Var{Name: "HTTP_CONNECTION", Value: "Upgrade"})
	}
	if h.trailers {
		v = append(v, exchange.Var{Name: "HTTP_TE", Value: "trailers"})
	}
	own := len(v)
	for i := range h.fields {
		v = addField(v, own, h.known[i], &h.fields[i], h.upgrade)
	}
	if len(c.set) > 0 || c.hostName {
		v = c.settle(v, h.host)
	}
	return v, nil
}

// addField adds the variable of one field to v. Repeated fields are joined as
// RFC 9110 5.3 says, cookies as RFC 9113 8.2.3.
func addField(v []exchange.Var, own int, k known, f *exchange.Field, upgrade bool) []exchange.Var {
	var name string
	join := ", "
	switch k {
	case hOther:
		name = variable(f.Name)
	case hContentType, hNormal:
		_, name = lookupVar(f.Name)
	case hUpgrade:
		if upgrade {
			name = "HTTP_UPGRADE"
		}
	case hCookie:
		name, join = "HTTP_COOKIE", "; "
	}
	if name == "" {
		return v
	}
	for i := own; i < len(v); i++ {
		if v[i].Name == name {
			v[i].Value += join + f.Value
			return v
		}
	}
	return append(v, exchange.Var{Name: name, Value: f.Value})
}
