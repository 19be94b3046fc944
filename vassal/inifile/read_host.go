package inifile

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"liege/vassal"
)

// answers remembers what each Host said, so that one Read sees one state of
// the world.
type answers struct {
	reads int
	files map[string]fileAnswer
	stats map[string]statAnswer
	globs map[string]globAnswer
	envs  map[string]envAnswer
}

type (
	fileAnswer struct {
		HostFile
		err error
	}
	statAnswer struct {
		info fs.FileInfo
		err  error
	}
	globAnswer struct {
		names []string
		err   error
	}
	envAnswer struct {
		value string
		set   bool
	}
)

// may reports whether the host may be asked in the name of a line. The file of
// a stranger that an operator's file includes is read with root's rights, so
// nothing it says may make root look anywhere.
func (r *reader) may(at place, key string) bool {
	if at.asks {
		if r.reads++; r.reads > MaxReads {
			r.stop(at, key, fmt.Sprintf("more than %d questions to the host", MaxReads))
			return false
		}
		return true
	}
	r.fail(at, key, vassal.CodeNotForTenants, "a file that does not belong to root may not read or test other files when an operator's file includes it", "sudo chown root "+at.file+", or move the line to the file that includes it")
	return false
}

// by is the key of an answer: the operator's host and the vassal's may see
// different files.
func (t *text) by(name string) string {
	if t.lists {
		return "operator " + name
	}
	return "vassal " + name
}

// readFile returns a file for t, or reports why not at the line at.
func (r *reader) readFile(t *text, at place, key, name string) (HostFile, bool) {
	if !r.may(at, key) {
		return HostFile{}, false
	}
	id := t.by(name)
	a, ok := r.files[id]
	if !ok {
		a.HostFile, a.err = t.host.ReadFile(name)
		if a.err == nil && len(a.Data) > MaxFile {
			a.err = errTooBig
		}
		r.files[id] = a
		r.answered("file", name, a.err == nil, a.Operator, a.Data)
	}
	if a.err != nil {
		r.fail(at, key, vassal.CodeUnreadable, fmt.Sprintf("%s: %s", name, reason(a.err)), r.whyUnread(at, key, a.err))
		return HostFile{}, false
	}
	if r.bytes += len(a.Data); r.bytes > MaxReadBytes {
		r.stop(at, key, fmt.Sprintf("the files it reads have more than %d bytes together", MaxReadBytes))
		return HostFile{}, false
	}
	return a.HostFile, true
}

func (r *reader) whyUnread(at place, key string, err error) string {
	switch {
	case at.line > 0 && (key == "include" || key == "ini") && errors.Is(err, fs.ErrNotExist):
		return "relative paths start from " + r.cwd + "; $(), @() and %() are not expanded in it"
	case errors.Is(err, ErrUntrusted):
		return "as of a vassal's file: it, and every directory and link on the way, belong to root or to one user, and nobody else writes there"
	}
	return ""
}

// reason says in words what err of a Host means.
func reason(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no such file"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied"
	}
	return err.Error()
}

func (r *reader) stat(at place, key, name string) (fs.FileInfo, bool) {
	if hasScheme(name) {
		r.refuseScheme(at, key, name)
		return nil, false
	}
	if !r.may(at, key) {
		return nil, false
	}
	name = r.abs(name)
	id := at.by(name)
	a, ok := r.stats[id]
	if !ok {
		a.info, a.err = at.host.Stat(name)
		r.stats[id] = a
		what := "none"
		if a.err == nil {
			what = a.info.Mode().Type().String()
		}
		r.answered("stat", name, what)
	}
	return a.info, a.err == nil
}

// glob answers as glob(3) does: "*" does not match a leading dot, "[!a]"
// negates, directories end in a slash.
func (r *reader) glob(at place, key, pattern string) ([]string, bool) {
	if !r.may(at, key) {
		return nil, false
	}
	full, prefix := strings.ReplaceAll(pattern, "[!", "[^"), ""
	if !path.IsAbs(pattern) {
		prefix = strings.TrimSuffix(r.cwd, "/") + "/"
		full = globQuoter.Replace(prefix) + full
	}
	id := at.by(full)
	a, ok := r.globs[id]
	if !ok {
		a.names, a.err = at.host.Glob(full)
		r.globs[id] = a
		r.answered("glob", full, strings.Join(a.names, "\x00"))
	}
	if a.err != nil {
		r.fail(at, key, vassal.CodeUnreadable, fmt.Sprintf("%s: %s", clip(pattern), reason(a.err)), "")
		return nil, false
	}
	var out []string
	for _, name := range a.names {
		name = strings.TrimPrefix(name, prefix)
		if !hidden(pattern, name) {
			out = append(out, name)
		}
	}
	return out, true
}

// Immutable, safe for concurrent use.
var globQuoter = strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`)

// hidden reports whether a wildcard matched a leading dot.
func hidden(pattern, name string) bool {
	ps, ns := strings.Split(pattern, "/"), strings.Split(name, "/")
	for i := range min(len(ps), len(ns)) {
		if strings.HasPrefix(ns[i], ".") && !strings.HasPrefix(ps[i], ".") && !strings.HasPrefix(ps[i], `\.`) {
			return true
		}
	}
	return false
}

// getenv asks for a variable. Only an operator's text has an environment.
func (r *reader) getenv(at place, name string) (string, bool) {
	if !at.operator || !at.asks {
		return "", false
	}
	id := at.by(name)
	a, ok := r.envs[id]
	if !ok {
		a.value, a.set = at.host.Getenv(name)
		r.envs[id] = a
		r.answered("env", name, a.set, a.value)
	}
	return a.value, a.set
}

func (r *reader) hostname() string {
	name := r.host.Hostname()
	r.answered("hostname", "", name)
	return name
}

// stop ends the reading: a limit was passed.
func (r *reader) stop(at place, key, message string) {
	if !r.stopped {
		r.stopped = true
		r.fail(at, key, vassal.CodeTooBig, message, "")
	}
}
