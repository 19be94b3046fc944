package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// rival is a server beside ours: its name, command and address.
type rival struct {
	name string
	addr string
	cmd  *exec.Cmd
}

// flask: hello world in Flask, two workers without an access log, beside
// uWSGI's http router and gunicorn; and the memory that each then has.
func (b *bench) flask(ctx context.Context) error {
	app := "from flask import Flask\napp = application = Flask(__name__)\n\n@app.route('/')\ndef hello():\n    return 'Hello World'\n"
	return b.pythons(ctx, "Flask hello, 2 workers, 32 connections", "flaskapp", app, "wsgi-file = flaskapp.py", true, func(dir string, addrs []string) []rival {
		return []rival{
			uwsgiRouter(addrs[0], dir, "flaskapp.py"),
			{"gunicorn", addrs[1], exec.Command("/usr/bin/gunicorn", "-w", "2", "-b", addrs[1], "--chdir", dir, "-u", "nobody", "-g", "nogroup", "flaskapp:app")},
		}
	})
}

// router: hello world in plain WSGI beside uWSGI's own http router.
func (b *bench) router(ctx context.Context) error {
	app := "def application(environ, start_response):\n    start_response('200 OK', [('Content-Type', 'text/plain')])\n    return [b'Hello World']\n"
	return b.pythons(ctx, "WSGI hello, 2 workers, 32 connections, no access log", "wsgiapp", app, "wsgi-file = wsgiapp.py", false, func(dir string, addrs []string) []rival {
		return []rival{uwsgiRouter(addrs[0], dir, "wsgiapp.py")}
	})
}

func uwsgiRouter(addr, dir, file string) rival {
	return rival{"uWSGI (http)", addr, exec.Command("/usr/bin/uwsgi", "--plugins", "http,python3", "--master", "--processes", "2", "--http", addr, "--http-keepalive",
		"--chdir", dir, "--wsgi-file", filepath.Join(dir, file), "--disable-logging", "--uid", "nobody", "--gid", "nogroup")}
}

// asgi: hello world in plain ASGI beside uvicorn.
func (b *bench) asgi(ctx context.Context) error {
	app := "async def app(scope, receive, send):\n    assert scope['type'] == 'http'\n    await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'content-type', b'text/plain')]})\n" +
		"    await send({'type': 'http.response.body', 'body': b'Hello World'})\n"
	return b.pythons(ctx, "ASGI hello, 2 workers, 32 connections", "asgiapp", app, "asgi = asgiapp:app", false, func(dir string, addrs []string) []rival {
		host, port, _ := net.SplitHostPort(addrs[0]) // freePort made it
		return []rival{{"uvicorn", addrs[0], exec.Command("/usr/bin/uvicorn", "--workers", "2", "--host", host, "--port", port, "--no-access-log", "--log-level", "warning", "--app-dir", dir, "asgiapp:app")}}
	})
}

// pythons measures an app under liege serve and under its rivals.
func (b *bench) pythons(ctx context.Context, title, name, text, line string, memory bool, rivals func(dir string, addrs []string) []rival) error {
	dir := filepath.Join(b.dir, "app")
	ini := filepath.Join(b.dir, name+".ini")
	var addrs []string
	for range 3 {
		addr, err := freePort()
		if err != nil {
			return err
		}
		addrs = append(addrs, addr)
	}
	lines := fmt.Sprintf("[vassal]\nuid = nobody\ngid = nogroup\nprocesses = 2\nchdir = %s\n%s\ndisable-logging = true\nhttp-socket = %s\n", dir, line, addrs[2])
	if err := errors.Join(os.WriteFile(filepath.Join(dir, name+".py"), []byte(text), 0o644), os.WriteFile(ini, []byte(lines), 0o644)); err != nil {
		return err
	}
	s := &servers{}
	defer s.close()
	all := append([]rival{{"liege", addrs[2], exec.Command(filepath.Join(b.bin, "liege"), "serve", ini)}}, rivals(dir, addrs)...)
	for _, r := range all {
		r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := r.cmd.Start(); err != nil {
			return err
		}
		s.end = append(s.end, func() { (&contender{cmd: r.cmd}).end() })
	}
	got, sizes := make([]series, len(all)), make([]series, len(all))
	for _, r := range all {
		if err := waitFor(ctx, "http://"+r.addr+"/"); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	for range b.rounds {
		for i, r := range all {
			n, err := b.wrk(ctx, "http://"+r.addr+"/")
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			size, err := pss(r.cmd.Process.Pid, i > 0) // uWSGI's master is the app's, liege serve stands for the Emperor
			if err != nil {
				return err
			}
			got[i], sizes[i] = append(got[i], n), append(sizes[i], float64(size)/1024)
		}
	}
	for i := range all[1:] {
		compare(title, "requests/s", got[0], got[i+1], all[i+1].name, false)
		if memory {
			compare(title+": memory of the app's processes (PSS)", "MB", sizes[0], sizes[i+1], all[i+1].name, true)
		}
	}
	urls, names := make([]string, len(all)), make([]string, len(all))
	for i, r := range all {
		urls[i], names[i] = "http://"+r.addr+"/", r.name
	}
	return b.latencies(ctx, title, urls, names, got)
}
