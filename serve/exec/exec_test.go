package exec

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
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/serve/worker"
	"liege/vassal"
)

// asServer is the first argument of this program when it is to be a server:
// the words after it say how it behaves.
const asServer = "as-server"

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == worker.ArgLimited {
		fmt.Fprintln(os.Stderr, worker.ExecLimited(os.Args[2:]))
		os.Exit(126)
	}
	if len(os.Args) > 1 && os.Args[1] == asServer {
		server(os.Args[2:])
	}
	// The goroutine that hands out signals stays for ever once it has started.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR2)
	signal.Stop(signals)
	os.Exit(testenv.Main(m))
}

// server is the program.
func server(words []string) {
	network, addr := "tcp", "127.0.0.1:"+os.Getenv("PORT")
	healthy := time.Now()
	for _, w := range words {
		name, value, _ := strings.Cut(w, "=")
		switch name {
		case "exit":
			os.Exit(7)
		case "background":
			os.Exit(0)
		case "unix":
			network, addr = "unix", os.Getenv("LIEGE_SOCKET")
		case "at":
			addr = value
		case "silent":
			time.Sleep(time.Hour)
		case "late":
			healthy = healthy.Add(300 * time.Millisecond)
		}
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%d %s %s %d %s", os.Getpid(), r.Method, r.Header.Get("X-Forwarded-Proto"), n, strings.Join(words, ","))
	})
	mux.HandleFunc("/env/", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, os.Getenv(r.URL.Path[5:])) })
	mux.HandleFunc("/die", func(http.ResponseWriter, *http.Request) { os.Exit(3) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(700 * time.Millisecond)
		fmt.Fprint(w, os.Getpid())
	})
	mux.HandleFunc("/hang", func(http.ResponseWriter, *http.Request) { time.Sleep(time.Hour) })
	mux.HandleFunc("/never", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
	var together sync.WaitGroup
	together.Add(10)
	mux.HandleFunc("/together", func(w http.ResponseWriter, r *http.Request) { // as ten have come
		together.Done()
		together.Wait()
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		if time.Now().Before(healthy) {
			w.WriteHeader(503)
		}
	})
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		io.Copy(c, rw)
	})
	mux.HandleFunc("/proto", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %d", r.Proto, n)
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	})
	// The first bytes of a raw answer, and then the end of the connection, or of
	// the program.
	mux.HandleFunc("/raw", func(w http.ResponseWriter, r *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		io.WriteString(c, strings.NewReplacer(`\r`, "\r", `\n`, "\n").Replace(r.Header.Get("Raw-Answer")))
		if r.URL.RawQuery == "exit" {
			os.Exit(3)
		}
		c.Close()
	})
	s := &http.Server{Handler: mux}
	if slices.Contains(words, "h2c") {
		s.Protocols = new(http.Protocols)
		s.Protocols.SetUnencryptedHTTP2(true)
	}
	s.Serve(l)
}

// answer records what a handler answers; near is the client's end of a tunnel.
type answer struct {
	status int
	fields []exchange.Field
	body   bytes.Buffer
	near   net.Conn
	behind []exchange.Field
}

func (a *answer) Trailers(fields []exchange.Field) { a.behind = fields }

func (a *answer) Head(status int, _ string, fields []exchange.Field) error {
	a.status, a.fields = status, append([]exchange.Field(nil), fields...)
	return nil
}
func (a *answer) Write(p []byte) (int, error)            { return a.body.Write(p) }
func (a *answer) Flush() error                           { return nil }
func (a *answer) Started() bool                          { return a.status != 0 }
func (a *answer) File(exchange.File, int64, int64) error { return errors.New("no file expected") }
func (a *answer) Tunnel(status int, _ string, fields []exchange.Field) (exchange.Stream, error) {
	if a.near == nil {
		return nil, errors.New("no tunnel expected")
	}
	a.status = status
	return a.near.(*net.UnixConn), nil
}

// kitchen is a Handler with what it runs on.
type kitchen struct {
	*Handler
	t    *testing.T
	stop func() error
	over chan struct{} // closed when Run has returned
}

// start runs the server with words; edit changes what the file says.
func start(t *testing.T, edit func(*vassal.App), words ...string) *kitchen {
	t.Helper()
	x := &vassal.Exec{Command: append([]string{"/proc/self/exe", asServer}, words...), Processes: 1, StartTimeout: 20 * time.Second, At: vassal.Origin{File: "a.ini", Line: 3}}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	x.Command[0] = self
	app := &vassal.App{Name: "test", Exec: x, Drain: 5 * time.Second, Env: []string{"PATH=/usr/bin:/bin", "MINE=yes"}}
	if edit != nil {
		edit(app)
	}
	pool, err := worker.New(app, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h, err := New(app, pool, 10*time.Second, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	pctx, pstop := context.WithCancel(context.Background())
	pdone, done := make(chan error, 1), make(chan error, 1)
	go func() { pdone <- pool.Run(pctx) }()
	k := &kitchen{Handler: h, t: t, over: make(chan struct{})}
	go func() { defer close(k.over); done <- h.Run(ctx) }()
	k.stop = sync.OnceValue(func() error {
		stop()
		err := <-done
		pstop()
		return errors.Join(err, <-pdone)
	})
	t.Cleanup(func() { k.stop() })
	return k
}

func (k *kitchen) up() *kitchen {
	k.t.Helper()
	select {
	case <-k.Ready():
	case <-time.After(30 * time.Second):
		k.t.Fatal("not ready")
	}
	return k
}

func request(method, uri, body string) *exchange.Request {
	r := &exchange.Request{Start: time.Now(), Body: strings.NewReader(body), Length: int64(len(body)), Vars: []exchange.Var{{Name: "REQUEST_METHOD", Value: method},
		{Name: "REQUEST_URI", Value: uri}, {Name: "HTTP_HOST", Value: "example.org"}, {Name: "REMOTE_ADDR", Value: "192.0.2.7"}}}
	return r
}

func (k *kitchen) ask(method, uri, body string) (string, int, *exchange.Request) {
	k.t.Helper()
	a, r := &answer{}, request(method, uri, body)
	if err := k.Serve(k.t.Context(), r, a); err != nil {
		return err.Error(), exchange.StatusOf(err), r
	}
	return a.body.String(), a.status, r
}

// TestServe: by the port, by the socket and by a port of its own; with the
// app's environment and limits.
func TestServe(t *testing.T) {
	testenv.Leaks(t)
	free, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		words []string
		port  int
	}{"port": {nil, 0}, "socket": {[]string{"unix"}, 0}, "own port": {[]string{"at=127.0.0.1:" + strconv.Itoa(free)}, free}, "expanded": {[]string{"at=127.0.0.1:${PORT}", "$MINE$"}, 0}} {
		t.Run(name, func(t *testing.T) {
			k := start(t, func(a *vassal.App) {
				a.Exec.Port = c.port
				a.Exec.Limits = &vassal.ProcessLimits{Nice: 3}
			}, c.words...).up()
			text, status, r := k.ask("POST", "/x", "body")
			f := strings.Fields(text)
			if len(f) < 4 || status != 200 || f[1]+f[2]+f[3] != "POSThttp4" || f[0] != strconv.Itoa(r.Info.PID) || r.Info.Worker != 1 || r.Info.Seq != 1 {
				t.Fatalf("%d %q %+v", status, text, r.Info)
			}
			if name == "expanded" && f[4] != "at=127.0.0.1:"+strconv.Itoa(k.copies[0].port)+",$MINE$" {
				t.Errorf("words %q", f[4])
			}
			for _, v := range []string{"MINE=yes", "HOST=127.0.0.1", "PORT=" + strconv.Itoa(k.copies[0].port)} {
				name, want, _ := strings.Cut(v, "=")
				if got, _, _ := k.ask("GET", "/env/"+name, ""); got != want {
					t.Errorf("%s=%q, want %q", name, got, want)
				}
			}
			if st := k.Stats().Workers[0]; st.Requests != 4 || st.PID != r.Info.PID || !st.Accepting {
				t.Errorf("stats %+v", st)
			}
		})
	}
}

// TestEveryByte: a program that answers nonsense, or ends at any byte of its
// answer, alone or with the connection, costs that request and nothing else:
// the client gets 502, or an answer that it can tell was cut.
func TestEveryByte(t *testing.T) {
	testenv.Leaks(t)
	k := start(t, nil).up()
	ask := func(raw, how string) string {
		a, r := &answer{}, request("POST", "/raw?"+how, "x")
		r.Vars = append(r.Vars, exchange.Var{Name: "HTTP_RAW_ANSWER", Value: raw})
		err := k.Serve(t.Context(), r, a)
		switch {
		case err != nil && a.status != 0:
			return fmt.Sprintf("%d cut", a.status)
		case err != nil:
			return strconv.Itoa(exchange.StatusOf(err))
		}
		return fmt.Sprintf("%d %s", a.status, a.body.String())
	}
	errs := uint64(0)
	check := func(raw, how, want string) {
		t.Helper()
		if got := ask(raw, how); got != want {
			t.Errorf("%q %s: %s, want %s", raw, how, got, want)
		}
		if want == "502" || want == "200 cut" {
			errs++
		}
		if text, status, _ := k.ask("GET", "/", ""); status != 200 {
			t.Errorf("after %q %s: %d %s", raw, how, status, text)
		}
	}
	check("", "close", "502")
	exits := uint64(0)
	for _, head := range []string{"Content-Length: 5\n\nhello", "Transfer-Encoding: chunked\n\n5\nhello\n0\n\n"} {
		whole := strings.ReplaceAll("HTTP/1.1 200 OK\n"+head, "\n", "\r\n")
		end := strings.Index(whole, "\r\n\r\n") + 4
		for n := range whole {
			want := "502"
			if n >= end {
				want = "200 cut"
			}
			check(raw(whole[:n]), "close", want)
			if n == end-1 || n == end+1 {
				check(raw(whole[:n]), "exit", want)
				exits++
			}
		}
		check(raw(whole), "close", "200 hello")
		check(raw(whole+whole), "close", "200 hello") // the second is nobody's
	}
	for _, nonsense := range []string{"garbage", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "HTTP/1.1 99 No\r\n\r\n", "HTTP/9.9 200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nno field\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"} {
		check(raw(nonsense), "close", "502")
	}
	// A GET that meets a copy as it ends is tried again, and that is an error too.
	if w := k.Stats().Workers[0]; w.Errors < errs || w.Respawns != exits {
		t.Errorf("%d errors and %d respawns, want at least %d, and %d", w.Errors, w.Respawns, errs, exits)
	}
}

// raw is s as a field may hold it.
func raw(s string) string { return strings.NewReplacer("\r", `\r`, "\n", `\n`).Replace(s) }

// TestH2C: by HTTP/2 without TLS, with trailers; a copy that dies or takes too
// long is as by HTTP/1.1.
func TestH2C(t *testing.T) {
	testenv.Leaks(t)
	for _, word := range []string{"unix", "port"} {
		k := start(t, func(a *vassal.App) {
			a.Exec.H2C, a.Exec.Ready, a.Exec.Harakiri = true, "/healthz", 3*time.Second
		}, "h2c", "late", word).up()
		a := &answer{}
		if err := k.Serve(t.Context(), request("POST", "/proto", "body"), a); err != nil || a.body.String() != "HTTP/2.0 4" || len(a.behind) != 1 {
			t.Errorf("%s: %d %q %v %v", word, a.status, a.body.String(), a.behind, err)
		}
		first, status, _ := k.ask("GET", "/", "")
		if text, status, _ := k.ask("GET", "/hang", ""); status != 504 || !strings.Contains(text, "harakiri") {
			t.Errorf("%s: %d %s", word, status, text)
		}
		if again, _, _ := k.ask("GET", "/", ""); again != first || status != 200 {
			t.Errorf("%s: %d %q, then %q", word, status, first, again)
		}
		if text, status, _ := k.ask("POST", "/die", "x"); status != 502 {
			t.Errorf("%s: %d %s", word, status, text)
		}
		if text, status, _ := k.ask("POST", "/proto", "x"); status != 200 || text != "HTTP/2.0 1" {
			t.Errorf("%s: after a death: %d %s", word, status, text)
		}
		if st := k.Stats().Workers[0]; st.Harakiris != 1 || st.Respawns != 1 || st.Errors != 2 {
			t.Errorf("%s: %+v", word, st)
		}
		if err := k.stop(); err != nil {
			t.Error(err)
		}
	}
}

// TestH2CTogether: requests of one copy go at the same time, and to the copy
// with the fewest; each copy has one connection.
func TestH2CTogether(t *testing.T) {
	testenv.Leaks(t)
	k := start(t, func(a *vassal.App) { a.Exec.H2C, a.Exec.Processes = true, 2 }, "h2c", "unix").up()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if text, status, _ := k.ask("GET", "/together", ""); status != 200 {
				t.Errorf("%d %s", status, text)
			}
		})
	}
	all.Wait()
	for _, w := range k.Stats().Workers {
		if w.Requests != 10 {
			t.Errorf("copy %d had %d of 20 requests", w.ID, w.Requests)
		}
	}
}

// TestNotUp: what cannot start says why, where, and what to do.
func TestNotUp(t *testing.T) {
	testenv.Leaks(t)
	for _, c := range []struct {
		word, code, want string
		edit             func(*vassal.App)
	}{
		{"exit", vassal.CodeExitedEarly, "ended before it was ready: exit status 7", nil},
		{"silent", vassal.CodeNotReady, "not ready after 300ms: it listens neither on $PORT nor at $LIEGE_SOCKET", func(a *vassal.App) { a.Exec.StartTimeout = 300 * time.Millisecond }},
		{"http", vassal.CodeNotReady, "it speaks HTTP/1.1: exec-protocol = http, or have it speak HTTP/2 without TLS", func(a *vassal.App) {
			a.Exec.StartTimeout, a.Exec.H2C = 3*time.Second, true
		}},
		{"", vassal.CodeNoInterpreter, "/nowhere/node: not found inside the sandbox", func(a *vassal.App) { a.Exec.Command[0] = "/nowhere/node" }},
		{"late", vassal.CodeNotReady, `exec-ready = /never is answered with "HTTP/1.1 503 Service Unavailable"`, func(a *vassal.App) {
			a.Exec.StartTimeout, a.Exec.Ready = 3*time.Second, "/never"
		}},
		{"background", vassal.CodeExitedEarly, "ended before it was ready: exit status 0", nil},
	} {
		k := start(t, c.edit, c.word)
		err := k.stopWhenFailed()
		p, ok := errors.AsType[*vassal.Problem](err)
		if !ok || p.Code != c.code || !strings.HasSuffix(p.Message, c.want) || p.Line != 3 || p.Key != "exec" ||
			strings.Contains(p.Hint, "foreground") != (c.word == "background") || strings.Contains(p.Hint, "let it listen") != (c.word == "silent") {
			t.Errorf("%s: %v; %s", c.word, err, p.Hint)
		}
	}
}

func (k *kitchen) stopWhenFailed() error {
	select {
	case <-k.Ready():
		k.t.Error("it is ready")
	case <-k.over:
	}
	return k.stop()
}

// TestReadyPath: nothing is sent before the health check passes.
func TestReadyPath(t *testing.T) {
	testenv.Leaks(t)
	began := time.Now()
	k := start(t, func(a *vassal.App) { a.Exec.Ready = "/healthz" }, "late").up()
	if d := time.Since(began); d < 300*time.Millisecond {
		t.Errorf("ready after %v", d)
	}
	if _, status, _ := k.ask("GET", "/", ""); status != 200 {
		t.Error(status)
	}
}

// TestDeath: a copy that dies takes down what it had, is started again, and
// requests meanwhile wait or go to the other one.
func TestDeath(t *testing.T) {
	testenv.Leaks(t)
	k := start(t, func(a *vassal.App) { a.Exec.Processes = 2 }).up()
	if text, status, _ := k.ask("POST", "/die", "x"); status != 502 {
		t.Fatalf("%d %s", status, text)
	}
	pids := map[string]bool{}
	for range 10 {
		text, status, _ := k.ask("POST", "/", "x")
		if status != 200 {
			t.Fatalf("after a death: %d %s", status, text)
		}
		pids[strings.Fields(text)[0]] = true
	}
	// One that may be repeated is, once: it takes the other copy down too, but
	// not one after the other without end.
	if text, status, _ := k.ask("GET", "/die", ""); status != 502 {
		t.Fatalf("%d %s", status, text)
	}
	for range 4 {
		if text, status, _ := k.ask("GET", "/", ""); status != 200 {
			t.Fatalf("after both died: %d %s", status, text)
		}
	}
	if n := k.Stats().Respawns; n < 2 || n > 3 {
		t.Errorf("%d respawns", n)
	}
}

// TestHarakiri: a request that takes too long is 504 and counted; the copy and
// its other requests live.
func TestHarakiri(t *testing.T) {
	testenv.Leaks(t)
	k := start(t, func(a *vassal.App) { a.Exec.Harakiri = 2 * time.Second }).up()
	before, _, _ := k.ask("GET", "/", "")
	if text, status, _ := k.ask("GET", "/hang", ""); status != 504 || !strings.Contains(text, "harakiri") {
		t.Errorf("%d %s", status, text)
	}
	if after, _, _ := k.ask("GET", "/", ""); after != before {
		t.Errorf("before %q, after %q", before, after)
	}
	if st := k.Stats().Workers[0]; st.Harakiris != 1 || st.Respawns != 0 {
		t.Errorf("%+v", st)
	}
}

// TestMaxRequests: a copy is replaced after so many, and no request fails.
func TestMaxRequests(t *testing.T) {
	testenv.Leaks(t)
	k := start(t, func(a *vassal.App) { a.Exec.MaxRequests, a.Exec.Processes = 5, 2 }, "unix").up()
	pids := map[string]int{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 10 {
				text, status, _ := k.ask("POST", "/", "x")
				if status != 200 {
					t.Errorf("%d %s", status, text)
					return
				}
				mu.Lock()
				pids[strings.Fields(text)[0]]++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	for pid, n := range pids {
		if n > 5 {
			t.Errorf("process %s answered %d", pid, n)
		}
	}
	if len(pids) < 8 {
		t.Errorf("only %d processes", len(pids))
	}
}

// TestBalance: what is slow does not get the next request.
func TestBalance(t *testing.T) {
	testenv.Leaks(t)
	k := start(t, func(a *vassal.App) { a.Exec.Processes = 2 }).up()
	slow := make(chan string, 1)
	go func() {
		text, _, _ := k.ask("GET", "/slow", "")
		slow <- text
	}()
	for busy := false; !busy; {
		k.mu.Lock()
		busy = k.copies[0].busy+k.copies[1].busy > 0
		k.mu.Unlock()
	}
	var others []string
	for range 5 {
		text, _, _ := k.ask("GET", "/", "")
		others = append(others, strings.Fields(text)[0])
	}
	pid := <-slow
	for _, o := range others {
		if o == pid {
			t.Error("a request went to the busy copy")
		}
	}
}

// TestTunnel: a WebSocket's connection goes through, both ways.
func TestTunnel(t *testing.T) {
	testenv.Leaks(t)
	k := start(t, func(a *vassal.App) { a.Exec.Harakiri = 100 * time.Millisecond }).up()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := func(fd int) net.Conn {
		f := os.NewFile(uintptr(fd), "")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	client, near := conn(fds[0]), conn(fds[1])
	defer client.Close()
	r := request("GET", "/ws", "")
	r.Set("HTTP_UPGRADE", "websocket")
	done := make(chan error, 1)
	go func() { done <- k.Serve(t.Context(), r, &answer{near: near}) }()
	for range 3 {
		time.Sleep(80 * time.Millisecond) // together longer than harakiri
		io.WriteString(client, "hello\n")
		if line, err := bufio.NewReader(client).ReadString('\n'); line != "hello\n" {
			t.Fatalf("%q %v", line, err)
		}
	}
	client.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestOwnPort: a port that another user listens on is not taken for the
// program's.
func TestOwnPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	if err := ownPort(port, os.Getuid()); err != nil {
		t.Error(err)
	}
	if err := ownPort(port, os.Getuid()+1); err == nil {
		t.Error("another user's port is taken for our own")
	}
}

// FuzzListening: whatever the table says, no panic.
func FuzzListening(f *testing.F) {
	b, err := os.ReadFile("/proc/self/net/tcp")
	if err == nil {
		f.Add(b[:min(len(b), 2000)])
	}
	f.Add([]byte("  sl\n 0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, l := range listening(b) {
			if l.port < 0 || l.port > 65535 {
				t.Errorf("port %d", l.port)
			}
		}
	})
}
