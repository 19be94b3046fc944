package api

import (
	"encoding/binary"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"liege/vassal"
)

// TestRing: bounds of the queue, and where it is unlike uWSGI's. What is alike is
// compared with it (serve.TestModuleDifferential).
func TestRing(t *testing.T) {
	h := host(t)
	h.ring.init(vassal.Queue{Items: 100, Block: 1 << 20})
	conn := dial(t, h)
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	ask := func(b []byte) (byte, string) {
		go func() { _, _ = conn.Write(b) }()
		var head [5]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			t.Fatal(err)
		}
		rest := make([]byte, binary.LittleEndian.Uint32(head[:])-1)
		if _, err := io.ReadFull(conn, rest); err != nil {
			t.Fatal(err)
		}
		return head[4], string(rest)
	}
	ask(req(opHello, "m", 1))
	for _, c := range []struct {
		name string
		req  []byte
		how  byte
		size int // of the answer's fields
	}{
		{"an empty one has nothing to pop", req(opRing, "-", 0, ""), none, 0},
		{"and stays where it is", req(opRing, "s", 0, ""), ok, 12},
		{"too long a message", req(opRing, "+", 0, strings.Repeat("x", 1<<20+1)), none, 0},
		{"the longest", req(opRing, "+", 0, strings.Repeat("x", 1<<20)), ok, 0},
		{"the last, and places that are empty", req(opRing, "l", 1<<62, ""), ok, 1<<20 + 400},
		{"no place", req(opRing, "=", -1, ""), none, 0},
		{"no place to set", req(opRing, "!", 100, "x"), none, 0},
		{"popped", req(opRing, "-", 0, ""), ok, 1<<20 + 4},
	} {
		how, got := ask(c.req)
		if how != c.how || len(got) != c.size {
			t.Errorf("%s: %d, %d bytes", c.name, how, len(got))
		}
	}
	for range 100 {
		ask(req(opRing, "+", 0, strings.Repeat("x", 1<<20)))
	}
	if how, _ := ask(req(opRing, "l", 100, "")); how != bad {
		t.Errorf("more than a frame: %d", how)
	}
	if how, _ := ask(req(opRing, "l", -5, "")); how != ok {
		t.Errorf("a negative count: %d", how)
	}
	h = New(&vassal.App{}, nil, &pool{}, slog.New(slog.DiscardHandler))
	if h.ring.block != vassal.QueueBlock || len(h.ring.places) != 0 {
		t.Errorf("without the option: %d places of %d bytes", len(h.ring.places), h.ring.block)
	}
}
