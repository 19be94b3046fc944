package control

import "testing"

// TestLeftAlone: a wish for many is not for those that somebody stopped.
func TestLeftAlone(t *testing.T) {
	all := []Vassal{{Name: "run", State: Running}, {Name: "halt", State: Stopped}, {Name: "lock", State: Suspended}}
	for _, tt := range []struct {
		r          Request
		name, want string
	}{
		{Request{Verb: Reload, All: true}, "run", ""},
		{Request{Verb: Reload, All: true}, "halt", "is stopped"},
		{Request{Verb: Restart, Names: []string{"*"}}, "lock", "is suspended"},
		{Request{Verb: Reload, Names: []string{"halt"}}, "halt", ""}, // and refused
		{Request{Verb: Start, All: true}, "halt", ""},
		{Request{Verb: Start, All: true}, "lock", "is suspended"},
		{Request{Verb: Resume, All: true}, "lock", ""},
		{Request{Verb: Stop, All: true}, "halt", ""},
	} {
		if got := leftAlone(tt.r, all, tt.name); got != tt.want {
			t.Errorf("%s %v of %s: %q, want %q", tt.r.Verb, tt.r.Names, tt.name, got, tt.want)
		}
	}
}
