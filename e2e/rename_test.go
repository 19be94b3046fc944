package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
)

// swapper exchanges two names again and again, as a tenant.
const swapper = `
import ctypes, random, sys, time
libc = ctypes.CDLL(None, use_errno=True)
a, b = (p.encode() for p in sys.argv[1:])
print("swapping", flush=True)
while True:
    if libc.syscall(316, -100, a, -100, b, 2):
        sys.exit("renameat2: %d" % ctypes.get_errno())
    time.sleep(random.random() * 0.02)
`

// swap exchanges a and b, again and again, until stop is called. The tenant
// does it.
func swap(t *testing.T, a, b string) (stop func()) {
	t.Helper()
	cmd := exec.Command(testenv.SystemPython, "-c", swapper, a, b)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		if err := cmd.Process.Kill(); err != nil {
			t.Errorf("the swapping ended early: %v", err)
		}
		cmd.Wait()
	}
	t.Cleanup(stop)
	return stop
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

const forbidden = "what-the-tenant-may-not-see"

// TestRenameLoop: a tenant swaps what a file names for a link into another's
// tree, while the vassal is started again and again. What is mounted is what
// the tenant could reach, or the start fails (KERNEL 14, 18).
func TestRenameLoop(t *testing.T) {
	r := newRealm(t)
	// Another tenant's tree: readable, were it not for the directory above.
	r.write("other/private/data/index.html", forbidden)
	other := r.give("other/private", 65533, 65533)
	if err := os.Chmod(other, 0o700); err != nil {
		t.Fatal(err)
	}
	started, refused := 0, 0
	for _, tc := range []struct {
		name, lines string
		at, to      string // what is swapped, for a link to what
		see         string // what the vassal sees of it
	}{
		{"chdir", "chdir = DIR/H/app\ncheck-static = DIR/H/app\n", "app", "other/private/data", "app"},
		{"parent", "chdir = DIR/H/app\ncheck-static = DIR/H/app\nbind = DIR/H/parent/data:ro\n", "parent", "other/private", "parent/data"},
		{"vassals", "chdir = DIR/H/app\ncheck-static = DIR/H/app\n", "app", "vassals", "app"},
		{"rundir", "chdir = DIR/H/app\ncheck-static = DIR/H/app\n", "app", "run", "app"},
		{"socket", "chdir = DIR/H/app\ncheck-static = DIR/H/app\n", "sock", "other/private", "app"},
	} {
		for _, operator := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s operator %v", tc.name, operator), func(t *testing.T) {
				c := renameCase{realm: r.in(t), t: t, name: tc.name, see: tc.see, home: fmt.Sprintf("home-%s-%v", tc.name, operator)}
				if !operator {
					c.name += "-tenant"
				}
				c.lay()
				lines := strings.ReplaceAll("http = LISTEN\nstatic-index = index.html\n"+tc.lines, "H/", c.home+"/")
				// A tenant's file may listen below its app's directory only.
				c.sock = filepath.Join(r.dir, c.home, "sock/x.sock")
				if !operator {
					c.sock = filepath.Join(r.dir, c.home, "app/sock/x.sock")
				}
				lines = strings.ReplaceAll(lines, "LISTEN", c.sock)
				if operator {
					r.drop(c.name, lines+"uid = nobody\n")
				} else {
					r.dropAs(nobody, nobody, c.name, lines)
				}
				at := tc.at
				if !operator && at == "sock" {
					at = "app/sock"
				}
				n := c.run(at, filepath.Join(r.dir, tc.to))
				started, refused = started+n, refused+renameStarts-n
			})
		}
	}
	if started == 0 || refused == 0 {
		t.Errorf("%d starts, %d refused: the swapping was too fast or too slow to show anything", started, refused)
	}
	if left := entries(t, other); !slices.Equal(left, []string{"data"}) {
		t.Errorf("something was made in the other's directory: %v", left)
	}
}

type renameCase struct {
	*realm
	t    *testing.T
	name string // of the vassal
	home string // the tenant's directory
	sock string // its listener
	see  string
	good uint64 // the inode that may be mounted
}

// lay makes the tenant's home.
func (c *renameCase) lay() {
	c.write(c.home+"/app/index.html", "mine")
	c.write(c.home+"/parent/data/index.html", "mine")
	c.write(c.home+"/sock/.keep", "")
	c.write(c.home+"/app/sock/.keep", "")
	for _, d := range []string{"", "/app", "/app/sock", "/parent", "/parent/data", "/sock"} {
		c.give(c.home+d, nobody, nobody)
	}
	c.good = inode(c.t, filepath.Join(c.dir, c.home, c.see))
}

const renameStarts = 25

// run starts the vassal many times while at and a link to the place are
// exchanged, and returns how many starts succeeded.
func (c *renameCase) run(at, place string) int {
	c.up(c.name)
	evil := filepath.Join(c.dir, c.home, "evil")
	if err := os.Symlink(place, evil); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Lchown(evil, nobody, nobody); err != nil {
		c.t.Fatal(err)
	}
	stop := swap(c.t, filepath.Join(c.dir, c.home, at), evil)
	started := 0
	for range renameStarts {
		if _, code := c.try("restart", c.name, "--timeout", "20s"); code == 0 {
			started++
		}
		c.check()
	}
	stop()
	// Nothing is broken for good.
	if fi, err := os.Lstat(filepath.Join(c.dir, c.home, at)); err != nil || fi.Mode()&os.ModeSymlink != 0 {
		if err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(c.dir, c.home, at), unix.AT_FDCWD, evil, unix.RENAME_EXCHANGE); err != nil {
			c.t.Fatal(err)
		}
	}
	c.liege("restart", c.name, "--timeout", patience)
	c.check()
	if _, got := c.get(c.sock, "/"); got != "mine" {
		c.t.Errorf("afterwards: %q", got)
	}
	return started
}

// check looks at what the vassal has mounted.
func (c *renameCase) check() {
	c.t.Helper()
	v := c.status(c.name)
	if v.PID == nil {
		return
	}
	root := fmt.Sprintf("/proc/%d/root", *v.PID)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", *v.PID))
	if err != nil {
		return // it ended
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if !strings.HasPrefix(f[4], c.dir) && !strings.HasPrefix(f[3], c.dir) {
			continue
		}
		for _, bad := range []string{"/other", "/vassals", "/run"} {
			if strings.HasSuffix(f[3], bad) || strings.Contains(f[3], c.dir+bad+"/") && !strings.HasSuffix(f[3], "/log") {
				c.t.Errorf("mounted: %s", line)
			}
		}
		if strings.HasSuffix(f[4], c.home+"/"+c.see) {
			if got := inode(c.t, root+f[4]); got != c.good {
				c.t.Errorf("another directory than the tenant's is at %s", f[4])
			}
		}
	}
	b, err := os.ReadFile(filepath.Join(root, c.dir, c.home, c.see, "index.html"))
	if err == nil && string(b) != "mine" {
		c.t.Errorf("the vassal sees %q", b)
	}
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range es {
		out = append(out, e.Name())
	}
	return out
}
