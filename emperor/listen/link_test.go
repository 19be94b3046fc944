package listen

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"liege/internal/testenv"
)

// rootsDir is a new directory that is root's alone.
func rootsDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "liege-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// nobodysDir is a new directory below dir that belongs to nobody.
func nobodysDir(t *testing.T, dir, name string) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := errors.Join(os.Mkdir(p, 0o755), os.Chown(p, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	return p
}

func symlink(t *testing.T, to, at string) {
	t.Helper()
	if err := errors.Join(os.Symlink(to, at), os.Lchown(at, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		out = append(out, e.Name())
	}
	return out
}

// A link in a tenant's directory must not lead root into a directory that the
// tenant cannot write (CVE-2016-1247).
func TestTenantsLink(t *testing.T) {
	testenv.Need(t, testenv.Root)
	private := rootsDir(t)
	top := rootsDir(t)
	home := nobodysDir(t, top, "home")
	symlink(t, private, home+"/d")
	if err := os.Symlink(private, top+"/roots"); err != nil {
		t.Fatal(err)
	}

	if f, err := RootOnly(home + "/d"); !errors.Is(err, ErrShared) {
		t.Errorf("RootOnly through a tenant's link: %v, %v; want ErrShared", f, err)
	}
	if f, err := OpenRootOnly(home+"/d/job", 0o640, nobody); !errors.Is(err, ErrShared) {
		t.Errorf("OpenRootOnly through a tenant's link: %v, %v; want ErrShared", f, err)
	}
	set := NewRegistry().Set("shop")
	if _, ps := set.Apply(t.Context(), wanting(t, "shop.ini", home+"/d/x.sock")); !ps.Failed() {
		t.Error("a socket was bound through a tenant's link")
	}
	if got := names(t, private); len(got) > 0 {
		t.Errorf("made in root's directory: %v", got)
	}

	// The control: root's own link leads there.
	f, err := OpenRootOnly(top+"/roots/job", 0o640, nobody)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	apply(t, set, wanting(t, "shop.ini", top+"/roots/x.sock")).Commit()
	if got := names(t, private); len(got) != 2 {
		t.Errorf("through root's link: %v, want job and x.sock", got)
	}
	set.Close()
}

func TestRunDirs(t *testing.T) {
	testenv.Need(t, testenv.Root)
	private, top := rootsDir(t), rootsDir(t)
	home := nobodysDir(t, top, "home")
	symlink(t, private, home+"/d")
	for _, dir := range []string{home + "/a/b", home + "/d/a"} {
		if made, err := makeRunDirs(dir); err != nil || len(made) > 0 {
			t.Errorf("%s: %v, %v; want nothing made beneath a tenant's directory", dir, made, err)
		}
	}
	if got := append(names(t, private), names(t, home)...); len(got) != 1 {
		t.Errorf("made: %v", got)
	}
	made, err := makeRunDirs(top + "/a/b")
	if err != nil || len(made) != 2 {
		t.Errorf("beneath root's directory: %v, %v", made, err)
	}
	if fi, err := os.Stat(top + "/a/b"); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", fi, err)
	}
}

// At the end the node is removed where it was made, not where the path leads
// by then.
func TestRemoveThroughLink(t *testing.T) {
	testenv.Need(t, testenv.Root)
	top := rootsDir(t)
	home, other := nobodysDir(t, top, "home"), nobodysDir(t, top, "other")
	sub := nobodysDir(t, home, "sub")
	set := NewRegistry().Set("shop")
	apply(t, set, wanting(t, "shop.ini", sub+"/x.sock")).Commit()
	err := errors.Join(os.Link(sub+"/x.sock", other+"/x.sock"), os.Rename(sub, home+"/old"))
	if err != nil {
		t.Fatal(err)
	}
	symlink(t, other, sub)
	set.Close()
	if got := names(t, other); len(got) != 1 {
		t.Error("a node in another directory was removed through a link")
	}

	// The control: the path leads where it led.
	again := nobodysDir(t, home, "again")
	set = NewRegistry().Set("shop")
	apply(t, set, wanting(t, "shop.ini", again+"/x.sock")).Commit()
	set.Close()
	if got := names(t, again); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
}
