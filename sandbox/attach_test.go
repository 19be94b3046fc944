package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
)

// TestBindsAreOurs: what libcontainer mounts, at a hundred system calls each, does
// not grow with what a vassal sees of the host; but in a user namespace.
func TestBindsAreOurs(t *testing.T) {
	for _, users := range []*IDMaps{nil, {}} {
		count := func(binds int) int {
			m := &Manager{trees: &trees{unified: cgroupRoot}, cfg: ManagerConfig{Stage: "/stage", Core: "/core"}}
			st := &starting{m: m, v: &Vassal{m: m, name: "shop"}, spec: Spec{Users: users}, box: &Sandbox{}}
			for i := range binds {
				st.spec.Root = append(st.spec.Root, Mount{Source: "/usr", Target: fmt.Sprintf("/u%d", i)})
			}
			if got, want := len(st.binds()), binds+len(private)+2; got != want {
				t.Errorf("%d binds, want %d", got, want)
			}
			return len(st.mounts())
		}
		few, many := count(1), count(41)
		if users == nil && (few != many || few > 7) || users != nil && many != few+40 {
			t.Errorf("with a user namespace: %t; libcontainer mounts %d and, of 40 binds more, %d", users != nil, few, many)
		}
	}
}

// TestMountPoint: a mount point is made where there is none, and no link leads
// out of the tree.
func TestMountPoint(t *testing.T) {
	testenv.Need(t, testenv.OpenTree)
	dir := t.TempDir()
	outside := t.TempDir()
	for _, name := range []string{"run", "var"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"var/run": "/run", "out": outside, "up": "../../../.."} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	for _, tt := range []struct {
		target string
		isDir  bool
		at     string // below dir; empty: an error
	}{
		{"/usr/lib/x", true, "usr/lib/x"},
		{"/usr/lib/x", true, "usr/lib/x"}, // it is there now
		{"/etc/hosts", false, "etc/hosts"},
		{"/etc/a/b/c", false, "etc/a/b/c"},
		{"/var/run/app/sock", false, "run/app/sock"},
		{"/up/x", true, "x"},
		{"/out/x", true, ""}, // in the tree there is no such directory
		{"/etc/hosts/x", true, ""},
	} {
		fd, err := mountPoint(root, tt.target, tt.isDir)
		if tt.at == "" {
			if err == nil {
				unix.Close(fd)
				t.Errorf("%s: made", tt.target)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.target, err)
			continue
		}
		to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		unix.Close(fd)
		if fi, serr := os.Lstat(filepath.Join(dir, tt.at)); err != nil || serr != nil || strings.TrimPrefix(to, dir+"/") != tt.at || fi.IsDir() != tt.isDir {
			t.Errorf("%s: is %s: %v, %v", tt.target, to, err, serr)
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside of the tree: %v, %v", left, err)
	}
}
