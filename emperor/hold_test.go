package emperor

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"liege/emperor/control"
	"liege/vassal"
)

// held says how many holding generations v must have now, and how many of the
// application.
func (s *stage) held(holding, alive int) {
	s.Helper()
	if h, a := s.world.holding("v"), s.world.alive("v"); h != holding || a != alive {
		s.Errorf("%d hold and %d run, want %d and %d", h, a, holding, alive)
	}
}

// suspend suspends v and returns how long that took.
func (s *stage) suspend(status int, page string) time.Duration {
	s.Helper()
	return s.suspended(status, page, "v: suspended, generation ")
}

// suspended is suspend, and how what is said then is to begin.
func (s *stage) suspended(status int, page, want string) time.Duration {
	s.Helper()
	began := time.Now()
	o := s.e.Act(s.ctx, "v", control.Request{Verb: control.Suspend, Status: status, Page: []byte(page), Reason: "why"}, "root")
	if failed := strings.Contains(want, "nobody"); !strings.HasPrefix(o.Text, want) || o.OK == failed || (o.Code == 1) != failed {
		s.Errorf("suspend: %+v, want %q", o, want)
	}
	return time.Since(began)
}

// answered says what all holding generations so far were to answer.
func (s *stage) answered(want ...string) {
	s.Helper()
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	if got := strings.Join(s.world.answers, "; "); got != strings.Join(want, "; ") {
		s.Errorf("answers %q, want %q", got, want)
	}
}

func (s *stage) holds(text string) {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	s.world.holds = parse(text)
}

func TestHolding(t *testing.T) {
	sec := time.Second
	for _, tt := range []struct {
		name string
		do   func(s *stage)
	}{{"suspended, then resumed", func(s *stage) {
		s.write("v", "good")
		s.look(2 * sec)
		s.suspend(402, "unpaid")
		s.want("v", "suspended 1")
		s.held(1, 0)
		s.answered("402 unpaid")
		v := record0(s, "v")
		if v.Restarts != 0 || v.PID != nil || v.Generation != 1 || len(v.Listen) != 1 || v.Suspended.Reason != "why" {
			s.Errorf("suspended: %+v", v)
		}
		s.pass(sec)
		exit := v.LastExit
		go s.e.Act(s.ctx, "v", control.Request{Verb: control.Resume}, "root")
		s.pass(sec / 2)
		s.want("v", "starting 2 starting")
		s.held(1, 1) // until the application is ready
		s.pass(sec)
		s.want("v", "running 2")
		s.held(0, 1)
		if v := record0(s, "v"); exit == nil || v.LastExit == nil || *v.LastExit != *exit || v.Suspended != nil {
			s.Errorf("resumed: %+v, want the exit %+v", v, exit)
		}
	}}, {"it answers while the old one drains", func(s *stage) {
		s.write("v", "good drain=10s")
		s.look(2 * sec)
		go s.suspend(0, "")
		s.pass(sec)
		s.want("v", "draining 1")
		s.held(1, 1)
		s.answered("503 ")
		s.pass(10 * sec)
		s.want("v", "suspended 1")
		s.held(1, 0)
	}}, {"the application is alone while it drains", func(s *stage) {
		s.holds("drain=4s")
		s.write("v", "good")
		s.look(2 * sec)
		s.suspend(0, "")
		s.act("v", control.Resume)
		s.held(1, 1) // told after a second
		s.pass(sec)
		f := s.world.latest("v")
		f.mu.Lock()
		defer f.mu.Unlock()
		if !f.alone {
			s.Error("it was not told that it is alone")
		}
	}}, {"it is gone before anybody is told that the application runs", func(s *stage) {
		s.holds("drain=500ms")
		s.write("v", "good")
		s.look(2 * sec)
		s.suspend(0, "")
		s.act("v", control.Resume)
		s.held(0, 1)
		s.want("v", "running 2")
	}}, {"a page that comes while the file is checked", func(s *stage) {
		s.write("v", "good")
		s.look(2 * sec)
		s.suspend(404, "one")
		s.write("v", "good hang=5s")
		s.look(2 * sec)
		if took := s.suspend(404, "two"); took > 4*sec {
			s.Errorf("it took %v", took)
		}
		s.answered("404 one", "404 two")
	}}, {"another page replaces the first", func(s *stage) {
		s.write("v", "good")
		s.look(2 * sec)
		s.suspend(503, "one")
		s.suspend(503, "one")
		s.suspend(404, "two")
		s.pass(sec)
		s.held(1, 0)
		s.answered("503 one", "503 one", "404 two")
	}}, {"stopped and removed", func(s *stage) {
		s.write("v", "good")
		s.look(2 * sec)
		s.suspend(0, "")
		s.act("v", control.Stop)
		s.want("v", "stopped 1")
		s.held(0, 0)
		s.act("v", control.Start) // still suspended
		s.want("v", "suspended 1")
		s.held(1, 0)
		s.remove("v")
		s.look(sec)
		s.want("v", "none")
		s.held(0, 0)
	}}, {"what cannot be started is said, and tried again", func(s *stage) {
		s.write("v", "good")
		s.look(2 * sec)
		s.holds("fail")
		if took := s.suspended(0, "", "v: suspended, but nobody answers"); took > sec {
			s.Errorf("suspend took %v", took)
		}
		s.want("v", "suspended 1")
		s.held(0, 0)
		v := record0(s, "v")
		if len(v.Problems) != 1 || v.Problems[0].Severity != vassal.Warning || !strings.Contains(v.Problems[0].Message, "no uid") {
			s.Errorf("problems %+v", v.Problems)
		}
		s.holds("")
		s.pass(holdAgain - sec)
		s.held(0, 0)
		s.pass(2 * sec)
		s.held(1, 0)
		if v := record0(s, "v"); len(v.Problems) != 0 {
			s.Errorf("problems %+v", v.Problems)
		}
	}}, {"one that is never ready delays the suspension by so much", func(s *stage) {
		s.write("v", "good")
		s.look(2 * sec)
		s.holds("slow=1h")
		if took := s.suspended(0, "", "v: suspended, but nobody answers"); took > holdReady+sec {
			s.Errorf("suspend took %v", took)
		}
		s.pass(0)
		s.held(0, 0)
		s.want("v", "suspended 1")
	}}, {"one that dies is replaced, not at once", func(s *stage) {
		s.write("v", "good")
		s.look(2 * sec)
		s.holds("crash")
		s.suspend(0, "")
		s.pass(10 * sec)
		s.held(0, 0)
		s.pass(2 * time.Minute)
		s.world.mu.Lock()
		defer s.world.mu.Unlock()
		if n := len(s.world.held["v"]); n < 3 || n > 5 {
			s.Errorf("%d in two minutes, want one each 31 s", n)
		}
	}}, {"a vassal without listeners needs none", func(s *stage) {
		s.write("v", "good")
		s.look(2 * sec)
		s.holds("none")
		s.suspend(0, "")
		s.want("v", "suspended 1")
	}}, {"back-off is bridged from its second delay on", func(s *stage) {
		s.write("v", "crash")
		s.look(1500 * time.Millisecond)
		s.want("v", "backoff 1: boom")
		s.held(0, 0)
		s.pass(2 * sec)
		s.want("v", "backoff 2: boom")
		s.held(1, 0)
		s.pass(2 * sec)
		s.want("v", "starting 3 starting: boom")
		s.held(1, 1)
		s.pass(sec)
		s.want("v", "backoff 3: boom")
		s.held(1, 0)
		s.answered("503 ")
		if v := record0(s, "v"); v.Restarts != 2 || v.Generation != 3 {
			s.Errorf("%d restarts, generation %d; want 2 and 3", v.Restarts, v.Generation)
		}
		s.write("v", "good")
		s.look(1500 * time.Millisecond)
		s.want("v", "running 4")
		s.held(0, 1)
	}}, {"a broken edit leaves what answers", func(s *stage) {
		s.write("v", "crash")
		s.look(5 * sec)
		s.write("v", "bad")
		s.look(sec)
		s.want("v", "failed 3: bad file")
		s.held(1, 0)
	}}, {"the page goes with the suspension", func(s *stage) {
		s.write("v", "good")
		s.look(2 * sec)
		s.suspend(402, "unpaid")
		s.write("v", "bad")
		s.look(sec)
		go s.e.Act(s.ctx, "v", control.Request{Verb: control.Resume}, "root")
		s.pass(sec)
		s.want("v", "failed 1: bad file")
		s.held(1, 0)
		s.answered("402 unpaid", "503 ")
	}}, {"an edit does not wait for what is slow to answer", func(s *stage) {
		s.holds("slow=9s")
		s.write("v", "crash")
		s.look(4 * sec)
		s.want("v", "backoff 2: boom")
		s.write("v", "good")
		s.look(1200 * time.Millisecond)
		s.want("v", "running 3")
		s.held(0, 1)
	}}, {"nor does a retry", func(s *stage) {
		s.holds("slow=9s")
		s.write("v", "crash")
		s.look(5500 * time.Millisecond)
		s.want("v", "starting 3 starting: boom")
		if v := record0(s, "v"); len(v.Problems) != 1 {
			s.Errorf("problems %+v", v.Problems)
		}
		s.pass(sec)
		s.held(1, 0)
		s.pass(4 * sec) // the delay was 4 s
		s.want("v", "starting 4 starting: boom")
	}}, {"nor a changed template", func(s *stage) {
		s.holds("slow=3900ms")
		s.write("v", "crash")
		s.look(8 * sec)
		s.world.mu.Lock()
		s.world.changed["v"] = true
		s.world.mu.Unlock()
		s.pass(1950 * time.Millisecond) // seen after 9 s; held after 9.9, the retry is due after 10
		s.want("v", "starting 4 starting: boom")
	}}, {"a survivor that held is replaced", func(s *stage) {
		old := &fake{gen: FirstHold + 4, ready: make(chan vassal.Problems, 1), done: make(chan struct{}), words: words{}}
		s.world.survivor["v"] = old
		s.write("v", "good")
		s.look(sec / 2)
		s.want("v", "starting 1 starting")
		s.held(1, 1)
		s.pass(sec)
		s.want("v", "running 1")
		s.held(0, 1)
	}}} {
		t.Run(tt.name, func(t *testing.T) { perform(t, Options{Concurrency: 2}, tt.do) })
	}
}

// A suspension outlives the Emperor: the next one answers as before, also
// where nothing of the earlier one's is left but its state.
func TestSuspensionOutlives(t *testing.T) {
	perform(t, Options{Concurrency: 2, StateDir: t.TempDir()}, func(s *stage) {
		s.write("v", "good")
		s.look(2 * time.Second)
		s.suspend(402, "unpaid")
		s.finish()
		s.start()
		s.pass(time.Second)
		s.want("v", "suspended 1")
		s.held(1, 0)
		s.finish()
		// Killed: what held survives, is replaced and counts on.
		s.world.survivor["v"] = &fake{gen: FirstHold + 9, ready: make(chan vassal.Problems, 1), done: make(chan struct{}), words: words{}}
		s.start()
		s.pass(time.Second)
		s.want("v", "suspended 1")
		s.held(1, 0)
		s.answered("402 unpaid", "402 unpaid", "402 unpaid")
		s.world.mu.Lock()
		defer s.world.mu.Unlock()
		last := s.world.held["v"][len(s.world.held["v"])-1]
		if last.gen <= FirstHold+9 {
			s.Errorf("the last is %d, want more than the survivor's %d", last.gen, FirstHold+9)
		}
	})
}

// What held under an earlier Emperor answers until the file was checked: only then
// is it known on what to answer, and with which certificate.
func TestFoundHolderStays(t *testing.T) {
	perform(t, Options{Concurrency: 2, StateDir: t.TempDir()}, func(s *stage) {
		s.write("v", "good")
		s.look(2 * time.Second)
		s.suspend(402, "unpaid")
		s.finish()
		s.holds("bound")
		s.write("v", "good hang=5s")
		s.world.survivor["v"] = &fake{gen: FirstHold + 9, ready: make(chan vassal.Problems, 1), done: make(chan struct{}), words: words{}}
		s.start()
		s.pass(4 * time.Second)
		s.held(1, 0)
		s.answered("402 unpaid")
		s.pass(2 * time.Second)
		s.want("v", "suspended 1")
		s.held(1, 0)
		s.answered("402 unpaid", "402 unpaid")
	})
}

// The cgroup of a vassal whose place was held is still there, and goes on
// counting where the killed Emperor last read it.
func TestHeldCgroupCounts(t *testing.T) {
	dir := t.TempDir()
	perform(t, Options{Concurrency: 2, StateDir: dir}, func(s *stage) {
		s.write("v", "good")
		s.finish()
		if err := os.WriteFile(filepath.Join(dir, "v-v.json"),
			[]byte(`{"v":1,"name":"v","intent":"run","cpu_usec":1000,"kernel":{"cpu_usec":1000}}`), 0o600); err != nil {
			s.Fatal(err)
		}
		s.world.survivor["v"] = &fake{gen: FirstHold + 1, ready: make(chan vassal.Problems, 1), done: make(chan struct{}), words: words{}}
		s.start()
		s.pass(2 * time.Second)
		f := s.world.latest("v")
		f.mu.Lock()
		f.usage = Usage{CPUUsec: 1500}
		f.mu.Unlock()
		s.pass(SampleEvery)
		if v := record0(s, "v"); v.CPUUsec != 1500 {
			s.Errorf("cpu_usec %d, want 1500", v.CPUUsec)
		}
	})
}

// Vassals that fail together do not have holding generations started before
// those that can serve.
func TestHoldingIsFair(t *testing.T) {
	perform(t, Options{Concurrency: 4}, func(s *stage) {
		s.holds("slow=5s")
		for _, n := range []vassal.Name{"a", "b", "c", "d"} {
			s.write(n, "crash")
		}
		s.look(5900 * time.Millisecond)
		for _, n := range []vassal.Name{"w", "x", "y", "z"} { // they have every slot until 8.9 s
			s.write(n, "slow=3s timeout=9s")
		}
		s.look(1100 * time.Millisecond)
		s.want("a", "backoff 3: boom") // since 6 s; until 10 s
		s.write("v", "good")
		s.look(3500 * time.Millisecond)
		s.want("v", "running 1")
	})
}

// How something ended that outlived its Emperor is unknown, and no number stands
// for that; nor does the one that stood for it in an earlier state.
func TestUnknownExit(t *testing.T) {
	got, err := json.Marshal(exitOf(vassal.Exit{Code: vassal.UnknownCode}))
	if want := `"code":null,"signal":null`; err != nil || !strings.Contains(string(got), want) {
		t.Errorf("%s %v, want %s", got, err, want)
	}
	r := records{t.TempDir()}
	if err := os.WriteFile(r.path("v"), []byte(`{"v":1,"name":"v","intent":"run","last_exit":{"code":-1,"at":"2000-01-01T00:00:05.000Z"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	rec, err := r.load("v")
	if err != nil || rec.LastExit == nil || rec.LastExit.Code != nil {
		t.Errorf("%+v %v", rec.LastExit, err)
	}
	if d := deathOf(&generation{inst: &fake{exit: vassal.Exit{Code: vassal.UnknownCode}}}, "run").First().Message; d != "ended" {
		t.Errorf("%q", d)
	}
}
