package inifile

import (
	"slices"
	"strings"

	"liege/vassal"
)

// startHook has the program of vassals-start-hook run at each vassal's start, with
// the name of the vassal's file as its argument: without a shell in between in uWSGI,
// so that no letter of its path means anything to ours.
func (d *emperorDecoder) startHook(s Setting) {
	program := strings.TrimSpace(s.Value)
	if program == "" {
		d.err(vassal.CodeBadValue, s, "is empty", "")
		return
	}
	d.c.Set = slices.DeleteFunc(d.c.Set, func(p Preset) bool { return p.Origin == d.started }) // the last line wins
	d.started = s.Origin
	d.started.Layer = vassal.Defaults
	quoted := "'" + strings.ReplaceAll(program, "'", `'\''`) + "'"
	d.c.Set = append(d.c.Set, Preset{Key: "exec-as-emperor", Value: quoted + ` "${UWSGI_VASSAL_CONFIG##*/}"`, Origin: d.started})
}

// ofTable says of an option that is about Emperors, or a hook of every vassal, what
// the table says of it. What else stands in an Emperor's [uwsgi] is about uWSGI's own
// process. A hook that is never run is an error, as in a vassal's file: what it would
// have done for every vassal would be left out.
func (d *emperorDecoder) ofTable(s Setting) {
	o, ok := Lookup(s.Key)
	hook := ok && (strings.Contains(o.Name, "-as-emperor") || strings.Contains(o.Name, "-as-vassal"))
	if !ok || !hook && o.Group != "The Emperor" {
		d.warn(vassal.CodeNotYet, s, "has no meaning for Liege's Emperor", "")
		return
	}
	switch {
	case o.Class == Refused && hook:
		d.refused(o, s)
	case o.Class == Refused:
		d.warn(vassal.CodeRefused, s, o.Effect, "")
	case o.Class == Otherwise:
		d.note(vassal.CodeDoneOtherwise, s, o.Effect)
		if v, ok := d.value(o, s); ok && o.Name == "emperor-use-clone" {
			d.unshared(v)
		}
	default:
		if o.Type != Bool || s.Bare || !isFalse(firstWord(s.Value)) {
			d.warn(vassal.CodeNotYet, s, "not yet: "+o.Effect, "")
		}
	}
}
