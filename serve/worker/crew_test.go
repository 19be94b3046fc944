package worker

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"liege/vassal"
)

// accepting counts the workers that are there.
func (r *running) accepting() (n int) {
	for _, w := range r.Stats().Workers {
		if w.Accepting {
			n++
		}
	}
	return n
}

// TestCheaper: more workers when all are busy, fewer when there is less to do,
// never more or fewer than the file says, and no request is lost.
func TestCheaper(t *testing.T) {
	for _, threads := range []int{1, 2} {
		r := start(t, processes, func(a *vassal.App) {
			a.Workers.Processes, a.Workers.Threads = 4, threads
			a.Workers.Cheaper = vassal.Cheaper{Least: 1, Step: 2, Overload: time.Second}
		})
		if n := r.accepting(); n != 1 {
			t.Fatalf("%d workers at the start, want 1", n)
		}
		if st := r.Stats().Workers; !st[3].Cheap || st[0].Cheap {
			t.Errorf("places: %+v", st)
		}
		stop := make(chan struct{})
		var load sync.WaitGroup
		for range 4*threads + 8 {
			load.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if got := r.get("/sleep?0.05"); got != "slept" {
						t.Errorf("got %q", got)
						return
					}
				}
			})
		}
		eventually(t, "four workers", func() bool { return r.accepting() == 4 })
		close(stop)
		load.Wait()
		eventually(t, "one worker", func() bool { return r.accepting() == 1 })
		time.Sleep(2500 * time.Millisecond) // it must stay so
		if n := r.accepting(); n != 1 {
			t.Errorf("%d workers, want the one that is the least", n)
		}
		if got := r.get("/hello"); got != "hello" {
			t.Errorf("got %q", got)
		}
		if log := r.log(); strings.Contains(log, "died") {
			t.Errorf("dismissed workers are called dead:\n%s", log)
		}
	}
}

// TestIdle: without requests no worker runs; the next request starts one and
// is answered.
func TestIdle(t *testing.T) {
	r := start(t, processes, func(a *vassal.App) {
		a.Workers.Processes = 2
		a.Workers.Cheaper = vassal.Cheaper{Idle: time.Second}
	})
	if r.accepting() != 2 {
		t.Errorf("%d workers at the start", r.accepting())
	}
	for range 2 {
		eventually(t, "no worker", func() bool { return r.accepting() == 0 })
		if got := r.get("/hello"); got != "hello" {
			t.Fatalf("got %q", got)
		}
		eventually(t, "two workers", func() bool { return r.accepting() == 2 })
	}
}

// TestCheaperSlow: a worker that is at a request is busy though it has sent
// nothing of an answer yet, and those that wait behind it get others.
func TestCheaperSlow(t *testing.T) {
	r := start(t, processes, func(a *vassal.App) {
		a.Drain, a.Workers.Processes, a.Workers.Cheaper = time.Second, 2, vassal.Cheaper{Least: 1, Overload: time.Second}
	})
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for range 2 {
		load.Go(func() { _ = r.Serve(ctx, request("GET", "/sleep?60", ""), &recorder{}) }) // is cancelled
	}
	eventually(t, "another worker", func() bool { return r.accepting() == 2 })
	cancel()
	load.Wait()
}

// TestCheap: no worker before the first request.
func TestCheap(t *testing.T) {
	r := start(t, processes, func(a *vassal.App) { a.Workers.Processes, a.Workers.Cheaper = 2, vassal.Cheaper{Cheap: true} })
	if n := r.accepting(); n != 0 {
		t.Fatalf("%d workers at the start", n)
	}
	if got := r.get("/hello"); got != "hello" {
		t.Fatalf("got %q", got)
	}
	eventually(t, "two workers", func() bool { return r.accepting() == 2 })
}

// TestWorn: a worker that is old or large is replaced between two requests;
// one over the evil limit is killed.
func TestWorn(t *testing.T) {
	for name, worn := range map[string]vassal.Worn{"life": {Life: 50 * time.Millisecond}, "rss": {RSS: 1 << 20}, "as": {AS: 1 << 20}} {
		for _, threads := range []int{1, 2} {
			r := start(t, processes, func(a *vassal.App) { a.Workers.Worn, a.Workers.Threads = worn, threads })
			before := r.get("/pid")
			eventually(t, name+": another worker", func() bool { return r.get("/pid") != before })
			if log := r.log(); strings.Contains(log, "died") {
				t.Errorf("%s: replaced workers are called dead:\n%s", name, log)
			}
		}
	}
	young := start(t, processes, func(a *vassal.App) { a.Workers.Worn = vassal.Worn{RSS: 1 << 20, Youth: time.Hour} })
	if a, b := young.get("/pid"), young.get("/pid"); a != b {
		t.Errorf("a young worker was replaced")
	}
	evil := start(t, processes, func(a *vassal.App) { a.Workers.Worn.EvilRSS = 1 << 20 })
	eventually(t, "a kill", func() bool { return strings.Contains(evil.log(), "evil-reload-on-rss") })
}

// TestMaxRequestsDelta: workers do not all leave at once.
func TestMaxRequestsDelta(t *testing.T) {
	r := start(t, processes, func(a *vassal.App) { a.Workers.Processes, a.Workers.MaxRequests, a.Workers.MaxDelta = 1, 5, 100 })
	first := r.get("/pid")
	for range 4 {
		if got := r.get("/pid"); got != first {
			t.Error("the first worker left early")
		}
	}
	if got := r.get("/pid"); got == first {
		t.Error("the first worker is at its sixth request")
	}
}
