package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/serve/direct"
)

// TestAgain: a request goes over a connection that waited for it whole or not at
// all, and the wait for its answer has the limit of every other.
func TestAgain(t *testing.T) {
	large := strings.Repeat("x", 1<<20) // more than the buffers of a socket take
	for _, c := range []struct {
		name    string
		meet    func(*net.UnixConn) // before the request
		request string
		answer  string
		want    error
	}{
		{name: "small", request: "GET", answer: "200"},
		{name: "large", request: large, answer: "200"},
		{name: "ended", meet: func(c *net.UnixConn) { c.Close() }, want: errStale},
		{name: "half ended", meet: func(c *net.UnixConn) { _ = c.CloseWrite() }, want: errStale},
		{name: "spoken to", meet: func(c *net.UnixConn) { _, _ = c.Write([]byte("4")) }, want: errStale},
		{name: "silent", request: "GET", want: os.ErrDeadlineExceeded},
	} {
		t.Run(c.name, func(t *testing.T) {
			own, peer := connected(t)
			if c.meet != nil {
				c.meet(peer)
			}
			got := make(chan string, 1)
			go func() {
				b := make([]byte, len(c.request))
				n, _ := io.ReadFull(peer, b)
				_, _ = io.WriteString(peer, c.answer)
				got <- string(b[:n])
			}()
			nc := &conn{Conn: own, own: direct.New(own), silence: time.Second}
			if err := nc.again([]byte(c.request)); !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Errorf("%v, want %v", err, c.want)
			}
			if c.want != nil {
				peer.Close()
			}
			if sent := <-got; sent != c.request {
				t.Errorf("%d bytes came of %d", len(sent), len(c.request))
			}
			if c.answer == "" {
				return
			}
			b := make([]byte, len(c.answer))
			if _, err := io.ReadFull(nc, b); err != nil || string(b) != c.answer {
				t.Errorf("%q %v", b, err)
			}
		})
	}
}

// connected is a pair of connected sockets.
func connected(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		out[i] = c.(*net.UnixConn)
	}
	return out[0], out[1]
}
