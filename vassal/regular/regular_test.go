package regular

import (
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
)

// within fails the test if do waits for something.
func within(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal(what + ": still waiting")
	}
}

func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(
		os.WriteFile(dir+"/file", []byte("text"), 0o644), os.Mkdir(dir+"/dir", 0o755), os.WriteFile(dir+"/dir/a", nil, 0o644), os.WriteFile(dir+"/dir/b", nil, 0o644),
		unix.Mkfifo(dir+"/fifo", 0o666), os.Symlink("file", dir+"/link"), os.Symlink("dir", dir+"/dirlink"), os.Symlink("loop", dir+"/loop"),
	); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestOpen(t *testing.T) {
	dir := tree(t)
	for _, c := range []struct{ path, want, noLink string }{
		{dir + "/file", "", ""},
		{dir + "/link", "", "is a symbolic link, not a regular file"},
		{dir + "/dirlink/a", "", ""},
		{dir + "/dir", "is a directory, not a regular file", "is a directory"},
		{dir + "/fifo", "is a FIFO, not a regular file", "is a FIFO"},
		{"/dev/null", "is a device, not a regular file", "is a device"},
		{dir + "/loop", "too many levels", "is a symbolic link"},
		{dir + "/none", "no such file", "no such file"},
	} {
		for want, open := range map[*string]func(string) (*os.File, error){&c.want: Open, &c.noLink: OpenNoLink} {
			within(t, c.path, func() {
				f, err := open(c.path)
				switch {
				case *want != "" && (err == nil || !strings.Contains(err.Error(), *want)):
					t.Errorf("%s: %v, want %q", c.path, err, *want)
				case *want == "" && err != nil:
					t.Error(err)
				}
				if strings.HasPrefix(*want, "is ") && !errors.Is(err, fs.ErrInvalid) {
					t.Errorf("%s: %v is not fs.ErrInvalid", c.path, err)
				}
				if err == nil {
					f.Close()
				}
			})
		}
	}
	f, err := Open(dir + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := io.ReadAll(f); string(b) != "text" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

// opens says which files whoever watches dir saw being opened in it while do
// ran. O_PATH opens nothing.
func opens(t *testing.T, dir string, do func()) (names []string) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_OPEN|unix.IN_ONLYDIR); err != nil {
		t.Fatal(err)
	}
	do()
	buf := make([]byte, 64<<10)
	n, err := unix.Read(fd, buf)
	if errors.Is(err, unix.EAGAIN) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at+unix.SizeofInotifyEvent <= n; {
		size := int(binary.NativeEndian.Uint32(buf[at+12:])) // of the name
		name := buf[at+unix.SizeofInotifyEvent : at+unix.SizeofInotifyEvent+size]
		names = append(names, strings.TrimRight(string(name), "\x00"))
		at += unix.SizeofInotifyEvent + size
	}
	return names
}

// TestOpensNothingElse: what is no regular file is not opened at all, which a
// look at the type after open(2) would be too late for.
func TestOpensNothingElse(t *testing.T) {
	dir := tree(t)
	if got := opens(t, dir, func() {
		for _, p := range []string{"fifo", "dir", "loop"} {
			if f, err := Open(filepath.Join(dir, p)); err == nil {
				f.Close()
				t.Errorf("%s was opened", p)
			}
		}
		for _, p := range []string{"fifo", "file", "dirlink"} {
			if names, err := List(filepath.Join(dir, p), 10); err == nil {
				t.Errorf("%s was listed: %q", p, names)
			}
		}
	}); len(got) > 0 {
		t.Errorf("opened: %q", got)
	}
	// The control: a regular file's opening is seen.
	if got := opens(t, dir, func() {
		if f, err := Open(dir + "/file"); err == nil {
			f.Close()
		}
	}); !slices.Equal(got, []string{"file"}) {
		t.Errorf("opened: %q, want the file", got)
	}
}

func TestList(t *testing.T) {
	dir := tree(t)
	names, err := List(dir+"/dir", 10)
	slices.Sort(names)
	if err != nil || !slices.Equal(names, []string{"a", "b"}) {
		t.Errorf("%q, %v", names, err)
	}
	if names, err := List(dir+"/dir", 1); err != nil || len(names) != 1 {
		t.Errorf("%q, %v; want one name", names, err)
	}
	if err := os.Mkdir(dir+"/dir/none", 0o755); err != nil {
		t.Fatal(err)
	}
	if names, err := List(dir+"/dir/none", 10); err != nil || len(names) != 0 {
		t.Errorf("of an empty directory: %q, %v", names, err)
	}
	for _, p := range []string{"/fifo", "/file", "/dirlink", "/dirlink/none", "/no"} {
		within(t, p, func() {
			if names, err := List(dir+p, 10); err == nil {
				t.Errorf("%s: %q, want an error", p, names)
			}
		})
	}
}

// TestWithoutProc: where no /proc is mounted, root has one of its own; the
// descriptor leads to the same file.
func TestWithoutProc(t *testing.T) {
	testenv.Need(t, testenv.Root)
	path := filepath.Join(t.TempDir(), "x.ini")
	if err := os.WriteFile(path, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	at, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	fd, err := openInProc("self/fd/"+strconv.Itoa(int(at.Fd())), unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if b, err := io.ReadAll(f); err != nil || string(b) != "text" {
		t.Errorf("%q, %v", b, err)
	}
}
