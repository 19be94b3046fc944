package launch

import (
	"testing"
	"testing/synctest"
	"time"

	"liege/vassal"
)

// A name is one Launcher's at a time: what an actor has had is no orphan, though its
// file went since, and a file that comes back waits for the end of what still has its
// name.
func TestOrphans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o orphans
		o.launched("had")
		o.launched("closed")
		o.closed("closed")
		if len(o.had) != 1 {
			t.Errorf("%d are remembered", len(o.had))
		}
		ending := o.take(map[vassal.Name]time.Duration{"had": time.Minute, "lost": time.Minute})
		if len(ending) != 1 || ending["lost"] == nil {
			t.Fatalf("orphans: %v, want the lost one", ending)
		}
		o.launched("later") // and its file goes
		if more := o.take(map[vassal.Name]time.Duration{"had": time.Minute, "lost": time.Minute, "later": time.Minute}); len(more) != 0 {
			t.Errorf("orphans, asked again: %v, want none", more)
		}
		o.launched("lost")
		time.AfterFunc(50*time.Second, func() { o.ended("lost") })
		began := time.Now()
		for name, want := range map[vassal.Name]time.Duration{"had": 0, "other": 0, "lost": 50 * time.Second} {
			l := &launcher{name: name}
			if o.await(l); time.Since(began) < want {
				t.Errorf("%s waited %v, want %v", name, time.Since(began), want)
			}
			if left := time.Until(l.Step().Until); name == "lost" && left < 0 {
				t.Errorf("that it waits is taken for a hang after %v", time.Since(began)+left)
			}
		}
	})
}
