package inifile

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"liege/vassal"
)

// RegistrationDir is where the operator's registrations are looked for last.
const RegistrationDir = "/etc/liege/plugins"

// RegistrationSuffix ends the names of registrations: rack_215 is in
// rack_215_plugin.ini, as uWSGI's plugin of that name is in rack_215_plugin.so.
const RegistrationSuffix = "_plugin.ini"

// A Registration names an interpreter: what liege plugin build writes instead
// of compiling a plugin for it. It is an ini file with one section, [plugin].
type Registration struct {
	Family      string // "rack", "python3", "psgi", "php"
	Interpreter string // absolute
	Prefix      string // the directory of the installation that it belongs to
	Version     string // as it says itself
	ABI         string // version of the libraries it takes: 2.1.0, cpython-27
	GemHome     string // Ruby: where gems are, if not where that ruby looks anyway
	GemPath     string // Ruby: the same, several directories with colons between

	Name     string        // as the plugin line has it
	File     string        // where it was found
	Origin   vassal.Origin // of the plugin line
	Operator bool          // the file is owned by root, and writable by nobody else
}

// Text is the file of a registration.
func (g *Registration) Text() []byte {
	var b strings.Builder
	b.WriteString("; Written by liege plugin build: the interpreter that \"plugin = " + g.Name + "\" names.\n[plugin]\n")
	for _, f := range g.fields() {
		if *f.to != "" {
			fmt.Fprintf(&b, "%s = %s\n", f.key, *f.to)
		}
	}
	return []byte(b.String())
}

type registrationField struct {
	key  string
	to   *string
	path bool
}

func (g *Registration) fields() []registrationField {
	return []registrationField{{"family", &g.Family, false}, {"interpreter", &g.Interpreter, true}, {"prefix", &g.Prefix, true},
		{"version", &g.Version, false}, {"abi", &g.ABI, false}, {"gem-home", &g.GemHome, true}, {"gem-path", &g.GemPath, false}}
}

// families are what a registration can be of.
var families = []string{"rack", "python3", "psgi", "php"}

// ParseRegistration reads what Text writes. The error says what is wrong with
// it, without the file's name.
func ParseRegistration(text []byte) (Registration, error) {
	var g Registration
	var wrong error
	x := lexer{wanted: []string{"plugin"},
		report: func(num int, _, message, _ string) {
			wrong = errors.Join(wrong, fmt.Errorf("line %d: %s", num, message))
		},
		note: func(int, string, string, string) {}}
	lines, found := x.lex(text)
	if !found {
		return g, errors.New("has no section [plugin]")
	}
	for _, l := range lines {
		fields := g.fields()
		i := slices.IndexFunc(fields, func(f registrationField) bool { return f.key == l.key })
		switch {
		case i < 0: // of a later release
		case fields[i].path && !path.IsAbs(l.value):
			wrong = errors.Join(wrong, fmt.Errorf("line %d: %s: %q is not an absolute path", l.num, l.key, clip(l.value)))
		default:
			*fields[i].to = l.value
		}
	}
	switch {
	case wrong != nil:
	case g.Interpreter == "":
		wrong = errors.New("names no interpreter")
	case !slices.Contains(families, g.Family):
		wrong = fmt.Errorf("family %q is none of %s", clip(g.Family), strings.Join(families, ", "))
	}
	g.Interpreter, g.Prefix = clean(g.Interpreter), clean(g.Prefix)
	return g, wrong
}

func clean(p string) string {
	if p == "" {
		return ""
	}
	return path.Clean(p)
}

// registrationBase is the name in a plugin's file name, and whether the file
// is named by a path.
func registrationBase(name string) (base string, named bool) {
	if number, rest, ok := strings.Cut(name, ":"); ok && strings.Trim(number, "0123456789") == "" {
		name = rest
	}
	base = path.Base(name)
	for _, suffix := range []string{".ini", ".so", "_plugin"} {
		base = strings.TrimSuffix(base, suffix)
	}
	return base, strings.Contains(name, "/")
}

// RegistrationFiles are where the registration of a plugin line's name may be,
// in order: only there if the name is a path, else in dirs. None for what is
// built in under that very name.
func RegistrationFiles(name string, dirs []string) []string {
	base, named := registrationBase(name)
	if base == "" || base == "." || base == "/" || knownPlugin(base) && !strings.HasSuffix(name, ".ini") {
		return nil
	}
	if named {
		if number, rest, ok := strings.Cut(name, ":"); ok && strings.Trim(number, "0123456789") == "" {
			name = rest
		}
		return []string{path.Join(path.Dir(name), base+RegistrationSuffix)}
	}
	var out []string
	for _, dir := range dirs {
		out = append(out, path.Join(dir, base+RegistrationSuffix))
	}
	return out
}

// registrations reads those that the plugin lines name. What is not there is
// nothing: the decoder says what that means.
func (r *reader) registrations() (out []Registration) {
	all, operators := r.pluginDirs()
	for _, e := range r.entries {
		o, ok := Lookup(unguard(e.key))
		if !ok || e.kind != option || o.Name != "plugin" && o.Name != "need-plugin" || e.at.text == nil || !e.at.asks {
			continue
		}
		dirs := all
		if e.at.operator {
			dirs = operators
		}
		for name := range pluginWords(unguard(e.expanded)) {
			if g, ok := r.registration(e, name, dirs); ok {
				out = append(out, g)
			}
		}
	}
	return out
}

// pluginDirs are where registrations are looked for: for plugin lines of users, and
// for those of the operator's, with whose rights nobody else says where to read.
func (r *reader) pluginDirs() (all, operators []string) {
	add := func(dir string, ours bool) {
		if all = append(all, r.abs(dir)); ours {
			operators = append(operators, r.abs(dir))
		}
	}
	for _, e := range r.entries {
		if o, ok := Lookup(unguard(e.key)); ok && e.kind == option && o.Name == "plugins-dir" {
			dir := unguard(e.expanded)
			add(dir, !e.tenant && (r.src.Trust.Operator || path.IsAbs(dir)))
		}
	}
	add(r.cwd, r.src.Trust.Operator)
	return all, operators
}

// registration reads that of one name. The operator's own directory is read as
// the operator, whoever asks: the name is all that comes of the asker.
func (r *reader) registration(e *entry, name string, dirs []string) (Registration, bool) {
	_, named := registrationBase(name)
	if named && r.strangers(e) {
		return Registration{}, false
	}
	for _, file := range RegistrationFiles(name, dirs) {
		if g, ok := r.tryRegistration(e, e.at.text, name, r.abs(file)); ok || named {
			return g, ok
		}
	}
	for _, file := range RegistrationFiles(name, []string{RegistrationDir}) {
		if !named && strings.IndexByte(file, 0) < 0 {
			return r.tryRegistration(e, r.listed(vassal.Defaults), name, file)
		}
	}
	return Registration{}, false
}

func (r *reader) tryRegistration(e *entry, by *text, name, file string) (Registration, bool) {
	if !r.may(e.at, e.key) {
		return Registration{}, false
	}
	a, ok := r.files[by.by(file)]
	if !ok {
		a.HostFile, a.err = by.host.ReadFile(file)
		r.files[by.by(file)] = a
		r.answered("file", file, a.err == nil, a.Operator, a.Data)
	}
	// Directories that nobody may look into, or that lie outside what a user's
	// file may read, were named for uWSGI's own plugins.
	if a.err != nil && !strings.HasSuffix(name, ".ini") {
		return Registration{}, false
	}
	if a.err != nil {
		r.fail(e.at, e.key, vassal.CodeUnreadable, file+": "+reason(a.err), "liege plugin build writes it anew")
		return Registration{}, false
	}
	g, err := ParseRegistration(a.Data)
	if err != nil {
		why := reason(err)
		if by.operator && (e.tenant || !a.Operator) {
			why = "is no registration" // the rest is not for everybody who sees this
		}
		r.fail(e.at, e.key, vassal.CodeUnreadable, file+": "+why, "liege plugin build writes it anew")
		return Registration{}, false
	}
	g.Name, g.File, g.Origin, g.Operator = name, file, e.origin(), a.Operator
	return g, true
}
