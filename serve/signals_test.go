package serve

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"liege/internal/testenv"
)

// TestSignalsOfLoops: a worker with a loop of its own hears what is for it as others do.
func TestSignalsOfLoops(t *testing.T) {
	testenv.Need(t, testenv.Gevent)
	for name, lines := range map[string]string{
		"gevent": jobLines + "gevent = 5\n",
		"asgi":   strings.Replace(jobLines, "wsgi-file = jobs.py", "asgi = jobs:served", 1),
	} {
		t.Run(name, func(t *testing.T) {
			s := bareSite(t, lines)
			s.eval("uwsgi.signal(11)")
			s.await("signal 11 in worker1")
			s.await("signal 11 in worker2")
			for range 3 {
				s.eval("uwsgi.signal(15)")
			}
			s.until("three signals", func() bool { return strings.Count(s.notes(), "signal 15 in worker2") == 3 })
		})
	}
}

// TestSignalsOfThreads: one thread is at the function of a signal, and the others take
// requests: then, and when it has ended.
func TestSignalsOfThreads(t *testing.T) {
	s := newJobSite(t, "threads = 3\n")
	together := func(name string, n int) {
		t.Helper()
		var all sync.WaitGroup
		for range n {
			all.Go(func() {
				if got := s.eval(fmt.Sprintf("meet('%s',%d)", name, n)); got != "True" {
					t.Errorf("%s: %s", name, got)
				}
			})
		}
		all.Wait()
	}
	together("first", 6)
	for i := range 6 { // threads that all look for it at once are a matter of luck
		s.eval("uwsgi.signal(42)")
		s.until("both workers", func() bool { return strings.Count(s.notes(), "at end") == 3*i+2 })
		together(fmt.Sprint("beside", i), 4)
		s.eval("note('at end')")
		s.until("the end", func() bool { return strings.Count(s.notes(), "slow ends") == 2*i+2 })
		together(fmt.Sprint("after", i), 6)
	}
}

// TestSignalExits: a function of a signal that ends its worker has another one come,
// whichever thread it runs in.
func TestSignalExits(t *testing.T) {
	s := newJobSite(t, "threads = 3\n")
	pid := func() string { return s.eval("uwsgi.workers()[0]['pid']") }
	for range 4 {
		was := pid()
		s.eval("uwsgi.signal(43)")
		s.until("another worker", func() bool { now := pid(); return now != was && now != "0" })
	}
	if b, _ := os.ReadFile(s.log); strings.Contains(string(b), "a worker died") {
		t.Error("it died, with all that it was at")
	}
}
