package worker

import (
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

const dyingRack = `
class Dying
  def initialize(n, size) @n, @size = n, size end
  def each; @n.times { yield 'x' * @size }; Process.kill(:KILL, Process.pid); sleep; end
end
kill = lambda { Process.kill(:KILL, Process.pid); sleep }
run lambda { |env|
  case env['PATH_INFO']
  when '/first' then kill.call
  when '/reading' then env['rack.input'].read(100000); kill.call
  when '/asked' then Thread.new { sleep 0.05; kill.call }; env['rack.input'].read
  when '/head' then [200, {}, Dying.new(1, 3)]
  when '/body' then [200, {'Content-Length' => '1000000'}, Dying.new(3, 1000)]
  when '/large' then [200, {}, Dying.new(5, 300000)]
  when '/after'
    Thread.new { sleep 0.05; kill.call }
    [200, {}, ['ok']]
  else [200, {}, ['hello']]
  end
}`

const dyingPSGI = `
my $kill = sub { kill KILL => $$; sleep 9 };
my $dying = sub { my ($n, $size, @head) = @_; sub { my $w = $_[0]->([200, [@head]]); $w->write('x' x $size) for 1 .. $n; $kill->() } };
sub { my $env = shift; my $path = $env->{PATH_INFO};
    if ($path eq '/first') { $kill->() }
    if ($path eq '/reading') { $env->{'psgi.input'}->read(my $b, 100000); $kill->() }
    if ($path eq '/asked') { if (!fork) { select undef, undef, undef, 0.05; kill KILL => getppid; POSIX::_exit(0) } $env->{'psgi.input'}->read(my $b, 1 << 30) }
    if ($path eq '/head') { return $dying->(1, 3) }
    if ($path eq '/body') { return $dying->(3, 1000, 'Content-Length', 1000000) }
    if ($path eq '/large') { return $dying->(5, 300000) }
    if ($path eq '/after') { push @{ $env->{'psgix.cleanup.handlers'} }, $kill; return [200, [], ['ok']] }
    [200, [], ['hello']];
}`

const dyingWSGI = `
import os, signal, threading, time

def kill():
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(9)

def dying(n, size):
    for _ in range(n):
        yield b'x' * size
    kill()

def application(environ, start_response):
    path = environ['PATH_INFO']
    if path == '/first':
        kill()
    if path == '/reading':
        environ['wsgi.input'].read(100000)
        kill()
    if path == '/asked':
        threading.Timer(0.05, kill).start()
        environ['wsgi.input'].read()
    if path == '/head':
        start_response('200 OK', [])
        return dying(1, 3)
    if path == '/body':
        start_response('200 OK', [('Content-Length', '1000000')])
        return dying(3, 1000)
    if path == '/large':
        start_response('200 OK', [])
        return dying(5, 300000)
    start_response('200 OK', [])
    if path == '/after':
        threading.Timer(0.05, kill).start()
    return [b'ok' if path == '/after' else b'hello']
`

const dyingASGI = `
import asyncio, os, signal, time

def kill():
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(9)

async def application(scope, receive, send):
    if scope['type'] != 'http':
        raise RuntimeError('http only')
    path = scope['path']
    async def dying(n, size, headers=[]):
        await send({'type': 'http.response.start', 'status': 200, 'headers': headers})
        for _ in range(n):
            await send({'type': 'http.response.body', 'body': b'x' * size, 'more_body': True})
        kill()
    if path == '/first':
        kill()
    if path == '/reading':
        await receive()
        kill()
    if path == '/asked':
        asyncio.get_running_loop().call_later(0.05, kill)
        while True:
            await receive()
    if path == '/head':
        await dying(1, 3)
    if path == '/body':
        await dying(3, 1000, [(b'content-length', b'1000000')])
    if path == '/large':
        await dying(5, 300000)
    if path == '/after':
        asyncio.get_running_loop().call_later(0.05, kill)
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    await send({'type': 'http.response.body', 'body': b'ok' if path == '/after' else b'hello'})
`

// TestWorkersDieAtEveryStep: a worker of any language that is killed at any
// step of the exchange, or between two requests, costs its request and nothing
// else, and is counted.
func TestWorkersDieAtEveryStep(t *testing.T) {
	for name, begin := range map[string]func(t *testing.T) *running{
		"rack": func(t *testing.T) *running { return startRack(t, dyingRack, nil) },
		"psgi": func(t *testing.T) *running { return startPSGI(t, dyingPSGI, nil) },
		"wsgi": func(t *testing.T) *running { return start(t, dyingWSGI, nil) },
		"asgi": func(t *testing.T) *running { return start(t, dyingASGI, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // workers that die are replaced after pauses
			dieAtEveryStep(t, begin(t))
		})
	}
}

func dieAtEveryStep(t *testing.T, r *running) {
	var deaths, failed uint64
	// counted waits for the worker that follows the next death.
	counted := func(after string) {
		t.Helper()
		deaths++
		eventually(t, "another worker after "+after, func() bool {
			w := r.Stats().Workers[0]
			return w.Respawns >= deaths && w.Accepting && w.PID != 0
		})
		if got := r.get("/"); got != "hello" {
			t.Errorf("after %s: %q", after, got)
		}
		if w := r.Stats().Workers[0]; w.Respawns != deaths || w.Errors != failed {
			t.Errorf("after %s: %d respawns, want %d; %d errors, want %d", after, w.Respawns, deaths, w.Errors, failed)
		}
	}
	// 502: before an answer; 200: it had begun, and is cut.
	for path, want := range map[string]int{"/first": 502, "/reading": 502, "/asked": 502, "/head": 200, "/body": 200, "/large": 200} {
		req := request("POST", path, "")
		req.Length, req.Body = 1<<30, &endless{}
		rec, err := r.do(req)
		if err == nil || rec.status != want && exchange.StatusOf(err) != want {
			t.Errorf("%s: %d %v, want %d", path, rec.status, err, want)
		}
		failed++
		counted(path)
	}
	if got := r.get("/after"); got != "ok" { // it has answered: nothing failed
		t.Errorf("/after: %q", got)
	}
	counted("/after")
	if err := unix.Kill(r.Stats().Workers[0].PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	counted("a death at rest")
}

// endless is a body that has no end.
type endless struct{}

func (*endless) Read(b []byte) (int, error) { return min(len(b), 4096), nil }

// TestLoaderHangs: a loader that replaces another one and never loads is killed,
// and the next one gets its chance.
func TestLoaderHangs(t *testing.T) {
	r := start(t, `
import os, time
if os.path.exists('hang'):
    time.sleep(3600)
def application(environ, start_response):
    start_response('200 OK', [])
    return [b'%d' % os.getpid()]
`, func(app *vassal.App) { app.Workers.LoadTimeout = 3 * time.Second })
	hang, first := filepath.Join(r.app.Dir, "hang"), r.get("/")
	if err := os.WriteFile(hang, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(parentOf(pid), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the hanging loader is killed", func() bool { return strings.Contains(r.log(), "has not loaded the application in time") })
	if err := os.Remove(hang); err != nil {
		t.Fatal(err)
	}
	if got := r.get("/"); got != first {
		t.Errorf("worker %s instead of %s, whom nothing ails", got, first)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another worker", func() bool { return r.Stats().Workers[0].PID != pid && r.Stats().Workers[0].Accepting })
	if got := r.get("/"); got == first {
		t.Error("the dead worker answers")
	}
	if n := strings.Count(r.log(), "has not loaded the application in time"); n > 2 { // it may have begun before hang was gone
		t.Errorf("it was said %d times", n)
	}
}
