package listen

import (
	"strings"

	"liege/vassal"
)

// nameOf is the vassal, another than s's, whose name a socket in the run directory
// has (vassal.RunOwner). Whoever may connect there takes it for that vassal's, also
// while that one is stopped; empty: nobody's.
func (r *Registry) nameOf(address string, s *Set) vassal.Name {
	if r.Lives == nil {
		return ""
	}
	for _, dir := range r.RunDirs {
		rest, in := strings.CutPrefix(address, dir+"/")
		if !in {
			continue
		}
		if n := vassal.RunOwner(rest); n != "" && n != s.name && r.Lives(n) {
			return n
		}
	}
	return ""
}
