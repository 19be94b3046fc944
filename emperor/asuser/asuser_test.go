package asuser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"liege/internal/testenv"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/vassal/regular"
)

func TestMain(m *testing.M) {
	Main()
	switch {
	case len(os.Args) == 2 && os.Args[1] == argStops:
		stopOthers()
	case len(os.Args) == 2 && os.Args[1] == argStarts:
		os.Exit(startMany())
	}
	os.Exit(m.Run())
}

const nobody = 65534

// start starts a session as nobody, who owns the directory returned.
func start(t *testing.T) (*Session, string) {
	t.Helper()
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if st, err := os.Stat(d); err == nil && st.Mode().Perm()&1 == 0 {
			if err := os.Chmod(d, st.Mode().Perm()|0o711); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	before := openFDs(t)
	s, err := Start(t.Context(), Who{UID: nobody, GID: nobody, Groups: []int{nobody}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if after := openFDs(t); after != before {
			t.Errorf("descriptors: %d before, %d after", before, after)
		}
	})
	return s, dir
}

func openFDs(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

func write(t *testing.T, path, text string, mode fs.FileMode, uid int) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, uid, uid); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPosture(t *testing.T) {
	s, _ := start(t)
	if _, err := s.Stat("/"); err != nil { // it runs
		t.Fatal(err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Uid:\t65534\t65534\t65534\t65534\n", "Gid:\t65534\t65534\t65534\t65534\n", "Groups:\t65534 \n",
		"CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n",
		"CapBnd:\t0000000000000000\n", "CapAmb:\t0000000000000000\n", "NoNewPrivs:\t1\n",
	} {
		if !bytes.Contains(b, []byte(want)) {
			t.Errorf("no %q in\n%s", want, b)
		}
	}
	// The thread that was confined for the child is gone or is not ours.
	b, err = os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte("NoNewPrivs:\t0\n")) {
		t.Error("this process has no_new_privs now")
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.cmd.Process.Pid))
	if err != nil || string(env) != "LIEGE_BECOME=65534 65534 65534\x00" {
		t.Errorf("environ: %q, %v", env, err)
	}
}

func TestFiles(t *testing.T) {
	s, dir := start(t)
	mine := write(t, dir+"/mine", "hello", 0o600, nobody)
	secret := write(t, dir+"/secret", "s", 0o600, 0)
	big := write(t, dir+"/big", strings.Repeat("x", MaxRead+1), 0o600, nobody)
	full := write(t, dir+"/full", strings.Repeat("x", MaxRead), 0o600, nobody)
	fifo := dir + "/fifo"
	if err := unix.Mkfifo(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("mine", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path string
		size int
		err  error
	}{
		{mine, 5, nil},
		{dir + "/link", 5, nil},
		{full, MaxRead, nil},
		{secret, 0, fs.ErrPermission},
		{"/etc/shadow", 0, fs.ErrPermission},
		{dir + "/none", 0, fs.ErrNotExist},
		{big, 0, unix.EFBIG},
		{fifo, 0, unix.EINVAL},
		{"/dev/zero", 0, unix.EINVAL},
		{dir, 0, unix.EINVAL},
		{"relative", 0, unix.EINVAL},
		{"/proc/self/root/etc/hostname", 0, unix.ELOOP}, // a magic link
		{"/" + strings.Repeat("x", 40<<10), 0, unix.ENAMETOOLONG},
	} {
		b, _, err := s.ReadFile(tt.path, MaxRead)
		if len(b) != tt.size || !errors.Is(err, tt.err) {
			t.Errorf("ReadFile(%.60s): %d bytes, %v; want %d, %v", tt.path, len(b), err, tt.size, tt.err)
		}
	}
	if st, err := s.Stat(dir + "/link"); err != nil || st.Size() != 5 || st.Name() != "link" || !st.Mode().IsRegular() {
		t.Errorf("Stat: %v, %v", st, err)
	}
	if got, err := s.Glob(dir + "/f*"); err != nil || len(got) != 2 {
		t.Errorf("Glob: %q, %v", got, err)
	}
	if got, err := s.Glob(dir + "/[x"); err == nil {
		t.Errorf("Glob of a bad pattern: %q", got)
	}
}

func TestOpen(t *testing.T) {
	s, dir := start(t)
	if err := os.Mkdir(dir+"/app", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir+"/app", nobody, nobody); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("app", dir+"/current"); err != nil {
		t.Fatal(err)
	}
	f, real, err := s.Open(dir + "/current")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if real != dir+"/app" {
		t.Errorf("led to %s", real)
	}
	for path, want := range map[string]error{
		"/root":   nil, // its parent may be searched; O_PATH needs no more
		"/root/x": fs.ErrPermission, dir + "/none": fs.ErrNotExist, "/dev/null": nil,
	} {
		f, _, err := s.Open(path)
		if path == "/dev/null" {
			if err == nil {
				t.Error("a device was opened")
			}
			continue
		}
		closeIf(f)
		if !errors.Is(err, want) {
			t.Errorf("Open(%s): %v, want %v", path, err, want)
		}
	}
}

func TestListen(t *testing.T) {
	s, dir := start(t)
	path := dir + "/app.sock"
	f, err := s.Listen(Socket{Path: path, Mode: 0o660, Backlog: 8, GID: -1})
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil || st.Mode&0o7777 != 0o660 || st.Uid != nobody {
		t.Errorf("node: mode %o uid %d, %v", st.Mode, st.Uid, err)
	}
	if _, err := s.Listen(Socket{Path: path, Mode: 0o660, GID: -1}); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("second bind: %v", err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := s.Unlink(path, st.Dev, st.Ino+1); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error("the socket of another inode was removed")
	}
	f.Close() // now it is stale
	f, err = s.Listen(Socket{Path: path, Mode: 0o600, GID: -1})
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	defer f.Close()
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	if err := s.Unlink(path, st.Dev, st.Ino); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("still there")
	}
	write(t, path, "a file", 0o600, nobody)
	if _, err := s.Listen(Socket{Path: path, GID: -1}); !errors.Is(err, unix.EEXIST) {
		t.Errorf("over a file: %v", err)
	}
	if _, err := s.Listen(Socket{Path: "/etc/x.sock", GID: -1}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("in /etc: %v", err)
	}
	if _, err := s.Listen(Socket{Path: dir + "/g.sock", GID: 0}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("chown to a group the user is not in: %v", err)
	}
}

func TestOpenLog(t *testing.T) {
	s, dir := start(t)
	f, err := s.OpenLog(dir+"/app.log", 0o640)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("line\n"); err != nil {
		t.Error(err)
	}
	if err := os.Symlink("app.log", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		dir + "/link": unix.ELOOP, "/var/log/x.log": fs.ErrPermission, dir: unix.EISDIR,
	} {
		if f, err := s.OpenLog(path, 0o640); !errors.Is(err, want) {
			closeIf(f)
			t.Errorf("OpenLog(%s): %v, want %v", path, err, want)
		}
	}
}

// A file of the kernel's that the user may open judges who writes to it, which is
// the Emperor.
func TestOpenLogOfKernel(t *testing.T) {
	s, dir := start(t)
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if f[2] != "cgroup" && f[2] != "cgroup2" {
			continue
		}
		group := filepath.Join(f[1], filepath.Base(filepath.Dir(dir))+"-log")
		if os.Mkdir(group, 0o755) != nil {
			continue // read-only
		}
		t.Cleanup(func() { os.Remove(group) })
		file := filepath.Join(group, "cgroup.procs")
		if err := os.Chown(file, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		if f, err := s.OpenLog(file, 0o640); !errors.Is(err, regular.ErrKernel) {
			closeIf(f)
			t.Errorf("%s: %v", file, err)
		}
		tried++
	}
	if tried == 0 {
		t.Error("no cgroup could be made")
	}
}

func TestPidFile(t *testing.T) {
	s, dir := start(t)
	path := dir + "/app.pid"
	for _, text := range []string{"12\n", "345\n"} {
		if err := s.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if b, err := os.ReadFile(path); err != nil || string(b) != text || unix.Lstat(path, &st) != nil || st.Uid != nobody || st.Mode&0o777 != 0o644 {
			t.Errorf("file: %q, %v, uid %d, mode %o", b, err, st.Uid, st.Mode)
		}
	}
	if err := s.RemoveFile(path, "12\n"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error("the file of another was removed")
	}
	if err := s.RemoveFile(path, "345\n"); err != nil {
		t.Error(err)
	}
	if es, err := os.ReadDir(dir); err != nil || len(es) != 0 {
		t.Errorf("left: %v, %v", es, err)
	}
	if err := s.WriteFile("/etc/x.pid", "1", 0o644); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("in /etc: %v", err)
	}
	if err := s.WriteFile(path, strings.Repeat("x", maxText+1), 0o644); !errors.Is(err, unix.EFBIG) {
		t.Errorf("too large: %v", err)
	}
}

// A child that is dead, stopped or lies ends the session, not the caller.
func TestGone(t *testing.T) {
	t.Run("killed", func(t *testing.T) {
		s, _ := start(t)
		if err := s.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := s.Stat("/"); !errors.Is(err, ErrGone) {
				t.Error(err)
			}
		}
	})
	t.Run("context", func(t *testing.T) {
		testenv.Need(t, testenv.Root)
		ctx, cancel := context.WithCancel(t.Context())
		s, err := Start(ctx, Who{UID: nobody, GID: nobody})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		cancel()
		select {
		case <-s.done:
		case <-time.After(10 * time.Second):
			t.Error("the child outlives its context")
		}
	})
}

// What a start pays for a vassal with a path of its user's.
func BenchmarkSession(b *testing.B) {
	testenv.Need(b, testenv.Root)
	for b.Loop() {
		s, err := Start(b.Context(), Who{UID: nobody, GID: nobody})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Stat("/"); err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzReply(f *testing.F) {
	for _, s := range []string{`{}`, `{"errno":2}`, `{"data":5}`, `{"fd":true,"real":"/x"}`,
		`{"info":{"name":"x","size":1,"mode":420,"mtime":"2026-01-01T00:00:00Z","uid":1}}`,
		`{"data":-1}`, `{"errno":99999}`, `{}{}`, `{"x":1}`, `[`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseReply(b, 100, false)
		if err != nil {
			return
		}
		if r.Data < 0 || r.Data > 100 || r.FD {
			t.Errorf("accepted %q", b)
		}
		if e := r.err("op", "/p"); e != nil && strings.ContainsAny(e.Error(), "\n\x1b") {
			t.Errorf("error %q", e)
		}
	})
}

// A user's own FUSE, whose server never answers, costs one call's time: the
// child waits, and nobody with it.
func TestMute(t *testing.T) {
	s, dir := start(t)
	if err := errors.Join(os.Mkdir(dir+"/fuse", 0o755), os.Chown(dir+"/fuse", nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	mute := testenv.NewMute(t, dir+"/fuse", nobody, false)
	mute.Asked() // and so goes on
	if _, _, err := s.ReadFile(dir+"/fuse/x.ini", MaxRead); !errors.Is(err, ErrGone) {
		t.Errorf("got %v, want %v", err, ErrGone)
	}
	if !mute.Asked() {
		t.Error("nobody asked: the test shows nothing")
	}
}
