package worker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"liege/serve/exchange"
	"liege/vassal"
)

// validated is wrapped in wsgiref.validate, which checks both sides of WSGI:
// environ and streams on ours, so a breach is an AssertionError and a 500.
const validated = `
from wsgiref.validate import validator

def app(environ, start_response):
    path = environ['PATH_INFO']
    text = [('Content-Type', 'text/plain')]
    if path == '/echo':
        start_response('200 OK', text)
        return [environ['wsgi.input'].read(int(environ.get('CONTENT_LENGTH') or 0))]
    if path == '/lines':
        start_response('200 OK', text)
        return [b'|'.join(list(environ['wsgi.input']))]
    if path == '/readline':
        start_response('200 OK', text)
        i = environ['wsgi.input']
        return [i.readline() + b'|' + b'|'.join(i.readlines())]
    if path == '/generator':
        def chunks():
            start_response('200 OK', text)
            for i in range(3):
                yield b'%d\n' % i
        return chunks()
    if path == '/empty':
        start_response('200 OK', text)
        return []
    if path == '/204':
        start_response('204 No Content', [])
        return []
    if path == '/304':
        start_response('304 Not Modified', [('ETag', '"x"')])
        return []
    if path == '/write':
        write = start_response('200 OK', text)
        write(b'a')
        write(b'b')
        return [b'c']
    if path == '/error':
        try:
            raise ValueError('inner')
        except ValueError:
            import sys
            start_response('500 Oops', text, sys.exc_info())
        return [b'caught']
    if path == '/errors':
        environ['wsgi.errors'].write('half a ')
        environ['wsgi.errors'].writelines(['line\n', 'second\n', 'rest'])
        environ['wsgi.errors'].flush()
        start_response('200 OK', text)
        return [b'ok']
    if path == '/many':
        start_response('200 OK', text)
        return [b'x' * 10, b'', b'y' * 10]
    if path == '/file':
        start_response('200 OK', text)
        return environ['wsgi.file_wrapper'](open('app.py', 'rb'), 100)
    raise RuntimeError('no such path')

application = validator(app)
`

func TestValidated(t *testing.T) {
	r := start(t, validated, nil)
	file, err := os.ReadFile(filepath.Join(r.app.Dir, "app.py"))
	if err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("0123456789abcde\n", 100<<10/16)
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/echo", "", 200, ""},
		{"POST", "/echo", "x", 200, "x"},
		{"POST", "/echo", big, 200, big},
		{"PUT", "/lines", "a\nb\nc", 200, "a\n|b\n|c"},
		{"PUT", "/lines", big, 200, strings.ReplaceAll(big[:len(big)-1], "\n", "\n|") + "\n"},
		{"PUT", "/readline", "a\nb\nc", 200, "a\n|b\n|c"},
		{"PUT", "/readline", big, 200, strings.ReplaceAll(big[:len(big)-1], "\n", "\n|") + "\n"},
		{"GET", "/lines", "", 200, ""},
		{"GET", "/generator", "", 200, "0\n1\n2\n"},
		{"HEAD", "/generator", "", 200, ""},
		{"GET", "/empty", "", 200, ""},
		{"GET", "/204", "", 204, ""},
		{"GET", "/304", "", 304, ""},
		{"GET", "/write", "", 200, "abc"},
		{"GET", "/error", "", 500, "caught"},
		{"GET", "/errors", "", 200, "ok"},
		{"GET", "/many", "", 200, "xxxxxxxxxxyyyyyyyyyy"},
		{"HEAD", "/many", "", 200, ""},
		{"GET", "/file?a=b", "", 200, string(file)},
	} {
		t.Run(c.method+c.path, func(t *testing.T) {
			rec, err := r.do(request(c.method, c.path, c.body))
			if err != nil {
				t.Fatalf("%v\n%s", err, r.log())
			}
			if rec.status != c.status || rec.body.String() != c.want {
				t.Errorf("got %d %.80q, want %d %.80q", rec.status, rec.body.String(), c.status, c.want)
			}
		})
	}
	if _, err := r.do(request("GET", "/none", "")); exchange.StatusOf(err) != 500 {
		t.Errorf("exception: %v, want status 500", err)
	}
	log := r.log()
	if strings.Contains(log, "AssertionError") {
		t.Errorf("wsgiref.validate complains:\n%s", log)
	}
	for _, want := range []string{"half a line\nsecond\nrest\n", "RuntimeError: no such path", "Traceback (most recent call last)"} {
		if !strings.Contains(log, want) {
			t.Errorf("log without %q:\n%s", want, log)
		}
	}
}

const answers = `
import sys, os, json
closed = []

class Body(object):
    def __init__(self, chunks): self.chunks = iter(chunks)
    def __iter__(self): return self
    def __next__(self): return next(self.chunks)
    def close(self): closed.append(1)

def link(f):
    try:
        return os.readlink('/proc/self/fd/' + f).split(':')[0]
    except OSError:
        return ''

def failing():
    yield b'begun'
    raise RuntimeError('midway')

def application(environ, start_response):
    path = environ['PATH_INFO'][1:]
    text = [('Content-Type', 'text/plain')]
    if path == 'bytes':
        start_response('200 OK', text); return b'bytes'
    if path == 'bare':
        start_response('201', text); return [b'x']
    if path == 'str':
        start_response('200 OK', text); return ['text']
    if path == 'none':
        start_response('200 OK', text); return None
    if path == 'nostart':
        return [b'x']
    if path == 'break':
        start_response('200 OK', [('X-A', 'a\r\nX-B: b')]); return [b'x']
    if path == 'name':
        start_response('200 OK', [('X A', 'a')]); return [b'x']
    if path == 'latin':
        start_response('200 OK', [('X-A', u'\u20ac')]); return [b'x']
    if path == 'badstatus':
        start_response('1000 Never', []); return [b'x']
    if path == 'continue':
        start_response('100 Continue', []); return [b'x']
    if path == 'nul':
        start_response('200 OK', [('X-A', 'a\0X-B\0b')]); return [b'x']
    if path == 'own':
        start_response('200 OK', text); return [type('Own', (bytes,), {})(b'own')]
    if path == 'twice':
        start_response('200 OK', text); start_response('404 No', text); return [b'x']
    if path == 'long':
        start_response('200 OK', text + [('Content-Length', '3')]); return [b'abc', b'def']
    if path == 'short':
        start_response('200 OK', text + [('Content-Length', '10')]); return [b'abc']
    if path == 'badlength':
        start_response('200 OK', text + [('Content-Length', 'x')]); return [b'abc']
    if path == 'midway':
        start_response('200 OK', text); return failing()
    if path == 'lengthgen':
        start_response('200 OK', text + [('Content-Length', '6')]); return Body([b'abcdef'])
    if path == 'close':
        start_response('200 OK', text); return Body([b'a', b'b'])
    if path == 'closeerror':
        start_response('200 OK', text); return Body(failing())
    if path == 'closed':
        n = len(closed); del closed[:]
        start_response('200 OK', text); return [str(n).encode()]
    if path == 'filepart':
        f = open('app.py', 'rb'); f.read(7)
        start_response('200 OK', text); return environ['wsgi.file_wrapper'](f)
    if path == 'filelength':
        start_response('200 OK', text + [('Content-Length', '5')]); return environ['wsgi.file_wrapper'](open('app.py', 'rb'))
    if path == 'fileempty':
        start_response('200 OK', text); return environ['wsgi.file_wrapper'](open('/dev/null', 'rb'))
    if path == 'filelike':
        import io
        start_response('200 OK', text); return environ['wsgi.file_wrapper'](io.BytesIO(b'x' * 20000))
    if path == 'filegzip':
        import gzip
        with gzip.open('app.gz', 'wb') as f: f.write(b'unpacked')
        start_response('200 OK', text); return environ['wsgi.file_wrapper'](gzip.open('app.gz'))
    if path in ('filefield', 'filebuffered'):
        import gzip, io
        start_response('200 OK', text)
        f = gzip.open('app.gz')
        class File(object):
            def __init__(self, file): self.file = file
            def __getattr__(self, name): return getattr(self.file, name)
        return environ['wsgi.file_wrapper'](File(File(f)) if path == 'filefield' else io.BufferedReader(f))
    if path == 'filepipe':
        r, w = os.pipe(); os.write(w, b'piped'); os.close(w)
        start_response('200 OK', text); return environ['wsgi.file_wrapper'](os.fdopen(r, 'rb'))
    if path == 'environ':
        start_response('200 OK', text)
        return [json.dumps({k: repr(v) for k, v in environ.items()}).encode()]
    if path == 'keep':
        global kept
        kept = environ['wsgi.input']
        start_response('200 OK', text); return [b'kept']
    if path == 'late':
        start_response('200 OK', text)
        try:
            return [b'read %d' % len(kept.read())]
        except Exception as e:
            return [repr(e).encode()]
    if path == 'status':
        s = dict(l.split(':', 1) for l in open('/proc/self/status') if ':' in l)
        start_response('200 OK', text)
        return [json.dumps({'umask': os.umask(0o77), 'nice': os.nice(0), 'oom': open('/proc/self/oom_score_adj').read(),
            'as': __import__('resource').getrlimit(9), 'args': open('/proc/self/cmdline').read(), 'comm': open('/proc/self/comm').read(),
            'fds': sorted(link(f) for f in os.listdir('/proc/self/fd')),
            'pid': os.getpid(), 'sched': os.sched_getscheduler(0)}).encode()]
    if path == 'inherit':
        import subprocess
        start_response('200 OK', text)
        return [subprocess.check_output(['sh', '-c', 'ls -l /proc/self/fd'], close_fds=False)]
    if path == 'uwsgi':
        import uwsgi
        start_response('200 OK', text)
        try:
            uwsgi.no_such('x')
        except AttributeError as e:
            return [('%d %d %s' % (uwsgi.worker_id(), uwsgi.numproc, e)).encode()]
    start_response('404 Not Found', text); return [b'no']
`

func TestAnswers(t *testing.T) {
	r := start(t, answers, nil)
	file, _ := os.ReadFile(filepath.Join(r.app.Dir, "app.py"))
	for _, c := range []struct {
		method, path string
		status       int    // of the answer, or of the error
		body         string // "" with an error before the answer
		err          string
	}{
		{"GET", "bytes", 200, "bytes", ""},
		{"GET", "bare", 201, "x", ""},
		{"GET", "str", 200, "text", ""},
		{"GET", "none", 500, "", "exception"},
		{"GET", "nostart", 500, "", "exception"},
		{"GET", "break", 500, "", "line break"},
		{"GET", "name", 500, "", "invalid field name"},
		{"GET", "latin", 500, "", "exception"},
		{"GET", "badstatus", 500, "", "status"},
		{"GET", "continue", 500, "", "status"},
		{"GET", "nul", 500, "", "exception"}, // behind it would be a field of its own
		{"GET", "own", 200, "own", ""},
		{"GET", "twice", 500, "", "exception"},
		{"GET", "long", 200, "abc", ""},
		{"GET", "short", 200, "abc", "7 bytes fewer"},
		{"HEAD", "short", 200, "", ""},
		{"GET", "badlength", 500, "", "exception"},
		{"GET", "midway", 200, "begun", "exception"},
		{"GET", "lengthgen", 200, "abcdef", ""},
		{"GET", "close", 200, "ab", ""},
		{"HEAD", "close", 200, "", ""},
		{"GET", "closeerror", 200, "begun", "exception"},
		{"GET", "closed", 200, "4", ""},
		{"GET", "filepart", 200, string(file[7:]), ""},
		{"HEAD", "filepart", 200, "", ""},
		{"GET", "filelength", 200, string(file[:5]), ""},
		{"GET", "fileempty", 200, "", ""},
		{"GET", "filelike", 200, strings.Repeat("x", 20000), ""},
		{"GET", "filegzip", 200, "unpacked", ""},
		{"GET", "filefield", 200, "unpacked", ""},
		{"GET", "filebuffered", 200, "unpacked", ""},
		{"GET", "filepipe", 200, "piped", ""},
		{"GET", "uwsgi", 200, "1 1 uwsgi.no_such is not provided by Liege", ""},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			rec, err := r.do(request(c.method, "/"+c.path, ""))
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Fatalf("err %v, want %q\n%s", err, c.err, r.log())
			}
			status := rec.status
			if status == 0 {
				status = exchange.StatusOf(err)
			}
			if status != c.status || rec.body.String() != c.body {
				t.Errorf("got %d %.80q, want %d %.80q", status, rec.body.String(), c.status, c.body)
			}
		})
	}
	if n := r.Stats().Workers[0].Respawns; n != 0 {
		t.Errorf("%d workers were replaced; a bad answer is not the worker's end\n%s", n, r.log())
	}
}

// A body kept beyond its request must not read another's.
func TestKeptInput(t *testing.T) {
	r := start(t, answers, nil)
	if _, err := r.do(request("POST", "/keep", strings.Repeat("x", 100<<10))); err != nil {
		t.Fatal(err)
	}
	rec, err := r.do(request("POST", "/late", strings.Repeat("y", 100<<10)))
	if err != nil || !strings.Contains(rec.body.String(), "the request is over") {
		t.Errorf("%v %q", err, rec.body.String())
	}
}

func TestContentLength(t *testing.T) {
	r := start(t, answers, nil)
	for _, method := range []string{"GET", "HEAD"} {
		rec, err := r.do(request(method, "/bytes", ""))
		if err != nil || rec.field("Content-Length") != "5" {
			t.Errorf("%s: %v, Content-Length %q, want 5", method, err, rec.field("Content-Length"))
		}
	}
	req := request("GET", "/bytes", "")
	if _, err := r.do(req); err != nil || !req.Info.Measured {
		t.Errorf("%v, the length is not said to be the server's", err)
	}
	rec, err := r.do(request("GET", "/close", ""))
	if err != nil || rec.field("Content-Length") != "" {
		t.Errorf("stream: %v, Content-Length %q", err, rec.field("Content-Length"))
	}
	r = start(t, "def application(e, s):\n    s('200 OK', [])\n    return []\n", nil)
	if rec, err := r.do(request("HEAD", "/", "")); err != nil || rec.field("Content-Length") != "" {
		t.Errorf("HEAD without a body: %v, Content-Length %q", err, rec.field("Content-Length"))
	}
}

// A piece reaches the client before the application makes the next one.
func TestStreamed(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	r := start(t, `
import os, time
def application(environ, start_response):
    start_response('200 OK', [])
    yield b'first'
    for i in range(1000):
        if os.path.exists(environ['QUERY_STRING']):
            yield b'second'
            return
        time.sleep(0.01)
`, nil)
	rec := &recorder{keep: true}
	rec.onFlush = func() {
		if rec.body.String() == "first" {
			mkfile(t, mark)
		}
	}
	if err := r.Serve(context.Background(), request("GET", "/?"+mark, ""), rec); err != nil || rec.body.String() != "firstsecond" {
		t.Errorf("%v %q", err, rec.body.String())
	}
}

func TestEnviron(t *testing.T) {
	r := start(t, answers, func(a *vassal.App) { a.Workers.Threads = 2; a.Workers.Processes = 2 })
	req := request("GET", "/environ", "")
	req.Set("HTTP_X_LATIN", "caf\xe9")
	req.Set("HTTP_X_LONG", strings.Repeat("l", 300))
	req.Set("EMPTY", "")
	req.Set("HTTPS", "on")
	rec, err := r.do(req)
	if err != nil {
		t.Fatal(err)
	}
	got := rec.body.String()
	for _, want := range []string{`"HTTP_X_LATIN": "'caf\u00e9'"`, `"EMPTY": "''"`, `"wsgi.url_scheme": "'https'"`, `"wsgi.multithread": "True"`,
		`"wsgi.multiprocess": "True"`, `"wsgi.run_once": "False"`, `"wsgi.version": "(1, 0)"`, `"uwsgi.version": "b'2.0.21-liege'"`,
		strings.Repeat("l", 300), `"uwsgi.core": "`} {
		if !strings.Contains(got, want) {
			t.Errorf("environ without %s:\n%s", want, got)
		}
	}
	if strings.Contains(got, "liege.") {
		t.Errorf("our own names are in the environ:\n%s", got)
	}
	for header, want := range map[string]string{"http": "http", "https": "https", "javascript": "http"} {
		req := request("GET", "/environ", "")
		req.Set("HTTP_X_FORWARDED_PROTO", header)
		rec, err := r.do(req)
		if err != nil || !strings.Contains(rec.body.String(), fmt.Sprintf(`"wsgi.url_scheme": "'%s'"`, want)) {
			t.Errorf("X-Forwarded-Proto %s: %v\n%s", header, err, rec.body.String())
		}
	}
}

// A head larger than a packet of the queue goes over the lane.
func TestLargeHead(t *testing.T) {
	r := start(t, answers, nil)
	for _, n := range []int{maxPacket - 800, maxPacket, 3 * pieceSize} {
		for _, body := range []string{"", "abc", strings.Repeat("z", 3*pieceSize)} {
			req := request("POST", "/environ", body)
			value := strings.Repeat("v", n)
			req.Set("HTTP_X_BIG", value)
			rec, err := r.do(req)
			if err != nil || !strings.Contains(rec.body.String(), value) {
				t.Fatalf("%d bytes: %v %.200q\n%s", n, err, rec.body.String(), r.log())
			}
		}
	}
}

func TestChunkedBody(t *testing.T) {
	r := start(t, `
def application(environ, start_response):
    assert 'CONTENT_LENGTH' not in environ and environ['wsgi.input_terminated']
    start_response('200 OK', [])
    return [environ['wsgi.input'].read()]
`, nil)
	req := request("POST", "/", "")
	req.Body, req.Length = io.MultiReader(strings.NewReader("ab"), strings.NewReader(strings.Repeat("c", 200000))), -1
	rec, err := r.do(req)
	if err != nil || rec.body.Len() != 200002 {
		t.Errorf("%v, %d bytes", err, rec.body.Len())
	}
}

// bodyOf is n random bytes that are never all in memory.
type randomBody struct {
	r    *rand.ChaCha8
	left int64
	sum  interface{ io.Writer }
}

func (b *randomBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), b.left)]
	n, _ := b.r.Read(p)
	b.left -= int64(n)
	b.sum.Write(p[:n])
	return n, nil
}

// 50 MB go through in both directions at once, and neither side keeps them.
func TestLargeBothWays(t *testing.T) {
	r := start(t, `
import resource
def echo(i):
    while True:
        data = i.read(65536)
        if not data:
            return
        yield data

def application(environ, start_response):
    start_response('200 OK', [])
    if environ['PATH_INFO'] == '/peak':
        return [b'%d' % resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]
    return echo(environ['wsgi.input'])
`, nil)
	before := r.get("/peak")
	const size = 50 << 20
	sent, got := sha256.New(), sha256.New()
	req := request("POST", "/", "")
	req.Body, req.Length = &randomBody{rand.NewChaCha8([32]byte{1}), size, sent}, size
	rec := &recorder{onWrite: func(b []byte) error { got.Write(b); return nil }}
	runtime.GC()
	var m0, m1 runtime.MemStats
	runtime.ReadMemStats(&m0)
	if err := r.Serve(context.Background(), req, rec); err != nil {
		t.Fatalf("%v\n%s", err, r.log())
	}
	runtime.ReadMemStats(&m1)
	if rec.size != size || hex.EncodeToString(sent.Sum(nil)) != hex.EncodeToString(got.Sum(nil)) {
		t.Errorf("%d of %d bytes came back, or others", rec.size, size)
	}
	var a, b int
	fmt.Sscan(before, &a)
	fmt.Sscan(r.get("/peak"), &b)
	if b-a > 8<<10 {
		t.Errorf("the worker grew from %d to %d KiB", a, b)
	}
	if grown := int64(m1.HeapInuse) - int64(m0.HeapInuse); grown > 16<<20 {
		t.Errorf("the core's heap grew by %d bytes", grown)
	}
}

// A client that goes away ends the iteration, and close is called.
func TestAbort(t *testing.T) {
	r := start(t, `
state = {'chunks': 0, 'closed': 0}
class Endless(object):
    def __iter__(self): return self
    def __next__(self): state['chunks'] += 1; return b'x' * 100000
    def close(self): state['closed'] += 1

def application(environ, start_response):
    start_response('200 OK', [])
    if environ['PATH_INFO'] == '/state':
        return [repr(state['closed']).encode()]
    if environ['PATH_INFO'] == '/write':
        write = start_response.__self__.write
        try:
            while True: write(b'x' * 100000)
        except OSError:
            state['closed'] += 1
            raise
    return Endless()
`, nil)
	gone := errors.New("connection reset")
	for i, path := range []string{"/", "/write"} {
		n := 0
		rec := &recorder{onWrite: func([]byte) error {
			if n++; n > 3 {
				return gone
			}
			return nil
		}}
		if err := r.Serve(context.Background(), request("GET", path, ""), rec); !errors.Is(err, gone) {
			t.Errorf("%s: %v, want the client's error", path, err)
		}
		if got := r.get("/state"); got != fmt.Sprint(i+1) {
			t.Errorf("%s: closed %s times", path, got)
		}
	}
	// The same when Serve's context ends.
	ctx, cancel := context.WithCancel(context.Background())
	rec := &recorder{onWrite: func([]byte) error { cancel(); return nil }}
	if err := r.Serve(ctx, request("GET", "/", ""), rec); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if got := r.get("/state"); got != "3" {
		t.Errorf("closed %s times, want 3", got)
	}
}

// A body that the client does not finish is the client's fault.
func TestBodyFails(t *testing.T) {
	r := start(t, `
def application(environ, start_response):
    data = environ['wsgi.input'].read()
    start_response('200 OK', [])
    return [data]
`, nil)
	for _, size := range []int64{100, 1 << 20} {
		req := request("POST", "/", "")
		timeout := &exchange.StatusError{Status: 408, Err: errors.New("too slow")}
		req.Body, req.Length = io.MultiReader(bytes.NewReader(make([]byte, 50)), errReader{timeout}), size
		if _, err := r.do(req); exchange.StatusOf(err) != 408 {
			t.Errorf("%d bytes: %v, want status 408", size, err)
		}
	}
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

// What the application inherits: three standard descriptors, the queue, its
// lane and the slots; and what it starts inherits none of ours.
func TestDescriptors(t *testing.T) {
	r := start(t, answers, nil)
	got := r.get("/status")
	for _, bad := range []string{"pipe", "eventpoll"} {
		if strings.Contains(got, bad) {
			t.Errorf("the worker has a %s: %s", bad, got)
		}
	}
	if n := strings.Count(got, `"socket"`); n != 2 {
		t.Errorf("the worker has %d sockets, want queue and lane: %s", n, got)
	}
	if out := r.get("/inherit"); strings.Contains(out, "socket") || strings.Contains(out, "memfd") {
		t.Errorf("a child of the application inherits:\n%s", out)
	}
}

func TestPosture(t *testing.T) {
	umask := os.FileMode(0o027)
	r := start(t, answers, func(a *vassal.App) {
		w := a.Workers
		w.Umask, w.Nice, w.Title, w.Batch = &umask, 3, "x-shop", true
		w.Rlimits = []vassal.Rlimit{{Resource: "as", Value: 1 << 30}}
	})
	got := r.get("/status")
	for _, want := range []string{`"umask": 23`, `"sched": 3`, `"nice": 3`, `"as": [1073741824, 1073741824]`, `"args": "x-shop worker 1`, `"comm": "x-shop worker 1`} {
		if !strings.Contains(got, want) {
			t.Errorf("without %s: %s", want, got)
		}
	}
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	var score int
	fmt.Sscan(string(own), &score)
	if want := fmt.Sprintf(`"oom": "%d`, min(score+300, 1000)); !strings.Contains(got, want) {
		t.Errorf("without %s: %s", want, got)
	}
	if d := time.Since(r.Stats().Workers[0].Spawned); d > time.Minute || d < 0 {
		t.Errorf("spawned %v ago", d)
	}
}

// TestReplacedHead: an answer that was to have no body, and has one.
func TestReplacedHead(t *testing.T) {
	r := start(t, `
import sys
def application(environ, start_response):
    start_response('204 No Content', [])
    try:
        raise ValueError
    except ValueError:
        start_response('500 Broken', [('Content-Type', 'text/plain')], sys.exc_info())
    return [b'broken']
`, nil)
	for method, want := range map[string]string{"GET": "broken", "HEAD": ""} {
		rec, err := r.do(request(method, "/", ""))
		if err != nil || rec.status != 500 || rec.body.String() != want || rec.field("Content-Length") != "6" {
			t.Errorf("%s: %v %d %q %v", method, err, rec.status, rec.body.String(), rec.fields)
		}
	}
}
