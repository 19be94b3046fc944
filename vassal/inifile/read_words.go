package inifile

import (
	"fmt"
	"strings"

	"liege/vassal"
)

// languageWords are the keys that belong to the language and not to the table
// of options: Read acts on them, and none becomes a Setting.
func languageWords() map[string]wordOf {
	w := map[string]wordOf{
		"for":          {open: forList},
		"for-times":    {open: forTimes},
		"for-glob":     {open: forGlob},
		"for-readline": {open: forReadline},
		"else":         {otherwise: true},

		"include":         {now: (*reader).include},
		"ini":             {now: (*reader).include},
		"config":          {now: (*reader).include},
		"inherit":         {now: (*reader).remember},
		"set":             {now: (*reader).set},
		"set-placeholder": {now: (*reader).setPlaceholder},
		"set-ph":          {now: (*reader).setPlaceholder},
		"declare-option":  {now: (*reader).declare},
		"declare-option2": {now: (*reader).declare},
		"strict":          {now: (*reader).setStrict},
	}
	for _, name := range []string{"end", "endfor", "endif", "end-for", "end-if"} {
		w[name] = wordOf{end: true}
	}
	for _, name := range []string{"xml", "xmlconfig", "yaml", "yml", "json", "js"} {
		w[name] = wordOf{now: (*reader).otherFormat}
	}
	conditions := map[string]opener{
		"opt": ifOpt, "env": ifEnv, "reload": ifReload, "plugin": ifPlugin,
		"hostname": ifHostname, "hostname-match": ifHostnameMatch,
		"exists": ifStat(anything), "file": ifStat(isFile), "dir": ifStat(isDir),
	}
	for name, open := range conditions {
		w["if-"+name] = wordOf{open: open}
		w["if-not-"+name] = wordOf{open: unless(open)}
	}
	w["if-not-opt"], w["if-not-env"] = wordOf{open: ifNotOpt}, wordOf{open: ifNotEnv}
	for alias, name := range map[string]string{"ifenv": "if-env", "ifexists": "if-exists", "ifplugin": "if-plugin", "ifdir": "if-dir", "if-directory": "if-dir"} {
		w[alias] = w[name]
	}
	return w
}

// add appends one entry and acts on it if it is a word.
func (r *reader) add(e *entry) {
	r.size += len(e.key) + len(e.value)
	switch {
	case r.stopped:
		return
	case e.key == "":
		r.fail(e.at, "", vassal.CodeSyntax, "no name before the equals sign", "")
		return
	case len(r.entries) >= MaxSettings:
		r.stop(e.at, e.key, fmt.Sprintf("more than %d settings", MaxSettings))
		return
	case r.size > MaxExpansion:
		r.stop(e.at, e.key, fmt.Sprintf("the settings have more than %d bytes together", MaxExpansion))
		return
	}
	e.raw, e.expanded = unguard(e.value), e.value
	r.entries = append(r.entries, e)
	if r.first[e.key] == nil {
		r.first[e.key] = e
	}
	if r.operators[e.key] == nil && e.at.operator && !e.tenant {
		r.operators[e.key] = e
	}
	if w, ok := r.words[e.key]; ok {
		e.kind = word
		if w.now == nil {
			r.fail(e.at, e.key, vassal.CodeBlock, "cannot stand here", "")
			return
		}
		w.now(r, e)
	}
}

func (r *reader) include(e *entry) {
	if r.strangers(e) {
		return
	}
	r.load(e.at.text, e.at, e.key, e.value)
}

// remember keeps an inherit for later: its path is expanded first.
func (r *reader) remember(*entry) {}

func (r *reader) otherFormat(e *entry) {
	r.fail(e.at, e.key, vassal.CodeUnreadable, "only ini files are read", "write it as ini and use ini = FILE.ini")
}

func (r *reader) set(e *entry) {
	if name, value, ok := r.assignment(e); ok {
		r.add(&entry{key: name, value: value, at: e.at, late: e.late, tenant: e.tenant, preset: e.preset})
	}
}

func (r *reader) setPlaceholder(e *entry) {
	name, value, ok := r.assignment(e)
	if !ok {
		return
	}
	if r.opt.Known(name) || r.isWord(name) {
		r.fail(e.at, e.key, vassal.CodePlaceholder, fmt.Sprintf("%s is an option and cannot be a placeholder", clip(name)), "take another name, or write "+clip(name)+" = …")
		return
	}
	before := len(r.entries)
	r.add(&entry{key: name, value: value, at: e.at, late: e.late, tenant: e.tenant, preset: e.preset})
	if len(r.entries) > before {
		r.entries[len(r.entries)-1].kind = placeholder
	}
}

func (r *reader) assignment(e *entry) (name, value string, ok bool) {
	name, value, ok = strings.Cut(e.value, "=")
	name = unguard(name)
	if !ok || name == "" {
		r.fail(e.at, e.key, vassal.CodeSyntax, "has no NAME=VALUE", e.key+" = NAME=VALUE")
		return "", "", false
	}
	return name, value, true
}

func (r *reader) declare(e *entry) {
	name, template, ok := r.assignment(e)
	if !ok {
		return
	}
	if r.isWord(name) {
		r.fail(e.at, e.key, vassal.CodeSyntax, fmt.Sprintf("%s is a word of the language", clip(name)), "take another name")
		return
	}
	if r.opt.Known(name) {
		r.fail(e.at, e.key, vassal.CodePlaceholder, fmt.Sprintf("%s is an option and cannot be declared", clip(name)), "take another name, or write "+clip(name)+" = …")
		return
	}
	if d, again := r.declared[name]; !again || d.tenant && !e.tenant {
		r.declared[name] = declaration{template, e.tenant}
	}
}

// declaration is what a declared option stands for, and whether a user said so.
type declaration struct {
	template string
	tenant   bool
}

// declaredFor is the declaration that is meant by s. A user's says nothing about
// the operator's lines.
func (r *reader) declaredFor(s Setting) (declaration, bool) {
	d, ok := r.declared[s.Key]
	return d, ok && (s.Tenant || !d.tenant)
}

// strangers reports whether a line of the operator's has in it what a user gave,
// and may therefore not say which file is read.
func (r *reader) strangers(e *entry) bool {
	if !e.tenant || !e.at.operator {
		return false
	}
	r.fail(e.at, e.key, vassal.CodeNotForTenants, "a part of the name comes from a file or a directory that is not root's alone", "write the name out")
	return true
}

func (r *reader) setStrict(e *entry) {
	if e.tenant && r.src.Trust.Operator {
		return // root's file says it
	}
	switch strings.ToLower(unguard(e.value)) {
	case "false", "off", "no", "0":
		r.strict = false
	default:
		r.strict, r.strictAt = true, e.origin()
	}
}

func (r *reader) isWord(key string) bool {
	_, ok := r.words[key]
	return ok
}

// inherit reads the files whose lines come after all others.
func (r *reader) inherit() {
	r.inheritFrom(r.opt.InheritBefore, "vassals-inherit-before")
	r.inheritPending()
	r.inheritFrom(r.opt.Inherit, "vassals-inherit")
	r.inheritPending()
}

func (r *reader) inheritFrom(list []string, key string) {
	for _, p := range list {
		t := r.listed(vassal.Enforced)
		t.late = true
		r.load(t, place{}, key, p)
	}
}

// inheritPending takes the inherit lines that were not taken yet: an inherited
// file may inherit.
func (r *reader) inheritPending() {
	for ; r.pending < len(r.entries) && !r.stopped; r.pending++ {
		e := r.entries[r.pending]
		if e.key != "inherit" || e.kind != word || r.strangers(e) {
			continue
		}
		t := *e.at.text
		t.late = true
		r.load(&t, e.at, e.key, e.expanded)
	}
}
