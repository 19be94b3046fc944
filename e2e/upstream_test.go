package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"liege/internal/testenv"
)

const upstreamApp = `
import time

def application(environ, start_response):
    if environ['PATH_INFO'].endswith('/slow'):
        time.sleep(5)
    n = int(environ.get('CONTENT_LENGTH') or 0)
    body = environ['wsgi.input'].read(n) if n else b''
    start_response('202 Taken', [('Content-Type', 'text/x'), ('X-Who', environ.get('HTTP_X_WHO', '-'))])
    yield ('%s %s?%s %d ' % (environ['REQUEST_METHOD'], environ['PATH_INFO'], environ['QUERY_STRING'], len(body))).encode()
    yield bytes(reversed(body[:5]))
`

// TestUpstreams: every protocol, with a real uWSGI at the other end; one that
// is down and one that is slow.
func TestUpstreams(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Python3, testenv.Uwsgi)
	dir := kitchen(t)
	if err := os.WriteFile(dir+"/upstream.py", []byte(upstreamApp), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	log, err := os.Create(dir + "/uwsgi.log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("uwsgi", "--plugin", "python3", "--master", "--processes", "4", "--die-on-term", "--wsgi-file", dir+"/upstream.py", "--chmod-socket=666", "--buffer-size", "16384",
		"--uwsgi-socket", dir+"/uwsgi.sock", "--fastcgi-socket", dir+"/fcgi.sock", "--scgi-socket", dir+"/scgi.sock", "--http-socket", addr)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() }()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("uWSGI does not start")
		}
	}
	ini := strings.NewReplacer("DIR", dir, "ADDR", addr).Replace(`[uwsgi]
uid = nobody
http = 127.0.0.1:0
chdir = DIR
http-timeout = 2
route = ^/uwsgi uwsgi:DIR/uwsgi.sock,0,0
route = ^/fcgi fcgi:DIR/fcgi.sock
route = ^/scgi scgi:DIR/scgi.sock
route = ^/http http:ADDR
route = ^/dumb httpdumb:ADDR
route = ^/proxy proxyhttp:ADDR,inner
route = ^/down httpdumb:DIR/nobody.sock
route-run = return:404
`)
	if err := os.WriteFile(dir+"/proxy.ini", []byte(ini), 0o644); err != nil {
		t.Fatal(err)
	}
	s := serve(t, dir, 0, dir+"/proxy.ini")
	defer func() { s.cmd.Process.Signal(syscall.SIGTERM); s.exit() }()
	base := strings.TrimSuffix(s.await(loopURL, 1), "/")
	ask := func(method, path string, body []byte) (int, string, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, base+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Who", "me")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		return res.StatusCode, res.Header.Get("X-Who"), string(b)
	}
	large := append(bytes.Repeat([]byte("x"), 3<<20), "edcba"...)
	copy(large, "12345")
	for _, name := range []string{"uwsgi", "fcgi", "scgi", "http", "dumb", "proxy"} {
		for range 2 {
			if code, who, got := ask("GET", "/"+name+"/a%20b?c=d", nil); code != 202 || who != "me" || got != fmt.Sprintf("GET /%s/a b?c=d 0 ", name) {
				t.Errorf("%s: %d %q %q", name, code, who, got)
			}
		}
		if code, _, got := ask("POST", "/"+name+"/", large); code != 202 || got != fmt.Sprintf("POST /%s/? %d 54321", name, len(large)) {
			t.Errorf("%s: %d %q", name, code, got)
		}
		if code, _, _ := ask("GET", "/"+name+"/slow", nil); code != 504 {
			t.Errorf("%s: a slow one: %d", name, code)
		}
	}
	if code, _, _ := ask("GET", "/down", nil); code != 502 {
		t.Errorf("one that is down: %d", code)
	}
	if code, _, _ := ask("GET", "/none", nil); code != 404 {
		t.Errorf("no rule: %d", code)
	}
}
