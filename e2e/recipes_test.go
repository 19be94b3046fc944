package e2e

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"liege/internal/testenv"
)

// recipe is a file of testdata/recipes that is being served.
type recipe struct {
	t    *testing.T
	dir  string // DIR of its files
	addr string // of http-socket
}

// cook serves the ini file of a recipe in two ways, as liege serve and as a
// vassal, and calls test for each. Words in its files are replaced: DIR is a
// directory that everybody can enter. further are lines of a section [vassal].
func cook(t *testing.T, name, ini string, words map[string]string, further string, test func(r *recipe)) {
	lay := func(t *testing.T, dir string) string {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, "private"), 0o755); err != nil {
			t.Fatal(err)
		}
		pairs := []string{"DIR", dir}
		for k, v := range words {
			pairs = append(pairs, k, v)
		}
		replace := strings.NewReplacer(pairs...)
		source := filepath.Join("testdata/recipes", name)
		files, err := os.ReadDir(source)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(dir, "site"), 0o777); err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(filepath.Join(source, f.Name()))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, "site", f.Name()), []byte(replace.Replace(string(b))), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(filepath.Join(dir, "site"), 0o777); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, "site", ini))
		if err != nil {
			t.Fatal(err)
		}
		return string(text) + "\n[vassal]\nuid = nobody\n" + strings.NewReplacer(pairs...).Replace(further)
	}
	t.Run("serve", func(t *testing.T) {
		dir := kitchen(t)
		text := lay(t, dir)
		file := filepath.Join(dir, "site", "served.ini")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		s := serve(t, filepath.Join(dir, "site"), 0, file)
		url := s.await(loopURL, 1)
		defer func() {
			if s.cmd.Process.Signal(syscall.SIGTERM); s.exit() != 0 || t.Failed() {
				t.Error(s.text())
			}
		}()
		test(&recipe{t, dir, strings.Trim(strings.TrimPrefix(url, "http://"), "/")})
	})
	t.Run("vassal", func(t *testing.T) {
		r := layRealm(t)
		text := lay(t, r.dir)
		r.begin()
		r.write("vassals/recipe.ini", text+"chdir = "+r.dir+"/site\n")
		v := r.up("recipe")
		for _, l := range v.Listen {
			if strings.HasPrefix(l, "127.") {
				test(&recipe{t, r.dir, l})
				return
			}
		}
		t.Errorf("no TCP listener in %v", v.Listen)
	})
}

// ask asks once, with the header fields of pairs.
func (r *recipe) ask(method, path string, pairs ...string) (*http.Response, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, "http://"+r.addr+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(pairs); i += 2 {
		req.Header.Set(pairs[i], pairs[i+1])
	}
	resp, err := (&http.Transport{DisableKeepAlives: true, DisableCompression: true}).RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp, string(b)
}

// TestRecipeSendfile: the application names a file in X-Sendfile and the
// client gets it as static files are sent; the application's own body and head
// never.
func TestRecipeSendfile(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Python3)
	cook(t, "sendfile", "site.ini", nil, "", func(r *recipe) {
		large := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // 16 MiB
		if err := errors.Join(os.WriteFile(r.dir+"/private/report.pdf", []byte("%PDF the report"), 0o644),
			os.WriteFile(r.dir+"/private/large.bin", large, 0o644), os.Symlink("/etc/passwd", r.dir+"/private/out.txt")); err != nil {
			r.t.Fatal(err)
		}
		const body = "%PDF the report"
		res, got := r.ask("GET", "/get/report.pdf")
		modified := res.Header.Get("Last-Modified")
		if res.StatusCode != 200 || got != body || res.Header.Get("Content-Type") != "application/pdf" || res.ContentLength != int64(len(body)) || modified == "" ||
			res.Header.Get("Set-Cookie")+res.Header.Get("X-Sendfile") != "" {
			r.t.Errorf("GET: %d %q %v", res.StatusCode, got, res.Header)
		}
		if res, got = r.ask("HEAD", "/get/report.pdf"); res.StatusCode != 200 || got != "" || res.ContentLength != int64(len(body)) {
			r.t.Errorf("HEAD: %d %q %d", res.StatusCode, got, res.ContentLength)
		}
		if res, got = r.ask("GET", "/get/report.pdf", "If-Modified-Since", modified); res.StatusCode != 304 || got != "" {
			r.t.Errorf("304: %d %q", res.StatusCode, got)
		}
		if res, got = r.ask("GET", "/get/report.pdf", "Range", "bytes=1-3"); res.StatusCode != 206 || got != "PDF" || res.Header.Get("Content-Range") != fmt.Sprintf("bytes 1-3/%d", len(body)) {
			r.t.Errorf("range: %d %q %v", res.StatusCode, got, res.Header)
		}
		if res, got = r.ask("POST", "/get/report.pdf"); res.StatusCode != 200 || got != body {
			r.t.Errorf("POST: %d %q", res.StatusCode, got)
		}
		for _, path := range []string{"/get/none", "/away", "/up", "/get/out.txt"} {
			if res, got = r.ask("GET", path); res.StatusCode != 404 || strings.Contains(got, "app") || strings.Contains(got, "root:") || res.Header.Get("X-Sendfile") != "" {
				r.t.Errorf("%s: %d %q %v", path, res.StatusCode, got, res.Header)
			}
		}
		if _, got = r.ask("GET", "/pid"); !strings.HasPrefix(got, "the app") {
			r.t.Errorf("without the field: %q", got)
		}
		r.freeWorker(large)
	})
}

// freeWorker: while a client takes its time over a file, the one worker
// answers others.
func (r *recipe) freeWorker(large []byte) {
	r.t.Helper()
	slow, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	defer slow.Close()
	slow.SetDeadline(time.Now().Add(60 * time.Second))
	io.WriteString(slow, "GET /get/large.bin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	br := bufio.NewReader(slow)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.ContentLength != int64(len(large)) {
		r.t.Fatalf("%v %+v", err, res)
	}
	for range 5 {
		if res, got := r.ask("GET", "/pid"); res.StatusCode != 200 || !strings.HasPrefix(got, "the app") {
			r.t.Errorf("beside a slow client: %d %q", res.StatusCode, got)
		}
	}
	got, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || !bytes.Equal(got, large) {
		r.t.Errorf("the large file: %d bytes, %v", len(got), err)
	}
}

// uwsgi asks over the uwsgi protocol, as a web server in front would that
// speaks TLS itself.
func (r *recipe) uwsgi(vars ...string) string {
	r.t.Helper()
	c, err := net.Dial("unix", r.dir+"/site/app.sock")
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	var b []byte
	for _, v := range vars {
		b = append(binary.LittleEndian.AppendUint16(b, uint16(len(v))), v...)
	}
	c.Write(append([]byte{0, byte(len(b)), byte(len(b) >> 8), 0}, b...))
	got, err := io.ReadAll(c)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(got)
}

// TestRecipeHTTPS: a site, or a part of it, is sent to HTTPS, and no client
// can say that it is there already.
func TestRecipeHTTPS(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Python3)
	fakes := []string{"HTTPS", "on", "X-Forwarded-Proto", "https", "X-Forwarded-Ssl", "on", "Https", "on"}
	cook(t, "https", "site.ini", nil, "", func(r *recipe) {
		res, _ := r.ask("GET", "/a/b?c=d", fakes...)
		if res.StatusCode != 301 || res.Header.Get("Location") != "https://"+r.addr+"/a/b?c=d" || res.Header.Get("Strict-Transport-Security") != "" {
			r.t.Errorf("%d %v", res.StatusCode, res.Header)
		}
		got := r.uwsgi("REQUEST_METHOD", "GET", "PATH_INFO", "/a", "REQUEST_URI", "/a", "HTTP_HOST", "example.org", "HTTPS", "on", "SERVER_PROTOCOL", "HTTP/1.1", "SERVER_NAME", "a", "SERVER_PORT", "443")
		if !strings.Contains(got, "\r\nStrict-Transport-Security: max-age=31536000\r\n") || !strings.HasSuffix(got, "app /a on") {
			r.t.Error(got)
		}
	})
	cook(t, "https", "admin.ini", nil, "", func(r *recipe) {
		if res, _ := r.ask("GET", "/admin/x", fakes...); res.StatusCode != 301 || res.Header.Get("Location") != "https://"+r.addr+"/admin/x" {
			r.t.Errorf("%d %v", res.StatusCode, res.Header)
		}
		if res, got := r.ask("GET", "/other", fakes...); res.StatusCode != 200 || got != "app /other -" {
			r.t.Errorf("%d %q", res.StatusCode, got)
		}
		got := r.uwsgi("REQUEST_METHOD", "GET", "PATH_INFO", "/admin", "REQUEST_URI", "/admin", "HTTP_HOST", "example.org", "HTTPS", "on", "SERVER_PROTOCOL", "HTTP/1.1", "SERVER_NAME", "a", "SERVER_PORT", "443")
		if !strings.HasSuffix(got, "app /admin on") {
			r.t.Error(got)
		}
	})
}

// kafka is a server that upgrades every connection, tells what it was asked,
// and echoes.
func kafka(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(60 * time.Second))
				br := bufio.NewReader(c)
				req, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n%s %s|%s|%s|%s\n",
					req.Method, req.RequestURI, req.Header.Get("Upgrade"), req.Header.Get("Connection"), req.Header.Get("Sec-WebSocket-Key"))
				io.Copy(c, br)
			})
		}
	})
	return l.Addr().String()
}

// upgrade asks for a WebSocket.
func (r *recipe) upgrade(uri, more string) (net.Conn, *bufio.Reader, *http.Response) {
	r.t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(c, "GET "+uri+" HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: key\r\n"+more+"\r\n")
	br := bufio.NewReader(c)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return c, br, res
}

// TestRecipeWebSocket: the application says who may talk to a WebSocket server
// behind it. The connection occupies no worker, outlives every timeout, and
// both directions flow.
func TestRecipeWebSocket(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Python3)
	words := map[string]string{"UPSTREAM": kafka(t)}
	cook(t, "websocket", "auth_kafka.ini", words, "http-timeout = 1\nharakiri = 2\n", func(r *recipe) {
		var open []net.Conn
		for i := range 5 { // of one worker
			c, br, res := r.upgrade(fmt.Sprintf("/ws?n=%d", i), "")
			defer c.Close()
			open = append(open, c)
			line, err := br.ReadString('\n')
			if want := fmt.Sprintf("GET /v2/broker/?n=%d|WebSocket|Upgrade|key\n", i); res.StatusCode != 101 || res.Header.Get("Upgrade") != "websocket" || line != want || err != nil {
				r.t.Fatalf("%d %v %q, want %q (%v)", res.StatusCode, res.Header, line, want, err)
			}
		}
		if res, got := r.ask("GET", "/"); res.StatusCode != 200 || got != "It Works!" {
			r.t.Errorf("beside open sockets: %d %q", res.StatusCode, got)
		}
		time.Sleep(2500 * time.Millisecond) // longer than http-timeout and harakiri
		for _, c := range open {
			for _, text := range []string{"hello", "again"} {
				io.WriteString(c, text)
				buf := make([]byte, 5)
				if _, err := io.ReadFull(c, buf); err != nil || string(buf) != text {
					r.t.Errorf("%v %q", err, buf)
				}
			}
		}
	})
	cook(t, "websocket", "auth_kafka.ini", words, "module = auth_cookie\n", func(r *recipe) {
		c, br, res := r.upgrade("/ws?", "Cookie: session=good\r\n")
		defer c.Close()
		if line, err := br.ReadString('\n'); res.StatusCode != 101 || line != "GET /v2/broker/?|WebSocket|Upgrade|key\n" || err != nil {
			r.t.Errorf("%d %q %v", res.StatusCode, line, err)
		}
		for _, more := range []string{"", "Cookie: session=bad\r\n", "Authorization: Basic x\r\n"} {
			c, br, res := r.upgrade("/ws?x", more)
			if got, _ := io.ReadAll(res.Body); res.StatusCode != 200 || string(got) != "It Works! /ws?x" {
				r.t.Errorf("not authorised: %d %q", res.StatusCode, got)
			}
			_ = br
			c.Close()
		}
	})
}
