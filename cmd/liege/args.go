package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"liege/vassal"
	"liege/vassal/inifile"
)

// serveLine is what the command line and environment of liege serve say.
type serveLine struct {
	config   string
	file     string // of the ini file; empty: none
	section  string
	settings []flagSetting
	at       int    // how many of settings come before the file
	cwd      string // of the caller
	venv     string
	app      bool // an app is named
}

// flagSetting is one option given as a flag or in the environment.
type flagSetting struct {
	key, value string
	bare       bool
	layer      vassal.Layer
	number     int // of the argument, from 1
}

// parseServe reads the arguments of liege serve (CONTRACT 14).
func parseServe(args []string) (serveLine, error) {
	l := serveLine{settings: fromEnviron(os.Environ()), venv: os.Getenv("VIRTUAL_ENV")}
	l.at = len(l.settings)
	cwd, err := os.Getwd()
	if err != nil {
		return l, exitWith(exitFailed, vassal.CodeNotFound, "the current directory is gone", "cd to another")
	}
	l.cwd = cwd
	for i := 0; i < len(args); i++ {
		arg := args[i]
		next := func() (string, bool) {
			if i+1 < len(args) {
				i++
				return args[i], true
			}
			return "", false
		}
		switch {
		case arg == "--" || arg == "-" || arg == "":
			return l, usageError(fmt.Sprintf("serve: %q means nothing here", arg), "liege help serve")
		case arg[0] != '-':
			err = l.positional(arg)
		case arg == "--no-sandbox":
			return l, usageError("serve: --no-sandbox: comes in a later release", "")
		default:
			err = l.flag(arg, i+1, next)
		}
		if err != nil {
			return l, err
		}
	}
	if l.file == "" && len(l.settings) == 0 {
		return l, usageError("serve: which file or app?", "liege serve FILE.ini, or liege serve app.py")
	}
	if l.app && !l.has("http", "http-socket", "https", "https-socket", "socket", "uwsgi-socket", "fastcgi-socket", "scgi-socket") {
		l.add("http", "127.0.0.1:8080", false, 0)
	}
	return l, nil
}

// appKeys are the options of what is an app by its name.
var appKeys = map[string]string{".py": "wsgi-file", ".wsgi": "wsgi-file", ".ru": "rack", ".psgi": "psgi"}

// positional is a word that is no flag: a file, or an app.
func (l *serveLine) positional(arg string) error {
	file, section := inifile.SplitSection(arg)
	switch filepath.Ext(file) {
	case ".ini":
		return l.ini(file, section)
	case ".py", ".wsgi", ".ru", ".psgi":
		l.add(appKeys[filepath.Ext(file)], arg, false, 0)
		l.app = true
		return nil
	}
	if l.file == "" {
		if fi, err := os.Stat(file); err == nil && fi.Mode().IsRegular() {
			return l.ini(file, section)
		}
	}
	return usageError("serve: "+arg+": neither a vassal file (.ini) nor an app (.py, .ru, .psgi)", "liege help serve")
}

func (l *serveLine) ini(file, section string) error {
	if l.file != "" {
		return usageError("serve: two files: "+l.file+" and "+file, "one includes the other: ini = …")
	}
	l.file, l.section, l.at = l.abs(file), section, len(l.settings)
	return nil
}

func (l *serveLine) abs(p string) string {
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(l.cwd, p)
}

// flag is one argument that begins with a dash.
func (l *serveLine) flag(arg string, number int, next func() (string, bool)) error {
	key, value, valued := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	if !strings.HasPrefix(arg, "--") {
		long := longOf(arg[1:2])
		if long == "" {
			return usageError("serve: no such flag: "+arg[:2], "liege options")
		}
		key, value, valued = long, strings.TrimPrefix(arg[2:], "="), len(arg) > 2
	}
	switch key {
	case "ini":
		if !valued {
			if value, valued = next(); !valued {
				return usageError("serve: --ini: which file?", "")
			}
		}
		file, section := inifile.SplitSection(value)
		return l.ini(file, section)
	case "config":
		if !valued {
			if value, valued = next(); !valued {
				return usageError("serve: --config: which file?", "")
			}
		}
		l.config = value
		return nil
	}
	opt, ok := inifile.Lookup(key)
	if !ok {
		hint := "liege options"
		if near := inifile.Nearest(key); near != "" {
			hint = "--" + near
		}
		return usageError("serve: no such option: --"+key, hint)
	}
	if !valued && opt.Type != inifile.Bool && opt.Empty == "" {
		if value, valued = next(); !valued {
			return usageError(fmt.Sprintf("serve: --%s: a value is missing (%s)", key, opt.Type), "")
		}
	}
	if strings.ContainsAny(value, "\n\r\x00") {
		return usageError("serve: --"+key+": a value is one line", "")
	}
	l.add(key, value, !valued, number)
	return nil
}

func (l *serveLine) add(key, value string, bare bool, number int) {
	l.settings = append(l.settings, flagSetting{key, value, bare, vassal.Flag, number})
}

func (l *serveLine) has(keys ...string) bool {
	for _, s := range l.settings {
		for _, k := range keys {
			if s.key == k {
				return true
			}
		}
	}
	return false
}

// longOf is the option of uWSGI's short flag.
func longOf(short string) string {
	for _, o := range inifile.Options() {
		if strings.Contains(o.Short, short) {
			return o.Name
		}
	}
	return ""
}

// notOptions are the UWSGI_ variables that are no options (uWSGI's core/utils.c
// leaves the same ones out).
var notOptions = map[string]bool{
	"UWSGI_RELOADS": true, "UWSGI_VASSALS_DIR": true, "UWSGI_EMPEROR_FD": true, "UWSGI_EMPEROR_FD_CONFIG": true,
	"UWSGI_EMPEROR_PROXY": true, "UWSGI_BROODLORD_NUM": true, "UWSGI_JAIL_PID": true, "UWSGI_ORIGINAL_PROC_NAME": true,
}

// fromEnviron makes settings of UWSGI_FOO_BAR=value.
func fromEnviron(env []string) []flagSetting {
	var out []flagSetting
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		rest, ok := strings.CutPrefix(name, "UWSGI_")
		if !ok || rest == "" || notOptions[name] || strings.ContainsAny(value, "\n\r") {
			continue
		}
		out = append(out, flagSetting{key: strings.ToLower(strings.ReplaceAll(rest, "_", "-")), value: value, layer: vassal.Environ})
	}
	return out
}

// text is the line as the text of a vassal file that includes the real one.
// Line n is settings[n-2], or the include.
func (l *serveLine) text() []byte {
	var b strings.Builder
	b.WriteString("[uwsgi]\n")
	for i, s := range l.settings {
		if i == l.at {
			l.include(&b)
		}
		b.WriteString(s.key)
		if !s.bare {
			b.WriteString(" = " + s.value)
		}
		b.WriteString("\n")
	}
	if l.at >= len(l.settings) {
		l.include(&b)
	}
	return []byte(b.String())
}

func (l *serveLine) include(b *strings.Builder) {
	if l.file == "" {
		return
	}
	section := l.section
	if section != "" {
		section = ":" + section
	}
	fmt.Fprintf(b, "ini = %s%s\n", strings.ReplaceAll(l.file, "%", "%%"), section)
}

// setting is the flag that line n of text came from; nil for the include.
func (l *serveLine) setting(n int) *flagSetting {
	i := n - 2
	if l.file != "" {
		if i == l.at {
			return nil
		}
		if i > l.at {
			i--
		}
	}
	if i < 0 || i >= len(l.settings) {
		return nil
	}
	return &l.settings[i]
}

// name is what the vassal is called: as its file, else as its app.
func (l *serveLine) name() string {
	if l.file != "" {
		return l.file
	}
	for _, s := range l.settings {
		switch s.key {
		case "wsgi-file", "file", "rack", "psgi":
			return string(vassal.SuggestName(strings.TrimSuffix(filepath.Base(s.value), filepath.Ext(s.value))))
		}
	}
	return "app"
}
