package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"liege/emperor/control"
)

// hintRow is one row of the hint catalogue (CONTRACT 15): what the vassal's
// last lines say, and what to write about it. The lines are the tenant's:
// they are matched here, by whoever runs liege status, never by the Emperor.
type hintRow struct {
	match   *regexp.Regexp
	hint    func(seen []string, v control.Vassal, dir string) string
	look    func(e *eyes, seen []string, dir string) string // instead: one that needs to look at paths
	serving bool                                            // also looked for while the vassal serves without a problem
}

func text(s string) func([]string, control.Vassal, string) string {
	return func([]string, control.Vassal, string) string { return s }
}

const closedWay = `the vassal's network is closed; what it must reach needs a line: connect = ADDRESS:PORT, connect = unix:/path, or net = nat for the Internet`

const closedNAT = `with net = nat the host itself, private networks and port 25 are closed, and whatever an egress line denies; what it must reach needs a line: connect = ADDRESS:PORT for a service of the host, egress = allow ADDRESS:PORT for another; liege explain shows what holds`

// catalogue is made when it is needed: most commands never do.
func catalogue() []hintRow {
	rows := []hintRow{
		{match: regexp.MustCompile(`(?:ModuleNotFoundError|ImportError): No module named '?([\w.]+)'?`), look: moduleHint},
		{match: regexp.MustCompile(`attempt to write a readonly database|unable to open database file`), hint: databaseHint},
		{match: regexp.MustCompile(`liege: connect (\S+): (.*)`), hint: func(m []string, _ control.Vassal, _ string) string {
			return m[1] + " is named by the file, and was not reached from outside either (" + m[2] + "): does the service run there, and may the vassal's user connect?"
		}},
		{match: regexp.MustCompile(`Can't connect to local (?:MySQL )?server through socket '(/[\w./-]+)'|server on socket "(/[\w./-]+)" failed: No such file|HY000[^\n]{0,20}2002[^\n]{0,3} No such file`), hint: socketHint, serving: true},
		{match: regexp.MustCompile(`Connection refused|ECONNREFUSED|Network is unreachable|ENETUNREACH|Temporary failure in name resolution`),
			hint: func(_ []string, v control.Vassal, _ string) string {
				switch deref(v.Net) {
				case "host":
					return ""
				case "nat":
					return closedNAT
				}
				return closedWay
			}},
		{match: regexp.MustCompile(`'?/dev/log'?`), hint: text("log to stderr: there is no /dev/log inside; or bind = /dev/log")},
		{match: regexp.MustCompile(`\bMemoryError\b`), hint: text("a limit on memory was met: limit-as (MB, each worker) or memory-max (the whole vassal) in the file; liege explain shows both")},
		{match: regexp.MustCompile(`(php|ruby|perl|node|lua): (?:command )?not found`), hint: func(m []string, _ control.Vassal, _ string) string {
			return "apt install " + map[string]string{"php": "php-cgi", "node": "nodejs", "lua": "lua5.4"}[m[1]] + ifs(m[1] == "ruby" || m[1] == "perl", m[1])
		}},
	}
	return slices.Concat(rows, pathRows(), languageRows(), phpRows())
}

// hints reads the last lines of the vassal's log, where the caller may, and
// says what they mean.
func (a *app) hints(ctx context.Context, v control.Vassal) []string {
	var out []string
	if v.LastExit != nil && v.LastExit.OOM {
		out = append(out, fmt.Sprintf("it ran out of memory: memory-max = %s in %s", or(strings.TrimPrefix(of(v.MemoryMaxBytes, size), " of "), "none"), v.File))
	}
	if v.OOMKills > 0 && len(out) == 0 {
		out = append(out, fmt.Sprintf("%d of its processes were killed for want of memory so far; now memory-max = %s in %s", v.OOMKills, or(strings.TrimPrefix(of(v.MemoryMaxBytes, size), " of "), "none"), v.File))
	}
	var said []string
	if patiently(ctx, hintTime, func() error { said = saidHints(ctx, v); return nil }) == nil {
		for _, h := range said {
			if !slices.Contains(out, h) {
				out = append(out, h)
			}
		}
	}
	return out
}

// hintTime is how long is looked for hints.
const hintTime = 10 * time.Second

// saidHints are those that come from what the vassal said.
func saidHints(ctx context.Context, v control.Vassal) (out []string) {
	e := &eyes{ctx: ctx, v: v}
	defer e.close()
	serving := v.State == control.Running && v.Error == nil
	lines := problemText(v)
	if f, err := e.open(deref(v.Log)); err == nil {
		defer f.Close()
		if last, err := lastLines(f, 200); err == nil {
			lines += string(last)
		}
	}
	dir := appDirOf(e, v.File)
	for _, row := range catalogue() {
		if serving && !row.serving {
			continue
		}
		all := row.match.FindAllStringSubmatch(lines, -1)
		if len(all) == 0 {
			continue
		}
		seen := all[len(all)-1]
		if row.look != nil {
			out = append(out, row.look(e, seen, dir))
		} else {
			out = append(out, row.hint(seen, v, dir))
		}
	}
	return slices.DeleteFunc(out, func(h string) bool { return h == "" })
}

func problemText(v control.Vassal) string {
	var b strings.Builder
	for _, p := range v.Problems {
		b.WriteString(p.Message + "\n")
	}
	return b.String()
}

// chdirLine finds the app's directory for a hint; the full answer, with
// includes and variables, is explain's.
var chdirLine = regexp.MustCompile(`(?m)^\s*chdir\s*=\s*(/\S*)`)

func appDirOf(e *eyes, file string) string {
	f, err := e.open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return ""
	}
	if m := chdirLine.FindSubmatch(b); m != nil {
		return filepath.Clean(string(m[1]))
	}
	return ""
}

// moduleHint: a module that is not there is one of a virtualenv that the file
// does not name, or a file beside chdir.
func moduleHint(e *eyes, m []string, dir string) string {
	if dir == "" {
		return "name the app's directory: chdir = …, or pythonpath = …"
	}
	if found := e.glob(filepath.Join(dir, "*/pyvenv.cfg")); len(found) > 0 {
		return "virtualenv = " + filepath.Dir(found[0])
	}
	top, _, _ := strings.Cut(m[1], ".")
	for _, pattern := range []string{"*/" + top + ".py", "*/" + top + "/__init__.py", "../" + top + ".py", "../" + top + "/__init__.py"} {
		if found := e.glob(filepath.Join(dir, pattern)); len(found) > 0 {
			at := filepath.Dir(found[0])
			if filepath.Base(found[0]) == "__init__.py" {
				at = filepath.Dir(at)
			}
			return "pythonpath = " + at
		}
	}
	return ""
}

// hiddenHint: a path that is there on the host and that the vassal does not see. The
// vassal says which: what is not for everybody to read is no advice, be it there or not.
func hiddenHint(e *eyes, m []string, dir string) string {
	if !e.public(m[1]) || dir != "" && strings.HasPrefix(m[1], dir+"/") {
		return ""
	}
	return m[1] + " exists on the host and is not visible inside: bind = " + m[1] + ":ro"
}

func databaseHint(_ []string, v control.Vassal, dir string) string {
	user := or(deref(v.User), uidText(v))
	if dir == "" {
		dir = "the directory of the database"
	}
	return fmt.Sprintf("the app runs as %s and must be able to write to the file and to its directory: chown %s %s, or another uid", user, user, dir)
}

// socketHint: a database's socket that is not there inside. PHP does not say
// where it looked.
func socketHint(m []string, v control.Vassal, _ string) string {
	at := "unix:" + filepath.Clean(or(or(m[1], m[2]), "/run/mysqld/mysqld.sock"))
	at = strings.Replace(at, "unix:/var/run/", "unix:/run/", 1)
	if slices.Contains(v.Connect, at) {
		return "" // the relay says what is wrong with it
	}
	return "connect = " + at
}
