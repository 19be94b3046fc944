package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"liege/vassal/inifile"
)

// TestFixed: what a SIGHUP cannot change is named, and what it changes is not.
func TestFixed(t *testing.T) {
	was := inifile.DefaultEmperorConfig()
	now := inifile.DefaultEmperorConfig()
	now.DefaultUID, now.Ceilings.MinUID = "www-data", 2000
	if got := fixed(was, now); got != nil {
		t.Errorf("%v", got)
	}
	now.Vassals, now.Tyrant, now.ControlGroup = []string{"/srv/vassals"}, true, "panel"
	if d := cmp.Diff([]string{"vassals", "control-group", "tyrant"}, fixed(was, now)); d != "" {
		t.Error(d)
	}
}
