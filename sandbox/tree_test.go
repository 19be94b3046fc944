package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"liege/sandbox/stage"
	"liege/vassal"
)

// system makes a tree with the directories of a small system in dir.
func system(t *testing.T, dir string) string {
	t.Helper()
	for _, d := range []string{"bin", "dev", "etc", "home", "proc", "run", "srv", "sys", "tmp", "usr/own", "var/tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/os-release"), []byte("ID=tree\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("tree:x:0:0::/:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// inTree asks for a start over the tree in dir. The host's /usr is bound to
// /host, for what the test runs.
func (r *rig) inTree(dir string, name vassal.Name, args ...string) Spec {
	r.t.Helper()
	spec := r.spec(name, 1, args...)
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	spec.Tree = os.NewFile(uintptr(fd), dir)
	r.t.Cleanup(func() { spec.Tree.Close() })
	// The test's own binary needs the host's libraries.
	spec.Root = []Mount{{Source: "/usr/lib", Target: "/usr/lib", Exec: true}}
	spec.Files = slices.DeleteFunc(hostLinks(), func(f GenFile) bool { return f.Link == "usr/bin" || f.Link == "usr/sbin" })
	spec.Files = append(spec.Files, GenFile{Path: "/etc/resolv.conf", Text: []byte("# generated\n"), Mode: 0o644})
	if lib := "/usr/lib64"; exists(lib) {
		spec.Root = append(spec.Root, Mount{Source: lib, Target: lib, Exec: true})
	}
	return spec
}

func exists(path string) bool { _, err := os.Lstat(path); return err == nil }

// snapshot lists everything below dir, with what a write would change.
func snapshot(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		to, _ := os.Readlink(p)
		out = append(out, fmt.Sprintf("%s %o %d:%d %d.%d %s", p, st.Mode, st.Uid, st.Gid, st.Ctim.Sec, st.Ctim.Nsec, to))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A root over another system: what is generated covers what the tree has, the
// rest is the tree's, nothing can be written, and the tree stays as it was.
func TestTree(t *testing.T) {
	r := newRig(t)
	dir := system(t, filepath.Join(r.dir, "tree"))
	before := snapshot(t, dir)
	spec := r.inTree(dir, "tree", "cat", "/etc/os-release", "/etc/passwd", "/etc/resolv.conf")
	spec.Plan.UID = 0
	spec.Plan.HookEnv = []string{"skip=caps", "skip=bounding", "skip=uid"}
	b := r.start(spec)
	b.wait()
	if want := "/etc/os-release\nID=tree\n/etc/passwd\nroot:x:0:0::/:/bin/sh\n/etc/resolv.conf\n# generated\n"; b.output() != want {
		t.Errorf("got %q, want %q", b.output(), want)
	}
	write := r.inTree(dir, "write", "write", "/x", "/etc/passwd", "/etc/os-release", "/usr/own/x", "/home/x")
	write.Plan.UID, write.Plan.HookEnv = 0, spec.Plan.HookEnv
	b = r.start(write)
	b.wait()
	if n := strings.Count(b.output(), "read-only file system"); n != 5 {
		t.Errorf("%d of 5 writes were refused: %q", n, b.output())
	}
	if diff := cmp.Diff([]string(nil), violations(r.mounts(r.inTree(dir, "mounts")), ownWritable...)); diff != "" {
		t.Errorf("mounts that break the rules (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, snapshot(t, dir)); diff != "" {
		t.Errorf("the tree changed (-before +after):\n%s", diff)
	}
}

// Starts over a tree on read-only storage that lacks every mount
// point.
func TestTreeReadOnly(t *testing.T) {
	r := newRig(t)
	dir := filepath.Join(r.dir, "tree")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	if err := os.Mkdir(filepath.Join(dir, "usr"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, dir)
	for i := range 20 {
		b := r.start(r.inTree(dir, vassal.Name(fmt.Sprintf("ro%d", i)), "exists", "/usr/lib", "/home"))
		b.wait()
		if want := "/usr/lib true\n/home false\n"; b.output() != want {
			t.Fatalf("start %d: got %q, want %q", i, b.output(), want)
		}
	}
	if diff := cmp.Diff(before, snapshot(t, dir)); diff != "" {
		t.Errorf("the tree changed (-before +after):\n%s", diff)
	}
}

// Links and files in the place of each mount point are covered; on the way to
// one they end the start with a reason. Where they lead nothing is made.
func TestTreeHostile(t *testing.T) {
	r := newRig(t)
	victim := filepath.Join(r.dir, "victim")
	if err := os.Mkdir(victim, 0o755); err != nil {
		t.Fatal(err)
	}
	traps := map[string]func(string) error{
		"absolute": func(p string) error { return os.Symlink(victim, p) },
		"upwards":  func(p string) error { return os.Symlink(strings.Repeat("../", 20)+victim[1:], p) },
		"proc":     func(p string) error { return os.Symlink("/proc/1/root", p) },
		"loop":     func(p string) error { return os.Symlink(filepath.Base(p), p) },
		"inside":   func(p string) error { return os.Symlink("/usr/own", p) },
		"file":     func(p string) error { return os.WriteFile(p, nil, 0o644) },
		"fifo":     func(p string) error { return unix.Mkfifo(p, 0o666) },
	}
	covered := []string{"proc", "sys", "dev", "run", "tmp", "var/tmp", "etc/resolv.conf", "etc/passwd", "usr/lib", "srv/app"}
	refused := []string{"var", "etc", "usr", ".liege", "srv"}
	app := filepath.Join(r.dir, "app")
	if err := os.Mkdir(app, 0o755); err != nil {
		t.Fatal(err)
	}
	start := func(name vassal.Name, set func(string) error, points ...string) (*box, error) {
		dir := system(t, filepath.Join(r.dir, string(name)))
		for _, point := range points {
			p := filepath.Join(dir, point)
			if err := errors.Join(os.RemoveAll(p), set(p)); err != nil {
				t.Fatal(err)
			}
		}
		before := snapshot(t, dir)
		spec := r.inTree(dir, name, "cat", "/proc/self/mountinfo")
		spec.Root = append(spec.Root, Mount{Source: app, Target: "/srv/app"})
		b, err := r.tryStart(t.Context(), r.m, spec)
		if err == nil {
			b.wait()
		}
		if diff := cmp.Diff(before, snapshot(t, dir)); diff != "" {
			t.Errorf("%s: the tree changed (-before +after):\n%s", name, diff)
		}
		return b, err
	}
	for trap, set := range traps {
		b, err := start(vassal.Name(trap), set, covered...)
		if err != nil {
			t.Errorf("%s: %v", trap, err)
			continue
		}
		for _, point := range []string{" /proc ", " /sys ", " /dev ", " /run ", " /tmp ", " /var/tmp ", " /srv/app ", " /usr/lib "} {
			if !strings.Contains(b.output(), point) {
				t.Errorf("%s: no mount at%s: %q", trap, point, b.output())
			}
		}
		for _, point := range refused {
			_, err := start(vassal.Name(trap+"-"+strings.Trim(point, ".")), set, point)
			if want := "/" + point + " is "; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s at /%s: got %v, want %q in it", trap, point, err, want)
			}
		}
	}
	if left := entries(victim); len(left) > 0 {
		t.Errorf("made through a link: %v", left)
	}
	if left := entries(r.m.rootDir()); len(left) > 0 {
		t.Errorf("left of the starts: %v", left)
	}
}

// Whoever owns the tree exchanges directories for links while it is used: each
// start mounts where it should or fails, and what the links lead to is not
// touched.
func TestTreeMoves(t *testing.T) {
	r := newRig(t)
	dir := system(t, filepath.Join(r.dir, "tree"))
	victim := filepath.Join(r.dir, "victim")
	if err := errors.Join(os.Mkdir(victim, 0o755), os.MkdirAll(filepath.Join(dir, "traps"), 0o755)); err != nil {
		t.Fatal(err)
	}
	moved := []string{"proc", "dev", "var", "etc", "srv", "tmp"}
	for _, p := range moved {
		if err := os.Symlink(victim, filepath.Join(dir, "traps", p)); err != nil {
			t.Fatal(err)
		}
	}
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			for _, p := range moved {
				_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, p), unix.AT_FDCWD, filepath.Join(dir, "traps", p), unix.RENAME_EXCHANGE)
			}
		}
	}()
	defer func() { stop.Store(true); <-done }()
	app := filepath.Join(r.dir, "app")
	if err := os.Mkdir(app, 0o755); err != nil {
		t.Fatal(err)
	}
	started := 0
	for i := range 30 {
		spec := r.inTree(dir, vassal.Name(fmt.Sprintf("m%d", i)), "cat", "/proc/self/mountinfo")
		spec.Root = append(spec.Root, Mount{Source: app, Target: "/srv/app"})
		b, err := r.tryStart(t.Context(), r.m, spec)
		if err != nil {
			continue
		}
		b.wait()
		started++
		for _, point := range []string{" /proc ", " /dev ", " /tmp ", " /var/tmp ", " /srv/app "} {
			if !strings.Contains(b.output(), point) {
				t.Errorf("start %d: no mount at%s: %q", i, point, b.output())
			}
		}
	}
	if left := entries(victim); len(left) > 0 {
		t.Errorf("made through a link: %v", left)
	}
	t.Logf("%d of 30 starts were not disturbed", started)
}

// A recursive bind below another one, and one that lacks its mount point in
// another's source, where nothing is made.
func TestBindInBind(t *testing.T) {
	r := newRig(t)
	outer, inner := filepath.Join(r.dir, "outer"), filepath.Join(r.dir, "inner")
	for _, d := range []string{filepath.Join(outer, "place"), filepath.Join(inner, "sub")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("none", filepath.Join(inner, "sub"), "tmpfs", 0, "size=4k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(filepath.Join(inner, "sub"), unix.MNT_DETACH) })
	spec := r.spec("binds", 1, "cat", "/proc/self/mountinfo")
	spec.Root = append(spec.Root, Mount{Source: outer, Target: "/srv/outer", Writable: true}, Mount{Source: inner, Target: "/srv/outer/place", Recursive: true})
	ms := r.mounts(spec)
	if diff := cmp.Diff([]string(nil), violations(ms, append(ownWritable, "/srv/outer")...)); diff != "" {
		t.Errorf("mounts that break the rules (-want +got):\n%s", diff)
	}
	if !slices.ContainsFunc(ms, func(m seen) bool { return m.point == "/srv/outer/place/sub" }) {
		t.Error("what is mounted below the inner bind is missing")
	}
	spec = r.spec("lacks", 1, "cat", "/proc/self/mountinfo")
	spec.Root = append(spec.Root, Mount{Source: outer, Target: "/srv/outer", Writable: true}, Mount{Source: inner, Target: "/srv/outer/lacks"})
	b := r.start(spec)
	if e := b.wait(); e.Code == 0 || !strings.Contains(b.output(), "/srv/outer/lacks") {
		t.Errorf("a place that is not there: got %+v, %q", e, b.output())
	}
	if exists(filepath.Join(outer, "lacks")) {
		t.Error("a mount point was made in the source of a bind")
	}
}

// An empty file system of the app's own, and a clock that begins with it.
func TestTmpfsAndTime(t *testing.T) {
	r := newRig(t)
	spec := r.spec("memory", 1, "write", "/var/cache/app/x", "/run/a/b/x", "/srv/x")
	mount, err := DetachedTmpfs(1<<20, 65534, 65534, "")
	if err != nil {
		t.Fatal(err)
	}
	defer mount.Close()
	// /run is empty: what is attached there brings its place along.
	inRun, err := DetachedTmpfs(1<<20, 65534, 65534, "")
	if err != nil {
		t.Fatal(err)
	}
	defer inRun.Close()
	spec.Detached, spec.Plan.Attach = []*os.File{mount, inRun}, []stage.Attach{{Target: "/var/cache/app"}, {Mount: 1, Target: "/run/a/b"}}
	b := r.start(spec)
	b.wait()
	if want := "/var/cache/app/x <nil>\n/run/a/b/x <nil>\n"; !strings.HasPrefix(b.output(), want) {
		t.Errorf("got %q, want it to begin with %q", b.output(), want)
	}
	spec = r.spec("time", 1, "cat", "/proc/uptime")
	spec.TimeNS = true
	b = r.start(spec)
	b.wait()
	if up := uptime(t, b.output()); up < 0 || up > 300 {
		t.Errorf("uptime: got %v, want that of the sandbox", up)
	}
	host, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Fatal(err)
	}
	b = r.start(r.spec("hosttime", 1, "cat", "/proc/uptime"))
	b.wait()
	if up, least := uptime(t, b.output()), uptime(t, string(host)); up < least {
		t.Errorf("without a time namespace: got %v, want at least %v", up, least)
	}
}

// uptime is the first number in the last line of text.
func uptime(t *testing.T, text string) (up float64) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if _, err := fmt.Sscan(lines[len(lines)-1], &up); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return up
}
