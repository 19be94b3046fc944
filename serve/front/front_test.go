package front

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/vassal"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// running is a server under test.
type running struct {
	addr string
	s    *Server
	stop func() // drains and waits
	logs *syncBuffer

	mu    sync.Mutex
	done  []exchange.Info
	lines []string // of each request, what an access log would hold
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func serve(t testing.TB, proto vassal.Protocol, limits vassal.HTTPLimits, h exchange.HandlerFunc) *running {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, l, proto, limits, h)
}

func serveOn(t testing.TB, l net.Listener, proto vassal.Protocol, limits vassal.HTTPLimits, h exchange.HandlerFunc) *running {
	return serveListener(t, Listener{Listener: l, Protocol: proto}, limits, h)
}

func serveListener(t testing.TB, l Listener, limits vassal.HTTPLimits, h exchange.HandlerFunc) *running {
	r := &running{addr: l.Addr().String(), logs: &syncBuffer{}}
	r.s = New(Config{Hostname: "shop", Limits: limits, Drain: 5 * time.Second, Handler: h,
		Log: slog.New(slog.NewTextHandler(r.logs, nil)), Stats: func() []byte { return []byte("{}\n") },
		Done: func(q *exchange.Request) {
			r.mu.Lock()
			r.done = append(r.done, q.Info)
			r.lines = append(r.lines, fmt.Sprintf("%s %s %s %d %v", q.Get("REMOTE_ADDR"), q.Get("REQUEST_METHOD"), q.Get("REQUEST_URI"), q.Info.Status, q.Info.Err))
			r.mu.Unlock()
		}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.s.Run(ctx, []Listener{l}) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

func (r *running) infos() []exchange.Info {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]exchange.Info(nil), r.done...)
}

// dial connects, with a deadline for the whole test.
func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// ask sends raw and returns everything until the server closes.
func ask(t testing.TB, addr, raw string) string {
	t.Helper()
	c := dial(t, addr)
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil && len(b) == 0 {
		t.Fatal(err)
	}
	return string(b)
}

// echo answers with the variables and the body.
func echo(_ context.Context, r *exchange.Request, w exchange.Response) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, v := range r.Vars {
		fmt.Fprintf(&b, "%s=%s\n", v.Name, v.Value)
	}
	fmt.Fprintf(&b, "length=%d\nbody=%s\n", r.Length, body)
	if err := w.Head(200, "", []exchange.Field{{Name: "Content-Type", Value: "text/plain"}}); err != nil {
		return err
	}
	_, err = io.WriteString(w, b.String())
	return err
}

func hello(_ context.Context, _ *exchange.Request, w exchange.Response) error {
	if err := w.Head(200, "OK", []exchange.Field{{Name: "Content-Length", Value: "2"}}); err != nil {
		return err
	}
	_, err := io.WriteString(w, "hi")
	return err
}

var keepAlive = vassal.HTTPLimits{KeepAlive: true}

// status is the status line's number, 0 if there is none.
func status(answer string) int {
	if len(answer) < 12 {
		return 0
	}
	n, _ := strconv.Atoi(answer[9:12])
	return n
}

func TestVariables(t *testing.T) {
	r := serve(t, vassal.HTTP, vassal.HTTPLimits{}, echo)
	got := ask(t, r.addr, "POST /a%20b/./c/../d//e?x=%20y HTTP/1.1\r\nHost: Example.com:80\r\nUser-Agent: t\r\n"+
		"X-A: 1\r\nx-a: 2\r\nCookie: a=1\r\nCookie: b=2\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n"+
		"X_A: evil\r\nProxy: http://evil\r\nContent_Length: 7\r\nHTTPS: on\r\nRemote-User: root\r\nConnection: close, Cookie\r\nKeep-Alive: 1\r\n"+
		"TE: trailers\r\nUpgrade: h2c\r\nX.Y: z\r\nA-Very-Long-Header-Field-Name-Indeed-It-Is: v\r\n\r\nabc")
	_, body, _ := strings.Cut(got, "\r\n\r\n")
	var lines []string
	for l := range strings.SplitSeq(body, "\n") {
		if !strings.HasPrefix(l, "REMOTE_PORT=") && !strings.HasPrefix(l, "SERVER_PORT=") {
			lines = append(lines, l)
		}
	}
	want := []string{"REQUEST_METHOD=POST", "REQUEST_URI=/a%20b/./c/../d//e?x=%20y", "PATH_INFO=/a b/d//e", "QUERY_STRING=x=%20y",
		"SERVER_PROTOCOL=HTTP/1.1", "SCRIPT_NAME=", "REQUEST_SCHEME=http", "REMOTE_ADDR=127.0.0.1", "SERVER_NAME=shop",
		"CONTENT_LENGTH=3", "HTTP_HOST=Example.com:80", "HTTP_TE=trailers", "HTTP_USER_AGENT=t", "HTTP_X_A=1, 2", "HTTP_COOKIE=a=1; b=2",
		"CONTENT_TYPE=text/plain", "HTTP_HTTPS=on", "HTTP_REMOTE_USER=root", "HTTP_A_VERY_LONG_HEADER_FIELD_NAME_INDEED_IT_IS=v",
		"length=3", "body=abc", ""}
	if d := cmp.Diff(want, lines); d != "" {
		t.Error(d)
	}
}

func TestCleanPath(t *testing.T) {
	for _, c := range []struct{ raw, want string }{
		{"/", "/"}, {"/a", "/a"}, {"/a/.", "/a/"}, {"/a/./b", "/a/b"}, {"/a/../b", "/b"}, {"/a/..", "/"}, {"/a/b/..", "/a/"},
		{"/a//../b", "/b"}, {"/x//a/../b", "/x//b"}, {"//..", ""}, {"/a//../..", ""}, {"/a/b//../c", "/a/c"}, {"/%2e/a", "/a"}, {"/a%2F..%2fb", "/b"}, {"/.a/..b/...", "/.a/..b/..."}, {"/a%252e", "/a%2e"},
		{"/..", ""}, {"/a/../..", ""}, {"/%", ""}, {"/%4", ""}, {"/%4x", ""}, {"/%00", ""}, {"/a/.%2e/%2e./b", ""},
		{"//a", "//a"}, {"/%e4", "/\xe4"}, {"/%5c..", "/\\.."}, {"/..;/a", "/..;/a"},
	} {
		got, err := cleanPath(c.raw)
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("cleanPath(%q) = %q, %v; want %q", c.raw, got, err, c.want)
		}
	}
}

func TestPipelining(t *testing.T) {
	r := serve(t, vassal.HTTP, keepAlive, echo)
	got := ask(t, r.addr, "POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"+
		"POST /2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\ndef\r\n1\r\ng\r\n0\r\nX: y\r\n\r\n"+
		"GET /3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /4 HTTP/1.1\r\nHost: x\r\n\r\n")
	for i, want := range []string{"PATH_INFO=/1", "body=abc", "PATH_INFO=/2", "length=-1", "body=defg", "PATH_INFO=/3", "Connection: close"} {
		if !strings.Contains(got, want) {
			t.Errorf("%d: no %q in\n%s", i, want, got)
		}
	}
	if strings.Contains(got, "/4") || strings.Count(got, "HTTP/1.1 200 OK") != 3 {
		t.Errorf("want 3 answers:\n%s", got)
	}
}

// TestByteByByte sends a request one byte at a time.
func TestByteByByte(t *testing.T) {
	r := serve(t, vassal.HTTP, vassal.HTTPLimits{}, echo)
	c := dial(t, r.addr)
	c.(*net.TCPConn).SetNoDelay(true)
	for _, b := range []byte("\r\nPOST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n") {
		if _, err := c.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	got, _ := io.ReadAll(c)
	if !strings.Contains(string(got), "body=abc\n") {
		t.Errorf("got\n%s", got)
	}
}

func TestTimeouts(t *testing.T) {
	limits := vassal.HTTPLimits{HeaderTimeout: 50 * time.Millisecond, BodyTimeout: 50 * time.Millisecond, IdleTimeout: 50 * time.Millisecond, KeepAlive: true}
	for _, c := range []struct {
		name, raw string
		want      int
	}{
		{"nothing", "", 0},
		{"half a head", "GET / HTTP/1.1\r\nHo", 408},
		{"half a line", "GET /", 408},
		{"half a body", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab", 408},
		{"half a chunk", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", 408},
		{"idle", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := serve(t, vassal.HTTP, limits, echo)
			if got := ask(t, r.addr, c.raw); status(got) != c.want {
				t.Errorf("got %d, want %d:\n%s", status(got), c.want, got)
			}
		})
	}
}

// TestSlowReader: who does not take the answer is cut after the write
// timeout; who takes it slowly is not.
func TestSlowReader(t *testing.T) {
	f := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(f, make([]byte, 32<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	big := make([]byte, 32<<20)
	for _, how := range []string{"Write", "File"} {
		t.Run(how, func(t *testing.T) {
			begun := make(chan struct{})
			r := serve(t, vassal.HTTP, vassal.HTTPLimits{WriteTimeout: 100 * time.Millisecond}, func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
				close(begun)
				if err := w.Head(200, "", nil); err != nil {
					return err
				}
				if how == "File" {
					return w.File(file, 0, 32<<20)
				}
				_, err := w.Write(big)
				return err
			})
			c := dial(t, r.addr)
			io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
			<-begun
			r.stop() // waits for the connection: at most the write timeout
			if infos := r.infos(); len(infos) != 1 || !errors.Is(infos[0].Err, errClientGone) {
				t.Errorf("got %+v, want one request whose client is gone", infos)
			} else if how == "File" && (infos[0].Bytes == 0 || infos[0].Bytes > 16<<20) { // what the kernel's buffers hold
				t.Errorf("%d bytes were sent", infos[0].Bytes)
			}
		})
	}
}

func TestContinue(t *testing.T) {
	r := serve(t, vassal.HTTP, keepAlive, func(ctx context.Context, q *exchange.Request, w exchange.Response) error {
		if q.Get("PATH_INFO") == "/no" {
			return &exchange.StatusError{Status: 403, Err: errors.New("no")}
		}
		return echo(ctx, q, w)
	})
	c := dial(t, r.addr)
	in := bufio.NewReader(c)
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
	if l, _ := in.ReadString('\n'); l != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("got %q, want 100", l)
	}
	in.ReadString('\n')
	io.WriteString(c, "abc")
	p, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(p.Body)
	if !strings.Contains(string(b), "body=abc") {
		t.Errorf("got %s", b)
	}
	// A backend that does not want the body: the final status at once, and no
	// second request on this connection, for the body may come or not.
	got := ask(t, r.addr, "POST /no HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
	if status(got) != 403 || strings.Contains(got, "100 Continue") {
		t.Errorf("got\n%s", got)
	}
}

func TestBodyLimit(t *testing.T) {
	r := serve(t, vassal.HTTP, vassal.HTTPLimits{BodyBytes: 4, KeepAlive: true}, echo)
	for _, c := range []struct {
		raw  string
		want int
	}{
		{"Content-Length: 4\r\nConnection: close\r\n\r\nabcd", 200},
		{"Content-Length: 5\r\n\r\nabcde", 413},
		{"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n", 200},
		{"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n", 413},
	} {
		if got := ask(t, r.addr, "POST / HTTP/1.1\r\nHost: x\r\n"+c.raw); status(got) != c.want {
			t.Errorf("%q: got %d, want %d", c.raw, status(got), c.want)
		}
	}
}

// TestUnreadBody: what the backend leaves of a body never becomes the next
// request.
func TestUnreadBody(t *testing.T) {
	r := serve(t, vassal.HTTP, keepAlive, hello)
	got := ask(t, r.addr, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: y\r\n\r\n"+
		"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if n := strings.Count(got, "HTTP/1.1 200"); n != 2 {
		t.Errorf("%d answers, want 2:\n%s", n, got)
	}
	big := strconv.Itoa(10 << 20)
	got = ask(t, r.addr, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: "+big+"\r\n\r\n"+strings.Repeat("x", 1000))
	if n := strings.Count(got, "HTTP/1.1 200"); n != 1 {
		t.Errorf("%d answers, want 1:\n%s", n, got)
	}
}

func TestConnectionLimit(t *testing.T) {
	r := serve(t, vassal.HTTP, vassal.HTTPLimits{Connections: 2, KeepAlive: true, IdleTimeout: time.Hour}, hello)
	var idle []net.Conn
	for range 2 {
		c := dial(t, r.addr)
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
			t.Fatal(err)
		}
		idle = append(idle, c)
	}
	// Both places are taken by idle connections: one of them makes room.
	if got := ask(t, r.addr, "GET / HTTP/1.0\r\n\r\n"); status(got) != 200 {
		t.Errorf("got %q", got)
	}
	one := make([]byte, 10)
	if n, err := io.ReadFull(idle[0], one); err == nil || n > 2 {
		t.Errorf("the oldest idle connection is still open: %q", one[:n])
	}
}

func TestDrain(t *testing.T) {
	testenv.Leaks(t)
	begun, finish := make(chan struct{}), make(chan struct{})
	r := serve(t, vassal.HTTP, vassal.HTTPLimits{KeepAlive: true, IdleTimeout: time.Hour, HeaderTimeout: time.Hour}, func(ctx context.Context, q *exchange.Request, w exchange.Response) error {
		if q.Get("PATH_INFO") == "/slow" {
			close(begun)
			<-finish
		}
		return hello(ctx, q, w)
	})
	slow, idle := dial(t, r.addr), dial(t, r.addr)
	io.WriteString(slow, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	<-begun
	in := bufio.NewReader(idle)
	io.WriteString(idle, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := in.Peek(1); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() { r.stop(); close(stopped) }()
	for !r.s.draining.Load() {
		runtime.Gosched()
	}
	// The idle connection may ask once more, and is told to go.
	io.WriteString(idle, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	got, _ := io.ReadAll(in)
	if !strings.HasSuffix(string(got), "Connection: close\r\n\r\nhi") {
		t.Errorf("idle connection got\n%s", got)
	}
	close(finish)
	if got, _ := io.ReadAll(slow); status(string(got)) != 200 || !strings.HasSuffix(string(got), "hi") {
		t.Errorf("slow request got\n%s", got)
	}
	<-stopped
	if answers(r.addr) {
		t.Error("still accepts")
	}
}

// TestDrainEnds: a request that does not end is cut when the time is over.
func TestDrainEnds(t *testing.T) {
	begun := make(chan struct{})
	r := serve(t, vassal.HTTP, vassal.HTTPLimits{}, func(ctx context.Context, _ *exchange.Request, _ exchange.Response) error {
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	})
	r.s.cfg.Drain = 50 * time.Millisecond
	c := dial(t, r.addr)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-begun
	r.stop()
}

func TestWrongProtocol(t *testing.T) {
	h := serve(t, vassal.HTTP, vassal.HTTPLimits{}, echo)
	for range 3 {
		if got := ask(t, h.addr, "\x00\x1a\x00\x00\x0e\x00REQUEST_METHOD\x03\x00GET"); got != "" {
			t.Errorf("http listener answers a uwsgi packet: %q", got)
		}
	}
	if n := strings.Count(h.logs.String(), "uwsgi packet"); n != 1 {
		t.Errorf("%d log lines, want 1:\n%s", n, h.logs)
	}
	u := serve(t, vassal.UWSGI, vassal.HTTPLimits{}, echo)
	for _, m := range []string{"GET", "POST", "HEAD", "OPTIONS", "DELETE"} {
		got := ask(t, u.addr, m+" / HTTP/1.1\r\nHost: x\r\n\r\n")
		if status(got) != 400 || !strings.Contains(got, "uwsgi_pass") {
			t.Errorf("uwsgi listener answers %s: %q", m, got)
		}
	}
	if n := strings.Count(u.logs.String(), "http-socket ="); n != 1 {
		t.Errorf("%d log lines, want 1:\n%s", n, u.logs)
	}
}

// TestRefusedIsLogged: the access log learns what was refused, and a HEAD has
// no body then either.
func TestRefusedIsLogged(t *testing.T) {
	r := serve(t, vassal.HTTP, vassal.HTTPLimits{}, echo)
	if a := ask(t, r.addr, "HEAD /a/%zz HTTP/1.1\r\nHost: x\r\n\r\n"); !strings.HasSuffix(a, "\r\n\r\n") {
		t.Errorf("HEAD got a body: %q", a)
	}
	ask(t, r.addr, "GET /b HTTP/1.1\r\n\r\n")
	ask(t, r.addr, "\x7f\r\n\r\n")
	r.stop()
	want := []string{"127.0.0.1 HEAD /a/%zz 400 invalid path", "127.0.0.1 GET /b 400 no Host field", "127.0.0.1   400 malformed request line"}
	if d := cmp.Diff(want, r.lines); d != "" {
		t.Error(d)
	}
}

func TestStats(t *testing.T) {
	r := serve(t, vassal.Stats, vassal.HTTPLimits{}, echo)
	if got := ask(t, r.addr, ""); got != "{}\n" {
		t.Errorf("got %q", got)
	}
}

func BenchmarkParse(b *testing.B) {
	s := "GET /a/b?c=d HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: */*\r\n" +
		"Accept-Encoding: gzip, br\r\nAccept-Language: en\r\nCookie: session=abcdef\r\nConnection: keep-alive\r\n\r\n"
	c := &conn{}
	b.ReportAllocs()
	b.SetBytes(int64(len(s)))
	for b.Loop() {
		if err := c.head.parse(s, 100); err != nil {
			b.Fatal(err)
		}
		if err := c.variables(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkKeepAlive is one request and its answer over loopback.
func BenchmarkKeepAlive(b *testing.B) {
	r := serve(b, vassal.HTTP, keepAlive, hello)
	r.s.cfg.Done = func(*exchange.Request) {}
	c := dial(b, r.addr)
	c.SetDeadline(time.Time{})
	raw := []byte("GET /a HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
	buf := make([]byte, 1024)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(raw); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
	c.Close()
}

// answers reports whether this package's handler answers at addr: the port may
// be somebody else's by now.
func answers(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return false
	}
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return false
	}
	got, _ := io.ReadAll(c)
	return strings.HasSuffix(string(got), "hi")
}
