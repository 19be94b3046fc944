package front

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"liege/serve/exchange"
)

// The protocol's packet: modifier1, size of the variables (little endian),
// modifier2, the variables, then the body: CONTENT_LENGTH bytes. The answer is
// an HTTP/1.x answer that ends with the connection.
const (
	packetHead = 4
	modWSGI    = 0
	modManage  = 30 // WSGI, and SCRIPT_NAME is cut from PATH_INFO
)

var (
	errPacket   = &refusal{400, "malformed uwsgi packet"}
	errModifier = &refusal{501, "this uwsgi modifier is not supported"}
)

// serveUWSGI serves the one request of a connection.
func (c *conn) serveUWSGI(ctx context.Context) {
	vars, strip, err := c.readPacket()
	if err == nil {
		err = c.packetVariables(vars, strip)
	}
	if err != nil {
		c.refuseUWSGI(err)
		return
	}
	length, err := packetLength(c.req.Get("CONTENT_LENGTH"))
	if m := c.s.limits.BodyBytes; err == nil && m > 0 && length > m {
		err = errBodyLarge
	}
	if err != nil {
		c.refuseUWSGI(err)
		return
	}
	c.req.Header, c.req.Info, c.req.Length, c.req.Body = nil, exchange.Info{}, length, eof{}
	if length > 0 {
		c.body.start(length, false)
		c.req.Body = &c.body
	}
	minor := 1
	if c.req.Get("SERVER_PROTOCOL") == "HTTP/1.0" {
		minor = 0
	}
	c.res.begin(minor, false, c.req.Get("REQUEST_METHOD") == "HEAD", true)
	c.req.Info.Err = c.res.finish(c.s.serve(ctx, &c.req, &c.res))
	c.done()
	if length > 0 && !errors.Is(c.body.err, io.EOF) {
		c.linger()
	}
}

func (c *conn) refuseUWSGI(err error) {
	if errors.Is(err, errQuiet) {
		return
	}
	c.req = exchange.Request{Vars: c.req.Vars[:0], Body: eof{}, Start: time.Now()}
	c.res.begin(1, false, false, true)
	c.req.Info.Err = c.res.finish(err)
	c.done()
	c.linger()
}

// readPacket reads the variables of a packet: they must be there within the
// header timeout. strip says that SCRIPT_NAME is to be cut from PATH_INFO.
func (c *conn) readPacket() (vars []byte, strip bool, err error) {
	by := time.Now().Add(c.s.limits.HeaderTimeout)
	c.arm(fresh, c.s.limits.HeaderTimeout)
	if err := c.fill(len(c.buf)); err != nil {
		return nil, false, errQuiet
	}
	c.setWait(busy)
	c.req.Start = time.Now()
	need := packetHead
	for {
		b := c.buf[:c.w]
		if c.spokenHTTP(b) {
			return nil, false, errSpokenHTTP
		}
		if len(b) >= packetHead {
			if b[0] != modWSGI && b[0] != modManage {
				c.s.hint(hintModifier, "a uwsgi packet with modifier1 "+strconv.Itoa(int(b[0]))+" came", "only 0 (WSGI) and 30 are served here", c.nc)
				return nil, false, errModifier
			}
			need = packetHead + int(b[1]) + int(b[2])<<8
			if need > c.s.limits.HeaderBytes+packetHead {
				return nil, false, errLargeHead
			}
		}
		if len(b) >= need && need >= packetHead && len(b) >= packetHead {
			c.r = need
			return b[packetHead:need], b[0] == modManage, nil
		}
		if err := c.more(max(need, minBuffer), by); err != nil {
			return nil, false, err
		}
	}
}

// packetVariables takes the variables of a packet over into the request. What
// a web server names comes before what it takes from the client's header, or
// after it; the last one of a name counts, as in uWSGI. Names that tell uWSGI
// to load or run something (UWSGI_FILE, UWSGI_SETENV, UWSGI_CHDIR …) are
// dropped: whoever reaches the socket may send requests, not code. So is
// HTTP_PROXY (CVE-2016-5385).
func (c *conn) packetVariables(b []byte, strip bool) error {
	s := string(b)
	v := c.req.Vars[:0]
	for s != "" {
		var name, value string
		var ok bool
		if name, s, ok = packetString(s); !ok || !validVariable(name) {
			return errPacket
		}
		if value, s, ok = packetString(s); !ok || strings.ContainsAny(value, "\x00\r\n") {
			return errPacket
		}
		if strings.HasPrefix(name, "UWSGI_") && name != "UWSGI_SCHEME" || name == "HTTP_PROXY" {
			continue
		}
		if len(v) >= 2*c.s.limits.Fields {
			return errManyFields
		}
		v = setVar(v, name, value)
	}
	c.req.Vars = v
	if c.req.Get("REQUEST_METHOD") == "" {
		return errPacket
	}
	if strip {
		path := strings.TrimPrefix(c.req.Get("PATH_INFO"), c.req.Get("SCRIPT_NAME"))
		c.req.Set("PATH_INFO", path)
	}
	return nil
}

func setVar(v []exchange.Var, name, value string) []exchange.Var {
	for i := range v {
		if v[i].Name == name {
			v[i].Value = value
			return v
		}
	}
	return append(v, exchange.Var{Name: name, Value: value})
}

// packetString takes one string with its length off s.
func packetString(s string) (text, rest string, ok bool) {
	if len(s) < 2 {
		return "", "", false
	}
	n := int(s[0]) | int(s[1])<<8
	if len(s)-2 < n {
		return "", "", false
	}
	return s[2 : 2+n], s[2+n:], true
}

// validVariable reports whether s may name a variable of an environment.
func validVariable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == '=' {
			return false
		}
	}
	return s != ""
}

// packetLength is the length of the body; web servers send an empty
// CONTENT_LENGTH when there is none.
func packetLength(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, ok := parseLength(s)
	if !ok {
		return 0, errLength
	}
	return n, nil
}

// errSpokenHTTP is answered to HTTP on a uwsgi listener.
var errSpokenHTTP = &refusal{400, "this socket speaks the uwsgi protocol, not HTTP; " +
	"write http-socket = instead of socket =, or in nginx uwsgi_pass instead of proxy_pass"}

// spokenHTTP reports whether b begins with a method.
func (c *conn) spokenHTTP(b []byte) bool {
	if len(b) < packetHead {
		return false
	}
	for _, m := range [...]string{"GET ", "HEAD", "POST", "PUT ", "PATC", "DELE", "OPTI", "CONN", "TRAC", "PRI "} {
		if bytes.HasPrefix(b, []byte(m)) {
			c.s.hint(hintHTTP, "HTTP came to a uwsgi listener", "http-socket = instead of socket =, or in nginx uwsgi_pass instead of proxy_pass", c.nc)
			return true
		}
	}
	return false
}
