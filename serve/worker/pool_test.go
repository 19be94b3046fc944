package worker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"liege/serve/exchange"
	"liege/serve/worker/lang"
	"liege/serve/worker/python"
	"liege/vassal"
)

// recorder is a client that keeps what it gets.
type recorder struct {
	status  int
	reason  string
	fields  []exchange.Field
	body    bytes.Buffer
	size    int64
	onFlush func()
	keep    bool
	onWrite func([]byte) error
}

func (r *recorder) Head(status int, reason string, fields []exchange.Field) error {
	for _, f := range fields {
		if strings.ContainsAny(f.Name, " :\x00") || f.Name == "" {
			return fmt.Errorf("invalid field name %q", f.Name)
		}
	}
	r.status, r.reason, r.fields = status, reason, append([]exchange.Field{}, fields...)
	return nil
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		panic("body before the head")
	}
	if r.onWrite != nil {
		if err := r.onWrite(b); err != nil {
			return 0, err
		}
	}
	r.size += int64(len(b))
	if r.keep {
		return r.body.Write(b)
	}
	return len(b), nil
}

func (r *recorder) Flush() error {
	if r.onFlush != nil {
		r.onFlush()
	}
	return nil
}

func (r *recorder) Started() bool { return r.status != 0 }
func (r *recorder) File(f exchange.File, off, n int64) error {
	_, err := io.Copy(r, io.NewSectionReader(f, off, n))
	return err
}

func (r *recorder) field(name string) string {
	for _, f := range r.fields {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// newFixture starts nothing; text is the application's file.
func newFixture(t testing.TB, text string, set func(app *vassal.App)) (*Pool, *vassal.App, string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "app.py"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	app := &vassal.App{Name: "shop", Dir: dir, Drain: 5 * time.Second, Workers: &vassal.Workers{
		Language: "python", Processes: 1, Threads: 1, LoadTimeout: 20 * time.Second,
		Python: &vassal.Python{File: "app.py", At: vassal.Origin{File: "shop.ini", Line: 3}}}}
	if set != nil {
		set(app)
	}
	logPath := filepath.Join(t.TempDir(), "log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	p, err := NewMounted(app, func(a *vassal.App) (lang.Runtime, error) { return python.New(a), nil }, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	p.Stdout, p.Stderr = log, log
	return p, app, logPath
}

// start runs the pool until the test ends, and waits until it is ready.
func start(t testing.TB, text string, set func(app *vassal.App)) *running {
	t.Helper()
	p, app, log := newFixture(t, text, set)
	return run(t, p, app, log)
}

type running struct {
	*Pool
	t    testing.TB
	app  *vassal.App
	path string
	stop context.CancelFunc
	done chan error
	once sync.Once
}

func run(t testing.TB, p *Pool, app *vassal.App, log string) *running {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	r := &running{Pool: p, t: t, app: app, path: log, stop: stop, done: make(chan error, 1)}
	go func() { r.done <- p.Run(ctx) }()
	t.Cleanup(r.close)
	select {
	case <-p.Ready():
	case err := <-r.done:
		r.done <- err
		t.Fatalf("the pool ended: %v\n%s", err, r.log())
	case <-time.After(30 * time.Second):
		t.Fatalf("not ready\n%s", r.log())
	}
	return r
}

func (r *running) close() {
	r.once.Do(func() {
		r.stop()
		select {
		case err := <-r.done:
			if err != nil {
				r.t.Errorf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			r.t.Errorf("the pool does not end\n%s", r.log())
		}
		if r.t.Failed() {
			r.t.Logf("log:\n%s", r.log())
		}
	})
}

func (r *running) log() string { b, _ := os.ReadFile(r.path); return string(b) }

func request(method, path string, body string) *exchange.Request {
	r := &exchange.Request{Body: strings.NewReader(body), Length: int64(len(body)), Start: time.Now()}
	uri, query, _ := strings.Cut(path, "?")
	for _, v := range [][2]string{{"REQUEST_METHOD", method}, {"REQUEST_URI", path}, {"PATH_INFO", uri}, {"QUERY_STRING", query},
		{"SCRIPT_NAME", ""}, {"SERVER_NAME", "shop"}, {"SERVER_PORT", "80"}, {"SERVER_PROTOCOL", "HTTP/1.1"},
		{"REMOTE_ADDR", "192.0.2.1"}, {"HTTP_HOST", "shop.example"}} {
		r.Vars = append(r.Vars, exchange.Var{Name: v[0], Value: v[1]})
	}
	if body != "" {
		r.Set("CONTENT_LENGTH", fmt.Sprint(len(body)))
	}
	return r
}

func (r *running) do(req *exchange.Request) (*recorder, error) {
	rec := &recorder{keep: true}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := r.Serve(ctx, req, rec)
	return rec, err
}

func (r *running) get(path string) string {
	r.t.Helper()
	rec, err := r.do(request("GET", path, ""))
	if err != nil {
		r.t.Fatalf("GET %s: %v", path, err)
	}
	if rec.status != 200 {
		r.t.Fatalf("GET %s: status %d", path, rec.status)
	}
	return rec.body.String()
}

func TestHello(t *testing.T) {
	r := start(t, `
def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'hello ' + environ['PATH_INFO'].encode()]
`, nil)
	if got := r.get("/world"); got != "hello /world" {
		t.Errorf("body %q", got)
	}
}
