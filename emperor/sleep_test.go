package emperor

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"liege/emperor/control"
	"liege/internal/testenv"
	"liege/vassal"
)

// Sleep implements Sleeper. "nosleep" cannot.
func (l *fakeLauncher) Sleep(_ context.Context, p Prepared, wake func()) ([]string, vassal.Problems) {
	defer l.use()()
	if p.(*fakePrepared).words.has("nosleep") {
		return nil, vassal.AsProblems(errors.New("address in use"), "listen", vassal.CodeListen)
	}
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.w.slept[l.name]++
	if l.w.queue[l.name] {
		go wake()
	} else {
		l.w.wakes[l.name] = wake
	}
	return []string{"127.0.0.1:80"}, nil
}

// Rest implements Sleeper.
func (l *fakeLauncher) Rest() error {
	defer l.use()()
	if n := l.w.alive(l.name); n > 0 {
		panic(fmt.Sprintf("%s: rests while %d live", l.name, n))
	}
	if l.rests++; l.rests > 100 {
		panic(fmt.Sprintf("%s: rests again and again", l.name))
	}
	return nil
}

// connect is a client: it waits for as long as nobody accepts.
func (w *world) connect(n vassal.Name) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue[n] = true
	if wake := w.wakes[n]; wake != nil {
		delete(w.wakes, n)
		wake()
	}
}

func (w *world) accept(n vassal.Name) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue[n] = false
}

func (w *world) leave(n vassal.Name) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.wakes, n)
}

func (w *world) watched(n vassal.Name) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wakes[n] != nil
}

// idle has the newest generation of v say that nobody asks.
func (s *stage) idle(d time.Duration) {
	s.world.latest("v").idle <- struct{}{}
	s.pass(d)
}

// nth is the nth generation of v.
func (s *stage) nth(n int) *fake {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	return s.world.made["v"][n]
}

func (s *stage) is(name string, want func(v control.Vassal) bool) {
	s.Helper()
	if v := record0(s, name); !want(v) {
		s.Errorf("%s: %+v", name, v)
	}
}

func TestSleeping(t *testing.T) {
	sec := time.Second
	for _, tt := range []struct {
		name string
		do   func(s *stage)
	}{{"it sleeps until somebody connects, and again", func(s *stage) {
		s.write("v", "good sleepy")
		s.look(sec)
		s.want("v", "sleeping 0")
		s.is("v", func(v control.Vassal) bool {
			return v.Applied && v.PID == nil && len(v.Listen) == 1 && v.ColdStarts == 0 && v.FileDigest != nil && v.User != nil
		})
		s.world.connect("v")
		s.pass(2 * sec)
		s.want("v", "running 1")
		s.idle(sec)
		s.want("v", "sleeping 1")
		s.held(0, 0)
		s.world.connect("v")
		s.pass(2 * sec)
		s.want("v", "running 2")
		s.is("v", func(v control.Vassal) bool { return v.ColdStarts == 2 && v.Restarts == 0 })
	}}, {"a connection while it goes to sleep", func(s *stage) {
		s.write("v", "good sleepy drain=5s")
		s.look(sec)
		s.world.connect("v")
		s.pass(2 * sec)
		s.idle(sec)
		s.want("v", "draining 1")
		s.world.connect("v")
		s.pass(7 * sec)
		s.want("v", "running 2")
	}}, {"what nobody asks for is not started by an edit", func(s *stage) {
		s.write("v", "good sleepy")
		s.look(sec)
		s.write("v", "good sleepy # mended")
		s.look(sec)
		s.want("v", "sleeping 0")
		s.is("v", func(v control.Vassal) bool { return v.Applied })
		s.act("v", control.Reload)
		s.act("v", control.Restart)
		s.want("v", "sleeping 0")
		s.write("v", "good")
		s.look(2 * sec)
		s.want("v", "running 1")
		s.write("v", "good sleepy")
		s.look(2 * sec)
		s.want("v", "running 2") // it serves, and says itself when it is idle
		s.idle(sec)
		s.want("v", "sleeping 2")
	}}, {"a bad edit, mended", func(s *stage) {
		s.write("v", "good sleepy")
		s.look(sec)
		s.write("v", "bad sleepy")
		s.look(sec)
		s.want("v", "failed 0: bad file")
		s.held(1, 0) // it has listeners: somebody answers
		s.world.connect("v")
		s.write("v", "good sleepy")
		s.look(3 * sec)
		s.want("v", "running 1") // the connection waited
	}}, {"a start that fails is no spin", func(s *stage) {
		s.write("v", "crash sleepy")
		s.look(sec)
		s.world.connect("v")
		s.pass(8 * sec)
		s.want("v", "backoff 3: boom")
		s.held(1, 0)
		s.answered("503 ")
		s.write("v", "good sleepy")
		s.look(2 * sec)
		s.want("v", "running 4")
		s.held(0, 1)
		s.is("v", func(v control.Vassal) bool { return v.ColdStarts == 1 && v.Restarts == 2 })
	}}, {"listeners that cannot be had", func(s *stage) {
		s.write("v", "good sleepy nosleep")
		s.look(sec / 2)
		s.want("v", "backoff 0: address in use")
		s.pass(20 * sec)
		if n := s.world.starts("v"); n != 0 {
			s.Errorf("started %d times", n)
		}
		s.write("v", "good sleepy")
		s.look(2 * sec)
		s.want("v", "sleeping 0")
	}}, {"start, stop, suspend, resume", func(s *stage) {
		s.write("v", "good sleepy")
		s.look(sec)
		s.act("v", control.Start)
		s.want("v", "running 1")
		s.is("v", func(v control.Vassal) bool { return v.ColdStarts == 1 })
		s.idle(sec)
		s.want("v", "sleeping 1")
		s.act("v", control.Stop)
		s.want("v", "stopped 1")
		if s.world.watched("v") {
			s.Error("its listeners are watched")
		}
		s.act("v", control.Start)
		s.want("v", "running 2")
		s.idle(sec)
		s.suspend(402, "unpaid")
		s.want("v", "suspended 2")
		s.held(1, 0)
		s.answered("402 unpaid")
		s.act("v", control.Resume)
		s.want("v", "sleeping 2")
		s.held(0, 0)
		s.act("v", control.Start)
		s.want("v", "running 3")
		s.act("v", control.Start) // and while it runs
		s.idle(sec)
		s.want("v", "sleeping 3")
	}}, {"one that is adopted", func(s *stage) {
		s.stop()
		<-s.end
		s.world.survivor["v"] = &fake{gen: 7, ready: make(chan vassal.Problems), done: make(chan struct{})}
		s.write("v", "good sleepy")
		s.start()
		s.pass(2 * sec)
		s.want("v", "running 8")
		s.idle(sec)
		s.want("v", "sleeping 8")
	}}, {"idle while its successor starts", func(s *stage) {
		for n, text := range []string{"good sleepy slow=5s", "good slow=5s"} { // which need not sleep, or does not
			s.write("v", "good sleepy")
			s.look(sec)
			s.act("v", control.Start)
			s.write("v", text)
			s.look(sec)
			s.nth(2 * n).idle <- struct{}{}
			s.pass(20 * sec)
			s.want("v", fmt.Sprintf("running %d", 2*n+2))
			s.idle(sec)
		}
		s.want("v", "running 4")
	}}, {"idle while its successor's start hangs", func(s *stage) {
		s.write("v", "good sleepy")
		s.look(sec)
		s.act("v", control.Start)
		s.write("v", "good sleepy wedge=300s")
		s.look(sec)
		s.nth(0).idle <- struct{}{}
		s.pass(90 * sec)
		s.nth(0).idle <- struct{}{}
		s.pass(90 * sec)
		s.is("v", func(v control.Vassal) bool { return v.State == control.Running })
		s.held(0, 1)
		s.pass(180 * sec)
		s.want("v", "running 3")
	}}, {"idle, and the file is bad by now", func(s *stage) {
		for _, text := range []string{"bad sleepy", "crash sleepy"} {
			s.write("v", "good sleepy")
			s.look(sec)
			s.act("v", control.Start)
			serves := s.world.latest("v")
			s.write("v", text)
			s.look(5 * sec)
			serves.idle <- struct{}{}
			s.pass(5 * sec)
			s.is("v", func(v control.Vassal) bool { return v.State == control.Running && !v.Applied })
			s.held(0, 1) // nothing could serve the old content once that is gone
			s.write("v", "good sleepy # mended")
			s.look(3 * sec)
			s.idle(sec)
			s.is("v", func(v control.Vassal) bool { return v.State == control.Sleeping })
		}
	}}, {"its file's mode is changed in its sleep", func(s *stage) {
		s.write("v", "good sleepy")
		s.look(sec)
		s.change("v", func(f *File) { f.Mode = 0o644 })
		s.look(sec)
		s.want("v", "sleeping 0")
	}}, {"restarted twice while it drains", func(s *stage) {
		s.write("v", "good sleepy drain=5s")
		s.look(sec)
		s.act("v", control.Start)
		first := make(chan string)
		go func() { first <- s.act("v", control.Restart) }()
		s.pass(sec)
		for _, got := range []string{s.act("v", control.Restart), <-first} {
			if got != "0 v: sleeping, generation 1" {
				s.Error(got)
			}
		}
	}}, {"renamed and removed in its sleep", func(s *stage) {
		s.write("v", "good sleepy")
		s.look(sec)
		s.rename("v", "w")
		s.look(sec)
		s.want("v", "none")
		s.want("w", "sleeping 0")
		s.remove("w")
		s.look(sec)
		s.want("w", "none")
	}}, {"woken again and again", func(s *stage) {
		s.write("v", "good sleepy")
		s.look(sec)
		for range 2 * paceBurst {
			s.world.connect("v")
			s.pass(1100 * time.Millisecond)
			if s.world.alive("v") == 1 {
				s.idle(0)
			}
		}
		if n := s.world.starts("v"); n > paceBurst+4 {
			s.Errorf("%d starts in 22 s", n)
		}
	}}} {
		t.Run(tt.name, func(t *testing.T) { perform(t, Options{StateDir: t.TempDir(), Concurrency: 2}, tt.do) })
	}
}

// TestSleepersCostNoGoroutine counts: ten thousand that sleep have neither a
// goroutine nor a timer.
func TestSleepersCostNoGoroutine(t *testing.T) {
	perform(t, Options{Concurrency: 2}, func(s *stage) {
		const n = 300
		synctest.Wait()
		before := len(testenv.Goroutines())
		for i := range n {
			s.write(vassal.Name(fmt.Sprintf("v%d", i)), "good sleepy")
		}
		s.look(time.Second)
		if got := s.e.Totals().ByState[control.Sleeping]; got != n {
			s.Fatalf("%d sleep", got)
		}
		if more := len(testenv.Goroutines()) - before; more > 0 {
			s.Errorf("%d sleepers have %d goroutines", n, more)
		}
		s.world.connect("v7")
		s.pass(2 * time.Second)
		s.want("v7", "running 1")
		s.want("v8", "sleeping 0")
	})
}
