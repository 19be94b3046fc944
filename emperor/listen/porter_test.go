package listen

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"liege/internal/testenv"
)

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func porter(t *testing.T) *Porter {
	t.Helper()
	p, err := NewPorter()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p
}

// TestPorter: a connection wakes once; one that waits already wakes at once;
// who left is not woken; a broken listener wakes.
func TestPorter(t *testing.T) {
	testenv.Need(t, testenv.Root)
	p := porter(t)
	s := NewRegistry().Set("shop")
	defer s.Close()
	c := apply(t, s, wanting(t, "shop.ini", "127.0.0.1:0", "@liege-porter-test"))
	c.Commit()
	defer p.Leave(s)
	addr := c.Bound()[0].Address
	var n atomic.Int32
	wake := func() { n.Add(1) }

	watch := func() {
		t.Helper()
		if err := p.Watch(s, wake); err != nil {
			t.Fatal(err)
		}
	}
	watch()
	for range 3 {
		if !dials(addr) {
			t.Fatal("it is refused")
		}
	}
	if !dials("@liege-porter-test") {
		t.Fatal("it is refused")
	}
	eventually(t, "the wake", func() bool { return n.Load() > 0 })
	watch() // nobody accepted: they wait
	eventually(t, "the second wake", func() bool { return n.Load() > 1 })
	if n.Load() != 2 {
		t.Errorf("woken %d times", n.Load())
	}
	p.Leave(s)

	other := NewRegistry().Set("other")
	defer other.Close()
	oc := apply(t, other, wanting(t, "other.ini", "127.0.0.1:0"))
	oc.Commit()
	var m atomic.Int32
	if err := p.Watch(other, func() { m.Add(1) }); err != nil {
		t.Fatal(err)
	}
	p.Leave(other)
	gone := oc.Bound()[0].Address
	if !dials(gone) {
		t.Fatal("it is refused")
	}
	watch() // Run has looked at everything when this wakes
	eventually(t, "the third wake", func() bool { return n.Load() > 2 })
	if m.Load() != 0 {
		t.Error("who left was woken")
	}
}

// TestPorterMany: the number of those that are watched is no number of
// goroutines, and one of many is the one that is woken.
func TestPorterMany(t *testing.T) {
	testenv.Need(t, testenv.Root)
	p := porter(t)
	reg := NewRegistry()
	const n = 200
	woken := make(chan int, n)
	before := len(testenv.Goroutines())
	var addrs []string
	for i := range n {
		s := reg.Set("v")
		defer s.Close()
		c := apply(t, s, wanting(t, fmt.Sprintf("v%d.ini", i), "127.0.0.1:0"))
		c.Commit()
		addrs = append(addrs, c.Bound()[0].Address)
		if err := p.Watch(s, func() { woken <- i }); err != nil {
			t.Fatal(err)
		}
		defer p.Leave(s)
	}
	if more := len(testenv.Goroutines()) - before; more > 0 {
		t.Errorf("%d goroutines more", more)
	}
	for _, i := range []int{150, 3, 77} {
		conn, err := net.Dial("tcp", addrs[i])
		if err != nil {
			t.Fatal(err)
		}
		if got := <-woken; got != i {
			t.Errorf("%d was woken, want %d", got, i)
		}
		conn.Close()
	}
}
