// Package ruby runs Rack applications, of Rack 1, 2 and 3, by any Ruby from
// 1.9.3 on: the one that the file names by a registration (see docs/
// runtimes.md), or the system's.
//
// The program in the interpreter needs its standard library alone; the gem
// rack must be where that interpreter, or the application's Gemfile, finds it.
package ruby

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"liege/serve/worker/lang"
	"liege/serve/worker/shims"
	"liege/vassal"
)

// Ruby is Rack: it implements lang.Runtime.
type Ruby struct {
	app         *vassal.App
	w           *vassal.Workers
	interpreter string
}

// Default is the interpreter where the file names none.
const Default = "/usr/bin/ruby"

// version is what UWSGI::VERSION and env["uwsgi.version"] say. Applications
// compare it with uWSGI's.
const version = "2.0.21-liege"

// New is the runtime of app, whose Workers.Ruby is set.
func New(app *vassal.App) *Ruby {
	rb := &Ruby{app: app, w: app.Workers, interpreter: app.Workers.Interpreter}
	if rb.interpreter == "" {
		rb.interpreter = Default
	}
	return rb
}

// Command implements lang.Interpreter.
func (rb *Ruby) Command() (string, []string) {
	return rb.interpreter, []string{rb.interpreter, "-e", shims.RubyBoot}
}

// Program implements lang.Interpreter.
func (rb *Ruby) Program() [][]byte { return [][]byte{[]byte(shims.Ruby)} }

// Settings implements lang.Interpreter.
func (rb *Ruby) Settings() []lang.Entry {
	a := rb.w.Ruby
	return append(lang.Keys(rb.app), []lang.Entry{
		{Name: "file", Value: rb.file()},
		{Name: "lib", Value: a.Lib},
		{Name: "require", Value: a.Require},
		{Name: "shared_require", Value: a.SharedRequire},
		{Name: "gc_freq", Value: a.GCFreq},
		{Name: "early_hints", Value: a.EarlyHints},
		{Name: "version", Value: version},
	}...)
}

func (rb *Ruby) file() string {
	if f := rb.w.Ruby.File; filepath.IsAbs(f) || rb.app.Dir == "" {
		return f
	}
	return filepath.Join(rb.app.Dir, rb.w.Ruby.File)
}

func (rb *Ruby) error(code, message, hint string) *vassal.Problem {
	at := rb.w.Ruby.At
	return &vassal.Problem{Severity: vassal.Error, Code: code, Step: lang.Step, File: at.File, Line: at.Line, Key: cmp.Or(rb.w.Ruby.Key, "rack"),
		Message: message, Hint: hint}
}

// Problem implements lang.Explainer; it reads "kind NUL message NUL place NUL
// name".
func (rb *Ruby) Problem(text string) *vassal.Problem {
	words := append(strings.SplitN(text, "\x00", 4), "", "", "", "")
	kind, message, place, name := words[0], words[1], words[2], words[3]
	if place != "" && !strings.Contains(message, place) {
		message += " (" + place + ")"
	}
	switch kind {
	case "load":
		return rb.error(vassal.CodeImportError, message, rb.loadHint(name))
	case "gem":
		hint := rb.gemHint(name)
		if strings.Contains(message, "write to") && strings.Contains(message, "Gemfile.lock") {
			hint = "bundle lock, in the directory of the Gemfile: without a Gemfile.lock the app's user must be able to write one"
		}
		return rb.error(vassal.CodeImportError, message, hint)
	case "callable":
		return rb.error(vassal.CodeNoCallable, message, "a config.ru ends with run and the application")
	case "file":
		return rb.error(vassal.CodeAppNotFound, message, lang.AccessHint(message, "check rack and chdir; a path outside the app's directory needs a bind ="))
	case "dir":
		return rb.error(vassal.CodeAppNotFound, message, lang.AccessHint(message, "check chdir"))
	case "memory":
		return rb.error(vassal.CodeOOM, message, lang.MemoryHint(rb.w))
	case "syntax":
		return rb.error(vassal.CodeImportError, message, lang.SyntaxHint(rb.interpreter+" -c", message))
	case "exit", "exception":
		return rb.error(vassal.CodeImportError, message, lang.HintOf(message))
	}
	return rb.error(vassal.CodeProtocol, fmt.Sprintf("the application's loader said %.100q", text), "")
}

// gem is the command that installs gems of this interpreter.
func (rb *Ruby) gem() string {
	if rb.interpreter == Default {
		return "gem"
	}
	return filepath.Join(filepath.Dir(rb.interpreter), "gem")
}

func (rb *Ruby) gemHint(name string) string {
	switch {
	case name == "rack" && rb.interpreter == Default:
		return "apt install ruby-rack, or a Gemfile that names rack"
	case name == "rack":
		return rb.gem() + " install rack, or a Gemfile that names rack"
	case name == "bundler" && rb.interpreter == Default:
		return "apt install ruby-bundler"
	case name == "bundler":
		return rb.gem() + " install bundler"
	}
	return "bundle install, in the directory of the Gemfile"
}

// loadHint looks for what a LoadError usually means: the file beside it, or a
// gem that is not there.
func (rb *Ruby) loadHint(name string) string {
	if name == "" || strings.ContainsAny(name, "\x00") || filepath.IsAbs(name) {
		return ""
	}
	entries, _ := os.ReadDir(rb.app.Dir)
	for _, e := range entries {
		sub := filepath.Join(rb.app.Dir, e.Name())
		if _, err := os.Stat(filepath.Join(sub, name+".rb")); err == nil {
			return "rb-lib = " + sub
		}
	}
	if _, err := os.Stat(filepath.Join(rb.app.Dir, name+".rb")); err == nil {
		return "rb-lib = . (Ruby does not look in the application's directory), or require_relative"
	}
	if _, err := os.Stat(filepath.Join(rb.app.Dir, "Gemfile")); err == nil {
		return "name the gem in the Gemfile: bundle add " + first(name)
	}
	return rb.gem() + " install " + first(name)
}

// first is the gem that usually holds a file: that of its first directory.
func first(name string) string {
	name, _, _ = strings.Cut(name, "/")
	return name
}

// NoStart implements lang.Explainer.
func (rb *Ruby) NoStart(err error) *vassal.Problem {
	if !errors.Is(err, fs.ErrNotExist) {
		return rb.error(vassal.CodeNoInterpreter, err.Error(), lang.NoStartHint(err))
	}
	hint := "apt install ruby"
	if rb.interpreter != Default {
		hint = "liege plugin build rack NAME --ruby PATH, and plugin = NAME"
	}
	return rb.error(vassal.CodeNoInterpreter, "interpreter "+rb.interpreter+" not found", hint)
}

// Died implements lang.Explainer.
func (rb *Ruby) Died(worker int, how string) *vassal.Problem {
	return rb.error(lang.WorkerDied(rb.w, worker, how))
}

// LoaderDied implements lang.Explainer.
func (rb *Ruby) LoaderDied(how, output string, loaded bool) *vassal.Problem {
	return rb.error(lang.LoaderDied(rb.w, rb.interpreter, how, output, "memory", loaded))
}
