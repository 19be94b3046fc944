package emperor

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"liege/emperor/control"
	"liege/vassal"
)

var update = flag.Bool("update", false, "write the golden files")

// act asks for verb and returns the Outcome as text.
func (s *stage) act(n vassal.Name, verb control.Verb) string {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 60*time.Second)
	defer cancel()
	began := time.Now()
	if verb == control.Reload || verb == control.Start || verb == control.Restart {
		if err := s.e.Refresh(ctx); err != nil {
			return err.Error()
		}
		synctest.Wait() // the try of an edit is under way
	}
	o := s.e.Act(ctx, string(n), control.Request{Verb: verb, Reason: "why", Began: began}, "root")
	out := fmt.Sprint(o.Code, " ", o.Text)
	if o.Problem != nil {
		out += " (" + o.Problem.Code + ")"
	}
	return out
}

func (s *stage) await(n, goal string) (string, time.Duration) {
	ctx, cancel := context.WithTimeout(s.ctx, 60*time.Second)
	defer cancel()
	t0 := time.Now()
	o := s.e.Await(ctx, n, goal)
	return fmt.Sprint(o.Code, " ", o.Text), time.Since(t0)
}

func TestVerbs(t *testing.T) {
	perform(t, Options{Concurrency: 2, StateDir: t.TempDir()}, func(s *stage) {
		s.write("v", "good")
		s.look(2 * time.Second)
		step := func(verb control.Verb, want, line string) {
			s.Helper()
			if got := s.act("v", verb); got != want {
				s.Errorf("%s: got %q, want %q", verb, got, want)
			}
			s.want("v", line)
		}
		step(control.Start, "0 v: running, generation 1", "running 1")
		step(control.Reload, "0 v: running, generation 2", "running 2")
		step(control.Restart, "0 v: running, generation 3", "running 3")
		step(control.Stop, "0 v: stopped, generation 3", "stopped 3")
		if n := s.world.open["v"]; n != 0 {
			s.Errorf("stopped: %d launchers open: its listeners are not closed", n)
		}
		step(control.Reload, "1 v: is stopped (wrong-state)", "stopped 3")
		s.write("v", "good edited")
		s.look(5 * time.Second)
		s.want("v", "stopped 3")
		step(control.Start, "0 v: running, generation 4", "running 4")
		step(control.Suspend, "0 v: suspended, generation 4", "suspended 4")
		if n := s.world.open["v"]; n != 1 {
			s.Errorf("suspended: %d launchers open: its listeners are not kept", n)
		}
		if n := s.world.alive("v"); n != 0 {
			s.Errorf("suspended: %d live", n)
		}
		step(control.Start, "1 v: is suspended (wrong-state)", "suspended 4")
		step(control.Stop, "0 v: stopped, generation 4", "stopped 4")
		step(control.Start, "0 v: suspended, generation 4", "suspended 4") // stop and start lift no suspension
		step(control.Stop, "0 v: stopped, generation 4", "stopped 4")
		step(control.Resume, "0 v: stopped, generation 4", "stopped 4") // a stop stays a stop,
		step(control.Suspend, "0 v: suspended, generation 4", "suspended 4")
		if v := record0(s, "v"); v.StoppedBy == nil || *v.StoppedBy != "root" {
			s.Errorf("stopped, then suspended: stopped by %v", v.StoppedBy)
		}
		step(control.Resume, "0 v: stopped, generation 4", "stopped 4") // in whatever order they come
		step(control.Start, "0 v: running, generation 5", "running 5")
		s.write("v", "bad")
		step(control.Reload, "1 v: reload failed; the one before still serves (unknown-option)", "running 5: bad file")
		step(control.Start, "0 v: running, generation 5", "running 5: bad file") // it runs
		s.write("v", "crash")
		s.pass(time.Second)
		step(control.Reload, "1 v: reload failed; the one before still serves (import-error)", "running 6: boom")
		if n := s.world.starts("v"); n != 6 {
			s.Errorf("%d starts, want 6: an edit and a reload of it are one", n)
		}
		s.pass(time.Second)
		step(control.Restart, "1 v: restart: backoff (import-error)", "backoff 7: boom")
		s.write("v", "good")
		step(control.Start, "0 v: running, generation 8", "running 8")
		if got, want := s.act("w", control.Reload), "66 w: no such vassal (no-such-vassal)"; got != want {
			s.Errorf("got %q, want %q", got, want)
		}
		s.write("v", "slow=100s timeout=200s")
		if got, want := s.act("v", control.Reload), "75 v: reload: timed out; it is running (timed-out)"; got != want {
			s.Errorf("got %q, want %q", got, want)
		}
	})
}

// What the next Emperor knows of who had a name.
func TestClaims(t *testing.T) {
	dir := t.TempDir()
	perform(t, Options{Concurrency: 2, StateDir: dir}, func(s *stage) {
		s.write("v", "good")
		s.write("w", "bad")
		s.look(time.Second)
	})
	if err := os.WriteFile(filepath.Join(dir, "v-torn.json"), []byte(`{"v":1,"na`), 0o600); err != nil {
		t.Fatal(err)
	}
	kept, err := Keep(dir)
	got := kept.Claims()
	if want := map[vassal.Name]string{"v": "/etc/vassals/v.ini", "w": "/etc/vassals/w.ini"}; !maps.Equal(got, want) || err == nil {
		t.Errorf("%v, %v", got, err)
	}
	if kept, err := Keep(filepath.Join(dir, "none")); len(kept.Claims()) > 0 || err != nil {
		t.Errorf("%v, %v", kept.Claims(), err)
	}
}

// The next Emperor reads a record once; what it has read is of no use to a vassal whose
// file went meanwhile.
func TestKept(t *testing.T) {
	dir := t.TempDir()
	perform(t, Options{Concurrency: 2, StateDir: dir}, func(s *stage) {
		s.write("v", "good")
		s.write("w", "good")
		s.look(2 * time.Second)
		s.act("v", control.Stop)
		s.act("w", control.Stop)
		s.stop()
		<-s.end
		var err error
		if s.kept, err = Keep(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "v-v.json"), []byte("torn"), 0o600); err != nil { // nobody looks
			t.Fatal(err)
		}
		s.remove("w")
		s.start()
		s.pass(2 * time.Second)
		s.want("v", "stopped 1")
		s.write("w", "good")
		s.look(2 * time.Second)
		s.want("w", "running 1")
		s.act("v", control.Start)
		s.want("v", "running 2")
	})
}

// Of a vassal that is known to be gone nothing is kept, also while it is not known of all.
func TestForgottenWhilePartial(t *testing.T) {
	dir := t.TempDir()
	perform(t, Options{Concurrency: 1, StateDir: dir}, func(s *stage) {
		s.write("v", "good")
		s.look(2 * time.Second)
		s.act("v", control.Stop)
		s.stop()
		<-s.end
		var err error
		if s.kept, err = Keep(dir); err != nil {
			t.Fatal(err)
		}
		s.remove("v")
		s.files.partial, s.files.unseen = true, []string{"/elsewhere"}
		s.start()
		s.pass(2 * time.Second)
		s.write("v", "good")
		s.look(2 * time.Second)
		s.want("v", "running 1")
	})
}

// A file of another user's under the same name is another vassal: it begins when
// nothing of the one before is left, and inherits nothing. An operator's file that is
// given to a user stays what it is.
func TestAnotherOwner(t *testing.T) {
	perform(t, Options{Concurrency: 2}, func(s *stage) {
		s.write("v", "good")
		s.look(2 * time.Second)
		s.write("v", "good edited")
		s.own("v", 1001)
		s.look(5 * time.Second)
		s.want("v", "running 2")
		s.write("v", "good drain=3s")
		s.own("v", 1001)
		s.look(10 * time.Second)
		s.want("v", "running 3")
		s.write("v", "good")
		s.own("v", 1002)
		s.look(time.Second)
		s.want("v", "draining 3")
		s.look(10 * time.Second)
		s.want("v", "running 1")
		if made := s.world.made["v"]; len(made) != 4 {
			t.Errorf("%d starts, want 4", len(made))
		}
	})
}

// A user takes the file of a vassal that is suspended away and puts it back: it is
// suspended, also where no Emperor looked meanwhile. Another user's of the same name is
// not, and neither is the operator's own, or one that was stopped.
func TestLocked(t *testing.T) {
	dir := t.TempDir()
	put := func(s *stage, n vassal.Name, uid int, want string) {
		s.Helper()
		s.write(n, "good")
		if uid != 0 {
			s.own(n, uid)
		}
		s.look(10 * time.Second)
		s.want(n, want)
	}
	away := func(s *stage, n vassal.Name) {
		s.Helper()
		s.remove(n)
		s.look(10 * time.Second)
		s.want(n, "none")
	}
	perform(t, Options{Concurrency: 2, StateDir: dir}, func(s *stage) {
		for n, uid := range map[vassal.Name]int{"users": 1001, "mine": 0} {
			put(s, n, uid, "running 1")
			s.act(n, control.Suspend)
			away(s, n)
		}
		put(s, "users", 1001, "suspended 1")
		put(s, "mine", 0, "running 1")
		s.act("mine", control.Stop)
		away(s, "mine")
		away(s, "users")
	})
	perform(t, Options{Concurrency: 2, StateDir: dir}, func(s *stage) {
		put(s, "users", 1001, "suspended 1")
		s.act("users", control.Resume)
		s.act("users", control.Stop)
		away(s, "users")
		put(s, "users", 1001, "running 1")
		s.act("users", control.Suspend)
		away(s, "users")
		put(s, "users", 1002, "running 1")
		away(s, "users")
		put(s, "users", 1001, "running 1")
	})
}

// nobodys are what makes a file no user's, for a while.
var nobodys = map[string]func(*File){
	"a problem": func(f *File) {
		f.Problem, f.Trust = &vassal.Problem{Severity: vassal.Error, Message: "dangles"}, vassal.Trust{}
	},
	"the operator's": func(f *File) { f.Trust = vassal.Trust{Operator: true} },
}

// The same where the next Emperor sees first what could not be used.
func TestAnotherOwnerMuchLater(t *testing.T) {
	for name, first := range nobodys {
		dir := t.TempDir()
		perform(t, Options{Concurrency: 2, StateDir: dir}, func(s *stage) {
			text := `{"v":1,"name":"v","file":"/etc/vassals/v.ini","owner":1001,"generation":7,"intent":"stop","by":"panel","restarts":5}`
			if err := os.WriteFile(filepath.Join(dir, "v-v.json"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			s.write("v", "good")
			s.change("v", first)
			s.look(3 * time.Second)
			s.write("v", "good again")
			s.own("v", 1002)
			s.look(10 * time.Second)
			if got := s.line("v"); !strings.HasPrefix(got, "running 1") {
				t.Errorf("after %s: %s, want a new vassal", name, got)
			}
		})
	}
}

// A file that could not be used, or was the operator's for a moment, has not made
// another user's vassal of what it was.
func TestAnotherOwnerLater(t *testing.T) {
	for name, between := range nobodys {
		dir := t.TempDir()
		perform(t, Options{Concurrency: 2, StateDir: dir}, func(s *stage) {
			s.write("v", "good")
			s.own("v", 1001)
			s.look(3 * time.Second)
			s.write("v", "good edited")
			s.change("v", between)
			s.look(3 * time.Second)
			s.write("v", "good drain=3s")
			s.own("v", 1002)
			s.look(10 * time.Second)
			if got := s.line("v"); !strings.HasPrefix(got, "running 1") {
				t.Errorf("after %s: %s, want a new vassal", name, got)
			}
		})
	}
}

// The same where the files were exchanged while no Emperor looked: what survived ends,
// and neither counters nor what was asked of the other's are the new one's.
func TestAnotherOwnerMeanwhile(t *testing.T) {
	for owner, want := range map[int]string{1001: "stopped 7", 1002: "running 1"} {
		dir := t.TempDir()
		text := `{"v":1,"name":"v","file":"/etc/vassals/other.ini","owner":1001,"generation":7,"intent":"stop","by":"panel"}`
		perform(t, Options{Concurrency: 2, StateDir: dir}, func(s *stage) {
			if err := os.WriteFile(filepath.Join(dir, "v-v.json"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			s.write("v", "good")
			s.own("v", owner)
			s.look(5 * time.Second)
			s.want("v", want)
		})
	}
}

// reload on a vassal in backoff or failed tries at once and forgets the count.
func TestTriesAtOnce(t *testing.T) {
	perform(t, Options{Concurrency: 2}, func(s *stage) {
		s.write("v", "crash")
		s.look(20 * time.Second) // the delay is 8 s by now
		n := s.world.starts("v")
		s.act("v", control.Start)
		if got := s.world.starts("v"); got != n+1 {
			s.Errorf("%d starts, want one more than %d", got, n)
		}
		s.pass(1500 * time.Millisecond) // the delay is one second again
		if got := s.world.starts("v"); got != n+2 {
			s.Errorf("%d starts, want two more than %d", got, n)
		}
	})
}

func TestWait(t *testing.T) {
	perform(t, Options{Concurrency: 2}, func(s *stage) {
		check := func(n, goal, want string, atMost time.Duration) {
			s.Helper()
			got, d := s.await(n, goal)
			if got != want || d > atMost {
				s.Errorf("wait %s %s: got %q after %v, want %q within %v", n, goal, got, d, want, atMost)
			}
		}
		check("v", "gone", "0 v: gone", 0)
		time.AfterFunc(5*time.Second, func() { s.write("v", "good"); s.e.Refresh(s.ctx) })
		check("v", "applied", "0 v: applied, generation 1", 6*time.Second)
		check("v", "running", "0 v: running, generation 1", 0)
		s.write("v", "bad")
		s.look(0)
		check("v", "applied", "1 v: will not be applied: it is running", 0)
		check("v", "running", "0 v: running, generation 1", 0)
		s.write("v", "slow=5s")
		s.look(0)
		check("v", "applied", "0 v: applied, generation 2", 5*time.Second)
		s.write("w", "bad")
		s.look(0)
		check("w", "running", "1 w: will not be running: it is failed", 0)
		check("w", "failed", "0 w: failed, generation 0", 0)
		s.act("v", control.Stop)
		check("v", "applied", "1 v: will not be applied: it is stopped", 0)
		check("v", "backoff", "75 v: wait backoff: timed out; it is stopped", time.Hour)
		time.AfterFunc(5*time.Second, func() { s.remove("v"); s.e.Refresh(s.ctx) })
		check("v", "gone", "0 v: gone", 5*time.Second)
	})
}

// Two hundred at once; one crash-loops, one is ready after a minute, one is
// broken, one hangs in its check, one does not die: the others do not notice.
func TestTwoHundred(t *testing.T) {
	run := func(t *testing.T, evil map[vassal.Name]string) (d time.Duration) {
		perform(t, Options{Concurrency: 4}, func(s *stage) {
			t0 := time.Now()
			for n, text := range evil {
				s.write(n, text)
			}
			for i := range 200 {
				s.write(vassal.Name(fmt.Sprintf("v%d", i)), "good")
			}
			s.look(0)
			for i := range 200 {
				if got, _ := s.await(fmt.Sprintf("v%d", i), "running"); !strings.HasPrefix(got, "0 ") {
					s.Error(got)
				}
			}
			d = time.Since(t0)
			if s.world.most() > 4+len(evil) {
				s.Errorf("%d started at once, want at most 4 besides the slow", s.world.most())
			}
		})
		return d
	}
	calm := run(t, nil)
	// "a" sorts before "v": the evil ones come first.
	evil := map[vassal.Name]string{"a1": "crash", "a2": "slow=60s timeout=90s", "a3": "bad", "a4": "hang=30s bad", "a5": "never", "a6": "fail", "a7": "dies=2s"}
	if d := run(t, evil); d > calm+6*time.Second {
		t.Errorf("ready after %v, without the evil ones %v", d, calm)
	}
}

// Reloads of many by a changed template are few at a time too, and a start by
// hand goes before them.
func TestQueue(t *testing.T) {
	perform(t, Options{Concurrency: 1}, func(s *stage) {
		for i := range 20 {
			s.write(vassal.Name(fmt.Sprintf("v%02d", i)), "good")
		}
		s.look(0)
		n := vassal.Name("v19")
		if s.line(n) != "starting 0 queued" {
			n = "v18" // any may be the first, and only one is
		}
		s.want(n, "starting 0 queued")
		t0 := time.Now()
		if got := s.act(n, control.Start); got != fmt.Sprintf("0 %s: running, generation 1", n) || time.Since(t0) > 2500*time.Millisecond {
			s.Errorf("got %q after %v, want it next", got, time.Since(t0))
		}
		s.pass(20 * time.Second)
		if s.world.most() != 1 {
			s.Errorf("%d at once, want 1", s.world.most())
		}
		if got := s.e.Totals().String(); got != "20 of 20 running" {
			s.Errorf("got %q", got)
		}
	})
}

func TestRename(t *testing.T) {
	perform(t, Options{Concurrency: 2}, func(s *stage) {
		s.write("old", "good drain=5s")
		s.look(2 * time.Second)
		s.rename("old", "new")
		s.look(2 * time.Second)
		s.want("old", "draining 1")
		s.want("new", "starting 0 queued")
		s.pass(4500 * time.Millisecond)
		s.want("old", "none")
		s.want("new", "running 1")
		if d := cmp.Diff([]string{"old → new"}, s.world.handed); d != "" {
			s.Error(d)
		}
		// There and back while it drains.
		s.rename("new", "newer")
		s.look(time.Second)
		s.rename("newer", "new")
		s.look(10 * time.Second)
		s.want("newer", "none")
		s.want("new", "running 1")
		// By the inode that it has now: with touch = ignore a copy is the same file.
		s.change("new", func(f *File) { f.Inode += 1000 })
		s.look(2 * time.Second)
		s.want("new", "running 1")
		s.rename("new", "copied")
		s.look(10 * time.Second)
		s.want("copied", "running 1")
		if d := cmp.Diff("new → copied", s.world.handed[len(s.world.handed)-1]); d != "" {
			s.Error(d)
		}
		s.rename("copied", "new")
		s.look(10 * time.Second)
		// A stopped one has nothing to give.
		s.act("new", control.Stop)
		s.rename("new", "last")
		s.look(2 * time.Second)
		s.want("last", "running 1")
	})
}

// A number of an inode that is used again is no renamed file: the new vassal waits for
// nobody, and gets nobody's listeners.
func TestInodeUsedAgain(t *testing.T) {
	for name, born := range map[string][2]int64{"by its age": {1, 2}, "by its content": {0, 0}} {
		t.Run(name, func(t *testing.T) {
			perform(t, Options{Concurrency: 2}, func(s *stage) {
				s.write("old", "good drain=50s")
				s.change("old", func(f *File) { f.Born = born[0] })
				s.look(2 * time.Second)
				ino := s.files.m["old"].Inode
				s.remove("old")
				s.write("new", "good")
				s.change("new", func(f *File) { f.Inode, f.Born = ino, born[1] })
				s.look(2 * time.Second)
				s.want("old", "draining 1")
				s.want("new", "running 1")
				if s.world.handed != nil {
					s.Error(s.world.handed)
				}
			})
		})
	}
}

// What was asked for, and the counters, outlive the Emperor.
func TestRecords(t *testing.T) {
	dir := t.TempDir()
	perform(t, Options{Concurrency: 2, StateDir: dir}, func(s *stage) {
		for _, n := range []vassal.Name{"run", "stop", "susp", "torn", "lost", "crash"} {
			s.write(n, "good")
		}
		s.write("crash", "crash")
		s.look(2500 * time.Millisecond)
		f := s.world.latest("run")
		f.mu.Lock()
		f.usage = Usage{CPUUsec: 1000, OOMKills: 2, Requests: 30}
		f.mu.Unlock()
		s.act("stop", control.Stop)
		s.act("susp", control.Suspend)
		s.remove("lost")
		restart := func() {
			s.finish()
			s.start()
			s.pass(2 * time.Second)
		}
		restarts := record0(s, "crash").Restarts
		s.finish()
		if err := os.WriteFile(filepath.Join(dir, "v-torn.json"), []byte(`{"v":1,"na`), 0o600); err != nil {
			s.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "v-nobody.json"), []byte(`{}`), 0o600); err != nil {
			s.Fatal(err)
		}
		s.start()
		s.pass(2500 * time.Millisecond)
		s.want("run", "running 2")
		s.want("stop", "stopped 1")
		s.want("susp", "suspended 1")
		s.want("torn", "running 1")
		for _, n := range []string{"v-nobody.json", "v-lost.json"} {
			if _, err := os.Stat(filepath.Join(dir, n)); !errors.Is(err, os.ErrNotExist) {
				s.Errorf("%s is still there: %v", n, err)
			}
		}
		v := record0(s, "run")
		if v.CPUUsec != 1000 || v.OOMKills != 2 || v.Requests != 30 {
			s.Errorf("counters: %d %d %d", v.CPUUsec, v.OOMKills, v.Requests)
		}
		g := s.world.latest("run") // a new cgroup, a new process: both count from nothing
		g.mu.Lock()
		g.usage = Usage{CPUUsec: 1500, OOMKills: 3, Requests: 35}
		g.mu.Unlock()
		restart()
		if v := record0(s, "run"); v.CPUUsec != 2500 || v.OOMKills != 5 || v.Requests != 65 {
			s.Errorf("counters: %d %d %d", v.CPUUsec, v.OOMKills, v.Requests)
		}
		if v := record0(s, "crash"); v.Restarts < restarts {
			s.Errorf("restarts went from %d to %d", restarts, v.Restarts)
		}
		if v := record0(s, "susp"); v.Suspended == nil || v.Suspended.Reason != "why" || v.Suspended.Status != 503 || v.Suspended.By != "root" {
			s.Errorf("suspended: %+v", v.Suspended)
		}
		if v := record0(s, "stop"); v.StoppedBy == nil || *v.StoppedBy != "root" {
			s.Errorf("stopped by: %v", v.StoppedBy)
		}
		// A killed Emperor leaves its last reading; the new cgroup is another.
		s.finish()
		if err := os.WriteFile(filepath.Join(dir, "v-run.json"),
			[]byte(`{"v":1,"name":"run","intent":"run","cpu_usec":1000,"kernel":{"cpu_usec":1000}}`), 0o600); err != nil {
			s.Fatal(err)
		}
		s.start()
		s.pass(2 * time.Second)
		h := s.world.latest("run")
		h.mu.Lock()
		h.usage = Usage{CPUUsec: 1500}
		h.mu.Unlock()
		s.pass(SampleEvery)
		if v := record0(s, "run"); v.CPUUsec != 2500 {
			s.Errorf("cpu_usec %d, want 2500", v.CPUUsec)
		}
		// Gone and back: stopped no more.
		s.remove("stop")
		s.look(0)
		s.write("stop", "good")
		s.look(2 * time.Second)
		s.want("stop", "running 1")
	})
}

// A counter that began anew counts from nothing; none goes down.
func TestGrown(t *testing.T) {
	var last, sum int64
	for _, tt := range []struct{ now, want int64 }{{5, 5}, {5, 5}, {9, 9}, {2, 11}, {0, 11}, {-1, 11}, {3, 14}} {
		if sum += grown(&last, tt.now); sum != tt.want {
			t.Errorf("at %d: %d, want %d", tt.now, sum, tt.want)
		}
	}
}

func record0(s *stage, n string) control.Vassal {
	for _, v := range s.e.list() {
		if v.Name == n {
			return v
		}
	}
	return control.Vassal{}
}

// A survivor of a killed Emperor serves until its successor is ready.
func TestAdopt(t *testing.T) {
	perform(t, Options{Concurrency: 2}, func(s *stage) {
		old := &fake{gen: 7, ready: make(chan vassal.Problems, 1), done: make(chan struct{}), words: words{}}
		lone := &fake{gen: 3, ready: make(chan vassal.Problems, 1), done: make(chan struct{}), words: words{}}
		s.world.survivor["v"], s.world.survivor["b"] = old, lone
		s.write("v", "good")
		s.write("b", "bad")
		s.look(500 * time.Millisecond)
		s.want("v", "running 8 starting")
		s.pass(time.Second)
		s.want("v", "running 8")
		s.want("b", "running 3: bad file")
		select {
		case <-old.done:
		default:
			s.Error("the survivor lives on")
		}
	})
}

// Requests of a survivor count once: what the record has of them, and what it answered
// since, until it is gone.
func TestAdoptCounts(t *testing.T) {
	dir := t.TempDir()
	perform(t, Options{Concurrency: 2, StateDir: dir}, func(s *stage) {
		text := `{"v":1,"name":"v","generation":7,"intent":"run","requests":100,"counted":{"7":40,"6":9,"3":1}}`
		if err := os.WriteFile(filepath.Join(dir, "v-v.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		serves := &fake{gen: 7, ready: make(chan vassal.Problems, 1), done: make(chan struct{}), words: words{}, usage: Usage{Requests: 45}}
		drains := &fake{gen: 6, ready: make(chan vassal.Problems, 1), done: make(chan struct{}), words: words{"drain": "5s"}, usage: Usage{Requests: 10}}
		s.world.survivor["v"], s.world.leaving = serves, map[vassal.Name][]*fake{"v": {drains}}
		s.write("v", "good hostless")
		s.look(500 * time.Millisecond)
		s.pass(SampleEvery)
		if v := record0(s, "v"); v.Requests != 106 {
			t.Errorf("with a survivor: %d requests, want 106", v.Requests)
		}
		serves.mu.Lock()
		serves.usage.Requests = 50
		serves.mu.Unlock()
		s.world.mu.Lock()
		s.world.changed["host"] = true
		s.world.mu.Unlock()
		s.pass(CheckAgain*2 + 2*time.Second)
		s.want("v", "running 8")
		next := s.world.latest("v")
		next.mu.Lock()
		next.usage = Usage{Requests: 3}
		next.mu.Unlock()
		s.pass(SampleEvery)
		if v := record0(s, "v"); v.Requests != 114 {
			t.Errorf("after it: %d requests, want 114", v.Requests)
		}
		s.pass(SaveEvery)
		b, err := os.ReadFile(filepath.Join(dir, "v-v.json"))
		if err != nil || !strings.Contains(string(b), `"requests":114,"counted":{"8":3}`) {
			t.Errorf("the record: %s, %v", b, err)
		}
	})
}

// TestPrivate: who may read the operator's file decides what the vassal's user is told,
// from when that changes.
func TestPrivate(t *testing.T) {
	perform(t, Options{Concurrency: 2}, func(s *stage) {
		s.write("v", "good")
		for _, tt := range []struct {
			mode   fs.FileMode
			hidden bool
			want   bool
		}{{0o644, false, false}, {0o640, false, true}, {0o644, false, false}, {0o644, true, true}} {
			s.files.mu.Lock()
			f := s.files.m["v"]
			f.Mode, f.Hidden = tt.mode, tt.hidden
			s.files.m["v"] = f
			s.files.mu.Unlock()
			s.look(2 * time.Second)
			if got := record0(s, "v").Private; got != tt.want {
				t.Errorf("%04o, hidden %v: private %v", tt.mode, tt.hidden, got)
			}
			s.want("v", "running 1")
		}
	})
}

// What kept a survivor's successor from starting may pass: another is tried.
func TestAdoptTriesAgain(t *testing.T) {
	perform(t, Options{Concurrency: 2}, func(s *stage) {
		s.world.survivor["v"] = &fake{gen: 7, ready: make(chan vassal.Problems, 1), done: make(chan struct{}), words: words{}}
		s.write("v", "good hostless")
		s.look(500 * time.Millisecond)
		s.want("v", "running 7: no such user")
		s.world.mu.Lock()
		s.world.changed["host"] = true
		s.world.mu.Unlock()
		s.pass(CheckAgain + 2*time.Second)
		s.want("v", "running 8")
	})
}

// A check that hangs where nothing reaches it keeps no vassal from ending, and is
// not joined by others.
func TestCheckHangs(t *testing.T) {
	perform(t, Options{Concurrency: 2}, func(s *stage) {
		s.write("v", "good dead=10m")
		s.write("w", "good dead=10m")
		s.look(time.Second)
		s.remove("v")
		s.write("w", "good")
		s.look(time.Second)
		s.want("v", "starting 0 starting") // for a while: it may end
		s.pass(giveUp)
		s.want("v", "none")
		s.want("w", "failed 0: an earlier check hangs: a file system that the file names does not answer")
		s.pass(CheckAgain + CheckAgain*2)
		if s.world.mu.Lock(); s.world.dead != 2 {
			t.Errorf("%d checks hang, want one of each", s.world.dead)
		}
		s.world.mu.Unlock()
		s.pass(15 * time.Minute)
		s.want("w", "running 1")
	})
}

// An old generation that drains keeps the new one from its timers.
func TestAlone(t *testing.T) {
	perform(t, Options{Concurrency: 2}, func(s *stage) {
		s.write("v", "good drain=5s")
		s.look(2 * time.Second)
		s.write("v", "good")
		s.look(3 * time.Second)
		second := s.world.made["v"][1]
		told := func() bool { second.mu.Lock(); defer second.mu.Unlock(); return second.alone }
		if told() {
			s.Error("told that it is alone while the old one drains")
		}
		s.pass(5 * time.Second)
		if !told() {
			s.Error("not told that it is alone")
		}
	})
}

// TestTurn: who drains may have handed over its jobs before it is gone; "both"
// waits for nobody.
func TestTurn(t *testing.T) {
	perform(t, Options{Concurrency: 2}, func(s *stage) {
		s.write("v", "good drain=20s rests=4s")
		s.write("w", "good drain=20s")
		s.look(2 * time.Second)
		began := time.Now()
		s.write("v", "good")
		s.write("w", "good both")
		s.look(3 * time.Second)
		v, w := s.world.made["v"][1], s.world.made["w"][1]
		state := func(f *fake) [2]bool { f.mu.Lock(); defer f.mu.Unlock(); return [2]bool{f.turned, f.alone} }
		if got := state(v); got != [2]bool{} {
			t.Errorf("while the old one's jobs run: %v", got)
		}
		if got := state(w); got != [2]bool{true, true} {
			t.Errorf("both: %v", got)
		}
		s.pass(5 * time.Second)
		if got := state(v); got != [2]bool{true, false} || v.since.Before(began) {
			t.Errorf("when the old one's jobs have ended: %v, since %v", got, v.since)
		}
		s.pass(20 * time.Second)
		if got := state(v); got != [2]bool{true, true} {
			t.Errorf("when the old one is gone: %v", got)
		}
		s.act("v", control.Stop)
		s.act("v", control.Start)
		s.pass(3 * time.Second)
		if v := s.world.made["v"][2]; !v.alone || !v.since.IsZero() {
			t.Errorf("after a stop: alone %t, since %v", v.alone, v.since)
		}
	})
}

// Shutdown: drains, hurries, and does not wait for what cannot die.
func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{T: t, files: newFiles(), world: newWorld(), slots: 2}
		s.start()
		s.write("a", "stubborn")
		s.write("b", "stuck")
		s.write("c", "never")
		s.look(5 * time.Second)
		t0 := time.Now()
		s.stop()
		synctest.Wait()
		s.want("a", "draining 1")
		time.Sleep(3 * time.Second)
		s.e.Hurry()
		<-s.end
		if d := time.Since(t0); d != 3*time.Second+KillAfter {
			t.Errorf("took %v", d)
		}
		s.world.made["b"][0].die(vassal.Exit{})
	})
}

// Whoever asks right after a scan sees every vassal, and knows if there may be
// more: survivors of others would be ended.
func TestSeenAtOnce(t *testing.T) {
	perform(t, Options{Concurrency: 1}, func(s *stage) {
		if !s.e.Complete() {
			s.Error("a whole scan is not complete")
		}
		r := s.e.realm
		a := newActor(r, File{Name: "v", Path: "/etc/vassals/v.ini"})
		rep := a.board.value()
		if got := lineOf(rep.vassal); rep.vassal.Name != "v" || got != "starting 0 queued" {
			s.Errorf("got %q of %q", got, rep.vassal.Name)
		}
		if err := a.launch.Close(); err != nil {
			s.Error(err)
		}
		s.files.partial = true
		s.look(0)
		if s.e.Complete() {
			s.Error("complete, though a directory could not be read")
		}
	})
}

// Of a vassal it is known that its file is gone wherever that could be looked for,
// whatever else could not.
func TestGone(t *testing.T) {
	dir := t.TempDir()
	state := func(n, file string) string {
		path := filepath.Join(dir, "v-"+n+".json")
		text := fmt.Sprintf(`{"v":1,"name":%q,"intent":"run","file":%q}`, n, file)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	kept, inDir, gone, old := state("kept", "/srv/kept.ini"), state("in", "/home/mallory/in.ini"), state("gone", "/home/bob/gone.ini"), state("old", "")
	perform(t, Options{Concurrency: 1, StateDir: dir}, func(s *stage) {
		s.finish()
		for _, c := range []struct{ n, file string }{{"kept", "/srv/kept.ini"}, {"in", "/home/mallory/in.ini"}, {"gone", "/home/bob/gone.ini"}, {"old", ""}} {
			state(c.n, c.file)
		}
		s.files.partial, s.files.unseen = true, []string{"/home/mallory", "/home/eve/new.ini"}
		s.write("kept", "good")
		s.start()
		for _, c := range []struct {
			name vassal.Name
			path string
			want bool
		}{
			{"kept", "/etc/vassals/kept.ini", false}, {"kept", "", false}, {"in", "/home/mallory/in.ini", false}, {"deep", "/home/mallory/a/b.ini", false},
			{"new", "/home/eve/new.ini", false}, {"gone", "/home/bob/gone.ini", true}, {"like", "/home/mallory2/in.ini", true}, {"old", "", false},
		} {
			if got := s.e.Gone(c.name, c.path); got != c.want {
				t.Errorf("%s, at %q: gone %v", c.name, c.path, got)
			}
		}
		for file, want := range map[string]bool{kept: true, inDir: true, old: true, gone: false} {
			if _, err := os.Stat(file); (err == nil) != want {
				t.Errorf("what is kept at %s: %v", file, err)
			}
		}
		s.files.mu.Lock()
		s.files.partial, s.files.unseen = false, nil
		s.files.mu.Unlock()
		s.look(0)
		if !s.e.Gone("in", "/home/mallory/in.ini") || !s.e.Gone("old", "") || s.e.Gone("kept", "") {
			t.Error("all is known, and they are not gone")
		}
	})
}

// At the start, nothing is forgotten of vassals whose directory cannot be read.
func TestPartialStart(t *testing.T) {
	dir := t.TempDir()
	kept := filepath.Join(dir, "v-kept.json")
	if err := os.WriteFile(kept, []byte(`{"v":1,"name":"kept","intent":"stop"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	perform(t, Options{Concurrency: 1, StateDir: dir}, func(s *stage) {
		s.finish()
		if _, err := os.Stat(kept); err == nil {
			s.Fatal("the control: a complete first scan without the file keeps the state")
		}
		if err := os.WriteFile(kept, []byte(`{"v":1,"name":"kept","intent":"stop"}`), 0o600); err != nil {
			s.Fatal(err)
		}
		s.files.partial = true
		s.start()
		if _, err := os.Stat(kept); err != nil {
			s.Error(err)
		}
		s.files.partial = false
		s.write("kept", "good")
		s.look(2 * time.Second)
		s.want("kept", "stopped 0")
		// The first whole scan forgets, though it is not the first.
		gone := filepath.Join(dir, "v-gone.json")
		if err := os.WriteFile(gone, []byte(`{}`), 0o600); err != nil {
			s.Fatal(err)
		}
		s.finish()
		s.files.partial = true
		s.start()
		s.files.partial = false
		s.look(0)
		if _, err := os.Stat(gone); err == nil {
			s.Error("what is kept of a vassal without a file stays")
		}
	})
}

func TestNoVassal(t *testing.T) {
	perform(t, Options{Concurrency: 2}, func(s *stage) {
		s.files.m["x"] = File{Name: "my shop", Path: "/etc/vassals/my shop.ini", NoVassal: true,
			Problem: &vassal.Problem{Severity: vassal.Error, Code: "bad-name", Message: "no"}}
		s.write("v", "good")
		s.look(2 * time.Second)
		s.want("my shop", "failed 0: no")
		since := record0(s, "my shop").Since
		s.files.m["y"] = File{Name: "your shop", Path: "/etc/vassals/your shop.ini", NoVassal: true, Problem: s.files.m["x"].Problem}
		s.look(5 * time.Second)
		if x, y := record0(s, "my shop").Since, record0(s, "your shop").Since; !x.Time.Equal(since.Time) || !y.After(x.Time) {
			s.Errorf("failed since %v and %v, want %v and later", x, y, since)
		}
		delete(s.files.m, "y")
		s.look(time.Second)
		if got := s.act("my shop", control.Start); got != "1 my shop: cannot be run (bad-name)" {
			s.Errorf("got %q", got)
		}
		if got := s.e.Totals().String(); got != "1 of 2 running, 1 failed" {
			s.Errorf("got %q", got)
		}
		if got := s.e.Lines(); len(got) != 2 || !strings.HasPrefix(got[1], "v: running since ") {
			s.Errorf("got %q", got)
		}
	})
}

// Every member is there, null where there is nothing, no array is null.
func TestJSON(t *testing.T) {
	perform(t, Options{Concurrency: 2}, func(s *stage) {
		s.write("v", "dies=5s")
		s.look(5500 * time.Millisecond)
		b, err := json.MarshalIndent(record0(s, "v"), "", "  ")
		if err != nil {
			s.Fatal(err)
		}
		want, err := os.ReadFile("testdata/status.json")
		if err != nil && !*update {
			s.Fatal(err)
		}
		got := string(b) + "\n"
		if *update {
			if err := os.WriteFile("testdata/status.json", []byte(got), 0o644); err != nil {
				s.Fatal(err)
			}
			return
		}
		if d := cmp.Diff(string(want), got); d != "" {
			s.Error(d)
		}
	})
}

// TestTotalsAreKept: while nothing changes nobody is counted again, and every
// change is.
func TestTotalsAreKept(t *testing.T) {
	perform(t, Options{}, func(s *stage) {
		want := func(text string) *Totals {
			t.Helper()
			if got := s.e.Totals().String(); got != text {
				s.Errorf("got %q, want %q", got, text)
			}
			return s.e.counted
		}
		s.write("a", "good")
		s.write("b", "good")
		s.look(time.Minute)
		first := want("2 of 2 running")
		s.pass(time.Hour)
		if want("2 of 2 running") != first {
			s.Error("all are counted anew though nothing changed")
		}
		s.act("b", control.Stop)
		want("1 of 2 running, 1 stopped")
		delete(s.files.m, "a")
		s.look(time.Minute)
		want("0 of 1 running, 1 stopped")
	})
}

// deaf is a Monitor whose file system hangs until it is let go.
type deaf struct {
	Monitor
	hang, let chan struct{}
}

func (d deaf) Watch(ctx context.Context, out chan<- Snapshot) error {
	done := make(chan error)
	go func() { done <- d.Monitor.Watch(ctx, out) }()
	err := <-done
	select {
	case <-d.hang:
		<-d.let
	default:
	}
	return err
}

// The end of the Emperor waits for its vassals, and not for a file system that hangs.
func TestEndWhileMonitorHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{T: t, files: newFiles(), world: newWorld(), slots: 2}
		d := deaf{s.files, make(chan struct{}), make(chan struct{})}
		s.e = New(Options{Monitor: d, Launcher: s.world.launcher, Concurrency: 2, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
		s.ctx, s.stop = context.WithCancel(t.Context())
		s.end = make(chan error, 1)
		go func() { s.end <- s.e.Run(s.ctx) }()
		synctest.Wait()
		s.write("v", "good drain=20s")
		s.look(2 * time.Second)
		s.want("v", "running 1")
		close(d.hang)
		s.stop()
		s.pass(2 * WatchTime)
		s.want("v", "draining 1")
		s.pass(time.Minute)
		select {
		case err := <-s.end:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Error("it waits for the file system")
		}
		close(d.let)
		s.world.mu.Lock()
		defer s.world.mu.Unlock()
		if s.world.open["v"] != 0 {
			t.Error("the vassal is not closed")
		}
	})
}
