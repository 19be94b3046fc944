package listen

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// TestAdopt: what vassals got for port 0 all goes back to each; a named address is
// one vassal's.
func TestAdopt(t *testing.T) {
	before, after := NewRegistry(), NewRegistry()
	named := "127.0.0.1:" + freePort(t)
	adopt := func(name vassal.Name, address string, k Bound) error {
		fd, err := unix.FcntlInt(k.File.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		s, f := after.Set(name), os.NewFile(uintptr(fd), string(name))
		t.Cleanup(func() { s.Close(); f.Close() })
		return s.Adopt(vassal.Listener{Protocol: vassal.HTTP, Address: address}, k.Address, "v.ini", f)
	}
	for _, name := range []vassal.Name{"a", "b"} {
		s := before.Set(name)
		defer s.Close()
		c := apply(t, s, wanting(t, "v.ini", "127.0.0.1:0"))
		c.Commit()
		if err := adopt(name, "127.0.0.1:0", c.Bound()[0]); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := before.Set("c")
	defer s.Close()
	c := apply(t, s, wanting(t, "v.ini", named))
	c.Commit()
	if err := adopt("c", named, c.Bound()[0]); err != nil {
		t.Error(err)
	}
	if err := adopt("d", named, c.Bound()[0]); err == nil || !strings.Contains(err.Error(), "c has it") {
		t.Errorf("a second vassal adopts %s: %v", named, err)
	}
}
