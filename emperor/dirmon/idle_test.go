package dirmon

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// TestAnnounced: only where every change is hinted at are scans rarer.
func TestAnnounced(t *testing.T) {
	whole := func() *Monitor {
		return &Monitor{hints: &fsnotify.Watcher{}, watched: map[string]bool{"/v": true},
			dirs:    map[string]*dirState{"/v": {read: true, kind: unix.TMPFS_MAGIC}, "/gone": {}},
			entries: map[string]*entry{"/v/a.ini": {}}}
	}
	if !whole().announced() {
		t.Error("a local directory that is watched is not enough")
	}
	for name, spoil := range map[string]func(*Monitor){
		"no inotify":     func(m *Monitor) { m.hints = nil },
		"not watched":    func(m *Monitor) { m.watched = nil },
		"a network file": func(m *Monitor) { m.dirs["/v"].kind = unix.NFS_SUPER_MAGIC },
		"a link":         func(m *Monitor) { m.entries["/v/b.ini"] = &entry{sig: signature{linkTarget: "../b.ini"}} },
	} {
		m := whole()
		if spoil(m); m.announced() {
			t.Errorf("%s: scans are rarer", name)
		}
	}
	if local(unix.PROC_SUPER_MAGIC) || local(0) {
		t.Error("what is no disk is one")
	}
}

// TestUntouched: a scan opens the files that changed, and no others. What is
// not told by a file's own state is looked at each time.
func TestUntouched(t *testing.T) {
	h := newHost(t)
	const n = 100
	for i := range n {
		h.write(fmt.Sprintf("/etc/vassals/v%d.ini", i), "[uwsgi]\n", 0, 0o644)
	}
	m := h.monitor("/etc/vassals")
	now := time.Now()
	opened := func() int {
		before := m.looks
		now = now.Add(time.Minute)
		m.scan(now, false)
		return m.looks - before
	}
	snap, _ := m.scan(now, false)
	m.sent = &snap
	opened() // old enough now to be believed
	if got := opened(); got != 0 {
		t.Errorf("nothing changed: %d files are opened", got)
	}
	first := m.built
	if opened(); m.built != first {
		t.Error("nothing changed, and another Snapshot was made")
	}
	change := map[string]func(string) error{
		"written":  func(f string) error { return os.WriteFile(f, []byte("[uwsgi]\nx = 1\n"), 0o644) },
		"touched":  func(f string) error { return os.Chtimes(f, time.Time{}, time.Now().Add(-time.Hour)) },
		"chmod":    func(f string) error { return os.Chmod(f, 0o600) },
		"replaced": func(f string) error { return os.Rename(h.path("/new.ini"), f) },
	}
	h.write("/new.ini", "[uwsgi]\n", 0, 0o644)
	for what, do := range change {
		h.must(do(h.path("/etc/vassals/v7.ini")))
		if got := opened(); got != 1 {
			t.Errorf("%s: %d files are opened, want 1", what, got)
		}
		opened()
		if got := opened(); got != 0 {
			t.Errorf("after it was %s: %d files are opened", what, got)
		}
	}
	h.must(os.Remove(h.path("/etc/vassals/v8.ini")))
	opened()
	if snap, _ := m.scan(now.Add(time.Minute), false); len(snap.Files) != n-1 {
		t.Errorf("one file is gone, and %d are left of %d", len(snap.Files), n)
	}
	h.must(os.Chmod(h.path("/etc/vassals/v9.ini"), 0o664)) // whose group that is may change
	opened()
	if opened(); opened() != 1 {
		t.Error("a file that a group can write is not looked at anew")
	}
}

// TestKept: what is kept of a user's files is summed up as they come, change
// hands and go.
func TestKept(t *testing.T) {
	h := newHost(t)
	h.write("/etc/vassals/a.ini", "12345", alice, 0o644)
	h.write("/etc/vassals/b.ini", "123", alice, 0o644)
	h.write("/etc/vassals/c.ini", "1", mallory, 0o644)
	m := h.monitor("/etc/vassals")
	want := func(what string, a, b int) {
		t.Helper()
		h.scan(m)
		if m.kept[alice] != a || m.kept[mallory] != b {
			t.Errorf("%s: %d and %d bytes, want %d and %d", what, m.kept[alice], m.kept[mallory], a, b)
		}
	}
	want("three files", 8, 1)
	h.own("/etc/vassals/a.ini", mallory, mallory, 0o644)
	want("one given away", 3, 6)
	h.write("/etc/vassals/b.ini", "1234567", alice, 0o644)
	want("one written", 7, 6)
	h.must(os.Remove(h.path("/etc/vassals/b.ini")))
	want("one removed", 0, 6)
}
