package proxy

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/serve/exchange"
)

// TestReuse: connections are used again, one that the server has closed
// meanwhile does no harm, and a POST is never sent twice.
func TestReuse(t *testing.T) {
	testenv.Leaks(t)
	var conns, posts atomic.Int64
	shut := make(chan bool, 1)
	addr := server(t, "tcp", func(c net.Conn) {
		conns.Add(1)
		br := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			b, _ := io.ReadAll(r.Body)
			if r.Method == "POST" {
				posts.Add(1)
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", 1+len(b), string(b)+"!")
			if r.URL.Path == "/last" { // and says nothing of it
				c.Close()
				shut <- true
				return
			}
		}
	})
	c := newClient(t)
	ask := func(method, path, body, want string) {
		t.Helper()
		a := &answered{}
		if err := c.HTTP(t.Context(), newRequest(method, path, body), a, Target{Address: addr}); err != nil || a.text() != want {
			t.Errorf("%s %s: %v %q", method, path, err, a.text())
		}
	}
	for range 3 {
		ask("GET", "/", "", "!")
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for three requests", n)
	}
	ask("GET", "/last", "", "!")
	<-shut
	ask("GET", "/", "", "!")
	ask("POST", "/", "body", "body!")
	if n := conns.Load(); n != 3 || posts.Load() != 1 {
		t.Errorf("%d connections, %d posts", n, posts.Load())
	}
}

// TestFraming: an answer whose end is in doubt is refused, and nothing of it is
// taken for the next one.
func TestFraming(t *testing.T) {
	for _, c := range []struct{ raw, want string }{
		{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "200 abc"},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nX: y\r\n\r\n", "200 abc"},
		{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", "200 a"},
		{"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\na", "200 a"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "502"},
		{"HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc", "502"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc", "502"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "502"},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "502"},
		{"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", "502"},
		{"HTTP/1.1 200 OK\r\nX : a\r\n\r\n", "502"},
		{"HTTP/1.1 200 OK\r\nX: a\x00\r\n\r\n", "502"},
		{"HTTP/1.1 999 OK\r\n\r\n", "502"},
		{"HTTP/2.0 200 OK\r\n\r\n", "502"},
		{"HTTP/1.1 200 OK\r\nX: a", "502"},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "200 "},
		{strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 20), "502"},
		{"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", maxFields+1) + "\r\n", "502"},
	} {
		a := &answered{}
		err := newClient(t).HTTP(t.Context(), newRequest("GET", "/", ""), a, Target{Address: rawServer(t, c.raw)})
		got := fmt.Sprintf("%d %s", a.status, a.text())
		if !a.Started() {
			got = fmt.Sprint(exchange.StatusOf(err))
		}
		if got != c.want || err == nil && strings.Contains(c.raw, "zz") {
			t.Errorf("%.60q: %q %v, want %q", c.raw, got, err, c.want)
		}
	}
}

// FuzzAnswer: what we take for an answer, net/http takes for the same one.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.0 200 OK\r\nA: b\r\n\r\nto the end", "HTTP/1.1 204 X\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a\r\nabc\r\n0\r\nX: y\r\n\r\n", "HTTP/1.1 304 X\r\nContent-Length: 9\r\n\r\n",
		"HTTP/1.1 200 OK\nConnection: close, X\nX: y\n\nz",
		"HTTP/1.0 200 \nTrAnsfer-EnCoding:Chunked\n\n0\r\n0\r\n\r\n", "HTTP/1.1 200 \nTrAnsfer-EnCoding:Chunked\n\n0\r\n0\r\n\r\n"} {
		f.Add(s)
	}
	c := New(Limits{Silence: time.Second}, slog.New(slog.DiscardHandler))
	f.Fuzz(func(t *testing.T, s string) {
		if !strings.HasPrefix(s, "HTTP/") {
			return
		}
		a := &answered{}
		if err := c.reply(t.Context(), newRequest("GET", "/", ""), a, &conn{addr: "x"}, strings.NewReader(s)); err != nil {
			return
		}
		res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(s)), &http.Request{Method: "GET"})
		if err != nil {
			t.Fatalf("%q: net/http says %v", s, err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || string(body) != a.text() || res.StatusCode != a.status {
			t.Errorf("%q: %d %q, net/http %d %q %v", s, a.status, a.text(), res.StatusCode, body, err)
		}
	})
}

// TestUnasked: what a server says on a connection that waits for a request is
// no answer to the next one.
func TestUnasked(t *testing.T) {
	testenv.Leaks(t)
	say, said := make(chan string), make(chan bool)
	addr := server(t, "tcp", func(c net.Conn) {
		br := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
			if r.Method != "HEAD" {
				fmt.Fprint(c, "right")
			}
			if r.URL.Path == "/more" {
				fmt.Fprint(c, <-say)
				said <- true
			}
		}
	})
	c := newClient(t)
	for _, more := range []string{"HTTP/1.1 408 Request Timeout\r\nContent-Length: 5\r\n\r\nwrong", "right"} {
		method := "GET"
		if more == "right" { // a body that no answer to HEAD has
			method = "HEAD"
		}
		if err := c.HTTP(t.Context(), newRequest(method, "/more", ""), &answered{}, Target{Address: addr}); err != nil {
			t.Fatal(err)
		}
		say <- more
		<-said
		a := &answered{}
		if err := c.HTTP(t.Context(), newRequest("GET", "/", ""), a, Target{Address: addr}); err != nil || a.status != 200 || a.text() != "right" {
			t.Errorf("after %.20q: %v %d %q", more, err, a.status, a.text())
		}
	}
}

// TestOneContentType: what a web server says twice by its protocol, as a
// variable and as the client's field, is one field to the upstream, and none
// where the client sent none.
func TestOneContentType(t *testing.T) {
	for _, c := range []struct {
		vars []exchange.Var
		want string
	}{
		{[]exchange.Var{{Name: "CONTENT_TYPE", Value: "a/b"}, {Name: "HTTP_CONTENT_TYPE", Value: "a/b"}}, "a/b"},
		{[]exchange.Var{{Name: "HTTP_CONTENT_TYPE", Value: "x/y"}, {Name: "CONTENT_TYPE", Value: "a/b"}}, "a/b"},
		{[]exchange.Var{{Name: "CONTENT_TYPE", Value: ""}, {Name: "HTTP_CONTENT_TYPE", Value: "x/y"}}, ""},
		{[]exchange.Var{{Name: "CONTENT_TYPE", Value: ""}}, ""},
		{[]exchange.Var{{Name: "HTTP_CONTENT_TYPE", Value: "x/y"}}, "x/y"},
		{[]exchange.Var{{Name: "HTTP_CONTENT_TYPE", Value: ""}}, ""},
	} {
		r := newRequest("POST", "/", "body")
		r.Vars = append(r.Vars, exchange.Var{Name: "CONTENT_LENGTH", Value: "4"}, exchange.Var{Name: "HTTP_CONTENT_LENGTH", Value: "5"})
		r.Vars = append(r.Vars, c.vars...)
		b, _, err := appendRequest(nil, r, Target{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := http.ReadRequest(bufio.NewReader(strings.NewReader(string(b))))
		if err != nil {
			t.Fatal(err)
		}
		if v := got.Header["Content-Type"]; strings.Join(v, "|") != c.want || len(v) > 1 || c.want == "" && len(v) > 0 || strings.Count(string(b), "Content-Length") != 1 {
			t.Errorf("%v: %q", c.vars, b)
		}
		two, err := h2cRequest(r, Target{Address: "a:1"})
		if err != nil {
			t.Fatal(err)
		}
		if v := two.Header["Content-Type"]; strings.Join(v, "|") != c.want || c.want == "" && len(v) > 0 {
			t.Errorf("%v: HTTP/2: %q", c.vars, v)
		}
	}
}
