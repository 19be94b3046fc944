package dirmon

import (
	"testing"

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
