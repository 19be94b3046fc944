package e2e

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// picture is every entry below the roots, down to depth: kind, mode, owner,
// size, time of change, and what a small file or a link holds.
func picture(t *testing.T, depth int, roots ...string) map[string]string {
	t.Helper()
	seen := map[string]string{}
	for _, root := range roots {
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var st unix.Stat_t
			if err := unix.Lstat(p, &st); err != nil {
				return err
			}
			text := fmt.Sprintf("%d:%d %o %d:%d %d %d", st.Dev, st.Ino, st.Mode, st.Uid, st.Gid, st.Size, st.Mtim.Nano())
			switch {
			case d.Type().IsRegular() && st.Size < 1<<16:
				b, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				text += fmt.Sprintf(" %x", sha256.Sum256(b))
			case d.Type() == fs.ModeSymlink:
				to, err := os.Readlink(p)
				if err != nil {
					return err
				}
				text += " -> " + to
			}
			seen[p] = text
			if d.IsDir() && strings.Count(p, "/")-strings.Count(root, "/") >= depth {
				return fs.SkipDir
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return seen
}

// names is the entries of directories that others may change meanwhile.
func names(t *testing.T, dirs ...string) []string {
	t.Helper()
	var out []string
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out
}

// TestBystanders: no start makes a mount point or anything else in what it
// shows to the vassal (KERNEL 17), though the app's directory is full of links
// with the names of the root's directories, a bind lies on a read-only mount,
// and another inside the app's directory.
func TestBystanders(t *testing.T) {
	r := newRealm(t)
	r.write("app/index.html", "a site")
	r.write("app/inner/mine", "the app's")
	for name, to := range map[string]string{"usr": "/etc", "etc": "/root", "proc": "/", "dev": r.dir + "/victim", "tmp": "../../../..", "run": "/run", ".liege": r.dir + "/victim"} {
		if err := os.Symlink(to, filepath.Join(r.dir, "app", name)); err != nil {
			t.Fatal(err)
		}
	}
	r.write("victim/usr/x", "nobody's business")
	r.write("readonly/deep/file", "read me")
	r.write("frozen/deep/file", "frozen")
	frozen := filepath.Join(r.dir, "frozen")
	if err := unix.Mount(frozen, frozen, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(frozen, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", frozen, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(frozen, "x"), nil, 0o644); err == nil {
		t.Fatal("the mount is not read-only: the test shows nothing")
	}
	if err := filepath.WalkDir(filepath.Join(r.dir, "app"), func(p string, _ fs.DirEntry, err error) error {
		return firstOf(err, os.Lchown(p, nobody, nobody))
	}); err != nil {
		t.Fatal(err)
	}
	lines := "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\ncheck-static = DIR/app\nstatic-index = index.html\n" +
		"bind = DIR/readonly:ro\nbind = DIR/frozen/deep\nbind = DIR/readonly/deep:DIR/app/inner:ro\n"
	look := func() (map[string]string, []string) {
		return picture(t, 9, r.dir+"/app", r.dir+"/victim", r.dir+"/readonly", frozen),
			names(t, "/", "/usr", "/usr/bin", "/usr/lib", "/usr/local", "/usr/share", "/etc", "/srv", r.dir)
	}
	r.drop("v", lines)
	r.drop("inside", lines+"bind = DIR/victim:DIR/app/usr/liege-victim:ro\n") // through a link to /etc
	r.drop("missing", lines+"bind = DIR/victim:DIR/app/not/there:ro\n")
	before, names0 := look() // nothing but the realm's own directories has been made
	first := r.up("v")
	const starts = 50
	for range starts {
		r.liege("reload", "v", "--timeout", patience)
	}
	v := r.status("v")
	if v.Generation < first.Generation+starts {
		t.Fatalf("generation %d after %d reloads", v.Generation, starts)
	}
	if _, got := r.get(v.Listen[0], "/"); got != "a site" {
		t.Errorf("got %q", got)
	}
	// Its own binds are where the file says.
	inside := fmt.Sprintf("/proc/%d/root%s", *v.PID, r.dir)
	for path, want := range map[string]string{"/app/inner/file": "read me", "/readonly/deep/file": "read me", "/frozen/deep/file": "frozen"} {
		if b, err := os.ReadFile(inside + path); string(b) != want {
			t.Errorf("%s: %q, %v", path, b, err)
		}
	}
	if _, err := os.Stat(inside + "/victim"); err == nil {
		t.Error("what no line names is visible")
	}
	for _, name := range []string{"inside", "missing"} {
		r.until(name+" is judged", func() bool { v := r.status(name); return v.Applied || v.Error != nil })
		if v := r.status(name); v.Applied {
			t.Errorf("%s is %s, want it refused: its place is not there", name, v.State)
		}
	}
	after, names1 := look()
	if d := cmp.Diff(before, after); d != "" {
		t.Errorf("changed by %d starts (-before +after):\n%s", starts, d)
	}
	if d := cmp.Diff(names0, names1); d != "" {
		t.Errorf("entries of the host (-before +after):\n%s", d)
	}
	// The negative control: a mount point made there is seen.
	if err := os.Mkdir(filepath.Join(r.dir, "readonly/deep/point"), 0o755); err != nil {
		t.Fatal(err)
	}
	if again, _ := look(); maps.Equal(before, again) {
		t.Error("a directory made in a source is not seen: the test shows nothing")
	}
}

func firstOf(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
