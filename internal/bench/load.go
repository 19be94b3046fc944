package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// wrk's line "Requests/sec: 12345.67".
var perSecond = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)

// wrk loads a URL on loopback with 32 connections for b.load, in whole seconds.
func (b *bench) wrk(ctx context.Context, url string) (float64, error) {
	out, err := exec.CommandContext(ctx, "wrk", "-t1", "-c32", fmt.Sprintf("-d%.0fs", max(1, b.load.Seconds())), url).CombinedOutput()
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

// wsgi: hello world through the whole core, with an access log on both sides,
// and without one beside uWSGI in each way.
func (b *bench) wsgi(ctx context.Context) error {
	l := language{name: "logged", file: "wsgiapp.py", text: rawWSGI, line: "wsgi-file = wsgiapp.py", plugin: "python3"}
	dir, err := b.program(l)
	if err != nil {
		return err
	}
	addrs, err := freePorts(2)
	if err != nil {
		return err
	}
	ours, err := b.serve(l.name, addrs[0], 2, l.lines(dir))
	if err != nil {
		return err
	}
	sock := filepath.Join(dir, "uwsgi.sock")
	app, err := b.uwsgiOf(l, dir, "uwsgi", "chmod-socket = 666\nsocket = "+sock+"\n")
	if err != nil {
		return err
	}
	front, err := b.nginx("logged-nginx", strings.NewReplacer("ADDR", addrs[1], "SOCK", sock, "LOG", filepath.Join(b.dir, "nginx-access.log")).Replace(
		"server { listen ADDR; access_log LOG; location / { include /etc/nginx/uwsgi_params; uwsgi_pass unix:SOCK; } }"))
	if err != nil {
		return err
	}
	err = b.contest(ctx, "WSGI hello, 2 workers, 32 connections, access log on", "/", ours, rival{"nginx+uWSGI", addrs[1], []*exec.Cmd{app, front}})
	if err != nil {
		return err
	}
	return b.router(ctx)
}

// static: files without any cache, and without an access log on either side.
func (b *bench) static(ctx context.Context) error {
	addrs, err := freePorts(2)
	if err != nil {
		return err
	}
	files := filepath.Join(b.dir, "app")
	ours, err := b.serve("static", addrs[0], 2, "disable-logging = true\nstatic-map = /static="+files+"\n")
	if err != nil {
		return err
	}
	front, err := b.nginx("static-nginx", strings.NewReplacer("ADDR", addrs[1], "FILES", files).Replace("server { listen ADDR; location /static/ { alias FILES/; } }"))
	if err != nil {
		return err
	}
	all := []rival{ours, {"nginx", addrs[1], []*exec.Cmd{front}}}
	end, err := b.up(ctx, "/static/4k.bin", all)
	defer end()
	if err != nil {
		return err
	}
	all[0].cmds, all[1].cmds = nil, nil // they run
	if err := b.contest(ctx, "A static file of 4 KB", "/static/4k.bin", all...); err != nil {
		return err
	}
	return b.contest(ctx, "A static file of 1 MB", "/static/1m.bin", all...)
}
