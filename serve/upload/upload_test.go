package upload

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"liege/internal/testenv"
	"liege/serve/exchange"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// body is a client's, which fails the test when it is read although it should
// be there.
type body struct {
	io.Reader
	closed bool
}

func (b *body) Close() error { b.closed = true; return nil }

// got is what the application saw.
type got struct {
	length    int64
	variable  string
	body      string
	untouched int // bytes that the client had not been asked for when the application was
	err       error
}

func ask(t *testing.T, h *Handler, length int64, content string) got {
	t.Helper()
	var out got
	in := strings.NewReader(content)
	h.next = exchange.HandlerFunc(func(_ context.Context, r *exchange.Request, _ exchange.Response) error {
		out.untouched = in.Len()
		b, err := io.ReadAll(iotest.HalfReader(r.Body))
		out.length, out.variable, out.body = r.Length, r.Get("CONTENT_LENGTH"), string(b)
		return err
	})
	out.err = h.Serve(t.Context(), &exchange.Request{Body: &body{Reader: in}, Length: length}, nil)
	nothingTaken(t, h)
	return out
}

func nothingTaken(t *testing.T, h *Handler) {
	t.Helper()
	m, s := h.memory.Taken(), int64(0)
	if h.cfg.Space != nil {
		s = h.cfg.Space.Taken()
	}
	if m != 0 || s != 0 {
		t.Errorf("%d bytes of memory and %d of files are left", m, s)
	}
}

func TestBodies(t *testing.T) {
	dir := t.TempDir()
	big := strings.Repeat("0123456789abcdef", 200<<10/16) // 200 KiB
	huge := strings.Repeat(big, 20)
	for _, c := range []struct {
		name      string
		cfg       Config
		length    int64
		content   string
		untouched int
	}{
		{"none", Config{}, 0, "", 0},
		{"small", Config{}, 3, "abc", 0},
		{"small, chunked", Config{}, -1, "abc", 0},
		{"just fits", Config{}, Memory, big[:Memory], 0},
		{"just fits, chunked", Config{}, -1, big[:Memory-1], 0},
		{"larger", Config{}, int64(len(big)), big, len(big) - Memory},
		{"larger, chunked", Config{}, -1, big, len(big) - Memory},
		{"stored", Config{Store: true, Dir: dir, Space: exchange.NewRoom(1 << 30)}, int64(len(huge)), huge, 0},
		{"stored, chunked", Config{Store: true, Dir: dir, Space: exchange.NewRoom(1 << 30)}, -1, huge, 0},
		{"no space", Config{Store: true, Dir: dir, Space: exchange.NewRoom(0)}, int64(len(big)), big, len(big) - Memory},
		{"some space", Config{Store: true, Dir: dir, Space: exchange.NewRoom(2 << 20)}, int64(len(huge)), huge, len(huge) - Memory - 2<<20},
		{"no directory", Config{Store: true, Dir: dir + "/none", Space: exchange.NewRoom(1 << 30)}, int64(len(big)), big, len(big) - Memory},
	} {
		h := New(nil, c.cfg, slog.New(slog.DiscardHandler))
		g := ask(t, h, c.length, c.content)
		if g.err != nil || g.body != c.content || g.untouched != c.untouched {
			t.Errorf("%s: %d bytes, %d untouched, want %d, %d; %v", c.name, len(g.body), g.untouched, len(c.content), c.untouched, g.err)
		}
		if whole := c.untouched == 0; c.length < 0 && whole != (g.length == int64(len(c.content))) || c.length < 0 && whole != (g.variable != "") {
			t.Errorf("%s: length %d, CONTENT_LENGTH %q", c.name, g.length, g.variable)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v are left, %v", left, err)
	}
}

// TestDiskFull: what does not fit on the disk comes from the client.
func TestDiskFull(t *testing.T) {
	var log bytes.Buffer
	h := New(nil, Config{Store: true, Space: exchange.NewRoom(1 << 30)}, slog.New(slog.NewTextHandler(&log, nil)))
	h.create = func() (file, error) { return os.OpenFile("/dev/full", os.O_RDWR, 0) }
	content := strings.Repeat("x", 300<<10)
	for range 2 {
		if g := ask(t, h, int64(len(content)), content); g.err != nil || g.body != content {
			t.Errorf("%d bytes, %v", len(g.body), g.err)
		}
	}
	if n := strings.Count(log.String(), "no space left"); n != 1 {
		t.Errorf("%d lines: %s", n, log.String())
	}
}

// TestMemoryBound: when others have taken the memory, bodies are streamed.
func TestMemoryBound(t *testing.T) {
	h := New(nil, Config{}, slog.New(slog.DiscardHandler))
	h.memory.Take(inAll - 2*first)
	content := strings.Repeat("x", 20<<10)
	var untouched int
	in := strings.NewReader(content)
	h.next = exchange.HandlerFunc(func(_ context.Context, r *exchange.Request, _ exchange.Response) error {
		untouched = in.Len()
		b, err := io.ReadAll(r.Body)
		if string(b) != content {
			t.Errorf("%d bytes", len(b))
		}
		return err
	})
	if err := h.Serve(t.Context(), &exchange.Request{Body: in, Length: int64(len(content))}, nil); err != nil {
		t.Error(err)
	}
	if untouched != len(content)-2*first || h.memory.Taken() != inAll-2*first {
		t.Errorf("%d untouched, %d taken", untouched, h.memory.Taken())
	}
}

// TestMemoryTaken: a body goes to a file at once when others have taken the
// memory, however small it is; and a form needs neither.
func TestMemoryTaken(t *testing.T) {
	h := New(nil, Config{Store: true, Dir: t.TempDir(), Space: exchange.NewRoom(1 << 20)}, slog.New(slog.DiscardHandler))
	for _, n := range []int{100, first, 33_000, 60_000, 300 << 10} {
		h.memory.Take(inAll)
		content := strings.Repeat("0123456789", n/10)
		done := make(chan int, 1)
		in := strings.NewReader(content)
		h.next = exchange.HandlerFunc(func(_ context.Context, r *exchange.Request, _ exchange.Response) error {
			done <- in.Len()
			b, err := io.ReadAll(r.Body)
			if string(b) != content {
				t.Errorf("%d bytes of %d", len(b), n)
			}
			return err
		})
		if err := h.Serve(t.Context(), &exchange.Request{Body: in, Length: int64(len(content))}, nil); err != nil {
			t.Error(err)
		}
		if left := <-done; left != 0 {
			t.Errorf("%d bytes: the application waits for %d of them", n, left)
		}
		h.memory.Give(inAll)
		nothingTaken(t, h)
	}
}

// TestUnfinished: bodies that the application waits for leave one of its
// places to others, and keep theirs no longer than they last.
func TestUnfinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, working := 0, make(chan bool)
		h := New(exchange.HandlerFunc(func(_ context.Context, r *exchange.Request, _ exchange.Response) error {
			asked++
			_, err := io.Copy(io.Discard, r.Body)
			<-working
			return err
		}), Config{Parallel: func() int { return 3 }}, slog.New(slog.DiscardHandler))
		var served sync.WaitGroup
		var slow []*io.PipeWriter
		for range 5 {
			r, w := io.Pipe()
			slow = append(slow, w)
			served.Go(func() {
				if err := h.Serve(t.Context(), &exchange.Request{Body: r, Length: Memory + 2}, nil); err != nil {
					t.Error(err)
				}
			})
			w.Write(make([]byte, Memory))
			synctest.Wait()
		}
		if asked != 2 {
			t.Errorf("the application was asked %d times, want 2", asked)
		}
		for i, w := range slow { // one after another, and the first are still worked on
			go func() { w.Write(make([]byte, 2)); w.Close() }()
			synctest.Wait()
			if want := min(i+3, len(slow)); asked != want {
				t.Errorf("%d are there: the application was asked %d times, want %d", i+1, asked, want)
			}
		}
		close(working)
		served.Wait()
		nothingTaken(t, h)
	})
}

// drops is a body of which a byte comes at a time.
type drops struct {
	n     int
	pause time.Duration
}

func (d *drops) Read(p []byte) (int, error) {
	if d.n == 0 {
		return 0, io.EOF
	}
	time.Sleep(d.pause)
	d.n--
	return copy(p, "x"), nil
}

// TestSlowly: a client may pause, but not for ever.
func TestSlowly(t *testing.T) {
	for _, c := range []struct {
		name   string
		drops  drops
		length int64
		slow   bool
	}{
		{"in time", drops{100, 250 * time.Millisecond}, 100, false},
		{"a byte a pause", drops{100, 29 * time.Second}, 100, true},
		{"of unknown length", drops{100, 29 * time.Second}, -1, true},
		{"steady", drops{60_000, time.Second / 600}, 60_000, false},
		{"steady, too slow", drops{60_000, time.Second / 100}, 60_000, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			h := New(exchange.HandlerFunc(func(context.Context, *exchange.Request, exchange.Response) error { return nil }),
				Config{Patience: 30 * time.Second}, slog.New(slog.DiscardHandler))
			err := h.Serve(t.Context(), &exchange.Request{Body: &c.drops, Length: c.length}, nil)
			if got := exchange.StatusOf(err); c.slow != (err != nil) || c.slow && got != 408 {
				t.Errorf("%s: after %v: %v", c.name, time.Since(begin), err)
			}
		})
	}
}

// TestSlowBehind: the rest of a body that the application reads has the same
// bound; the time in which it does not read is not the client's.
func TestSlowBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(exchange.HandlerFunc(func(_ context.Context, r *exchange.Request, _ exchange.Response) error {
			time.Sleep(time.Hour)
			_, err := io.Copy(io.Discard, r.Body)
			return err
		}), Config{Patience: 30 * time.Second}, slog.New(slog.DiscardHandler))
		for _, c := range []struct {
			pause time.Duration
			want  error
		}{{time.Second, nil}, {29 * time.Second, errSlow}} {
			body := io.MultiReader(strings.NewReader(strings.Repeat("x", Memory)), &drops{100, c.pause})
			if err := h.Serve(t.Context(), &exchange.Request{Body: body, Length: Memory + 100}, nil); !errors.Is(err, c.want) {
				t.Errorf("a byte each %v: %v", c.pause, err)
			}
		}
	})
}

// TestCut: a body that breaks off never reaches the application.
func TestCut(t *testing.T) {
	h := New(exchange.HandlerFunc(func(context.Context, *exchange.Request, exchange.Response) error {
		t.Error("asked")
		return nil
	}), Config{Store: true, Dir: t.TempDir(), Space: exchange.NewRoom(1 << 30)}, slog.New(slog.DiscardHandler))
	boom := errors.New("boom")
	for _, n := range []int{0, 3, 100 << 10} {
		in := io.MultiReader(strings.NewReader(strings.Repeat("x", n)), iotest.ErrReader(boom))
		if err := h.Serve(t.Context(), &exchange.Request{Body: in, Length: 1 << 20}, nil); !errors.Is(err, boom) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	nothingTaken(t, h)
}

// TestNoBody: a request without a body costs nothing.
func TestNoBody(t *testing.T) {
	h := New(exchange.HandlerFunc(func(context.Context, *exchange.Request, exchange.Response) error { return nil }), Config{}, nil)
	r := &exchange.Request{}
	if n := testing.AllocsPerRun(100, func() { _ = h.Serve(t.Context(), r, nil) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestSmallBody: a form costs a few small things, not a buffer (the race
// detector has pools drop some).
func TestSmallBody(t *testing.T) {
	h := New(exchange.HandlerFunc(func(context.Context, *exchange.Request, exchange.Response) error { return nil }), Config{}, nil)
	form := strings.NewReader("")
	if n := testing.AllocsPerRun(100, func() {
		form.Reset("name=value&other=value")
		_ = h.Serve(t.Context(), &exchange.Request{Body: form, Length: 22}, nil)
	}); n > 8 {
		t.Errorf("%v allocations", n)
	}
}
