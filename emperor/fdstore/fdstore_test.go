package fdstore

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// systemd is the other end of a notify socket.
func systemd(t *testing.T) (next func() (string, int)) {
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return func() (string, int) {
		t.Helper()
		if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		b, oob := make([]byte, 4096), make([]byte, 1024)
		n, o, _, _, err := c.ReadMsgUnix(b, oob)
		if err != nil {
			t.Fatal(err)
		}
		fds := 0
		ms, err := unix.ParseSocketControlMessage(oob[:o])
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms {
			got, err := unix.ParseUnixRights(&m)
			if err != nil {
				t.Fatal(err)
			}
			for fds += len(got); len(got) > 0; got = got[1:] {
				unix.Close(got[0])
			}
		}
		return string(b[:n]), fds
	}
}

func TestStore(t *testing.T) {
	next := systemd(t)
	t.Setenv("FDSTORE", "2")
	s := Open(&Gift{files: map[string]*os.File{"old": nil}})
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := func(text string, fds int) {
		t.Helper()
		if got, n := next(); got != text || n != fds {
			t.Errorf("systemd is told %q with %d descriptors, want %q with %d", got, n, text, fds)
		}
	}
	for _, name := range []string{"new", "new", "old"} { // what is kept is not sent again
		if err := s.Put(name, f); err != nil {
			t.Fatal(name, err)
		}
	}
	want("FDSTORE=1\nFDNAME=new", 1)
	if err := s.Put("more", f); !errors.Is(err, ErrFull) {
		t.Errorf("a third of two: %v", err)
	}
	for _, name := range []string{"nothing", "old"} {
		if err := s.Remove(name); err != nil {
			t.Fatal(name, err)
		}
	}
	want("FDSTOREREMOVE=1\nFDNAME=old", 0)
	if err := s.Put("more", f); err != nil || !s.Has("more") || s.Has("old") {
		t.Errorf("where there is room again: %v", err)
	}
	want("FDSTORE=1\nFDNAME=more", 1)
}

// TestNoStore: without systemd nothing is kept, and nothing fails.
func TestNoStore(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	s := Open(nil)
	if err := errors.Join(s.Put("x", os.Stdin), s.Remove("x")); s != nil || err != nil || s.Has("x") {
		t.Errorf("%v, %v", s, err)
	}
}

// TestGiven: what systemd gives is taken once and by name, and goes on to no
// child; what is meant for another process is not touched.
func TestGiven(t *testing.T) {
	if os.Getenv("TEST_GIVEN") != "" {
		g := Given()
		names := g.Names()
		for _, name := range names {
			f := g.Take(name)
			flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
			if err != nil || flags&unix.FD_CLOEXEC == 0 || g.Take(name) != nil {
				t.Errorf("%s: flags %x, %v, or it is given twice", name, flags, err)
			}
		}
		os.Stdout.WriteString("given: " + strings.Join(names, " ") + os.Getenv("LISTEN_FDS") + "\n")
		return
	}
	for _, tt := range []struct{ pid, want string }{{"$$", "given: a b\n"}, {"1", "given: \n"}} {
		cmd := exec.Command("/bin/sh", "-c", "exec 3</dev/null 4</dev/null 5</dev/null; LISTEN_PID="+tt.pid+` LISTEN_FDS=3 LISTEN_FDNAMES=a:b:a TEST_GIVEN=1 exec "$@"`, "sh", os.Args[0], "-test.run=^TestGiven$")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), tt.want) {
			t.Errorf("LISTEN_PID=%s: %v %q, want %q", tt.pid, err, out, tt.want)
		}
	}
}
