package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"liege/internal/testcert"
	"liege/internal/testenv"
	"liege/vassal"
)

// both serves a file in two ways, as liege serve and as a vassal with a
// network of its own, and calls test for each. lay puts the files into a
// directory that everybody can enter; DIR in lines is it.
func both(t *testing.T, lines string, lay func(dir string) error, test func(t *testing.T, addr, dir string)) {
	const listen = "http-socket = 127.0.0.1:0\n[vassal]\nuid = nobody\n"
	t.Run("serve", func(t *testing.T) {
		testenv.Leaks(t)
		dir := kitchen(t)
		if err := lay(dir); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "site.ini")
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(lines, "DIR", dir)+listen), 0o644); err != nil {
			t.Fatal(err)
		}
		s := serve(t, dir, 0, file)
		url := s.await(loopURL, 1)
		defer func() {
			if s.cmd.Process.Signal(syscall.SIGTERM); s.exit() != 0 || t.Failed() {
				t.Error(s.text())
			}
		}()
		test(t, strings.Trim(strings.TrimPrefix(url, "http://"), "/"), dir)
	})
	t.Run("vassal", func(t *testing.T) {
		r := layRealm(t)
		dir := filepath.Join(r.dir, "app")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := lay(dir); err != nil {
			t.Fatal(err)
		}
		r.begin()
		r.write("vassals/site.ini", strings.ReplaceAll(lines, "DIR", dir)+listen+"chdir = "+dir+"\n")
		test(t, r.up("site").Listen[0], dir)
		if t.Failed() {
			out, _ := r.try("logs", "site")
			t.Log(out)
		}
	})
}

func copied(from string) func(dir string) error {
	return func(dir string) error {
		return filepath.WalkDir(from, func(p string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(p, ".ini") {
				return err
			}
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, d.Name()), b, 0o644)
		})
	}
}

func body(t *testing.T, resp *http.Response, err error) (int, string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestPHP: a small site with a front controller: sessions, an upload, static
// files, PATH_INFO, errors, harakiri, a large body.
func TestPHP(t *testing.T) {
	testenv.Need(t, testenv.PHP)
	lines, err := os.ReadFile("testdata/php/site.ini")
	if err != nil {
		t.Fatal(err)
	}
	both(t, string(lines), copied("testdata/php"), func(t *testing.T, addr, _ string) {
		jar, err := cookiejar.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		c := client(addr, false)
		c.Jar = jar
		get := func(path string) (int, string) {
			resp, err := c.Get("http://site" + path)
			return body(t, resp, err)
		}
		for _, x := range []struct {
			path   string
			status int
			want   string
		}{
			{"/", 200, "front / visit 1"}, {"/2026/11/a-post/?p=1", 200, "front /2026/11/a-post/?p=1 visit 2"}, {"/index.php", 200, "front /index.php visit 3"},
			{"/style.css", 200, "body { color: green }\n"}, {"/style.css/x.php", 403, "403 Forbidden\n"}, {"/tool.php/who", 200, "65534 77M no shadow"},
			{"/tool.php/error", 500, ""}, {"/tool.php/loop", 504, "504 Gateway Timeout\n"}, {"/index.php%00.css", 400, ""}, {"/%2e%2e/vassals/site.ini", 400, ""},
		} {
			if status, got := get(x.path); status != x.status || x.want != "" && got != x.want || strings.Contains(got, "<?php") || strings.Contains(got, "php-docroot") {
				t.Errorf("%s: %d %q, want %d %q", x.path, status, got, x.status, x.want)
			}
		}
		large := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
		var form bytes.Buffer
		w := multipart.NewWriter(&form)
		part, err := w.CreateFormFile("f", "a.bin")
		if err != nil {
			t.Fatal(err)
		}
		part.Write(large)
		w.Close()
		resp, err := c.Post("http://site/tool.php/upload", w.FormDataContentType(), &form)
		if status, got := body(t, resp, err); status != 200 || got != fmt.Sprintf("%x", sha1.Sum(large)) {
			t.Errorf("upload: %d %q", status, got)
		}
		const size = 100 << 20
		resp, err = c.Post("http://site/tool.php/count", "application/octet-stream", zeros(size))
		if status, got := body(t, resp, err); status != 200 || got != fmt.Sprint(size) {
			t.Errorf("a large body: %d %q", status, got)
		}
	})
}

// TestExecNode: node by port and by socket, two copies; a WebSocket; a copy
// that dies is there again.
func TestExecNode(t *testing.T) {
	testenv.Need(t, testenv.Node)
	for _, how := range []string{"port", "unix"} {
		lines := "[uwsgi]\nexec = node server.js " + how + "\nprocesses = 2\nenv = GREETING=hi\n"
		both(t, lines, copied("testdata/exec"), func(t *testing.T, addr, _ string) {
			c := client(addr, true)
			defer c.CloseIdleConnections()
			post := func(path string) (int, string) {
				resp, err := c.Post("http://site"+path, "text/plain", strings.NewReader("x"))
				return body(t, resp, err)
			}
			for _, x := range []struct {
				path   string
				status int
				want   string
			}{{"/a?b", 200, "node 65534 POST /a?b hi"}, {"/die", 502, "502 Bad Gateway\n"}, {"/c", 200, "node 65534 POST /c hi"}, {"/die", 502, "502 Bad Gateway\n"}, {"/d", 200, "node 65534 POST /d hi"}} {
				if status, got := post(x.path); status != x.status || got != x.want {
					t.Errorf("%s %s: %d %q, want %d %q", how, x.path, status, got, x.status, x.want)
				}
			}
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			fmt.Fprint(conn, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			br := bufio.NewReader(conn)
			resp, err := http.ReadResponse(br, nil)
			if err != nil || resp.StatusCode != 101 {
				t.Fatalf("%v %v", resp, err)
			}
			fmt.Fprint(conn, "ping\n")
			if line, err := br.ReadString('\n'); line != "ping\n" {
				t.Errorf("%q %v", line, err)
			}
		})
	}
}

// TestExecNodeH2: node speaks HTTP/2 without TLS; clients come by HTTP/1.1 and,
// over TLS, by HTTP/2 with trailers.
func TestExecNodeH2(t *testing.T) {
	testenv.Need(t, testenv.Node)
	lines := "[uwsgi]\nexec = node h2.js unix\nexec-protocol = h2c\nprocesses = 2\nharakiri = 20\n"
	both(t, lines, copied("testdata/exec"), func(t *testing.T, addr, _ string) {
		c := client(addr, true)
		defer c.CloseIdleConnections()
		for _, x := range []struct {
			path   string
			size   int64
			status int
			want   string
		}{{"/a?b", 3, 201, "POST /a?b site undefined 3"}, {"/large", 20 << 20, 201, "POST /large site undefined 20971520"}, {"/reset", 1, 502, "502 Bad Gateway\n"},
			{"/die", 1, 502, "502 Bad Gateway\n"}, {"/c", 0, 201, "POST /c site undefined 0"}} {
			resp, err := c.Post("http://site"+x.path, "text/plain", zeros(x.size))
			if status, got := body(t, resp, err); status != x.status || got != x.want {
				t.Errorf("%s: %d %q, want %d %q", x.path, status, got, x.status, x.want)
			}
		}
	})
	t.Run("tls", func(t *testing.T) {
		dir := kitchen(t)
		site := testcert.New(t, testcert.Cert{Name: "localhost"})
		cert, key := site.Write(t, dir, "site")
		file := filepath.Join(dir, "site.ini")
		if err := errors.Join(copied("testdata/exec")(dir), os.WriteFile(file, []byte(lines+"https = 127.0.0.1:0,"+cert+","+key+"\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
		s := serve(t, dir, 0, file)
		url := s.await(`https://127\.0\.0\.1:\d+`, 1)
		c := secureClient(t, strings.Trim(strings.TrimPrefix(url, "https://"), "/"), true, true, site)
		req, err := http.NewRequestWithContext(t.Context(), "POST", "https://localhost/call", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("TE", "trailers")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if status, got := body(t, resp, err); status != 201 || got != "POST /call localhost trailers 4" || resp.Trailer.Get("Grpc-Status") != "0" || resp.ProtoMajor != 2 {
			t.Errorf("%s %d %q, trailers %v", resp.Proto, status, got, resp.Trailer)
		}
		c.CloseIdleConnections()
		if s.cmd.Process.Signal(syscall.SIGTERM); s.exit() != 0 || t.Failed() {
			t.Error(s.text())
		}
	})
}

// TestExecPython: a server with a port of its own, by its interpreter.
func TestExecPython(t *testing.T) {
	_, port := freeAddr(t)
	lines := "[uwsgi]\nexec = python3 -m http.server --bind 127.0.0.1 --directory DIR " + port + "\nexec-port = " + port + "\nexec-ready = /page\n"
	both(t, lines, func(dir string) error { return os.WriteFile(dir+"/page", []byte("a page"), 0o644) }, func(t *testing.T, addr, _ string) {
		c := client(addr, false)
		resp, err := c.Get("http://site/page")
		if status, got := body(t, resp, err); status != 200 || got != "a page" {
			t.Errorf("%d %q", status, got)
		}
	})
}

// TestExecBinary: a program of the tenant's own, by its path and with limits.
func TestExecBinary(t *testing.T) {
	source := `package main

import (
	"fmt"
	"net/http"
	"os"
)

func main() {
	http.ListenAndServe("127.0.0.1:"+os.Args[1], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := os.ReadFile("/proc/self/limits")
		fmt.Fprintf(w, "go %s %s", r.URL.Path, b)
	}))
}
`
	built := t.TempDir()
	if err := os.WriteFile(built+"/main.go", []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", "server", "main.go")
	cmd.Dir, cmd.Env = built, append(os.Environ(), "CGO_ENABLED=0", "GO111MODULE=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := "[uwsgi]\nexec = DIR/bin/server ${PORT}\nmax-fd = 321\nmax-requests = 3\n"
	both(t, lines, func(dir string) error {
		b, err := os.ReadFile(built + "/server")
		if err == nil {
			err = os.Mkdir(dir+"/bin", 0o755)
		}
		if err == nil {
			err = os.WriteFile(dir+"/bin/server", b, 0o755)
		}
		return err
	}, func(t *testing.T, addr, _ string) {
		c := client(addr, false)
		for range 8 {
			resp, err := c.Get("http://site/x")
			if status, got := body(t, resp, err); status != 200 || !strings.HasPrefix(got, "go /x") || !strings.Contains(got, "321                  321                  files") {
				t.Errorf("%d %q", status, got)
			}
		}
	})
}

// TestDaemons: they run beside the app in the same sandbox, one set at a time
// across reloads, and end with the vassal.
func TestDaemons(t *testing.T) {
	r := newRealm(t)
	r.write("app/hello.py", "import os\ndef application(e, s):\n    s('200 OK', [])\n    return [open('/tmp/daemon').read().encode()]\n")
	text := "uid = nobody\nhttp-socket = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\n" +
		// Two at once would not both get the lock.
		"attach-daemon2 = cmd=\"exec 9>/tmp/lock; flock -n 9 || echo two >>/tmp/daemon; echo up >>/tmp/daemon; exec sleep 1000\"\n"
	r.drop("hello", text)
	addr := r.up("hello").Listen[0]
	said := func(want string) {
		t.Helper()
		r.until("the daemons say "+want, func() bool { _, got := r.get(addr, "/"); return got == want })
	}
	said("up\n")
	for i := range 3 {
		r.drop("hello", text+fmt.Sprintf("env = N=%d\n", i))
		r.liege("reload", "hello", "--timeout", patience)
	}
	said(strings.Repeat("up\n", 4))
	pid := r.status("hello").PID
	if pid == nil || len(below(t, *pid)) == 0 {
		t.Fatal("no processes")
	}
	r.liege("stop", "hello", "--timeout", patience)
}

// TestServerFailures: a start that fails says what was looked for, where, and
// what to do, with the last lines that the program printed.
func TestServerFailures(t *testing.T) {
	r := newRealm(t)
	r.write("app/page", "")
	for _, c := range []struct{ name, lines, code, want, hint, last string }{
		{"missing", "exec = nosuchserver x", vassal.CodeNoInterpreter, "nosuchserver is not found in /usr/local/bin:/usr/bin:/bin", "install it, or name it by its path", ""},
		{"ends", "exec = sh -c 'echo the port is taken >&2; exit 4'", vassal.CodeExitedEarly, "ended before it was ready: exit status 4", "", "the port is taken"},
		{"silent", "exec = sleep 1000\nready-timeout = 2", vassal.CodeNotReady, "listens neither on $PORT nor at $LIEGE_SOCKET", "$PORT", ""},
		{"elsewhere", "exec = python3 -m http.server --bind 127.0.0.1 8765\nready-timeout = 3", vassal.CodeNotReady, "listens neither", "exec-port = 8765", ""},
		{"second", "exec = sh -c 'case $LIEGE_SOCKET in *1.sock) exec python3 -m http.server --bind 127.0.0.1 $PORT;; esac; sleep 1000'\nprocesses = 2\nready-timeout = 3",
			vassal.CodeNotReady, "listens neither", "$PORT of 127.0.0.1", ""},
		{"php", "plugins = php\nphp-docroot = DIR/app\ninterpreter = /usr/bin/php-cgi-none", vassal.CodeNoInterpreter, "/usr/bin/php-cgi-none does not exist", "php-cgi", ""},
		{"oldphp", "plugins = php53\nphp-docroot = DIR/app", vassal.CodeNoInterpreter, "PHP is not there", "apt install php5.3-cgi", ""},
	} {
		r.drop(c.name, "uid = nobody\nchdir = DIR/app\nhttp-socket = 127.0.0.1:0\n"+c.lines+"\n")
		r.until("Liege sees "+c.name, func() bool { _, code := r.try("status", c.name); return code == 0 })
		var last string
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			v := r.status(c.name)
			p := problem(v, c.code)
			if p != nil && strings.Contains(p.Message, c.want) && strings.Contains(p.Hint, c.hint) {
				break
			}
			if last = fmt.Sprint(v.State, v.Problems); time.Now().After(end) {
				t.Errorf("%s: %s", c.name, last)
				break
			}
		}
		if out, _ := r.try("status", c.name); c.last != "" && !strings.Contains(out, c.last) {
			t.Errorf("%s: %q is not in\n%s", c.name, c.last, out)
		}
	}
}
