package main

import (
	"path/filepath"
	"time"

	"liege/emperor/asuser"
	"liege/emperor/resolve"
)

// touched looks at the files of touch-reload and its kin as the Emperor does, with
// the caller's rights: root serves only a file whose words are root's.
type touched struct {
	paths []string
	seen  []time.Time // zero: missing
}

// newTouched remembers how the files of r look now: before a generation starts,
// so that it has everything that was done before.
func newTouched(r *resolve.Result) *touched {
	t := &touched{}
	for _, path := range r.Config.Touch {
		if !filepath.IsAbs(path) {
			path = filepath.Join(r.Base, path)
		}
		t.paths = append(t.paths, path)
	}
	t.seen = asuser.Times(asuser.Who{}, t.paths)
	return t
}

// changed looks again. A file that is gone has not been touched, one that is made
// has, as in uWSGI; what was said once is not said again.
func (t *touched) changed() bool {
	changed := false
	for i, now := range asuser.Times(asuser.Who{}, t.paths) {
		if !now.IsZero() && !now.Equal(t.seen[i]) {
			t.seen[i], changed = now, true
		}
	}
	return changed
}
