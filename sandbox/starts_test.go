package sandbox

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testenv"
	"liege/vassal"
)

// held counts what this process and its Manager hold: descriptors, mounts,
// cgroups, goroutines, entries of the run directory.
func (r *rig) held() map[string]int {
	r.t.Helper()
	count := map[string]int{"goroutines": len(testenv.Goroutines()), "descriptors": len(entries("/proc/self/fd"))}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		r.t.Fatal(err)
	}
	count["mounts"] = strings.Count(string(text), " "+r.dir+"/")
	for _, mount := range r.m.trees.mounts {
		below, _ := filepath.Glob(mount + r.m.all() + "/*/*")
		for _, p := range below {
			if fi, err := os.Stat(p); err == nil && fi.IsDir() {
				count["cgroups"]++
			}
		}
	}
	for _, dir := range []string{r.m.stateDir(), r.m.rootDir(), r.m.dir} {
		count["run directory"] += len(entries(dir))
	}
	return count
}

// TestStarts: what starts and ends hold does not grow with their number, though
// some are given up, some fail and some are bare.
func TestStarts(t *testing.T) {
	r := newRig(t)
	const warm, names = 16, 4
	n := testenv.Starts(t, 60)
	one := func(i int) {
		name := vassal.Name(fmt.Sprintf("s%d", i%names))
		spec := r.spec(name, i, "exit", "0")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		switch i % 8 {
		case 3: // is given up
			spec.Created = func(Record) error { cancel(); return nil }
		case 5: // cannot work
			spec.Files = append(spec.Files, GenFile{Path: "/srv", Mode: 0o644}, GenFile{Path: "/srv/x", Mode: 0o644})
		case 7:
			spec.Bare = true
		}
		own, err := donations(&spec, filepath.Join(r.dir, "log"))
		if err != nil {
			t.Fatal(err)
		}
		s, err := r.m.Start(ctx, spec)
		for _, f := range own {
			f.Close()
		}
		if refused := i%8 == 3 || i%8 == 5; err == nil {
			<-s.Done()
		} else if !refused {
			t.Errorf("start %d: %v", i, err)
		}
	}
	for i := range warm {
		one(i + 1)
	}
	before := r.held()
	for i := range n {
		one(warm + i + 1)
	}
	// What one start in eight leaves is more than what is just ending, or is made
	// once and kept.
	grew := func(after map[string]int) bool {
		for what, count := range after {
			if count > before[what]+n/16 {
				return true
			}
		}
		return false
	}
	after := r.held()
	for deadline := time.Now().Add(time.Minute); grew(after) && time.Now().Before(deadline); after = r.held() {
		time.Sleep(10 * time.Millisecond) // goroutines end after what they say
	}
	if grew(after) {
		t.Errorf("%d starts left something (-before +after):\n%s", n, cmp.Diff(before, after))
	}
	t.Logf("%d starts: before %v, after %v", n, before, after)

	// The control: what one that lives holds is counted.
	b := r.start(r.spec("lives", 1, "wait"))
	if maps.Equal(after, r.held()) {
		t.Error("a sandbox that lives is not seen: the test shows nothing")
	}
	b.Kill()
	b.wait()
}
