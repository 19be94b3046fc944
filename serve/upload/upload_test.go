package upload

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/iotest"

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
	if m, s := h.memory.Load(), h.space.Load(); m != 0 || s != 0 {
		t.Errorf("%d bytes of memory and %d of files are left", m, s)
	}
	return out
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
		{"stored", Config{Store: true, Dir: dir, Space: 1 << 30}, int64(len(huge)), huge, 0},
		{"stored, chunked", Config{Store: true, Dir: dir, Space: 1 << 30}, -1, huge, 0},
		{"no space", Config{Store: true, Dir: dir, Space: 0}, int64(len(big)), big, len(big) - Memory},
		{"some space", Config{Store: true, Dir: dir, Space: 2 << 20}, int64(len(huge)), huge, len(huge) - Memory - 2<<20},
		{"no directory", Config{Store: true, Dir: dir + "/none", Space: 1 << 30}, int64(len(big)), big, len(big) - Memory},
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
	h := New(nil, Config{Store: true, Space: 1 << 30}, slog.New(slog.NewTextHandler(&log, nil)))
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
	h.memory.Store(inAll - 2*first)
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
	if untouched != len(content)-2*first || h.memory.Load() != inAll-2*first {
		t.Errorf("%d untouched, %d taken", untouched, h.memory.Load())
	}
}

// TestCut: a body that breaks off never reaches the application.
func TestCut(t *testing.T) {
	h := New(exchange.HandlerFunc(func(context.Context, *exchange.Request, exchange.Response) error {
		t.Error("asked")
		return nil
	}), Config{Store: true, Dir: t.TempDir(), Space: 1 << 30}, slog.New(slog.DiscardHandler))
	boom := errors.New("boom")
	for _, n := range []int{0, 3, 100 << 10} {
		in := io.MultiReader(strings.NewReader(strings.Repeat("x", n)), iotest.ErrReader(boom))
		if err := h.Serve(t.Context(), &exchange.Request{Body: in, Length: 1 << 20}, nil); !errors.Is(err, boom) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if m, s := h.memory.Load(), h.space.Load(); m != 0 || s != 0 {
		t.Errorf("%d bytes of memory and %d of files are left", m, s)
	}
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
