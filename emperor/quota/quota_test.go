package quota

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/vassal"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// disk is a file system whose files have projects; nothing on it is bounded, for
// which not every kernel has what it takes.
func disk(t *testing.T) string {
	t.Helper()
	testenv.Need(t, testenv.Root, testenv.Loop)
	testenv.Leaks(t)
	dir := t.TempDir()
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "at")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 320<<20), os.Mkdir(at, 0o755)); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.xfs", "-q", image)
	run(t, "mount", "-o", "loop", image, at)
	t.Cleanup(func() { run(t, "umount", at) })
	return at
}

func run(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// projects are of a fresh state directory: shop has project 7, other 8, and
// gone, which is no more, 9.
func projects(t *testing.T) *Projects {
	ids := map[vassal.Name]int{"shop": 7, "other": 8, "gone": 9}
	return New(Config{
		File: filepath.Join(t.TempDir(), "quotas.json"),
		ID: func(n vassal.Name) (int, error) {
			if id, ok := ids[n]; ok {
				return id, nil
			}
			return 0, errors.New("no number left")
		},
		Owner: func(id int) (vassal.Name, bool) {
			for n, k := range ids {
				if k == id {
					return n, true
				}
			}
			return "", false
		},
		Lives: func(n vassal.Name) bool { return n != "gone" },
	})
}

func mustOpen(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
	return path
}

func attr(t *testing.T, path string) fsxattr {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a, err := attrOf(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func setProject(t *testing.T, path string, id uint32) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a, err := attrOf(int(f.Fd()))
	a.project = id
	if err = errors.Join(err, a.set(int(f.Fd()))); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, id uint32, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if a := attr(t, p); a.project != id {
			t.Errorf("%s has project %d, want %d", p, a.project, id)
		}
	}
}

// TestMark: everything in the directory is counted, what comes into it too, and
// nothing else, whatever lies in it.
func TestMark(t *testing.T) {
	at := disk(t)
	app, outside := filepath.Join(at, "app"), write(t, filepath.Join(at, "outside/secret"), "another's")
	file, deep := write(t, app+"/file", "text"), write(t, app+"/a/b/c/file", "text")
	for link, to := range map[string]string{"link": "../outside", "a/up": "../../outside/secret", "loop": "loop"} {
		if err := os.Symlink(to, filepath.Join(app, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(unix.Mkfifo(app+"/fifo", 0o644), unix.Mknod(app+"/null", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))), os.Mkdir(app+"/mounted", 0o755),
		unix.Mount("none", app+"/mounted", "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(app+"/mounted", unix.MNT_DETACH) })
	write(t, app+"/mounted/file", "not of this file system")
	p := projects(t)
	if err := p.mark(t.Context(), "shop", mustOpen(t, app), 7); err != nil {
		t.Fatal(err)
	}
	want(t, 7, app, file, app+"/a", app+"/a/b", deep)
	want(t, 0, at, at+"/outside", outside)
	want(t, 7, write(t, app+"/a/later", "inherits"))
	if err := os.Rename(outside, app+"/a/stolen"); !errors.Is(err, unix.EXDEV) {
		t.Errorf("a file of another project is moved into it: %v, want EXDEV", err)
	}

	// Once it is done it is not done again: another Emperor knows. It is, when the
	// directory is another one.
	setProject(t, file, 0)
	again := New(p.cfg)
	if err := again.mark(t.Context(), "shop", mustOpen(t, app), 7); err != nil {
		t.Fatal(err)
	}
	want(t, 0, file)
	if err := errors.Join(os.Mkdir(at+"/new", 0o755), again.mark(t.Context(), "shop", mustOpen(t, at+"/new"), 7), again.mark(t.Context(), "shop", mustOpen(t, app), 7)); err != nil {
		t.Fatal(err)
	}
	want(t, 7, file)
}

// TestMarkOfAnother: files that count elsewhere stay there, and the start says so.
func TestMarkOfAnother(t *testing.T) {
	at := disk(t)
	for i, tc := range []struct {
		project uint32
		link    bool // the file has a second name
		want    string
	}{
		{8, false, "it counts for vassal other"},
		{44, false, "project 44, which is not Liege's"},
		{9, false, ""}, // of a vassal that is no more
		{8, true, ""},
	} {
		app := filepath.Join(at, fmt.Sprint(i))
		file := write(t, app+"/sub/file", "text")
		if tc.link {
			if err := os.Link(file, fmt.Sprintf("%s/name-%d", at, i)); err != nil {
				t.Fatal(err)
			}
		}
		setProject(t, file, tc.project)
		err := projects(t).mark(t.Context(), "shop", mustOpen(t, app), 7)
		switch {
		case tc.want == "" && err != nil, tc.want != "" && (!errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%d: %v, want %q", i, err, tc.want)
		case tc.want != "" || tc.link:
			want(t, tc.project, file)
		default:
			want(t, 7, file)
		}
	}
}

// TestMarkBegun: a walk that was cut off is not taken for one that was finished.
func TestMarkBegun(t *testing.T) {
	at := disk(t)
	app := filepath.Join(at, "app")
	file := write(t, app+"/file", "text")
	p := projects(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.mark(ctx, "shop", mustOpen(t, app), 7); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	want(t, 7, app)
	want(t, 0, file)
	if err := New(p.cfg).mark(t.Context(), "shop", mustOpen(t, app), 7); err != nil {
		t.Fatal(err)
	}
	want(t, 7, file)

	// A directory that is too deep has no quota, and nothing is open any more.
	deep := filepath.Join(at, "deep")
	if err := os.MkdirAll(deep+strings.Repeat("/d", maxDepth+2), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := p.mark(t.Context(), "shop", mustOpen(t, deep), 7); err == nil || !strings.Contains(err.Error(), "deeper") {
		t.Errorf("a deep tree: %v", err)
	}
}

// TestMarkDuringSwaps: whatever a tenant puts in the place of what is being
// marked, nothing outside is.
func TestMarkDuringSwaps(t *testing.T) {
	at := disk(t)
	app, outside := filepath.Join(at, "app"), filepath.Join(at, "outside")
	write(t, outside+"/secret", "another's")
	write(t, app+"/d/file", "text")
	if err := os.Symlink("../outside", app+"/swap"); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	swaps := 0
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, app+"/d", unix.AT_FDCWD, app+"/swap", unix.RENAME_EXCHANGE)
				swaps++
			}
		}
	}()
	for range 300 {
		w := walk{ctx: t.Context(), id: 7, free: func(uint32) error { return nil }}
		top := mustOpen(t, app)
		dir, err := reopen(int(top.Fd()), unix.O_DIRECTORY)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.dir(dir, app, 0); err != nil {
			t.Error(err)
		}
		dir.Close()
		setProject(t, app, 0)
	}
	close(stop)
	<-stopped
	want(t, 0, outside, outside+"/secret")
	if swaps < 100 {
		t.Errorf("only %d swaps: the test shows nothing", swaps)
	}
}

// TestProbe: a file system without quotas is called one, with what brings them.
func TestProbe(t *testing.T) {
	testenv.Need(t, testenv.Root)
	for path, hint := range map[string]string{"/proc": "ext4 or xfs", "/sys": "ext4 or xfs"} {
		m, ok := errors.AsType[*Missing](Probe(path))
		if !ok || !strings.Contains(m.Hint, hint) {
			t.Errorf("%s: %+v", path, m)
		}
	}
	if err := Probe("/no/such"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	at := disk(t)
	m, ok := errors.AsType[*Missing](Probe(at))
	if !ok || !strings.Contains(m.Hint, "prjquota") {
		t.Errorf("xfs without: %+v", m)
	}
	if err := projects(t).Apply(t.Context(), "shop", mustOpen(t, at), Limit{Bytes: 1}); !errors.As(err, &m) {
		t.Errorf("Apply there: %v", err)
	}
	want(t, 0, at)
}
