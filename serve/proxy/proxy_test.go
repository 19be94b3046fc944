package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/serve/exchange"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// answered is a Response that keeps what it is given, and may become a tunnel.
type answered struct {
	mu      sync.Mutex
	status  int
	reason  string
	fields  []exchange.Field
	body    bytes.Buffer
	flushes int
	near    net.Conn // the end of a tunnel
}

func (a *answered) Head(status int, reason string, fields []exchange.Field) error {
	a.status, a.reason, a.fields = status, reason, slices.Clone(fields)
	return nil
}
func (a *answered) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.body.Write(p)
}
func (a *answered) text() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.body.String()
}
func (a *answered) Flush() error  { a.flushes++; return nil }
func (a *answered) Started() bool { return a.status != 0 }
func (a *answered) File(exchange.File, int64, int64) error {
	return errors.New("no file")
}
func (a *answered) Tunnel(status int, reason string, fields []exchange.Field) (exchange.Stream, error) {
	if a.near == nil {
		return nil, errors.New("no tunnel")
	}
	a.status, a.reason, a.fields = status, reason, slices.Clone(fields)
	return a.near.(*net.TCPConn), nil
}

func (a *answered) field(name string) string {
	for _, f := range a.fields {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

func newRequest(method, uri, body string, vars ...string) *exchange.Request {
	p, qs, _ := strings.Cut(uri, "?")
	r := &exchange.Request{Start: time.Now(), Body: strings.NewReader(body), Length: int64(len(body)), Vars: []exchange.Var{
		{Name: "REQUEST_METHOD", Value: method}, {Name: "REQUEST_URI", Value: uri}, {Name: "PATH_INFO", Value: p}, {Name: "QUERY_STRING", Value: qs},
		{Name: "REMOTE_ADDR", Value: "192.0.2.7"}, {Name: "HTTP_HOST", Value: "example.org"}}}
	if body != "" {
		r.Set("CONTENT_LENGTH", fmt.Sprint(len(body)))
	}
	for _, v := range vars {
		name, value, _ := strings.Cut(v, "=")
		r.Set(name, value)
	}
	return r
}

func newClient(t *testing.T) *Client { return newPatient(t, 300*time.Millisecond) }

// newPatient is one that waits so long for a server that is silent.
func newPatient(t *testing.T, silence time.Duration) *Client {
	t.Helper()
	c := New(Limits{Connect: 10 * time.Second, Silence: silence}, slog.New(slog.DiscardHandler))
	t.Cleanup(c.Close)
	return c
}

// server runs serve for each connection to an address that it returns.
func server(t *testing.T, network string, serve func(c net.Conn)) string {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { defer c.Close(); serve(c) })
		}
	})
	return l.Addr().String()
}

// once answers one HTTP request with raw bytes, after it has sent what it
// received into got.
func once(t *testing.T, network, raw string) (addr string, got chan string) {
	got = make(chan string, 4)
	return server(t, network, func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		b, _ := io.ReadAll(r.Body)
		var h bytes.Buffer
		r.Header.Write(&h)
		got <- r.Method + " " + r.RequestURI + " " + r.Host + "\n" + strings.ReplaceAll(h.String(), "\r", "") + string(b)
		io.WriteString(c, raw)
	}), got
}

// TestHTTP: what goes out and what comes back, over TCP and a unix socket.
func TestHTTP(t *testing.T) {
	testenv.Leaks(t)
	for _, network := range []string{"tcp", "unix"} {
		addr, got := once(t, network, "HTTP/1.1 203 So So\r\nX-A: b\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: x\r\nContent-Length: 5\r\n\r\nhello")
		a, c := &answered{}, newClient(t)
		r := newRequest("POST", "//a%2Fb?", "body", "HTTP_X_FORWARDED_FOR=10.0.0.1", "HTTP_COOKIE=c", "CONTENT_TYPE=text/x", "HTTP_CONNECTION=Upgrade",
			"HTTP_UPGRADE=websocket", "HTTP_TRANSFER_ENCODING=chunked", "HTTP_PROXY=evil", "HTTP_SEC_WEBSOCKET_KEY=k", "REMOTE_USER=joe", "HTTP_BAD=a\r\nb", "HTTP_lower=x")
		if err := c.HTTP(t.Context(), r, a, Target{Address: addr, Upgrade: true}); err != nil {
			t.Fatal(err)
		}
		want := "POST //a%2Fb? example.org\nContent-Length: 4\nContent-Type: text/x\nCookie: c\nSec-Websocket-Key: k\nX-Forwarded-For: 10.0.0.1, 192.0.2.7\nbody"
		if g := <-got; g != want {
			t.Errorf("%s: sent\n%s\nwant\n%s", network, g, want)
		}
		if a.status != 203 || a.reason != "So So" || a.field("X-A") != "b" || a.field("X-Hop")+a.field("Keep-Alive")+a.field("Connection") != "" || a.text() != "hello" || a.flushes != 0 {
			t.Errorf("%s: %d %q %v %q, %d flushes", network, a.status, a.reason, a.fields, a.text(), a.flushes)
		}
	}
}

// TestSentURI: an upstream gets ASCII, and nothing that ends its request line.
func TestSentURI(t *testing.T) {
	for uri, want := range map[string]string{
		"/caf\xc3\xa9?q=\x85\xa0%": "/caf%C3%A9?q=%85%A0%", "/a%2Fb": "/a%2Fb", "": "", "/admin/%2e./x?/../y": "/x?/../y",
		"/a b": "-", "/a\tb": "-", "/a\rb": "-", "/a\nb": "-", "/a\x7f": "-", "/\x00": "-",
	} {
		r := newRequest("GET", uri, "")
		b, _, err := appendRequest(nil, r, Target{})
		sent, _, _ := strings.Cut(strings.TrimPrefix(string(b), "GET "), " HTTP/1.1\r\n")
		if want == "" {
			want = "/"
		}
		if err != nil {
			sent = "-"
		}
		h2, err := h2cRequest(r, Target{})
		if sent != want || (err != nil) != (want == "-") || err == nil && h2.URL.RequestURI() != want {
			t.Errorf("%q: %q and %v, want %q", uri, sent, h2, want)
		}
	}
}

// TestTarget: the address and the target of the rule, not of the request.
func TestTarget(t *testing.T) {
	addr, got := once(t, "tcp", "HTTP/1.0 200 OK\r\n\r\nto the end")
	a, c := &answered{}, newClient(t)
	if err := c.HTTP(t.Context(), newRequest("GET", "/x", ""), a, Target{Address: addr, Host: "inner", URI: "/y?z"}); err != nil || a.text() != "to the end" {
		t.Fatal(err, a.text())
	}
	if g := <-got; g != "GET /y?z inner\nX-Forwarded-For: 192.0.2.7\n" {
		t.Error(g)
	}
	err := c.HTTP(t.Context(), newRequest("GET", "/x", ""), a, Target{Address: addr, URI: "/y z"})
	if exchange.StatusOf(err) != 400 {
		t.Error(err)
	}
}

// TestTrouble: every way a server can fail, by every protocol.
func TestTrouble(t *testing.T) {
	testenv.Leaks(t)
	silent := server(t, "tcp", func(c net.Conn) { io.Copy(io.Discard, c) })
	closing := server(t, "tcp", func(net.Conn) {})
	garbage := server(t, "tcp", func(c net.Conn) { io.WriteString(c, "\x00\x01nonsense\r\n\r\n") })
	endless := server(t, "tcp", func(c net.Conn) {
		for err := error(nil); err == nil; {
			_, err = io.WriteString(c, "X: "+strings.Repeat("a", 1000)+"\r\n")
		}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := l.Addr().String()
	l.Close()
	c := newClient(t)
	for _, u := range []struct {
		name, addr string
		want       int
	}{{"down", down, 502}, {"silent", silent, 504}, {"closing", closing, 502}, {"garbage", garbage, 502}, {"endless", endless, 502}, {"no socket", "/nowhere/s", 502}} {
		for name, do := range map[string]func(r *exchange.Request, a *answered) error{
			"http": func(r *exchange.Request, a *answered) error {
				return c.HTTP(t.Context(), r, a, Target{Address: u.addr})
			},
			"uwsgi": func(r *exchange.Request, a *answered) error { return c.UWSGI(t.Context(), r, a, u.addr, 0, 0) },
			"scgi":  func(r *exchange.Request, a *answered) error { return c.SCGI(t.Context(), r, a, u.addr) },
			"fcgi":  func(r *exchange.Request, a *answered) error { return c.FastCGI(t.Context(), r, a, u.addr) },
		} {
			for _, body := range []string{"", "body"} {
				a := &answered{}
				if err := do(newRequest("POST", "/", body), a); exchange.StatusOf(err) != u.want || a.Started() {
					t.Errorf("%s, %s: %v (%d), want %d", u.name, name, err, exchange.StatusOf(err), u.want)
				}
			}
		}
	}
}

// TestCut: an answer that ends too early is an error after its head.
func TestCut(t *testing.T) {
	addr, _ := once(t, "tcp", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
	a := &answered{}
	if err := newClient(t).HTTP(t.Context(), newRequest("GET", "/", ""), a, Target{Address: addr}); err == nil || a.text() != "half" {
		t.Errorf("%v %q", err, a.text())
	}
}

// TestStreaming: pieces arrive when they are sent, in both directions, and a
// slow client is not a silent server.
func TestStreaming(t *testing.T) {
	testenv.Leaks(t)
	step := make(chan bool)
	addr := server(t, "tcp", func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		buf := make([]byte, 100)
		for range 4 {
			n, err := r.Body.Read(buf)
			if err != nil {
				return
			}
			fmt.Fprintf(c, "%x\r\n%s\r\n", n, buf[:n])
			<-step
		}
		io.WriteString(c, "0\r\n\r\n")
	})
	pr, pw := io.Pipe()
	r := newRequest("POST", "/", "")
	r.Body, r.Length = pr, -1
	a := &answered{}
	var both sync.WaitGroup
	both.Go(func() {
		for i := range 4 {
			time.Sleep(100 * time.Millisecond) // a client's pace, and longer together than the time of silence
			fmt.Fprintf(pw, "piece %d;", i)
			want := strings.Repeat("piece _;", i+1)
			for end := time.Now().Add(5 * time.Second); len(a.text()) < len(want) && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
			step <- true
		}
		pw.Close()
	})
	err := newClient(t).HTTP(t.Context(), r, a, Target{Address: addr})
	both.Wait()
	if err != nil || a.text() != "piece 0;piece 1;piece 2;piece 3;" {
		t.Errorf("%v %q", err, a.text())
	}
}

// TestEarly: a server that answers before it has the body; what is left of it
// is given back.
func TestEarly(t *testing.T) {
	testenv.Leaks(t)
	addr := server(t, "tcp", func(c net.Conn) {
		br := bufio.NewReader(c)
		http.ReadRequest(br)
		io.WriteString(c, "HTTP/1.1 413 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	})
	pr, pw := io.Pipe()
	defer pw.Close()
	r := newRequest("POST", "/", "")
	r.Body, r.Length = pr, 1<<30
	a := &answered{}
	if err := newClient(t).HTTP(t.Context(), r, a, Target{Address: addr}); err != nil || a.status != 413 {
		t.Errorf("%v %d", err, a.status)
	}
}

// TestClientBody: what is wrong with the client's body is the client's status.
func TestClientBody(t *testing.T) {
	testenv.Leaks(t)
	silent := server(t, "tcp", func(c net.Conn) { io.Copy(io.Discard, c) })
	c := newClient(t)
	for name, do := range map[string]func(r *exchange.Request, a *answered) error{
		"http": func(r *exchange.Request, a *answered) error {
			return c.HTTP(t.Context(), r, a, Target{Address: silent})
		},
		"uwsgi": func(r *exchange.Request, a *answered) error { return c.UWSGI(t.Context(), r, a, silent, 0, 0) },
		"fcgi":  func(r *exchange.Request, a *answered) error { return c.FastCGI(t.Context(), r, a, silent) },
	} {
		r := newRequest("POST", "/", "")
		r.Body, r.Length = io.MultiReader(strings.NewReader("some"), broken{}), 100
		if err := do(r, &answered{}); exchange.StatusOf(err) != 408 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) {
	return 0, &exchange.StatusError{Status: 408, Err: errors.New("too slow")}
}

// TestTunnel: an upgraded connection carries both directions for longer than
// any silence, and ends with either end.
func TestTunnel(t *testing.T) {
	testenv.Leaks(t)
	for _, how := range []string{"http", "uwsgi", "connect"} {
		for _, first := range []string{"client", "server", "drain"} {
			t.Run(how+"/"+first, func(t *testing.T) { tunnelOnce(t, how, first) })
		}
	}
}

func tunnelOnce(t *testing.T, how, first string) {
	over := make(chan bool)
	ended := make(chan error, 1)
	addr := server(t, "tcp", func(c net.Conn) {
		br := bufio.NewReader(c)
		switch how {
		case "http":
			r, err := http.ReadRequest(br)
			if err != nil || r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "Upgrade" {
				io.WriteString(c, "HTTP/1.1 400 Bad\r\n\r\n")
				return
			}
		case "uwsgi":
			h := make([]byte, 4)
			io.ReadFull(br, h)
			br.Discard(int(binary.LittleEndian.Uint16(h[1:])))
		}
		if how != "connect" {
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-Websocket-Accept: x\r\n\r\nearly")
		}
		go func() {
			<-over
			if first == "server" {
				c.Close()
			}
		}()
		_, err := io.Copy(c, br) // an echo
		ended <- err
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	ctx, drain := context.WithCancel(t.Context())
	defer drain()
	a, c, done := &answered{near: near}, newClient(t), make(chan error, 1)
	r := newRequest("GET", "/ws", "", "HTTP_UPGRADE=websocket", "HTTP_CONNECTION=Upgrade")
	go func() {
		switch how {
		case "http":
			done <- c.HTTP(ctx, r, a, Target{Address: addr, Upgrade: true})
		case "uwsgi":
			done <- c.UWSGI(ctx, r, a, addr, 0, 0)
		default:
			done <- c.Connect(ctx, r, a, addr)
		}
	}()
	client.SetDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 5)
	if how != "connect" {
		if _, err := io.ReadFull(client, buf); err != nil || string(buf) != "early" {
			t.Fatalf("%v %q", err, buf)
		}
	}
	for range 3 {
		time.Sleep(200 * time.Millisecond) // the silence that a server would be given up after is 300 ms
		io.WriteString(client, "hello")
		if _, err := io.ReadFull(client, buf); err != nil || string(buf) != "hello" {
			t.Fatalf("%v %q", err, buf)
		}
	}
	time.Sleep(400 * time.Millisecond)
	io.WriteString(client, "again")
	if _, err := io.ReadFull(client, buf); err != nil || string(buf) != "again" {
		t.Fatalf("%v %q", err, buf)
	}
	switch first {
	case "client":
		client.Close()
	case "drain":
		drain()
	}
	close(over)
	if first == "server" {
		if n, err := client.Read(buf); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("after the server's end: %d %v", n, err)
		}
		client.Close()
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	<-ended
}

// TestNotAsked: a server cannot switch protocols by itself, nor to another one
// than a WebSocket, and a client's wish for another one is not handed on.
func TestNotAsked(t *testing.T) {
	for _, x := range []struct{ asked, to string }{{"", "x"}, {"", "websocket"}, {"h2c", "h2c"}, {"websocket, h2c", "h2c"}, {"TLS/1.2", "TLS/1.2"}, {"websocket", "h2c"}, {"WebSocket", ""}} {
		addr, got := once(t, "tcp", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: "+x.to+"\r\nConnection: Upgrade\r\n\r\n")
		c, r := newClient(t), newRequest("GET", "/", "", "HTTP_UPGRADE="+x.asked)
		if err := c.HTTP(t.Context(), r, &answered{}, Target{Address: addr, Upgrade: true}); exchange.StatusOf(err) != 502 {
			t.Errorf("%q, %q: %v", x.asked, x.to, err)
		}
		if sent := <-got; strings.Contains(sent, "Upgrade") != strings.EqualFold(x.asked, "websocket") {
			t.Errorf("%q: it gets %s", x.asked, sent)
		}
		addr = server(t, "tcp", func(nc net.Conn) {
			io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: "+x.to+"\r\nConnection: Upgrade\r\n\r\n")
		})
		if err := c.UWSGI(t.Context(), r, &answered{}, addr, 0, 0); exchange.StatusOf(err) != 502 {
			t.Errorf("uwsgi: %q, %q: %v", x.asked, x.to, err)
		}
	}
}
