package dirmon

import (
	"testing"

	"github.com/fsnotify/fsnotify"
)

// TestAnnounced: only where every change is hinted at are scans rarer.
func TestAnnounced(t *testing.T) {
	whole := func() *Monitor {
		return &Monitor{hints: &fsnotify.Watcher{}, watched: map[string]bool{"/v": true},
			dirs:    map[string]*dirState{"/v": {read: true, local: true}, "/gone": {}},
			entries: map[string]*entry{"/v/a.ini": {}}}
	}
	if !whole().announced() {
		t.Error("a local directory that is watched is not enough")
	}
	for name, spoil := range map[string]func(*Monitor){
		"no inotify":     func(m *Monitor) { m.hints = nil },
		"not watched":    func(m *Monitor) { m.watched = nil },
		"a network file": func(m *Monitor) { m.dirs["/v"].local = false },
		"a link":         func(m *Monitor) { m.entries["/v/b.ini"] = &entry{sig: signature{linkTarget: "../b.ini"}} },
	} {
		m := whole()
		if spoil(m); m.announced() {
			t.Errorf("%s: scans are rarer", name)
		}
	}
	if local("/proc") || local("/nowhere") {
		t.Error("what is no disk is one")
	}
}
