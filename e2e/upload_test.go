package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestSlowUploads: clients that have sent half of their forms and uploads, more
// than the memory for bodies holds, keep nobody waiting; in the end each is
// answered. With post-buffering one worker is enough; else there is a second.
func TestSlowUploads(t *testing.T) {
	for _, how := range []string{"--post-buffering=1", "--processes=2"} {
		t.Run(how, func(t *testing.T) { slowUploads(t, how) })
	}
}

func slowUploads(t *testing.T, how string) {
	dir := kitchen(t)
	app := "def application(environ, start_response):\n    body = environ['wsgi.input'].read()\n    start_response('200 OK', [])\n    return [b'%d bytes' % len(body)]\n"
	if err := os.WriteFile(filepath.Join(dir, "count.py"), []byte(app), 0o644); err != nil {
		t.Fatal(err)
	}
	s := serve(t, dir, nobody, "--http", "127.0.0.1:0", how, "count.py")
	url := s.await(loopURL, 1)
	addr := strings.Trim(strings.TrimPrefix(url, "http://"), "/")
	sizes := []int{100, 33_000, 31_000, 500_000}
	var slow []net.Conn
	for i := range 400 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		size := sizes[i%len(sizes)]
		c.SetDeadline(time.Now().Add(60 * time.Second))
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", 2*size, strings.Repeat("x", size))
		slow = append(slow, c)
	}
	for range 10 {
		if got := fetch(t, url); got != "0 bytes" {
			t.Errorf("got %q", got)
		}
	}
	var ends sync.WaitGroup
	for i, c := range slow { // all at once: some wait for others
		ends.Go(func() {
			size := sizes[i%len(sizes)]
			io.WriteString(c, strings.Repeat("y", size))
			if b, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(b), fmt.Sprintf("\n%d bytes", 2*size)) {
				t.Errorf("%d: %q, %v", i, b, err)
			}
		})
	}
	ends.Wait()
	s.cmd.Process.Signal(syscall.SIGTERM)
	if code := s.exit(); code != 0 {
		t.Errorf("exit %d:\n%s", code, s.text())
	}
}
