package main

import (
	"slices"
	"testing"

	"liege/emperor/resolve"
	"liege/vassal/inifile"
)

// A file that is served by hand has no number that the host's Emperor gives out, the
// same ones each time, and a name in its run directory only as one of its vassals.
func TestApart(t *testing.T) {
	host := inifile.DefaultEmperorConfig()
	host.RunDir = "/run/other"
	for path, named := range map[string]bool{"/etc/vassals/shop.ini": true, "/home/sammy/shop.ini": false} {
		a := apartFrom(host, path)
		h := resolve.Host{RunDirs: []string{"/run/liege-one-1"}}
		a.set(&h)
		if h.Nameless == named || !slices.Equal(h.RunDirs, []string{"/run/other", "/run/liege-one-1"}) || !slices.Contains(h.Reserved, "/var/lib/liege") {
			t.Errorf("%s: nameless %v, %v, %v", path, h.Nameless, h.RunDirs, h.Reserved)
		}
		if again := apartFrom(host, path); a.uid < resolve.FirstAutoUID+1e9 || a.uid > 1<<32-1e6 || a.pair < resolve.MaxPairs/2 || a.pair > resolve.MaxPairs-8 || again.uid != a.uid {
			t.Errorf("%s: %+v, then %+v", path, a, again)
		}
	}
	if apartFrom(host, "/a.ini").uid == apartFrom(host, "/b.ini").uid {
		t.Error("two files have one uid")
	}
}
