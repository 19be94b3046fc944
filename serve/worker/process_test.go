package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/serve/worker/python"
	"liege/vassal"
)

// eventually waits until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

const processes = `
import os, sys, time, signal, threading

def application(environ, start_response):
    path = environ['PATH_INFO'][1:]
    def ok(body):
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [str(body).encode()]
    if path == 'pid':
        return ok(os.getpid())
    if path == 'ppid':
        return ok(os.getppid())
    if path == 'die':
        os.kill(os.getpid(), signal.SIGKILL)
    if path == 'memory':
        return [bytes(1 << 40)]
    if path == 'exit':
        sys.exit(3)
    if path == 'abort':
        os.abort()
    if path == 'sleep':
        time.sleep(float(environ['QUERY_STRING']))
        return ok('slept')
    if path == 'partial':
        write = start_response('200 OK', [])
        write(b'part')
        os._exit(7)
    if path == 'partialsleep':
        write = start_response('200 OK', [])
        write(b'part')
        time.sleep(60)
    if path == 'forkdie':
        # A child that keeps every descriptor open outlives the worker.
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        os._exit(9)
    if path == 'daemon':
        for i in range(3):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                    with open(environ['QUERY_STRING'] + str(i), 'w') as f:
                        f.write(str(os.getpid()))
                    os.rename(environ['QUERY_STRING'] + str(i), environ['QUERY_STRING'] + str(i) + '.pid')
                    time.sleep(1000)
                os._exit(0)
        return ok('daemons')
    if path == 'steal':
        import _socket
        q = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, 4)
        open(environ['QUERY_STRING'], 'w').close()
        q.recv(65536)
        os._exit(5)
    if path == 'barrier':
        return ok(barrier.wait(10) >= 0)
    if path == 'garbage':
        for fd in range(3, 30):
            try:
                if os.readlink('/proc/self/fd/%d' % fd).startswith('socket') and fd != 4:
                    os.write(fd, eval(environ['QUERY_STRING']))
            except OSError:
                pass
        time.sleep(60)
    return ok('hello')

barrier = threading.Barrier(4)
`

func TestWorkerDies(t *testing.T) {
	r := start(t, processes, nil)
	for _, path := range []string{"/die", "/exit", "/abort", "/forkdie"} {
		before := r.get("/pid")
		rec, err := r.do(request("GET", path, ""))
		want := 502
		if path == "/exit" {
			want = 500 // sys.exit is an exception that also ends the worker
		}
		if exchange.StatusOf(err) != want || rec.status != 0 {
			t.Errorf("%s: %v, want status %d", path, err, want)
		}
		if after := r.get("/pid"); after == before {
			t.Errorf("%s: the worker still lives", path)
		}
	}
	if _, err := r.do(request("GET", "/die", "")); err == nil || !strings.Contains(err.Error(), "worker 1") {
		t.Errorf("the error does not name the worker: %v", err)
	}
	rec, err := r.do(request("GET", "/partial", ""))
	if _, before := errors.AsType[*exchange.StatusError](err); err == nil || before || rec.body.String() != "part" {
		t.Errorf("partial: %v %q, want an error that cuts the connection", err, rec.body.String())
	}
	if got := r.get("/hello"); got != "hello" {
		t.Errorf("got %q", got)
	}
	if log := r.log(); !strings.Contains(log, "killed by SIGKILL") || !strings.Contains(log, "killed by SIGABRT") {
		t.Errorf("the log does not say how they died:\n%s", log)
	}
}

// A worker that runs out of memory says which limit it was (CONTRACT 8).
func TestWorkerMemory(t *testing.T) {
	r := start(t, processes, func(a *vassal.App) {
		a.Workers.Rlimits = []vassal.Rlimit{{Resource: "as", Value: 256 << 20, At: vassal.Origin{Line: 20}}}
	})
	if _, err := r.do(request("GET", "/memory", "")); exchange.StatusOf(err) != 500 {
		t.Errorf("%v, want status 500", err)
	}
	eventually(t, "the log names the limit", func() bool {
		return strings.Contains(r.log(), `err=MemoryError hint="limit-as = 256 (MB), line 20"`)
	})
	if got := r.get("/hello"); got != "hello" {
		t.Errorf("got %q", got)
	}
}

// What waits in the queue when a worker dies is answered by the next one.
func TestQueueSurvivesWorker(t *testing.T) {
	r := start(t, processes, nil)
	var wg sync.WaitGroup
	died := make(chan error, 1)
	wg.Go(func() {
		_, err := r.do(request("GET", "/sleep?60", ""))
		died <- err
	})
	eventually(t, "busy", func() bool { return r.inFlight() == 1 })
	pid := r.Stats().Workers[0].PID
	for range 5 {
		wg.Go(func() {
			if rec, err := r.do(request("GET", "/hello", "")); err != nil || rec.body.String() != "hello" {
				t.Errorf("queued: %v", err)
			}
		})
	}
	eventually(t, "queued", func() bool { return r.inFlight() == 6 })
	// The slot says what it is at only once it runs.
	time.Sleep(50 * time.Millisecond)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if err := <-died; exchange.StatusOf(err) != 502 {
		t.Errorf("killed: %v, want status 502", err)
	}
}

// A request that a worker took and died with before it could note so.
func TestLostRequest(t *testing.T) {
	r := start(t, processes, nil)
	mark := filepath.Join(t.TempDir(), "mark")
	errs := make(chan error, 2)
	go func() { _, err := r.do(request("GET", "/steal?"+mark, "")); errs <- err }()
	eventually(t, "stealing", func() bool { _, err := os.Stat(mark); return err == nil })
	go func() { _, err := r.do(request("GET", "/hello", "")); errs <- err }()
	for range 2 {
		if err := <-errs; exchange.StatusOf(err) != 502 {
			t.Errorf("%v, want status 502", err)
		}
	}
	if got := r.get("/hello"); got != "hello" {
		t.Errorf("got %q", got)
	}
	if n := r.inFlight(); n != 0 {
		t.Errorf("%d requests are still in flight", n)
	}
}

func TestHarakiri(t *testing.T) {
	r := start(t, processes, func(a *vassal.App) { a.Workers.Harakiri = 300 * time.Millisecond })
	if _, err := r.do(request("GET", "/sleep?0.05", "")); err != nil {
		t.Errorf("a short request: %v", err)
	}
	if _, err := r.do(request("GET", "/sleep?60", "")); exchange.StatusOf(err) != 504 {
		t.Errorf("%v, want status 504", err)
	}
	rec, err := r.do(request("GET", "/partialsleep", ""))
	if _, before := errors.AsType[*exchange.StatusError](err); err == nil || before || rec.body.String() != "part" {
		t.Errorf("partial: %v, want an error that cuts the connection", err)
	}
	if got := r.get("/hello"); got != "hello" {
		t.Errorf("got %q", got)
	}
	if n := r.Stats().Workers[0].Harakiris; n != 2 {
		t.Errorf("%d harakiris, want 2", n)
	}
	if log := r.log(); !strings.Contains(log, "harakiri: a request ran for") || !strings.Contains(log, "/sleep?60") {
		t.Errorf("the log does not name the request:\n%s", log)
	}
}

// A client that leaves does not end the worker, and its call comes back.
func TestClientLeaves(t *testing.T) {
	r := start(t, processes, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := r.Serve(ctx, request("GET", "/sleep?0.3", ""), &recorder{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if got := r.get("/hello"); got != "hello" {
		t.Errorf("got %q", got)
	}
	if n := r.inFlight(); n != 0 {
		t.Errorf("%d calls are still in use", n)
	}
}

func TestThreads(t *testing.T) {
	r := start(t, processes, func(a *vassal.App) { a.Workers.Threads = 4 })
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { // all four meet only if they run at once
			if rec, err := r.do(request("GET", "/barrier", "")); err != nil || rec.body.String() != "True" {
				t.Errorf("%v", err)
			}
		})
	}
	wg.Wait()
}

func TestMany(t *testing.T) {
	r := start(t, answers, func(a *vassal.App) { a.Workers.Processes, a.Workers.Threads = 2, 3 })
	for range 1000 {
		if got := r.get("/bytes"); got != "bytes" {
			t.Fatalf("got %q", got)
		}
	}
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			for i := range 10 {
				body := strings.Repeat("x", i*3000)
				rec, err := r.do(request("POST", "/close", body))
				if err != nil || rec.body.String() != "ab" {
					t.Errorf("%v %q", err, rec.body.String())
					return
				}
			}
		})
	}
	wg.Wait()
	var total uint64
	for _, w := range r.Stats().Workers {
		total += w.Requests
	}
	if total != 2000 {
		t.Errorf("%d requests counted, want 2000", total)
	}
}

// Beyond the bound a request is refused at once and told when to come again.
func TestTooMany(t *testing.T) {
	for _, listen := range []int{0, maxWaiting + 300} {
		testTooMany(t, listen)
	}
}

func testTooMany(t *testing.T, listen int) {
	r := start(t, processes, func(a *vassal.App) { a.Workers.Waiting = listen })
	most := max(maxWaiting, listen)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	n := len(r.calls) + most
	for range n {
		wg.Go(func() { r.Serve(ctx, request("GET", "/sleep?0.4", ""), &recorder{}) })
	}
	eventually(t, "all wait", func() bool { return r.waiting.Load() >= int64(most) })
	_, err := r.do(request("GET", "/hello", ""))
	if e, ok := errors.AsType[*exchange.StatusError](err); !ok || e.Status != 503 || e.RetryAfter == 0 {
		t.Errorf("got %v, want 503 with Retry-After", err)
	}
	cancel()
	wg.Wait()
	if got := r.get("/hello"); got != "hello" {
		t.Errorf("got %q", got)
	}
}

func TestMaxRequests(t *testing.T) {
	for _, threads := range []int{1, 3} {
		t.Run(fmt.Sprint(threads, " threads"), func(t *testing.T) {
			r := start(t, processes, func(a *vassal.App) { a.Workers.Threads, a.Workers.MaxRequests = threads, 10 })
			pids := make(map[string]int)
			for range 60 {
				pids[r.get("/pid")]++
			}
			if len(pids) < 4 || len(pids) > 7 {
				t.Errorf("60 requests by %d workers: %v", len(pids), pids)
			}
			if log := r.log(); strings.Contains(log, "died") {
				t.Errorf("retired workers are called dead:\n%s", log)
			}
		})
	}
}

// The loader's death costs no request; a worker that dies later is replaced
// by a new loader's.
func TestLoaderDies(t *testing.T) {
	r := start(t, processes, func(a *vassal.App) { a.Workers.Processes = 2 })
	loader, _ := strconv.Atoi(r.get("/ppid"))
	before := r.get("/pid")
	if err := unix.Kill(loader, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if got := r.get("/hello"); got != "hello" {
			t.Fatalf("got %q", got)
		}
	}
	if _, err := r.do(request("GET", "/die", "")); exchange.StatusOf(err) != 502 {
		t.Errorf("%v, want status 502", err)
	}
	if _, err := r.do(request("GET", "/die", "")); exchange.StatusOf(err) != 502 {
		t.Errorf("%v, want status 502", err)
	}
	eventually(t, "two new workers", func() bool {
		s := r.Stats()
		return s.Workers[0].Accepting && s.Workers[1].Accepting
	})
	if after := r.get("/ppid"); after == strconv.Itoa(loader) || after == before {
		t.Errorf("workers of loader %s, want another than %d", after, loader)
	}
}

func TestHostileWorker(t *testing.T) {
	pack := func(kind byte, head, size, arg uint32, id uint64) string {
		return fmt.Sprintf("__import__('struct').pack('<c3xIIIQ',bytes([%d]),%d,%d,%d,%d)", kind, head, size, arg, id)
	}
	// The request it is at: the highest number in the slots.
	own := "(lambda m:max((m[i:i+8] for i in range(0,len(m),8)),key=lambda b:b[::-1]))(__import__('mmap').mmap(5,0))"
	for name, c := range map[string]struct{ text, want string }{
		"garbage":        {`b'garbage'*100`, "garbage"},
		"text":           {`b'HTTP/1.1 200 OK\r\n\r\nhello there, this is long'`, "garbage"},
		"zeros":          {`bytes(100)`, "unknown request"},
		"another call":   {pack('A', 6, 0, 0, 1<<40|1) + `+b'200 OK'`, "unknown request"},
		"unknown call":   {pack('A', 6, 0, 0, 1<<16|0xfff0) + `+b'200 OK'`, "unknown request"},
		"huge head":      {pack('H', 1<<31, 0, 0, 0) + `[:16]+` + own, "a head of"},
		"head too large": {pack('H', oddHead+1, 0, 0, 0) + `[:16]+` + own, "a head of"},
		"body first":     {pack('D', 0, 3, 0, 0) + `[:16]+` + own + `+b'abc'`, "a body before"},
		"end first":      {pack('E', 0, 0, 0, 0) + `[:16]+` + own, "an end without"},
		"file first":     {pack('F', 0, 16, 0, 0) + `[:16]+` + own + `+bytes(16)`, "a file without"},
		"unknown frame":  {pack('z', 0, 0, 0, 0) + `[:16]+` + own, "unknown frame"},
		"huge hello":     {pack('L', 0, 1<<30, 0, 0), "a hello of"},
		"variables":      {pack('V', 0, 0, 0, 0) + `[:16]+` + own, "a wish for variables"},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, processes, nil)
			before := r.get("/pid")
			began := time.Now()
			_, err := r.do(request("GET", "/garbage?"+c.text, ""))
			if exchange.StatusOf(err) != 502 || !strings.Contains(err.Error(), "broke the protocol: "+c.want) {
				t.Errorf("got %v, want status 502 for a breach", err)
			}
			if d := time.Since(began); d > 10*time.Second {
				t.Errorf("took %v", d)
			}
			if after := r.get("/pid"); after == before {
				t.Error("the worker was not killed")
			}
		})
	}
}

// What an application starts and forgets is gone when Run returns.
func TestNothingIsLeft(t *testing.T) {
	p, app, log := newFixture(t, processes, nil)
	p.Adopt = true
	r := run(t, p, app, log)
	base := filepath.Join(t.TempDir(), "d")
	if got := r.get("/daemon?" + base); got != "daemons" {
		t.Fatalf("got %q", got)
	}
	var pids []int
	for i := range 3 {
		eventually(t, "daemon", func() bool { _, err := os.Stat(base + fmt.Sprint(i) + ".pid"); return err == nil })
		b, _ := os.ReadFile(base + fmt.Sprint(i) + ".pid")
		pid, _ := strconv.Atoi(string(b))
		pids = append(pids, pid)
		if !testenv.Alive(pid) {
			t.Fatalf("daemon %d does not run", pid) // the control: it would outlive us
		}
	}
	r.close()
	for _, pid := range pids {
		if testenv.Alive(pid) {
			t.Errorf("daemon %d is still there", pid)
		}
	}
	unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
}

// Stop waits for the requests in flight, and no longer than Drain.
func TestDrain(t *testing.T) {
	r := start(t, processes, nil)
	answered := make(chan error, 1)
	go func() { _, err := r.do(request("GET", "/sleep?0.3", "")); answered <- err }()
	eventually(t, "busy", func() bool { return r.Stats().Workers[0].PID > 0 && r.inFlight() == 1 })
	r.close()
	if err := <-answered; err != nil {
		t.Errorf("in flight while draining: %v", err)
	}
	if _, err := r.do(request("GET", "/hello", "")); exchange.StatusOf(err) != 503 {
		t.Errorf("after the end: %v, want status 503", err)
	}

	r = start(t, processes, func(a *vassal.App) { a.Drain = 200 * time.Millisecond })
	go func() { _, err := r.do(request("GET", "/sleep?60", "")); answered <- err }()
	eventually(t, "busy", func() bool { return r.inFlight() == 1 })
	began := time.Now()
	r.close()
	if err := <-answered; err == nil {
		t.Error("a request of 60 s was answered")
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("stopping took %v", d)
	}
}

func TestLazy(t *testing.T) {
	r := start(t, "import os\nloaded = os.getpid()\n"+`
def application(environ, start_response):
    start_response('200 OK', [])
    return [b'%d' % (loaded == os.getpid())]
`, func(a *vassal.App) { a.Workers.LazyApps, a.Workers.Processes = true, 2 })
	if got := r.get("/"); got != "1" {
		t.Errorf("the application was not loaded in the worker")
	}
}

func TestStartFails(t *testing.T) {
	hello := "def app(e, s):\n    s('200 OK', [])\n    return [b'x']\n"
	for _, c := range []struct {
		name, text string
		set        func(t *testing.T, a *vassal.App)
		code       string
		message    []string
		hint       string
	}{
		{name: "import", text: "import flask_of_nowhere", code: "import-error",
			message: []string{"No module named 'flask_of_nowhere'", "app.py:1"}, hint: "flask_of_nowhere"},
		{name: "venv", text: "import flask_of_nowhere", code: "import-error", hint: "virtualenv = ",
			set: func(t *testing.T, a *vassal.App) { mkfile(t, filepath.Join(a.Dir, "env", "pyvenv.cfg")) }},
		{name: "beside", text: "import flask_of_nowhere", code: "import-error", hint: "pythonpath = ",
			set: func(t *testing.T, a *vassal.App) { mkfile(t, filepath.Join(a.Dir, "src", "flask_of_nowhere.py")) }},
		{name: "syntax", text: "x = (", code: "import-error", message: []string{"SyntaxError", "app.py:1"}},
		{name: "callable", text: hello, code: "no-callable", message: []string{"app.py has no 'application'"}, hint: "callable = app"},
		{name: "callable of a module", text: hello, code: "no-callable", message: []string{"app has no 'nix'"}, hint: "app:app",
			set: func(_ *testing.T, a *vassal.App) { a.Workers.Python.File, a.Workers.Python.Module = "", "app:nix" }},
		{name: "not callable", text: "application = 3", code: "no-callable", message: []string{"app.py: 'application' is not callable"}},
		{name: "exception", text: "def f():\n    raise KeyError('SECRET_KEY')\nf()\n", code: "import-error", message: []string{"KeyError: 'SECRET_KEY'", "app.py:2"}},
		{name: "connect", text: "import socket\nsocket.create_connection(('127.0.0.1', 1))", code: "import-error",
			message: []string{"Connection refused"}, hint: "net = nat"},
		{name: "exit", text: "import sys; sys.exit(4)", code: "import-error", message: []string{"sys.exit(4)"}},
		{name: "abort", text: "import os; os.abort()", code: "exited-early", message: []string{"SIGABRT", "while it loaded"}, hint: "in the log"},
		{name: "memory", text: "x = bytearray(1 << 30)", code: "oom", message: []string{"MemoryError"}, hint: "limit-as = 128 (MB), line 20",
			set: func(_ *testing.T, a *vassal.App) {
				a.Workers.Rlimits = []vassal.Rlimit{{Resource: "as", Value: 128 << 20, At: vassal.Origin{Line: 20}}}
			}},
		{name: "file", code: "app-not-found", message: []string{"none.py"}, set: func(_ *testing.T, a *vassal.App) { a.Workers.Python.File = "none.py" }},
		{name: "dir", code: "app-not-found", message: []string{"/nowhere"}, set: func(_ *testing.T, a *vassal.App) { a.Dir = "/nowhere" }},
		{name: "module", code: "import-error", message: []string{"No module named 'nowhere'"},
			set: func(_ *testing.T, a *vassal.App) { a.Workers.Python.File, a.Workers.Python.Module = "", "nowhere:app" }},
		{name: "interpreter", code: "interpreter-missing", message: []string{"/nowhere/python"}, hint: "interpreter = the path of a Python that is there",
			set: func(_ *testing.T, a *vassal.App) { a.Workers.Interpreter = "/nowhere/python" }},
		{name: "no permission", code: "interpreter-missing", message: []string{"permission denied"}, hint: "enter every directory",
			set: func(t *testing.T, a *vassal.App) { a.Workers.Interpreter = program(t, a.Dir, "", 0o644) }},
		{name: "library", code: "interpreter-missing", message: []string{"libpython3.so.1"}, hint: "LD_LIBRARY_PATH",
			set: func(t *testing.T, a *vassal.App) {
				const says = "python: error while loading shared libraries: libpython3.so.1: cannot open shared object file"
				a.Workers.Interpreter = program(t, a.Dir, "echo '"+says+"' >&2; exit 127", 0o755)
			}},
		{name: "broken interpreter", code: "interpreter-missing", message: []string{"encodings"},
			set: func(_ *testing.T, a *vassal.App) { a.Env = []string{"PYTHONHOME=/nowhere"} }},
		{name: "deaf", code: "not-ready",
			set: func(t *testing.T, a *vassal.App) {
				a.Workers.Interpreter, a.Workers.LoadTimeout = program(t, a.Dir, "exec sleep 60", 0o755), 300*time.Millisecond
			}},
		{name: "timeout", text: "import time; time.sleep(60)", code: "not-ready",
			set: func(_ *testing.T, a *vassal.App) { a.Workers.LoadTimeout = 300 * time.Millisecond }},
		{name: "lazy", text: "import flask_of_nowhere", code: "import-error", message: []string{"flask_of_nowhere"},
			set: func(_ *testing.T, a *vassal.App) { a.Workers.LazyApps = true }},
		{name: "worker dies", code: "exited-early", message: []string{"worker 1"},
			text: "import uwsgi, os\ndef die(): os.abort()\nuwsgi.post_fork_hook = die\n" + strings.ReplaceAll(hello, "app(", "application(")},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, _, log := newFixture(t, c.text, func(a *vassal.App) {
				if c.set != nil {
					c.set(t, a)
				}
			})
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			err := p.Run(ctx)
			problem, ok := errors.AsType[*vassal.Problem](err)
			if !ok {
				t.Fatalf("Run: %v, want a Problem", err)
			}
			out, _ := os.ReadFile(log)
			if problem.Code != c.code || c.hint != "" && !strings.Contains(problem.Hint, c.hint) {
				t.Errorf("%+v, want code %s and hint %q\n%s", problem, c.code, c.hint, out)
			}
			for _, m := range c.message {
				if !strings.Contains(problem.Message, m) {
					t.Errorf("message %q without %q\n%s", problem.Message, m, out)
				}
			}
			if c.code == "import-error" && c.name != "exit" && !strings.Contains(string(out), "Error") {
				t.Errorf("no traceback in the log:\n%s", out)
			}
			if problem.File != "shop.ini" || problem.Line != 3 {
				t.Errorf("at %s:%d", problem.File, problem.Line)
			}
			if strings.Count(problem.Message, "app.py:") > 1 {
				t.Errorf("message %q says twice where", problem.Message)
			}
			if strings.Contains(string(out), "<liege>") {
				t.Errorf("our own frames are in the log:\n%s", out)
			}
		})
	}
}

// program makes a shell script in dir, to be named as an interpreter.
func program(t *testing.T, dir, script string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, "interpreter")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func mkfile(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Names, paths and arguments are what uWSGI gives an application.
func TestLoading(t *testing.T) {
	app := `
import sys
def make():
    return application
class Site(object):
    pass
def application(environ, start_response):
    start_response('200 OK', [])
    return [repr((__name__, sys.argv, sys.path[:3], __file__)).encode()]
site = Site()
site.wsgi = application
`
	for _, c := range []struct {
		name string
		set  func(p *vassal.Python)
		want string
	}{
		{"file", func(p *vassal.Python) { p.Argv = "a  b"; p.Path = []string{"/p1", "/p2"} },
			`('uwsgi_file_app', ['uwsgi', 'a', 'b'], ['/p2', '/p1', '.'], 'app.py')`},
		{"module", func(p *vassal.Python) { p.File, p.Module = "", "app" }, `('app', ['uwsgi'], ['.', `},
		{"colon", func(p *vassal.Python) { p.File, p.Module = "", "app:application" }, `('app', `},
		{"factory", func(p *vassal.Python) { p.File, p.Module = "", "app:make()" }, `('app', `},
		{"dotted", func(p *vassal.Python) { p.Callable = "site.wsgi" }, `('uwsgi_file_app', `},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := start(t, app, func(a *vassal.App) { c.set(a.Workers.Python) })
			if got := r.get("/"); !strings.HasPrefix(got, c.want) {
				t.Errorf("got %s, want %s…", got, c.want)
			}
		})
	}
}

func TestVirtualenv(t *testing.T) {
	home := filepath.Join(t.TempDir(), "venv")
	if out, err := exec.Command(python.Default, "-m", "venv", "--without-pip", home).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	sites, _ := filepath.Glob(filepath.Join(home, "lib", "python3*", "site-packages"))
	if len(sites) != 1 {
		t.Fatalf("site-packages: %v", sites)
	}
	if err := os.WriteFile(filepath.Join(sites[0], "only_here.py"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	app := `
import only_here, sys
def application(environ, start_response):
    start_response('200 OK', [])
    return [sys.prefix.encode()]
`
	check := func(t *testing.T) {
		r := start(t, app, func(a *vassal.App) { a.Workers.Python.Virtualenv = home })
		if got := r.get("/"); got != home {
			t.Errorf("sys.prefix %s, want %s", got, home)
		}
	}
	t.Run("its own interpreter", check)
	if err := os.RemoveAll(filepath.Join(home, "bin")); err != nil {
		t.Fatal(err)
	}
	t.Run("only packages", check)
}

// Every Python that is here runs the program.
func TestVersions(t *testing.T) {
	homes, _ := filepath.Glob(filepath.Join(os.Getenv("HOME"), ".pyenv/versions/3.*/bin/python3"))
	for _, interpreter := range append(homes, python.Default) {
		t.Run(filepath.Base(filepath.Dir(filepath.Dir(interpreter))), func(t *testing.T) {
			r := start(t, validated, func(a *vassal.App) { a.Workers.Interpreter = interpreter; a.Workers.Threads = 2 })
			for _, path := range []string{"/echo", "/generator", "/many", "/errors", "/write"} {
				if _, err := r.do(request("GET", path, "")); err != nil {
					t.Errorf("%s: %v", path, err)
				}
			}
			big := strings.Repeat("x\n", 100<<10)
			if rec, err := r.do(request("POST", "/lines", big)); err != nil || rec.body.Len() < len(big) {
				t.Errorf("/lines: %v", err)
			}
			if log := r.log(); strings.Contains(log, "Error") {
				t.Errorf("log:\n%s", log)
			}
			a := start(t, asynchronous, func(a *vassal.App) { a.Workers.Interpreter = interpreter; a.Workers.Python.Watch = time.Second })
			for path, want := range map[string]string{"/stream": "0\n1\n2\n", "/big": strings.Repeat("x", 3000000), "/file": asynchronous} {
				if rec, err := a.do(request("GET", path, "")); err != nil || rec.body.String() != want {
					t.Errorf("ASGI, %s: %v", path, err)
				}
			}
			if rec, err := a.do(request("POST", "/mirror", big)); err != nil || rec.body.String() != big {
				t.Errorf("ASGI, /mirror: %v", err)
			}
			w := start(t, chatty, func(a *vassal.App) { a.Workers.Interpreter = interpreter })
			c := dial(t, w, "/chat").open()
			c.send(0x81, big)
			if got := c.message(); got != big+"!" {
				t.Errorf("WebSocket: %d bytes", len(got))
			}
			c.conn.Close()
			<-c.done
		})
	}
}

// TestVersionsRetire: a worker of each Python ends in peace.
func TestVersionsRetire(t *testing.T) {
	homes, _ := filepath.Glob(filepath.Join(os.Getenv("HOME"), ".pyenv/versions/3.*/bin/python3"))
	for _, interpreter := range append(homes, python.Default) {
		for name, text := range map[string]string{"wsgi": forkingWSGI, "asgi": forkingASGI} {
			t.Run(name+" "+filepath.Base(filepath.Dir(filepath.Dir(interpreter))), func(t *testing.T) {
				t.Parallel()
				r := start(t, text, func(a *vassal.App) { a.Workers.Interpreter = interpreter; a.Workers.MaxRequests = 1 })
				for range 4 {
					if got := r.get("/"); got != "parent" {
						t.Errorf("got %q", got)
					}
				}
				eventually(t, "another worker", func() bool { return r.Stats().Respawns == 4 })
				if log := r.log(); strings.Contains(log, "died") {
					t.Errorf("log:\n%s", log)
				}
			})
		}
	}
}

// TestOldPython: one that is too old says so.
func TestOldPython(t *testing.T) {
	homes, _ := filepath.Glob(filepath.Join(os.Getenv("HOME"), ".pyenv/versions/2.*/bin/python2"))
	fake := filepath.Join(t.TempDir(), "python") // where there is none, what it would say
	text := "#!/bin/sh\necho 'Python 3.6 or later is needed; this is 2.7.18' >&2\nexit 1\n"
	if err := os.WriteFile(fake, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, interpreter := range append(homes, fake) {
		p, _, _ := newFixture(t, validated, func(a *vassal.App) { a.Workers.Interpreter = interpreter })
		if err := p.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "Python 3.6 or later is needed; this is 2.") {
			t.Errorf("%s: %v", interpreter, err)
		}
	}
}

// Goroutines and descriptors are gone with the pool.
func TestLeaks(t *testing.T) {
	count := func() (int, int) {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(testenv.Goroutines()), len(fds)
	}
	once := func() {
		r := start(t, processes, func(a *vassal.App) { a.Workers.Processes = 2 })
		r.get("/hello")
		r.do(request("GET", "/die", ""))
		r.get("/hello")
		r.close()
	}
	once()
	goroutines, fds := count()
	for range 3 {
		once()
	}
	eventually(t, "all goroutines end", func() bool { n, _ := count(); return n <= goroutines })
	if _, n := count(); n > fds+3 { // the log of each fixture is open till the test's end
		t.Errorf("%d descriptors, %d before", n, fds)
	}
}

// TestStatsBusy: a worker that has taken a request and said nothing yet is busy.
func TestStatsBusy(t *testing.T) {
	r := start(t, processes, func(a *vassal.App) { a.Workers.Processes, a.Workers.Threads = 2, 2 })
	began := time.Now()
	busy := func() (workers, threads int) {
		for _, w := range r.Stats().Workers {
			if w.Busy {
				workers++
			}
			for _, th := range w.Threads {
				if !th.Since.IsZero() {
					threads++
					if th.Since.Before(began.Add(-time.Second)) || th.Since.After(time.Now()) {
						t.Errorf("since %v, and it is %v", th.Since, time.Now())
					}
				}
			}
		}
		return workers, threads
	}
	var all sync.WaitGroup
	for n := 1; n <= 3; n++ {
		all.Go(func() { r.get("/sleep?1.5") })
		eventually(t, fmt.Sprint(n, " requests"), func() bool {
			workers, threads := busy()
			return threads == n && workers == min(n, 2) || n == 2 && threads == 2
		})
	}
	all.Wait()
	if workers, threads := busy(); workers != 0 || threads != 0 {
		t.Errorf("%d workers and %d threads are busy with nothing", workers, threads)
	}
}
