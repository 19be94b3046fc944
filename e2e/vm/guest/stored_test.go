package guest

import (
	"os"
	"syscall"
	"testing"
)

// TestStored: systemd keeps the listener of a vassal that sleeps while the
// Emperor is killed, and while it is restarted under traffic: nobody is refused.
func TestStored(t *testing.T) {
	h := newHost(t)
	h.write("/srv/foo/app.py", hello("awake"))
	h.drop("foo", appLines("foo", "on-demand = true"))
	if err := h.wait("foo", "sleeping"); err != nil {
		t.Fatal(err)
	}
	addr := h.status("foo").Listen[0]
	kept := func(want string) func() bool {
		return func() bool {
			return h.run("systemctl", "show", "--value", "--property=NFileDescriptorStore", "liege") == want
		}
	}
	h.until("systemd keeps it", kept("1"))
	before := h.emperor()
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.answers(addr, "/", "awake") // systemd waits for a second, and starts another
	h.until("another Emperor answers", func() bool { v, err := h.look("foo"); return err == nil && v.ColdStarts > 0 })
	stop := h.loop(addr)
	h.run("systemctl", "restart", "liege")
	h.until("it answers again", func() bool { v, err := h.look("foo"); return err == nil && v.ColdStarts > 1 })
	h.answers(addr, "/", "awake")
	stop()
	if !kept("1")() {
		t.Error("systemd keeps another number of descriptors than before")
	}
	os.Remove(vassals + "/foo.ini")
	h.until("nothing is kept of it", kept("0"))
}
