package inifile

import (
	"cmp"
	"encoding/json"
	"strings"
	"sync"
)

// An Option is one row of the table: what a key means, what this release does
// about it, who may use it, and which host path it names. Parsing, the hints
// of check, docs/options.md and shell completion all come from it.
type Option struct {
	Name    string // as in docs and messages
	Aliases string // other spellings of the same option, separated by spaces
	Short   string // letter of liege serve: "s" for -s
	Group   string // heading in docs/options.md
	Type    Type
	Unit    string // "MB", "seconds", "bytes"; empty: a plain number or text
	Default string // empty: none, off, or said in Doc
	Many    bool   // every line counts, in order; false: the last one wins
	Says    string // shared by options of which one line says what a line of another does; with Many, about the name before "="; empty: none does
	Empty   string // what a line without a value means; empty: it needs one
	Class   Class
	Effect  string // for every class but Works: what happens instead, what is missing, what to write
	Serves  Serves // NotYet only: what cannot be served without it
	Tenant  bool   // a tenant's file may use it
	Path    PathUse
	Plugin  string // the uWSGI plugin it belongs to; empty: its core
	Since   string // "uwsgi 2.0", "uwsgi 2.1" or "liege"
	Doc     string // one sentence
	Section string // of emperor.ini; empty: [vassal] or [uwsgi] of a vassal's file
}

// Type is the shape of an option's value.
type Type string

// The types.
const (
	Bool     Type = "switch"   // first word: false off no 0, anything else is true; bare is true
	Int      Type = "number"   // leading decimal number
	String   Type = "text"     // kept whole
	Size     Type = "size"     // number in the option's unit; ours take 512M, 2G
	Duration Type = "seconds"  // leading number of seconds; ours take 500ms, 2m
	Mode     Type = "mode"     // octal
	Keyval   Type = "k=v"      // split at the first "="
	Number   Type = "decimal"  // 1.5
	Address  Type = "address"  // of a listener or an upstream
	Action   Type = "action"   // of a hook, action:argument
	Routing  Type = "rule"     // of internal routing
	Language Type = "language" // part of the ini language, not an option
)

// Class is what this release does about an option (docs/compatibility.md).
type Class string

// The classes.
const (
	Works     Class = "works"
	Always    Class = "always so"
	Otherwise Class = "done otherwise"
	NotYet    Class = "not yet"
	Refused   Class = "refused"
)

// Serves says what an option that is not there yet would have served: a file
// with nothing else of the kind cannot be served at all.
type Serves string

// What can be missing.
const (
	ServesApp    Serves = "app"
	ServesSocket Serves = "listener"
	ServesJob    Serves = "job"
	ServesGuard  Serves = "guard" // it keeps somebody out: never skipped in silence
)

// PathUse says how a host path that the option names is brought in.
type PathUse string

// The uses.
const (
	PathNone   PathUse = ""
	PathRO     PathUse = "read-only"
	PathHost   PathUse = "as on the host" // with the access that owner and mode give the vassal's user
	PathAppDir PathUse = "app directory"
	PathDir    PathUse = "directory read-only" // the directory of the named file
	PathSocket PathUse = "socket"
	PathLog    PathUse = "log"
	PathCert   PathUse = "certificate"
	PathWatch  PathUse = "watched outside"
)

// Options returns the table: grouped, in the order of the documentation. It is
// shared: don't modify it.
func Options() []Option { return table }

// index finds options by every name; it is made on first use, because the
// Emperor's binary is also libcontainer's init and starts once per vassal.
var index = sync.OnceValue(func() map[string]*Option {
	m := make(map[string]*Option, 2*len(table))
	for i := range table {
		m[table[i].Name] = &table[i]
		for _, a := range table[i].Alias() {
			m[a] = &table[i]
		}
	}
	return m
})

// Lookup returns the option that key names, be it an alias. Underscores and
// dashes are different characters, as in uWSGI.
func Lookup(key string) (*Option, bool) {
	o, ok := index()[key]
	return o, ok
}

// Alias returns the other spellings.
func (o *Option) Alias() []string { return strings.Fields(o.Aliases) }

// elsewhere are words that other servers have for an option, or that people
// write for it: no spelling leads from one to the other.
var elsewhere = map[string]string{
	"app": "module", "application": "module", "entrypoint": "module", "module-name": "module", "script": "wsgi-file",
	"pid": "pidfile", "pid-file": "pidfile", "pidfile-path": "pidfile",
	"log": "logto", "logs": "logto", "logfile": "logto", "log-file": "logto", "stdout-logfile": "logto", "stderr-logfile": "logto", "errorlog": "logto",
	"accesslog": "req-logger", "access-log": "req-logger", "access-logfile": "req-logger",
	"user": "uid", "username": "uid", "group": "gid", "dir": "chdir", "directory": "chdir", "cwd": "chdir", "working-directory": "chdir",
	"port": "http-socket", "listen-address": "http-socket", "timeout": "harakiri", "request-timeout": "harakiri",
	"proc": "processes", "procs": "processes", "num-workers": "processes", "concurrency": "processes", "num-threads": "threads",
	"environment": "env", "environ": "env", "auto-reload": "py-autoreload",
}

// fewest is how long a key is for which one is looked for that is not longer:
// of three letters each change makes another word, such as gid of pid.
const fewest = 4

// Nearest returns the option's spelling that key most likely meant, or the
// empty string when none is near.
func Nearest(key string) string {
	name, _, _ := strings.Cut(key, ":") // of "uid: www-data"
	name = strings.TrimLeft(strings.ReplaceAll(strings.ToLower(strings.TrimSpace(name)), "_", "-"), "-")
	if Known(name) && name != key {
		return name
	}
	return cmp.Or(elsewhere[name], misspelt(key))
}

// misspelt returns the option's spelling that is nearest to key, if one is near.
func misspelt(key string) string {
	if len(key) > 64 {
		return ""
	}
	limit := 1 + len(key)/6
	best, bestDist := "", limit+1
	for i := range table {
		for _, n := range append(table[i].Alias(), table[i].Name) {
			if abs(len(n)-len(key)) >= bestDist && bestDist <= limit || len(key) < fewest && len(n) <= len(key) {
				continue
			}
			d := distance(key, n)
			if d < bestDist || d == bestDist && d <= limit && rank(n) < rank(best) {
				best, bestDist = n, d
			}
		}
	}
	return best
}

// rank prefers, among equally near names, one that works here, then the one
// that sorts first.
func rank(name string) string {
	if o, ok := Lookup(name); ok && o.Class == Works {
		return "0" + name
	}
	return "1" + name
}

func abs(n int) int { return max(n, -n) }

// distance is the edit distance with transpositions of neighbours (optimal
// string alignment).
func distance(a, b string) int {
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}

// Known reports whether key is the name of an option; an unknown key is a
// placeholder.
func Known(key string) bool {
	_, ok := Lookup(key)
	return ok
}

// MarshalJSON is the form that liege options --json prints: every member is
// always there, null where there is nothing.
func (o Option) MarshalJSON() ([]byte, error) {
	text := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	repeat := "last"
	if o.Many {
		repeat = "accumulates"
	}
	return json.Marshal(struct {
		Name    string   `json:"name"`
		Aliases []string `json:"aliases"`
		Short   *string  `json:"short"`
		Group   string   `json:"group"`
		Type    Type     `json:"type"`
		Unit    *string  `json:"unit"`
		Default *string  `json:"default"`
		Repeat  string   `json:"repeat"` // what a second line does: "accumulates", or the "last" wins
		Without *string  `json:"without_value"`
		Class   Class    `json:"class"`
		Effect  *string  `json:"effect"`
		Tenant  bool     `json:"tenant_safe"`
		Path    *string  `json:"path"`
		Plugin  *string  `json:"plugin"`
		Since   string   `json:"since"`
		Doc     string   `json:"doc"`
		Section string   `json:"section"` // "vassal", for which [uwsgi] does too, or one of emperor.ini
	}{o.Name, append([]string{}, o.Alias()...), text(o.Short), o.Group, o.Type, text(o.Unit), text(o.Default), repeat, text(o.Empty), o.Class,
		text(o.Effect), o.Tenant, text(string(o.Path)), text(o.Plugin), o.Since, o.Doc, cmp.Or(o.Section, "vassal")})
}
