package emperor

import (
	"testing"
	"time"

	"liege/emperor/control"
)

// A generation that has said that it serves, though nobody has heard it yet, has
// requests and the vassal's listeners: whatever is wished at that moment, it is
// drained and not killed, and the one before is not left without its listeners.
func TestWishAsItBecomesReady(t *testing.T) {
	begun := func(s *stage) {
		s.write("v", "good")
		s.look(5 * time.Second)
		s.write("v", "good slow=3s mute=1s")
		s.look(3500 * time.Millisecond) // it accepts
		s.want("v", "running 2 starting")
	}
	for _, tt := range []struct {
		name, want string
		wish       func(s *stage)
	}{
		{"edit", "running 3", func(s *stage) { s.write("v", "good again"); s.look(0) }},
		{"bad edit", "running 2: bad file", func(s *stage) { s.write("v", "bad"); s.look(0) }},
		{"stop", "stopped 2", func(s *stage) { s.act("v", control.Stop) }},
		{"restart", "running 3", func(s *stage) { s.act("v", control.Restart) }},
		{"suspend", "suspended 2", func(s *stage) { s.suspend(402, "") }},
		{"removed", "none", func(s *stage) { s.remove("v"); s.look(0) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			perform(t, Options{Concurrency: 2}, func(s *stage) {
				begun(s)
				tt.wish(s)
				s.pass(10 * time.Second)
				s.want("v", tt.want)
				for _, g := range s.world.made["v"] {
					if g.cut {
						t.Errorf("generation %d was killed while it served", g.gen)
					}
				}
				if n := s.world.starts("v"); n > 3 {
					t.Errorf("%d starts", n)
				}
			})
		})
	}
	t.Run("the Emperor ends", func(t *testing.T) {
		perform(t, Options{Concurrency: 2}, func(s *stage) {
			begun(s)
			s.stop()
			s.pass(10 * time.Second)
			if s.world.latest("v").cut {
				t.Error("it was killed while it served")
			}
		})
	})
	t.Run("at the very moment", func(t *testing.T) {
		for range 40 { // which of the two is heard first is chance
			perform(t, Options{Concurrency: 2}, func(s *stage) {
				s.write("v", "good")
				s.look(5 * time.Second)
				s.write("v", "good slow=3s")
				s.look(0)
				s.world.mu.Lock()
				second := s.world.made["v"][1]
				s.world.mu.Unlock()
				s.write("v", "good again")
				time.AfterFunc(3*time.Second, func() { _ = s.e.Refresh(s.ctx) })
				s.pass(10 * time.Second)
				s.want("v", "running 3")
				if second.cut {
					s.Error("it was killed while it served")
				}
			})
		}
	})
	t.Run("a holding one", func(t *testing.T) {
		perform(t, Options{Concurrency: 2}, func(s *stage) {
			s.world.holds = words{"mute": "1s"}
			s.write("v", "good")
			s.look(5 * time.Second)
			go s.e.Act(s.ctx, "v", control.Request{Verb: control.Suspend, Status: 402}, "root")
			s.pass(time.Second / 2)
			s.act("v", control.Resume)
			s.pass(5 * time.Second)
			s.want("v", "running 2")
			if s.world.held["v"][0].cut {
				t.Error("it was killed while it answered")
			}
		})
	})
}

// A generation that serves and says no more, because something of it hangs, is not
// killed when its time to be ready is over; one that dies with that word on its lips
// has served.
func TestReadyUnheard(t *testing.T) {
	perform(t, Options{Concurrency: 2}, func(s *stage) {
		s.write("v", "good mute=1h")
		s.look(10*time.Second + giveUp + 100*time.Millisecond)
		s.want("v", "running 1")
	})
	for range 20 {
		perform(t, Options{Concurrency: 2}, func(s *stage) {
			s.write("v", "good")
			s.look(5 * time.Second)
			s.write("v", "good slow=0s last")
			s.look(500 * time.Millisecond)
			s.want("v", "backoff 2: exited with code 1")
		})
	}
}

// What is given up before it serves changes nothing, is drained, for it may have begun
// to accept, and none that may not run beside another is started meanwhile.
func TestForgone(t *testing.T) {
	perform(t, Options{Concurrency: 2}, func(s *stage) {
		s.write("v", "good")
		s.look(5 * time.Second)
		s.write("v", "good slow=5s drain=2s")
		s.look(time.Second)
		s.write("v", "good again")
		s.look(time.Second)
		s.want("v", "running 3")
		if n := s.world.alive("v"); n != 2 {
			t.Errorf("%d live, want the third and the second, which drains", n)
		}
	})
	perform(t, Options{Concurrency: 2}, func(s *stage) {
		s.write("v", "good alone slow=5s drain=2s")
		s.look(time.Second)
		s.write("v", "good alone again")
		for range 40 {
			s.look(100 * time.Millisecond)
			if n := s.world.alive("v"); n > 1 {
				s.Errorf("%d live", n)
			}
		}
		s.want("v", "running 2")
	})
}
