package serve

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"liege/serve/exchange"
)

// TestUploads: when the application is asked, its body is there: as much as
// post-buffering says.
func TestUploads(t *testing.T) {
	for _, c := range []struct {
		line string
		size int
		late bool // the application is asked when the last byte has been sent
	}{
		{"", 20 << 10, true}, {"", 100 << 10, false},
		{"post-buffering = 4096", 100 << 10, true}, {"http-post-buffering = 1", 20 << 10, true},
		{"post-buffering = 1\npost-buffering-space = 1", 3 << 20, false},
		{"post-buffering = 0", 20 << 10, false},
	} {
		var sent atomic.Bool
		asked := make(chan bool, 8)
		addrs, _ := ini(t, "http-socket = :1\nwsgi-file = a.py\nenv = TMPDIR="+t.TempDir()+"\n"+c.line+"\n", func(_ context.Context, r *exchange.Request, w exchange.Response) error {
			if r.Get("REQUEST_METHOD") == "POST" {
				asked <- sent.Load()
			}
			n, err := io.Copy(io.Discard, r.Body)
			if err != nil {
				return err
			}
			if err := w.Head(200, "", nil); err != nil {
				return err
			}
			_, err = fmt.Fprintf(w, "%d bytes", n)
			return err
		})
		k, err := net.Dial("tcp", addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		_ = k.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprintf(k, "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", c.size, strings.Repeat("x", c.size-1))
		if !c.late {
			if <-asked {
				t.Errorf("%q, %d bytes: asked after the last byte", c.line, c.size)
			}
		} else if got := ask(t, addrs[0], "GET / HTTP/1.0\r\n\r\n"); !strings.HasSuffix(got, "0 bytes") { // others are served meanwhile
			t.Errorf("got %s", got)
		}
		sent.Store(true)
		fmt.Fprint(k, "y")
		if got, err := io.ReadAll(k); err != nil || !strings.HasSuffix(string(got), fmt.Sprintf("\n%d bytes", c.size)) {
			t.Errorf("%q, %d bytes: got %s, %v", c.line, c.size, got, err)
		}
		if c.late && !<-asked {
			t.Errorf("%q, %d bytes: asked before the last byte", c.line, c.size)
		}
	}
}

// TestParallel: bodies that are not there leave one place free of whatever serves
// fewest requests at once.
func TestParallel(t *testing.T) {
	for lines, want := range map[string]int{
		"cgi = /usr/lib/cgi-bin\nprocesses = 3":    3,
		"php-docroot = /srv/www\nprocesses = 4":    4,
		"exec = /bin/true\ncgi = /usr/lib/cgi-bin": 0,
		"check-static = /srv/www":                  0,
	} {
		app, _ := decode(t, "http-socket = :1\n"+lines+"\n")
		got, of := 0, (&Core{app: app, pool: newFake(nil)}).parallel()
		if of != nil {
			got = of()
		}
		if got != want {
			t.Errorf("%q: got %d, want %d", lines, got, want)
		}
	}
}

func TestWaitingLine(t *testing.T) {
	app, _ := decode(t, "http-socket = :1\nwsgi-file = a.py\nlisten = 2000\n")
	if app.Workers.Waiting != 2000 || app.Listen[0].Backlog != 2000 {
		t.Errorf("got %d and %d", app.Workers.Waiting, app.Listen[0].Backlog)
	}
}
