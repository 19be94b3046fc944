package dirmon

import (
	"os"
	"testing"
	"time"
)

// A file that is renamed stays the file that it was, and one that has the number of
// another's inode is another.
func TestBorn(t *testing.T) {
	h := newHost(t)
	h.write("/etc/vassals/a.ini", "[uwsgi]\n", 0, 0o644)
	m := h.monitor("/etc/vassals")
	one := h.scan(m).Files[0]
	h.must(os.Rename(h.path("/etc/vassals/a.ini"), h.path("/etc/vassals/b.ini")))
	if two := h.scan(m).Files[0]; two.Born != one.Born || two.Inode != one.Inode {
		t.Errorf("renamed: inode %d of %d, was %d of %d", two.Inode, two.Born, one.Inode, one.Born)
	}
	time.Sleep(10 * time.Millisecond) // the kernel's clock for inodes is coarse
	h.must(os.Remove(h.path("/etc/vassals/b.ini")))
	h.write("/etc/vassals/c.ini", "[uwsgi]\n", 0, 0o644)
	if three := h.scan(m).Files[0]; three.Born == one.Born {
		t.Errorf("another file: inode %d of %d, the one before was %d", three.Inode, three.Born, one.Inode)
	}
}
