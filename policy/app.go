package policy

import (
	"bytes"
	_ "embed"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"liege/vassal"
)

// App is what one application may, beyond what all may.
type App struct {
	ID    string
	Paths []Path
	Ports []int    // of its own, to listen on and to connect to
	Allow []string // of Allowances
	MCS   bool     // one module for many tenants, each with its categories
}

// Path is a directory, or a file, with the type that it gets.
type Path struct {
	Path string
	Kind Kind
}

// Kind is what an application does with a path.
type Kind string

// The kinds.
const (
	ReadOnly  Kind = "ro"     // read and execute
	ReadWrite Kind = "rw"     // all, execute too
	Log       Kind = "log"    // make and append
	Run       Kind = "run"    // sockets and pid files
	Settings  Kind = "config" // read
)

// types are the kinds with the ends of their types' names.
var types = map[Kind]string{ReadOnly: "content_t", ReadWrite: "rw_t", Log: "log_t", Run: "run_t", Settings: "config_t"}

// An Allowance is a group of services that an application may connect to.
type Allowance struct{ Name, Text string }

// Allowances are those of --allow, by name.
func Allowances() []Allowance {
	return []Allowance{
		{"db", "MySQL, PostgreSQL, Redis, memcached, MongoDB, CouchDB: ports and unix sockets"},
		{"dns", "name servers"},
		{"http-out", "web servers, and name servers"},
		{"ldap", "directory servers"},
		{"local", "ports that the policy knows no service on, for programs the app starts itself"},
		{"smtp", "mail servers"},
	}
}

//go:embed webapp.cil.tmpl
var cilTemplate string

//go:embed webapp.fc.tmpl
var fcTemplate string

// New returns the module of an application.
func New(a App) (Module, error) {
	if ps := a.check(); len(ps) > 0 {
		return Module{}, ps
	}
	cil, err := a.fill("webapp.cil.tmpl", cilTemplate)
	if err != nil {
		return Module{}, err
	}
	fc, err := a.fill("webapp.fc.tmpl", fcTemplate)
	if err != nil {
		return Module{}, err
	}
	return Module{Name: ModuleName(a.ID), CIL: cil, FC: fc}, nil
}

func (a App) fill(name, text string) ([]byte, error) {
	t, err := template.New(name).Funcs(template.FuncMap{
		"macro": func(s string) string { return strings.ReplaceAll(s, "-", "_") },
		"type":  func(k Kind) string { return "webapp_" + a.ID + "_" + types[k] },
		"regex": fcRegex,
		"text":  allowanceText,
	}).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, a); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b.Bytes(), nil
}

// Command is the command line that makes this module.
func (a App) Command() string {
	var b strings.Builder
	b.WriteString("liege policy new " + a.ID)
	for _, p := range a.Paths {
		b.WriteString(" --path " + p.Path + ":" + string(p.Kind))
	}
	for _, n := range a.Ports {
		fmt.Fprintf(&b, " --port %d", n)
	}
	if len(a.Allow) > 0 {
		b.WriteString(" --allow " + strings.Join(a.Allow, ","))
	}
	if a.MCS {
		b.WriteString(" --mcs")
	}
	return b.String()
}

func allowanceText(name string) string {
	for _, a := range Allowances() {
		if a.Name == name {
			return a.Text
		}
	}
	return ""
}

func (a App) check() vassal.Problems {
	var ps vassal.Problems
	add := func(msg, hint string) {
		ps = append(ps, vassal.Problem{Severity: vassal.Error, Code: vassal.CodeBadPolicy, Message: msg, Hint: hint})
	}
	if p := checkID(a.ID); p != nil {
		ps = append(ps, *p)
	}
	seen := map[string]bool{}
	for _, p := range a.Paths {
		if msg, hint := badPath(p); msg != "" {
			add(msg, hint)
		}
		if seen[p.Path] {
			add(p.Path+": named twice", "one label for one path")
		}
		seen[p.Path] = true
	}
	for i, n := range a.Ports {
		if n < 1 || n > 65535 {
			add(fmt.Sprintf("port %d: a port is 1 to 65535", n), "")
		} else if slices.Contains(a.Ports[:i], n) {
			add(fmt.Sprintf("port %d: named twice", n), "")
		}
	}
	for _, name := range a.Allow {
		if allowanceText(name) == "" {
			var known []string
			for _, k := range Allowances() {
				known = append(known, k.Name)
			}
			add(fmt.Sprintf("allow %s: no such group of services", name), "one of "+strings.Join(known, ", "))
		}
	}
	return ps
}

// ParsePath reads DIR[:KIND].
func ParsePath(s string) (Path, error) {
	dir, kind, found := strings.Cut(s, ":")
	p := Path{Path: dir, Kind: ReadOnly}
	if found {
		p.Kind = Kind(kind)
	}
	if _, ok := types[p.Kind]; !ok {
		return p, &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeBadPolicy,
			Message: fmt.Sprintf("path %s: no such kind: %q", dir, kind), Hint: "DIR:ro, DIR:rw, DIR:log, DIR:run or DIR:config"}
	}
	return p, nil
}

// never are paths whose label belongs to the system; so does that of every path
// of one component.
var never = []string{
	"/dev", "/etc", "/proc", "/run", "/sys", "/root", "/boot", "/home", "/tmp",
	"/var/lib", "/var/log", "/var/spool", "/var/tmp", "/var/run", "/var/cache",
	"/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64", "/usr/libexec", "/usr/share", "/usr/local",
	"/etc/liege", "/etc/vassals", "/run/liege", "/var/lib/liege", "/var/log/liege", "/usr/libexec/liege",
}

// within are the trees that are the system's as a whole.
var within = []string{"/dev", "/proc", "/sys", "/boot", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64", "/usr/libexec", "/etc/liege", "/etc/vassals", "/run/liege", "/var/lib/liege", "/var/log/liege"}

func badPath(p Path) (msg, hint string) {
	switch {
	case !path.IsAbs(p.Path) || path.Clean(p.Path) != p.Path:
		return fmt.Sprintf("path %q: not an absolute path in its shortest form", p.Path), ""
	case strings.ContainsFunc(p.Path, func(r rune) bool { return r <= ' ' || r == 0x7f || r > 0x7e || r == '"' || r == '\\' }):
		return fmt.Sprintf("path %q: a blank or a character that is not ASCII has no place in file contexts", p.Path), "name a directory above it"
	case strings.Count(p.Path, "/") == 1 || slices.Contains(never, p.Path):
		return fmt.Sprintf("path %s: its label belongs to the system", p.Path), "name the app's own directory, such as /srv/shop"
	}
	for _, dir := range within {
		if strings.HasPrefix(p.Path, dir+"/") {
			return fmt.Sprintf("path %s: %s belongs to the system", p.Path, dir), "name the app's own directory, such as /srv/shop"
		}
	}
	return "", ""
}

// fcRegex is the regular expression of file_contexts for a path and all below.
func fcRegex(p Path) string { return fcMeta.ReplaceAllString(p.Path, `\$0`) + "(/.*)?" }

var fcMeta = regexp.MustCompile(`[.^$?*+|\[\](){}]`)
