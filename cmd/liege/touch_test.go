package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"liege/emperor/resolve"
	"liege/vassal"
)

func TestTouched(t *testing.T) {
	dir := t.TempDir()
	there, later := filepath.Join(dir, "there"), filepath.Join(dir, "later")
	if err := os.WriteFile(there, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	w := newTouched(&resolve.Result{Config: vassal.Config{Touch: []string{there, "later"}}, Base: dir})
	old := time.Unix(1000, 0)
	for _, step := range []struct {
		what string
		do   func() error
		want bool
	}{
		{"nothing", func() error { return nil }, false},
		{"an older time", func() error { return os.Chtimes(there, old, old) }, true},
		{"nothing again", func() error { return nil }, false},
		{"one is gone", func() error { return os.Remove(there) }, false},
		{"it is back as it was", func() error { return errors.Join(os.WriteFile(there, nil, 0o644), os.Chtimes(there, old, old)) }, false},
		{"a relative one is made", func() error { return os.WriteFile(later, nil, 0o644) }, true},
		{"and stays", func() error { return nil }, false},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if got := w.changed(); got != step.want {
			t.Errorf("%s: %t", step.what, got)
		}
	}
	if newTouched(&resolve.Result{}).changed() {
		t.Error("no file has changed")
	}
}
