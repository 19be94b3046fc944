package inifile

import (
	"strings"

	"liege/vassal"
)

// maxKeys bounds the names and values of App.Keys together, in bytes.
const maxKeys = 64 << 10

// key notes what a line says for the app's own eyes (uwsgi.opt, UWSGI::OPT):
// everything that the file of the vassal, and what that includes, gives to the
// app itself. What the operator adds to every file is not the app's to know, nor
// are the lines of an operator's file that only such a file may have: hooks,
// mounts and the like. Rules and alarms hold passwords that others are asked for.
func (d *decoder) key(s Setting) {
	switch s.Origin.Layer {
	case vassal.OwnFile, vassal.Flag, vassal.Environ:
	default:
		return
	}
	if o, ok := Lookup(s.Key); ok && !s.Placeholder {
		if !o.Tenant || o.Type == Action || o.Type == Routing || o.Group == "Internal routing" || strings.Contains(o.Name, "alarm") {
			return
		}
	}
	if d.keyed += len(s.Key) + len(s.Value); d.keyed > maxKeys {
		return
	}
	d.cfg.App.Keys = append(d.cfg.App.Keys, vassal.Key{Name: s.Key, Value: s.Value, Flag: s.Bare && s.Origin.Layer != vassal.OwnFile})
}
