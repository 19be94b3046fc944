package serve

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// TestForkedJobs: a child that a mule, a spooler or the function of a signal
// forks, and that comes back, does none of its parent's work.
func TestForkedJobs(t *testing.T) {
	s := newJobSite(t, "spooler-frequency = 1\n")
	s.core.Alone()
	s.until("all processes", func() bool {
		st := s.stats()
		return st.Mules[0].PID != 0 && st.Mules[1].PID != 0 && st.Spoolers[0].PID != 0
	})
	st := s.stats()
	const rounds = 6
	for range rounds {
		for _, how := range []string{"raise", "exit", "return"} {
			s.eval("splitting('" + how + "')")
			s.eval("split_task.spool(how='" + how + "')")
		}
	}
	s.until("all of it", func() bool { return strings.Count(s.notes(), " by ") >= 6*rounds })
	by := map[string]int{}
	for _, line := range strings.Split(s.notes(), "\n") {
		if how, pid, ok := strings.Cut(line, " by "); ok {
			by[pid]++
			if how == "" {
				t.Errorf("%q", line)
			}
		}
	}
	mules := by[fmt.Sprint(st.Mules[0].PID)] + by[fmt.Sprint(st.Mules[1].PID)]
	if spooler := by[fmt.Sprint(st.Spoolers[0].PID)]; mules != 3*rounds || spooler != 3*rounds {
		t.Errorf("the mules did %d and the spooler %d of %d: %v", mules, spooler, 3*rounds, by)
	}
	if strings.Count(s.notes(), "exit of ") > 0 {
		t.Errorf("a child ran what is to run at the end of a process:\n%s", s.notes())
	}
}

// TestForkedSignal: so it is in a worker that hears signals of its own.
func TestForkedSignal(t *testing.T) {
	s := newJobSite(t, "")
	s.core.Alone()
	pids := map[string]bool{}
	for range 4 {
		pids[s.eval("os.getpid()")] = true
	}
	for range 3 {
		s.eval("uwsgi.signal(41)")
	}
	s.until("the signals", func() bool { return strings.Count(s.notes(), "return by ") >= 6 })
	for range 8 {
		if pid := s.eval("os.getpid()"); !pids[pid] && len(pids) == 2 {
			t.Errorf("process %s answers", pid)
		}
	}
	if n := strings.Count(s.notes(), "return by "); n != 6 {
		t.Errorf("the function ran %d times", n)
	}
}

// TestForkedAsks: a child asks the core over a connection of its own.
func TestForkedAsks(t *testing.T) {
	s := newJobSite(t, "")
	if got := s.eval("shares()"); got != "(True, 0)" {
		t.Errorf("got %s", got)
	}
}

// TestForkedEnds: what a mule or a spooler forks ends at SIGTERM as any process does.
func TestForkedEnds(t *testing.T) {
	s := newJobSite(t, "spooler-frequency = 1\n")
	s.core.Alone()
	s.eval("pooling('mule')")
	s.eval("pool_task.spool(a='b')")
	for _, where := range []string{"mule", "spooler"} {
		s.await("pool in " + where + " [1, 2]")
		s.await("process in " + where + " -15")
	}
}

// TestForkedLeft: a child that outlives its mule takes nothing that is for the next.
func TestForkedLeft(t *testing.T) {
	s := newJobSite(t, "")
	t.Cleanup(func() {
		for _, line := range strings.Split(s.notes(), "\n") {
			var pid int
			if fmt.Sscanf(line, "left %d", &pid); pid > 1 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	s.core.Alone()
	send := func(name, args string) {
		if got := s.eval("uwsgi.mule_msg(__import__('pickle').dumps({'service':'uwsgi_mulefunc','func':'" + name + "','args':(" + args + "),'kwargs':{}}),1)"); got != "True" {
			t.Error(got)
		}
	}
	last := 0
	for i := range 4 {
		s.until("another mule", func() bool { pid := s.stats().Mules[0].PID; return pid != 0 && pid != last })
		last = s.stats().Mules[0].PID
		send("leaves_child", "")
		s.until("its child", func() bool { return strings.Count(s.notes(), "left ") == i+1 })
		if err := syscall.Kill(last, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	s.until("the last mule", func() bool { pid := s.stats().Mules[0].PID; return pid != 0 && pid != last })
	for i := range 8 {
		send("work", fmt.Sprintf("%d,", i))
		s.await(fmt.Sprintf("work %d in mule1", i))
	}
}
