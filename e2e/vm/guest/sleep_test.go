package guest

import (
	"bufio"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestStored: while no Emperor runs, killed or restarted, systemd holds the
// listeners of a vassal that sleeps: who connects then is answered by what the
// next Emperor starts.
func TestStored(t *testing.T) {
	h := newHost(t)
	h.write("/srv/foo/app.py", hello("woken"))
	sock := "/run/liege/stored.sock"
	h.drop("foo", appLines("foo", "http-socket = "+sock, "on-demand = true", "idle = 1"))
	sleeping := func() {
		t.Helper()
		if err := h.wait("foo", "sleeping"); err != nil {
			t.Fatalf("it does not sleep: %v", err)
		}
	}
	sleeping()
	addr := ""
	for _, a := range h.status("foo").Listen {
		if strings.Contains(a, ":") {
			addr = a
		}
	}
	h.until("systemd holds both", func() bool {
		return h.run("systemctl", "show", "--value", "--property=NFileDescriptorStore", "liege") == "2"
	})
	for _, how := range []struct {
		name string
		end  func(pid int) error
	}{
		{"killed", func(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }},
		// --no-block: it returns while the Emperor still ends.
		{"restarted", func(int) error { h.run("systemctl", "--no-block", "restart", "liege"); return nil }},
	} {
		sleeping()
		before := h.emperor()
		if err := how.end(before); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(patience); syscall.Kill(before, 0) == nil; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: the Emperor does not end", how.name)
			}
		}
		for _, at := range []struct{ network, to string }{{"tcp", addr}, {"unix", sock}} {
			if got := askOnce(at.network, at.to); got != "200 OK" {
				t.Errorf("%s: who connected to %s meanwhile hears %q", how.name, at.to, got)
			}
		}
		if h.emperor() == before {
			t.Errorf("%s: it is the same Emperor", how.name)
		}
	}
}

// askOnce connects now, and says what comes of a request.
func askOnce(network, to string) string {
	c, err := net.Dial(network, to)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")); err != nil {
		return err.Error()
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err.Error()
	}
	resp.Body.Close()
	return resp.Status
}
