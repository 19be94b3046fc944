package worker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"liege/serve/worker/shims"
	"liege/vassal"
)

// step is where the problems of this package happen.
const step = "workers"

// language is what differs between languages. There is one value per pool.
type language interface {
	// command is the interpreter and its arguments, the first its own name.
	command() (string, []string)
	// program is the first packet that the loader reads.
	program() string
	// settings are the language's own entries of the second packet.
	settings(b []byte) []byte
	// problem explains why the application was not loaded, in the program's
	// words.
	problem(text string) *vassal.Problem
	noStart(err error) *vassal.Problem
	died(worker int, how string) *vassal.Problem
	loaderDied(how, output string, loaded bool) *vassal.Problem
}

func newLanguage(app *vassal.App, w *vassal.Workers) (language, error) {
	switch {
	case w.Language == "python" && w.Python != nil:
		return newPython(app, w)
	default:
		return nil, &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNotYet, Step: step,
			Message: fmt.Sprintf("workers of language %q are not in this build", w.Language)}
	}
}

// python is WSGI.
type python struct {
	app         *vassal.App
	w           *vassal.Workers
	interpreter string
	home        string // the virtualenv if its own interpreter is not used
}

// DefaultPython is the interpreter where neither the file nor its virtualenv
// names one.
const DefaultPython = "/usr/bin/python3"

func newPython(app *vassal.App, w *vassal.Workers) (*python, error) {
	py := &python{app: app, w: w, interpreter: w.Interpreter}
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
		py.interpreter, py.home = DefaultPython, w.Python.Virtualenv
	}
	return py, nil
}

func (py *python) command() (string, []string) {
	return py.interpreter, []string{py.interpreter, "-c", shims.PythonBoot}
}

func (py *python) program() string { return shims.Python }

// version is what uwsgi.version and environ["uwsgi.version"] say. Applications
// compare it with uWSGI's.
const version = "2.0.21-liege"

func (py *python) settings(b []byte) []byte {
	a := py.w.Python
	text := func(name, value string) { b = appendText(appendNative(b, name), value) }
	text("file", a.File)
	text("module", a.Module)
	text("callable", a.Callable)
	text("home", py.home)
	b = appendTexts(appendNative(b, "path"), a.Path)
	b = appendTexts(appendNative(b, "argv"), strings.Fields(a.Argv))
	b = appendBytes(appendNative(b, "version"), version)
	return b
}

// settings is the second packet that a loader reads.
func (p *Pool) settings() []byte {
	w := &p.w
	b := appendDict(nil)
	number := func(name string, v int) { b = appendInt(appendNative(b, name), v) }
	truth := func(name string, v bool) { b = appendBool(appendNative(b, name), v) }
	number("processes", w.Processes)
	number("threads", w.Threads)
	number("max_requests", w.MaxRequests)
	number("nice", w.Nice)
	number("affinity", w.CPUAffinity)
	number("buffer", p.app.HTTP.HeaderBytes)
	number("master", os.Getpid())
	umask := -1
	if w.Umask != nil {
		umask = int(w.Umask.Perm())
	}
	number("umask", umask)
	truth("lazy", w.LazyApps)
	truth("batch", w.Batch)
	truth("title_plain", w.TitlePlain)
	title, dir := w.Title, p.app.Dir
	if title == "" {
		title = string(p.app.Name)
	}
	if dir == "" {
		dir = "/"
	}
	b = appendText(appendNative(b, "title"), title)
	b = appendText(appendNative(b, "dir"), dir)
	b = p.lang.settings(b)
	return appendDictEnd(b)
}

// environ is what the application's processes have in their environment: the
// core's own, which is the vassal's (CONTRACT 4), and App.Env over it.
func (p *Pool) environ() []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		// They speak of descriptors and sockets that are not the workers'.
		case "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID":
			continue
		}
		env = append(env, kv)
	}
	return lastWins(append(env, p.app.Env...))
}

// lastWins keeps the last of the lines that name the same variable.
func lastWins(env []string) []string {
	at := make(map[string]int)
	var out []string
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		if i, ok := at[name]; ok {
			out[i] = kv
			continue
		}
		at[name] = len(out)
		out = append(out, kv)
	}
	return out
}

func (py *python) error(code, message, hint string) *vassal.Problem {
	at := py.w.Python.At
	p := &vassal.Problem{Severity: vassal.Error, Code: code, Step: step, File: at.File, Line: at.Line, Message: message, Hint: hint}
	switch {
	case py.w.Python.File != "":
		p.Key = "wsgi-file"
	case py.w.Python.Module != "":
		p.Key = "module"
	}
	return p
}

// problem reads "kind NUL message NUL traceback NUL name".
func (py *python) problem(text string) *vassal.Problem {
	words := append(strings.SplitN(text, "\x00", 4), "", "", "", "")
	kind, message, trace, name := words[0], words[1], words[2], words[3]
	if where := lastFrame(trace); where != "" {
		message += " (" + where + ")"
	}
	switch kind {
	case "import":
		return py.error(vassal.CodeImportError, message, py.importHint(name))
	case "callable":
		hint := "name the WSGI callable with callable ="
		if name != "" {
			hint = "callable = " + name
		}
		return py.error(vassal.CodeNoCallable, message, hint)
	case "file":
		return py.error(vassal.CodeAppNotFound, message, "check wsgi-file and chdir; a path outside the app's directory needs a bind =")
	case "dir":
		return py.error(vassal.CodeAppNotFound, message, "check chdir")
	case "memory":
		return py.error(vassal.CodeOOM, message, memoryHint(py.w))
	case "syntax":
		return py.error(vassal.CodeImportError, message, "")
	case "exit", "exception":
		return py.error(vassal.CodeImportError, message, hintOf(message))
	}
	return py.error(vassal.CodeProtocol, fmt.Sprintf("the application's loader said %.100q", text), "")
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
func (py *python) importHint(name string) string {
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
	return "virtualenv =, pythonpath = or chdir = must lead to " + first
}

// memoryHint names the limit that memory ran into.
func memoryHint(w *vassal.Workers) string {
	for _, l := range w.Rlimits {
		if l.Resource == "as" || l.Resource == "data" {
			hint := fmt.Sprintf("limit-%s = %d (MB)", l.Resource, l.Value>>20)
			if l.At.Line > 0 {
				hint += fmt.Sprintf(", line %d", l.At.Line)
			}
			return hint
		}
	}
	return "memory-max ="
}

// hintOf is the catalogue's hint for what an exception says (CONTRACT 15).
func hintOf(message string) string {
	for _, h := range []struct{ text, hint string }{
		{"Connection refused", "net = host: the network is closed"},
		{"Network is unreachable", "net = host: the network is closed"},
		{"Temporary failure in name resolution", "net = host: the network is closed"},
		{"Can't connect to local MySQL server through socket", "bind = the directory of the socket"},
		{"/dev/log", "log to stderr: there is no /dev/log inside"},
		{"MemoryError", "limit-as or memory-max"},
		{"Read-only file system", "bind = the directory it writes to"},
		{"attempt to write a readonly database", "the directory and the file must belong to the vassal's user: chown or uid"},
		{"unable to open database file", "the directory and the file must belong to the vassal's user: chown or uid"},
		{"No such file or directory", "bind = the path, if it exists on the host"},
	} {
		if strings.Contains(message, h.text) {
			return h.hint
		}
	}
	return ""
}

func (py *python) noStart(err error) *vassal.Problem {
	if !errors.Is(err, fs.ErrNotExist) {
		return py.error(vassal.CodeNoInterpreter, err.Error(), "")
	}
	hint := "apt install python3"
	if home := py.w.Python.Virtualenv; home != "" && strings.HasPrefix(py.interpreter, home+"/") {
		hint = "the virtualenv leads to an interpreter that is not here: make it anew, or bind = its directory"
	}
	return py.error(vassal.CodeNoInterpreter, "interpreter "+py.interpreter+" not found", hint)
}

func (py *python) died(worker int, how string) *vassal.Problem {
	hint := ""
	if strings.Contains(how, "SIGKILL") {
		hint = "out of memory? " + memoryHint(py.w)
	}
	return py.error(vassal.CodeExitedEarly, fmt.Sprintf("worker %d was not ready: %s", worker, how), hint)
}

func (py *python) loaderDied(how, output string, loaded bool) *vassal.Problem {
	output = lastError(output)
	code, hint := vassal.CodeExitedEarly, ""
	message := fmt.Sprintf("%s: %s", py.interpreter, how)
	switch {
	case output != "":
		message += fmt.Sprintf(": %.500s", output)
		code = vassal.CodeNoInterpreter
	case !loaded:
		message += " while it loaded the application"
	}
	if strings.Contains(how, "SIGKILL") || strings.Contains(output, "MemoryError") || strings.Contains(output, "memory") {
		code, hint = vassal.CodeOOM, memoryHint(py.w)
	}
	return py.error(code, message, hint)
}

// lastError is the line of an interpreter's last words that says why.
func lastError(output string) string {
	fatal, last := "", ""
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		name, _, _ := strings.Cut(line, ": ")
		switch {
		case strings.HasSuffix(name, "Error") && !strings.ContainsAny(name, " '"):
			return line
		case strings.HasPrefix(line, "Fatal Python error"):
			fatal = line
		case line != "":
			last = line
		}
	}
	if fatal != "" {
		return fatal
	}
	return last
}

func loadTimeout(p *Pool, ld *loader) *vassal.Problem {
	what := "the application was not loaded"
	if ld.loaded {
		what = "the workers were not ready"
	}
	took := p.w.LoadTimeout
	if took <= 0 {
		took = loadTime
	}
	return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNotReady, Step: step,
		Message: fmt.Sprintf("%s after %v", what, took),
		Hint:    "what does it wait for while it is imported? A longer time: ready-timeout ="}
}
