// Package python runs WSGI applications: PEP 3333 by the interpreter that the
// file names, or its virtualenv's, or the system's.
//
// Its packets are marshal dicts; that of a request becomes the environ as it
// is.
package python

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"liege/serve/worker/lang"
	"liege/serve/worker/shims"
	"liege/vassal"
)

// Python is WSGI: it implements lang.Runtime.
type Python struct {
	app         *vassal.App
	w           *vassal.Workers
	interpreter string
	home        string // the virtualenv if its own interpreter is not used
}

// Default is the interpreter where neither the file nor its virtualenv
// names one.
const Default = "/usr/bin/python3"

// New is the runtime of app, whose Workers.Python is set.
func New(app *vassal.App) *Python {
	w := app.Workers
	py := &Python{app: app, w: w, interpreter: w.Interpreter}
	if py.interpreter == "" && w.Python.Virtualenv != "" {
		for _, name := range []string{"python3", "python"} {
			path := filepath.Join(w.Python.Virtualenv, "bin", name)
			if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
				py.interpreter = path
				break
			}
		}
	}
	if py.interpreter == "" {
		py.interpreter, py.home = Default, w.Python.Virtualenv
	}
	return py
}

// Command implements lang.Interpreter.
func (py *Python) Command() (string, []string) {
	argv := []string{py.interpreter}
	t := &py.w.Python.Tuning
	if t.Optimize > 0 {
		argv = append(argv, []string{"-O", "-OO"}[min(t.Optimize, 2)-1])
	}
	if t.NoSite {
		argv = append(argv, "-S")
	}
	return py.interpreter, append(argv, "-c", shims.PythonBoot)
}

// Program implements lang.Interpreter.
func (py *Python) Program() [][]byte {
	further := shims.ASGI
	if py.w.Python.Gevent {
		further = shims.Green
	}
	return [][]byte{
		shims.Python(),
		py.Dict(nil, []lang.Entry{{Name: "uwsgi_program", Value: shims.PythonUwsgi()}}),
		py.Dict(nil, []lang.Entry{{Name: "decorators_program", Value: shims.PythonDecorators()}, {Name: "further", Value: further()}}),
	}
}

// version is what uwsgi.version and environ["uwsgi.version"] say. Applications
// compare it with uWSGI's.
const version = "2.0.21-liege"

// Settings implements lang.Interpreter.
func (py *Python) Settings() []lang.Entry {
	a := py.w.Python
	return append(append(py.jobs(), lang.Keys(py.app)...), []lang.Entry{
		{Name: "file", Value: a.File},
		{Name: "written", Value: a.Written},
		{Name: "module", Value: a.Module},
		{Name: "callable", Value: a.Callable},
		{Name: "home", Value: py.home},
		{Name: "path", Value: a.Path},
		{Name: "again", Value: py.app.Generation > 1},
		{Name: "argv", Value: strings.Fields(a.Argv)},
		{Name: "version", Value: []byte(version)},
		{Name: "mounts", Value: py.mounts()},
		{Name: "asgi", Value: a.ASGI},
		{Name: "form", Value: string(a.Form)},
		{Name: "import", Value: a.Tuning.Import},
		{Name: "shared_import", Value: a.Tuning.SharedImport},
		{Name: "alias", Value: a.Tuning.Alias},
		{Name: "post_alias", Value: a.Tuning.PostAlias},
		{Name: "executable", Value: a.Tuning.Executable},
		{Name: "paste_logger", Value: a.Tuning.PasteLogger},
		{Name: "no_file_wrapper", Value: a.Tuning.NoFileWrapper},
		{Name: "no_delay", Value: a.Tuning.NoDelay},
		{Name: "show", Value: a.Tuning.Show},
		{Name: "reload_on", Value: a.Tuning.ReloadOn},
		{Name: "gevent", Value: a.Gevent},
		{Name: "patch", Value: a.Patch},
		{Name: "watch", Value: int(a.Watch.Milliseconds())},
		{Name: "unwatched", Value: a.Unwatched},
	}...)
}

// mounts are the applications of one interpreter, five words each.
func (py *Python) mounts() (words []string) {
	if m := py.app.Mounting; m != nil && m.OneForAll && len(m.Mounts) > 1 {
		for i := range m.Mounts {
			x := &m.Mounts[i]
			words = append(words, x.Point, x.File, x.Module, x.Callable, x.Written)
		}
	}
	return words
}

func (py *Python) error(code, message, hint string) *vassal.Problem {
	at := py.w.Python.At
	p := &vassal.Problem{Severity: vassal.Error, Code: code, Step: lang.Step, File: at.File, Line: at.Line, Message: message, Hint: hint}
	switch {
	case py.w.Python.Key != "":
		p.Key = py.w.Python.Key
	case py.w.Python.File != "":
		p.Key = "wsgi-file"
	case py.w.Python.Module != "":
		p.Key = "module"
	}
	return p
}

// callableHint is how to name the application; other is a name that may be it.
func (py *Python) callableHint(other string) string {
	a := py.w.Python
	if module, _, named := strings.Cut(a.Module, ":"); named && a.File == "" && a.Form == vassal.FormModule && py.mounts() == nil { // callable has no say then
		return module + ":" + cmp.Or(other, "and its name there")
	}
	if other == "" {
		return "name the WSGI callable with callable ="
	}
	return "callable = " + other
}

// Problem implements lang.Explainer; it reads "kind NUL message NUL traceback
// NUL name NUL mount".
func (py *Python) Problem(text string) *vassal.Problem {
	words := append(strings.SplitN(text, "\x00", 5), "", "", "", "", "")
	p := py.explain(words)
	if m := py.app.Mounting; m != nil && m.OneForAll {
		if i, err := strconv.Atoi(words[4]); err == nil && i >= 0 && i < len(m.Mounts) {
			p.File, p.Line = m.Mounts[i].At.File, m.Mounts[i].At.Line
			if i > 0 {
				p.Key = "mount"
			}
		}
	}
	return p
}

func (py *Python) explain(words []string) *vassal.Problem {
	kind, message, trace, name := words[0], words[1], words[2], words[3]
	if where := lastFrame(trace); where != "" && !strings.HasPrefix(message, where+":") { // as that of a SyntaxError
		message += " (" + where + ")"
	}
	switch kind {
	case "import":
		return py.error(vassal.CodeImportError, message, py.importHint(name))
	case "callable":
		return py.error(vassal.CodeNoCallable, message, py.callableHint(name))
	case "file":
		return py.error(vassal.CodeAppNotFound, message, lang.AccessHint(message, "check wsgi-file and chdir; a path outside the app's directory needs a bind ="))
	case "dir":
		return py.error(vassal.CodeAppNotFound, message, lang.AccessHint(message, "check chdir"))
	case "memory":
		return py.error(vassal.CodeOOM, message, lang.MemoryHint(py.w))
	case "asgi":
		return py.error(vassal.CodeNoCallable, message, "remove single-interpreter: each app has processes of its own then")
	case "lifespan":
		return py.error(vassal.CodeImportError, "the application's startup failed: "+lastLine(message), lang.HintOf(message))
	case "syntax":
		return py.error(vassal.CodeImportError, message, lang.SyntaxHint(py.interpreter+" -m py_compile", message))
	case "exit", "exception":
		return py.error(vassal.CodeImportError, message, lang.HintOf(message))
	}
	return py.error(vassal.CodeProtocol, fmt.Sprintf("the application's loader said %.100q", kind), "")
}

// lastLine is the last line of text: of a traceback the exception.
func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// lastFrame is the last place of the application's code in a traceback:
// "/srv/shop/app.py:3".
func lastFrame(trace string) string {
	where := ""
	for line := range strings.Lines(trace) {
		line = strings.TrimSpace(line)
		rest, ok := strings.CutPrefix(line, `File "`)
		if !ok {
			continue
		}
		file, rest, _ := strings.Cut(rest, `", line `)
		number, _, _ := strings.Cut(rest, ",")
		if !strings.HasPrefix(file, "<") {
			where = file + ":" + number
		}
	}
	return where
}

// importHint looks for what an import error usually means: a virtualenv in the
// application's directory that is not named, or the module beside it.
func (py *Python) importHint(name string) string {
	first, _, _ := strings.Cut(name, ".")
	if first == "" || strings.ContainsAny(first, "/\x00") {
		return ""
	}
	dir := py.app.Dir
	if py.w.Python.Virtualenv == "" {
		for _, d := range []string{dir, filepath.Dir(dir)} {
			entries, _ := os.ReadDir(d)
			for _, e := range entries {
				home := filepath.Join(d, e.Name())
				if _, err := os.Stat(filepath.Join(home, "pyvenv.cfg")); err == nil {
					return "virtualenv = " + home
				}
			}
		}
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		sub := filepath.Join(dir, e.Name())
		for _, f := range []string{first + ".py", filepath.Join(first, "__init__.py")} {
			if _, err := os.Stat(filepath.Join(sub, f)); err == nil {
				return "pythonpath = " + sub
			}
		}
	}
	if py.w.Python.Virtualenv != "" {
		return fmt.Sprintf("%s/bin/pip install %s", py.w.Python.Virtualenv, first)
	}
	looked := append([]string{dir}, py.w.Python.Path...)
	return fmt.Sprintf("virtualenv =, pythonpath = or chdir = must lead to %s; looked in %s and what %s has installed", first, strings.Join(looked, ", "), py.interpreter)
}

// NoStart implements lang.Explainer.
func (py *Python) NoStart(err error) *vassal.Problem {
	if !errors.Is(err, fs.ErrNotExist) {
		return py.error(vassal.CodeNoInterpreter, err.Error(), lang.NoStartHint(err))
	}
	hint := "apt install python3"
	if py.w.Interpreter != "" && py.w.Interpreter != Default {
		hint = "interpreter = the path of a Python that is there, and visible inside: bind = its directory"
	}
	if home := py.w.Python.Virtualenv; home != "" && strings.HasPrefix(py.interpreter, home+"/") {
		hint = "the virtualenv leads to an interpreter that is not here: make it anew, or bind = its directory"
	}
	return py.error(vassal.CodeNoInterpreter, "interpreter "+py.interpreter+" not found", hint)
}

// Died implements lang.Explainer.
func (py *Python) Died(worker int, how string) *vassal.Problem {
	return py.error(lang.WorkerDied(py.w, worker, how))
}

// LoaderDied implements lang.Explainer.
func (py *Python) LoaderDied(how, output string, loaded bool) *vassal.Problem {
	return py.error(lang.LoaderDied(py.w, py.interpreter, how, output, "emory", loaded))
}
