// Package inifile turns a vassal's ini text into a vassal.Config. The language
// is the one of uWSGI; the options are one table (Options) from which parsing,
// hints, documentation and shell completion all come.
//
//	f, problems := inifile.Read(src, host, opt)    // the language: text → settings
//	cfg, problems := inifile.Decode(f, policy)     // the table: settings → Config
//
// Both are functions of their arguments alone: what the text asks of the host
// (includes, globs, conditions, environment) goes through the small interface
// Host and becomes part of the digest. All problems of a file are reported at
// once; a Config is usable only when none of them is an Error.
//
// # The language
//
// A file is read line by line. A line is blank, a comment (its first character
// is ";" or "#"), a section header "[name]", or "key = value": the first "="
// splits, blanks around both sides go, everything else is kept as it stands,
// quotes and "#" included. A key without "=" is a switch that is on. Only the
// section asked for is looked at: the one after the last ":" of the name, else
// [uwsgi] and then [vassal].
//
// Four things happen to a line, in this order, and none of them looks at what
// an earlier one inserted: text that came from a file name, the environment or
// another file is data, whatever characters it has.
//
//  1. %x, one character: the magic variables (magic.go).
//  2. if-…, for…, include, ini, set, declare-option: at once, on the text as
//     written, so that an $(X) in them is not expanded.
//  3. $(X), $(X-default), $(X:-default): environment; @(path): content of a file.
//  4. %(name), %(a b + 1): the first setting of that name, wherever it stands;
//     in a line of the operator's the operator's first, if there is one.
//
// inherit comes after all of it: its lines are last and are not expanded.
package inifile

import (
	"strings"

	"liege/vassal"
)

// Limits of the language. What passes one of them is an Error of the line that
// did it.
const (
	MaxFile      = 1 << 20  // bytes of one file
	MaxDepth     = 16       // of include
	MaxExpansion = 4 << 20  // bytes of all settings after expansion
	MaxSettings  = 65536    // settings after expansion
	MaxReads     = 4096     // questions to the host
	MaxReadBytes = 16 << 20 // bytes of all files read
	MaxProblems  = 200      // problems of one text; the rest is counted
)

// Source is one vassal file as the monitor opened it: bytes and the names that
// the magic variables show.
type Source struct {
	Path    string // as the monitor found it: %p %s %d %n %o; absolute
	Section string // from "file.ini:section"; empty: [uwsgi], then [vassal]
	Text    []byte
	Cwd     string // %v, and what relative paths start from; empty: the directory of Path
	Inode   uint64 // %i
	Trust   vassal.Trust
}

// SplitSection splits FILE.ini:SECTION, as a command line names the section of a
// file.
func SplitSection(arg string) (file, section string) {
	if i := strings.LastIndexByte(arg, ':'); i > 0 && strings.HasSuffix(arg[:i], ".ini") {
		return arg[:i], arg[i+1:]
	}
	return arg, ""
}

// ReadOptions is what Read needs beside the text.
type ReadOptions struct {
	// Known reports whether key is an option of the table. An unknown key is a
	// placeholder. Nil: no key is known.
	Known func(key string) bool
	// Plugin reports whether the uWSGI plugin of that name is built in, for
	// if-plugin, where uWSGI asks whether it is loaded. Nil: every plugin that
	// uWSGI and Debian have.
	Plugin func(name string) bool

	Before        []Layered // [defaults]: weakest
	Set           []Preset  // vassal-set, vassals-set
	IncludeBefore []string  // vassals-include-before: files read before the vassal's own lines
	InheritBefore []string  // vassals-inherit-before: read last all the same, as uWSGI does
	Include       []string  // vassals-include: after the vassal's own lines
	Inherit       []string  // vassals-inherit: last of all

	// Operator reads the files that the four lists above name; they are the
	// operator's, also when the vassal's file is a tenant's. Nil: the host
	// given to Read.
	Operator Host

	Version string // %V
	Binary  string // %b
	Reload  bool   // if-reload: another generation of this vassal runs already
}

// Layered is text of the operator that is read before a vassal's own as if it
// stood there: its magic variables show the vassal's file, not Path.
type Layered struct {
	Path    string // for messages and origins
	Section string // the one that is read
	Text    []byte
	Layer   vassal.Layer
}

// Preset is a setting that the operator puts before every vassal's own.
type Preset struct {
	Key, Value string
	Origin     vassal.Origin // Layer is Defaults if empty
}

// A Setting is one option with one value, after expansion, in the order in
// which it takes effect.
type Setting struct {
	Key    string
	Value  string
	Bare   bool // written without "="
	Origin vassal.Origin
	Raw    string // the value before $(), @() and %() expansion, for warnings

	// Placeholder: the line only gives a name to a value, whatever the table
	// says about the key: set-placeholder, or the use of an option made with
	// declare-option (what that stands for follows as settings of their own).
	Placeholder bool
	// Used: a %(…), an if-opt or an if-not-opt somewhere refers to the key.
	Used bool
	// Tenant: the line, or a placeholder in it, comes from a file that is not
	// the operator's, even if the vassal's file is. Only options that are safe
	// for tenants may be taken from it.
	Tenant bool
}

// A Query is one question that the text asked the host.
type Query struct {
	Kind string // "file", "stat", "glob", "env", "hostname", "user", "cpus"
	Name string
}

// File is an expanded ini text. Words of the language itself (include, if-…,
// for…, set, declare-option, strict) are not among its Settings.
type File struct {
	Source   Source
	Settings []Setting
	Reads    []Query // in order, each once, without the file itself
	Digest   vassal.Digest
	Plugins  []Registration // that plugin lines name, and that were found

	Strict   bool          // strict = true: unknown keys are errors
	StrictAt vassal.Origin // of that line
}
