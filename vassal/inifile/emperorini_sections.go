package inifile

import (
	"fmt"
	"slices"
	"strings"

	"liege/vassal"
)

// emperorSections are those of emperor.ini, in the order in which they are read.
var emperorSections = []string{"uwsgi", "emperor", "ceilings", "defaults"}

// IsEmperor reports whether text is an emperor.ini rather than a vassal's file.
func IsEmperor(text []byte) bool {
	ss := sectionsOf(text)
	return !slices.Contains(ss, "vassal") && (slices.Contains(ss, "ceilings") || slices.Contains(ss, "defaults") || slices.Contains(ss, "emperor") && !slices.Contains(ss, "uwsgi"))
}

// unknownSections refuses sections that are not read: in one that is misspelt
// stand limits that would not hold. A file of uWSGI's Emperor may have others,
// which its options name.
func (d *emperorDecoder) unknownSections() {
	told := map[string]bool{}
	named := sectionsOf(d.text)
	for i, name := range named {
		if name == "" || told[name] || slices.Contains(emperorSections, name) {
			continue
		}
		told[name] = true
		s := Setting{Origin: vassal.Origin{File: d.f.Source.Path, Line: i + 1}}
		near := slices.IndexFunc(emperorSections, func(known string) bool { return distance(known, strings.ToLower(name)) <= 2 })
		switch {
		case near >= 0:
			d.err(vassal.CodeNoSection, s, fmt.Sprintf("unknown section [%s]; did you mean [%s]?", clip(name), emperorSections[near]), "write ["+emperorSections[near]+"]")
		case name == "vassal":
			d.err(vassal.CodeNoSection, s, "[vassal] is a section of a vassal's file", "what all vassals shall have stands in [defaults]")
		case slices.Contains(named, "uwsgi"):
			d.warn(vassal.CodeNoSection, s, fmt.Sprintf("section [%s] is not read", clip(name)), "")
		default:
			d.err(vassal.CodeNoSection, s, fmt.Sprintf("unknown section [%s]: nothing of it would hold", clip(name)), "the sections are [emperor], [defaults] and [ceilings]")
		}
	}
}
