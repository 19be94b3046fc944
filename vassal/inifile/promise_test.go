package inifile

import (
	"strings"
	"testing"
)

// TestNoPromises: what an option lacks is said as it is now. A promise of a
// release grows old when part of it is kept.
func TestNoPromises(t *testing.T) {
	for i := range table {
		o := &table[i]
		if strings.Contains(o.Effect, "later release") {
			t.Errorf("%s: %s", o.Name, o.Effect)
		}
	}
}
