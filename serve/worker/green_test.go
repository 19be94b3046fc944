package worker

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/vassal"
)

const green = `
import time, os, socket, sys
waiting = 0
def application(e, start_response):
    global waiting
    path = e['PATH_INFO']
    if path == '/wait':
        waiting += 1
        while waiting < 20:
            time.sleep(0.005)
    if path == '/boom':
        raise ValueError('boom')
    body = e['wsgi.input'].read()
    start_response('200 OK', [('Content-Type', 'text/plain')])
    if path == '/big':
        return [b'x' * 3000000]
    if path == '/file':
        return e['wsgi.file_wrapper'](open('app.py', 'rb'))
    if path == '/pid':
        return [b'%d' % os.getpid()]
    if path == '/echo':
        return [body]
    return [b'%d' % waiting]
`

// TestGevent: one process serves many requests at once, which wait in what
// gevent has patched.
func TestGevent(t *testing.T) {
	testenv.Need(t, testenv.Gevent)
	r := startLines(t, "wsgi-file = app.py\ngevent = 20\ngevent-monkey-patch = true\n", map[string]string{"app.py": green})
	errs := make(chan error, 20)
	for range 20 {
		go func() {
			rec, err := r.do(request("GET", "/wait", ""))
			if err == nil && rec.body.String() != "20" {
				err = errors.New(rec.body.String())
			}
			errs <- err
		}()
	}
	for range 20 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	large := strings.Repeat("large", 100000)
	for path, want := range map[string]string{"/big": strings.Repeat("x", 3000000), "/file": green, "/echo": large} {
		if rec, err := r.do(request("POST", path, large)); err != nil || rec.body.String() != want {
			t.Errorf("%s: %d bytes, %v", path, rec.body.Len(), err)
		}
	}
	if _, err := r.do(request("GET", "/boom", "")); exchange.StatusOf(err) != 500 {
		t.Errorf("/boom: %v", err)
	}
}

// TestGeventLife: such workers are replaced as others are, and the lack of
// gevent is said.
func TestGeventLife(t *testing.T) {
	testenv.Need(t, testenv.Gevent)
	for _, line := range []string{"max-requests = 2", "reload-on-exception = true"} {
		r := startLines(t, "wsgi-file = app.py\ngevent = 5\n"+line+"\n", map[string]string{"app.py": green})
		first := r.get("/pid")
		_, _ = r.do(request("GET", "/boom", "")) // fails, and counts
		eventually(t, line, func() bool { return r.get("/pid") != first })
	}
	p, _, _ := newFixture(t, green, func(a *vassal.App) {
		a.Workers.Python.Gevent, a.Workers.Python.Tuning.NoSite, a.Workers.LoadTimeout = true, true, 20*time.Second
	})
	var problem *vassal.Problem
	if err := p.Run(t.Context()); !errors.As(err, &problem) || problem.Code != vassal.CodeImportError || !strings.Contains(problem.Message, "gevent") {
		t.Errorf("without gevent: %v", err)
	}
}

// An application that has gevent patch os by itself does not have the children of the
// loader for its own: a worker that ends has ended.
func TestGeventPatched(t *testing.T) {
	testenv.Need(t, testenv.Gevent)
	r := startLines(t, "wsgi-file = app.py\ngevent = 4\n", map[string]string{"app.py": `
from gevent import monkey
monkey.patch_all()
import os, sys, threading, time
t = threading.Thread(target=time.sleep, args=(0.01,))  # a hub while it is loaded
t.start()
t.join()
def application(e, start_response):
    if e['PATH_INFO'] == '/exit':
        sys.exit(3)
    time.sleep(0.01)
    start_response('200 OK', [])
    return [b'%d' % os.getpid()]
`})
	first := r.get("/")
	r.send("/exit", "")
	eventually(t, "another worker", func() bool { return r.get("/") != first })
	r.close()
	if log := r.log(); strings.Contains(log, "killed") {
		t.Errorf("log:\n%s", log)
	}
}

// TestGeventWebSocket: the uwsgi module's functions know whose greenlet calls
// them, whether threads are patched or not.
func TestGeventWebSocket(t *testing.T) {
	testenv.Need(t, testenv.Gevent)
	const text = `
import uwsgi, gevent
from gevent.socket import wait_read
def application(e, start_response):
    if e['PATH_INFO'] == '/plain':
        start_response('200 OK', [])
        return [b'plain']
    uwsgi.websocket_handshake()
    name = e['PATH_INFO'].encode()
    while True:
        wait_read(uwsgi.connection_fd())
        message = uwsgi.websocket_recv_nb()
        if message:
            uwsgi.websocket_send(name + b' ' + message)
`
	for _, lines := range []string{"", "gevent-monkey-patch = true\n"} {
		r := startLines(t, "wsgi-file = app.py\ngevent = 5\n"+lines, map[string]string{"app.py": text})
		a, b := dial(t, r, "/a").open(), dial(t, r, "/b").open()
		for i := range 3 {
			for name, c := range map[string]*client{"/a": a, "/b": b} {
				c.send(0x81, "hello")
				if got := c.message(); got != name+" hello" {
					t.Fatalf("%q, message %d: %q\n%s", lines, i, got, r.log())
				}
			}
			if got := r.get("/plain"); got != "plain" {
				t.Errorf("got %q", got)
			}
		}
		for _, c := range []*client{a, b} {
			c.conn.Close()
			<-c.done
		}
	}
}

// TestGeventForkBeside: of the greenlets that a forked process has copies of only the
// one that has forked it goes on, whatever the others wait for and come to.
func TestGeventForkBeside(t *testing.T) {
	testenv.Need(t, testenv.Gevent)
	r := startLines(t, "wsgi-file = app.py\ngevent = 5\n", map[string]string{"app.py": `
from gevent import monkey
monkey.patch_all()
import os, time
begun = []
def application(e, start_response):
    begun.append(e['PATH_INFO'])
    if e['PATH_INFO'] == '/begun':
        start_response('200 OK', [])
        return [b'%d' % len({'/read', '/sleep'} & set(begun))]
    if e['PATH_INFO'] == '/read':
        e['wsgi.input'].read()
    elif e['PATH_INFO'] == '/sleep':
        time.sleep(.3)
    elif e['PATH_INFO'] == '/fork':
        r, w = os.pipe()
        if os.fork() == 0:
            for _ in range(50):
                time.sleep(.01)
            os.write(w, b'child')
            os._exit(0)
        os.close(w)
        start_response('200 OK', [])
        return [os.fdopen(r, 'rb').read()]
    start_response('200 OK', [])
    return [b'done']
`})
	body, writer := io.Pipe()
	read := request("POST", "/read", "")
	read.Length, read.Body = -1, body
	slow, done := make(chan string, 1), make(chan string, 1)
	go func() {
		rec, err := r.do(read)
		slow <- fmt.Sprint(rec.body.String(), err)
	}()
	_, _ = writer.Write([]byte("x"))
	go func() {
		rec, err := r.do(request("GET", "/sleep", ""))
		done <- fmt.Sprint(rec.body.String(), err)
	}()
	eventually(t, "both", func() bool { return r.get("/begun") == "2" })
	if got := r.get("/fork"); got != "child" {
		t.Errorf("got %q\n%s", got, r.log())
	}
	writer.Close()
	for _, c := range []chan string{slow, done} {
		if got := <-c; got != "done<nil>" {
			t.Errorf("got %q", got)
		}
	}
	if log := r.log(); log != "" {
		t.Errorf("log:\n%s", log)
	}
}

// TestGeventChildren: children of a worker are waited for, though there were some while
// the application was loaded, and though the first one has ended before it is watched.
func TestGeventChildren(t *testing.T) {
	testenv.Need(t, testenv.Gevent)
	for begin, call := range map[string]string{
		"subprocess.check_output(['true'])":                           "subprocess.check_output(['echo', 'child'])",
		"os.register_at_fork(after_in_parent=lambda: unpatched(0.1))": "b'child' if os.waitpid(os.fork() or os._exit(7), 0)[1] == 7 << 8 else b''",
	} {
		r := startLines(t, "wsgi-file = app.py\ngevent = 5\n", map[string]string{"app.py": fmt.Sprintf(`
from time import sleep as unpatched
from gevent import monkey
monkey.patch_all()
import os, subprocess
%s
def application(e, start_response):
    start_response('200 OK', [])
    return [%s]
`, begin, call)})
		if got := strings.TrimSpace(r.get("/")); got != "child" {
			t.Errorf("%s: got %q", begin, got)
		}
	}
}
