package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// language is a program that Liege and its rivals load, with two workers each
// and without an access log.
type language struct {
	name   string // of its directory
	title  string
	file   string // of the program
	text   string
	line   string // by which a file names it
	plugin string // of uWSGI; empty: it has none
	others func(dir, addr string) []rival
}

// uwsgiWays are how a request reaches uWSGI: through its own router, at its
// processes themselves, and through nginx.
const uwsgiWays = 3

const rawWSGI = "def application(environ, start_response):\n    start_response('200 OK', [('Content-Type', 'text/plain')])\n    return [b'Hello World']\n"

const flaskApp = "from flask import Flask\napp = application = Flask(__name__)\n\n@app.route('/')\ndef hello():\n    return 'Hello World'\n"

// router: hello world in plain WSGI.
func (b *bench) router(ctx context.Context) error {
	return b.language(ctx, language{name: "wsgi", title: "WSGI hello, no access log", file: "wsgiapp.py", text: rawWSGI,
		line: "wsgi-file = wsgiapp.py", plugin: "python3"})
}

// flask: hello world in Flask.
func (b *bench) flask(ctx context.Context) error {
	return b.language(ctx, language{name: "flask", title: "Flask hello", file: "flaskapp.py", text: flaskApp,
		line: "wsgi-file = flaskapp.py", plugin: "python3", others: func(dir, addr string) []rival {
			return []rival{{"gunicorn", addr, []*exec.Cmd{exec.Command("/usr/bin/gunicorn", "-w", "2", "-b", addr, "--chdir", dir, "-u", "nobody", "-g", "nogroup", "flaskapp:app")}}}
		}})
}

// asgi: hello world in plain ASGI.
func (b *bench) asgi(ctx context.Context) error {
	text := "async def app(scope, receive, send):\n    assert scope['type'] == 'http'\n    await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'content-type', b'text/plain')]})\n" +
		"    await send({'type': 'http.response.body', 'body': b'Hello World'})\n"
	return b.language(ctx, language{name: "asgi", title: "ASGI hello", file: "asgiapp.py", text: text,
		line: "asgi = asgiapp:app", others: func(dir, addr string) []rival {
			host, port, _ := net.SplitHostPort(addr) // freePorts made it
			return []rival{{"uvicorn", addr, []*exec.Cmd{exec.Command("/usr/bin/uvicorn", "--workers", "2", "--host", host, "--port", port,
				"--no-access-log", "--log-level", "warning", "--app-dir", dir, "asgiapp:app")}}}
		}})
}

// rack: a Rack hello.
func (b *bench) rack(ctx context.Context) error {
	return b.language(ctx, language{name: "rack", title: "Rack hello", file: "config.ru", text: "run lambda { |env| [200, {'Content-Type' => 'text/plain'}, ['Hello World']] }\n",
		line: "rack = config.ru", plugin: "rack", others: func(dir, addr string) []rival {
			return []rival{{"Puma", addr, []*exec.Cmd{exec.Command("/usr/bin/puma", "-q", "-e", "production", "-w", "2", "-t", "1:1", "--preload", "-b", "tcp://"+addr, dir+"/config.ru")}}}
		}})
}

// psgi: a PSGI hello.
func (b *bench) psgi(ctx context.Context) error {
	return b.language(ctx, language{name: "psgi", title: "PSGI hello", file: "app.psgi", text: "sub { [200, ['Content-Type', 'text/plain'], ['Hello World']] }\n",
		line: "psgi = app.psgi", plugin: "psgi"})
}

// language has a contest of l.
func (b *bench) language(ctx context.Context, l language) error {
	dir, err := b.program(l)
	if err != nil {
		return err
	}
	addrs, err := freePorts(uwsgiWays + 2)
	if err != nil {
		return err
	}
	ours, err := b.serve(l.name, addrs[0], 2, l.lines(dir)+"disable-logging = true\n")
	if err != nil {
		return err
	}
	all := []rival{ours}
	if l.plugin != "" {
		peers, err := b.uwsgis(l, dir, addrs[1:])
		if err != nil {
			return err
		}
		all = append(all, peers...)
	}
	if l.others != nil {
		all = append(all, l.others(dir, addrs[uwsgiWays+1])...)
	}
	return b.contest(ctx, l.title+", 2 workers, 32 connections", "/", all...)
}

// program writes l's files.
func (b *bench) program(l language) (dir string, err error) {
	dir = filepath.Join(b.dir, l.name)
	return dir, errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, l.file), []byte(l.text), 0o644),
		os.Chmod(dir, 0o777)) // uWSGI makes its socket as nobody
}

func (l *language) lines(dir string) string { return fmt.Sprintf("chdir = %s\n%s\n", dir, l.line) }

// uwsgiOf is one uWSGI with two processes, of which further lines say where it
// listens.
func (b *bench) uwsgiOf(l language, dir, name, further string) (*exec.Cmd, error) {
	ini := filepath.Join(dir, name+".ini")
	// Ruby's garbage is not collected after each request, as its plugin would.
	text := "[uwsgi]\nmaster = true\nprocesses = 2\nuid = nobody\ngid = nogroup\nlisten = 100\ndisable-logging = true\nruby-gc-freq = 100000\nplugins = " + l.plugin + "\n" + l.lines(dir) + further
	return exec.Command("/usr/bin/uwsgi", "--ini", ini), os.WriteFile(ini, []byte(text), 0o644)
}

// uwsgis is uWSGI in each way.
func (b *bench) uwsgis(l language, dir string, addrs []string) ([]rival, error) {
	sock := filepath.Join(dir, "uwsgi.sock")
	front, err := b.nginx(l.name+"-nginx", strings.NewReplacer("ADDR", addrs[2], "SOCK", sock).Replace(
		"server { listen ADDR; location / { include /etc/nginx/uwsgi_params; uwsgi_pass unix:SOCK; } }"))
	if err != nil {
		return nil, err
	}
	all := []rival{{name: "uWSGI (http)"}, {name: "uWSGI (http-socket)"}, {name: "nginx+uWSGI"}}
	for i, further := range [uwsgiWays]string{
		"plugins = http\nhttp-keepalive = true\nhttp = " + addrs[0] + "\n",
		"http-socket = " + addrs[1] + "\n",
		"chmod-socket = 666\nsocket = " + sock + "\n",
	} {
		c, err := b.uwsgiOf(l, dir, fmt.Sprintf("uwsgi%d", i), further)
		if err != nil {
			return nil, err
		}
		all[i].addr, all[i].cmds = addrs[i], []*exec.Cmd{c}
	}
	all[2].cmds = append(all[2].cmds, front)
	return all, nil
}
