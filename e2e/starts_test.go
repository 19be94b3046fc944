package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testenv"
)

// holds counts what the Emperor holds: descriptors, mounts, processes of its
// own, entries of its directories.
func (r *realm) holds() map[string]int {
	r.t.Helper()
	proc := fmt.Sprintf("/proc/%d/", r.cmd.Process.Pid)
	count := map[string]int{}
	fds, err := os.ReadDir(proc + "fd")
	if err != nil {
		r.t.Fatal(err)
	}
	count["descriptors"] = len(fds)
	mounts, err := os.ReadFile(proc + "mountinfo")
	if err != nil {
		r.t.Fatal(err)
	}
	count["mounts"] = strings.Count(string(mounts), " "+r.run)
	count["processes"] = len(below(r.t, r.cmd.Process.Pid))
	err = filepath.WalkDir(r.run, func(string, os.DirEntry, error) error {
		count["run directory"]++
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return count
}

// TestStartsOfEmperor: vassals that come, reload, crash and go leave nothing in
// the Emperor, however many of them.
func TestStartsOfEmperor(t *testing.T) {
	r := newRealm(t)
	r.write("site/index.html", "a site")
	const lines = "uid = nobody\nhttp = DIR/run/%n.sock\ncheck-static = DIR/site\nstatic-index = index.html\n"
	kinds := []string{lines, lines + "net = nat\n", lines + "connect = 127.0.0.1:9\n", lines + "hook-as-root = exec:false\n"}
	if testenv.Have(testenv.NFTables) != nil {
		kinds[1] = lines
	}
	one := func(i int) {
		for k, text := range kinds {
			r.drop(fmt.Sprintf("v%d", k), text+fmt.Sprintf("env = TRY=%d\n", i))
		}
		for k := range kinds {
			name := fmt.Sprintf("v%d", k)
			if k == 3 {
				r.until(name+" fails", func() bool { return r.status(name).Error != nil })
				continue
			}
			r.up(name)
		}
		r.liege("reload", "v0", "--timeout", patience)
		for k := range kinds {
			if err := os.Remove(filepath.Join(r.etc, fmt.Sprintf("v%d.ini", k))); err != nil {
				t.Fatal(err)
			}
		}
		for k := range kinds {
			r.liege("wait", fmt.Sprintf("v%d", k), "gone", "--timeout", patience)
		}
	}
	const warm, starts = 2, 5 // in each round
	rounds := (testenv.Starts(t, 20) + starts - 1) / starts
	for i := range warm {
		one(i)
	}
	before := r.holds()
	for i := range rounds {
		one(warm + i)
	}
	after := r.holds()
	for deadline := time.Now().Add(time.Minute); !maps.Equal(before, after) && time.Now().Before(deadline); after = r.holds() {
		time.Sleep(50 * time.Millisecond) // the last one to go is still being put away
	}
	if d := cmp.Diff(before, after); d != "" {
		t.Errorf("%d starts left something (-before +after):\n%s", rounds*starts, d)
	}
	t.Logf("after %d starts, as before: %v", rounds*starts, after)

	// The control: what lives is counted.
	r.drop("v0", lines)
	r.up("v0")
	if maps.Equal(after, r.holds()) {
		t.Error("a vassal that lives is not seen: the test shows nothing")
	}
}
