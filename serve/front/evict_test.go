package front

import (
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/vassal"
)

// TestEvict: connections without a whole request keep nobody out, whatever
// they send; one that waits for another request goes first, and one that is
// being answered never.
func TestEvict(t *testing.T) {
	const get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	const uwsgiBody = "\x00\x3b\x00\x00\x0e\x00REQUEST_METHOD\x04\x00POST\x0e\x00CONTENT_LENGTH\x01\x009\x09\x00PATH_INFO\x05\x00/read"
	const bodyPatience = 5 * time.Second // of the default
	for _, c := range []struct {
		name  string
		proto vassal.Protocol
		first string // of each connection but the honest one
		more  string // one byte each 10 ms
		least time.Duration
		most  time.Duration
		keeps bool // they are answered in the end
	}{
		{"silent", vassal.HTTP, "", "", patience / 2, patience + 200*time.Millisecond, false},
		{"idle", vassal.HTTP, get, "", 0, 200 * time.Millisecond, false},
		{"begun", vassal.HTTP, "GET / HT", "", patience / 2, patience + 200*time.Millisecond, false},
		{"trickle", vassal.HTTP, "GET / HTTP/1.1\r\nA: ", strings.Repeat("a", 2000), patience / 2, patience + 300*time.Millisecond, false},
		{"body", vassal.HTTP, "POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", "", bodyPatience / 2, bodyPatience + 200*time.Millisecond, false},
		{"chunks", vassal.HTTP, "POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\na", "", bodyPatience / 2, bodyPatience + 200*time.Millisecond, false},
		{"fed", vassal.HTTP, "POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n", strings.Repeat("a", 900), 7 * time.Second, 10 * time.Second, true},
		{"body unread", vassal.HTTP, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", "", patience / 2, patience + 200*time.Millisecond, true},
		{"uwsgi body", vassal.UWSGI, uwsgiBody, "", bodyPatience / 2, bodyPatience + 200*time.Millisecond, false},
		{"answered", vassal.HTTP, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n", "", 7 * time.Second, 10 * time.Second, true},
		{"answered in a body", vassal.HTTP, "POST /talk HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n", "", 7 * time.Second, 10 * time.Second, true},
		{"answered and fed", vassal.HTTP, "POST /talk HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n", strings.Repeat("a", 120), 7 * time.Second, 10 * time.Second, true},
		{"uwsgi", vassal.UWSGI, "\x00\xff\x00\x00abc", strings.Repeat("a", 200), patience / 2, patience + 300*time.Millisecond, false},
		{"FastCGI", vassal.FastCGI, "\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01", strings.Repeat("\x04\x00\x01\x00\x01\x00\x00a\x01", 50), patience / 2, patience + 300*time.Millisecond, false},
		{"SCGI", vassal.SCGI, "200:abc", strings.Repeat("a", 150), patience / 2, patience + 300*time.Millisecond, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const most = 4
				other, honest := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}, &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
				s := New(Config{Limits: vassal.HTTPLimits{KeepAlive: true, Connections: most}, Drain: time.Minute, Done: func(*exchange.Request) {}, Log: slog.New(slog.DiscardHandler),
					Handler: exchange.HandlerFunc(func(ctx context.Context, r *exchange.Request, w exchange.Response) error {
						switch r.Get("PATH_INFO") {
						case "/slow":
							time.Sleep(8 * time.Second)
						case "/talk": // it answers while it listens
							ended := make(chan struct{})
							go func() {
								defer close(ended)
								io.Copy(io.Discard, r.Body)
							}()
							time.Sleep(time.Second)
							if err := hello(ctx, r, w); err != nil {
								return err
							}
							select {
							case <-ended:
							case <-time.After(7 * time.Second):
								r.Body.(io.Closer).Close()
								<-ended
							}
							return w.Flush()
						case "/read":
							if _, err := io.Copy(io.Discard, r.Body); err != nil {
								return err
							}
						}
						return hello(ctx, r, w)
					})})
				ctx, stop := context.WithCancel(t.Context())
				var all sync.WaitGroup
				all.Go(func() {
					if err := s.Run(ctx, []Listener{{Listener: other, Protocol: c.proto}, {Listener: honest, Protocol: vassal.HTTP}}); err != nil {
						t.Error(err)
					}
				})
				synctest.Wait() // each listener has a place ready
				ends := make(chan string, most)
				for range most {
					mine, theirs := net.Pipe()
					other.conns <- theirs
					all.Go(func() {
						b, _ := io.ReadAll(mine)
						ends <- string(b)
						mine.Close()
					})
					all.Go(func() {
						if c.first != "" { // a pipe passes on that nothing is written
							io.WriteString(mine, c.first)
						}
						for i := range len(c.more) {
							time.Sleep(10 * time.Millisecond)
							if _, err := io.WriteString(mine, c.more[i:i+1]); err != nil {
								return
							}
						}
					})
				}
				occupant, theirs := net.Pipe() // has the place that the honest one's listener keeps ready
				honest.conns <- theirs
				go io.WriteString(occupant, "GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
				all.Go(func() { io.Copy(io.Discard, occupant) })
				synctest.Wait()
				begin := time.Now()
				mine, theirs := net.Pipe()
				honest.conns <- theirs
				go io.WriteString(mine, strings.Replace(get, "Host", "Connection: close\r\nHost", 1))
				b, err := io.ReadAll(mine)
				took := time.Since(begin)
				if status(string(b)) != 200 || took < c.least || took > c.most {
					t.Errorf("after %v: %q, %v", took, b, err)
				}
				mine.Close()
				stop()
				all.Wait()
				close(ends)
				for b := range ends {
					if answered := status(b) == 200; answered != (c.keeps || c.name == "idle") {
						t.Errorf("another got %q", b)
					}
				}
			})
		})
	}
}

// poor is a listener of a process with few descriptors.
type poor struct {
	pipes
	free chan struct{}
}

func (p *poor) Accept() (net.Conn, error) {
	c, err := p.pipes.Accept()
	if err != nil {
		return nil, err
	}
	select {
	case p.free <- struct{}{}:
		return freeing{c, p.free}, nil
	default: // c stays in the queue
		go func() { p.conns <- c }()
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
}

type freeing struct {
	net.Conn
	free chan struct{}
}

func (f freeing) Close() error {
	<-f.free
	return f.Conn.Close()
}

// TestEvictWithoutDescriptors: they run out before there are as many
// connections as there may be.
func TestEvictWithoutDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &poor{pipes{conns: make(chan net.Conn), done: make(chan struct{})}, make(chan struct{}, 2)}
		s := New(Config{Drain: time.Minute, Handler: exchange.HandlerFunc(hello), Done: func(*exchange.Request) {}, Log: slog.New(slog.DiscardHandler)})
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if err := s.Run(ctx, []Listener{{Listener: l, Protocol: vassal.HTTP}}); err != nil {
				t.Error(err)
			}
		})
		for range cap(l.free) {
			mine, theirs := net.Pipe()
			l.conns <- theirs
			all.Go(func() { io.Copy(io.Discard, mine) })
		}
		synctest.Wait()
		begin := time.Now()
		mine, theirs := net.Pipe()
		l.conns <- theirs
		go io.WriteString(mine, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if b, err := io.ReadAll(mine); status(string(b)) != 200 || time.Since(begin) > patience+200*time.Millisecond {
			t.Errorf("after %v: %q, %v", time.Since(begin), b, err)
		}
		stop()
		all.Wait()
	})
}

// TestH2Evict: requests whose clients are silent in the middle of a body keep
// nobody out, neither by all requests that there may be nor by all connections.
func TestH2Evict(t *testing.T) {
	testenv.Leaks(t)
	const timeout, most = 1200 * time.Millisecond, 3
	for name, conns := range map[string]int{"requests": 1, "connections": most} {
		s := serveTLS(t, vassal.HTTPS, vassal.HTTPLimits{Connections: most, BodyTimeout: timeout, KeepAlive: true}, func(ctx context.Context, r *exchange.Request, w exchange.Response) error {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return err
			}
			return hello(ctx, r, w)
		}, nil)
		begin := time.Now()
		for i := range conns {
			f := s.frames(t)
			for id := range most / conns {
				if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(1 + 2*id), BlockFragment: f.block(":method", "POST", ":scheme", "https", ":authority", "x", ":path", "/"), EndHeaders: true}); err != nil {
					t.Fatal(name, i, err)
				}
			}
		}
		status := 0
		for status != 200 && time.Since(begin) < timeout {
			res, err := s.httpClient(t).Get("https://" + s.addr)
			if err != nil {
				t.Fatal(name, err)
			}
			res.Body.Close()
			status = res.StatusCode
		}
		if took := time.Since(begin); status != 200 || took < timeout/6 || took > timeout*2/3 {
			t.Errorf("%s: %d after %v", name, status, took)
		}
	}
}
