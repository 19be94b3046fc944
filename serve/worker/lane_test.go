package worker

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/serve/worker/python"
	"liege/vassal"
)

// laneOf is a lane without a process: its other end is the test's.
func laneOf(t testing.TB) (*lane, *os.File, func()) {
	t.Helper()
	app := &vassal.App{Name: "shop", Workers: &vassal.Workers{Language: "python", Processes: 1, Threads: 1, Python: &vassal.Python{}}}
	p, err := New(app, python.New(app), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range p.calls {
		p.free <- c
	}
	conn, other, err := socketPair(unix.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	memory, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	l := &lane{p: p, proc: &proc{number: 1, pidfd: -1}, conn: conn, memory: memory}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for {
			select {
			case <-p.events:
			case <-p.over:
				return
			}
		}
	}()
	return l, other, func() {
		close(p.over)
		<-drained
		other.Close()
		conn.Close()
		memory.Close()
	}
}

func header(kind byte, head, size, arg int, id uint64) []byte {
	b := []byte{kind, 0, 0, 0}
	for _, v := range []int{head, size, arg} {
		b = binary.LittleEndian.AppendUint32(b, uint32(v))
	}
	return binary.LittleEndian.AppendUint64(b, id)
}

// FuzzLane sends what a hostile worker might: the lane ends, never panics,
// never keeps a call, and never gives the client more than it was sent.
func FuzzLane(f *testing.F) {
	id := uint64(1 << 16)
	seed := func(frames ...[]byte) {
		var all []byte
		for _, b := range frames {
			all = append(all, b...)
		}
		f.Add(all)
	}
	ok := []byte("200 OK\x00A\x00b")
	seed(header('A', len(ok), 3, 3, id), ok, []byte("abc"))
	seed(header('H', len(ok), 0, 0, id), ok, header('D', 0, 3, 0, id), []byte("abc"), header('E', 0, 0, 0, id))
	framed := []byte("200 OK\x00Transfer-Encoding\x00chunked")
	seed(header('H', len(framed), 3, 0, id), framed, []byte("1\r\n"), header('D', 0, 8, 0, id), []byte("a\r\n0\r\n\r"), header('E', 0, 0, 0, id))
	seed(header('R', 0, 0, 10, id), header('E', 0, 0, 1, id))
	seed(header('L', 0, 0, 0, 0), header('V', 0, 0, 0, id))
	seed(header('H', len(ok), 0, 0, id), ok, header('F', 0, 16, 0, id), make([]byte, 16), []byte{0})
	seed(header('J', 0, 0, 0, id), []byte{0})
	seed(header('H', 6, 1<<30, 0, id), []byte("200 OK"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, other, end := laneOf(t)
		defer end()
		c := <-l.p.free
		rec := &recorder{keep: true}
		l.p.prepare(c, request("POST", "/", "body"), rec, 1, nil, []byte("body"))
		if c.index != 0 {
			t.Fatalf("call %d", c.index)
		}
		go io.Copy(io.Discard, other)
		done := make(chan struct{})
		go func() { defer close(done); l.serve() }()
		other.Write(b)
		unix.Shutdown(int(other.Fd()), unix.SHUT_WR)
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatal("the lane hangs")
		}
		c.mu.Lock()
		claimed := c.lane != nil
		c.mu.Unlock()
		if claimed {
			t.Error("the call is still the lane's")
		}
		if rec.body.Len() > len(b) {
			t.Errorf("%d bytes for the client out of %d", rec.body.Len(), len(b))
		}
	})
}

// TestLongInformational: one with too many fields is dropped; the answer comes.
func TestLongInformational(t *testing.T) {
	l, other, end := laneOf(t)
	defer end()
	c, id := <-l.p.free, uint64(1<<16)
	w := &informed{}
	w.keep = true
	l.p.prepare(c, request("GET", "/", ""), w, 1, nil, nil)
	done := make(chan error, 1)
	go func() { done <- l.run() }()
	for _, b := range [][]byte{header('I', 0, maxHead+1, 103, id), make([]byte, maxHead+1), header('I', 0, 4, 103, id), []byte("A\x00b\x00"),
		header('A', len("200 OK"), 2, 2, id), []byte("200 OKok")} {
		if _, err := other.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	unix.Shutdown(int(other.Fd()), unix.SHUT_WR)
	if err := <-done; !errors.Is(err, io.EOF) || w.body.String() != "ok" || len(w.before) != 2 {
		t.Errorf("%v: %q behind %v", err, w.body.String(), w.before)
	}
}

// A descriptor that is no readable regular file fails the request; none, or more
// than one, ends the worker.
func TestHostileDescriptor(t *testing.T) {
	dir := t.TempDir()
	regular := dir + "/file"
	if err := os.WriteFile(regular, []byte("content of the file"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name        string
		open        func() (int, error)
		n           int
		breach, bad bool
		count       int
	}{
		{"regular", func() (int, error) { return unix.Open(regular, unix.O_RDONLY, 0) }, 1, false, false, 7},
		{"write only", func() (int, error) { return unix.Open(regular, unix.O_WRONLY, 0) }, 1, false, true, 7},
		{"path only", func() (int, error) { return unix.Open(regular, unix.O_PATH, 0) }, 1, false, true, 7},
		{"directory", func() (int, error) { return unix.Open(dir, unix.O_RDONLY, 0) }, 1, false, true, 7},
		{"device", func() (int, error) { return unix.Open("/dev/zero", unix.O_RDONLY, 0) }, 1, false, true, 7},
		{"socket", func() (int, error) { return unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0) }, 1, false, true, 7},
		{"none", func() (int, error) { return unix.Open(regular, unix.O_RDONLY, 0) }, 0, true, true, 7},
		{"three", func() (int, error) { return unix.Open(regular, unix.O_RDONLY, 0) }, 3, true, true, 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, other, end := laneOf(t)
			defer end()
			call := <-l.p.free
			rec := &recorder{keep: true}
			l.p.prepare(call, request("GET", "/", ""), rec, 1, nil, nil)
			fd, err := c.open()
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			result := make(chan error, 1)
			go func() { result <- l.run() }()
			spec := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, 0), uint64(c.count))
			other.Write(append(header('H', 6, 0, 0, call.id), "200 OK"...))
			other.Write(append(header('F', 0, 16, 0, call.id), spec...))
			if _, err := io.ReadFull(other, make([]byte, headerSize)); err != nil {
				t.Fatal(err)
			}
			var rights []byte
			if c.n > 0 {
				fds := make([]int, c.n)
				for i := range fds {
					fds[i] = fd
				}
				rights = unix.UnixRights(fds...)
			}
			if err := unix.Sendmsg(int(other.Fd()), []byte{0}, rights, nil, 0); err != nil {
				t.Fatal(err)
			}
			unix.Shutdown(int(other.Fd()), unix.SHUT_WR)
			err = <-result
			if _, broken := errors.AsType[*breach](err); broken != c.breach {
				t.Errorf("got %v", err)
			}
			if failed := call.err != nil; failed != (c.bad && !c.breach) {
				t.Errorf("the request's error is %v", call.err)
			}
			if s := call.spool.Load(); s != nil {
				if err := s.rest(rec, nil); err != nil { // Serve's part
					t.Error(err)
				}
			}
			if !c.bad && rec.body.String() != "content" {
				t.Errorf("body %q", rec.body.String())
			}
			if c.bad && rec.body.Len() != 0 {
				t.Errorf("body %q of a bad descriptor", rec.body.String())
			}
		})
	}
}

// TestHostileTakeover: what a worker may hand over as a connection.
func TestHostileTakeover(t *testing.T) {
	for _, c := range []struct {
		name string
		make func() (int, error)
		ok   bool
	}{
		{"file", func() (int, error) { return unix.Open("/dev/null", unix.O_RDONLY, 0) }, false},
		{"udp", func() (int, error) { return unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0) }, false},
		{"tcp", func() (int, error) { return unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0) }, false},
		{"packets", func() (int, error) { return unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0) }, false},
		{"unconnected", func() (int, error) { return unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, other, end := laneOf(t)
			defer end()
			call := <-l.p.free
			l.p.prepare(call, request("GET", "/", ""), &recorder{}, 1, nil, nil)
			done := make(chan error, 1)
			go func() { done <- l.run() }()
			frame := make([]byte, headerSize)
			frame[0] = 'J'
			binary.LittleEndian.PutUint64(frame[16:], call.id)
			fd, err := c.make()
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			if _, err := unix.Write(int(other.Fd()), frame); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(other, frame); err != nil || frame[0] != 'G' {
				t.Fatalf("%q %v", frame[0], err)
			}
			if err := unix.Sendmsg(int(other.Fd()), []byte{0}, unix.UnixRights(fd), nil, 0); err != nil {
				t.Fatal(err)
			}
			if c.ok {
				got, ok := errors.AsType[*takeover](<-call.done)
				if !ok {
					t.Fatal("no takeover")
				}
				got.conn.Close()
				return
			}
			if _, ok := errors.AsType[*breach](<-done); !ok {
				t.Error("it is no breach")
			}
		})
	}
}

// A worker that sends more than its Content-Length is cut there: what follows
// would be the next answer on the client's connection.
func TestLaneClips(t *testing.T) {
	l, other, end := laneOf(t)
	defer end()
	c := <-l.p.free
	rec := &recorder{keep: true}
	l.p.prepare(c, request("GET", "/", ""), rec, 1, nil, nil)
	head := "200 OK\x00Content-Length\x003"
	other.Write(append(append(header('A', len(head), 6, 6, c.id), head...), "abcdef"...))
	unix.Shutdown(int(other.Fd()), unix.SHUT_WR)
	if err := l.run(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
	if err := <-c.done; err != nil || rec.body.String() != "abc" {
		t.Errorf("%v %q, want abc", err, rec.body.String())
	}
}

// BenchmarkServe is a hello through queue, worker and lane: what the handler
// path allocates, and what a request costs with one client.
func BenchmarkServe(b *testing.B) {
	for _, clients := range []int{1, 32} {
		for _, batch := range []bool{false, true} {
			name := map[bool]string{false: "other", true: "batch"}[batch]
			b.Run(name+"/clients="+string(rune('0'+clients/10))+string(rune('0'+clients%10)), func(b *testing.B) {
				p, app, log := newFixture(b, hello, func(a *vassal.App) { a.Workers.Processes, a.Workers.Batch = 2, batch })
				r := run(b, p, app, log)
				b.ReportAllocs()
				b.SetParallelism(clients)
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					req, rec := request("GET", "/x", ""), &recorder{}
					for pb.Next() {
						if err := r.Serve(context.Background(), req, rec); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}

const hello = `
def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', '11')])
    return [b'hello world']
`

// A worker's status lines are read as uWSGI reads them, and no further.
func TestParseStatus(t *testing.T) {
	for line, want := range map[string]int{"200 OK": 200, "404": 404, "599 ": 599, "999 x": 999,
		"100 Continue": 0, "2000": 0, "20": 0, "": 0, "200OK": 0, "abc": 0, " 200": 0, "20x OK": 0} {
		got, _, ok := parseStatus(line)
		if got != want || ok != (want != 0) {
			t.Errorf("%q: %d %v, want %d", line, got, ok, want)
		}
	}
}
