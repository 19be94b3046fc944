package front

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"liege/serve/exchange"
	"liege/vassal"
)

// undated takes the Date line out of an answer.
func undated(s string) string {
	var out []string
	for l := range strings.SplitSeq(s, "\r\n") {
		if !strings.HasPrefix(l, "Date: ") {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\r\n")
}

func fields(kv ...string) []exchange.Field {
	var f []exchange.Field
	for i := 0; i < len(kv); i += 2 {
		f = append(f, exchange.Field{Name: kv[i], Value: kv[i+1]})
	}
	return f
}

// answerWith is a backend that gives head and body, and then err.
func answerWith(status int, reason string, f []exchange.Field, err error, body ...string) exchange.HandlerFunc {
	return func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
		if e := w.Head(status, reason, f); e != nil {
			return e
		}
		for _, b := range body {
			if b == "<flush>" {
				if e := w.Flush(); e != nil {
					return e
				}
				continue
			}
			if _, e := io.WriteString(w, b); e != nil {
				return e
			}
		}
		return err
	}
}

var errBackend = errors.New("the backend broke")

func TestResponse(t *testing.T) {
	big := strings.Repeat("x", 20000)
	get, get10, head := "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.0\r\n\r\n", "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
	const closing = "Connection: close\r\n\r\n"
	for _, c := range []struct {
		name, raw string
		h         exchange.HandlerFunc
		want      string
	}{
		{"length known", get, answerWith(200, "", fields("Content-Length", "2", "A", "b"), nil, "h", "i"),
			"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2\r\n" + closing + "hi"},
		{"length found out", get, answerWith(200, "Fine", nil, nil, "h", "i"),
			"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\n" + closing + "hi"},
		{"no body", get, answerWith(200, "", nil, nil), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + closing},
		{"streamed", get, answerWith(200, "", nil, nil, "h", "<flush>", "i", "<flush>", "!"),
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + closing + "1\r\nh\r\n1\r\ni\r\n1\r\n!\r\n0\r\n\r\n"},
		{"streamed 1.0", get10, answerWith(200, "", nil, nil, "h", "<flush>", "i"), "HTTP/1.0 200 OK\r\n\r\nhi"},
		{"big", get, answerWith(200, "", nil, nil, big), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + closing + "4e20\r\n" + big + "\r\n0\r\n\r\n"},
		{"head", head, answerWith(200, "", fields("Content-Length", "2"), nil, "hi"), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + closing},
		{"head of unknown length", head, answerWith(200, "", nil, nil, "hi"), "HTTP/1.1 200 OK\r\n" + closing},
		{"204 with body", get, answerWith(204, "", fields("Content-Length", "2"), nil, "hi"), "HTTP/1.1 204 No Content\r\n" + closing},
		{"304 with body", get, answerWith(304, "", fields("Content-Length", "2", "ETag", "x"), nil, "hi"), "HTTP/1.1 304 Not Modified\r\nETag: x\r\n" + closing},
		{"unknown status", get, answerWith(299, "", nil, nil), "HTTP/1.1 299 \r\nContent-Length: 0\r\n" + closing},
		{"connection fields", get, answerWith(200, "", fields("Connection", "X", "Keep-Alive", "1"), nil), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + closing},
		// What a backend may not do (threat D09).
		{"1xx", get, answerWith(101, "", nil, nil), bad502},
		{"999", get, answerWith(999, "", nil, nil), bad502},
		{"reason", get, answerWith(200, "OK\r\nSet-Cookie: a", nil, nil), bad502},
		{"value", get, answerWith(200, "", fields("A", "b\r\nSet-Cookie: a"), nil), bad502},
		{"value LF", get, answerWith(200, "", fields("A", "b\nc"), nil), bad502},
		{"value NUL", get, answerWith(200, "", fields("A", "b\x00"), nil), bad502},
		{"name", get, answerWith(200, "", fields("A b", "c"), nil), bad502},
		{"name colon", get, answerWith(200, "", fields("A:", "c"), nil), bad502},
		{"no name", get, answerWith(200, "", fields("", "c"), nil), bad502},
		{"two lengths", get, answerWith(200, "", fields("Content-Length", "2", "content-length", "3"), nil, "hi"), bad502},
		{"length", get, answerWith(200, "", fields("Content-Length", "2x"), nil, "hi"), bad502},
		{"coding", get, answerWith(200, "", fields("Transfer-Encoding", "chunked"), nil, "0\r\n\r\n"), bad502},
		{"too short", get, answerWith(200, "", fields("Content-Length", "3"), nil, "hi"), bad502},
		{"too short, sent", get, answerWith(200, "", fields("Content-Length", "3"), nil, "hi", "<flush>"),
			"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n" + closing + "hi"},
		{"too long, sent", get, answerWith(200, "", fields("Content-Length", "1"), nil, "h", "<flush>", "i"),
			"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n" + closing + "h"},
		{"no answer", get, func(context.Context, *exchange.Request, exchange.Response) error { return nil }, bad502},
		{"body without head", get, func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
			_, err := io.WriteString(w, "x")
			return err
		}, bad502},
		{"two heads", get, func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
			return errors.Join(w.Head(200, "", nil), w.Head(200, "", nil))
		}, bad502},
		{"error", get, answerWith(200, "", nil, errBackend, "secret"),
			"HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 26\r\n" + closing + "500 Internal Server Error\n"},
		{"error, sent", get, answerWith(200, "", nil, errBackend, "h", "<flush>", "i"),
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + closing + "1\r\nh\r\n1\r\ni\r\n"}, // and no last chunk
		{"busy", get, func(context.Context, *exchange.Request, exchange.Response) error {
			return &exchange.StatusError{Status: 503, RetryAfter: 1500 * time.Millisecond, Err: errBackend}
		}, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nRetry-After: 2\r\nContent-Length: 24\r\n" + closing + "503 Service Unavailable\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := serve(t, vassal.HTTP, vassal.HTTPLimits{}, c.h)
			if got := undated(ask(t, r.addr, c.raw)); got != c.want {
				t.Errorf("got\n%.600q\nwant\n%.600q", got, c.want)
			}
		})
	}
}

const bad502 = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 16\r\nConnection: close\r\n\r\n502 Bad Gateway\n"

// TestNextAnswerIsWhole: after an answer that broke, nothing of it reaches the
// next request of the connection, because there is none.
func TestNextAnswerIsWhole(t *testing.T) {
	for _, body := range []string{"hi", "hi, and HTTP/1.1 200 OK\r\n\r\n"} {
		r := serve(t, vassal.HTTP, keepAlive, answerWith(200, "", fields("Content-Length", "5"), nil, body, "<flush>"))
		got := ask(t, r.addr, strings.Repeat("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 2))
		if n := strings.Count(got, "HTTP/1.1"); n != 1 {
			t.Errorf("%d answers:\n%s", n, got)
		}
	}
}

func TestKeepAlive(t *testing.T) {
	for _, c := range []struct {
		name, raw string
		limits    vassal.HTTPLimits
		answers   int
	}{
		{"1.1", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", keepAlive, 2},
		{"1.1 close", "GET / HTTP/1.1\r\nHost: x\r\nConnection: X, Close\r\n\r\n", keepAlive, 1},
		{"1.0", "GET / HTTP/1.0\r\n\r\n", keepAlive, 1},
		{"1.0 keep-alive", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", keepAlive, 2},
		{"off", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", vassal.HTTPLimits{}, 1},
		{"head", "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", keepAlive, 2},
	} {
		c.limits.IdleTimeout = 50 * time.Millisecond
		r := serve(t, vassal.HTTP, c.limits, hello)
		if got := ask(t, r.addr, c.raw+c.raw); strings.Count(got, " 200 OK") != c.answers {
			t.Errorf("%s: want %d answers, got\n%s", c.name, c.answers, got)
		}
	}
}

func TestFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	text := strings.Repeat("0123456789", 100_000)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, n := range []int64{0, 1, 1000, 60_000, 70_000, 900_000} {
		for _, chunked := range []bool{false, true} {
			r := serve(t, vassal.HTTP, vassal.HTTPLimits{}, func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
				fs := fields("Content-Length", itoa(n+2))
				if chunked {
					fs = nil
				}
				if err := w.Head(200, "", fs); err != nil {
					return err
				}
				io.WriteString(w, "<")
				if err := w.File(f, 7, n); err != nil {
					return err
				}
				_, err := io.WriteString(w, ">")
				return err
			})
			got := ask(t, r.addr, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			_, body, _ := strings.Cut(got, "\r\n\r\n")
			if strings.Contains(got, "chunked") {
				body = dechunk(t, body)
			}
			if want := "<" + text[7:7+n] + ">"; body != want {
				t.Errorf("%d bytes, chunked %t: got %d bytes %.40q…", n, chunked, len(body), body)
			}
		}
	}
	// A file that becomes shorter: the client sees that the answer is cut.
	r := serve(t, vassal.HTTP, vassal.HTTPLimits{}, func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
		if err := w.Head(200, "", fields("Content-Length", "2000000")); err != nil {
			return err
		}
		return w.File(f, 0, 2_000_000)
	})
	got := ask(t, r.addr, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	_, body, _ := strings.Cut(got, "\r\n\r\n")
	if body != text {
		t.Errorf("got %d bytes, want the %d that there are", len(body), len(text))
	}
	if i := r.infos(); len(i) != 1 || !errors.Is(i[0].Err, errFileShrank) {
		t.Errorf("got %+v", i)
	}
}

// TestBodyClose: an answer that is complete before the request is does not
// wait for the rest.
func TestBodyClose(t *testing.T) {
	r := serve(t, vassal.HTTP, keepAlive, func(_ context.Context, q *exchange.Request, w exchange.Response) error {
		read := make(chan error)
		go func() {
			_, err := io.ReadAll(q.Body)
			read <- err
		}()
		if err := w.Head(200, "", nil); err != nil {
			return err
		}
		q.Body.(io.Closer).Close()
		if err := <-read; err == nil {
			t.Error("the read ended without an error")
		}
		_, err := io.WriteString(w, "done")
		return err
	})
	got := ask(t, r.addr, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
	if !strings.HasSuffix(got, "done") {
		t.Errorf("got %q", got)
	}
}

func dechunk(t *testing.T, s string) string {
	var out strings.Builder
	for {
		line, rest, ok := strings.Cut(s, "\r\n")
		n, err := chunkSize([]byte(line))
		if !ok || err != nil || int64(len(rest)) < n+2 {
			t.Fatalf("bad chunk %.20q: %v", line, err)
		}
		out.WriteString(rest[:n])
		if s = rest[n+2:]; n == 0 {
			return out.String()
		}
	}
}

func itoa(n int64) string {
	b := []byte{}
	for {
		b = append([]byte{byte('0' + n%10)}, b...)
		if n /= 10; n == 0 {
			return string(b)
		}
	}
}

// TestTrailers: fields behind a body in chunks, for a client by HTTP/1.1 that has
// said that it takes them, and never what only a head may say.
func TestTrailers(t *testing.T) {
	var status int
	var head, behind []exchange.Field
	var parts []string
	r := serve(t, vassal.HTTP, keepAlive, func(ctx context.Context, req *exchange.Request, w exchange.Response) error {
		if said := req.Get("HTTP_TE") == "trailers" && req.Get("SERVER_PROTOCOL") == "HTTP/1.1"; req.Trailing != said {
			t.Errorf("Trailing is %v", req.Trailing)
		}
		err := answerWith(status, "", head, nil, parts...)(ctx, req, w)
		exchange.SendTrailers(w, behind)
		return err
	})
	for _, c := range []struct {
		request, length, want string
		status                int
		parts                 []string
	}{
		{"GET / HTTP/1.1\r\nTE: trailers\r\nConnection: TE", "", "2\r\nhi\r\n0\r\nX-Sum: 1 2\r\nx-b: \r\n\r\n", 200, []string{"hi"}},
		{"GET / HTTP/1.1\r\nTE: gzip;q=0.5, Trailers;q=1", "", "1\r\na\r\n1\r\nb\r\n0\r\nX-Sum: 1 2\r\nx-b: \r\n\r\n", 200, []string{"a", "<flush>", "b", "<flush>"}},
		{"GET / HTTP/1.1\r\nTE: trailers", "", "0\r\nX-Sum: 1 2\r\nx-b: \r\n\r\n", 200, nil},
		{"GET / HTTP/1.1\r\nTE: trailers", "2", "hi", 200, []string{"hi"}},
		{"GET / HTTP/1.1\r\nTE: trailers", "", "", 204, nil},
		{"HEAD / HTTP/1.1\r\nTE: trailers", "", "", 200, []string{"hi"}},
		{"GET / HTTP/1.1\r\nTE: gzip", "", "hi", 200, []string{"hi"}},
		{"GET / HTTP/1.1", "", "1\r\na\r\n0\r\n\r\n", 200, []string{"a", "<flush>"}},
		{"GET / HTTP/1.0\r\nTE: trailers", "", "hi", 200, []string{"hi"}},
	} {
		status, parts, head = c.status, c.parts, nil
		if c.length != "" {
			head = fields("Content-Length", c.length)
		}
		behind = fields("X-Sum", " 1 2", "Content-Length", "9", "Transfer-Encoding", "x", "Set-Cookie", "a=b", "content-type", "text/html", "Trailer", "y", "bad name", "z", "X-C", "a\r\nb", "x-b", "")
		got := ask(t, r.addr, c.request+"\r\nHost: x\r\nConnection: close\r\n\r\n")
		if _, body, _ := strings.Cut(got, "\r\n\r\n"); body != c.want {
			t.Errorf("%q, length %q: %q, want %q", c.request, c.length, got, c.want)
		}
	}
	// What another's reader makes of it, and that the connection goes on.
	status, parts, head = 200, []string{"hello"}, fields("Trailer", "X-Sum")
	c := &http.Client{Transport: &http.Transport{}}
	defer c.CloseIdleConnections()
	for i := range 2 {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+r.addr+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("TE", "trailers")
		reused := false
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{GotConn: func(g httptrace.GotConnInfo) { reused = g.Reused }}))
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || string(body) != "hello" || res.Trailer.Get("X-Sum") != "1 2" || len(res.Trailer) != 2 || reused != (i > 0) {
			t.Errorf("%d: %q %v, trailers %v, reused %v", i, body, err, res.Trailer, reused)
		}
	}
}

// TestInformational: responses before the answer, to clients by HTTP/1.1 only.
func TestInformational(t *testing.T) {
	r := serve(t, vassal.HTTP, keepAlive, func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
		exchange.SendInformational(w, 103, fields("Link", "</a>; rel=preload", "Content-Length", "7", "Transfer-Encoding", "chunked", "bad name", "x", "X-B", "a\r\nb"))
		exchange.SendInformational(w, 101, fields("Upgrade", "x"))
		exchange.SendInformational(w, 102, nil)
		if err := w.Head(200, "", fields("X-A", "b")); err != nil {
			return err
		}
		exchange.SendInformational(w, 103, nil)
		_, err := io.WriteString(w, "hello")
		return err
	})
	const final = "HTTP/1.%d 200 OK\r\nX-A: b\r\nContent-Length: 5\r\n%s\r\nhello"
	for minor, want := range []string{fmt.Sprintf(final, 0, ""), "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + fmt.Sprintf(final, 1, "Connection: close\r\n")} {
		if got := undated(ask(t, r.addr, fmt.Sprintf("GET / HTTP/1.%d\r\nHost: x\r\nConnection: close\r\n\r\n", minor))); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
