package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"liege/internal/testenv"
	"liege/serve/worker"
	"liege/vassal"
)

func TestMain(m *testing.M) {
	// The goroutine that hands out signals stays for ever once it has started.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR2)
	signal.Stop(signals)
	os.Exit(testenv.Main(m))
}

// fake starts processes that end when told; their pids are nobody's.
type fake struct {
	mu     sync.Mutex
	starts []time.Time
	ends   []chan syscall.WaitStatus
	fail   error
}

func (f *fake) Start(*worker.Program) (worker.Process, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.starts = append(f.starts, time.Now())
	if f.fail != nil {
		return worker.Process{}, f.fail
	}
	c := make(chan syscall.WaitStatus, 1)
	f.ends = append(f.ends, c)
	return worker.Process{PID: 1 << 28, Status: c}, nil // above the kernel's highest pid
}

func (f *fake) end(status syscall.WaitStatus) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ends[len(f.ends)-1] <- status
}

func (f *fake) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.starts)
}

func program(int) (*worker.Program, error) { return &worker.Program{}, nil }

// TestBackoff: the pause grows while a copy ends early, and is forgotten once
// it has run for a while.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		k := New(Spec{Name: "x", Program: program}, f, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		synctest.Wait()
		<-k.Ready()
		for range 3 {
			f.end(1 << 8)
			time.Sleep(time.Hour)
		}
		for range 12 { // early: at the moment of its start
			n := f.count()
			f.end(1 << 8)
			for f.count() == n {
				time.Sleep(time.Millisecond)
				synctest.Wait()
			}
		}
		var gaps []string
		f.mu.Lock()
		for i := 4; i < len(f.starts); i++ {
			gaps = append(gaps, f.starts[i].Sub(f.starts[i-1]).Truncate(100*time.Millisecond).String())
		}
		f.mu.Unlock()
		want := "1h0m0s 100ms 200ms 400ms 800ms 1.6s 3.2s 6.4s 12.8s 25.6s 30s 30s"
		if got := strings.Join(gaps, " "); got != want {
			t.Errorf("pauses %s\nwant   %s", got, want)
		}
		if st := k.Stats()[0]; !st.Up || st.Respawns != 15 {
			t.Errorf("%+v", st)
		}
		go func() { time.Sleep(time.Millisecond); f.end(15) }() // it ends when asked
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestMust: what fails before all were ready is the reason of Run.
func TestMust(t *testing.T) {
	for name, c := range map[string]struct {
		f     *fake
		check func(context.Context, int, int) error
		end   bool
		want  string
	}{
		"no program": {&fake{fail: errors.New("not there")}, nil, false, "not started: not there"},
		"ends":       {&fake{}, func(ctx context.Context, _, _ int) error { <-ctx.Done(); return errors.New("silent") }, true, "exit status 3"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := New(Spec{Name: "x", Program: program, Check: c.check, Must: true, Timeout: time.Minute}, c.f, slog.New(slog.DiscardHandler))
				done := make(chan error, 1)
				go func() { done <- k.Run(t.Context()) }()
				synctest.Wait()
				if c.end {
					c.f.end(3 << 8)
				}
				p, ok := errors.AsType[*vassal.Problem](<-done)
				if !ok || p.Message != c.want || p.Step != "x" {
					t.Errorf("got %v", p)
				}
			})
		})
	}
}

// pool runs real processes.
func pool(t *testing.T) *worker.Pool {
	t.Helper()
	p, err := worker.New(&vassal.App{Name: "test"}, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p
}

// script runs text by a shell.
func script(t *testing.T, text string) func(int) (*worker.Program, error) {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	return func(n int) (*worker.Program, error) {
		return &worker.Program{Path: "/bin/sh", Argv: []string{"sh", "-c", text, "sh", fmt.Sprint(n)}, Env: []string{"PATH=/usr/bin:/bin"},
			Files: [3]*os.File{null, null, null}}, nil
	}
}

func exists(p string) bool { _, err := os.Stat(p); return err == nil }

// until waits for ok.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what, "has not happened")
		}
	}
}

// TestStop: a copy is asked, its group is gone when Run returns, and one that
// does not listen is killed.
func TestStop(t *testing.T) {
	testenv.Leaks(t)
	p, dir := pool(t), t.TempDir()
	text := `trap "echo >` + dir + `/asked$1; exit" TERM; [ $1 = 1 ] && trap "" TERM; sleep 1000 & echo $! >` + dir + `/child$1; mv ` + dir + `/child$1 ` + dir + `/up$1; while :; do wait; done`
	var ups atomic.Int64
	k := New(Spec{Name: "x", Count: 2, Program: script(t, text), Grace: 300 * time.Millisecond, Check: func(ctx context.Context, n, _ int) error {
		for !exists(filepath.Join(dir, fmt.Sprint("up", n))) {
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}, Changed: func(_ int, up bool) {
		if up {
			ups.Add(1)
		} else {
			ups.Add(-1)
		}
	}}, p, slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	<-k.Ready()
	until(t, "both up", func() bool { return ups.Load() == 2 })
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if !exists(dir+"/asked0") || exists(dir+"/asked1") || ups.Load() != 0 {
		t.Errorf("asked: %t %t, %d are up", exists(dir+"/asked0"), exists(dir+"/asked1"), ups.Load())
	}
}

// TestRestart: a copy that is asked to, or killed, is there again at once, and
// that is no failure.
func TestRestart(t *testing.T) {
	testenv.Leaks(t)
	k := New(Spec{Name: "x", Program: script(t, "exec sleep 1000"), Grace: 5 * time.Second}, pool(t), slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	<-k.Ready()
	last := 0
	for i, f := range []func(int){k.Restart, k.Kill, k.Restart, func(n int) { k.Signal(n, syscall.SIGHUP) }} {
		last = k.Stats()[0].PID
		f(0)
		until(t, fmt.Sprint("restart ", i), func() bool { st := k.Stats()[0]; return st.Up && st.PID != last })
	}
	if st := k.Stats()[0]; st.Respawns != 4 {
		t.Errorf("%d respawns, want 4", st.Respawns)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
