package front

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"liege/serve/exchange"
	"liege/vassal"
)

var errVariable = &refusal{400, "malformed variable"}

// serveGateway serves a connection of one of the protocols that web servers
// speak to what is behind them.
func (c *conn) serveGateway(ctx context.Context, p vassal.Protocol) {
	switch p {
	case vassal.UWSGI, vassal.SUWSGI:
		c.serveUWSGI(ctx)
	case vassal.PUWSGI:
		c.persist = true
		for c.serveUWSGI(ctx) {
		}
	case vassal.SCGI, vassal.SCGINPH:
		c.serveSCGI(ctx, p == vassal.SCGINPH)
	case vassal.FastCGI, vassal.FastCGINPH:
		c.serveFastCGI(ctx, p == vassal.FastCGINPH)
	}
}

// gateway reports whether p is one of those, so that a client's address and
// the server's name are variables that the peer sends.
func gateway(p vassal.Protocol) bool {
	switch p {
	case vassal.UWSGI, vassal.SUWSGI, vassal.PUWSGI, vassal.SCGI, vassal.SCGINPH, vassal.FastCGI, vassal.FastCGINPH:
		return true
	}
	return false
}

// variable takes one variable of a peer over into the request. What a web
// server names comes before what it takes from the client's header, or after
// it; the last one of a name counts, as in uWSGI. Names that tell uWSGI to
// load or run something (UWSGI_FILE, UWSGI_SETENV, UWSGI_CHDIR …) are dropped,
// and so are those that set PHP's configuration (php-fpm's PHP_VALUE and
// PHP_ADMIN_VALUE): whoever reaches the socket may send requests, not code.
// So is HTTP_PROXY (CVE-2016-5385), and HTTP_TE: that says what the connection
// takes (RFC 9110 10.1.4), and no trailers get through this one. And so are those
// that a worker's program takes for the core's own words (liege.retire …).
func (c *conn) variable(name, value string) error {
	if !validVariable(name) || strings.ContainsAny(value, "\x00\r\n") {
		return errVariable
	}
	switch {
	case strings.HasPrefix(name, "UWSGI_") && name != "UWSGI_SCHEME", strings.HasPrefix(name, "liege."),
		name == "HTTP_PROXY", name == "HTTP_TE", name == "PHP_VALUE", name == "PHP_ADMIN_VALUE":
		return nil
	case len(c.req.Vars) >= 2*c.s.limits.Fields:
		return errManyFields
	}
	c.req.Vars = setVar(c.req.Vars, name, value)
	return nil
}

// located fills in PATH_INFO where the peer sent none. nginx's own
// fastcgi_params and scgi_params name DOCUMENT_URI, and SCRIPT_NAME as the
// same: to PHP both are the file; an app that is no file lies at the root, and
// all of it is PATH_INFO.
func (c *conn) located() {
	for i := range c.req.Vars {
		if c.req.Vars[i].Name == "PATH_INFO" {
			return
		}
	}
	uri := c.req.Get("DOCUMENT_URI")
	if uri == "" {
		return
	}
	if c.req.Get("SCRIPT_NAME") == uri {
		c.req.Set("SCRIPT_NAME", "")
	}
	c.req.Set("PATH_INFO", uri)
}

// minorVersion is the minor version of the client's HTTP, as far as the peer
// says.
func (c *conn) minorVersion() int {
	if c.req.Get("SERVER_PROTOCOL") == "HTTP/1.0" {
		return 0
	}
	return 1
}

// refuseGateway answers a request of such a protocol that is not served. It
// ends the connection.
func (c *conn) refuseGateway(err error, style headStyle) {
	if errors.Is(err, errQuiet) {
		return
	}
	c.req = exchange.Request{Vars: c.req.Vars[:0], Body: eof{}, Start: time.Now()}
	c.res.begin(1, false, false, true)
	c.res.style = style
	c.req.Info.Err = c.res.finish(err)
	c.done()
}

// cutAnswer reports whether the answer is not whole, as the client sees it.
func (c *conn) cutAnswer() bool { return c.res.broken != nil || c.res.cut }

// unread reports whether the peer may still be sending a body.
func (c *conn) unread(length int64) bool {
	return length != 0 && !errors.Is(c.body.err, io.EOF)
}

// headStyle is how an answer's head begins.
type headStyle uint8

const (
	statusLine  headStyle = iota // HTTP/1.1 200 OK
	statusField                  // Status: 200 OK (RFC 3875 6.3.3)
)
