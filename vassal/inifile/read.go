package inifile

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"liege/vassal"
)

// Read expands an ini text. The File is never nil; when the Problems hold an
// Error it is what could be made of the text, good for further checks only.
//
// What the vassal's file asks goes to host; what opt.IncludeBefore and its like
// ask goes to opt.Operator. A file that an operator's text includes and that is
// not the operator's own is read, but may ask nothing: there is nobody with its
// owner's rights to answer.
func Read(src Source, host Host, opt ReadOptions) (*File, vassal.Problems) {
	r := newReader(src, host, opt)
	own := &text{
		file: src.Path, layer: vassal.OwnFile, host: host, operator: src.Trust.Operator, asks: true,
		magic: r.own, main: true, chain: []string{src.Path + ":" + src.Section},
	}
	r.presets()
	for _, l := range opt.Before {
		r.readText(&text{file: l.Path, layer: l.Layer, host: r.operator, operator: true, asks: true, lists: r.opt.Operator != nil, magic: r.own, optional: true}, l.Text, l.Section)
	}
	for _, p := range opt.IncludeBefore {
		r.load(r.listed(vassal.Defaults), place{}, "vassals-include-before", p)
	}
	r.lastINI[own.operator] = src.Path
	r.readText(own, src.Text, src.Section)
	for _, p := range opt.Include {
		r.load(r.listed(vassal.Enforced), place{}, "vassals-include", p)
	}
	r.expand()
	r.inherit()
	for _, e := range r.entries {
		if e.late && e.kind != word {
			r.unexpanded(e)
		}
	}
	return r.finish()
}

// text is one file, or one section of it, that is being read.
type text struct {
	file     string // for messages and origins
	layer    vassal.Layer
	host     Host
	operator bool   // its lines are believed as the operator's
	asks     bool   // host may be asked for it
	magic    *magic // its variables
	lists    bool   // host is the one of the operator's lists
	main     bool   // the vassal's own file
	late     bool   // read by inherit: not expanded
	optional bool   // its section may be missing
	depth    int
	chain    []string // what is being read above it
}

// place is a line of a text. Without a text it is the operator's settings.
type place struct {
	*text
	line int
}

func (p place) origin() vassal.Origin {
	if p.text == nil {
		return vassal.Origin{}
	}
	return vassal.Origin{File: p.file, Line: p.line, Layer: p.layer}
}

// entry is one line that takes effect, in the order of uWSGI's flat list.
type entry struct {
	key, value string // value: guarded, see guard
	raw        string
	bare       bool
	at         place
	preset     *vassal.Origin // instead of at
	kind       kind
	late       bool // no expansion
	tenant     bool

	state    byte // of the last pass: 0 to do, 1 being done, 2 done
	expanded string
}

type kind byte

const (
	option      kind = iota
	placeholder      // set-placeholder
	word             // of the language
)

func (e *entry) origin() vassal.Origin {
	if e.preset != nil {
		return *e.preset
	}
	return e.at.origin()
}

// reader is the state of one Read.
type reader struct {
	src      Source
	opt      ReadOptions
	cwd      string
	host     Host // of the vassal's file
	operator Host
	own      *magic
	lastINI  map[bool]string // ini = :section; of the operator's files and of others

	entries    []*entry
	first      map[string]*entry // by key: what %(key) means
	operators  map[string]*entry // of them the first that is the operator's alone
	size       int               // bytes of entries
	grown      int               // bytes of them after expansion
	work       int               // bytes that placeholders moved
	stopped    bool              // a limit was passed
	pending    int               // entries that inheritPending has not looked at
	declared   map[string]declaration
	referenced map[string]bool
	strict     bool
	strictAt   vassal.Origin

	words map[string]wordOf
	answers
	asked
	problems
}

func newReader(src Source, host Host, opt ReadOptions) *reader {
	r := &reader{
		src: src, opt: opt, host: host, operator: opt.Operator, cwd: src.Cwd,
		first: map[string]*entry{}, operators: map[string]*entry{}, lastINI: map[bool]string{}, declared: map[string]declaration{}, referenced: map[string]bool{},
	}
	if r.operator == nil {
		r.operator = host
	}
	if r.cwd == "" {
		r.cwd = path.Dir(src.Path)
	}
	if opt.Known == nil {
		r.opt.Known = func(string) bool { return false }
	}
	if opt.Plugin == nil {
		r.opt.Plugin = func(name string) bool { return knownPlugin(pluginName(name)) }
	}
	r.own = &magic{name: src.Path, path: src.Path, section: src.Section, inode: src.Inode}
	r.words = languageWords()
	r.answers = answers{files: map[string]fileAnswer{}, stats: map[string]statAnswer{}, globs: map[string]globAnswer{}, envs: map[string]envAnswer{}}
	r.asked.init()
	// The file itself is what the monitor opened, also when it names itself.
	r.files[new(text).by(src.Path)] = fileAnswer{HostFile: HostFile{Data: src.Text, Inode: src.Inode, Operator: src.Trust.Operator}}
	r.answered("source", src.Path, src.Section, src.Trust.Operator, src.Text)
	return r
}

// listed is the text on whose behalf a file of one of the operator's lists is
// read.
func (r *reader) listed(layer vassal.Layer) *text {
	return &text{file: "", layer: layer, host: r.operator, operator: true, asks: true, lists: r.opt.Operator != nil, magic: r.own}
}

func (r *reader) presets() {
	for _, p := range r.opt.Set {
		if p.Origin.Layer == "" {
			p.Origin.Layer = vassal.Defaults
		}
		t := r.listed(p.Origin.Layer)
		t.file = p.Origin.File
		r.answered("set", p.Key, p.Value)
		at := place{t, p.Origin.Line}
		r.add(&entry{key: p.Key, value: r.substitute(r.own, p.Key, p.Value, at), raw: p.Value, at: at, preset: &p.Origin})
	}
}

// sections returns the sections to read, in their order.
func sections(asked string) []string {
	if asked != "" {
		return []string{asked}
	}
	return []string{"uwsgi", "vassal"}
}

// readText reads the lines of one section of a text.
func (r *reader) readText(t *text, data []byte, section string) {
	if !t.main {
		r.answered("text", t.file, section, data)
	}
	x := lexer{
		wanted: sections(section),
		report: func(num int, code, message, hint string) { r.fail(place{t, num}, "", code, message, hint) },
		note:   func(num int, code, message, hint string) { r.warn(place{t, num}, "", code, message, hint) },
	}
	lines, found := x.lex(data)
	if !found && !t.optional {
		r.noSection(t, &x, section)
	}
	if t.main && x.seen["emperor"] && section == "" {
		r.say(vassal.Note, place{t, 0}, "", vassal.CodeEmperorSection, "the attributes in section [emperor] are not used", "")
	}
	r.run(t, lines)
}

func (r *reader) noSection(t *text, x *lexer, section string) {
	want := "[uwsgi] or [vassal]"
	hint := "begin the file with [uwsgi]"
	if strings.HasSuffix(t.file, RegistrationSuffix) {
		hint = "the registration of a plugin? it goes to " + RegistrationDir + ", or to a directory that plugins-dir names"
	}
	if section != "" {
		want = "[" + section + "]"
		hint = ""
	}
	for name := range x.seen {
		for _, w := range x.wanted {
			if strings.EqualFold(name, w) {
				hint = "write [" + w + "]: upper and lower case count"
			}
		}
	}
	if t.main {
		r.fail(place{t, 0}, "", vassal.CodeNoSection, "has no section "+want, hint)
		return
	}
	r.warn(place{t, 0}, "", vassal.CodeNoSection, "has no section "+want+": nothing of it is used", hint)
}

// load reads another file in the name of the text at. value is as written:
// PATH, PATH:SECTION or :SECTION.
func (r *reader) load(by *text, at place, key, value string) {
	value = unguard(value)
	if at.text == nil {
		at = place{by, 0}
	}
	name, section, ok := r.target(at, key, value)
	if !ok {
		return
	}
	id := name + ":" + section
	switch {
	case slices.Contains(by.chain, id):
		r.fail(at, key, vassal.CodeTooBig, "the file includes itself", "")
		return
	case by.depth >= MaxDepth:
		r.fail(at, key, vassal.CodeTooBig, fmt.Sprintf("more than %d files include each other", MaxDepth), "")
		return
	}
	t := *by
	t.file, t.main, t.optional, t.depth = name, false, false, by.depth+1
	t.chain = append(slices.Clone(by.chain), id)
	f, ok := r.readFile(by, at, key, name)
	if !ok {
		return
	}
	if by.operator && !f.Operator {
		t.operator, t.asks = false, false
		if t.layer == vassal.Enforced {
			t.layer = vassal.OwnFile // a user says nothing last
		}
	}
	t.magic = &magic{name: value, path: name, section: section, inode: f.Inode, own: r.own}
	if strings.HasPrefix(value, ":") {
		t.magic.name = name
	}
	r.lastINI[t.operator] = name
	r.readText(&t, f.Data, section)
}

// target splits what an include names. The section is behind the last colon;
// uWSGI would take a colon in a directory for it.
func (r *reader) target(at place, key, value string) (name, section string, ok bool) {
	name = value
	if i := strings.LastIndexByte(value, ':'); i >= 0 && !strings.Contains(value[i:], "/") {
		name, section = value[:i], value[i+1:]
		if i == 0 {
			name = r.lastINI[at.operator]
		}
	}
	switch {
	case name == "" || name == "-":
		r.fail(at, key, vassal.CodeUnreadable, "names no file", "")
		return "", "", false
	case hasScheme(name):
		r.refuseScheme(at, key, name)
		return "", "", false
	}
	return r.abs(name), section, true
}

func (r *reader) abs(name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join(r.cwd, name)
}

// hasScheme reports whether uWSGI would not open name as a file.
func hasScheme(name string) bool {
	scheme, _, ok := strings.Cut(name, "://")
	return ok && strings.Trim(scheme, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-") == ""
}

func (r *reader) refuseScheme(at place, key, name string) {
	scheme, _, _ := strings.Cut(name, "://")
	r.fail(at, key, vassal.CodeRefusedScheme, fmt.Sprintf("%s:// runs a program, opens a connection or reads what is no file; only a path is read", clip(scheme)), "write the content to a file and name its path")
}

func enforced(s Setting) int {
	if s.Origin.Layer == vassal.Enforced {
		return 1
	}
	return 0
}

// finish makes the File.
func (r *reader) finish() (*File, vassal.Problems) {
	f := &File{Source: r.src, Strict: r.strict, StrictAt: r.strictAt}
	for i := 0; i < len(r.entries); i++ { // a declared option may add more
		e := r.entries[i]
		if e.kind == word {
			continue
		}
		s := Setting{
			Key: unguard(e.key), Value: unguard(e.expanded), Bare: e.bare, Origin: e.origin(), Raw: e.raw,
			Placeholder: e.kind == placeholder, Tenant: e.tenant,
		}
		if d, ok := r.declaredFor(s); ok && e.kind == option {
			s.Placeholder = true
			f.Settings = append(f.Settings, s)
			f.Settings = r.custom(f.Settings, e, s, d, 0)
			continue
		}
		f.Settings = append(f.Settings, s)
	}
	// Whatever a file reads late (inherit, a declared option that includes) comes before
	// what the operator says last.
	slices.SortStableFunc(f.Settings, func(a, b Setting) int {
		return cmp.Compare(enforced(a), enforced(b))
	})
	for i, s := range f.Settings {
		f.Settings[i].Used = r.referenced[s.Key]
	}
	f.Plugins = r.registrations()
	f.Reads, f.Digest = r.asked.finish()
	return f, r.problems.finish()
}
