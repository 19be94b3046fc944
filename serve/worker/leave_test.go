package worker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/vassal"
)

// TestLeave: a worker that retires does at its end what takes a while, and its
// place is another's meanwhile.
func TestLeave(t *testing.T) {
	testenv.Need(t, testenv.Plack)
	testenv.Need(t, testenv.Ruby)
	set := func(app *vassal.App) { app.Workers.MaxRequests, app.Drain = 1, 30*time.Second }
	threads := func(app *vassal.App) { set(app); app.Workers.Threads = 2 }
	wsgi := `
import atexit, os, time
def bye():
    time.sleep(3)
    open('done', 'a').write('x')
atexit.register(bye)
def application(environ, start_response):
    start_response('200 OK', [])
    return [str(os.getpid()).encode()]
`
	all := map[string]*running{
		"python":         start(t, wsgi, set),
		"python threads": start(t, wsgi, threads),
		"asgi": start(t, `
import atexit, asyncio, os, time
def bye():
    time.sleep(2)
    open('done', 'a').write('x')
atexit.register(bye)
async def application(scope, receive, send):
    if scope['type'] == 'lifespan':
        await receive()
        await send({'type': 'lifespan.startup.complete'})
        await receive()
        await asyncio.sleep(2)
        return await send({'type': 'lifespan.shutdown.complete'})
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    await send({'type': 'http.response.body', 'body': str(os.getpid()).encode()})
`, set),
		"perl": startPSGI(t, `
END { if ($main::served) { sleep 3; open my $f, '>>', 'done'; print $f 'x' } }
sub { $main::served = 1; [200, [], [$$]] };
`, set),
		"ruby": startRack(t, `
at_exit { if $served then sleep 3; File.write('done', 'x', :mode => 'a') end }
run lambda { |env| $served = true; [200, {}, [Process.pid.to_s]] }
`, set),
	}
	for name, r := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			done := func() int { b, _ := os.ReadFile(filepath.Join(r.app.Dir, "done")); return len(b) }
			first := r.get("/")
			second := r.get("/")
			for n := 0; second == first && name == "python threads" && n < 10; n++ { // the other thread is yet to be told
				second = r.get("/")
			}
			if second == first || done() != 0 {
				t.Errorf("the second request had to wait for the first worker's end (%s, %s)", first, second)
			}
			eventually(t, "the end of the first worker", func() bool { return done() > 0 })
			r.close()
			if n := done(); n != 2 {
				t.Errorf("%d workers have ended as they wished", n)
			}
			if log := r.log(); strings.Contains(log, "died") || strings.Contains(log, "killed") {
				t.Errorf("log:\n%s", log)
			}
		})
	}
}

// TestLeaveBounded: one that does not end is killed, and there are never more
// of them than workers.
func TestLeaveBounded(t *testing.T) {
	r := start(t, `
import atexit, os, time
atexit.register(time.sleep, 60)
def application(environ, start_response):
    start_response('200 OK', [])
    return [str(os.getpid()).encode()]
`, func(app *vassal.App) { app.Workers.MaxRequests, app.Drain = 1, 3*time.Second })
	r.get("/")
	r.get("/")
	began := time.Now()
	r.get("/")
	if took := time.Since(began); took < time.Second {
		t.Errorf("a third worker came after %v, while two had not ended", took)
	}
	if want := "has not ended in time\" worker=1 pid="; !strings.Contains(r.log(), want) {
		t.Errorf("log without %s:\n%s", want, r.log())
	}
}

// TestLeaveDismissed: one that is not needed has its time too, and nobody comes
// in its place.
func TestLeaveDismissed(t *testing.T) {
	r := start(t, `
import atexit, os, time
def bye():
    time.sleep(3)
    open('done', 'a').write('x')
atexit.register(bye)
def application(environ, start_response):
    start_response('200 OK', [])
    return [str(os.getpid()).encode()]
`, func(app *vassal.App) {
		app.Workers.Processes, app.Drain = 2, 30*time.Second
		app.Workers.Cheaper = vassal.Cheaper{Least: 1, Initial: 2, Overload: time.Second}
	})
	done := func() string { b, _ := os.ReadFile(filepath.Join(r.app.Dir, "done")); return string(b) }
	eventually(t, "fewer workers", func() bool { return r.accepting() == 1 })
	eventually(t, "its end", func() bool { return done() == "x" })
	if n := r.accepting(); n != 1 {
		t.Errorf("%d workers", n)
	}
	r.close()
	if got := done(); got != "xx" {
		t.Errorf("%d workers have ended", len(got))
	}
}

// TestASGIExitInTask: what ends a worker from a task or callback of the
// application's own lets the requests of others finish.
func TestASGIExitInTask(t *testing.T) {
	for _, how := range []string{"task", "callback", "interrupt"} {
		r := start(t, `
import asyncio, os, sys
open('started', 'a').write('x')
async def leave(e):
    raise e
async def application(scope, receive, send):
    if scope['type'] == 'lifespan':
        assert (await receive())['type'] == 'lifespan.startup'
        await send({'type': 'lifespan.startup.complete'})
        assert (await receive())['type'] == 'lifespan.shutdown'
        open('events', 'a').write('shutdown')
        return await send({'type': 'lifespan.shutdown.complete'})
    loop = asyncio.get_event_loop()
    if scope['path'] == '/slow':
        open('slow', 'w').close()
        await asyncio.sleep(1)
    elif scope['path'] == '/task':
        loop.create_task(leave(SystemExit(7)))
    elif scope['path'] == '/callback':
        loop.call_soon(sys.exit, 7)
    elif scope['path'] == '/interrupt':
        loop.create_task(leave(KeyboardInterrupt()))
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    await send({'type': 'http.response.body', 'body': str(os.getpid()).encode()})
`, nil)
		pid := r.get("/")
		slow := make(chan string, 1)
		go func() {
			rec, err := r.do(request("GET", "/slow", ""))
			if err != nil {
				slow <- err.Error()
				return
			}
			slow <- rec.body.String()
		}()
		eventually(t, "the slow request", func() bool { _, err := os.Stat(filepath.Join(r.app.Dir, "slow")); return err == nil })
		r.get("/" + how)
		if got := <-slow; got != pid {
			t.Errorf("%s: the other request: %q, want %q", how, got, pid)
		}
		eventually(t, "another worker", func() bool { return r.get("/") != pid })
		eventually(t, "lifespan.shutdown", func() bool { b, _ := os.ReadFile(filepath.Join(r.app.Dir, "events")); return string(b) == "shutdown" })
		want := map[string]string{"interrupt": "KeyboardInterrupt"}[how]
		if want == "" {
			want = "SystemExit: 7"
		}
		if log := r.log(); !strings.Contains(log, "ended its worker") || !strings.Contains(log, want) || strings.Contains(log, "worker died") {
			t.Errorf("%s: log:\n%s", how, log)
		}
		r.close()
	}
}

// TestASGIExitAtStart: an application that exits in its startup does not start.
func TestASGIExitAtStart(t *testing.T) {
	for _, body := range []string{"await receive(); sys.exit(5)", "asyncio.get_event_loop().create_task(leave()); await receive(); await asyncio.sleep(60)"} {
		p, _, _ := newFixture(t, `
import asyncio, sys
async def leave():
    sys.exit(5)
async def application(scope, receive, send):
    `+body+`
`, nil)
		began := time.Now()
		err := p.Run(t.Context())
		if err == nil || time.Since(began) > 10*time.Second {
			t.Errorf("%s: %v after %v", body, err, time.Since(began))
		}
		t.Log(time.Since(began), err)
	}
}

// TestASGILeaveBeside: a worker that leaves says so beside a WebSocket, files and a
// client that does not read; nothing of theirs is lost, and its place is filled.
func TestASGILeaveBeside(t *testing.T) {
	r := start(t, `
import asyncio, os
async def application(scope, receive, send):
    if scope['type'] == 'lifespan':
        await receive()
        await send({'type': 'lifespan.startup.complete'})
        await receive()
        return await send({'type': 'lifespan.shutdown.complete'})
    if scope['type'] == 'http':
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        if scope['path'] == '/file':
            return await send({'type': 'http.response.pathsend', 'path': os.path.abspath('app.py')})
        if scope['path'] == '/slow':
            await asyncio.sleep(1)
        return await send({'type': 'http.response.body', 'body': str(os.getpid()).encode()})
    await receive()
    await send({'type': 'websocket.accept'})
    while True:
        m = await receive()
        if m['type'] == 'websocket.disconnect':
            return
        await send({'type': 'websocket.send', 'text': str(os.getpid())})
`, func(app *vassal.App) { app.Workers.MaxRequests, app.Drain = 3, 30*time.Second })
	c := dial(t, r, "/").open()
	c.send(0x81, "hi")
	pid := c.message()
	slow := make(chan string, 1)
	go func() {
		rec, err := r.do(request("GET", "/slow", ""))
		slow <- fmt.Sprint(rec.body.String(), err)
	}()
	time.Sleep(100 * time.Millisecond)
	r.get("/")
	if op, text := c.next(); op != 0x88 || !strings.HasPrefix(text, "\x03\xf4") { // 1012, service restart
		t.Errorf("the WebSocket got %x %q", op, text)
	}
	if got := <-slow; got != pid+"<nil>" {
		t.Errorf("the slow request got %q, want %s", got, pid)
	}
	eventually(t, "another worker", func() bool { return r.get("/") != pid })
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				if rec, err := r.do(request("GET", "/file", "")); err != nil || !strings.Contains(rec.body.String(), "pathsend") {
					t.Errorf("a file: %v, %d bytes", err, rec.body.Len())
				}
			}
		})
	}
	all.Wait()
	if log := r.log(); strings.Contains(log, "broke the protocol") || strings.Contains(log, "worker died") {
		t.Errorf("log:\n%s", log)
	}
}

// TestASGIExitOfLifespan: an application that ends itself in its lifespan, after the
// start, has another worker.
func TestASGIExitOfLifespan(t *testing.T) {
	r := start(t, `
import asyncio, os, sys
async def application(scope, receive, send):
    if scope['type'] == 'lifespan':
        await receive()
        await send({'type': 'lifespan.startup.complete'})
        while not os.path.exists('now'):
            await asyncio.sleep(0.01)
        if not os.path.exists('once'):
            open('once', 'w').close()
            sys.exit(3)
        return await receive()
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    await send({'type': 'http.response.body', 'body': str(os.getpid()).encode()})
`, nil)
	pid := r.get("/")
	if err := os.WriteFile(filepath.Join(r.app.Dir, "now"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another worker", func() bool { return r.get("/") != pid })
}

// TestASGIExitAtOnce: workers whose application ends itself as soon as it has started
// come with a pause between them.
func TestASGIExitAtOnce(t *testing.T) {
	r := start(t, `
import sys
async def application(scope, receive, send):
    if scope['type'] == 'lifespan':
        await receive()
        await send({'type': 'lifespan.startup.complete'})
        open('starts', 'a').write('x')
        sys.exit(0)
`, nil)
	time.Sleep(3 * time.Second)
	if b, err := os.ReadFile(filepath.Join(r.app.Dir, "starts")); err != nil || len(b) > 8 {
		t.Errorf("%d workers in three seconds, %v", len(b), err)
	}
}

// TestExitOfOne: an application that ends its worker in one request lets the
// requests of the worker's other threads finish.
func TestExitOfOne(t *testing.T) {
	testenv.Need(t, testenv.Ruby)
	testenv.Need(t, testenv.Gevent)
	const wsgi = `
import os, sys, time, uwsgi
def application(e, start_response):
    path = e['PATH_INFO']
    if path == '/slow':
        time.sleep(1.5)
    if path == '/exit':
        sys.exit(3)
    if path == '/interrupt':
        raise KeyboardInterrupt
    if path == '/hook':
        uwsgi.after_req_hook = sys.exit
    start_response('200 OK', [])
    return [b'%d' % os.getpid()]
`
	const rack = `
run lambda { |env|
  case env['PATH_INFO']
  when '/slow' then sleep 1.5
  when '/exit' then exit 3
  when '/interrupt' then raise Interrupt
  when '/hook' then env['rack.response_finished'] << lambda { |*_| exit 3 }
  end
  [200, {}, [Process.pid.to_s]]
}
`
	threads := func(app *vassal.App) { app.Workers.Threads = 4 }
	for name, begin := range map[string]func(t *testing.T) *running{
		"python": func(t *testing.T) *running { return start(t, wsgi, threads) },
		"gevent": func(t *testing.T) *running {
			return startLines(t, "wsgi-file = app.py\ngevent = 4\ngevent-monkey-patch = true\n", map[string]string{"app.py": wsgi})
		},
		"ruby": func(t *testing.T) *running {
			return startRack(t, rack, func(app *vassal.App) {
				threads(app)
				app.Workers.MaxRequests = 1000
			})
		},
	} {
		for _, path := range []string{"/exit", "/interrupt", "/hook"} {
			if name == "gevent" && path == "/hook" {
				continue // it calls none
			}
			t.Run(name+path, func(t *testing.T) {
				t.Parallel()
				r := begin(t)
				first := fmt.Sprint(r.pid())
				got := make(chan string, 3)
				for range 3 {
					go func() { got <- r.send("/slow", "") }()
				}
				time.Sleep(300 * time.Millisecond)
				r.send(path, "")
				eventually(t, "another worker", func() bool { return r.get("/") != first })
				for range 3 {
					if pid := <-got; pid != first {
						t.Errorf("/slow: got %q, not from %s", pid, first)
					}
				}
				if log := r.log(); strings.Contains(log, "died") || strings.Contains(log, "killed") {
					t.Errorf("log:\n%s", log)
				}
			})
		}
	}
}
