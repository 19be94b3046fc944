package route

import (
	"testing"

	"liege/vassal"
)

// TestUnknownActionHint: who writes an action that is not there is told what is.
func TestUnknownActionHint(t *testing.T) {
	troubles := checkAction(Request, &vassal.Rule{Action: "nosuch"})
	if len(troubles) != 1 || troubles[0].Hint == "" {
		t.Errorf("got %+v, want one with a hint", troubles)
	}
}
