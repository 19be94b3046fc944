package front

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/vassal"
)

// TestWatch: a client that leaves before its answer is noticed; one that waits
// keeps its connection, and one with a body that was not read is not watched.
func TestWatch(t *testing.T) {
	testenv.Leaks(t)
	left := make(chan string, 4)
	limits := vassal.HTTPLimits{BodyTimeout: 50 * time.Millisecond, IdleTimeout: 10 * time.Second, HeaderTimeout: 50 * time.Millisecond, WriteTimeout: time.Second, KeepAlive: true}
	addr := serve(t, vassal.HTTP, limits, func(ctx context.Context, r *exchange.Request, w exchange.Response) error {
		gone := make(chan struct{})
		path := r.Get("PATH_INFO")
		stop := w.(exchange.Watcher).Watch(func() { close(gone) })
		if stop == nil {
			left <- path + " is not watched"
			return w.Head(200, "", nil)
		}
		if path == "/waits" {
			time.Sleep(200 * time.Millisecond) // longer than any timeout for reads
			stop()
			if err := w.Head(200, "", nil); err != nil {
				return err
			}
			_, err := io.WriteString(w, "answered")
			return err
		}
		select {
		case <-gone:
			left <- path + " is gone"
		case <-time.After(10 * time.Second):
			left <- path + " is there"
		}
		stop()
		return w.Head(200, "", nil)
	}).addr
	dial := func() net.Conn {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		return c
	}
	c := dial()
	io.WriteString(c, "GET /leaves HTTP/1.1\r\nHost: a\r\n\r\n")
	c.Close()
	if got := <-left; got != "/leaves is gone" {
		t.Error(got)
	}
	c = dial()
	defer c.Close()
	br := bufio.NewReader(c)
	for range 3 { // the connection goes on
		io.WriteString(c, "GET /waits HTTP/1.1\r\nHost: a\r\n\r\n")
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(res.Body); string(b) != "answered" || err != nil {
			t.Errorf("got %q, %v", b, err)
		}
		res.Body.Close()
	}
	io.WriteString(c, "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"+strings.Repeat("x", 4))
	if got := <-left; got != "/body is not watched" {
		t.Error(got)
	}
}
