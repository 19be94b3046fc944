package front

import (
	"bufio"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/vassal"
)

// TestInformSlowClient: nobody waits for a client that does not read. What it then
// reads is whole, and in order.
func TestInformSlowClient(t *testing.T) {
	testenv.Leaks(t)
	link, told := strings.Repeat("x", 64<<10), make(chan struct{})
	r := serve(t, vassal.HTTP, keepAlive, func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
		for range 300 { // 19 MiB: more than the kernel keeps
			exchange.SendInformational(w, 103, fields("Link", link))
		}
		close(told)
		return answerWith(200, "", fields("X-A", "b"), nil, "hello")(context.Background(), nil, w)
	})
	c := dial(t, r.addr)
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-told:
	case <-time.After(3 * time.Second):
		t.Fatal("an informational response waits for the client")
	}
	in, informed := bufio.NewReader(c), 0
	for {
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("after %d informational responses: %v", informed, err)
		}
		if res.StatusCode == 103 {
			if informed++; res.Header.Get("Link") != link {
				t.Fatal("one is not whole")
			}
			continue
		}
		b, err := io.ReadAll(res.Body)
		if res.StatusCode != 200 || string(b) != "hello" || err != nil || informed == 0 || informed > 299 {
			t.Errorf("%d %q, %v, behind %d informational responses", res.StatusCode, b, err, informed)
		}
		break
	}
	c.Close()
	r.stop()
}

// slowStream is a stream of HTTP/2 of which the client reads when step says so.
type slowStream struct {
	header http.Header
	step   chan func()
	heads  []int
	seen   []http.Header
	body   strings.Builder
}

func (s *slowStream) Header() http.Header                { return s.header }
func (s *slowStream) Write(p []byte) (int, error)        { return s.body.Write(p) }
func (s *slowStream) SetWriteDeadline(_ time.Time) error { return nil }

func (s *slowStream) WriteHeader(status int) {
	if status < 200 {
		if read := <-s.step; read != nil {
			read()
		}
	}
	s.heads, s.seen = append(s.heads, status), append(s.seen, maps.Clone(s.header))
}

// answerH2 sends two informational responses and an answer, and returns how that
// has ended once it has.
func answerH2(t *testing.T, s *slowStream, ctx context.Context) (r *h2response, ended chan error) {
	t.Helper()
	r = newH2Response(ctx, s, &Server{limits: vassal.HTTPLimits{WriteTimeout: time.Minute}})
	ended, told := make(chan error, 1), make(chan struct{})
	go func() {
		r.Inform(103, fields("Link", "a"))
		r.Inform(103, fields("X-Other", "b"))
		close(told)
		ended <- r.finish(answerWith(200, "", fields("X-A", "b"), nil, "hello")(ctx, nil, r))
	}()
	select {
	case <-told:
	case <-time.After(3 * time.Second):
		t.Fatal("an informational response waits for the client")
	}
	return r, ended
}

// TestH2InformSlowClient is TestInformSlowClient for HTTP/2.
func TestH2InformSlowClient(t *testing.T) {
	s := &slowStream{header: http.Header{}, step: make(chan func())}
	_, ended := answerH2(t, s, t.Context())
	s.step <- func() {}
	s.step <- func() {}
	if err := <-ended; err != nil || s.body.String() != "hello" {
		t.Fatalf("%q, %v", s.body.String(), err)
	}
	for i, want := range []struct {
		status int
		field  string
	}{{103, "Link"}, {103, "X-Other"}, {200, "X-A"}} {
		if i >= len(s.heads) || s.heads[i] != want.status || s.seen[i].Get(want.field) == "" || want.field != "Link" && s.seen[i].Get("Link") != "" {
			t.Errorf("%d: %v %v", i, s.heads, s.seen)
		}
	}
}

// TestH2InformReset: net/http may still read the fields of an informational
// response when the client has reset the stream: they stay as they are.
func TestH2InformReset(t *testing.T) {
	ctx, reset := context.WithCancel(t.Context())
	s := &slowStream{header: http.Header{}, step: make(chan func())}
	r, ended := answerH2(t, s, ctx)
	s.step <- reset
	close(s.step)
	if err := <-ended; !errors.Is(err, errClientGone) || !r.torn {
		t.Errorf("it ended with %v; torn: %v", err, r.torn)
	}
	if len(s.heads) != 1 || s.header.Get("Link") != "a" || s.header.Get("X-A") != "" {
		t.Errorf("the header was touched: %v, %v", s.header, s.heads)
	}
}
