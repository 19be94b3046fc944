package worker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/vassal"
)

// forking is an application in which a child comes back to the worker's program
// in each way. What the child does comes first, so that the parent is still at
// its request.
const forkingWSGI = `
import os, sys, time, signal, threading, uwsgi

def child():
    pid = os.fork()
    if pid:
        def wait():
            os.waitpid(pid, 0)
        return wait
    return None

def stream(wait):
    if wait is None:
        yield b'child'
    else:
        wait()
        yield b'parent'

def handler(*_):
    wait = child()
    if wait is not None:
        wait()

signal.signal(signal.SIGUSR1, handler)

def forks():
    wait = child()
    if wait is None:
        raise ValueError('after')
    wait()

def application(e, start_response):
    uwsgi.after_req_hook = None
    path = e['PATH_INFO']
    wait = lambda: None
    if path == '/signal':
        threading.Timer(.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    elif path == '/hook':
        uwsgi.after_req_hook = forks
    elif path == '/stream':
        start_response('200 OK', [])
        pid = os.fork()
        if pid == 0:
            return iter([b'child', b'child'])
        os.waitpid(pid, 0)
        return iter([b'par', b'ent'])
    elif path == '/input':
        pid = os.fork()
        data = e['wsgi.input'].read()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    elif path != '/':
        wait = child()
        if wait is None:
            if path == '/raise':
                raise ValueError('child')
            if path == '/exit':
                sys.exit(3)
            if path == '/abort':
                raise KeyboardInterrupt
            write = start_response('200 OK', [])
            if path == '/write':
                write(b'child')
            return [b'child']
    wait()
    start_response('200 OK', [])
    return [b'parent']
`

const forkingASGI = `
import os, sys
async def application(scope, receive, send):
    assert scope['type'] == 'http'
    path = scope['path']
    async def answer(text):
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        await send({'type': 'http.response.body', 'body': text})
    if path != '/':
        pid = os.fork()
        if pid == 0:
            if path == '/raise':
                raise ValueError('child')
            if path == '/exit':
                sys.exit(3)
            if path == '/abort':
                raise KeyboardInterrupt
            if path == '/return':
                return
            return await answer(b'child')
        os.waitpid(pid, 0)
    await answer(b'parent')
`

const forkingRack = `
run lambda { |env|
  path = env['PATH_INFO']
  if path == '/signal'
    trap('USR1') { fork }
    Thread.new { sleep 0.1; Process.kill('USR1', Process.pid) }
  elsif path == '/hook'
    env['rack.response_finished'] << lambda { |*_| (pid = fork) ? Process.wait(pid) : raise('after') }
  elsif path != '/'
    pid = fork
    if pid.nil?
      case path
      when '/raise' then raise 'child'
      when '/exit' then exit 3
      when '/abort' then raise Interrupt
      when '/stream' then next [200, {}, Enumerator.new { |y| y << 'child'; y << 'child' }]
      when '/input' then env['rack.input'].read; exit! 0
      end
      next [200, {}, ['child']]
    end
    env['rack.input'].read if path == '/input'
    Process.wait(pid)
  end
  [200, {}, ['parent']]
}
`

const forkingPSGI = `
use POSIX ();
sub { my $env = shift; my $path = $env->{PATH_INFO};
    if ($path eq '/hook') {
        push @{ $env->{'psgix.cleanup.handlers'} }, sub { my $pid = fork; $pid ? waitpid $pid, 0 : die "after\n" };
    } elsif ($path eq '/signal') {
        $SIG{USR1} = sub { my $pid = fork; waitpid $pid, 0 if $pid };
        my $worker = $$;
        if (!fork) { select undef, undef, undef, 0.1; kill USR1 => $worker; POSIX::_exit(0) }
    } elsif ($path ne '/') {
        my $pid = fork;
        if (!$pid) {
            die "child\n" if $path eq '/raise';
            exit 3 if $path eq '/exit';
            return sub { my $w = $_[0]->([200, []]); $w->write('child') for 1 .. 2; $w->close } if $path eq '/stream';
            if ($path eq '/input') { $env->{'psgi.input'}->read(my $b, 1 << 20); POSIX::_exit(0) }
            return [200, [], ['child']];
        }
        $env->{'psgi.input'}->read(my $b, 1 << 20) if $path eq '/input';
        waitpid $pid, 0;
    }
    [200, [], ['parent']];
}
`

// TestForks: a child that the application forks, and that comes back to the
// program of the worker, ends there: it touches neither the request nor the queue.
func TestForks(t *testing.T) {
	testenv.Need(t, testenv.Ruby)
	testenv.Need(t, testenv.Plack)
	testenv.Need(t, testenv.Gevent)
	limited := func(app *vassal.App) { app.Workers.Harakiri = 10 * time.Second }
	threads := func(app *vassal.App) { app.Workers.Threads = 2 }
	for name, begin := range map[string]func(t *testing.T) *running{
		"wsgi":         func(t *testing.T) *running { return start(t, forkingWSGI, limited) },
		"wsgi threads": func(t *testing.T) *running { return start(t, forkingWSGI, threads) },
		"gevent": func(t *testing.T) *running {
			return startLines(t, "wsgi-file = app.py\ngevent = 5\n", map[string]string{"app.py": forkingWSGI})
		},
		"asgi":         func(t *testing.T) *running { return start(t, forkingASGI, limited) },
		"rack":         func(t *testing.T) *running { return startRack(t, forkingRack, limited) },
		"rack threads": func(t *testing.T) *running { return startRack(t, forkingRack, threads) },
		"psgi":         func(t *testing.T) *running { return startPSGI(t, forkingPSGI, limited) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkForks(t, begin(t))
		})
	}
}

// TestForksVersions: so it is with every other Python that is here, and with the
// system's (TestForks) in any case.
func TestForksVersions(t *testing.T) {
	homes, _ := filepath.Glob(filepath.Join(os.Getenv("HOME"), ".pyenv/versions/3.*/bin/python3"))
	for _, interpreter := range homes {
		for name, text := range map[string]string{"wsgi": forkingWSGI, "asgi": forkingASGI} {
			t.Run(name+" "+filepath.Base(filepath.Dir(filepath.Dir(interpreter))), func(t *testing.T) {
				t.Parallel()
				checkForks(t, start(t, text, func(app *vassal.App) { app.Workers.Interpreter = interpreter }))
			})
		}
	}
}

// What a child does is its own business until it comes back: it may wait, where that
// is gevent's too, and fork again, also where Python has no hook for that (3.6).
func TestForkedGoOn(t *testing.T) {
	const text = `
import os, time
def application(e, start_response):
    if e['PATH_INFO'] == '/fork':
        r, w = os.pipe()
        if os.fork() == 0:
            if os.fork() == 0:
                time.sleep(.1)
                os.write(w, b'grandchild')
                os._exit(0)
            time.sleep(.3)
            os.write(w, b' child')
            os._exit(0)
        os.close(w)
        start_response('200 OK', [])
        return [os.fdopen(r, 'rb').read()]
    start_response('200 OK', [])
    return [b'%d' % os.getpid()]
`
	testenv.Need(t, testenv.Gevent)
	for name, c := range map[string]struct{ lines, before string }{
		"one":     {"", ""},
		"threads": {"threads = 2\n", ""},
		"old":     {"", "import os\ndel os.register_at_fork\n"},
		"gevent":  {"gevent = 4\n", "from gevent import monkey\nmonkey.patch_all()\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startLines(t, "wsgi-file = app.py\n"+c.lines, map[string]string{"app.py": c.before + text})
			pid := r.get("/")
			if got := r.get("/fork"); got != "grandchild child" {
				t.Errorf("got %q", got)
			}
			if now := r.get("/"); now != pid || strings.Contains(r.log(), "Traceback") {
				t.Errorf("worker %s instead of %s, log:\n%s", now, pid, r.log())
			}
		})
	}
}

func checkForks(t *testing.T, r *running) {
	pid := r.pid()
	for _, path := range []string{"/raise", "/exit", "/abort", "/return", "/stream", "/write", "/hook", "/input", "/signal"} {
		if got := r.send(path, strings.Repeat("x", 100000)); got != "parent" {
			t.Errorf("%s: got %q", path, got)
		}
		if path == "/signal" {
			time.Sleep(300 * time.Millisecond)
		}
		for range 4 {
			if got := r.get("/"); got != "parent" {
				t.Errorf("after %s: got %q", path, got)
			}
		}
	}
	if now := r.Stats().Workers[0].PID; now != pid {
		t.Errorf("worker %d instead of %d", now, pid)
	}
	if log := r.log(); strings.Contains(log, "worker died") {
		t.Errorf("log:\n%s", log)
	}
}

// TestForksWhileLoading: a child that is forked while the application is loaded,
// or behind the worker's fork, is neither another loader nor another worker.
func TestForksWhileLoading(t *testing.T) {
	testenv.Need(t, testenv.Ruby)
	testenv.Need(t, testenv.Plack)
	for name, begin := range map[string]func(t *testing.T, how string) *running{
		"python": func(t *testing.T, how string) *running {
			return start(t, map[string]string{"exit": "import sys, os\nif os.fork() == 0: sys.exit(3)\n", "raise": "import os\nif os.fork() == 0: raise ValueError('child')\n",
				"return": "import os\nos.fork()\n", "hook": "import os, uwsgi\nuwsgi.post_fork_hook = os.fork\n"}[how]+`
import time
time.sleep(.3)
def application(e, start_response):
    start_response('200 OK', [])
    return [b'%d' % os.getpid()]
`, nil)
		},
		"ruby": func(t *testing.T, how string) *running {
			return startRack(t, map[string]string{"exit": "exit 3 unless fork\n", "raise": "raise 'child' unless fork\n", "return": "fork\n",
				"hook": "def UWSGI.post_fork_hook() fork end\n"}[how]+"sleep 0.3\nrun lambda { |env| [200, {}, [Process.pid.to_s]] }\n", nil)
		},
		"perl": func(t *testing.T, how string) *running {
			return startPSGI(t, map[string]string{"exit": "fork or exit 3;\n", "raise": "fork or die 'child';\n", "return": "fork;\n",
				"hook": "uwsgi::postfork(sub { fork });\n"}[how]+"select undef, undef, undef, 0.3; sub { [200, [], [$$]] }\n", nil)
		},
	} {
		for _, how := range []string{"exit", "raise", "return", "hook"} {
			t.Run(name+" "+how, func(t *testing.T) {
				t.Parallel()
				r := begin(t, how)
				pid := fmt.Sprint(r.pid())
				for range 10 {
					if got := r.get("/"); got != pid {
						t.Errorf("process %s answers, and the worker is %s", got, pid)
					}
				}
			})
		}
	}
}

func (r *running) send(path, body string) string {
	rec, err := r.do(request("POST", path, body))
	if err != nil {
		return fmt.Sprint(err)
	}
	return rec.body.String()
}

// pid is the worker's, once it is known.
func (r *running) pid() int {
	eventually(r.t, "a worker", func() bool { return r.Stats().Workers[0].PID != 0 })
	return r.Stats().Workers[0].PID
}

// TestChildSignal: what the application has said at its start about children that
// end holds in the worker, and the loader hears of its own.
func TestChildSignal(t *testing.T) {
	testenv.Need(t, testenv.Ruby)
	testenv.Need(t, testenv.Plack)
	for name, begin := range map[string]func(t *testing.T) *running{
		"python": func(t *testing.T) *running {
			return start(t, `
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
def application(e, start_response):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    start_response('200 OK', [])
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return [b'%d' % os.getpid()]
    return [b'zombie']
`, nil)
		},
		"ruby": func(t *testing.T) *running {
			return startRack(t, `
ended = nil # a handler: of 'IGNORE' trap says 'DEFAULT' here
trap('CHLD') { ended = Process.wait(-1, Process::WNOHANG) }
run lambda { |env|
  pid = fork { exit! }
  100.times { ended == pid ? break : sleep(0.01) }
  [200, {}, [ended == pid ? Process.pid.to_s : 'zombie']]
}
`, nil)
		},
		"perl": func(t *testing.T) *running {
			return startPSGI(t, `
use POSIX ();
$SIG{CHLD} = 'IGNORE';
sub {
    my $pid = fork;
    POSIX::_exit(0) unless $pid;
    [200, [], [waitpid($pid, 0) == $pid ? 'zombie' : $$]];
};
`, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := begin(t)
			pid := r.get("/")
			if pid != fmt.Sprint(r.pid()) {
				t.Fatalf("got %q", pid)
			}
			was := r.pid()
			_ = syscall.Kill(was, syscall.SIGKILL)
			eventually(t, "another worker", func() bool { return r.pid() != was })
			if !strings.Contains(r.log(), "killed by SIGKILL") {
				t.Errorf("log:\n%s", r.log())
			}
		})
	}
}

// TestForkBesideImport: a child that is forked while another thread imports what
// shows exceptions ends nevertheless when it raises one.
func TestForkBesideImport(t *testing.T) {
	r := start(t, `
import _frozen_importlib, os, sys, threading
sys.modules.pop('traceback', None)
held, done = threading.Event(), threading.Event()
def hold():
    lock = _frozen_importlib._get_module_lock('traceback')
    lock.acquire()
    held.set()
    done.wait()
    lock.release()
def application(e, start_response):
    threading.Thread(target=hold).start()
    held.wait()
    pid = os.fork()
    if pid == 0:
        raise ValueError('of a child')
    status = os.waitpid(pid, 0)[1]
    done.set()
    start_response('200 OK', [])
    return [b'%d' % status]
`, func(app *vassal.App) { app.Workers.Harakiri = 5 * time.Second })
	if got := r.get("/"); got != "256" || !strings.Contains(r.log(), "line 16, in application\nValueError: of a child\n") {
		t.Errorf("got %s, log:\n%s", got, r.log())
	}
}
