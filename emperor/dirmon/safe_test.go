package dirmon

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"liege/internal/testenv"
	"liege/vassal/inifile"
)

// TestReadSafe: what root reads for an operator's file, and by whose links it
// is not led.
func TestReadSafe(t *testing.T) {
	testenv.Need(t, testenv.Root)
	testenv.Leaks(t)
	dir, err := os.MkdirTemp("/srv", "liege-safe-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	const user = 61235
	do := func(errs ...error) {
		t.Helper()
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	file := func(name string, uid int, mode os.FileMode) {
		t.Helper()
		do(os.WriteFile(dir+"/"+name, []byte(name), 0o600), os.Chmod(dir+"/"+name, mode), os.Lchown(dir+"/"+name, uid, uid))
	}
	link := func(to, name string, uid int) {
		t.Helper()
		do(os.Symlink(to, dir+"/"+name), os.Lchown(dir+"/"+name, uid, uid))
	}
	do(os.Chmod(dir, 0o755), os.Mkdir(dir+"/home", 0o755), os.Chown(dir+"/home", user, user), os.Mkdir(dir+"/open", 0o755), os.Chmod(dir+"/open", 0o777))
	file("roots", 0, 0o600)
	file("loose", 0, 0o666)
	file("home/own", user, 0o600)
	file("home/roots", 0, 0o600)
	file("open/x", 0, 0o600)
	link("roots", "link", 0)
	link("home/own", "to-own", 0)
	link("../roots", "home/to-roots", user)
	link("own", "home/to-own", user)
	link("/proc/self/environ", "to-proc", 0)
	for _, c := range []struct{ name, want string }{
		{"roots", ""}, {"link", ""}, {"home/own", ""}, {"to-own", ""}, {"home/to-own", ""},
		{"home/to-roots", "owns a directory or link"}, {"home/roots", "owns a directory or link"}, {"loose", "others than its owner can write"},
		{"open/x", "can be written by them"}, {"to-proc", "procfs"}, {"home", "directory"}, {"none", "does not exist"},
	} {
		b, mode, err := ReadSafe(dir+"/"+c.name, 100)
		if c.want == "" && (err != nil || len(b) == 0 || mode != 0o600) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %q %v %v, want %q", c.name, b, mode, err, c.want)
		}
	}
	// The same for what operators' ini files name.
	h := Host{OSHost: inifile.NewOSHost(nil)}
	if f, err := h.ReadFile(dir + "/home/own"); err != nil || string(f.Data) != "home/own" || f.Operator {
		t.Error(f, err)
	}
	if f, err := h.ReadFile(dir + "/link"); err != nil || string(f.Data) != "roots" || !f.Operator {
		t.Error(f, err)
	}
	if f, err := h.ReadFile(dir + "/home/to-roots"); err == nil || len(f.Data) > 0 {
		t.Error("a user's link leads root to", string(f.Data))
	}
	if _, err := h.ReadFile(dir + "/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, _, err := ReadSafe(dir+"/roots", 4); err == nil {
		t.Error("longer than the limit")
	}
	names, err := ListSafe(dir+"/home", 10)
	if err != nil || strings.Join(names, " ") != "own roots to-own to-roots" {
		t.Error(names, err)
	}
	if _, err := ListSafe(dir+"/home", 3); err == nil {
		t.Error("more than the limit")
	}
}
