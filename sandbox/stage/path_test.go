package stage

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/vassal"
	"liege/vassal/action"
)

// jail is a directory that a run takes for its root: root's alone, but for
// /app, which is a tenant's, and /tmp, which is everybody's.
func jail(t *testing.T) (*run, string) {
	t.Helper()
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	mk := func(name string, mode os.FileMode, uid int) {
		path := filepath.Join(dir, name)
		check(t, os.MkdirAll(path, 0o755))
		check(t, os.Chown(path, uid, uid))
		check(t, os.Chmod(path, mode))
	}
	mk(".", 0o755, 0)
	mk("etc", 0o755, 0)
	mk("run", 0o755, 0)
	mk("app", 0o755, 1000)
	mk("app/sub", 0o755, 0) // a tenant can have moved a root's directory there
	mk("tmp", 0o777|os.ModeSticky, 0)
	for name, text := range map[string]string{"etc/shadow": "secret", "etc/two": "", "app/own": "", "run/file": "old text"} {
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	for name, target := range map[string]string{
		"var": "run", "etc/run": "/run", "etc/loop": "loop", "etc/up": "../../../etc", // root's
		"app/link": "/etc/shadow", "app/dir": "/etc", "app/sub/link": "/etc/shadow", "tmp/link": "/etc/shadow", // a tenant's
		"etc/into": "/app/link",
	} {
		check(t, os.Symlink(target, filepath.Join(dir, name)))
	}
	check(t, os.Link(filepath.Join(dir, "etc/two"), filepath.Join(dir, "app/hard")))
	check(t, unix.Mkfifo(filepath.Join(dir, "app/fifo"), 0o600))
	check(t, unix.Mkfifo(filepath.Join(dir, "etc/fifo"), 0o600))
	check(t, os.Link(filepath.Join(dir, "etc/fifo"), filepath.Join(dir, "app/hardfifo")))
	r := &run{p: &Plan{HookTime: 1}, status: -1}
	var err error
	r.root, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	check(t, err)
	r.proc, err = openProc("/proc")
	check(t, err)
	t.Cleanup(func() { check(t, errors.Join(unix.Close(r.root), unix.Close(r.proc))) })
	return r, dir
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Each row is a path that a hook of root's names. What a tenant may have
// arranged is refused; what only root can have arranged works.
func TestRootFileActions(t *testing.T) {
	testenv.Leaks(t)
	for _, c := range []struct {
		hook string // action:argument
		err  string // empty: it works
		path string // what it changed, below the jail
	}{
		{hook: "write:/run/file new", path: "run/file"},
		{hook: "write:/var/file new", path: "run/file"},
		{hook: "write:/etc/run/file new", path: "run/file"},
		{hook: "write:/etc/up/../run/./file new", path: "run/file"},
		{hook: "write:/../../run/file new", path: "run/file"},
		{hook: "write:/app/fresh new", path: "app/fresh"},
		{hook: "write:/app/own new", path: "app/own"},
		{hook: "write:/app/link new", err: "symbolic link in a directory that not only root can write"},
		{hook: "write:/app/dir/shadow new", err: "symbolic link"},
		{hook: "write:/app/sub/link new", err: "symbolic link"},
		{hook: "write:/tmp/link new", err: "symbolic link"},
		{hook: "write:/etc/into new", err: "symbolic link"},
		{hook: "write:/app/hard new", err: "second name"},
		{hook: "write:/app/fifo new", err: "no such device"}, // O_NONBLOCK: nobody reads
		{hook: "write:/etc/loop new", err: "too many symbolic links"},
		{hook: "write:/run/file/x new", err: "not a directory"},
		{hook: "append:/run/file new", path: "run/file"},
		{hook: "append:/app/link new", err: "symbolic link in a directory that not only root can write"},
		{hook: "append:/app/hard new", err: "second name"},
		{hook: "append:/app/fifo new", err: "no such device"},
		{hook: "create:/app/fresh", path: "app/fresh"},
		{hook: "create:/app/link", err: "symbolic link"},
		{hook: "create:/tmp/link", err: "symbolic link"},
		{hook: "create:/app/hard", err: "second name"},
		{hook: "writefifo:/app/fifo new", path: "app/fifo"}, // nobody reads
		{hook: "writefifo:/app/link new", err: "symbolic link"},
		{hook: "writefifo:/app/own new", err: "is no FIFO"},
		{hook: "writefifo:/app/hardfifo new", err: "second name"},
		{hook: "writefifo:/run/none new", err: "no such file"},
		{hook: "sticky:/app", path: "app"},
		{hook: "sticky:/app/link", err: "symbolic link"},
		{hook: "sticky:/app/hard", err: "second name"},
		{hook: "rmdir:/app/dir", err: "not a directory"},
		{hook: "rmdir:/app/dir/", err: "not a directory"},
		{hook: "rmdir:/etc", err: "directory not empty"},
		{hook: "wait_for_fs:/app/dir/shadow", err: "symbolic link"},
		{hook: "wait_for_file:/app/link", err: "symbolic link"},
		{hook: "wait_for_dir:/app/dir", err: "symbolic link"},
		{hook: "wait_for_file:/etc/shadow"},
		{hook: "wait_for_dir:/etc"},
		{hook: "chmod:/run/file 0640", path: "run/file"},
		{hook: "chmod:/app/link 0666", err: "symbolic link"},
		{hook: "chmod:/app/hard 0666", err: "second name"},
		{hook: "chmod:/app/fifo 0666", err: "no regular file"},
		{hook: "chmod:/app 2775", path: "app"},
		{hook: "chown2:/run/file 1000 1000", path: "run/file"},
		{hook: "chown2:/app/link 1000 1000", err: "symbolic link"},
		{hook: "chown2:/app/hard 1000 1000", err: "second name"},
		{hook: "mkdir:/run/new dir", path: "run/new dir"},
		{hook: "mkdir:/run", path: "run"},
		{hook: "mkdir:/run/file", err: "file exists"},
		{hook: "mkdir:/app/link", err: "file exists"},
		{hook: "mkdir:/app/dir/x", err: "symbolic link"},
		{hook: "unlink:/app/link"},
		{hook: "unlink:/app/dir/shadow", err: "symbolic link"},
		{hook: "unlink:/run", err: "is a directory"},
		{hook: "mount:nofs none /app/dir", err: "symbolic link"},
		{hook: "mount:none /app/dir /run/file bind", err: "symbolic link"},
		{hook: "umount:/app/dir", err: "symbolic link"},
		{hook: "cd:/app/dir", err: "symbolic link"},
		{hook: "umount:/", err: "root cannot be unmounted"},
		{hook: "umount:/run", err: "invalid argument"},
	} {
		t.Run(c.hook, func(t *testing.T) {
			t.Chdir(t.TempDir()) // a walk that goes wrong must not take the other tests along
			r, dir := jail(t)
			name, arg, _ := strings.Cut(c.hook, ":")
			call, err := action.Parse(vassal.Hook{Phase: vassal.AsRoot, Action: name, Arg: arg})
			check(t, err)
			_, err = r.do(vassal.Hook{Phase: vassal.AsRoot}, call)
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("got %v, want %q", err, c.err)
			}
			if shadow := must(os.ReadFile(filepath.Join(dir, "etc/shadow"))); string(shadow) != "secret" {
				t.Errorf("etc/shadow was changed: %q", shadow)
			}
			for _, f := range []string{"etc/shadow", "etc/two"} {
				if st := must(os.Lstat(filepath.Join(dir, f))); st.Mode() != 0o600 {
					t.Errorf("%s has mode %v", f, st.Mode())
				}
			}
			if c.path != "" {
				verify(t, call, filepath.Join(dir, c.path))
			}
		})
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// verify checks that path is as call left it.
func verify(t *testing.T, call action.Call, path string) {
	t.Helper()
	var st unix.Stat_t
	check(t, unix.Lstat(path, &st))
	switch call.Kind {
	case action.Write:
		if b := must(os.ReadFile(path)); string(b) != call.Text {
			t.Errorf("%s holds %q, want %q", path, b, call.Text)
		}
	case action.Append:
		if b := must(os.ReadFile(path)); string(b) != "old text"+call.Text {
			t.Errorf("%s holds %q, want %q added", path, b, call.Text)
		}
	case action.Sticky:
		if st.Mode&unix.S_ISVTX == 0 {
			t.Errorf("%s has mode %#o", path, st.Mode)
		}
	case action.Chmod:
		if st.Mode&0o7777 != call.Mode {
			t.Errorf("%s has mode %#o, want %#o", path, st.Mode&0o7777, call.Mode)
		}
	case action.Chown2:
		if int(st.Uid) != call.UID || int(st.Gid) != call.GID {
			t.Errorf("%s belongs to %d:%d", path, st.Uid, st.Gid)
		}
	case action.Mkdir:
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			t.Errorf("%s is no directory", path)
		}
	}
}

// The negative control of the walk: the same paths as the kernel resolves
// them lead where the tenant wants.
func TestWalkMatters(t *testing.T) {
	_, dir := jail(t)
	check(t, os.Remove(filepath.Join(dir, "app/link")))
	check(t, os.Symlink("../etc/shadow", filepath.Join(dir, "app/link")))
	check(t, os.WriteFile(filepath.Join(dir, "app/link"), []byte("x"), 0))
	if b := must(os.ReadFile(filepath.Join(dir, "etc/shadow"))); string(b) != "x" {
		t.Error("an ordinary write did not follow the link: the test above proves nothing")
	}
}

func TestUserFileActions(t *testing.T) {
	testenv.Leaks(t)
	dir := t.TempDir()
	t.Chdir(dir)
	for _, c := range []struct{ hook, err string }{
		{"mkdir:a b", ""}, {"mkdir:a b", ""}, {"writen:f text of words", ""}, {"mkdir:f", "file exists"},
		{"append:f more", ""}, {"create:e", ""}, {"sticky:a b", ""}, {"call:umask x", "callint"}, {"writefifo:e x", ""}, {"rmdir:e", "not a directory"},
		{"wait_for_mountpoint:/proc", ""}, {"wait_for_mountpoint:a b", "longer than 1 s"}, {"wait_for_dir:a b", ""}, {"wait_for_file:a b", "longer than 1 s"},
		{"chmod:f 1600", ""}, {"unlink:f", ""}, {"unlink:f", "no such file"}, {"cd:a b", ""}, {"write:g x", ""},
	} {
		name, arg, _ := strings.Cut(c.hook, ":")
		call, err := action.Parse(vassal.Hook{Phase: vassal.AsUser, Action: name, Arg: arg})
		if err == nil {
			r := &run{p: &Plan{}, status: -1, limit: time.Second, late: time.Now().Add(time.Second)}
			_, err = r.do(vassal.Hook{Phase: vassal.AsUser}, call)
		}
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", c.hook, err, c.err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "a b", "g")); errors.Is(err, fs.ErrNotExist) {
		t.Error("cd did not change the directory")
	}
}

// A tenant that exchanges what a path means while root's action runs gains
// nothing: the same actions, hundreds of times each.
func TestRootFileActionsDuringSwaps(t *testing.T) {
	testenv.Leaks(t)
	t.Chdir(t.TempDir())
	r, dir := jail(t)
	app := filepath.Join(dir, "app")
	mine := func(name string) string { return filepath.Join(app, name) }
	check(t, os.WriteFile(mine("x"), nil, 0o600))
	check(t, os.Symlink("../etc/shadow", mine("y")))
	check(t, os.MkdirAll(mine("d/deep"), 0o755))
	check(t, os.WriteFile(mine("d/shadow"), nil, 0o600))
	check(t, os.Symlink("../etc", mine("e")))
	stop, swapping := make(chan struct{}), make(chan int)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				swapping <- n
				return
			default:
			}
			for _, pair := range [][2]string{{"x", "y"}, {"d", "e"}} {
				_ = unix.Renameat2(unix.AT_FDCWD, mine(pair[0]), unix.AT_FDCWD, mine(pair[1]), unix.RENAME_EXCHANGE)
			}
		}
	}()
	done, end := map[string][2]int{}, time.Now().Add(time.Minute)
	for _, hook := range []string{
		"write:/app/x pwned", "append:/app/x pwned", "create:/app/x", "chmod:/app/x 0666", "chown2:/app/x 1000 1000", "sticky:/app/x",
		"write:/app/d/shadow pwned", "append:/app/d/shadow pwned", "chmod:/app/d/shadow 0666", "chown2:/app/d/shadow 1000 1000", "chown2:/app/d 1000 1000",
		"unlink:/app/d/two", "mkdir:/app/d/new", "rmdir:/app/d/empty", "writefifo:/app/d/fifo x", "mount:nofs none /app/d", "umount:/app/d", "cd:/app/d",
	} {
		name, arg, _ := strings.Cut(hook, ":")
		call, err := action.Parse(vassal.Hook{Phase: vassal.AsRoot, Action: name, Arg: arg})
		check(t, err)
		var n [2]int
		meets := strings.HasSuffix(hook, ":/app/x pwned") // of these both outcomes must be seen
		for i := 0; i < 400 || meets && (n[0] == 0 || n[1] == 0) && time.Now().Before(end); i++ {
			_, err := r.do(vassal.Hook{Phase: vassal.AsRoot}, call)
			if errors.Is(err, errLink) {
				n[0]++
			}
			if err == nil {
				n[1]++
			}
		}
		done[hook] = n
	}
	close(stop)
	if n := <-swapping; n < 100 {
		t.Errorf("only %d exchanges", n)
	}
	if n := done["write:/app/x pwned"]; n[0] == 0 || n[1] == 0 {
		t.Errorf("the exchanges were not met: %v", done)
	}
	if b := must(os.ReadFile(filepath.Join(dir, "etc/shadow"))); string(b) != "secret" {
		t.Errorf("etc/shadow holds %q", b)
	}
	for _, f := range []string{"etc/shadow", "etc/two", "etc/fifo"} {
		var st unix.Stat_t
		check(t, unix.Lstat(filepath.Join(dir, f), &st))
		if st.Mode&0o7777 != 0o600 || st.Uid != 0 {
			t.Errorf("%s has mode %#o and owner %d", f, st.Mode, st.Uid)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "etc/new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("etc/new: %v", err)
	}
}
