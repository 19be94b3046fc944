package front

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/vassal"
)

// TestProxyHeaderBeforeTLS: a load balancer speaks before the client's
// handshake, and what it says holds for HTTP/1.1 and HTTP/2 alike, as do the
// variables that every request has.
func TestProxyHeaderBeforeTLS(t *testing.T) {
	testenv.Leaks(t)
	s := serveTLS(t, vassal.HTTPS, vassal.HTTPLimits{ProxyProtocol: true, KeepAlive: true, HeaderTimeout: 2 * time.Second}, echo, nil)
	for _, proto := range []string{"http/1.1", "h2"} {
		conf := s.client.Clone()
		conf.NextProtos = []string{proto}
		tr := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: proto == "h2",
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, network, addr)
				if err == nil {
					_, err = io.WriteString(c, "PROXY TCP4 192.0.2.7 198.51.100.1 5001 443\r\n")
				}
				return c, err
			}}
		t.Cleanup(tr.CloseIdleConnections)
		res, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Get("https://" + s.addr + "/")
		if err != nil {
			t.Errorf("%s: %v", proto, err)
			continue
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"\nREMOTE_ADDR=192.0.2.7\n", "\nREMOTE_PORT=5001\n", "\nSERVER_PORT=443\n", "\nHTTPS=on\n", "\nSERVER_ADDR=198.51.100.1\n"} {
			if !strings.Contains("\n"+string(b), want) {
				t.Errorf("%s: no %q in\n%s", proto, want, b)
			}
		}
	}
	// Without the header there is no handshake.
	if c, err := tls.Dial("tcp", s.addr, s.client); err == nil {
		c.Close()
		t.Error("a handshake without a PROXY header")
	}
}

// TestPagesOverTLS: error-page holds for HTTP/2 too.
func TestPagesOverTLS(t *testing.T) {
	testenv.Leaks(t)
	fails := func(ctx context.Context, r *exchange.Request, w exchange.Response) error {
		if strings.HasPrefix(r.Get("PATH_INFO"), "/fail") {
			return &exchange.StatusError{Status: 500}
		}
		return echo(ctx, r, w)
	}
	s := serveTLS(t, vassal.HTTPS, keepAlive, fails, nil)
	s.s.cfg.Pages = map[int][]byte{500: []byte("<h1>sorry</h1>")}
	c := s.httpClient(t)
	res, err := c.Get("https://" + s.addr + "/fail")
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || res.StatusCode != 500 || string(b) != "<h1>sorry</h1>" || res.Header.Get("Content-Type") != "text/html" {
		t.Errorf("got %d %q %q, %v", res.StatusCode, b, res.Header, err)
	}
}
