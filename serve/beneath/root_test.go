package beneath

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

func TestFile(t *testing.T) {
	testenv.Leaks(t)
	dir := t.TempDir()
	for _, d := range []string{"in/sub", "safe", "out"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"in/l": "sub/f", "in/abs": dir + "/in/sub/f", "in/up": "../out/f", "in/safe": dir + "/safe/f",
		"in/loop": "loop", "in/proc": "/proc/self/root/etc/passwd"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"in/sub/f", "safe/f", "out/f"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	in, safe := New(dir+"/in"), []*Root{New(dir + "/in"), New(dir + "/safe")}
	d, err := in.Open()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		rel, real string
		err       error
	}{
		{"sub/f", "", nil}, {"l", "/in/sub/f", nil}, {"abs", "/in/sub/f", nil}, {"safe", "/safe/f", nil}, {"sub", "", nil}, {".", "", nil},
		{"up", "", fs.ErrPermission}, {"proc", "", unix.ELOOP}, {"../out/f", "", unix.EXDEV}, {"/etc/passwd", "", unix.EXDEV},
		{"loop", "", unix.ELOOP}, {"none", "", fs.ErrNotExist},
	} {
		fd, real, err := d.File(c.rel, unix.O_PATH, safe)
		if err == nil {
			unix.Close(fd)
		}
		if want := c.real; want != "" && real != dir+want || want == "" && real != "" || !errors.Is(err, c.err) || (err != nil) != (c.err != nil) {
			t.Errorf("%s: got %q, %v; want %q, %v", c.rel, real, err, c.real, c.err)
		}
	}
	for name, want := range map[string]string{"/in/sub/f": "/sub/f", "/in": "", "/inside": "no", "/out/f": "no"} {
		rest, ok, _ := in.Holds(dir + name)
		if ok != (want != "no") || ok && rest != want {
			t.Errorf("%s: got %q, %v", name, rest, ok)
		}
	}
}

// TestMissing: want of descriptors is not the want of a file.
func TestMissing(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(dir+"/in", 0o755), os.Mkdir(dir+"/safe", 0o755), os.WriteFile(dir+"/safe/f", nil, 0o644), os.Symlink("../safe/f", dir+"/in/l"), os.Symlink("l2", dir+"/in/l2")); err != nil {
		t.Fatal(err)
	}
	d, err := New(dir + "/in").Open()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", dir+"/in/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, rel := range []string{"none", "l", "l2", "s", "../safe/f", strings.Repeat("n", 300), "s/x"} {
		if _, _, err := d.File(rel, unix.O_RDONLY|unix.O_NONBLOCK, nil); err == nil || !Missing(err) {
			t.Errorf("%.20s: %v", rel, err)
		}
	}
	testenv.WithoutDescriptors(t, func() {
		for _, rel := range []string{"none", "l", "."} {
			if _, _, err := d.File(rel, unix.O_RDONLY, []*Root{New(dir + "/safe")}); err == nil || Missing(err) {
				t.Errorf("%s without descriptors: %v", rel, err)
			}
		}
		if _, err := New(dir + "/in").Open(); err == nil || Missing(err) {
			t.Error(err)
		}
		if _, ok, err := New(dir + "/in").Holds("/elsewhere"); ok || err == nil || Missing(err) {
			t.Error(ok, err)
		}
	})
}
