package worker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"liege/vassal"
)

// later gives a file another text and an mtime of its own, whatever the
// granularity of the file system's clock.
func later(t *testing.T, path, text string, seconds int) {
	t.Helper()
	tmp := path + ".tmp" // so that nobody sees it half done
	at := time.Now().Add(time.Duration(seconds) * time.Second)
	if err := errors.Join(os.WriteFile(tmp, []byte(text), 0o644), os.Chtimes(tmp, at, at), os.Rename(tmp, path)); err != nil {
		t.Fatal(err)
	}
}

func TestCode(t *testing.T) {
	dir := t.TempDir()
	a, b, gone := filepath.Join(dir, "a.py"), filepath.Join(dir, "b.py"), filepath.Join(dir, "gone.py")
	later(t, a, "", 0)
	later(t, b, "", 0)
	c := code{kinds: []string{".py"}}
	c.add([]string{a, fmt.Sprint(mtime(a)), "relative.py", "1", gone, "5", b, "not a number"})
	if len(c.files) != 2 {
		t.Errorf("files: %v", c.files)
	}
	if got := c.changed(); got != "" {
		t.Errorf("nothing has changed: %q", got)
	}
	c.add([]string{a, "1"}) // what the loader saw counts
	if got := c.changed(); got != "" {
		t.Errorf("told twice, it has not changed: %q", got)
	}
	later(t, a, "x", 10)
	if got := c.changed(); got != a {
		t.Errorf("got %q, want %q", got, a)
	}
	if got := c.changed(); got != "" {
		t.Errorf("it is told once: %q", got)
	}
	// Now what is beside it counts too, and what comes.
	later(t, b, "x", 20)
	if got := c.changed(); got != b {
		t.Errorf("beside: got %q, want %q", got, b)
	}
	later(t, filepath.Join(dir, "new.py"), "x", 0)
	later(t, filepath.Join(dir, "new.txt"), "x", 0)
	if got := c.changed(); got != filepath.Join(dir, "new.py") {
		t.Errorf("a new one: got %q", got)
	}
	if got := c.changed(); got != "" {
		t.Errorf("got %q", got)
	}
}

// TestAutoreload: what the loader has loaded is looked at, what a worker has
// loaded later, and the files of every mounted application; a module that is
// to be ignored is not.
func TestAutoreload(t *testing.T) {
	for _, lazy := range []bool{false, true} {
		t.Run(fmt.Sprint("lazy=", lazy), func(t *testing.T) {
			changes := make(chan string, 16)
			var dir string
			p, app, log := newFixture(t, "", func(app *vassal.App) {
				dir = app.Dir
				for name, text := range map[string]string{"one.py": "", "late.py": "", "quiet.py": "", "other.py": "def application(e, s):\n    s('200 OK', [])\n    return [b'other']\n",
					"app.py": "import one, quiet\ndef application(e, s):\n    import late\n    s('200 OK', [])\n    return [b'app']\n"} {
					later(t, filepath.Join(dir, name), text, -100)
				}
				app.Workers.LazyApps = lazy
				app.Workers.Python.Watch, app.Workers.Python.Unwatched = 40*time.Millisecond, []string{"quiet"}
				app.Mounting = &vassal.Mounting{Mounts: []vassal.Mount{{File: "app.py"}, {Point: "/other", File: "other.py"}}}
			})
			p.Changed = func(file string) { changes <- file }
			r := run(t, p, app, log)
			if got := r.get("/"); got != "app" {
				t.Errorf("got %q", got)
			}
			known := func(q *Pool, name string) func() bool {
				return func() bool {
					q.code.mu.Lock()
					defer q.code.mu.Unlock()
					_, ok := q.code.files[filepath.Join(dir, name)]
					return ok
				}
			}
			// late.py is imported by a request alone: a worker tells of it. It comes
			// first, because after a change all files beside the application's are known.
			for i, name := range []string{"late.py", "app.py", "one.py", "other.py"} {
				q := p
				if name == "other.py" {
					q = p.fleet.pools[1]
				}
				eventually(t, name+" is known", known(q, name))
				later(t, filepath.Join(dir, "quiet.py"), "# changed\n", 10+i)
				later(t, filepath.Join(dir, name), "# changed\n", 10+i)
				select {
				case got := <-changes:
					if got != filepath.Join(dir, name) {
						t.Errorf("%s: got %s", name, got)
					}
				case <-time.After(20 * time.Second):
					t.Fatalf("%s: nothing", name)
				}
			}
		})
	}
}
