package worker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/vassal"
	"liege/vassal/inifile"
)

// decoded is the App of lines of an ini file.
func decoded(t *testing.T, lines string) vassal.App {
	t.Helper()
	src := inifile.Source{Path: "/etc/vassals/shop.ini", Text: []byte("[uwsgi]\nhttp-socket = :80\n" + lines), Trust: vassal.Trust{Operator: true}}
	f, ps := inifile.Read(src, nil, inifile.ReadOptions{Known: inifile.Known})
	cfg, more := inifile.Decode(f, inifile.Policy{})
	if ps.Failed() || more.Failed() {
		t.Fatal(ps, more)
	}
	return cfg.App
}

// startLines runs the application that lines and files describe.
func startLines(t *testing.T, lines string, files map[string]string) *running {
	t.Helper()
	app := decoded(t, lines)
	return start(t, "", func(a *vassal.App) {
		for name, text := range files {
			path := filepath.Join(a.Dir, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		a.Workers, a.Mounting = app.Workers, app.Mounting
		a.Workers.LoadTimeout = 20 * time.Second
	})
}

// show is an application that answers with the value of its query.
const show = `
import os, sys
def application(e, start_response):
    q = e['QUERY_STRING'].replace('+', ' ')
    if q.startswith('raise '):
        exec(q)
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [str(eval(q)).encode()]
`

// TestOptions goes from the lines of a file to what the application sees.
func TestOptions(t *testing.T) {
	const app = "wsgi-file = app.py\n"
	files := map[string]string{
		"app.py": show, "one.py": "loaded = 'one'\n", "two.py": "import sys\nassert 'uwsgi_file_app' in sys.modules, 'not after the app'\nword = 'two'\n",
		"shared.py": "import uwsgi\nwhere = uwsgi.worker_id()\n", "own.py": "import uwsgi\nwhere = uwsgi.worker_id()\n",
		"paste.ini":       "[app:main]\npaste.app_factory = factory:make\nword = pasted\n[app:other]\npaste.app_factory = factory:make\nword = other\n[loggers]\nkeys = root\n[handlers]\nkeys = h\n[formatters]\nkeys =\n[logger_root]\nlevel = INFO\nhandlers = h\n[handler_h]\nclass = StreamHandler\nargs = (sys.stderr,)\n",
		"factory.py":      "import logging\ndef make(conf, word):\n    logging.getLogger().info('logged by %s', word)\n    def app(e, s):\n        s('200 OK', [])\n        return [word.encode()]\n    return app\n",
		"pecan/deploy.py": "def deploy(path):\n    def app(e, s):\n        s('200 OK', [])\n        return [('pecan ' + path).encode()]\n    return app\n",
	}
	for _, c := range []struct{ lines, query, want string }{
		{app + "import = one\nimport = one.py\n", "sys.modules['one'].loaded,sys.modules['uwsgi_file_one'].loaded", "('one', 'one')"},
		{app + "lazy-apps = true\nshared-import = shared\nimport = own\n", "sys.modules['shared'].where,sys.modules['own'].where", "(0, 1)"},
		{app + "pymodule-alias = uno=one\npymodule-alias = dos=one.py\n", "__import__('uno').loaded,__import__('dos').loaded", "('one', 'one')"},
		{app + "post-pymodule-alias = due=two.py\n", "__import__('due').word", "two"},
		{app + "optimize = 2\n", "sys.flags.optimize,__debug__", "(2, False)"},
		{app + "no-site = true\n", "'site' in sys.modules", "False"},
		{app, "'site' in sys.modules", "True"},
		{app + "py-executable = /srv/python\n", "sys.executable", "/srv/python"},
		{app + "wsgi-disable-file-wrapper = true\n", "'wsgi.file_wrapper' in e", "False"},
		{app + "pyargv = a b\n", "sys.argv", "['uwsgi', 'a', 'b']"},
		{"eval = def application(e, s): s('200 OK', []); return [b'evaluated']\n", "", "evaluated"},
		{"paste = config:paste.ini\n", "", "pasted"},
		{"paste = config:paste.ini#other\n", "", "other"},
		{"ini-paste = paste.ini\n", "", "pasted"},
		{"pecan = config.py\n", "", "pecan config.py"},
		{"asgi = a.py:app\nasync = 7\n", "", "7 lanes"},
	} {
		t.Run(c.lines, func(t *testing.T) {
			if strings.Contains(c.lines, "paste") {
				testenv.Need(t, testenv.Paste)
			}
			more := files
			if strings.Contains(c.lines, "asgi") {
				more = map[string]string{"a.py": "async def app(scope, receive, send):\n    if scope['type'] != 'http': raise ValueError\n    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n    await send({'type': 'http.response.body', 'body': b'7 lanes'})\n"}
			}
			r := startLines(t, c.lines, more)
			if got := r.get("/?" + c.query); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if strings.Contains(c.lines, "async") && r.lanesEach() != 7 {
				t.Errorf("%d lanes", r.lanesEach())
			}
		})
	}
	t.Run("paste-logger", func(t *testing.T) {
		testenv.Need(t, testenv.Paste)
		r := startLines(t, "paste = config:paste.ini\npaste-logger = true\n", files)
		if !strings.Contains(r.log(), "logged by pasted") {
			t.Errorf("log: %s", r.log())
		}
	})
}

// TestExceptions: what becomes of the client and of the worker.
func TestExceptions(t *testing.T) {
	files := map[string]string{"app.py": show}
	raise := func(r *running, text string) (*recorder, error) {
		return r.do(request("GET", "/?raise+"+text, ""))
	}
	r := startLines(t, "wsgi-file = app.py\ncatch-exceptions = true\n", files)
	rec, err := raise(r, "ValueError('boom')")
	if err != nil || rec.status != 500 || !strings.HasPrefix(rec.body.String(), "Traceback") || !strings.Contains(rec.body.String(), "ValueError: boom") {
		t.Errorf("catch-exceptions: %d %q, %v", rec.status, rec.body.String(), err)
	}
	if r.get("/?1") != "1" {
		t.Error("the worker does not go on")
	}
	for _, c := range []struct {
		line, raise string
		again       bool
	}{
		{"reload-on-exception = true", "KeyError('x')", true},
		{"reload-on-exception-type = KeyError", "KeyError('x')", true},
		{"reload-on-exception-type = builtins.KeyError", "KeyError('x')", true},
		{"reload-on-exception-type = KeyError", "ValueError('x')", false},
		{"reload-on-exception-value = it is over", "ValueError('it is over')", true},
		{"reload-on-exception-value = it is over", "ValueError('it is not')", false},
		{"reload-on-exception-repr = ValueError: it is over", "ValueError('it is over')", true},
	} {
		for _, threads := range []int{1, 2} {
			r := startLines(t, fmt.Sprintf("wsgi-file = app.py\nthreads = %d\n%s\n", threads, c.line), files)
			before := r.get("/?os.getpid()")
			if _, err := raise(r, strings.ReplaceAll(c.raise, " ", "+")); exchange.StatusOf(err) != 500 {
				t.Errorf("%s: %v", c.line, err)
			}
			if c.again {
				eventually(t, "another worker", func() bool { return r.get("/?os.getpid()") != before })
			} else if after := r.get("/?os.getpid()"); after != before {
				t.Errorf("%s: the worker was replaced", c.line)
			}
			if strings.Contains(r.log(), "a worker died") {
				t.Errorf("%s: %s", c.line, r.log())
			}
		}
	}
}

// TestNoDelay: the head is there before the application goes on.
func TestNoDelay(t *testing.T) {
	text := "import os\ndef application(e, s):\n    s('200 OK', [('X-Early', '1')])\n    os.mkfifo('fifo')\n    open('fifo').read()\n    return [b'late']\n"
	for _, early := range []bool{true, false} {
		r := startLines(t, fmt.Sprintf("wsgi-file = app.py\nstart_response-nodelay = %t\n", early), map[string]string{"app.py": text})
		w := &headed{head: make(chan struct{})}
		done := make(chan error, 1)
		go func() { done <- r.Serve(t.Context(), request("GET", "/", ""), w) }()
		if early {
			<-w.head
		}
		fifo := filepath.Join(r.app.Dir, "fifo")
		eventually(t, "the application waits", func() bool { _, err := os.Stat(fifo); return err == nil })
		select {
		case <-w.head:
			if !early {
				t.Error("the head came early")
			}
		default:
		}
		if f, err := os.OpenFile(fifo, os.O_WRONLY, 0); err != nil {
			t.Error(err)
		} else {
			f.Close()
		}
		if err := <-done; err != nil || w.body.String() != "late" {
			t.Errorf("%q, %v", w.body.String(), err)
		}
	}
}

type headed struct {
	recorder
	head chan struct{}
}

func (w *headed) Head(status int, reason string, fields []exchange.Field) error {
	close(w.head)
	w.keep = true
	return w.recorder.Head(status, reason, fields)
}
