package emperor

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"liege/emperor/control"
	"liege/vassal"
)

// A story is steps against one vassal called v, and what is seen after each.
func TestStories(t *testing.T) {
	sec := time.Second
	for _, tt := range []struct {
		name string
		do   func(s *stage)
	}{{"serves and stops", func(s *stage) {
		s.write("v", "good")
		s.look(0)
		s.want("v", "starting 1 starting")
		s.pass(5 * sec)
		s.want("v", "running 1")
	}}, {"backs off, longer each time", func(s *stage) {
		s.write("v", "crash")
		s.look(1500 * time.Millisecond)
		s.want("v", "backoff 1: boom")
		s.pass(sec)
		s.want("v", "starting 2 starting: boom")
		s.pass(sec)
		s.want("v", "backoff 2: boom")
		s.pass(sec) // 4.5 s: the second delay is 2 s
		s.want("v", "backoff 2: boom")
		s.pass(sec)
		s.want("v", "starting 3 starting: boom")
	}}, {"an edit ends the backoff", func(s *stage) {
		s.write("v", "crash")
		s.look(3500 * time.Millisecond)
		s.want("v", "backoff 2: boom")
		s.write("v", "good")
		s.look(1100 * time.Millisecond)
		s.want("v", "running 3")
	}}, {"a bad edit keeps the old one serving", func(s *stage) {
		s.write("v", "good")
		s.look(5 * sec)
		s.write("v", "bad")
		s.look(5 * sec)
		s.want("v", "running 1: bad file")
		if s.world.alive("v") != 1 {
			s.Error("the old one is gone")
		}
		s.write("v", "good again")
		s.look(5 * sec)
		s.want("v", "running 2")
	}}, {"an edit that is never ready keeps the old one", func(s *stage) {
		s.write("v", "good")
		s.look(5 * sec)
		s.write("v", "never")
		s.look(5 * sec)
		s.want("v", "running 2 starting")
		s.pass(15 * sec)
		s.want("v", "running 2: not ready after 10s")
	}}, {"overlap", func(s *stage) {
		s.write("v", "good")
		s.look(5 * sec)
		s.write("v", "good 2")
		s.look(500 * time.Millisecond)
		if n := s.world.alive("v"); n != 2 {
			s.Errorf("%d live, want 2", n)
		}
		s.pass(sec)
		s.want("v", "running 2")
		if n := s.world.alive("v"); n != 1 {
			s.Errorf("%d live, want 1", n)
		}
	}}, {"without overlap the old one leaves first", func(s *stage) {
		s.write("v", "good drain=5s")
		s.look(5 * sec)
		s.write("v", "good alone")
		s.look(4 * sec)
		s.want("v", "starting 1 starting")
		s.pass(1500 * time.Millisecond)
		s.want("v", "starting 2 starting")
		if n := s.world.alive("v"); n != 1 {
			s.Errorf("%d live, want 1", n)
		}
		s.pass(sec)
		s.want("v", "running 2")
	}}, {"without room for two the old one leaves first", func(s *stage) {
		s.write("v", "good drain=5s")
		s.look(5 * sec)
		s.write("v", "good full")
		s.look(4 * sec)
		s.want("v", "starting 1 starting")
		s.pass(1500 * time.Millisecond)
		if n := s.world.alive("v"); n != 1 {
			s.Errorf("%d live, want 1", n)
		}
		s.pass(sec)
		s.want("v", "running 2")
		if ps := record0(s, "v").Problems; len(ps) != 1 || ps[0].Code != vassal.CodeNoRoom {
			s.Errorf("problems %+v", ps)
		}
	}}, {"a stubborn one is killed", func(s *stage) {
		s.write("v", "stubborn")
		s.look(2 * sec)
		s.remove("v")
		s.look(29 * sec)
		s.want("v", "draining 1")
		s.pass(2 * sec)
		s.want("v", "none")
	}}, {"removed while starting", func(s *stage) {
		s.write("v", "never")
		s.look(2 * sec)
		s.remove("v")
		s.look(0)
		s.want("v", "none")
	}}, {"back before it has left", func(s *stage) {
		s.write("v", "good drain=5s")
		s.look(2 * sec)
		s.remove("v")
		s.look(2 * sec)
		s.want("v", "draining 1")
		s.write("v", "good")
		s.look(2 * sec)
		s.want("v", "running 2")
	}}, {"a crash", func(s *stage) {
		s.write("v", "dies=5s")
		s.look(4 * sec)
		s.want("v", "running 1")
		s.pass(1500 * time.Millisecond)
		s.want("v", "backoff 1: was ended by SIGKILL: out of memory")
		s.pass(2 * sec)
		s.want("v", "running 2")
	}}, {"refused, then mended", func(s *stage) {
		s.write("v", "bad")
		s.look(2 * sec)
		s.want("v", "failed 0: bad file")
		s.write("v", "good")
		s.look(2 * sec)
		s.want("v", "running 1")
	}}, {"not launched", func(s *stage) {
		s.write("v", "fail")
		s.look(500 * time.Millisecond)
		s.want("v", "backoff 1: no such image")
	}}, {"a wish during a start: other bytes restart the try", func(s *stage) {
		s.write("v", "never")
		s.look(2 * sec)
		s.write("v", "good")
		s.look(1100 * time.Millisecond)
		s.want("v", "running 2")
	}}, {"a touch during a start is kept", func(s *stage) {
		s.write("v", "good")
		s.look(500 * time.Millisecond)
		s.write("v", "good")
		s.look(600 * time.Millisecond)
		s.want("v", "running 2 starting")
		s.pass(sec)
		s.want("v", "running 2")
	}}, {"an include that changed", func(s *stage) {
		s.write("v", "good")
		s.look(2 * sec)
		s.world.mu.Lock()
		s.world.changed["v"] = true
		s.world.mu.Unlock()
		s.pass(5 * sec)
		s.want("v", "running 2")
	}}, {"a panic in the check is its vassal's problem", func(s *stage) {
		s.write("v", "panic")
		s.write("w", "good")
		s.look(2 * sec)
		s.want("v", "failed 0: a defect of Liege was met while checking this file; it is in the Emperor's log")
		s.want("w", "running 1")
	}}, {"stuck", func(s *stage) {
		s.write("v", "stuck")
		s.look(2 * sec)
		s.write("v", "good")
		s.look(2 * sec)
		s.want("v", "running 2")
		s.pass(time.Minute)
		for _, v := range s.e.list() {
			if len(v.Problems) != 1 || v.Problems[0].Code != "stuck" ||
				v.Problems[0].Message != "generation 1 was killed and does not die: 1 processes are left: 7 (in nfs_wait)" {
				s.Errorf("problems: %v", v.Problems)
			}
		}
		s.write("v", "good 3") // a new generation starts all the same
		s.look(2 * sec)
		s.want("v", "running 3")
		s.world.mu.Lock()
		first := s.world.made["v"][0]
		s.world.mu.Unlock()
		first.die(exitAfterAll)
		s.pass(0)
		s.want("v", "running 3")
	}}, {"several are stuck", func(s *stage) {
		for i := range 4 {
			s.write("v", "stuck")
			s.look(time.Minute)
			s.want("v", fmt.Sprintf("running %d", i+1))
		}
		s.world.mu.Lock()
		defer s.world.mu.Unlock()
		for _, f := range s.world.made["v"] {
			f.die(exitAfterAll)
		}
		defer s.pass(0)
	}}, {"a long run forgets earlier failures", func(s *stage) {
		s.write("v", "dies=70s")
		s.look(0)
		for i := range 4 { // 70 s of life and always one of back-off
			s.pass(70*sec + 500*time.Millisecond)
			s.want("v", fmt.Sprintf("backoff %d: was ended by SIGKILL: out of memory", i+1))
			s.pass(500 * time.Millisecond)
			s.want("v", fmt.Sprintf("starting %d starting: was ended by SIGKILL: out of memory", i+2))
		}
	}}, {"the one that serves dies while its successor starts", func(s *stage) {
		s.write("v", "dies=5s")
		s.look(4 * sec)
		s.write("v", "slow=5s")
		s.look(2 * sec)
		s.want("v", "starting 2 starting: was ended by SIGKILL: out of memory")
		s.pass(4 * sec)
		s.want("v", "running 2")
	}}, {"stopped while starting, suspended while backing off", func(s *stage) {
		s.write("v", "never")
		s.look(2 * sec)
		s.act("v", control.Stop)
		s.want("v", "stopped 1")
		s.write("v", "crash")
		s.look(0)
		s.act("v", control.Start)
		s.act("v", control.Suspend)
		s.want("v", "suspended 2: boom")
		s.act("v", control.Resume)
		s.want("v", "backoff 3: boom")
	}}, {"a third generation waits while two drain", func(s *stage) {
		s.write("v", "good drain=20s 1")
		s.look(2 * sec)
		s.write("v", "good drain=20s 2")
		s.look(2 * sec)
		s.write("v", "good drain=20s 3")
		s.look(2 * sec)
		s.want("v", "running 3")
		s.write("v", "good 4")
		s.look(2 * sec)
		s.want("v", "running 3 queued")
		if n := s.world.alive("v"); n != 3 {
			s.Errorf("%d live, want 3", n)
		}
		s.pass(18 * sec)
		s.want("v", "running 4")
	}}, {"suspended, an edit is checked and not started", func(s *stage) {
		s.write("v", "good")
		s.look(2 * sec)
		s.act("v", control.Suspend)
		s.write("v", "bad")
		s.look(sec)
		s.want("v", "suspended 1: bad file")
		s.write("v", "good")
		s.look(sec)
		s.want("v", "suspended 1")
	}}, {"a storm of touches has a pace, a command has none", func(s *stage) {
		s.write("v", "good")
		s.look(2 * sec)
		for range 300 { // ten minutes
			s.write("v", "good")
			s.look(2 * sec)
		}
		n := s.world.starts("v")
		if n < 100 || n > 1+10+600/6+5 {
			s.Errorf("%d starts, want about 110", n)
		}
		s.act("v", control.Reload)
		s.write("v", "good")
		s.look(0)
		if got := s.act("v", control.Reload); !strings.HasPrefix(got, "0 ") {
			s.Error(got)
		}
	}}, {"reloads by a vassal's own user have the pace of edits", func(s *stage) {
		s.write("v", "good")
		s.look(2 * sec)
		own := control.Request{Verb: control.Reload, Paced: true}
		if o := s.e.Act(s.ctx, "v", own, "uid 7"); !o.OK {
			s.Errorf("%+v", o)
		}
		s.want("v", "running 2")
		own.NoWait = true
		for range 300 { // ten minutes
			s.e.Act(s.ctx, "v", own, "uid 7")
			s.look(2 * sec)
		}
		if n := s.world.starts("v"); n < 100 || n > 1+10+600/6+5 {
			s.Errorf("%d starts, want about 110", n)
		}
	}}, {"what a start that fails uses is counted", func(s *stage) {
		s.write("v", "crash")
		s.look(sec / 2)
		f := s.world.latest("v")
		f.mu.Lock()
		f.usage = Usage{CPUUsec: 700, OOMKills: 1}
		f.mu.Unlock()
		s.pass(sec)
		if v := record0(s, "v"); v.CPUUsec != 700 || v.OOMKills != 1 {
			s.Errorf("cpu_usec %d, oom_kills %d; want 700, 1", v.CPUUsec, v.OOMKills)
		}
	}}, {"what the host lacked comes true", func(s *stage) {
		s.write("v", "hostless")
		s.look(sec)
		s.want("v", "failed 0: no such user")
		s.world.mu.Lock()
		s.world.changed["host"] = true
		s.world.mu.Unlock()
		s.pass(7 * sec)
		s.want("v", "running 1")
	}}} {
		t.Run(tt.name, func(t *testing.T) { perform(t, Options{Concurrency: 2}, tt.do) })
	}
}

var exitAfterAll = vassal.Exit{Signal: "SIGKILL"}
