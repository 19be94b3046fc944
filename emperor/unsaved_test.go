package emperor

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"liege/emperor/control"
	"liege/vassal"
)

// A wish that cannot be written down is fulfilled, and said to end with this
// Emperor; once it can be, nothing is said any more.
func TestUnsaved(t *testing.T) {
	dir := t.TempDir()
	perform(t, Options{Concurrency: 2, StateDir: dir}, func(s *stage) {
		s.write("shop", "good")
		s.look(2500 * time.Millisecond)
		notSaved := func() bool {
			return slices.ContainsFunc(record0(s, "shop").Problems, func(p vassal.Problem) bool { return p.Code == vassal.CodeNotSaved })
		}
		if notSaved() {
			t.Fatal("not saved before anything was wrong")
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if out := s.act("shop", control.Stop); !strings.HasPrefix(out, "0 ") || !strings.Contains(out, "not on disk") {
			t.Errorf("stop: %q", out)
		}
		if v := record0(s, "shop"); v.State != control.Stopped || !notSaved() {
			t.Errorf("%s, problems %v", v.State, v.Problems)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		s.act("shop", control.Start)
		if v := record0(s, "shop"); v.State != control.Running || notSaved() {
			t.Errorf("with a directory again: %s, problems %v", v.State, v.Problems)
		}
	})
}
