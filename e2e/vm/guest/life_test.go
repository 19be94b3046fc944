package guest

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"liege/emperor/control"
)

func (h *host) emperor() int {
	h.Helper()
	pid, err := strconv.Atoi(h.run("systemctl", "show", "--value", "--property=MainPID", "liege"))
	if err != nil || pid == 0 {
		h.Fatalf("main process of liege: %d, %v", pid, err)
	}
	return pid
}

// replaced waits until a generation serves that old did not.
func (h *host) replaced(old control.Vassal) control.Vassal {
	h.Helper()
	var now control.Vassal
	h.until("a successor of "+old.Name, func() bool {
		found, err := h.look(old.Name)
		if err != nil {
			return false // no Emperor at this moment
		}
		now = found
		return now.State == control.Running && now.PID != nil && *now.PID != *old.PID
	})
	return now
}

// TestRestart: systemctl restart drains every vassal and starts it again.
func TestRestart(t *testing.T) {
	h := newHost(t)
	old := h.app("foo", "restarted")
	before := h.emperor()
	h.run("systemctl", "restart", "liege")
	now := h.replaced(old)
	h.answers(now.Listen[0], "/", "restarted")
	if h.emperor() == before {
		t.Error("the Emperor is the same process")
	}
	if err := syscall.Kill(*old.PID, 0); err == nil {
		t.Errorf("process %d of the generation before lives", *old.PID)
	}
}

// TestEmperorKilled: what runs serves on, systemd starts another Emperor, and
// curl notices nothing of all that.
func TestEmperorKilled(t *testing.T) {
	h := newHost(t)
	old := h.app("foo", "serves on")
	addr := old.Listen[0]
	stop := h.loop(addr)
	before := h.emperor()
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.answers(addr, "/", "serves on")
	now := h.replaced(old)
	h.answers(addr, "/", "serves on")
	stop()
	if now.Listen[0] != addr {
		t.Errorf("it listens on %v now, was %s", now.Listen, addr)
	}
	if n := h.run("systemctl", "show", "--value", "--property=NRestarts", "liege"); n == "0" || h.emperor() == before {
		t.Errorf("systemd restarted the Emperor %s times; main process %d, was %d", n, h.emperor(), before)
	}
}

// TestBrokenEdit: an edit that cannot start changes nothing for clients, and
// its error has the line.
func TestBrokenEdit(t *testing.T) {
	h := newHost(t)
	v := h.app("foo", "as before")
	stop := h.loop(v.Listen[0])
	h.drop("foo", appLines("foo", "processes = many"))
	if err := h.wait("foo", "applied"); control.ExitCode(err) != 1 {
		t.Errorf("wait for a broken edit: %v", err)
	}
	broken := h.status("foo")
	if broken.State != control.Running || broken.Applied || *broken.PID != *v.PID {
		t.Errorf("state %s, applied %v, pid %d; want running, false, %d", broken.State, broken.Applied, *broken.PID, *v.PID)
	}
	if p := broken.Error; p == nil || p.Line != 6 || p.Key != "processes" {
		t.Errorf("the error is %+v; want processes in line 6", p)
	}
	h.answers(v.Listen[0], "/", "as before")

	// One that can start does change something.
	h.write("/srv/foo/app.py", hello("mended"))
	h.drop("foo", appLines("foo", "processes = 2"))
	h.answers(h.up("foo").Listen[0], "/", "mended")
	stop()
}

// TestPlaces: an app in /home, with a socket in /tmp and one in its directory,
// under the real unit.
func TestPlaces(t *testing.T) {
	h := newHost(t)
	const home = "/home/foo/site"
	h.write(home+"/app.py", hello("at home"))
	t.Cleanup(func() { os.RemoveAll("/home/foo") })
	h.run("chown", "-R", "foo:foo", "/home/foo")
	h.drop("homely", strings.Join([]string{
		"uid = foo", "chdir = " + home, "wsgi-file = " + home + "/app.py",
		"http = /tmp/homely.sock", "http = " + home + "/homely.sock", "http = 127.0.0.1:0",
	}, "\n"))
	v := h.up("homely")
	if len(v.Listen) != 3 {
		t.Fatalf("it listens on %v; want three places", v.Listen)
	}
	for _, addr := range v.Listen {
		h.answers(addr, "/", "at home")
	}
}
