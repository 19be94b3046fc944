package front

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"liege/serve/exchange"
)

// The protocol's packet: modifier1, size of the variables (little endian),
// modifier2, the variables, then the body: CONTENT_LENGTH bytes. The answer is
// an HTTP/1.x answer that ends with the connection.
const (
	packetHead = 4
	modWSGI    = exchange.ToApplication
	modCGI     = exchange.ToCGI
	modManage  = 30 // WSGI, and SCRIPT_NAME is cut from PATH_INFO
)

var (
	errPacket   = &refusal{400, "malformed uwsgi packet"}
	errModifier = &refusal{501, "this uwsgi modifier is not supported"}
)

// serveUWSGI serves one request of a connection, and reports whether another
// may follow: only a peer that speaks puwsgi, the form of the protocol whose
// connections persist, sends one.
func (c *conn) serveUWSGI(ctx context.Context) bool {
	vars, modifier, err := c.readPacket()
	if err == nil && modifier == modRPC {
		c.serveRPC(ctx, vars)
		return false
	}
	if err == nil {
		err = c.packetVariables(vars, modifier == modManage)
	}
	length := int64(0)
	if err == nil {
		length, err = packetLength(c.req.Get("CONTENT_LENGTH"))
	}
	if m := c.s.limits.BodyBytes; err == nil && m > 0 && length > m {
		err = errBodyLarge
	}
	if err != nil {
		if !errors.Is(err, errQuiet) {
			c.refuseGateway(err, statusLine)
			c.linger()
		}
		return false
	}
	c.req.Header, c.req.Info, c.req.Length, c.req.Body = nil, exchange.Info{}, length, eof{}
	if c.req.Modifier1 = modifier; modifier == modManage {
		c.req.Modifier1 = exchange.ToApplication
	}
	if length > 0 {
		c.body.start(length, false)
		c.req.Body = &c.body
	}
	c.res.begin(c.minorVersion(), c.persist, c.req.Get("REQUEST_METHOD") == "HEAD", true)
	c.answer(ctx)
	keep := c.res.keep
	c.done()
	if c.unread(length) && (!keep || !c.body.discard()) {
		c.linger()
		return false
	}
	return keep
}

// askable says what each modifier1 of a packet means.
func askable(cfg *Config) (asked [256]int16) {
	serves := func(n uint8) bool {
		switch n {
		case modWSGI, modManage, cfg.Own:
			return true
		case modCGI:
			return cfg.CGI
		case exchange.ToPHP:
			return cfg.PHP
		case modRPC:
			return cfg.Call != nil
		}
		return false
	}
	for i := range asked {
		n := uint8(i)
		for _, pair := range cfg.Ask.Remap {
			if pair[0] == uint8(i) {
				n = pair[1]
			}
		}
		asked[i] = int16(n)
		if !serves(n) || len(cfg.Ask.Allowed) > 0 && !slices.Contains(cfg.Ask.Allowed, n) {
			asked[i] = -1
		}
	}
	return asked
}

// firstBytes waits for the first bytes of a request.
func (c *conn) firstBytes() error {
	wait, d := fresh, c.s.limits.HeaderTimeout
	if c.served {
		wait, d = idle, c.s.limits.IdleTimeout
	}
	c.rest()
	c.arm(wait, d)
	if c.fill(len(c.buf)) != nil {
		return errQuiet
	}
	c.served = true
	return nil
}

// readPacket reads the variables of a packet: they must be there within the
// header timeout.
func (c *conn) readPacket() (vars []byte, modifier uint8, err error) {
	if c.persist {
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
	}
	if c.w == 0 {
		if err := c.firstBytes(); err != nil {
			return nil, 0, err
		}
	}
	by := time.Now().Add(c.s.limits.HeaderTimeout)
	c.req.Start = time.Now()
	need := packetHead
	for {
		b := c.buf[:c.w]
		if spokenHTTP(b) {
			c.s.hint(hintHTTP, "HTTP came to a uwsgi listener", "http-socket = instead of socket =, or in nginx uwsgi_pass instead of proxy_pass", c.nc)
			return nil, 0, errSpokenHTTP
		}
		if len(b) >= packetHead {
			if c.s.asked[b[0]] < 0 {
				c.s.hint(hintModifier, "a uwsgi packet with modifier1 "+strconv.Itoa(int(b[0]))+" came", "only 0 (the app), 30 and, with a Perl app, 5, with a Ruby app, 7, with a cgi line, 9, with a php-docroot line, 14, and, with an app, 173 are served here", c.nc)
				return nil, 0, errModifier
			}
			need = packetHead + int(b[1]) + int(b[2])<<8
			if need > c.s.limits.HeaderBytes+packetHead {
				return nil, 0, errLargeHead
			}
		}
		if len(b) >= need && need >= packetHead && len(b) >= packetHead {
			c.r, c.modifier2 = need, b[3]
			return b[packetHead:need], uint8(c.s.asked[b[0]]), nil
		}
		if err := c.more(max(need, minBuffer), by); err != nil {
			return nil, 0, err
		}
	}
}

// packetVariables takes the variables of a packet over into the request.
func (c *conn) packetVariables(b []byte, strip bool) error {
	s := string(b)
	c.req.Vars = c.req.Vars[:0]
	for s != "" {
		var name, value string
		var ok bool
		if name, s, ok = packetString(s); !ok {
			return errPacket
		}
		if value, s, ok = packetString(s); !ok {
			return errPacket
		}
		if err := c.variable(name, value); err != nil {
			return err
		}
	}
	if c.req.Get("REQUEST_METHOD") == "" {
		return errPacket
	}
	if strip {
		c.req.Unprefix()
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
func spokenHTTP(b []byte) bool {
	if len(b) < packetHead {
		return false
	}
	for _, m := range [...]string{"GET ", "HEAD", "POST", "PUT ", "PATC", "DELE", "OPTI", "CONN", "TRAC", "PRI "} {
		if bytes.HasPrefix(b, []byte(m)) {
			return true
		}
	}
	return false
}
