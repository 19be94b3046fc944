package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/serve/exchange"
	"liege/vassal"
)

// asynchronous is a raw ASGI application that does one thing for each path.
const asynchronous = `
import asyncio, os, json
log = open('events', 'a', 1)

async def body(receive):
    out = b''
    while True:
        m = await receive()
        if m['type'] == 'http.disconnect':
            log.write('disconnect in body\n')
            return None
        out += m['body']
        if not m['more_body']:
            return out

waiting = 0

async def application(scope, receive, send):
    global waiting
    if scope['type'] == 'lifespan':
        m = await receive()
        assert m['type'] == 'lifespan.startup'
        if os.path.exists('refuse'):
            await send({'type': 'lifespan.startup.failed', 'message': 'Traceback\nValueError: no database'})
            return
        scope['state']['word'] = 'stateful'
        log.write('startup\n')
        await send({'type': 'lifespan.startup.complete'})
        m = await receive()
        log.write('shutdown\n')
        await send({'type': 'lifespan.shutdown.complete'})
        return
    path = scope['path']
    start = {'type': 'http.response.start', 'status': 200, 'headers': [(b'content-type', b'text/plain')]}
    async def text(data, status=200):
        start['status'] = status
        await send(start)
        await send({'type': 'http.response.body', 'body': data})
    if path == '/scope':
        scope['headers'] = [(k.decode(), v.decode('latin-1')) for k, v in scope['headers']]
        await text(json.dumps(scope, default=repr, sort_keys=True).encode())
    elif path == '/echo':
        await text(await body(receive))
    elif path == '/stream':
        await send(start)
        for i in range(3):
            await send({'type': 'http.response.body', 'body': b'%d\n' % i, 'more_body': True})
        await send({'type': 'http.response.body'})
    elif path == '/mirror':
        await send(start)
        while True:
            m = await receive()
            await send({'type': 'http.response.body', 'body': m.get('body', b''), 'more_body': m.get('more_body', False)})
            if not m.get('more_body'):
                return
    elif path == '/big':
        await text(b'x' * 3000000)
    elif path == '/204':
        await text(b'no', 204)
    elif path == '/file':
        await send(start)
        await send({'type': 'http.response.pathsend', 'path': os.path.abspath('app.py')})
    elif path == '/wait':
        waiting += 1
        while waiting < 50:
            await asyncio.sleep(0.005)
        await text(b'%d' % waiting)
    elif path == '/leave':
        await body(receive)
        log.write('waits\n')
        m = await receive()
        log.write(m['type'] + '\n')
    elif path == '/forever':
        await send(start)
        try:
            while True:
                await send({'type': 'http.response.body', 'body': b'x' * 1000, 'more_body': True})
        except OSError:
            log.write('gone\n')
            raise
    elif path == '/boom':
        raise ValueError('boom')
    elif path == '/late':
        await send(start)
        await send({'type': 'http.response.body', 'body': b'half', 'more_body': True})
        raise ValueError('late')
    elif path == '/silent':
        return
    elif path == '/stuck':
        import time
        time.sleep(60)
    elif path == '/exit':
        raise SystemExit(3)
    elif path == '/cancel':
        asyncio.current_task().cancel()
        await asyncio.sleep(1)
    elif path == '/cancelled':
        what = scope['query_string']
        if what == b'late':
            await send(start)
            await send({'type': 'http.response.body', 'body': b'half', 'more_body': True})
        elif what == b'file':
            await send(start)
            asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
            await send({'type': 'http.response.pathsend', 'path': os.path.abspath('app.py')})
        elif what == b'twice':
            asyncio.current_task().cancel()
        raise asyncio.CancelledError()
    elif path == '/pid':
        await text(b'%d' % os.getpid())
`

func startASGI(t *testing.T, set func(app *vassal.App)) (*running, func() string) {
	t.Helper()
	r := start(t, asynchronous, set)
	return r, func() string {
		b, _ := os.ReadFile(filepath.Join(r.app.Dir, "events"))
		return string(b)
	}
}

func TestASGI(t *testing.T) {
	r, events := startASGI(t, nil)
	if n := r.lanesEach(); n != defaultAsync {
		t.Errorf("%d lanes", n)
	}
	for path, want := range map[string]string{"/stream": "0\n1\n2\n", "/big": strings.Repeat("x", 3000000), "/204": "", "/file": asynchronous} {
		rec, err := r.do(request("GET", path, ""))
		if err != nil || rec.body.String() != want {
			t.Errorf("%s: %d bytes, %v", path, rec.body.Len(), err)
		}
	}
	for _, body := range []string{"", "small", strings.Repeat("large", 100000)} {
		for _, path := range []string{"/echo", "/mirror"} {
			req := request("POST", path, body)
			if rec, err := r.do(req); err != nil || rec.body.String() != body {
				t.Errorf("%s of %d bytes: got %d, %v", path, len(body), rec.body.Len(), err)
			}
			req = request("POST", path, body)
			req.Length = -1
			if rec, err := r.do(req); err != nil || rec.body.String() != body {
				t.Errorf("%s of %d bytes, chunked: got %d, %v", path, len(body), rec.body.Len(), err)
			}
		}
	}
	rec, err := r.do(request("HEAD", "/echo", "abc"))
	if err != nil || rec.body.Len() != 0 || rec.field("Content-Length") != "3" {
		t.Errorf("HEAD: %d bytes, Content-Length %q, %v", rec.body.Len(), rec.field("Content-Length"), err)
	}
	req := request("GET", "/scope?a=%20b", "")
	req.Set("PATH_INFO", "/scope")
	req.Set("CONTENT_TYPE", "a/b")
	req.Set("HTTP_CONTENT_TYPE", "x/y") // nginx's uwsgi_params: both
	req.Set("HTTP_X_TEST", "ä")
	if rec, err = r.do(req); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"type": "http"`, `"method": "GET"`, `"http_version": "1.1"`, `"path": "/scope"`, `"scheme": "http"`, `["x-test", "`,
		`"query_string": "b'a=%20b'"`, `"root_path": ""`, `"client": ["192.0.2.1", 0]`, `"server": ["shop", 80]`, `"word": "stateful"`, `"http.response.pathsend"`} {
		if !strings.Contains(rec.body.String(), want) {
			t.Errorf("scope: no %s in %s", want, rec.body.String())
		}
	}
	if s := rec.body.String(); strings.Count(s, `"content-type"`) != 1 || !strings.Contains(s, `["content-type", "a/b"]`) {
		t.Errorf("scope: not one content-type in %s", s)
	}
	for path, status := range map[string]int{"/boom": 500, "/silent": 500} {
		if _, err := r.do(request("GET", path, "")); exchange.StatusOf(err) != status {
			t.Errorf("%s: %v", path, err)
		}
	}
	if rec, err := r.do(request("GET", "/late", "")); err == nil || rec.body.String() != "half" {
		t.Errorf("/late: %q, %v", rec.body.String(), err)
	}
	if !strings.Contains(r.log(), "ValueError: boom") || !strings.Contains(r.log(), "returned without a response") {
		t.Error("the log does not say why")
	}
	// A head that is larger than a packet.
	req = request("GET", "/echo", "")
	req.Set("HTTP_LARGE", strings.Repeat("y", 40000))
	if _, err := r.do(req); err != nil {
		t.Errorf("a large head: %v", err)
	}
	r.close()
	if got := events(); got != "startup\nshutdown\n" {
		t.Errorf("events: %q", got)
	}
}

// TestASGIConcurrent: one worker serves as many requests at once as it has lanes.
func TestASGIConcurrent(t *testing.T) {
	r, _ := startASGI(t, func(app *vassal.App) { app.Workers.Async = 50 })
	errs := make(chan error, 50)
	for range 50 {
		go func() {
			rec, err := r.do(request("GET", "/wait", ""))
			if err == nil && rec.body.String() != "50" {
				err = errors.New(rec.body.String())
			}
			errs <- err
		}()
	}
	for range 50 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// TestASGILeaves: the application hears that its client has gone, where it
// waits and where it writes.
func TestASGILeaves(t *testing.T) {
	r, events := startASGI(t, nil)
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx, request("GET", "/leave", ""), &recorder{}) }()
	eventually(t, "the application waits", func() bool { return strings.Contains(events(), "waits") })
	leave()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Serve: %v", err)
	}
	eventually(t, "it hears", func() bool { return strings.Contains(events(), "http.disconnect") })

	// A client's end that the front notices.
	w := &watched{left: make(chan func(), 1)}
	go func() { done <- r.Serve(t.Context(), request("GET", "/leave", ""), w) }()
	(<-w.left)()
	if err := <-done; exchange.StatusOf(err) != 500 {
		t.Errorf("Serve: %v", err)
	}
	eventually(t, "it hears again", func() bool { return strings.Count(events(), "http.disconnect") == 2 })
	if !w.stopped {
		t.Error("the watch was not stopped")
	}

	// A client that does not take the answer.
	if err := r.Serve(t.Context(), request("GET", "/forever", ""), &closing{}); err == nil {
		t.Error("an answer without end was sent")
	}
	eventually(t, "it notices", func() bool { return strings.Contains(events(), "gone") })
	if got := r.get("/echo"); got != "" {
		t.Errorf("afterwards: %q", got)
	}
	if strings.Contains(r.log(), "Traceback") {
		t.Error("a client that leaves is a traceback in the log")
	}
}

type watched struct {
	recorder
	left    chan func()
	stopped bool
}

func (w *watched) Watch(left func()) func() {
	w.left <- left
	return func() { w.stopped = true }
}

// closing takes a head and 10000 bytes.
type closing struct{ n int }

func (w *closing) Head(int, string, []exchange.Field) error { return nil }
func (w *closing) Flush() error                             { return nil }
func (w *closing) File(exchange.File, int64, int64) error   { return io.ErrClosedPipe }
func (w *closing) Started() bool                            { return true }
func (w *closing) Write(p []byte) (int, error) {
	if w.n += len(p); w.n > 10000 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func TestASGIStartFails(t *testing.T) {
	p, app, _ := newFixture(t, asynchronous, nil)
	if err := os.WriteFile(filepath.Join(app.Dir, "refuse"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var problem *vassal.Problem
	if err := p.Run(t.Context()); !errors.As(err, &problem) || !strings.Contains(problem.Message, "startup failed: ValueError: no database") {
		t.Errorf("got %v", err)
	}
}

// TestASGILife: workers are replaced, die and are killed as those of WSGI.
func TestASGILife(t *testing.T) {
	r, events := startASGI(t, func(app *vassal.App) { app.Workers.MaxRequests, app.Workers.Harakiri = 3, time.Second })
	first := r.get("/pid")
	r.get("/pid")
	r.get("/pid")
	eventually(t, "another worker", func() bool { return r.get("/pid") != first })
	eventually(t, "the first has shut down", func() bool { return strings.Contains(events(), "shutdown") })
	if _, err := r.do(request("GET", "/stuck", "")); exchange.StatusOf(err) != 504 {
		t.Errorf("harakiri: %v", err)
	}
	eventually(t, "another one again", func() bool { return r.get("/pid") != "" })
}

// TestASGIShutdownBounded: a worker that ends by itself waits for the application's
// shutdown no longer than one that has to end.
func TestASGIShutdownBounded(t *testing.T) {
	r := start(t, `
import asyncio, os
async def application(scope, receive, send):
    if scope['type'] == 'lifespan':
        await receive()
        await send({'type': 'lifespan.startup.complete'})
        await receive()
        await asyncio.sleep(3600)
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    await send({'type': 'http.response.body', 'body': b'%d' % os.getpid()})
`, func(app *vassal.App) { app.Workers.MaxRequests, app.Drain = 1, 500*time.Millisecond })
	pid, err := strconv.Atoi(r.get("/"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the worker has ended", func() bool { return unix.Kill(pid, 0) == unix.ESRCH })
	if log := r.log(); !strings.Contains(log, "lifespan shutdown has not ended within 0.5 s") || strings.Contains(log, "a worker died") {
		t.Errorf("log:\n%s", log)
	}
}

// TestASGIDetected: the file says so, or the callable looks like one.
func TestASGIDetected(t *testing.T) {
	const answer = "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n    await send({'type': 'http.response.body', 'body': b'ok'})\n"
	for name, c := range map[string]struct {
		text string
		set  func(app *vassal.App)
	}{
		"class":   {"class A:\n  async def __call__(self, scope, receive, send):\n" + strings.ReplaceAll(answer, "    ", "      ") + "application = A()\n", nil},
		"partial": {"import functools\nasync def a(x, scope, receive, send):\n" + answer + "application = functools.partial(a, 1)\n", nil},
		"plain":   {"async def a(scope, receive, send):\n" + answer + "def application(scope, receive, send):\n    return a(scope, receive, send)\n", nil},
		"said":    {"async def a(scope, receive, send):\n" + answer + "def application(*args):\n    return a(*args)\n", func(app *vassal.App) { app.Workers.Python.ASGI = true }},
		"lazy":    {"async def application(scope, receive, send):\n" + answer, func(app *vassal.App) { app.Workers.LazyApps = true; app.Workers.Python.ASGI = true }},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, c.text, c.set)
			if got := r.get("/"); got != "ok" || r.lanesEach() != defaultAsync {
				t.Errorf("got %q with %d lanes", got, r.lanesEach())
			}
		})
	}
}

// trailed is an answer with fields behind its body.
type trailed struct {
	recorder
	behind []exchange.Field
}

func (w *trailed) Trailers(fields []exchange.Field) { w.behind = append(w.behind, fields...) }

// TestASGITrailers: fields behind the body, of a short one too, where the client
// takes them.
func TestASGITrailers(t *testing.T) {
	r := start(t, `
async def application(scope, receive, send):
    if scope['type'] != 'http':
        raise RuntimeError('http only')
    if 'http.response.trailers' not in scope['extensions']:
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        return await send({'type': 'http.response.body', 'body': b'not offered'})
    await send({'type': 'http.response.start', 'status': 200, 'headers': [], 'trailers': True})
    if scope['path'] == '/long':
        await send({'type': 'http.response.body', 'body': b'x' * 300000, 'more_body': True})
    await send({'type': 'http.response.body', 'body': b'end'})
    try:
        await send({'type': 'http.response.body', 'body': b'more'})
    except RuntimeError as e:
        said = str(e).encode()
    if scope['path'] == '/none':
        return
    await send({'type': 'http.response.trailers', 'headers': [(b'x-a', b'1')], 'more_trailers': True})
    await send({'type': 'http.response.trailers', 'headers': [(b'x-b', said)]})
`, nil)
	for _, protocol := range []string{"HTTP/2.0", "HTTP/1.1"} {
		testASGITrailers(t, r, protocol)
	}
	req := request("GET", "/none", "")
	req.Trailing = true
	if err := r.Serve(t.Context(), req, &trailed{}); err == nil {
		t.Error("trailers that never came are no error")
	}
	// Behind a gateway, whatever its client speaks and has said.
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0", "HTTP/3.0"} {
		req := request("GET", "/", "")
		req.Set("SERVER_PROTOCOL", protocol)
		req.Set("HTTP_TE", "trailers")
		if rec, err := r.do(req); err != nil || rec.body.String() != "not offered" {
			t.Errorf("by %s: %q, %v", protocol, rec.body.String(), err)
		}
	}
}

// TestASGICancelled: what is no Exception ends its own request too, and the lane
// that it was on serves the next one.
func TestASGICancelled(t *testing.T) {
	r, events := startASGI(t, func(app *vassal.App) { app.Workers.Async = 2 })
	pid := r.get("/pid")
	for range 3 {
		for _, path := range []string{"/cancelled", "/cancel", "/cancelled?twice"} {
			if _, err := r.do(request("GET", path, "")); exchange.StatusOf(err) != 500 {
				t.Fatalf("%s: %v", path, err)
			}
		}
		if rec, err := r.do(request("GET", "/cancelled?late", "")); err == nil || rec.body.String() != "half" {
			t.Fatalf("late: %q, %v", rec.body.String(), err)
		}
		if rec, err := r.do(request("GET", "/cancelled?file", "")); err != nil || rec.body.String() != asynchronous {
			t.Fatalf("while a file is handed over: %d bytes, %v", rec.body.Len(), err)
		}
		if got := r.get("/pid"); got != pid {
			t.Fatalf("worker %s instead of %s\n%s", got, pid, r.log())
		}
	}
	if n := r.inFlight(); n != 0 {
		t.Errorf("%d requests are still with the worker", n)
	}
	if _, err := r.do(request("GET", "/exit", "")); exchange.StatusOf(err) != 500 {
		t.Errorf("sys.exit: %v", err)
	}
	eventually(t, "another worker", func() bool { return r.get("/pid") != pid })
	if got := events(); !strings.Contains(got, "shutdown") {
		t.Errorf("events: %q", got)
	}
	if log := r.log(); strings.Contains(log, "protocol") || !strings.Contains(log, "CancelledError") || !strings.Contains(log, "SystemExit: 3") {
		t.Errorf("log:\n%s", log)
	}
}

func testASGITrailers(t *testing.T, r *running, protocol string) {
	for path, size := range map[string]int{"/": 3, "/long": 300003} {
		req := request("GET", path, "")
		req.Set("SERVER_PROTOCOL", protocol)
		req.Trailing = true
		w := &trailed{}
		w.keep = true
		err := r.Serve(t.Context(), req, w)
		if want := "[{x-a 1} {x-b http.response.body came out of turn}]"; err != nil || w.status != 200 || w.body.Len() != size || fmt.Sprint(w.behind) != want {
			t.Errorf("%s: %v %d, %d bytes, %v, want %s", path, err, w.status, w.body.Len(), w.behind, want)
		}
	}
}
