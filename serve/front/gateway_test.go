package front

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"liege/serve/exchange"
	"liege/vassal"
)

// scgi is an SCGI request of names and values.
func scgi(kv ...string) string {
	s := strings.Join(kv, "\x00") + "\x00"
	return strconv.Itoa(len(s)) + ":" + s + ","
}

func TestSCGI(t *testing.T) {
	head := []string{"CONTENT_LENGTH", "3", "SCGI", "1", "REQUEST_METHOD", "POST", "PATH_INFO", "/a", "UWSGI_FILE", "/x", "PHP_VALUE", "a=b", "HTTP_PROXY", "x", "HTTP_TE", "trailers", "liege.retire", "1", "CONTENT_LENGTH", ""}
	want := "Content-Type: text/plain\r\nContent-Length: 53\r\n\r\nCONTENT_LENGTH=3\nREQUEST_METHOD=POST\nPATH_INFO=/a\nlength=3\nbody=abc\n"
	want = strings.Replace(want, "53", strconv.Itoa(len(want)-strings.Index(want, "\r\n\r\n")-4), 1)
	for proto, line := range map[vassal.Protocol]string{vassal.SCGI: "Status: 200 OK\r\n", vassal.SCGINPH: "HTTP/1.1 200 OK\r\n"} {
		r := serve(t, proto, vassal.HTTPLimits{}, echo)
		if d := cmp.Diff(line+want, ask(t, r.addr, scgi(head...)+"abc")); d != "" {
			t.Error(proto, d)
		}
	}
}

func TestBadSCGI(t *testing.T) {
	ok := scgi("CONTENT_LENGTH", "0", "SCGI", "1", "REQUEST_METHOD", "GET")
	r := serve(t, vassal.SCGI, vassal.HTTPLimits{HeaderTimeout: 200 * time.Millisecond, HeaderBytes: 4096, BodyBytes: 10}, echo)
	for _, c := range []struct {
		name, raw string
		want      int
	}{
		{"good", ok, 200},
		{"cut", ok[:len(ok)-1], 408},
		{"no comma", ok[:len(ok)-1] + ";", 400},
		{"no length", ":" + ok, 400},
		{"leading zero", "0" + ok, 400},
		{"sign", "-1:,", 400},
		{"endless length", strings.Repeat("1", 20), 400},
		{"no first length", scgi("SCGI", "1", "REQUEST_METHOD", "GET"), 400},
		{"no mark", scgi("CONTENT_LENGTH", "0", "REQUEST_METHOD", "GET"), 400},
		{"other mark", scgi("CONTENT_LENGTH", "0", "SCGI", "2", "REQUEST_METHOD", "GET"), 400},
		{"two lengths", scgi("CONTENT_LENGTH", "0", "SCGI", "1", "REQUEST_METHOD", "GET", "CONTENT_LENGTH", "5"), 400},
		{"name without value", "25:CONTENT_LENGTH\x000\x00SCGI\x001\x00A,", 400},
		{"unended value", "26:CONTENT_LENGTH\x000\x00SCGI\x001\x00A\x00,", 400},
		{"LF in a value", scgi("CONTENT_LENGTH", "0", "SCGI", "1", "REQUEST_METHOD", "GET\n"), 400},
		{"length", scgi("CONTENT_LENGTH", "+1", "SCGI", "1", "REQUEST_METHOD", "GET"), 400},
		{"body too large", scgi("CONTENT_LENGTH", "11", "SCGI", "1", "REQUEST_METHOD", "GET"), 413},
		{"too large", scgi("CONTENT_LENGTH", "0", "SCGI", "1", "A", strings.Repeat("a", 5000)), 431},
		{"HTTP", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"TLS", "\x16\x03\x01\x02\x00\x01", 400},
	} {
		if got := ask(t, r.addr, c.raw); cgiStatus(got) != c.want {
			t.Errorf("%s: got %d, want %d:\n%s", c.name, cgiStatus(got), c.want, got)
		}
	}
	if got := ask(t, r.addr, "GET / HTTP/1.1\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.Contains(got, "scgi_pass") {
		t.Errorf("HTTP: got %s", got)
	}
}

// cgiStatus is the status of an answer, be it of a line or of a field.
func cgiStatus(s string) int {
	if rest, ok := strings.CutPrefix(s, "Status: "); ok && len(rest) > 3 {
		n, _ := strconv.Atoi(rest[:3])
		return n
	}
	return status(s)
}

// record is one FastCGI record with some padding.
func record(kind byte, id uint16, content string) string {
	pad := (8 - len(content)%8) % 8
	b := []byte{1, kind, byte(id >> 8), byte(id), byte(len(content) >> 8), byte(len(content)), byte(pad), 0}
	return string(b) + content + strings.Repeat("\xff", pad)
}

// begin is the record that begins a request.
func begin(id uint16, role, flags byte) string {
	return record(fcgiBegin, id, string([]byte{0, role, flags, 0, 0, 0, 0, 0}))
}

// params are names and values in FastCGI's form.
func params(kv ...string) string {
	var b []byte
	for i := 0; i < len(kv); i += 2 {
		for _, s := range kv[i : i+2] {
			if len(s) < 128 {
				b = append(b, byte(len(s)))
			} else {
				b = binary.BigEndian.AppendUint32(b, uint32(len(s))|1<<31)
			}
		}
		b = append(append(b, kv[i]...), kv[i+1]...)
	}
	return string(b)
}

// fcgiAnswer is what a server sent, up to the end of a request or of the
// connection.
type fcgiAnswer struct {
	stdout string
	ends   []string // id/status
	others []string // kind/id:content
}

func readRecords(r io.Reader, ends int) (a fcgiAnswer) {
	for len(a.ends) < ends {
		var h [8]byte
		if _, err := io.ReadFull(r, h[:]); err != nil {
			return a
		}
		b := make([]byte, int(h[4])<<8+int(h[5])+int(h[6]))
		if _, err := io.ReadFull(r, b); err != nil {
			return a
		}
		id := int(h[2])<<8 + int(h[3])
		b = b[:int(h[4])<<8+int(h[5])]
		switch h[1] {
		case fcgiStdout:
			a.stdout += string(b)
		case fcgiEnd:
			a.ends = append(a.ends, fmt.Sprintf("%d/%d", id, b[4]))
		default:
			a.others = append(a.others, fmt.Sprintf("%d/%d:%q", h[1], id, b))
		}
	}
	return a
}

func TestFastCGI(t *testing.T) {
	long := strings.Repeat("v", 300)
	r := serve(t, vassal.FastCGI, vassal.HTTPLimits{}, echo)
	c := dial(t, r.addr)
	all := params("REQUEST_METHOD", "POST", "PATH_INFO", "/a", "CONTENT_LENGTH", "", "LONG", long, "UWSGI_FILE", "/x", "PHP_ADMIN_VALUE", "x")
	want := "Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 366\r\n\r\nREQUEST_METHOD=POST\nPATH_INFO=/a\nCONTENT_LENGTH=\nLONG=" + long + "\nlength=-1\nbody=abcdef\n"
	want = strings.Replace(want, "366", strconv.Itoa(len(want)-strings.Index(want, "\r\n\r\n")-4), 1)
	for i := range 3 { // one connection
		// In pieces, with records of requests that nobody began.
		msg := record(fcgiStdin, 7, "stale") + begin(uint16(i+1), 1, fcgiKeepConn) + record(fcgiParams, uint16(i+1), all[:10]) +
			record(fcgiParams, 99, "other") + record(fcgiParams, uint16(i+1), all[10:]) + record(fcgiParams, uint16(i+1), "") +
			record(fcgiStdin, uint16(i+1), "abc") + record(fcgiStdin, 9, "zzz") + record(fcgiStdin, uint16(i+1), "def") + record(fcgiStdin, uint16(i+1), "")
		for _, b := range []byte(msg) {
			if _, err := c.Write([]byte{b}); err != nil {
				t.Fatal(err)
			}
		}
		got := readRecords(c, 1)
		if d := cmp.Diff(fcgiAnswer{stdout: want, ends: []string{fmt.Sprintf("%d/0", i+1)}}, got, cmp.AllowUnexported(fcgiAnswer{})); d != "" {
			t.Fatal(d)
		}
	}
	// Without the flag the connection ends.
	req := begin(1, 1, 0) + record(fcgiParams, 1, params("REQUEST_METHOD", "GET")) + record(fcgiParams, 1, "") + record(fcgiStdin, 1, "")
	if _, err := io.WriteString(c, req); err != nil {
		t.Fatal(err)
	}
	if got := readRecords(c, 2); len(got.ends) != 1 || !strings.HasSuffix(got.stdout, "length=0\nbody=\n") {
		t.Errorf("got %+v", got)
	}
}

func TestFastCGIManagement(t *testing.T) {
	r := serve(t, vassal.FastCGI, vassal.HTTPLimits{Connections: 20}, echo)
	c := dial(t, r.addr)
	get := record(fcgiParams, 1, params("REQUEST_METHOD", "GET")) + record(fcgiParams, 1, "")
	msg := record(fcgiGetValues, 0, params("FCGI_MAX_CONNS", "", "FCGI_MPXS_CONNS", "", "FCGI_NONE", "")) + record(77, 0, "what") +
		begin(3, 2, fcgiKeepConn) + // authorizer
		begin(1, 1, 0) + get + begin(2, 1, 0) + record(fcgiParams, 2, get) + record(fcgiStdin, 1, "")
	if _, err := io.WriteString(c, msg); err != nil {
		t.Fatal(err)
	}
	got := readRecords(c, 3)
	if d := cmp.Diff([]string{"3/3", "2/1", "1/0"}, got.ends); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{fmt.Sprintf("10/0:%q", params("FCGI_MAX_CONNS", "20", "FCGI_MPXS_CONNS", "0")), `11/0:"M\x00\x00\x00\x00\x00\x00\x00"`}, got.others); d != "" {
		t.Error(d)
	}
}

func TestFastCGIAbort(t *testing.T) {
	read := make(chan error, 1)
	r := serve(t, vassal.FastCGI, vassal.HTTPLimits{}, func(_ context.Context, q *exchange.Request, w exchange.Response) error {
		_, err := io.Copy(io.Discard, q.Body)
		read <- err
		return err
	})
	c := dial(t, r.addr)
	msg := begin(1, 1, fcgiKeepConn) + record(fcgiParams, 1, params("REQUEST_METHOD", "PUT", "CONTENT_LENGTH", "10")) + record(fcgiParams, 1, "") +
		record(fcgiStdin, 1, "abc") + record(fcgiAbort, 1, "")
	if _, err := io.WriteString(c, msg); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err == nil {
		t.Error("an aborted body looks whole")
	}
}

func TestBadFastCGI(t *testing.T) {
	get := record(fcgiParams, 1, params("REQUEST_METHOD", "GET")) + record(fcgiParams, 1, "") + record(fcgiStdin, 1, "")
	r := serve(t, vassal.FastCGI, vassal.HTTPLimits{HeaderTimeout: 200 * time.Millisecond, HeaderBytes: 4096, BodyBytes: 10}, echo)
	one := func(p string) string {
		return begin(1, 1, 0) + record(fcgiParams, 1, p) + record(fcgiParams, 1, "") + record(fcgiStdin, 1, "")
	}
	for _, c := range []struct {
		name, raw string
		want      int // 0: no answer
	}{
		{"good", begin(1, 1, 0) + get, 200},
		{"nothing more", begin(1, 1, 0), 408},
		{"version", "\x02" + begin(1, 1, 0)[1:] + get, 0},
		{"second version", begin(1, 1, 0) + "\x02" + get[1:], 400},
		{"short begin", record(fcgiBegin, 1, "\x00\x01\x00") + get, 0},
		{"begun twice", begin(1, 1, 0) + begin(1, 1, 0) + get, 400},
		{"stdin before params", begin(1, 1, 0) + record(fcgiStdin, 1, "") + get, 400},
		{"no method", one(params("A", "b")), 400},
		{"size beyond the end", one("\x0e\x05REQUEST_METHOD"), 400},
		{"huge size", one("\xff\xff\xff\xff\x01"), 400},
		{"cut size", one("\xff\xff"), 400},
		{"NUL", one(params("REQUEST_METHOD", "GET\x00")), 400},
		{"length", one(params("REQUEST_METHOD", "GET", "CONTENT_LENGTH", "-1")), 400},
		{"body too large", one(params("REQUEST_METHOD", "GET", "CONTENT_LENGTH", "11")), 413},
		{"body too large after all", begin(1, 1, 0) + record(fcgiParams, 1, params("REQUEST_METHOD", "GET")) + record(fcgiParams, 1, "") + record(fcgiStdin, 1, "12345678901") + record(fcgiStdin, 1, ""), 413},
		{"params too large", one(params("REQUEST_METHOD", "GET", "A", strings.Repeat("a", 5000))), 431},
		{"body too short", begin(1, 1, 0) + record(fcgiParams, 1, params("REQUEST_METHOD", "GET", "CONTENT_LENGTH", "3")) + record(fcgiParams, 1, "") + record(fcgiStdin, 1, "a") + record(fcgiStdin, 1, ""), 400},
	} {
		k := dial(t, r.addr)
		if _, err := io.WriteString(k, c.raw); err != nil {
			t.Fatal(err)
		}
		if got := readRecords(k, 1); cgiStatus(got.stdout) != c.want {
			t.Errorf("%s: got %+v, want %d", c.name, got, c.want)
		}
	}
	if got := ask(t, r.addr, "GET / HTTP/1.1\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.Contains(got, "fastcgi_pass") {
		t.Errorf("HTTP: got %s", got)
	}
	if n := strings.Count(r.logs.String(), "HTTP came to a FastCGI listener"); n != 1 {
		t.Errorf("%d lines about HTTP", n)
	}
}

// TestFastCGIToHTTP: a FastCGI peer of an http listener gets no answer.
func TestFastCGIToHTTP(t *testing.T) {
	r := serve(t, vassal.HTTP, vassal.HTTPLimits{}, echo)
	for range 2 {
		if got := ask(t, r.addr, begin(1, 1, 0)); got != "" {
			t.Errorf("got %q", got)
		}
	}
	if n := strings.Count(r.logs.String(), "fastcgi-socket ="); n != 1 {
		t.Errorf("%d log lines:\n%s", n, r.logs)
	}
}

// TestFastCGICut: an answer that is not whole has no end.
func TestFastCGICut(t *testing.T) {
	r := serve(t, vassal.FastCGI, vassal.HTTPLimits{}, answerWith(200, "", nil, errBackend, "half", "<flush>"))
	c := dial(t, r.addr)
	if _, err := io.WriteString(c, begin(1, 1, 1)+record(fcgiParams, 1, params("REQUEST_METHOD", "GET"))+record(fcgiParams, 1, "")+record(fcgiStdin, 1, "")); err != nil {
		t.Fatal(err)
	}
	if got := readRecords(c, 1); len(got.ends) != 0 || !strings.HasSuffix(got.stdout, "half") {
		t.Errorf("got %+v", got)
	}
}

func TestPersistent(t *testing.T) {
	r := serve(t, vassal.PUWSGI, vassal.HTTPLimits{}, echo)
	c := dial(t, r.addr)
	for range 3 {
		if _, err := io.WriteString(c, packet(0, "REQUEST_METHOD", "PUT", "CONTENT_LENGTH", "3")+"abc"); err != nil {
			t.Fatal(err)
		}
		want := "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 54\r\n\r\nREQUEST_METHOD=PUT\nCONTENT_LENGTH=3\nlength=3\nbody=abc\n"
		b := make([]byte, len(want))
		if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
			t.Fatalf("got %q, %v", b, err)
		}
	}
	// Of unknown length: the connection's end is the answer's.
	r = serve(t, vassal.PUWSGI, vassal.HTTPLimits{}, answerWith(200, "", nil, nil, "a", "<flush>", "b"))
	if got := ask(t, r.addr, packet(0, "REQUEST_METHOD", "GET")); !strings.HasSuffix(got, "\r\n\r\nab") {
		t.Errorf("got %q", got)
	}
}

// behindNginx runs app behind nginx by pass ("fastcgi_pass"), with what else
// is said of the location.
func behindNginx(t *testing.T, p vassal.Protocol, pass, more string, app exchange.HandlerFunc) (*running, *http.Client) {
	dir, err := os.MkdirTemp("", "liege-nginx") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	sock := filepath.Join(dir, "app.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{dir, sock} { // nginx drops root
		if err := os.Chmod(p, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	r := serveOn(t, l, p, vassal.HTTPLimits{}, app)
	kind := strings.TrimSuffix(pass, "_pass")
	conf := strings.NewReplacer("uwsgi_params", kind+"_params", "uwsgi_pass", pass, "uwsgi_request", kind+"_request", "uwsgi_buffering", kind+"_buffering",
		"include /etc", more+" include /etc", "  server {", "  upstream app { server unix:DIR/app.sock; keepalive 2; } server {", "unix:DIR/app.sock;", "app;", "http://unix:DIR/app.sock", "http://app").Replace(nginxConf)
	conf = strings.Replace(conf, "server app;", "server unix:DIR/app.sock;", 1)
	return r, startNginxWith(t, dir, conf)
}

func TestNginxGateways(t *testing.T) {
	for _, p := range []struct {
		proto      vassal.Protocol
		pass, more string
	}{
		{vassal.FastCGI, "fastcgi_pass", "fastcgi_keep_conn on;"},
		{vassal.FastCGI, "fastcgi_pass", ""},
		{vassal.SCGI, "scgi_pass", ""},
		{vassal.SCGINPH, "scgi_pass", ""},
	} {
		t.Run(strings.TrimSpace(string(p.proto)+" "+p.more), func(t *testing.T) {
			_, client := behindNginx(t, p.proto, p.pass, p.more, nginxApp)
			nginxCases(t, client, p.pass)
		})
	}
}

func nginxCases(t *testing.T, client *http.Client, pass string) {
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
		{"POST", "/ignore", bytes.NewReader(big), 200, "ignored\n"},
		{"HEAD", "/big", nil, 200, ""},
		{"GET", "/304", nil, 304, ""},
		{"GET", "/204", nil, 204, ""},
		{"GET", "/big", nil, 200, string(big)},
		{"GET", "/stream", nil, 200, "0\n1\n2\n"},
		{"GET", "/error", nil, 503, "503 Service Unavailable\n"},
		{"GET", "/proxied", nil, 400, pass},
	} {
		if c.path == "/unbuffered" && pass == "scgi_pass" {
			continue // nginx 1.22 then announces what it has read so far as the length
		}
		q, err := http.NewRequest(c.method, "http://example.com"+c.path, c.body)
		if err != nil {
			t.Fatal(err)
		}
		a, err := client.Do(q)
		if err != nil {
			t.Errorf("%s %s: %v", c.method, c.path, err)
			continue
		}
		got, err := io.ReadAll(a.Body)
		a.Body.Close()
		if err != nil || a.StatusCode != c.status || string(got) != c.want && !(c.status == 400 && strings.Contains(string(got), c.want)) {
			t.Errorf("%s %s: got %d, %d bytes %.100q, %v; want %d %.100q", c.method, c.path, a.StatusCode, len(got), got, err, c.status, c.want)
		}
	}
	a, err := client.Get("http://example.com/cut")
	if err == nil {
		_, err = io.ReadAll(a.Body)
		a.Body.Close()
	}
	if err == nil {
		t.Error("a cut answer looks whole behind nginx")
	}
}

// FuzzSCGI: no bytes make the parser fail otherwise than by an error.
func FuzzSCGI(f *testing.F) {
	f.Add([]byte(scgi("CONTENT_LENGTH", "0", "SCGI", "1", "REQUEST_METHOD", "GET", "UWSGI_FILE", "/x")))
	f.Add([]byte("26:CONTENT_LENGTH\x000\x00SCGI\x001\x00A\x00,"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := New(Config{}).newConn(deadlines{&fakeConn{in: bytes.NewReader(b)}}, vassal.SCGI)
		if _, err := c.readSCGI(); err == nil {
			checkVariables(t, c)
		}
	})
}

// FuzzFastCGI: the same, of a whole connection.
func FuzzFastCGI(f *testing.F) {
	get := record(fcgiParams, 1, params("REQUEST_METHOD", "GET", "UWSGI_FILE", "/x")) + record(fcgiParams, 1, "") + record(fcgiStdin, 1, "a") + record(fcgiStdin, 1, "")
	f.Add([]byte(begin(1, 1, 1) + get + begin(1, 1, 0) + get))
	f.Add([]byte(record(fcgiGetValues, 0, params("FCGI_MAX_CONNS", "")) + record(77, 0, "x") + begin(2, 2, 1) + begin(1, 1, 0) + begin(2, 1, 0) + get))
	f.Fuzz(func(t *testing.T, b []byte) {
		out := &fakeConn{in: bytes.NewReader(b)}
		var c *conn
		s := New(Config{Done: func(*exchange.Request) {}, Log: slog.New(slog.DiscardHandler), Handler: exchange.HandlerFunc(func(ctx context.Context, r *exchange.Request, w exchange.Response) error {
			checkVariables(t, c)
			return echo(ctx, r, w)
		})})
		c = s.newConn(deadlines{out}, vassal.FastCGI)
		c.serveFastCGI(t.Context(), false)
		if s := out.out.String(); strings.HasPrefix(s, "HTTP/1.1 400 ") {
			return
		}
		for rest := &out.out; rest.Len() > 0; { // what is sent is whole records
			h := rest.Next(8)
			if len(h) < 8 || h[0] != 1 || len(rest.Next(int(h[4])<<8+int(h[5])+int(h[6]))) != int(h[4])<<8+int(h[5])+int(h[6]) {
				t.Fatalf("record % x", h)
			}
		}
	})
}

func checkVariables(t *testing.T, c *conn) {
	t.Helper()
	for _, v := range c.req.Vars {
		if strings.HasPrefix(v.Name, "UWSGI_") && v.Name != "UWSGI_SCHEME" || v.Name == "PHP_VALUE" || v.Name == "PHP_ADMIN_VALUE" || !validVariable(v.Name) {
			t.Errorf("variable %q", v.Name)
		}
	}
}
