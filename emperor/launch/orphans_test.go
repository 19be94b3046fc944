package launch

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"liege/vassal"
)

// A name is one Launcher's at a time: what an actor has had is no orphan, though its
// file went since, and a file that comes back waits for the end of what still has its
// name, be it an orphan or the Launcher of a file that was renamed.
func TestOrphans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o orphans
		launch := func(name vassal.Name) *launcher {
			l := &launcher{name: name}
			o.launched(l)
			return l
		}
		had := launch("had")
		o.closed(launch("closed"))
		if len(o.had) != 1 {
			t.Errorf("%d are remembered", len(o.had))
		}
		ending := o.take(map[vassal.Name]time.Duration{"had": time.Minute, "lost": time.Minute})
		if len(ending) != 1 || ending["lost"] == nil {
			t.Fatalf("orphans: %v, want the lost one", ending)
		}
		launch("later") // and its file goes
		if more := o.take(map[vassal.Name]time.Duration{"had": time.Minute, "lost": time.Minute, "later": time.Minute}); len(more) != 0 {
			t.Errorf("orphans, asked again: %v, want none", more)
		}
		time.AfterFunc(50*time.Second, func() { o.ended("lost") })
		time.AfterFunc(40*time.Second, func() { o.closed(had) }) // by the actor of what its file is called now
		var wg sync.WaitGroup
		for name, want := range map[vassal.Name]time.Duration{"had": 40 * time.Second, "other": 0, "lost": 50 * time.Second, "closed": 0} {
			l, began := launch(name), time.Now()
			wg.Go(func() {
				o.await(l)
				if waited := time.Since(began); waited != want {
					t.Errorf("%s waited %v, want %v", name, waited, want)
				}
				if left := time.Until(l.Step().Until); want > 0 && left < 0 {
					t.Errorf("that %s waits is taken for a hang after %v", name, time.Since(began)+left)
				}
			})
		}
		wg.Wait()
	})
}
