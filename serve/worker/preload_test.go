package worker

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"liege/vassal"
)

// Applications of many small objects, some 30 MB, that let the interpreter
// collect garbage when they are asked: what it writes beside objects would
// take their pages from the others.
const (
	heavyWSGI = `
import gc
data = [(i, str(i)) for i in range(200000)]
def application(e, s):
    gc.collect()
    s('200 OK', [])
    return [b'ok']
`
	heavyRack = `
DATA = Array.new(200000) { |i| [i, i.to_s] }
run lambda { |env| GC.start; sleep 0.1; [200, {}, ['ok']] }
`
	heavyPSGI = `
my @data = map { [$_, "$_"] } 1 .. 120000;
sub { my $x = scalar @data; [200, [], ['ok']] }
`
)

// TestPreloadShares: two workers of an application that was loaded before they
// were forked take less memory together than two that have loaded it
// themselves, in every language and after their garbage was collected.
func TestPreloadShares(t *testing.T) {
	for name, begin := range map[string]func(set func(*vassal.App)) *running{
		"python": func(set func(*vassal.App)) *running { return start(t, heavyWSGI, set) },
		"ruby":   func(set func(*vassal.App)) *running { return startRack(t, heavyRack, set) },
		"perl":   func(set func(*vassal.App)) *running { return startPSGI(t, heavyPSGI, set) },
	} {
		measure := func(lazy bool) int {
			r := begin(func(a *vassal.App) { a.Workers.Processes, a.Workers.LazyApps = 2, lazy })
			var asked sync.WaitGroup
			for range 4 { // both of them, most likely
				asked.Go(func() { r.get("/") })
			}
			asked.Wait()
			eventually(t, "both workers are there", func() bool {
				w := r.Stats().Workers
				return w[0].PID != 0 && w[1].PID != 0
			})
			sum := 0
			for _, w := range r.Stats().Workers {
				sum += pss(t, w.PID)
			}
			r.close()
			return sum
		}
		preloaded, lazy := measure(false), measure(true)
		t.Logf("%s: two workers take %d kB, with lazy-apps %d kB", name, preloaded, lazy)
		if preloaded+10<<10 > lazy {
			t.Errorf("%s: two workers of a preloaded application take %d kB, with lazy-apps %d kB", name, preloaded, lazy)
		}
	}
}

// pss is the memory of a process in kB, of which a page that n processes have
// counts as 1/n.
func pss(t *testing.T, pid int) (kb int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\nPss:")
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		t.Fatalf("%v in\n%s", err, b)
	}
	return kb
}
