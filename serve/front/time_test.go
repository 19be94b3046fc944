package front

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/vassal"
)

// pipes is a listener in memory: time in a synctest bubble passes for it.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// inBubble runs f with a connection to a server, in fake time.
func inBubble(t *testing.T, limits vassal.HTTPLimits, h exchange.HandlerFunc, f func(c net.Conn, stop func())) {
	synctest.Test(t, func(t *testing.T) {
		l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		s := New(Config{Limits: limits, Drain: time.Minute, Handler: h, Done: func(*exchange.Request) {}, Log: slog.New(slog.DiscardHandler)})
		ctx, stop := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() {
			if err := s.Run(ctx, []Listener{{Listener: l, Protocol: vassal.HTTP}}); err != nil {
				t.Error(err)
			}
		})
		mine, theirs := net.Pipe()
		l.conns <- theirs
		f(mine, stop)
		mine.Close()
		stop()
		run.Wait()
	})
}

// trickle writes s one byte each d, in fake time, and returns what is
// answered, after how long.
func trickle(c net.Conn, s string, d time.Duration) (string, time.Duration) {
	begin := time.Now()
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := range len(s) {
			if _, err := io.WriteString(c, s[i:i+1]); err != nil {
				return
			}
			time.Sleep(d)
		}
	})
	b, _ := io.ReadAll(c)
	took := time.Since(begin)
	c.Close()
	writer.Wait()
	return string(b), took
}

func TestSlowHead(t *testing.T) {
	inBubble(t, vassal.HTTPLimits{HeaderTimeout: 20 * time.Second}, hello, func(c net.Conn, _ func()) {
		b, took := trickle(c, "GET / HTTP/1.1\r\nHost: x\r\nA: "+strings.Repeat("a", 1000), time.Second)
		if status(b) != 408 || took != 20*time.Second {
			t.Errorf("after %v: %q", took, b)
		}
	})
}

// TestSlowBody: a body may take as long as it likes, if it goes on.
func TestSlowBody(t *testing.T) {
	inBubble(t, vassal.HTTPLimits{BodyTimeout: 10 * time.Second}, echo, func(c net.Conn, _ func()) {
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n")
		b, took := trickle(c, strings.Repeat("a", 50), 8*time.Second)
		if status(b) != 200 || took < 6*time.Minute {
			t.Errorf("after %v: %q", took, b)
		}
	})
	inBubble(t, vassal.HTTPLimits{BodyTimeout: 10 * time.Second}, echo, func(c net.Conn, _ func()) {
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n")
		b, took := trickle(c, strings.Repeat("a", 50), 11*time.Second)
		if status(b) != 408 || took < 8*time.Second || took > 10*time.Second {
			t.Errorf("after %v: %q", took, b)
		}
	})
}

// TestGrace: how long connections without a request are kept when the server
// drains.
func TestGrace(t *testing.T) {
	for _, c := range []struct {
		name, raw string
		want      time.Duration
	}{
		{"fresh", "", freshGrace},
		{"idle", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", idleGrace},
		{"head under way", "GET / HT", 20 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, vassal.HTTPLimits{KeepAlive: true, HeaderTimeout: 20 * time.Second}, hello, func(conn net.Conn, stop func()) {
				read := make(chan struct{})
				go func() { io.Copy(io.Discard, conn); close(read) }()
				if c.raw != "" { // net.Pipe hands an empty write on
					io.WriteString(conn, c.raw)
				}
				synctest.Wait()
				begin := time.Now()
				stop()
				<-read
				if took := time.Since(begin); took != c.want {
					t.Errorf("closed after %v, want %v", took, c.want)
				}
			})
		})
	}
}

// TestGraceOfLate: a connection that was accepted at the moment of the drain
// has no longer than the others.
func TestGraceOfLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Handler: exchange.HandlerFunc(hello), Done: func(*exchange.Request) {}, Log: slog.New(slog.DiscardHandler)})
		s.draining.Store(true)
		mine, theirs := net.Pipe()
		defer mine.Close()
		begin := time.Now()
		s.one(t.Context(), theirs, &Listener{Protocol: vassal.HTTP})
		if took := time.Since(begin); took != freshGrace {
			t.Errorf("closed after %v, want %v", took, freshGrace)
		}
	})
}

// TestFastCGIUnread: a peer that does not read what its records are answered
// with holds the connection no longer than one that does not read an answer.
func TestFastCGIUnread(t *testing.T) {
	const (
		values = "\x01\x09\x00\x00\x00\x11\x00\x00\x0f\x00FCGI_MPXS_CONNS"
		other  = "\x01\x63\x00\x00\x00\x00\x00\x00"
		begin  = "\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00"
		second = "\x01\x01\x00\x02\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00"
		params = "\x01\x04\x00\x01\x00\x13\x00\x00\x0e\x03REQUEST_METHODPUT\x01\x04\x00\x01\x00\x00\x00\x00"
	)
	for name, raw := range map[string]string{"values": values, "unknown": other, "in a head": begin + values, "second": begin + second,
		"in a body": begin + params + values, "second in a body": begin + params + second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := New(Config{Limits: vassal.HTTPLimits{WriteTimeout: 7 * time.Second}, Handler: exchange.HandlerFunc(echo), Done: func(*exchange.Request) {}, Log: slog.New(slog.DiscardHandler)})
				mine, theirs := net.Pipe()
				defer mine.Close()
				var peer sync.WaitGroup
				peer.Go(func() { io.WriteString(mine, raw) })
				begin := time.Now()
				s.one(t.Context(), theirs, &Listener{Protocol: vassal.FastCGI})
				if took := time.Since(begin); took > 15*time.Second {
					t.Errorf("closed after %v", took)
				}
				peer.Wait()
			})
		})
	}
}

// TestCutBody: a client that breaks off an upload is at fault, not the app.
func TestCutBody(t *testing.T) {
	testenv.Leaks(t)
	s := serveTLS(t, vassal.HTTPS, keepAlive, echo, nil)
	for _, raw := range []string{"Content-Length: 9\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n9\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"} {
		c := s.dial(t, "http/1.1")
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\n"+raw)
		c.CloseWrite()
		if b, _ := io.ReadAll(c); status(string(b)) != 400 {
			t.Errorf("%q: %q", raw, b)
		}
	}
	f := s.frames(t)
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block(":method", "POST", ":scheme", "https", ":authority", "x", ":path", "/"), EndHeaders: true})
	f.WriteData(1, false, []byte("abc"))
	f.WriteRSTStream(1, http2.ErrCodeCancel)
	for end := time.Now().Add(10 * time.Second); len(s.infos()) < 4 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	for _, i := range s.infos() {
		if i.Status != 400 || !errors.Is(i.Err, errCutBody) {
			t.Errorf("%d %v", i.Status, i.Err)
		}
	}
	if n := len(s.infos()); n != 4 {
		t.Errorf("%d requests", n)
	}
}

// TestAborts: clients that vanish at any byte leave nothing behind.
func TestAborts(t *testing.T) {
	testenv.Leaks(t)
	r := serve(t, vassal.HTTP, keepAlive, echo)
	raw := "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"
	for i := range len(raw) {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, raw[:i])
		if i%2 == 0 {
			c.(*net.TCPConn).SetLinger(0) // a reset
		}
		c.Close()
	}
	r.stop()
	if n := len(r.s.conns); n != 0 || r.s.Active() != 0 {
		t.Errorf("%d connections, %d requests are left", n, r.s.Active())
	}
}
