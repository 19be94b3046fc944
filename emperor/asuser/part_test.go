package asuser

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
)

// A Part ends where its directory does, wherever links lead; nothing of the
// kernel's is there for anybody, and no answer tells what is elsewhere.
func TestPart(t *testing.T) {
	s, dir := start(t)
	write(t, dir+"/roots", "hello", 0o644, 0)
	if err := os.Mkdir(dir+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	own := write(t, dir+"/own", "mine", 0o600, nobody)
	closed := write(t, dir+"/sub/closed", "no", 0o600, 0)
	write(t, dir+"/sub/roots", "hello", 0o644, 0)
	shut := t.TempDir()
	if err := errors.Join(os.Mkdir(dir+"/sub/shut", 0o700), os.Chmod(shut, 0o700)); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{
		"here": "roots", "up": "../roots", "mine": own, "passwd": "/etc/passwd", "etc": "/etc", "proc": "/proc", "uptime": "/proc/uptime",
		"elsewhere": shut + "/x", "first": "/proc/1", "exe": "/proc/1/exe", "none": "/proc/2147483647", "sysfs": "/sys/kernel", "dev": "/dev",
	} {
		if err := os.Symlink(to, filepath.Join(dir, "sub", name)); err != nil {
			t.Fatal(err)
		}
	}
	p, sub := s.Below(dir+"/sub"), dir+"/sub"
	for _, c := range []struct {
		path       string
		part, user bool // who is told of it: one who may ask about sub, and the user
	}{
		{sub, true, true},
		{sub + "/roots", true, true},
		{sub + "/here", true, true},
		{sub + "/mine", true, true},
		{own, true, true},
		{closed, true, true}, // that it is there
		{sub + "/up", false, true},
		{dir + "/roots", false, true},
		{sub + "/passwd", false, true},
		{sub + "/etc/passwd", false, true},
		{"/etc/passwd", false, true},
		{sub + "/dev/null", false, true},
		{"/dev/null", false, true},
		{sub + "/uptime", false, false},
		{sub + "/proc/uptime", false, false},
		{sub + "/first", false, false},
		{sub + "/sysfs", false, false},
		{"/proc/uptime", false, false},
		{"/sys/kernel", false, false},
	} {
		_, err := p.Stat(c.path)
		if (err == nil) != c.part || !c.part && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", c.path, err)
		}
		if _, err := s.Stat(c.path); (err == nil) != c.user {
			t.Errorf("%s: the user: %v", c.path, err)
		}
	}
	for path, want := range map[string]error{
		sub + "/roots": nil, sub + "/mine": nil, closed: fs.ErrPermission, sub + "/shut/x": fs.ErrPermission, sub + "/elsewhere": fs.ErrNotExist, sub + "/elsewhere/x": fs.ErrNotExist, sub + "/up": fs.ErrNotExist, sub + "/passwd": fs.ErrNotExist, "/etc/shadow": fs.ErrNotExist,
		sub + "/uptime": fs.ErrNotExist, sub + "/exe": fs.ErrNotExist, sub + "/none": fs.ErrNotExist, sub + "/first/fd/0": fs.ErrNotExist,
	} {
		if b, _, err := p.ReadFile(path, 100<<10); !errors.Is(err, want) || want == nil && len(b) == 0 {
			t.Errorf("%s: %q, %v; want %v", path, b, err, want)
		}
	}
	if b, _, err := s.ReadFile(sub+"/uptime", MaxRead); err == nil {
		t.Errorf("the user reads %q", b)
	}
	for pattern, want := range map[string][]string{
		sub + "/*":           {sub + "/closed", sub + "/here", sub + "/mine", sub + "/roots", sub + "/shut"},
		"/pro[c]/[0-9]*":     nil,
		sub + "/proc/[0-9]*": nil,
		sub + "/[efn]*":      nil,
		"/et[c]/passwd":      nil,
		dir + "/[or]*":       {own},
	} {
		if got, err := p.Glob(pattern); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v; want %q", pattern, got, err, want)
		}
	}
	if got, err := s.Glob(sub + "/n*"); err != nil || len(got) != 1 {
		t.Errorf("of all links: %q, %v", got, err)
	}
	for _, pattern := range []string{"/proc/[0-9]*", sub + "/proc/*"} {
		if got, err := s.Glob(pattern); err != nil || len(got) > 0 {
			t.Errorf("%s: the user: %q, %v", pattern, got, err)
		}
	}
	if to, err := s.Readlink(sub + "/here"); err != nil || to != "roots" {
		t.Errorf("%q, %v", to, err)
	}
	for path, want := range map[string]error{"/proc/self": fs.ErrNotExist, sub + "/roots": unix.EINVAL} {
		if to, err := s.Readlink(path); !errors.Is(err, want) {
			t.Errorf("%s: %q, %v; want %v", path, to, err, want)
		}
	}
	if fi, err := s.Lstat(sub + "/proc"); err != nil || fi.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("%v, %v; want the link", fi, err)
	}
	if _, err := s.Lstat("/proc"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("/proc: %v", err)
	}
}

// What is the kernel's looks like nothing: it would look different each time.
func TestLooksOfKernel(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	if err := errors.Join(os.Symlink("/proc/uptime", dir+"/link"), os.WriteFile(dir+"/file", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	paths := []string{"/proc/uptime", dir + "/link", dir + "/file"}
	if got := Looks(Who{}, paths); got[0] != "" || got[1] != "" || got[2] == "" {
		t.Errorf("%q", got)
	}
	if got := Times(Who{}, paths); !got[0].IsZero() || !got[1].IsZero() || got[2].IsZero() {
		t.Errorf("%v", got)
	}
}
