// Package perl runs PSGI applications by any Perl from 5.10.1 on: the one that
// the file names by a registration (see docs/runtimes.md), or the system's.
//
// The program in the interpreter needs modules of Perl's core alone; Plack need
// not be there.
package perl

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"liege/serve/worker/lang"
	"liege/serve/worker/shims"
	"liege/vassal"
)

// Perl is PSGI: it implements lang.Runtime.
type Perl struct {
	app         *vassal.App
	w           *vassal.Workers
	interpreter string
}

// Default is the interpreter where the file names none.
const Default = "/usr/bin/perl"

// version is what $uwsgi::VERSION and uwsgi.version say.
const version = "2.0.21-liege"

// New is the runtime of app, whose Workers.Perl is set.
func New(app *vassal.App) *Perl {
	pl := &Perl{app: app, w: app.Workers, interpreter: app.Workers.Interpreter}
	if pl.interpreter == "" {
		pl.interpreter = Default
	}
	return pl
}

// Command implements lang.Interpreter.
func (pl *Perl) Command() (string, []string) {
	return pl.interpreter, []string{pl.interpreter, "-e", shims.PerlBoot}
}

// Program implements lang.Interpreter.
func (pl *Perl) Program() [][]byte { return [][]byte{[]byte(shims.Perl)} }

// Settings implements lang.Interpreter.
func (pl *Perl) Settings() []lang.Entry {
	a := pl.w.Perl
	return []lang.Entry{
		{Name: "file", Value: pl.path(a.File)},
		{Name: "lib", Value: a.Lib},
		{Name: "args", Value: a.Args},
		{Name: "exec", Value: pl.paths(a.Exec)},
		{Name: "exec_post_fork", Value: pl.paths(a.ExecPostFork)},
		{Name: "version", Value: version},
		{Name: "io", Value: a.IO},
		{Name: "watch", Value: a.Watch > 0},
		{Name: "unwatched", Value: a.Unwatched},
	}
}

// path is absolute, because Perl looks for a relative one in @INC.
func (pl *Perl) path(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join("/", pl.app.Dir, p)
}

func (pl *Perl) paths(list []string) []string {
	out := []string{}
	for _, p := range list {
		out = append(out, pl.path(p))
	}
	return out
}

func (pl *Perl) error(code, message, hint string) *vassal.Problem {
	at := pl.w.Perl.At
	return &vassal.Problem{Severity: vassal.Error, Code: code, Step: lang.Step, File: at.File, Line: at.Line, Key: cmp.Or(pl.w.Perl.Key, "psgi"),
		Message: message, Hint: hint}
}

// Problem implements lang.Explainer; it reads "kind NUL message NUL name".
func (pl *Perl) Problem(text string) *vassal.Problem {
	words := append(strings.SplitN(text, "\x00", 3), "", "", "")
	kind, message, name := words[0], words[1], words[2]
	switch kind {
	case "load":
		return pl.error(vassal.CodeImportError, shorter(message), pl.loadHint(name))
	case "callable":
		return pl.error(vassal.CodeNoCallable, message, "the last value of an app.psgi is the application, sub { … }")
	case "file":
		return pl.error(vassal.CodeAppNotFound, message, lang.AccessHint(message, "check psgi and chdir; a path outside the app's directory needs a bind ="))
	case "dir":
		return pl.error(vassal.CodeAppNotFound, message, lang.AccessHint(message, "check chdir"))
	case "syntax":
		return pl.error(vassal.CodeImportError, message, lang.SyntaxHint(pl.interpreter+" -c", message))
	case "exception":
		return pl.error(vassal.CodeImportError, message, lang.HintOf(message))
	case "processor":
		return pl.error(vassal.CodeNotYet, message, "")
	}
	return pl.error(vassal.CodeProtocol, fmt.Sprintf("the application's loader said %.100q", text), "")
}

var inc = regexp.MustCompile(` \(you may need to install the [^)]* module\)| \(@INC (entries checked|contains): [^)]*\)`)

// shorter takes the list of directories out of Perl's message, where it hides
// the place.
func shorter(message string) string { return inc.ReplaceAllString(message, "") }

// loadHint looks for what a missing module usually means. name is as in
// Foo/Bar.
func (pl *Perl) loadHint(name string) string {
	if name == "" || strings.ContainsAny(name, "\x00") || filepath.IsAbs(name) {
		return ""
	}
	file := strings.TrimSuffix(name, ".pm") + ".pm"
	for _, dir := range []string{"local", "extlib", "lib", "."} {
		dir = filepath.Join(pl.app.Dir, dir)
		for _, sub := range []string{"lib/perl5", ""} {
			if _, err := os.Stat(filepath.Join(dir, sub, file)); err == nil {
				return "perl-local-lib = " + dir
			}
		}
	}
	module := strings.ReplaceAll(strings.TrimSuffix(name, ".pm"), "/", "::")
	if pl.interpreter == Default {
		return fmt.Sprintf("apt install lib%s-perl, or cpanm -L local %s and perl-local-lib = local", strings.ToLower(strings.ReplaceAll(module, "::", "-")), module)
	}
	return filepath.Join(filepath.Dir(pl.interpreter), "cpan") + " " + module
}

// NoStart implements lang.Explainer.
func (pl *Perl) NoStart(err error) *vassal.Problem {
	if !errors.Is(err, fs.ErrNotExist) {
		return pl.error(vassal.CodeNoInterpreter, err.Error(), lang.NoStartHint(err))
	}
	hint := "apt install perl"
	if pl.interpreter != Default {
		hint = "liege plugin build psgi NAME --perl PATH, and plugin = NAME"
	}
	return pl.error(vassal.CodeNoInterpreter, "interpreter "+pl.interpreter+" not found", hint)
}

// Died implements lang.Explainer.
func (pl *Perl) Died(worker int, how string) *vassal.Problem {
	return pl.error(lang.WorkerDied(pl.w, worker, how))
}

// LoaderDied implements lang.Explainer.
func (pl *Perl) LoaderDied(how, output string, loaded bool) *vassal.Problem {
	return pl.error(lang.LoaderDied(pl.w, pl.interpreter, how, output, "Out of memory", loaded))
}
