package serve

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"liege/serve/compress"
	"liege/serve/exchange"
	"liege/vassal"
)

// showVars answers with the variables of the request.
func showVars(_ context.Context, r *exchange.Request, w exchange.Response) error {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	for _, v := range r.Vars {
		fmt.Fprintf(&out, "%s=%s\n", v.Name, v.Value)
	}
	fmt.Fprintf(&out, "modifier1=%d\nbody=%s\n", r.Modifier1, b)
	if err := w.Head(200, "", nil); err != nil {
		return err
	}
	_, err = w.Write(out.Bytes())
	return err
}

// closedPort is an address on which nobody listens.
func closedPort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return l.Addr().String()
}

// TestForward: requests of http listeners go to the servers of http-to in
// turn, past those that cannot be reached; those of others to the app.
func TestForward(t *testing.T) {
	backend := func(name string) string {
		addrs, _ := ini(t, "socket = :1\nwsgi-file = a.py\nremap-modifier = 5:0\n", func(ctx context.Context, r *exchange.Request, w exchange.Response) error {
			r.Set("NODE", name)
			return showVars(ctx, r, w)
		})
		return addrs[0]
	}
	a, b, dead := backend("a"), backend("b"), closedPort(t)
	addrs, _ := ini(t, "http = :1\nhttp-socket = :2\nwsgi-file = a.py\nhttp-to = "+a+"\nhttp-to = "+dead+"\nhttp-to = "+b+"\nhttp-modifier1 = 5\nhttp-gracetime = 60\nhttp-connect-timeout = 2\nhttp-var = ROLE=front\n", showVars)
	seen := map[string]int{}
	for i := range 8 {
		got := ask(t, addrs[0], fmt.Sprintf("POST /x?y HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 3\r\n\r\nab%d", i))
		for _, want := range []string{"REQUEST_URI=/x?y\n", "ROLE=front\n", fmt.Sprintf("body=ab%d\n", i)} {
			if !strings.Contains(got, want) {
				t.Errorf("%q is missing in %s", want, got)
			}
		}
		for _, n := range []string{"a", "b"} {
			if strings.Contains(got, "NODE="+n+"\n") {
				seen[n]++
			}
		}
	}
	if seen["a"] < 2 || seen["b"] < 2 || seen["a"]+seen["b"] != 8 {
		t.Errorf("got %v", seen)
	}
	if got := ask(t, addrs[1], "GET / HTTP/1.0\r\n\r\n"); strings.Contains(got, "NODE=") || !strings.Contains(got, "SERVER_NAME=shop") || strings.Contains(got, "ROLE=") {
		t.Errorf("http-socket: got %s", got)
	}
}

func TestForwardFallback(t *testing.T) {
	addrs, _ := ini(t, "http-socket = :1\nwsgi-file = a.py\n", showVars)
	front, _ := ini(t, "http = :1\nhttp-to = "+closedPort(t)+"\nhttp-fallback = "+addrs[0]+"\nhttp-backend-http = true\n", nil)
	for range 2 {
		got := ask(t, front[0], "GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		if !strings.Contains(got, "HTTP_X_FORWARDED_FOR=127.0.0.1\n") || !strings.Contains(got, "HTTP_HOST=h\n") {
			t.Errorf("got %s", got)
		}
	}
	front, _ = ini(t, "http = :1\nhttp-to = "+closedPort(t)+"\n", nil)
	for range 2 { // the second time it is known to be dead, and asked all the same
		if got := ask(t, front[0], "GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 502 ") {
			t.Errorf("got %s", got)
		}
	}
}

func TestHTTPVar(t *testing.T) {
	addrs, _ := ini(t, "http = :1\nwsgi-file = a.py\nhttp-var = HTTP_X_ROLE=front\nhttp-var = STAGE=live\nhttp-server-name-as-http-host = true\n", showVars)
	got := ask(t, addrs[0], "GET / HTTP/1.1\r\nHost: shop.example:8080\r\nX-Role: admin\r\nConnection: close\r\n\r\n")
	if strings.Contains(got, "admin") || strings.Count(got, "HTTP_X_ROLE=front\n") != 1 || !strings.Contains(got, "STAGE=live\n") || !strings.Contains(got, "SERVER_NAME=shop.example\n") {
		t.Errorf("got %s", got)
	}
}

func TestErrorPages(t *testing.T) {
	dir := t.TempDir()
	page := filepath.Join(dir, "404.html")
	if err := os.WriteFile(page, []byte("<h1>gone</h1>"), 0o644); err != nil {
		t.Fatal(err)
	}
	lines := "http-socket = :1\nwsgi-file = a.py\nerror-page-404 = " + dir + "/none.html\nerror-page-404 = " + page + "\n"
	addrs, _ := ini(t, lines, func(_ context.Context, r *exchange.Request, w exchange.Response) error {
		if r.Get("PATH_INFO") == "/own" {
			if err := w.Head(404, "", nil); err != nil {
				return err
			}
			_, err := io.WriteString(w, "the app's")
			return err
		}
		return &exchange.StatusError{Status: 404, Err: errNotFound}
	})
	if got := ask(t, addrs[0], "GET / HTTP/1.0\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.0 404 ") || !strings.Contains(got, "Content-Type: text/html\r\n") || !strings.HasSuffix(got, "\r\n\r\n<h1>gone</h1>") {
		t.Errorf("got %s", got)
	}
	if got := ask(t, addrs[0], "GET /own HTTP/1.0\r\n\r\n"); !strings.HasSuffix(got, "the app's") {
		t.Errorf("got %s", got)
	}
	app, _ := decode(t, "http-socket = :1\nwsgi-file = a.py\nerror-page-500 = "+dir+"/none.html\n")
	if _, err := New(app, newFake(nil), io.Discard, nil); err == nil || !strings.Contains(err.Error(), "none.html") {
		t.Errorf("a page that is not there: %v", err)
	}
}

// plainResponse keeps an answer.
type plainResponse struct {
	fields []exchange.Field
	body   strings.Builder
}

func (p *plainResponse) Head(_ int, _ string, fields []exchange.Field) error {
	p.fields = append(p.fields, fields...)
	return nil
}
func (p *plainResponse) Write(b []byte) (int, error)            { return p.body.Write(b) }
func (p *plainResponse) Flush() error                           { return nil }
func (p *plainResponse) Started() bool                          { return false }
func (p *plainResponse) File(exchange.File, int64, int64) error { return nil }

// TestAutoGzipAllLent: an answer for which no compressor is left is sent as it
// is; one that is compressed gives its own back.
func TestAutoGzipAllLent(t *testing.T) {
	var lender compress.Lender
	h := autoGzip{compressors: &lender, next: exchange.HandlerFunc(func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
		if err := w.Head(200, "", []exchange.Field{{Name: "uWSGI-Encoding", Value: "gzip"}, {Name: "ETag", Value: `"a"`}}); err != nil {
			return err
		}
		_, err := io.WriteString(w, "text")
		return err
	})}
	ask := func() *plainResponse {
		w := &plainResponse{}
		r := &exchange.Request{Header: []exchange.Field{}, Vars: []exchange.Var{{Name: "HTTP_ACCEPT_ENCODING", Value: "gzip"}}}
		if err := h.Serve(t.Context(), r, w); err != nil {
			t.Fatal(err)
		}
		return w
	}
	for range 100 {
		if w := ask(); w.body.String() == "text" {
			t.Fatal("not compressed")
		}
	}
	for lender.Gzip(io.Discard) != nil { // others' clients do not read
	}
	want := []exchange.Field{{Name: "ETag", Value: `"a"`}, {Name: "Vary", Value: "Accept-Encoding"}}
	if w := ask(); w.body.String() != "text" || !slices.Equal(w.fields, want) {
		t.Errorf("%q, %v", w.body.String(), w.fields)
	}
}

func TestAutoGzip(t *testing.T) {
	text := strings.Repeat("compress me ", 5000)
	var calls atomic.Int32
	addrs, _ := ini(t, "http = :1\nwsgi-file = a.py\nhttp-auto-gzip = true\n", func(_ context.Context, r *exchange.Request, w exchange.Response) error {
		calls.Add(1)
		fields := []exchange.Field{{Name: "ETag", Value: `"a"`}}
		if r.Get("PATH_INFO") != "/plain" {
			fields = append(fields, exchange.Field{Name: "uWSGI-Encoding", Value: "gzip"})
		}
		if r.Info.Measured = r.Get("PATH_INFO") == "/measured"; r.Info.Measured || r.Get("PATH_INFO") == "/length" {
			fields = append(fields, exchange.Field{Name: "Content-Length", Value: fmt.Sprint(len(text))})
		}
		if err := w.Head(200, "", fields); err != nil {
			return err
		}
		for i := 0; i < len(text); i += 1000 {
			if _, err := io.WriteString(w, text[i:i+1000]); err != nil {
				return err
			}
			if err := w.Flush(); err != nil {
				return err
			}
		}
		return nil
	})
	for _, c := range []struct {
		method, path, accept string
		packed               bool
	}{
		{"GET", "/", "gzip, deflate", true}, {"GET", "/", "*", true}, {"GET", "/", "br;q=1.0, gzip;q=0.5", true},
		{"HEAD", "/", "gzip", true},
		{"GET", "/", "", false}, {"GET", "/", "gzip;q=0", false}, {"GET", "/", "identity", false}, {"GET", "/", "gzip;q=0, *", false},
		{"GET", "/plain", "gzip", false}, {"GET", "/length", "gzip", false},
		{"GET", "/measured", "gzip", true}, {"HEAD", "/measured", "gzip", true}, {"GET", "/measured", "br", false},
	} {
		q, _ := http.NewRequest(c.method, "http://"+addrs[0]+c.path, nil)
		q.Header.Set("Accept-Encoding", c.accept)
		a, err := (&http.Transport{DisableKeepAlives: true, DisableCompression: true}).RoundTrip(q)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(a.Body)
		a.Body.Close()
		if packed := a.Header.Get("Content-Encoding") == "gzip"; err != nil || packed != c.packed || a.Header.Get("Uwsgi-Encoding") != "" {
			t.Errorf("%+v: %v %v", c, a.Header, err)
		}
		if etag := a.Header.Get("ETag"); (etag == `W/"a"`) != c.packed {
			t.Errorf("%+v: ETag %s", c, etag)
		}
		if got := a.Header.Get("Content-Length"); c.packed && got != "" || c.path == "/measured" && !c.packed && got != fmt.Sprint(len(text)) {
			t.Errorf("%+v: Content-Length %q", c, got)
		}
		if c.method == "HEAD" {
			continue
		}
		if c.packed {
			z, err := gzip.NewReader(bytes.NewReader(b))
			if err != nil {
				t.Fatalf("%+v: %v", c, err)
			}
			if b, err = io.ReadAll(z); err != nil {
				t.Fatalf("%+v: %v", c, err)
			}
		}
		if string(b) != text {
			t.Errorf("%+v: %d bytes", c, len(b))
		}
	}
}

// TestSharedSocket: =N is the address of the N-th shared-socket line.
func TestSharedSocket(t *testing.T) {
	app, ps := decode(t, "http-socket = =1\nshared-socket = 127.0.0.1:80\nuwsgi-socket = =0\nshared-socket = 127.0.0.1:81\nsocket-sndbuf = 65536\nsocket-rcvbuf = 32768\nfreebind = true\nwsgi-file = a.py\n")
	got := fmt.Sprint(app.Listen[0].Address, app.Listen[1].Address, app.Listen[0].Sockets)
	if want := fmt.Sprint("127.0.0.1:81", "127.0.0.1:80", vassal.Sockets{SendBuffer: 65536, ReceiveBuffer: 32768, Freebind: true}); got != want {
		t.Errorf("got %s, want %s (%v)", got, want, ps)
	}
}

func TestProxyProtocolLine(t *testing.T) {
	addrs, _ := ini(t, "http-socket = :1\nsocket = :2\nwsgi-file = a.py\nenable-proxy-protocol = true\n", showVars)
	if got := ask(t, addrs[0], "PROXY TCP4 10.0.0.1 10.0.0.2 8080 81\r\nGET / HTTP/1.0\r\n\r\n"); !strings.Contains(got, "REMOTE_ADDR=10.0.0.1\n") {
		t.Errorf("got %s", got)
	}
	if got := ask(t, addrs[1], uwsgiAsk(0, "REQUEST_METHOD", "GET")); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("got %s", got)
	}
}
