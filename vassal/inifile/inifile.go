// Package inifile turns a vassal's ini text into a vassal.Config. The language
// is the one of uWSGI; the options are one table (Options) from which parsing,
// hints, documentation and shell completion all come.
//
//	f, problems := inifile.Read(src, host)         // the language: text → settings
//	cfg, problems := inifile.Decode(f, policy)     // the table: settings → Config
//
// Both are functions of their arguments alone: what the text asks of the host
// (includes, globs, conditions, environment) goes through the small interface
// Host and becomes part of the digest. All problems of a file are reported at
// once; a Config is usable only when none of them is an Error.
package inifile

import (
	"io/fs"

	"liege/vassal"
)

// Limits of the language.
const (
	MaxFile      = 1 << 20 // bytes of one file
	MaxDepth     = 16      // of include
	MaxExpansion = 4 << 20 // bytes of all settings after expansion
	MaxSettings  = 65536   // settings after expansion
)

// Source is one vassal file as the monitor opened it: bytes and the names that
// the magic variables show.
type Source struct {
	Path    string // as the monitor found it: %p %s %d %n %o; absolute
	Section string // from "file.ini:section"; empty: [uwsgi], then [vassal]
	Text    []byte
	Cwd     string // %v
	Inode   uint64 // %i
	Trust   vassal.Trust
}

// Host answers what an ini text may ask. For a tenant's file the
// implementation answers with the owner's rights only. Tests use a map.
type Host interface {
	// ReadFile returns at most MaxFile bytes of a regular file.
	ReadFile(path string) ([]byte, error)
	Stat(path string) (fs.FileInfo, error)
	Glob(pattern string) ([]string, error)
	Getenv(name string) (string, bool)
	Hostname() string
	User() (uid int, name string, gid int, group string) // of this process: %u %U %g %G
	CPUs() int                                           // %k
	UnixTime() (sec int64, usec int64)                   // %t %T
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

// A Read is one question that the text asked the host.
type Read struct {
	Kind string // "file", "stat", "glob", "env", "hostname"
	Name string
}

// File is an expanded ini text.
type File struct {
	Source   Source
	Settings []Setting
	Reads    []Read // in order, without the file itself
	Digest   vassal.Digest

	Strict bool // strict = true: unknown keys are errors
}
