package network

import (
	"context"
	"testing"
	"time"

	"github.com/google/nftables"
)

// TestKeep: whoever flushes all rules of the host finds Liege's there again, and
// vassals their way out.
func TestKeep(t *testing.T) {
	w := newWorld(t)
	n := w.open("shop", "10.213.0.2", "")
	g := w.attach(n, 1, egressOf(t))
	const site = "198.51.100.7:443"
	w.Serve(w.World, site)
	ctx, cancel := context.WithCancel(t.Context())
	mended, ended := make(chan error, 100), make(chan error, 1)
	go w.In(w.Host, func() error {
		ended <- Keep(ctx, func(err error) { mended <- err })
		return nil
	})
	flush := func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		conn.FlushRuleset()
		return conn.Flush()
	}
	again := time.NewTicker(time.Second) // what came before Keep listened is not heard of
	defer again.Stop()
	for late, done := time.After(time.Minute), false; !done; {
		w.In(w.Host, flush)
		select {
		case err := <-mended:
			if err != nil {
				t.Fatal(err)
			}
			done = true
		case err := <-ended:
			t.Fatalf("it ended: %v", err)
		case <-late:
			t.Fatal("the rules are not made again")
		case <-again.C:
		}
	}
	// A flush may have come after it was mended: the news of that come too.
	for late := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		got, err := w.Ask(g.ns, site)
		if err == nil && got == "203.0.113.1 " {
			break
		}
		if time.Now().After(late) {
			t.Fatalf("the vassal hears %q, %v", got, err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
