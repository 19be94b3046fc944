package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/fcgi"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/serve/front"
	"liege/vassal"
)

// TestFastCGI asks the standard library's FastCGI server.
func TestFastCGI(t *testing.T) {
	testenv.Leaks(t)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		fcgi.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			w.Header().Set("X-A", r.Header.Get("X-B"))
			if r.URL.Path == "/gone" {
				w.WriteHeader(410)
			}
			fmt.Fprintf(w, "%s %s %s %d", r.Method, r.URL.RequestURI(), fcgi.ProcessEnv(r)["REMOTE_USER"], len(b))
		}))
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	c := newClient(t)
	for _, q := range []struct {
		method, uri string
		size        int
		want        string
	}{{"GET", "/a?b=c", 0, "200 x GET /a?b=c joe 0"}, {"POST", "/gone", 100_000, "410 x POST /gone joe 100000"}} {
		r := newRequest(q.method, q.uri, strings.Repeat("y", q.size), "HTTP_X_B=x", "REMOTE_USER=joe", "SERVER_PROTOCOL=HTTP/1.1", "LONG="+strings.Repeat("z", 40000))
		a := &answered{}
		err := c.FastCGI(t.Context(), r, a, l.Addr().String())
		if got := fmt.Sprintf("%d %s %s", a.status, a.field("X-A"), a.text()); err != nil || got != q.want {
			t.Errorf("%q %v, want %q", got, err, q.want)
		}
	}
}

// record is one FastCGI record with padding.
func record(kind byte, content string) string {
	return string([]byte{1, kind, 0, 1, byte(len(content) >> 8), byte(len(content)), 3, 0}) + content + "pad"
}

// TestFastCGIRecords: what a server may send, in every division.
func TestFastCGIRecords(t *testing.T) {
	for _, c := range []struct{ stream, want string }{
		{record(6, "Status: 201 Made\r\nX-A: b\r\n\r\nbody") + record(6, "") + record(3, "\x00\x00\x00\x00\x00\x00\x00\x00"), "201 Made b body"},
		{record(6, "Stat") + record(7, "a warning\nmore") + record(6, "us: 404 No\n\n") + record(6, "x") + record(6, "y") + record(3, "12345678"), "404 No  xy"},
		{record(6, "Location: /x\n\n") + record(3, "12345678"), "302   "},
		{record(6, "Content-Length: 2\n\nlonger") + record(3, "12345678"), "200   lo"},
		{record(6, "Content-Type: a\n\nhalf"), "error 502"},
		{record(6, "Status: 99 x\n\n") + record(3, "12345678"), "error 502"},
		{record(6, "no head at all") + record(3, "12345678"), "error 502"},
		{"\x02garbage.........", "error 502"},
		{record(3, "12345678"), "error 502"},
	} {
		a := &answered{}
		got := ""
		err := newClient(t).FastCGI(t.Context(), newRequest("GET", "/", ""), a, rawServer(t, c.stream))
		if got = fmt.Sprintf("%d %s %s %s", a.status, a.reason, a.field("X-A"), a.text()); err != nil && !a.Started() {
			got = fmt.Sprintf("error %d", exchange.StatusOf(err))
		}
		if err != nil && a.Started() {
			got = "error 502"
		}
		if got != c.want {
			t.Errorf("%q: %q %v, want %q", c.stream, got, err, c.want)
		}
	}
}

// rawServer sends raw to everybody, and reads what comes.
func rawServer(t *testing.T, raw string) string {
	return server(t, "tcp", func(c net.Conn) {
		io.WriteString(c, raw)
		if tc, ok := c.(*net.TCPConn); ok {
			tc.CloseWrite()
		}
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		io.Copy(io.Discard, c)
	})
}

// TestUWSGI asks our own front.
func TestUWSGI(t *testing.T) {
	testenv.Leaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := front.New(front.Config{Hostname: "inner", Log: slog.New(slog.DiscardHandler), Done: func(*exchange.Request) {},
		Handler: exchange.HandlerFunc(func(_ context.Context, r *exchange.Request, w exchange.Response) error {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			if err := w.Head(203, "So So", []exchange.Field{{Name: "X-A", Value: r.Get("HTTP_X_B")}}); err != nil {
				return err
			}
			_, err = fmt.Fprintf(w, "%s %s %d", r.Get("REQUEST_METHOD"), r.Get("PATH_INFO"), len(b))
			return err
		})})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, []front.Listener{{Listener: l, Protocol: vassal.UWSGI}}) }()
	defer func() { stop(); <-ended }()
	for _, size := range []int{0, 5, 200_000} {
		a := &answered{}
		err := newClient(t).UWSGI(t.Context(), newRequest("POST", "/x", strings.Repeat("y", size), "HTTP_X_B=b"), a, l.Addr().String(), 0, 0)
		if got, want := fmt.Sprintf("%d %s %s %s", a.status, a.reason, a.field("X-A"), a.text()), fmt.Sprintf("203 So So b POST /x %d", size); err != nil || got != want {
			t.Errorf("%q %v, want %q", got, err, want)
		}
	}
	big := newRequest("GET", "/", "", "LONG="+strings.Repeat("z", 70000))
	if err := newClient(t).UWSGI(t.Context(), big, &answered{}, l.Addr().String(), 0, 0); exchange.StatusOf(err) != 431 {
		t.Errorf("variables that do not fit: %v", err)
	}
	chunked := newRequest("POST", "/", "x")
	chunked.Length = -1
	if err := newClient(t).UWSGI(t.Context(), chunked, &answered{}, l.Addr().String(), 0, 0); exchange.StatusOf(err) != 411 {
		t.Errorf("a body of unknown length: %v", err)
	}
}

// TestSCGI: the netstring of the variables, then the body.
func TestSCGI(t *testing.T) {
	testenv.Leaks(t)
	addr := server(t, "unix", func(c net.Conn) {
		br := bufio.NewReader(c)
		var n int
		if _, err := fmt.Fscanf(br, "%d:", &n); err != nil {
			return
		}
		head := make([]byte, n+1)
		io.ReadFull(br, head)
		body := make([]byte, 4)
		io.ReadFull(br, body)
		fmt.Fprintf(c, "Status: 200 OK\r\nX-A: b\r\n\r\n%q %s", strings.Split(string(head), "\x00")[:4], body)
	})
	a := &answered{}
	err := newClient(t).SCGI(t.Context(), newRequest("POST", "/x", "body"), a, addr)
	if want := `["CONTENT_LENGTH" "4" "SCGI" "1"] body`; err != nil || a.text() != want || a.field("X-A") != "b" {
		t.Errorf("%q %v, want %q", a.text(), err, want)
	}
}

// FuzzReply: whatever a server sends is an answer or an error, in time.
func FuzzReply(f *testing.F) {
	for _, s := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.0 101 X\r\n\r\n", "Status: 404\n\nx", "Content-Length: 99\n\nx",
		record(6, "A: b\n\nc") + record(3, "12345678"), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "HTTP/1.1 304 X\r\n\r\nbody"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	c := New(Limits{Silence: time.Second}, slog.New(slog.DiscardHandler))
	f.Fuzz(func(t *testing.T, s string, records bool) {
		a := &answered{}
		var from io.Reader = strings.NewReader(s)
		if records {
			from = &fcgiReader{br: bufio.NewReader(from), said: &complaint{log: func(string) {}}}
		}
		err := c.reply(t.Context(), newRequest("GET", "/", ""), a, &conn{addr: "x"}, from)
		if err == nil && (a.status < 200 || a.status > 599) {
			t.Errorf("%q: status %d", s, a.status)
		}
	})
}
