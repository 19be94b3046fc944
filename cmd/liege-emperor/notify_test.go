package main

import (
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"liege/internal/testenv"
)

// What systemd is told, and what the signals do (CONTRACT 17 and 20).
func TestNotify(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	w.vassal("a/vassals/site.ini")
	w.env = []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=400000"}
	p := w.emperor("a")
	said := &ear{t: t, conn: conn}
	said.wait("READY=1")
	said.wait("WATCHDOG=1")
	said.wait("STATUS=1 of 1 running")
	pids := w.ready("a", "site")
	if err := p.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	said.wait("RELOADING=1\nMONOTONIC_USEC=")
	said.wait("READY=1")
	for _, s := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGWINCH, syscall.SIGTSTP, syscall.SIGPIPE} {
		if err := p.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	said.wait("WATCHDOG=1")
	if now := w.ready("a", "site"); now[0] != pids[0] {
		t.Errorf("an unchanged vassal was restarted: pid %d, before %d", now[0], pids[0])
	}
	if code := p.end(syscall.SIGTERM); code != 0 {
		t.Errorf("ended with %d", code)
	}
	said.wait("STOPPING=1")
	if out := p.out.String(); !strings.Contains(out, "site: running since ") {
		t.Errorf("SIGUSR1 wrote no line: %s", out)
	}
}

// ear hears what systemd would.
type ear struct {
	t    *testing.T
	conn *net.UnixConn
}

// wait waits for a message that begins with want, and forgets those before it.
func (e *ear) wait(want string) {
	e.t.Helper()
	if err := e.conn.SetReadDeadline(time.Now().Add(enough)); err != nil {
		e.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for {
		n, err := e.conn.Read(buf)
		if err != nil {
			e.t.Fatalf("%q is not said: %v", want, err)
		}
		if strings.HasPrefix(string(buf[:n]), want) {
			return
		}
	}
}

// A file system of the vassal files that hangs keeps no signal from being heard.
func TestSignalsWhileFilesHang(t *testing.T) {
	testenv.Need(t, testenv.FUSE)
	w := newWorld(t)
	w.vassal("a/vassals/site.ini")
	p := w.emperor("a")
	w.ready("a", "site")
	mute := testenv.NewMute(t, filepath.Join(w.dir, "a/vassals"), 0, true)
	mute.Begin()
	for _, s := range []syscall.Signal{syscall.SIGWINCH, syscall.SIGHUP} {
		if err := p.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(enough); !mute.Waits(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not look at the files")
		}
	}
	if code := p.end(syscall.SIGTERM); code != 0 {
		t.Errorf("ended with %d", code)
	}
}
