package front

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/vassal"
)

// packet is a uwsgi packet of names and values.
func packet(modifier byte, kv ...string) string {
	var b []byte
	for _, s := range kv {
		b = append(b, byte(len(s)), byte(len(s)>>8))
		b = append(b, s...)
	}
	return string([]byte{modifier, byte(len(b)), byte(len(b) >> 8), 0}) + string(b)
}

func TestPacket(t *testing.T) {
	r := serve(t, vassal.UWSGI, vassal.HTTPLimits{}, echo)
	got := ask(t, r.addr, packet(0, "REQUEST_METHOD", "POST", "PATH_INFO", "/a/b", "CONTENT_LENGTH", "3", "SERVER_PROTOCOL", "HTTP/1.1",
		"UWSGI_FILE", "/tmp/evil.py", "UWSGI_SETENV", "A=b", "UWSGI_CHDIR", "/", "UWSGI_SCRIPT", "x", "UWSGI_PYHOME", "/x", "UWSGI_MODULE", "os",
		"UWSGI_TOUCH_RELOAD", "/etc/passwd", "HTTP_PROXY", "http://evil", "HTTP_TE", "trailers", "UWSGI_SCHEME", "https",
		"REMOTE_ADDR", "1.1.1.1", "REMOTE_ADDR", "2.2.2.2", "EMPTY", "")+"abc")
	want := "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 153\r\n\r\n" +
		"REQUEST_METHOD=POST\nPATH_INFO=/a/b\nCONTENT_LENGTH=3\nSERVER_PROTOCOL=HTTP/1.1\nUWSGI_SCHEME=https\nREMOTE_ADDR=2.2.2.2\nEMPTY=\nlength=3\nbody=abc\n"
	want = strings.Replace(want, "153", strconv.Itoa(len(want)-strings.Index(want, "\r\n\r\n")-4), 1)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	got = ask(t, r.addr, packet(30, "REQUEST_METHOD", "GET", "SCRIPT_NAME", "/a", "PATH_INFO", "/a/b"))
	if !strings.Contains(got, "\nPATH_INFO=/b\n") {
		t.Errorf("modifier 30: got\n%s", got)
	}
}

func TestBadPacket(t *testing.T) {
	ok := packet(0, "REQUEST_METHOD", "GET")
	r := serve(t, vassal.UWSGI, vassal.HTTPLimits{HeaderTimeout: 200 * time.Millisecond, HeaderBytes: 4096, BodyBytes: 10}, echo)
	for _, c := range []struct {
		name, raw string
		want      int
	}{
		{"good", ok, 200},
		{"cut", ok[:len(ok)-1], 408},
		{"two bytes", "\x00\x05", 408},
		{"length beyond the end", "\x00\x06\x00\x00\xff\x00REQU", 400},
		{"odd byte", "\x00\x01\x00\x00a", 400},
		{"name without value", "\x00\x05\x00\x00\x03\x00abc", 400},
		{"no variables", "\x00\x00\x00\x00", 400},
		{"empty name", packet(0, "REQUEST_METHOD", "GET", "", "x"), 400},
		{"name with =", packet(0, "REQUEST_METHOD", "GET", "A=B", "x"), 400},
		{"name with NUL", packet(0, "REQUEST_METHOD", "GET", "A\x00", "x"), 400},
		{"value with NUL", packet(0, "REQUEST_METHOD", "GET", "A", "\x00"), 400},
		{"value with LF", packet(0, "REQUEST_METHOD", "GET", "A", "b\nc"), 400},
		{"no method", packet(0, "PATH_INFO", "/"), 400},
		{"length", packet(0, "REQUEST_METHOD", "GET", "CONTENT_LENGTH", "1x"), 400},
		{"body too large", packet(0, "REQUEST_METHOD", "GET", "CONTENT_LENGTH", "11"), 413},
		{"too large", packet(0, "REQUEST_METHOD", "GET", "A", strings.Repeat("a", 5000)), 431},
		{"modifier 5", packet(5, "REQUEST_METHOD", "GET"), 501},
		{"TLS", "\x16\x03\x01\x02\x00\x01", 501},
	} {
		if got := ask(t, r.addr, c.raw); status(got) != c.want {
			t.Errorf("%s: got %d, want %d:\n%s", c.name, status(got), c.want, got)
		}
	}
}

const nginxConf = `
daemon off; master_process off; worker_processes 1; pid DIR/pid; error_log DIR/error.log warn;
events { worker_connections 64; }
http {
  access_log off; client_body_temp_path DIR/b; proxy_temp_path DIR/p; fastcgi_temp_path DIR/f; uwsgi_temp_path DIR/u; scgi_temp_path DIR/s;
  client_max_body_size 0;
  server {
    listen unix:DIR/nginx.sock;
    include /etc/nginx/uwsgi_params;
    location / { uwsgi_pass unix:DIR/app.sock; }
    location /unbuffered { uwsgi_request_buffering off; uwsgi_buffering off; uwsgi_pass unix:DIR/app.sock; }
    location /proxied { proxy_pass http://unix:DIR/app.sock; }
  }
}`

// startNginx runs nginx in front of app.sock in dir, and returns a client
// that talks to it.
func startNginx(t *testing.T, dir string) *http.Client {
	t.Helper()
	return startNginxWith(t, dir, nginxConf)
}

func startNginxWith(t *testing.T, dir, text string) *http.Client {
	t.Helper()
	testenv.Need(t, testenv.Nginx)
	path, err := exec.LookPath("nginx")
	if err != nil {
		path = "/usr/sbin/nginx"
	}
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-p", dir, "-c", conf, "-e", filepath.Join(dir, "error.log"))
	out := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if b, _ := os.ReadFile(filepath.Join(dir, "error.log")); t.Failed() {
			t.Logf("nginx: %s%s", out, b)
		}
	})
	sock := filepath.Join(dir, "nginx.sock")
	for end := time.Now().Add(10 * time.Second); ; {
		if c, err := net.Dial("unix", sock); err == nil {
			c.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatalf("nginx does not start: %s", out)
		}
		time.Sleep(5 * time.Millisecond)
	}
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", sock)
	}}
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

func TestNginx(t *testing.T) {
	dir, err := os.MkdirTemp("", "liege-nginx") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "app.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // nginx drops root
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "app.sock"), 0o777); err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, vassal.UWSGI, vassal.HTTPLimits{}, nginxApp)
	client := startNginx(t, dir)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MiB
	for _, c := range []struct {
		method, path string
		body         io.Reader
		status       int
		want         string
	}{
		{"GET", "/a%20b?c=d", nil, 200, "GET /a b c=d 0\n"},
		{"POST", "/x", strings.NewReader("abc"), 200, "POST /x  3\n"},
		{"POST", "/x", bytes.NewReader(big), 200, fmt.Sprintf("POST /x  %d\n", len(big))},
		{"POST", "/unbuffered", bytes.NewReader(big), 200, fmt.Sprintf("POST /unbuffered  %d\n", len(big))},
		{"POST", "/x", io.MultiReader(strings.NewReader("abc"), strings.NewReader("d")), 200, "POST /x  4\n"}, // chunked to nginx
		{"POST", "/unbuffered", io.MultiReader(strings.NewReader("abc"), strings.NewReader("d")), 200, "POST /unbuffered  4\n"},
		{"POST", "/ignore", bytes.NewReader(big), 200, "ignored\n"},
		{"HEAD", "/big", nil, 200, ""},
		{"GET", "/304", nil, 304, ""},
		{"GET", "/204", nil, 204, ""},
		{"GET", "/big", nil, 200, string(big)},
		{"GET", "/stream", nil, 200, "0\n1\n2\n"},
		{"GET", "/error", nil, 503, "503 Service Unavailable\n"},
		{"GET", "/proxied", nil, 400, "400 Bad Request: " + errSpokenHTTP.text + "\n"},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			q, err := http.NewRequest(c.method, "http://example.com"+c.path, c.body)
			if err != nil {
				t.Fatal(err)
			}
			a, err := client.Do(q)
			if err != nil {
				t.Fatal(err)
			}
			defer a.Body.Close()
			got, err := io.ReadAll(a.Body)
			if err != nil || a.StatusCode != c.status || string(got) != c.want {
				t.Errorf("got %d, %d bytes %.100q, %v; want %d %.100q", a.StatusCode, len(got), got, err, c.status, c.want)
			}
		})
	}
	// Cut in the middle of a body of known length: nginx passes the cut on.
	a, err := client.Get("http://example.com/cut")
	if err == nil {
		_, err = io.ReadAll(a.Body)
		a.Body.Close()
	}
	if err == nil {
		t.Error("a cut answer looks whole behind nginx")
	}
}

func nginxApp(ctx context.Context, r *exchange.Request, w exchange.Response) error {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	switch path := r.Get("PATH_INFO"); path {
	case "/big":
		return answerWith(200, "", fields("Content-Length", strconv.Itoa(len(big))), nil, string(big))(ctx, r, w)
	case "/304":
		return answerWith(304, "", fields("Content-Length", "3"), nil, "abc")(ctx, r, w)
	case "/204":
		return answerWith(204, "", nil, nil)(ctx, r, w)
	case "/stream":
		return answerWith(200, "", nil, nil, "0\n", "<flush>", "1\n", "<flush>", "2\n")(ctx, r, w)
	case "/error":
		return &exchange.StatusError{Status: 503, Err: errBackend}
	case "/cut":
		return answerWith(200, "", fields("Content-Length", "100000"), errBackend, string(big[:50000]), "<flush>")(ctx, r, w)
	case "/ignore":
		return answerWith(200, "", nil, nil, "ignored\n")(ctx, r, w)
	default:
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			return err
		}
		return answerWith(200, "", nil, nil, fmt.Sprintf("%s %s %s %d\n", r.Get("REQUEST_METHOD"), path, r.Get("QUERY_STRING"), n))(ctx, r, w)
	}
}

// TestModifiers: nginx is told to send the number of the application's
// language, which is then the application; that of another is not.
func TestModifiers(t *testing.T) {
	perl, ruby := &vassal.Workers{Perl: &vassal.Perl{}}, &vassal.Workers{Ruby: &vassal.Ruby{}}
	var none *vassal.Workers
	for _, c := range []struct {
		name string
		cfg  Config
		n    uint8
		want int16
	}{
		{"Perl's to Perl", Config{Own: perl.Modifier()}, 5, 5},
		{"Perl's to Ruby", Config{Own: ruby.Modifier()}, 5, -1},
		{"Ruby's to Ruby", Config{Own: ruby.Modifier()}, 7, 7},
		{"Ruby's to Perl", Config{Own: perl.Modifier()}, 7, -1},
		{"the application's to Perl", Config{Own: perl.Modifier()}, 0, 0},
		{"Perl's to Python", Config{Own: (&vassal.Workers{}).Modifier()}, 5, -1},
		{"Ruby's to nobody", Config{Own: none.Modifier()}, 7, -1},
		{"CGI's to nobody", Config{}, 9, -1},
		{"CGI's", Config{CGI: true}, 9, 9},
		{"PHP's", Config{PHP: true}, 14, 14},
		{"a function's to nobody", Config{}, 173, -1},
		{"Perl's, which may not be asked for", Config{Own: perl.Modifier(), Ask: vassal.Modifiers{Allowed: []uint8{0}}}, 5, -1},
		{"Perl's, which alone may be asked for", Config{Own: perl.Modifier(), Ask: vassal.Modifiers{Allowed: []uint8{5}}}, 5, 5},
		{"another that means Perl's", Config{Own: perl.Modifier(), Ask: vassal.Modifiers{Remap: [][2]uint8{{6, 5}}}}, 6, 5},
	} {
		if asked := askable(&c.cfg); asked[c.n] != c.want {
			t.Errorf("%s: %d means %d, want %d", c.name, c.n, asked[c.n], c.want)
		}
	}
}
