package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
)

// coreOf is the pid of the core that s runs.
func coreOf(t *testing.T, s *served) int {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		for _, pid := range below(t, s.cmd.Process.Pid) {
			if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && filepath.Base(exe) == "liege-core" {
				return pid
			}
		}
	}
	t.Fatalf("no core:\n%s", s.text())
	return 0
}

// memoryOf is a line of /proc/PID/status in bytes: VmHWM, VmRSS.
func memoryOf(t *testing.T, pid int, line string) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\n"+line+":")
	kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

const gigabyte = 1 << 30

// zeros is a body of n bytes.
func zeros(n int64) io.Reader { return io.LimitReader(zero{}, n) }

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

const memoryApp = `
def application(environ, start_response):
    if environ['REQUEST_METHOD'] == 'POST':
        n = 0
        while True:
            b = environ['wsgi.input'].read(1 << 16)
            if not b:
                break
            n += len(b)
        start_response('200 OK', [])
        return [b'%d' % n]
    start_response('200 OK', [('Content-Length', str(1 << 30))])
    return (b'x' * 65536 for i in range(1 << 14))
`

// TestTransferMemory: a gigabyte up or down, by the app, as a file, or to
// another server, moves nothing but buffers through the core's memory.
func TestTransferMemory(t *testing.T) {
	dir := kitchen(t)
	if err := os.WriteFile(filepath.Join(dir, "app.py"), []byte(memoryApp), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "large"), gigabyte); err != nil {
		t.Fatal(err)
	}
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprintf(w, "%d", n)
			if err != nil {
				t.Error(err)
			}
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(gigabyte))
		io.Copy(w, zeros(gigabyte))
	}))
	defer other.Close()
	s := serve(t, dir, nobody, "--http", "127.0.0.1:0", "--check-static", dir, "--route", "^/other httpdumb:"+strings.TrimPrefix(other.URL, "http://"), "app.py")
	url := strings.TrimSuffix(s.await(loopURL, 1), "/")
	core := coreOf(t, s)
	move(t, "POST", url+"/", 1<<20) // what is made once
	move(t, "POST", url+"/other", 1<<20)
	for _, c := range [][2]string{{"POST", "/"}, {"GET", "/"}, {"GET", "/large"}, {"POST", "/other"}, {"GET", "/other"}} {
		peak := growth(t, core)
		move(t, c[0], url+c[1], gigabyte)
		grown := peak()
		t.Logf("%s %s: %d KiB", c[0], c[1], grown>>10)
		if grown > 16<<20 {
			t.Errorf("%s %s: the core grew by %d KiB", c[0], c[1], grown>>10)
		}
	}
	endServed(t, s)
}

// move sends size bytes to url, which says how many came, or fetches as many.
func move(t *testing.T, method, url string, size int64) {
	t.Helper()
	var body io.Reader
	if method == "POST" {
		body = zeros(size)
	}
	q, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	if method == "POST" {
		q.ContentLength = size
	}
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var small bytes.Buffer
	n, err := io.Copy(io.Discard, io.TeeReader(io.LimitReader(res.Body, 100), &small))
	rest, err2 := io.Copy(io.Discard, res.Body)
	switch {
	case err != nil || err2 != nil || res.StatusCode != 200:
		t.Errorf("%s %s: %d, %v %v", method, url, res.StatusCode, err, err2)
	case method == "POST" && small.String() != strconv.FormatInt(size, 10), method == "GET" && n+rest != size:
		t.Errorf("%s %s: %d bytes, %.50q", method, url, n+rest, small.String())
	}
}

// growth begins to watch a process's memory; the function that it returns says
// by how much it has been larger than it is now, at most.
func growth(t *testing.T, pid int) (peak func() int64) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil { // VmHWM from here
		t.Fatal(err)
	}
	before := memoryOf(t, pid, "VmRSS")
	return func() int64 { return memoryOf(t, pid, "VmHWM") - before }
}

// endServed ends s as a person does.
func endServed(t *testing.T, s *served) {
	t.Helper()
	s.cmd.Process.Signal(syscall.SIGTERM)
	if code := s.exit(); code != 0 {
		t.Errorf("exit %d:\n%s", code, s.text())
	}
}

// TestIdleConnections: ten thousand connections that wait for another request
// cost the core less than 15 KiB each.
func TestIdleConnections(t *testing.T) {
	const n, most, files = 10_000, 15 << 10, 12_000
	var was unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &was); err != nil {
		t.Fatal(err)
	}
	limit := unix.Rlimit{Cur: files, Max: max(was.Max, files)}
	if was.Max < files {
		testenv.Need(t, testenv.SysResource) // to raise a hard limit
	}
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Prlimit(0, unix.RLIMIT_NOFILE, &was, nil) }()
	dir := kitchen(t)
	s := serve(t, dir, nobody, "--http", "127.0.0.1:0", "--max-connections=11000", "--http-timeout=600", "app.py")
	addr := strings.Trim(strings.TrimPrefix(s.await(loopURL, 1), "http://"), "/")
	core := coreOf(t, s)
	conns := make([]net.Conn, 0, n)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	buf := make([]byte, 4<<10)
	open := func(to int) {
		for len(conns) < to {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
			c.SetDeadline(time.Now().Add(20 * time.Second))
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nAccept: text/html\r\nCookie: session=0123456789abcdef\r\n\r\n")
			if m, err := c.Read(buf); err != nil || !bytes.HasPrefix(buf[:m], []byte("HTTP/1.1 200 ")) {
				t.Fatalf("%d: %q, %v", len(conns), buf[:m], err)
			}
		}
	}
	open(1000)
	before := memoryOf(t, core, "VmRSS")
	open(n)
	each := (memoryOf(t, core, "VmRSS") - before) / (n - 1000)
	t.Logf("%d bytes each", each)
	if each > most {
		t.Errorf("%d bytes for each idle connection", each)
	}
	endServed(t, s)
}
