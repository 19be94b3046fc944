package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"liege/emperor/resolve"
	"liege/internal/testenv"
	"liege/vassal/inifile"
)

// A file that is served by hand has no number that the host's Emperor gives out, the
// same ones each time, and a name in its run directory only as one of its vassals.
func TestApart(t *testing.T) {
	host := inifile.DefaultEmperorConfig()
	host.RunDir = "/run/other"
	for path, named := range map[string]bool{"/etc/vassals/shop.ini": true, "/home/sammy/shop.ini": false} {
		a := apartFrom(host, path)
		s := resolve.Settings{Host: resolve.Host{RunDirs: []string{"/run/liege-one-1"}}, OnDemand: inifile.OnDemandSource{Key: inifile.OnDemandDirectory}}
		a.set(&s)
		h := s.Host
		if h.Nameless == named || (s.OnDemand.Key != "") != named || !slices.Equal(h.RunDirs, []string{"/run/other", "/run/liege-one-1"}) || !slices.Contains(h.Reserved, "/var/lib/liege") {
			t.Errorf("%s: nameless %v, %v, %v", path, h.Nameless, h.RunDirs, h.Reserved)
		}
		if again := apartFrom(host, path); a.uid < resolve.FirstAutoUID+1e8 || a.uid > 1<<31-1e6 || a.pair < resolve.MaxPairs/2 || a.pair > resolve.MaxPairs-8 || again.uid != a.uid {
			t.Errorf("%s: %+v, then %+v", path, a, again)
		}
	}
	if apartFrom(host, "/a.ini").uid == apartFrom(host, "/b.ini").uid {
		t.Error("two files have one uid")
	}
}

// What emperor.ini says of the Emperor itself is not for a file that is served by hand,
// neither at first nor when it is read anew.
func TestApartLoads(t *testing.T) {
	testenv.Need(t, testenv.Root) // it has a directory in /run
	file := filepath.Join(t.TempDir(), "emperor.ini")
	if err := os.WriteFile(file, []byte("[emperor]\nvassals = /srv/vassals\ncgroup = /its\nhook-emperor-start = exec:true\n[defaults]\nuid = www-data\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := flags{config: file}
	cfg, cleanup, err := oneConfig(&f, "/srv/vassals/shop.ini")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cleanup(); err != nil {
			t.Error(err)
		}
	}()
	again, _, err := load(f)
	if keys := fixed(cfg, again); err != nil || len(keys) > 0 {
		t.Errorf("read anew: %v, %v", keys, err)
	}
	if !f.apart.named || len(cfg.Hooks)+len(cfg.Vassals) > 0 || cfg.Cgroup != "" || cfg.DefaultUID != "www-data" || filepath.Dir(cfg.StateDir) != cfg.RunDir {
		t.Errorf("%+v", cfg)
	}
}
