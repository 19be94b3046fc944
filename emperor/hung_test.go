package emperor

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"liege/emperor/control"
	"liege/vassal"
)

const hangs = "the start of generation 1 hangs: launch: a file system does not answer"

// A start that hangs is given up; nothing else is asked of its Launcher; what it
// makes late is ended, and the vassal is tried anew.
func TestLaunchHangs(t *testing.T) {
	perform(t, Options{Concurrency: 2}, func(s *stage) {
		s.write("v", "good wedge=10m")
		s.look(StepTime + giveUp + 100*time.Millisecond)
		s.want("v", "backoff 1: "+hangs)
		s.pass(2 * time.Second)
		s.want("v", "failed 1: "+hangs)
		s.write("v", "good")
		s.look(time.Minute)
		s.want("v", "failed 1: "+hangs)
		s.pass(10 * time.Minute)
		s.want("v", "running 2")
		if n := s.world.alive("v"); n != 1 {
			t.Errorf("%d live, want 1", n)
		}
		if late := s.world.made["v"][0]; !late.killed {
			t.Error("what was launched late lives")
		}
	})
}

// A start of a new generation that hangs leaves the old one serving, and the vassal
// can be stopped and removed: its listeners are closed when it returns.
func TestLaunchHangsBeside(t *testing.T) {
	perform(t, Options{Concurrency: 2, StateDir: t.TempDir()}, func(s *stage) {
		for _, n := range []vassal.Name{"v", "w"} {
			s.world.mu.Lock()
			s.world.dead = 0
			s.world.mu.Unlock()
			s.write(n, "good")
			s.look(2 * time.Second)
			s.write(n, "good wedge=10m")
			s.look(StepTime + giveUp + time.Second)
			s.want(n, "running 2: "+strings.Replace(hangs, "1", "2", 1))
		}
		if got := s.act("v", control.Stop); got != "0 v: stopped, generation 2" {
			t.Errorf("stop: %s", got)
		}
		s.remove("w")
		s.look(time.Second)
		s.want("w", "draining 2: "+strings.Replace(hangs, "1", "2", 1))
		if s.world.opened("v") != 1 {
			t.Error("closed while a call hangs")
		}
		s.pass(10 * time.Minute)
		s.want("v", "stopped 2")
		s.want("w", "none")
		for _, n := range []vassal.Name{"v", "w"} {
			if s.world.opened(n) != 0 || s.world.alive(n) != 0 {
				t.Errorf("%s leaves %d launchers, %d generations", n, s.world.opened(n), s.world.alive(n))
			}
		}
		if got := s.act("v", control.Start); got != "0 v: running, generation 3" {
			t.Errorf("start: %s", got)
		}
	})
}

// The Emperor ends without what hangs, be it a start, a holding generation or the
// closing of listeners, and what is made afterwards is ended.
func TestStopWhileItHangs(t *testing.T) {
	for name, begin := range map[string]func(s *stage){
		"start": func(s *stage) {
			s.write("v", "good wedge=10h")
			s.look(time.Second)
		},
		"given up": func(s *stage) {
			s.write("v", "good wedge=10h")
			s.look(2 * StepTime)
		},
		"hold": func(s *stage) {
			s.world.holds = words{"wedge": "10h"}
			s.write("v", "fail")
			s.look(20 * time.Second)
		},
		"close": func(s *stage) {
			s.world.closing = 10 * time.Hour
			s.write("v", "good")
			s.look(5 * time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &stage{T: t, files: newFiles(), world: newWorld(), slots: 2}
				s.start()
				begin(s)
				began := time.Now()
				s.stop()
				if err := <-s.end; err != nil || time.Since(began) > 2*giveUp && (name != "close" || time.Since(began) > closeTime+giveUp) {
					t.Errorf("ended after %v: %v", time.Since(began), err)
				}
				s.pass(11 * time.Hour)
				if n := s.world.alive("v") + s.world.holding("v"); n != 0 {
					t.Errorf("%d live, and no Emperor", n)
				}
			})
		})
	}
}

// A vassal whose file was renamed waits for no call of the old one's Launcher that hangs,
// be it a start or the closing of what is left.
func TestRenamedWhileItHangs(t *testing.T) {
	perform(t, Options{Concurrency: 2}, func(s *stage) {
		s.write("old", "good")
		s.look(2 * time.Second)
		s.write("old", "good wedge=10m")
		s.look(StepTime + giveUp + time.Second)
		s.rename("old", "new")
		s.look(2 * time.Second)
		s.want("old", "draining 2: "+strings.Replace(hangs, "1", "2", 1))
		s.want("new", "running 1")
		s.pass(10 * time.Minute)
		s.want("old", "none")
		if s.world.opened("old") != 0 || s.world.handed != nil {
			t.Errorf("%d launchers of the old one, handed over: %v", s.world.opened("old"), s.world.handed)
		}
	})
	perform(t, Options{Concurrency: 2}, func(s *stage) {
		s.write("old", "good")
		s.look(2 * time.Second)
		s.world.closing = time.Hour
		s.rename("old", "new")
		s.look(closeTime + giveUp + 3*time.Second)
		s.want("new", "running 1")
		s.world.closing = 0
		if got := s.act("new", control.Stop); got != "0 new: stopped, generation 1" {
			t.Errorf("stop: %s", got)
		}
		s.pass(time.Hour)
	})
}
