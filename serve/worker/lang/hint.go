package lang

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"liege/vassal"
)

// Step is where the problems of workers happen.
const Step = "workers"

// MemoryHint names the limit that memory ran into.
func MemoryHint(w *vassal.Workers) string {
	for _, l := range w.Rlimits {
		if l.Resource == "as" || l.Resource == "data" {
			hint := fmt.Sprintf("limit-%s = %d (MB)", l.Resource, l.Value>>20)
			if l.At.Line > 0 {
				hint += fmt.Sprintf(", line %d", l.At.Line)
			}
			return hint
		}
	}
	return "more by memory-max =; liege explain FILE says how much it may have, and which line"
}

// HintOf is the catalogue's hint for what an exception says (CONTRACT 15).
func HintOf(message string) string {
	for _, h := range []struct{ text, hint string }{
		{"Connection refused", "connect = the address, or net = nat for the Internet: what no line opens is closed"},
		{"Network is unreachable", "connect = the address, or net = nat for the Internet: what no line opens is closed"},
		{"Temporary failure in name resolution", "connect = the address, or net = nat for the Internet: what no line opens is closed"},
		{"Can't connect to local MySQL server through socket", "connect = unix:/path/of/the/socket"},
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

var place = regexp.MustCompile(`(?:^|\s)(/[^\s:]+)(?::| line )(\d+)\b`)

// SyntaxHint is for a message about code that cannot be parsed, which names
// the place: check is the command that parses a file and does not run it.
func SyntaxHint(check, message string) string {
	m := place.FindStringSubmatch(message)
	if m == nil {
		return ""
	}
	return fmt.Sprintf("mend %s, line %s, or what comes before it; this looks without running it: %s %s", m[1], m[2], check, m[1])
}

// NoStartHint is for an interpreter that is there and cannot be executed.
func NoStartHint(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return "it must be executable, and the vassal's user must be able to enter every directory of its path"
	}
	return ""
}

// LoaderHint is for the last words of an interpreter that could not begin.
func LoaderHint(output string) string {
	if strings.Contains(output, "error while loading shared libraries") { // ld.so(8)
		return "bind = the directory of that library, and env = LD_LIBRARY_PATH=DIR if the system does not look there"
	}
	return ""
}

// WorkerDied says why a worker that ended before it was ready did.
func WorkerDied(w *vassal.Workers, worker int, how string) (code, message, hint string) {
	if strings.Contains(how, "SIGKILL") {
		hint = "out of memory? " + MemoryHint(w)
	}
	return vassal.CodeExitedEarly, fmt.Sprintf("worker %d was not ready: %s", worker, how), hint
}

// LoaderDied says why a loader that ended before all workers were ready did:
// interpreter is what was executed, the others are as in Explainer. noMemory is
// what the interpreter says when it has none.
func LoaderDied(w *vassal.Workers, interpreter, how, output, noMemory string, loaded bool) (code, message, hint string) {
	output = LastError(output)
	code, message = vassal.CodeExitedEarly, interpreter+": "+how
	switch {
	case output != "":
		message += fmt.Sprintf(": %.500s", output)
		code, hint = vassal.CodeNoInterpreter, LoaderHint(output)
	case !loaded:
		message += " while it loaded the application"
		hint = "what it printed is in the log"
	}
	if strings.Contains(how, "SIGKILL") || strings.Contains(output, noMemory) {
		code, hint = vassal.CodeOOM, MemoryHint(w)
	}
	return code, message, hint
}

// LastError is the line of an interpreter's last words that says why.
func LastError(output string) string {
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
