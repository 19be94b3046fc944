package front

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"liege/serve/exchange"
)

// Secure is how the connections of a listener are made secure. Behind the
// handshake HTTP/1.1 is served by the same code as without it, HTTP/2 by
// h2.go.
type Secure struct {
	Config *tls.Config
	// Misdirected reports whether a request for host may not be answered on a
	// connection whose client asked for the certificate of serverName: other
	// clients are let in there. nil: never.
	Misdirected func(serverName, host string) bool
	Export      bool // the client's certificate becomes a variable
	Verbose     bool // failed handshakes are logged
}

// errMisdirected is answered where another certificate's clients are checked
// (RFC 9110 15.5.20): whoever connected to the one name may not ask for the
// other by the Host field.
var errMisdirected = &refusal{421, "this connection is for another host"}

// server makes nc the server's side of a TLS connection, if l has those.
func (l *Listener) server(nc net.Conn) net.Conn {
	if l.Secure == nil {
		return nc
	}
	return tls.Server(nc, l.Secure.Config)
}

// handshake makes the connection secure, within the header timeout, and
// reports which protocol the client chose (ALPN); false: there is nobody to
// serve.
func (c *conn) handshake(l *Listener) (proto string, ok bool) {
	tc, isTLS := c.nc.(*tls.Conn)
	if !isTLS {
		return "", true
	}
	c.secure = l.Secure
	c.arm(fresh, c.s.limits.HeaderTimeout)
	c.armWrite()
	if err := tc.Handshake(); err != nil {
		c.handshakeFailed(err)
		return "", false
	}
	st := tc.ConnectionState()
	c.sni = st.ServerName
	c.extra = append(c.extra, exchange.Var{Name: "HTTPS", Value: "on"})
	if len(st.VerifiedChains) > 0 {
		leaf := st.PeerCertificates[0]
		c.extra = append(c.extra, exchange.Var{Name: "HTTPS_DN", Value: distinguishedName(leaf.RawSubject)})
		if c.secure.Export {
			text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})
			c.extra = append(c.extra, exchange.Var{Name: "HTTPS_CC", Value: string(text)})
		}
	}
	return st.NegotiatedProtocol, true
}

// handshakeFailed answers a client that speaks HTTP in the clear, which is the
// one that can read an answer.
func (c *conn) handshakeFailed(err error) {
	plain, isPlain := errors.AsType[tls.RecordHeaderError](err)
	if isPlain && plain.Conn != nil && begins(plain.RecordHeader[:]) {
		c.s.hint(hintPlain, "HTTP in the clear came to an https listener", "use https://, or http-to-https = on another port", c.nc)
		const text = "400 Bad Request: this address speaks HTTPS; use https://\n"
		c.armWrite()
		_, _ = io.WriteString(plain.Conn, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\nContent-Length: "+
			strconv.Itoa(len(text))+"\r\n\r\n"+text) // it is told, or gone
		return
	}
	if c.secure.Verbose && !errors.Is(err, io.EOF) {
		c.s.cfg.Log.Info("a TLS handshake failed", "client", c.nc.RemoteAddr().String(), "err", err)
	}
}

// begins reports whether b begins as a request by HTTP does.
func begins(b []byte) bool {
	for _, m := range [...]string{"GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "PATCH", "CONNE"} {
		if strings.HasPrefix(string(b), m) {
			return true
		}
	}
	return false
}

// under is the connection that carries the others: what must end at once is
// closed there, since a TLS connection first says goodbye.
func (c *conn) under() net.Conn {
	if tc, ok := c.nc.(*tls.Conn); ok {
		return tc.NetConn()
	}
	return c.nc
}

// scheme is that of the URLs that lead here.
func (c *conn) scheme() string {
	if c.secure != nil {
		return "https"
	}
	return "http"
}

// misdirected reports whether host is not this connection's to ask for.
func (c *conn) misdirected(host string) bool {
	return c.secure != nil && c.secure.Misdirected != nil && c.secure.Misdirected(c.sni, bareHost(host))
}

// bareHost takes the port off a valid Host field.
func bareHost(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host = host[:i]
	}
	return strings.ToLower(host)
}

// ToHTTPS answers every request with a redirection to the same URL by https,
// on port, as uWSGI's http-to-https does.
func ToHTTPS(port uint16) exchange.Handler {
	return exchange.HandlerFunc(func(_ context.Context, r *exchange.Request, w exchange.Response) error {
		r.Info.Backend = "redirect"
		host, uri := bareHost(r.Get("HTTP_HOST")), r.Get("REQUEST_URI")
		if host == "" {
			return errNoHost
		}
		if port != 0 && port != 443 {
			host += ":" + strconv.Itoa(int(port))
		}
		if !strings.HasPrefix(uri, "/") {
			uri = "/"
		}
		return w.Head(http.StatusMovedPermanently, "", []exchange.Field{{Name: "Location", Value: "https://" + host + exchange.URL(uri)}, {Name: "Content-Length", Value: "0"}})
	})
}
