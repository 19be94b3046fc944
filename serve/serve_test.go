package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/serve/worker"
	"liege/vassal"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// fake is an application.
type fake struct {
	handler exchange.HandlerFunc
	ready   chan vassal.Problems
	fail    chan error
	stopped bool
}

func newFake(h exchange.HandlerFunc) *fake {
	f := &fake{handler: h, ready: make(chan vassal.Problems, 1), fail: make(chan error, 1)}
	f.ready <- vassal.Problems{{Severity: vassal.Warning, Message: "note"}}
	return f
}

func (f *fake) Serve(ctx context.Context, r *exchange.Request, w exchange.Response) error {
	r.Info.Backend, r.Info.Worker, r.Info.PID = "python", 1, 4711
	return f.handler(ctx, r, w)
}

func (f *fake) Run(ctx context.Context) error {
	defer func() { f.stopped = true }()
	select {
	case <-ctx.Done():
		return nil
	case err := <-f.fail:
		return err
	}
}

func (f *fake) Call(context.Context, string, []string) (string, error) {
	return "", errors.New("no functions")
}
func (f *fake) Start(*worker.Program) (worker.Process, error) {
	return worker.Process{}, errors.New("no programs here")
}
func (f *fake) Environ() []string { return nil }

func (f *fake) Ready() <-chan vassal.Problems { return f.ready }
func (f *fake) Stats() exchange.Stats {
	return exchange.Stats{Queued: 2, Respawns: 1, Workers: []exchange.WorkerStats{{ID: 1, PID: 42, Requests: 4, Running: 8 * time.Millisecond, Busy: true, Accepting: true,
		Threads: []exchange.ThreadStats{{Requests: 4, Since: time.Now()}, {}}}}}
}

// output collects lines of the log.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// start runs a core for app; stop drains it and returns Run's error.
func start(t *testing.T, app *vassal.App, pool *fake) (addrs []string, log *output, stop func() error) {
	t.Helper()
	return startWith(t, app, pool)
}

func startWith(t *testing.T, app *vassal.App, pool Application) (addrs []string, log *output, stop func() error) {
	t.Helper()
	var ls []net.Listener
	for range app.Listen {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ls, addrs = append(ls, l), append(addrs, l.Addr().String())
	}
	log = &output{}
	app.Drain = 5 * time.Second
	c, err := New(app, pool, log, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- c.Run(ctx, ls, func(vassal.Problems) { close(ready) }) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { stop() })
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
	case <-time.After(10 * time.Second):
		t.Fatal("not ready")
	}
	return addrs, log, stop
}

func ask(t *testing.T, addr, raw string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, raw)
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func httpApp(dir string) *vassal.App {
	return &vassal.App{Name: "shop", Hostname: "shop", Listen: []vassal.Listener{{Protocol: vassal.HTTP, Address: "a:1"}, {Protocol: vassal.Stats, Address: "s:1"}},
		Static: vassal.Static{Check: []string{dir}}, Workers: &vassal.Workers{Language: "python"}}
}

func hello(_ context.Context, r *exchange.Request, w exchange.Response) error {
	if r.Get("PATH_INFO") == "/busy" {
		return &exchange.StatusError{Status: 503, RetryAfter: time.Second, Err: errors.New("queue is full")}
	}
	if err := w.Head(200, "", nil); err != nil {
		return err
	}
	_, err := io.WriteString(w, "app")
	return err
}

func TestChain(t *testing.T) {
	testenv.Leaks(t)
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/f.txt", []byte("file"), 0o644); err != nil {
		t.Fatal(err)
	}
	pool := newFake(hello)
	addrs, log, stop := start(t, httpApp(dir), pool)
	for _, c := range []struct{ line, want, body string }{
		{"GET /f.txt", "200", "file"}, {"GET /x", "200", "app"}, {"POST /f.txt", "200", "app"}, {"GET /busy", "503", "503 Service Unavailable\n"},
	} {
		got := ask(t, addrs[0], c.line+" HTTP/1.1\r\nHost: x\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 "+c.want) || !strings.HasSuffix(got, "\r\n\r\n"+c.body) {
			t.Errorf("%s: got\n%s", c.line, got)
		}
	}
	var st struct {
		ListenQueue int `json:"listen_queue"`
		Requests    int
		Errors      int
		Workers     []struct {
			ID, PID, Requests, Accepting int
			Status                       string
			AvgRT                        int `json:"avg_rt"`
		}
	}
	if err := json.Unmarshal([]byte(ask(t, addrs[1], "")), &st); err != nil {
		t.Fatal(err)
	}
	if st.ListenQueue != 2 || st.Requests != 4 || st.Errors != 1 || len(st.Workers) != 1 || st.Workers[0].PID != 42 ||
		st.Workers[0].Status != "busy" || st.Workers[0].AvgRT != 2000 {
		t.Errorf("stats: %+v", st)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if !pool.stopped {
		t.Error("the workers still run")
	}
	if got := log.String(); strings.Count(got, "\n") != 4 || !strings.Contains(got, "|app: 0|req: 4/4] 127.0.0.1 () {") ||
		!strings.Contains(got, "] GET /busy => generated 24 bytes in 0 msecs (HTTP/1.1 503) 3 headers in 169 bytes (1 switches on core 0) queue is full\n") {
		t.Errorf("access log:\n%s", got)
	}
}

func TestNoApplication(t *testing.T) {
	app := httpApp(t.TempDir())
	app.Workers = nil
	addrs, _, _ := start(t, app, newFake(hello))
	for method, want := range map[string]string{"GET": "404", "HEAD": "404", "POST": "405"} {
		if got := ask(t, addrs[0], method+" /x HTTP/1.1\r\nHost: x\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 "+want) {
			t.Errorf("%s: got\n%s", method, got)
		}
	}
}

// TestBrokenApplication: an app that does not load, or is lost, ends the core
// with its reason.
func TestBrokenApplication(t *testing.T) {
	testenv.Leaks(t)
	want := &vassal.Problem{Severity: vassal.Error, Message: "no module named shop"}
	for _, ready := range []bool{false, true} {
		pool := newFake(hello)
		if !ready {
			<-pool.ready
		}
		pool.fail <- want
		_, _, stop := start(t, httpApp(t.TempDir()), pool)
		pool.fail <- want
		if err := stop(); !errors.Is(err, want) {
			t.Errorf("ready %t: Run: %v, want %v", ready, err, want)
		}
	}
}

// TestAccessLogInjection: whatever a client sends, one request is one line and
// its own words only (threat D21).
func TestAccessLogInjection(t *testing.T) {
	l := newAccessLog(vassal.LogFormat{}, io.Discard)
	l.pid = 7
	evil := "/a b\r\n[pid: 1] \x1b[31m\xe4\x00\\" + strings.Repeat("x", 5000)
	r := &exchange.Request{Start: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Vars: []exchange.Var{{Name: "REQUEST_METHOD", Value: "G\nET"}, {Name: "REQUEST_URI", Value: evil},
		{Name: "REMOTE_USER", Value: "a) (b"}, {Name: "SERVER_PROTOCOL", Value: "HTTP/1.1"}}, Info: exchange.Info{Status: 502, Bytes: 3, Err: errors.New("it\nbroke")}}
	got := string(l.appendLine(nil, r, 3, 1500*time.Microsecond))
	size := 0
	for _, v := range r.Vars {
		size += len(v.Name) + len(v.Value) + 4
	}
	want := "[pid: 7|app: -1|req: 3/3]  (a)\\x20(b) {4 vars in " + itoa(size) + " bytes} [Fri Jan  2 03:04:05 2026] G\\x0aET /a\\x20b\\x0d\\x0a[pid:\\x201]\\x20\\x1b[31m\\xe4\\x00\\x5c" +
		strings.Repeat("x", maxLogged-len(evil)+5000) + "... => generated 3 bytes in 1 msecs (HTTP/1.1 502) 0 headers in 0 bytes (1 switches on core 0) it\\x0abroke\n"
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestLogFormat(t *testing.T) {
	r := &exchange.Request{Start: time.Date(2026, 1, 2, 3, 4, 5, 6_007_000, time.UTC), Vars: []exchange.Var{{Name: "REQUEST_METHOD", Value: "GET"},
		{Name: "REQUEST_URI", Value: "/a"}, {Name: "HTTP_USER_AGENT", Value: "a \"b\"\n"}, {Name: "HTTP_X", Value: "x"}}, Info: exchange.Info{Status: 200, Bytes: 3, Worker: 2, Head: 51, Fields: 2, Thread: 1}}
	for format, want := range map[string]string{
		`%(method) %(uri) "%(uagent)" %(status) %(size)`:  `GET /a "a \x22b\x22\x0a" 200 54`,
		"%(ltime) %(ctime) %(time) %(micros) %(msecs)":    "02/Jan/2026:03:04:05 +0000 Fri Jan  2 03:04:05 2026 1767323045 2500 2",
		"%(user)|%(unknown)|%(core)|%(var.HTTP_X)|%(wid)": "-|-|1|x|2",
		`{"a":"%(uagent)","s":%(status)}`:                 `{"a":"a \"b\"\u000a","s":200}`,
		"%(hsize) %(headers) %(size) %(core) %(ioerr)":    "51 2 54 1 0",
		"plain":       "plain",
		"100%, %(pid": "100%, %(pid",
		"%()%(var.)":  "--",
	} {
		l := newAccessLog(vassal.LogFormat{Format: format}, io.Discard)
		l.request(r, 1, 2500*time.Microsecond)
		if got := string(l.pending); got != want+"\n" {
			t.Errorf("%s: got %q, want %q", format, got, want)
		}
	}
}

// TestDisableLogging: failures are logged all the same.
func TestDisableLogging(t *testing.T) {
	l := newAccessLog(vassal.LogFormat{Disable: true}, io.Discard)
	l.request(&exchange.Request{Info: exchange.Info{Status: 200}}, 1, 0)
	if len(l.pending) > 0 {
		t.Errorf("got %q", l.pending)
	}
	l.request(&exchange.Request{Info: exchange.Info{Status: 502}}, 1, 0)
	if len(l.pending) == 0 {
		t.Error("a failure is not logged")
	}
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

// stuck is a log that nobody reads.
type stuck struct{ release chan struct{} }

func (s stuck) Write(p []byte) (int, error) { <-s.release; return len(p), nil }

// TestStuckLog: requests do not wait for whoever reads the log, and memory
// stays bounded.
func TestStuckLog(t *testing.T) {
	out := stuck{make(chan struct{})}
	defer close(out.release)
	l := newAccessLog(vassal.LogFormat{}, out)
	stop := l.start()
	r := &exchange.Request{Vars: []exchange.Var{{Name: "REQUEST_URI", Value: strings.Repeat("x", 1000)}}}
	// However much the writer took before it stuck: at some point lines are
	// dropped, and what waits is bounded.
	var pending int
	var dropped uint64
	for i := 0; i < 1_000_000 && dropped < 1000; i++ {
		l.request(r, uint64(i), 0)
		l.mu.Lock()
		pending, dropped = len(l.pending), uint64(l.dropped)
		l.mu.Unlock()
		if pending > maxPending+4096 {
			t.Fatalf("%d bytes wait", pending)
		}
	}
	if dropped < 1000 {
		t.Errorf("%d lines dropped", dropped)
	}
	stop() // it gives up on the line that is stuck
}

func TestWholeLines(t *testing.T) {
	line := strings.Repeat("x", 99) + "\n"
	for _, c := range []struct {
		in   string
		want int
	}{{line, 100}, {strings.Repeat(line, 60), 4000}, {strings.Repeat("x", 5000) + "\n" + line, 5001}, {strings.Repeat("x", 5000), 5000}} {
		if got := wholeLines([]byte(c.in)); got != c.want {
			t.Errorf("%d bytes: got %d, want %d", len(c.in), got, c.want)
		}
	}
}

func TestLogFile(t *testing.T) {
	name := t.TempDir() + "/log"
	app := httpApp(t.TempDir())
	app.Log.To = name
	addrs, other, stop := start(t, app, newFake(hello))
	ask(t, addrs[0], "GET /1 HTTP/1.0\r\n\r\n")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(name); err != nil || !strings.Contains(string(b), "GET /1 =>") || other.String() != "" {
		t.Errorf("got %q, %v, and elsewhere %q", b, err, other)
	}
	// Where it cannot be opened the lines go to the default log, and say so.
	app = httpApp(t.TempDir())
	app.Log.To = "/proc/none/log"
	addrs, other, stop = start(t, app, newFake(hello))
	ask(t, addrs[0], "GET /1 HTTP/1.0\r\n\r\n")
	stop()
	if !strings.HasPrefix(other.String(), "access log: open /proc/none/log") || !strings.Contains(other.String(), "GET /1 =>") {
		t.Errorf("got %q", other)
	}
}

// TestRouting: rules are in front of everything, and say what is logged.
func TestRouting(t *testing.T) {
	app := httpApp(t.TempDir())
	app.Log.Format = "%(method) %(uri) %(status) %(who) %(nobody)"
	app.Routing = &vassal.Routing{
		Request: []vassal.Rule{
			{Subject: "PATH_INFO", Regexp: "^/quiet", Action: "donotlog"},
			{Subject: "PATH_INFO", Regexp: "^/away", Action: "redirect", ActionArg: "/there"},
			{Action: "logvar", ActionArg: "who=${REMOTE_ADDR}"},
		},
		Final: []vassal.Rule{{Subject: "status", Regexp: "302", Action: "logvar", ActionArg: "who=nobody at all"}},
		Add:   []vassal.HeaderLine{{Name: "X-Added", Value: "yes"}},
	}
	pool := newFake(func(_ context.Context, r *exchange.Request, w exchange.Response) error {
		if err := w.Head(200, "OK", nil); err != nil {
			return err
		}
		_, err := io.WriteString(w, "hello")
		return err
	})
	addrs, log, stop := start(t, app, pool)
	for path, want := range map[string]string{"/away": "302 Found", "/quiet": "200 OK", "/x": "200 OK"} {
		got := ask(t, addrs[0], "GET "+path+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		if !strings.Contains(got, want) || !strings.Contains(got, "X-Added: yes\r\n") {
			t.Errorf("%s: %s", path, got)
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	lines := log.String()
	for _, want := range []string{"GET /away 302 nobody at all -\n", "GET /x 200 127.0.0.1 -\n"} {
		if !strings.Contains(lines, want) {
			t.Errorf("%q is not in the log:\n%s", want, lines)
		}
	}
	if strings.Contains(lines, "/quiet") {
		t.Error(lines)
	}
}

// TestRoutingUnusable: a rule that cannot be compiled ends the start with its
// line.
func TestRoutingUnusable(t *testing.T) {
	app := httpApp(t.TempDir())
	app.Routing = &vassal.Routing{Request: []vassal.Rule{{Action: "nosuch", Key: "route-run", At: vassal.Origin{File: "a.ini", Line: 7}}}}
	_, err := New(app, newFake(nil), io.Discard, slog.New(slog.DiscardHandler))
	if p, ok := errors.AsType[*vassal.Problem](err); !ok || p.Line != 7 || p.Code != vassal.CodeBadRoute {
		t.Errorf("%v", err)
	}
}

// TestOwnModifier: nginx sends the number of the application's language.
func TestOwnModifier(t *testing.T) {
	pool := newFake(func(_ context.Context, _ *exchange.Request, w exchange.Response) error { return w.Head(200, "", nil) })
	app := &vassal.App{Name: "shop", Workers: &vassal.Workers{Language: "ruby", Processes: 1, Threads: 1, Ruby: &vassal.Ruby{File: "config.ru"}},
		Listen: []vassal.Listener{{Protocol: vassal.UWSGI}}}
	addrs, _, stop := start(t, app, pool)
	for modifier, want := range map[byte]string{0: "HTTP/1.1 200 ", 7: "HTTP/1.1 200 ", 5: "HTTP/1.1 501 "} {
		c, err := net.Dial("tcp", addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		vars := "\x0e\x00REQUEST_METHOD\x03\x00GET\x0f\x00SERVER_PROTOCOL\x08\x00HTTP/1.1"
		if _, err := io.WriteString(c, string([]byte{modifier, byte(len(vars)), 0, 0})+vars); err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(c) // what came before the end is looked at
		c.Close()
		if !strings.HasPrefix(string(got), want) {
			t.Errorf("modifier %d: got %q, want %q", modifier, got, want)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
