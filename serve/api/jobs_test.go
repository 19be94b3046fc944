package api

import (
	"context"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"liege/serve/worker"
	"liege/vassal"
)

// commands is a pool that notes what it is to start.
type commands struct {
	pool
	mu  sync.Mutex
	all []string
}

func (c *commands) Start(p *worker.Program) (worker.Process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, time.Now().UTC().Format("15:04:05 ")+p.Argv[2])
	status := make(chan syscall.WaitStatus, 1)
	status <- 0
	return worker.Process{PID: 1 << 30, Status: status}, nil
}

// TestClockSetBack: a clock that was set back stops crons for ten minutes at
// most, and none is raised twice for the minutes that it is waited for.
func TestClockSetBack(t *testing.T) {
	ran := &commands{}
	h := New(&vassal.App{Dir: "/", Jobs: &vassal.Jobs{Crons: []vassal.Cron{{Minute: -1, Hour: -1, Day: -1, Month: -1, Week: -1, Command: "each"}}}},
		nil, ran, slog.New(slog.DiscardHandler))
	h.Stdout = os.Stderr
	var wg sync.WaitGroup
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	minute := noon
	for _, x := range []struct {
		now  time.Duration // after noon
		runs int           // in all, by then
	}{{time.Minute, 1}, {-9 * time.Minute, 1}, {2 * time.Minute, 2}, {-time.Hour, 2}, {-59 * time.Minute, 3}} {
		minute = h.minuteDue(t.Context(), minute, noon.Add(x.now+time.Second), &wg)
		if len(ran.all) != x.runs {
			t.Errorf("at %v: %d runs, want %d", x.now, len(ran.all), x.runs)
		}
	}
	wg.Wait()
}

// TestCronsHandedOver: each cron is raised once in a minute that concerns it,
// whichever of two generations has the turn then, and also when neither has;
// one without a predecessor makes up for nothing.
func TestCronsHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins at midnight
		ran := &commands{}
		app := &vassal.App{Dir: "/", Jobs: &vassal.Jobs{Crons: []vassal.Cron{
			{Minute: -1, Hour: -1, Day: -1, Month: -1, Week: -1, Command: "each"},
			{Minute: 4, Hour: -1, Day: -1, Month: -1, Week: -1, Command: "four"}}}}
		// One generation: from now, for a time; what it says in the end.
		generation := func(since time.Time, d time.Duration) time.Time {
			h := New(app, nil, ran, slog.New(slog.NewTextHandler(io.Discard, nil)))
			h.Stdout = os.Stderr
			ctx, end := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { h.Jobs(ctx); close(ended) }()
			h.Turn(since)
			time.Sleep(d)
			end()
			<-ended
			return h.Until()
		}
		want := func(what, want string) {
			t.Helper()
			if got := strings.Join(ran.all, ", "); got != want {
				t.Errorf("%s: %q, want %q", what, got, want)
			}
			ran.all = nil
		}
		until := generation(time.Time{}, 119500*time.Millisecond) // to 00:01:59.5
		want("the first", "00:01:00 each")
		time.Sleep(700 * time.Millisecond) // nobody has the turn at 00:02:00
		until = generation(until, 70*time.Second)
		want("the second", "00:02:01 each, 00:03:00 each")
		until = generation(until, 10*time.Second) // from 00:03:10
		want("the third", "")
		time.Sleep(time.Until(time.Date(2000, 1, 1, 0, 6, 30, 0, time.UTC)))
		until = generation(until, 20*time.Second)
		want("the fourth, late", "00:06:31 each, 00:06:31 four")
		time.Sleep(20 * time.Minute)
		generation(until, time.Second)
		want("much later", "")
		generation(time.Time{}, time.Second)
		want("without a predecessor", "")
	})
}
