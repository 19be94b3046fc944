package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// wrk's line "Requests/sec: 12345.67".
var perSecond = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)

// wrk loads a URL on loopback with 32 connections for b.load.
func (b *bench) wrk(ctx context.Context, url string) (float64, error) {
	out, err := exec.CommandContext(ctx, "wrk", "-t1", "-c32", "-d"+b.load.String(), url).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("wrk: %w: %s", err, out)
	}
	if bytes.Contains(out, []byte("Non-2xx")) {
		return 0, fmt.Errorf("wrk %s: not all answers were 200: %s", url, out)
	}
	m := perSecond.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("wrk: %s", out)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

// servers are the contenders under load.
type servers struct {
	liege, peer string // host:port
	end         []func()
}

func (s *servers) close() {
	for _, f := range s.end {
		f()
	}
}

func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// serve starts liege serve and nginx before uWSGI, both with two workers, and
// both with an access log or both without.
func (b *bench) serve(ctx context.Context, logged bool) (_ *servers, err error) {
	s := &servers{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.liege, err = freePort(); err != nil {
		return nil, err
	}
	if s.peer, err = freePort(); err != nil {
		return nil, err
	}
	start := func(c *exec.Cmd) error {
		log, err := os.Create(filepath.Join(b.dir, filepath.Base(c.Path)+".log"))
		if err != nil {
			return err
		}
		defer log.Close()
		c.Stdout, c.Stderr = log, log
		if err := c.Start(); err != nil {
			return err
		}
		s.end = append(s.end, func() { (&contender{cmd: c}).end() })
		return nil
	}
	ini := filepath.Join(b.dir, "load.ini")
	text := fmt.Sprintf("[uwsgi]\nuid = nobody\ngid = nogroup\nprocesses = 2\nchdir = %[1]s/app\nwsgi-file = %[1]s/app/app.py\nhttp-socket = %[2]s\nstatic-map = /static=%[1]s/app\n", b.dir, s.liege)
	access := "off"
	if logged {
		access = filepath.Join(b.dir, "nginx-access.log")
	} else {
		text += "disable-logging = true\n"
	}
	if err := os.WriteFile(ini, []byte(text), 0o644); err != nil {
		return nil, err
	}
	if err := start(exec.Command(filepath.Join(b.bin, "liege"), "serve", ini)); err != nil {
		return nil, err
	}
	usock := filepath.Join(b.dir, "uwsgi.sock")
	if err := start(exec.Command("/usr/bin/uwsgi", "--plugin", "python3", "--master", "--processes", "2", "--wsgi-file", filepath.Join(b.dir, "app/app.py"),
		"--socket", usock, "--chmod-socket=666", "--disable-logging", "--listen", "100")); err != nil {
		return nil, err
	}
	conf := filepath.Join(b.dir, "nginx.conf")
	text = strings.NewReplacer("ACCESS", access, "DIR", b.dir, "ADDR", s.peer, "USOCK", usock).Replace(`
daemon off; worker_processes 2; pid DIR/nginx.pid; error_log DIR/nginx-error.log;
events { worker_connections 512; }
http { access_log ACCESS; sendfile on; tcp_nopush on; keepalive_requests 1000000;
client_body_temp_path DIR/t1; proxy_temp_path DIR/t2; fastcgi_temp_path DIR/t3; uwsgi_temp_path DIR/t4; scgi_temp_path DIR/t5;
server { listen ADDR; location / { include /etc/nginx/uwsgi_params; uwsgi_pass unix:USOCK; } location /static/ { alias DIR/app/; } } }
`)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return nil, err
	}
	if err := start(exec.Command("/usr/sbin/nginx", "-c", conf, "-e", filepath.Join(b.dir, "nginx-error.log"))); err != nil {
		return nil, err
	}
	for _, addr := range []string{s.liege, s.peer} {
		if err := waitFor(ctx, "http://"+addr+"/"); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func waitFor(ctx context.Context, url string) error {
	var last error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("%s", resp.Status)
		}
		last = err
	}
	return fmt.Errorf("%s: %w", url, last)
}

// wsgi: hello world through the whole core, access log on for both.
func (b *bench) wsgi(ctx context.Context) error {
	if err := b.loads(ctx, map[string]string{"/": "WSGI hello, 2 workers, 32 keep-alive connections, access log on"}, "nginx+uWSGI", true); err != nil {
		return err
	}
	return b.router(ctx)
}

// static: files without any cache, and without an access log on either side.
func (b *bench) static(ctx context.Context) error {
	return b.loads(ctx, map[string]string{"/static/4k.bin": "A static file of 4 KB", "/static/1m.bin": "A static file of 1 MB"}, "nginx", false)
}

func (b *bench) loads(ctx context.Context, paths map[string]string, peer string, logged bool) error {
	s, err := b.serve(ctx, logged)
	if err != nil {
		return err
	}
	defer s.close()
	for path, title := range paths {
		var ours, peers series
		for range b.rounds {
			for _, c := range []struct {
				addr string
				to   *series
			}{{s.liege, &ours}, {s.peer, &peers}} {
				n, err := b.wrk(ctx, "http://"+c.addr+path)
				if err != nil {
					return err
				}
				*c.to = append(*c.to, n)
			}
		}
		compare(title, "requests/s", ours, peers, peer, false)
		if err := b.latencies(ctx, title, []string{"http://" + s.liege + path, "http://" + s.peer + path}, []string{"liege", peer}, []series{ours, peers}); err != nil {
			return err
		}
	}
	return nil
}
