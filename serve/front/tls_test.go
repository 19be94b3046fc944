package front

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"liege/internal/testcert"
	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/vassal"
)

// secured is a server that speaks TLS, and who trusts it.
type secured struct {
	*running
	client *tls.Config
}

func serveTLS(t testing.TB, proto vassal.Protocol, limits vassal.HTTPLimits, h exchange.HandlerFunc, change func(*Secure)) *secured {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cert := testcert.New(t, testcert.Cert{Name: "localhost"})
	s := &Secure{Config: &tls.Config{Certificates: []tls.Certificate{cert.TLS(t)}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}}
	if change != nil {
		change(s)
	}
	return &secured{serveListener(t, Listener{Listener: l, Protocol: proto, Secure: s}, limits, h), testcert.Trusting(cert)}
}

// dial connects for protocol proto.
func (s *secured) dial(t testing.TB, proto string) *tls.Conn {
	t.Helper()
	conf := s.client.Clone()
	conf.NextProtos = []string{proto}
	c := tls.Client(dial(t, s.addr), conf)
	conf.ServerName = "localhost"
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if got := c.ConnectionState().NegotiatedProtocol; got != proto {
		t.Fatalf("the server speaks %q, want %q", got, proto)
	}
	return c
}

// TestRawTLS: what is refused in the clear is refused behind TLS, by the same
// code.
func TestRawTLS(t *testing.T) {
	testenv.Leaks(t)
	s := serveTLS(t, vassal.HTTPS, vassal.HTTPLimits{HeaderBytes: 8 << 10, HeaderTimeout: 2 * time.Second}, echo, nil)
	for _, c := range rawCases() {
		t.Run(c.name, func(t *testing.T) {
			conn := s.dial(t, "http/1.1")
			io.WriteString(conn, c.raw)
			conn.CloseWrite()
			b, _ := io.ReadAll(conn)
			if got := string(b); status(got) != c.want {
				t.Errorf("got %d, want %d:\n%s", status(got), c.want, got)
			}
		})
	}
}

// TestSecureVariables: what TLS adds, and that a client cannot.
func TestSecureVariables(t *testing.T) {
	s := serveTLS(t, vassal.HTTPS, keepAlive, echo, nil)
	c := s.dial(t, "http/1.1")
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nHTTPS: off\r\nHTTPS-DN: /CN=root\r\nHTTPS_CC: x\r\nConnection: close\r\n\r\n")
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nHTTPS=on\n", "\nREQUEST_SCHEME=https\n", "\nHTTP_HTTPS=off\n", "\nHTTP_HTTPS_DN=/CN=root\n"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %q in\n%s", want, b)
		}
	}
	if strings.Contains(string(b), "\nHTTPS_") {
		t.Errorf("a client without a certificate has one:\n%s", b)
	}
	// In the clear there is no HTTPS, whatever the client says.
	plain := serve(t, vassal.HTTP, vassal.HTTPLimits{}, echo)
	if got := ask(t, plain.addr, "GET / HTTP/1.1\r\nHost: x\r\nHTTPS: on\r\n\r\n"); strings.Contains(got, "\nHTTPS=") {
		t.Errorf("faked:\n%s", got)
	}
}

// TestClientCertificate: who the client is, in words.
func TestClientCertificate(t *testing.T) {
	ca := testcert.New(t, testcert.Cert{Name: "Acme CA", CA: true})
	joe := testcert.New(t, testcert.Cert{Name: "joe/CN=root", Org: "Acme", By: ca})
	for _, export := range []bool{false, true} {
		s := serveTLS(t, vassal.HTTPS, vassal.HTTPLimits{}, echo, func(s *Secure) {
			s.Config.ClientAuth, s.Config.ClientCAs, s.Export = tls.VerifyClientCertIfGiven, testcert.Trusting(ca).RootCAs, export
		})
		s.client.Certificates = []tls.Certificate{joe.TLS(t)}
		c := s.dial(t, "http/1.1")
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		b, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		if want := "\nHTTPS_DN=/O=Acme/CN=joe\\x2FCN=root\n"; !strings.Contains(string(b), want) {
			t.Errorf("no %q in\n%s", want, b)
		}
		if got := strings.Contains(string(b), "\nHTTPS_CC="+string(joe.Cert)); got != export {
			t.Errorf("HTTPS_CC with https-export-cert = %t:\n%s", export, b)
		}
	}
}

// TestPlainToTLS: who speaks HTTP in the clear is told; others are left alone.
func TestPlainToTLS(t *testing.T) {
	s := serveTLS(t, vassal.HTTPS, vassal.HTTPLimits{}, hello, nil)
	if got := ask(t, s.addr, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); status(got) != 400 || !strings.Contains(got, "HTTPS") {
		t.Errorf("got %q", got)
	}
	if got := ask(t, s.addr, "\x00\x0f\x00\x00 no handshake at all"); strings.Contains(got, "HTTP/") {
		t.Errorf("got %q", got)
	}
	s.stop()
	if !strings.Contains(s.logs.String(), "HTTP in the clear") {
		t.Errorf("no hint: %s", s.logs)
	}
}

// TestSlowHandshake: a client that never finishes it is cut, and so is one that
// never begins.
func TestSlowHandshake(t *testing.T) {
	testenv.Leaks(t)
	s := serveTLS(t, vassal.HTTPS, vassal.HTTPLimits{HeaderTimeout: 100 * time.Millisecond}, hello, nil)
	for _, sent := range []string{"", "\x16\x03\x01\x02\x00\x01"} {
		c := dial(t, s.addr)
		io.WriteString(c, sent)
		if b, err := io.ReadAll(c); err != nil {
			t.Errorf("after %q: %q, %v", sent, b, err)
		}
	}
}

// TestTunnelTLS: a tunnel behind TLS carries what comes early and late.
func TestTunnelTLS(t *testing.T) {
	testenv.Leaks(t)
	limits := vassal.HTTPLimits{BodyTimeout: 50 * time.Millisecond, IdleTimeout: 50 * time.Millisecond, HeaderTimeout: time.Second, KeepAlive: true}
	s := serveTLS(t, vassal.HTTPS, limits, tunnelEcho, nil)
	c := s.dial(t, "http/1.1")
	io.WriteString(c, "GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
	br := bufio.NewReader(c)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != 101 {
		t.Fatalf("%v %+v", err, res)
	}
	buf := make([]byte, 5)
	for _, want := range []string{"early", "later"} {
		if want == "later" {
			io.WriteString(c, want)
		}
		if _, err := io.ReadFull(br, buf); err != nil || string(buf) != want {
			t.Fatalf("%v %q", err, buf)
		}
	}
	c.CloseWrite()
	if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// TestCutTLS: an answer that breaks off does not look whole: no close_notify.
func TestCutTLS(t *testing.T) {
	s := serveTLS(t, vassal.HTTPS, vassal.HTTPLimits{}, func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
		if err := w.Head(200, "", nil); err != nil {
			return err
		}
		if _, err := io.WriteString(w, "half"); err != nil {
			return err
		}
		return errors.Join(w.Flush(), errors.New("the worker died"))
	}, nil)
	c := s.dial(t, "http/1.1")
	io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
	if b, err := io.ReadAll(c); err == nil {
		t.Errorf("it looks whole: %q", b)
	}
}

// TestMisdirected: whoever connected to one name is not let in at another
// whose clients show certificates.
func TestMisdirected(t *testing.T) {
	var sni, asked string
	s := serveTLS(t, vassal.HTTPS, vassal.HTTPLimits{}, hello, func(s *Secure) {
		s.Misdirected = func(name, host string) bool { sni, asked = name, host; return host == "vault.example" }
	})
	for host, want := range map[string]int{"localhost": 200, "Vault.example:8443": 421} {
		c := s.dial(t, "http/1.1")
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		if b, err := io.ReadAll(c); err != nil || status(string(b)) != want {
			t.Errorf("%s: %v %s, asked for %q %q", host, err, b, sni, asked)
		}
	}
}

// TestToHTTPS: the redirection of http-to-https.
func TestToHTTPS(t *testing.T) {
	for _, c := range []struct {
		port       uint16
		head, want string
	}{
		{0, "GET /a?b=c HTTP/1.1\r\nHost: Example.org:8080\r\n\r\n", "https://example.org/a?b=c"},
		{8443, "POST /a HTTP/1.1\r\nHost: example.org\r\nContent-Length: 0\r\n\r\n", "https://example.org:8443/a"},
		{0, "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "https://[::1]/"},
		{0, "GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n", "https://[::1]/"},
		{0, "GET /caf\xc3\xa9?a=\xff HTTP/1.1\r\nHost: a\r\n\r\n", "https://a/caf%C3%A9?a=%FF"},
		{0, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "https://a/"},
		{0, "GET / HTTP/1.0\r\n\r\n", ""},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		r := serveListener(t, Listener{Listener: l, Protocol: vassal.Redirect, Handler: ToHTTPS(c.port)}, vassal.HTTPLimits{}, hello)
		got := ask(t, r.addr, c.head)
		if c.want == "" {
			if status(got) != 400 {
				t.Errorf("%q: %q", c.head, got)
			}
		} else if status(got) != 301 || !strings.Contains(got, "\r\nLocation: "+c.want+"\r\n") {
			t.Errorf("%q: got %q, want %s", c.head, got, c.want)
		}
	}
}
