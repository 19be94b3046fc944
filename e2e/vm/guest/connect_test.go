package guest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// service says hello to who connects, until the test ends. It runs in the
// test's own domain.
func service(t *testing.T, network, at string) string {
	t.Helper()
	ln, err := net.Listen(network, at)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "served")
			c.Close()
		}
	})
	t.Cleanup(func() { ln.Close(); all.Wait() })
	return ln.Addr().String()
}

// TestConnect: under enforcement an app reaches exactly what its file names, by
// TCP and by a unix socket, through a relay in a domain of its own.
func TestConnect(t *testing.T) {
	h := newHost(t)
	// Ports without a service: the default domain may connect to them.
	named, other := service(t, "tcp", "127.0.0.1:25432"), service(t, "tcp", "127.0.0.1:25433")
	dir := "/run/guest-connect"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	sock, hidden := service(t, "unix", dir+"/named.sock"), service(t, "unix", dir+"/other.sock")
	for _, s := range []string{sock, hidden} {
		if err := os.Chmod(s, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	h.write("/srv/foo/app.py", string(hostile))
	h.drop("foo", appLines("foo", "connect = "+named+" unix:"+sock))
	v := h.up("foo")
	addr := v.Listen[0]
	h.does(addr, tcpProbe(named), "b'served'")
	h.does(addr, unixProbe(sock), "b'served'")
	for code, want := range map[string]string{
		tcpProbe(other):            "ECONNREFUSED",
		tcpProbe("10.1.2.3:25432"): "ENETUNREACH",
		unixProbe(hidden):          "ENOENT",
	} {
		if got := h.ask(addr, code); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %s", code, got, want)
		}
	}
	found := 0
	procs, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		if b, err := os.ReadFile(p); err != nil || string(b) != "liege-relay\n" {
			continue
		}
		found++
		context, err := os.ReadFile(filepath.Join(filepath.Dir(p), "attr/current"))
		if got := strings.TrimRight(string(context), "\x00\n"); err != nil || got != "system_u:system_r:liege_relay_t:s0" {
			t.Errorf("a relay is %s (%v)", got, err)
		}
	}
	if found != 1 {
		t.Errorf("%d relays", found)
	}
	// A reload, and one that is killed.
	h.write("/srv/foo/app.py", string(hostile)+"\n")
	h.run("liege", "reload", "foo")
	h.does(addr, tcpProbe(named), "b'served'")
}

// TestConnectUser: under enforcement the relay of a user's file looks the path of
// a unix socket up itself, and reaches what [ceilings] allow and no link.
func TestConnectUser(t *testing.T) {
	h := newHost(t)
	const settings, dir = "/etc/liege/emperor.ini", "/run/guest-connect-user"
	before, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.write(settings, string(before))
		h.run("systemctl", "reload", "liege")
	})
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h.write(settings, strings.Replace(string(before), "[ceilings]\n", "[ceilings]\nlisten = 127.0.0.1:0\nconnect = unix:"+dir+"/*\n", 1))
	h.run("systemctl", "reload", "liege")
	named := service(t, "unix", dir+"/named.sock")
	if err := errors.Join(os.Chmod(named, 0o777), os.Symlink(named, dir+"/link.sock")); err != nil {
		t.Fatal(err)
	}
	h.hostile("/srv/foo", "foo")
	h.dropAs("foo", "foo", "chdir = /srv/foo\nwsgi-file = app.py\nhttp = 127.0.0.1:0\nconnect = unix:"+named+" unix:"+dir+"/link.sock\n")
	v := h.up("foo")
	h.does(v.Listen[0], unixProbe(named), "b'served'")
	h.does(v.Listen[0], unixProbe(dir+"/link.sock"), "b''")
	h.until("the log says why", func() bool { return strings.Contains(h.run("liege", "logs", "foo"), "a link is on the way") })
}

func tcpProbe(to string) string {
	host, port, _ := net.SplitHostPort(to)
	return fmt.Sprintf("import socket; print(socket.create_connection((%q, %s), 20).recv(100))", host, port)
}

func unixProbe(to string) string {
	return fmt.Sprintf("import socket; s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(%q); print(s.recv(100))", to)
}
