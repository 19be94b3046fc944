package dirmon

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"liege/vassal"
)

// source is one place where vassal files are.
type source struct {
	path  string   // absolute, clean
	glob  bool     // path is a pattern
	fixed string   // of a pattern: the directory before the first wildcard
	parts []string // of a pattern: the components after fixed
}

// parseSource reads one source as a person writes it (CONTRACT 3). What names
// no wildcard is a directory, unless it is a file that exists: one that does
// not exist yet is no pattern (uWSGI takes it for one and never finds it).
func parseSource(s, root string) (source, error) {
	path, glob := s, strings.ContainsAny(s, "*?[")
	switch scheme, rest, ok := strings.Cut(s, "://"); {
	case !ok:
	case scheme == "dir":
		path, glob = rest, false
	case scheme == "glob":
		path, glob = rest, true
	default:
		return source{}, fmt.Errorf("vassals %q: %s:// is not supported; want dir://PATH, glob://PATTERN or a path", s, scheme)
	}
	if path == "" {
		return source{}, fmt.Errorf("vassals %q: names no path", s)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return source{}, fmt.Errorf("vassals %q: %w", s, err)
	}
	if !glob && strings.HasSuffix(abs, ".ini") {
		if st, err := os.Stat(filepath.Join(root, abs)); err == nil && st.Mode().IsRegular() {
			glob = true
		}
	}
	src := source{path: abs, glob: glob}
	if !glob {
		return src, nil
	}
	if _, err := filepath.Match(abs, ""); err != nil {
		return source{}, fmt.Errorf("vassals %q: is not a pattern", s)
	}
	comps := strings.Split(strings.Trim(abs, "/"), "/")
	n := 0
	for n < len(comps)-1 && !wild(comps[n]) {
		n++
	}
	src.fixed, src.parts = "/"+strings.Join(comps[:n], "/"), comps[n:]
	return src, nil
}

// names reports whether a file at path is of the source.
func (s source) names(path string) bool {
	if s.glob {
		ok, err := filepath.Match(s.path, path)
		return ok && err == nil
	}
	return filepath.Dir(path) == s.path
}

// Named reports whether one of the sources names a vassal file at path, which is
// absolute.
func Named(path string, sources []string) bool {
	return slices.ContainsFunc(sources, func(text string) bool {
		s, err := parseSource(text, "/")
		return err == nil && s.names(path)
	})
}

// NameOf is what an Emperor with these sources calls the vassal of the file at
// path, which is absolute: the first source that names it decides. It may be no
// name that can be used.
func NameOf(path string, sources []string) string {
	for _, text := range sources {
		s, err := parseSource(text, "/")
		if err != nil || !s.names(path) || !s.glob {
			continue
		}
		comps := strings.Split(strings.Trim(path, "/"), "/")
		return globName(s.parts, comps[len(comps)-len(s.parts):])
	}
	return strings.TrimSuffix(filepath.Base(path), ".ini")
}

func wild(s string) bool { return strings.ContainsAny(s, "*?[\\") }

// globName is the name of the vassal whose file a pattern found: what the
// wildcards of the directory part matched, and the file's name if that has a
// wildcard, joined with "_" (CONTRACT 3). Both lists have the same length; the
// last is the file.
func globName(parts, found []string) string {
	var words []string
	last := len(parts) - 1
	for i, p := range parts[:last] {
		words = append(words, captured(p, found[i])...)
	}
	if wild(parts[last]) || len(words) == 0 {
		words = append(words, strings.TrimSuffix(found[last], ".ini"))
	}
	return strings.Join(words, "_")
}

// captured returns what each run of wildcards in pattern matched of s.
func captured(pattern, s string) []string {
	var re strings.Builder
	re.WriteString(`(?s)^`)
	open := false
	for i := 0; i < len(pattern); {
		c := pattern[i]
		isWild := c == '*' || c == '?' || c == '['
		if isWild != open {
			re.WriteString(map[bool]string{true: "(", false: ")"}[isWild])
			open = isWild
		}
		switch c {
		case '*':
			re.WriteString(`.*?`)
		case '?':
			re.WriteString(`.`)
		case '[': // Match has approved it, and the whole: what it holds does not matter here
			re.WriteString(`.`)
			if end := strings.IndexByte(pattern[i+2:], ']'); end >= 0 {
				i += 2 + end
			} else {
				i = len(pattern) - 1
			}
		case '\\':
			i++
			c = pattern[min(i, len(pattern)-1)]
			fallthrough
		default:
			re.WriteString(regexp.QuoteMeta(string([]byte{c})))
		}
		i++
	}
	if open {
		re.WriteString(")")
	}
	re.WriteString("$")
	x, err := regexp.Compile(re.String())
	if err != nil {
		return []string{s}
	}
	m := x.FindStringSubmatch(s)
	if m == nil {
		return []string{s}
	}
	return m[1:]
}

// kind says what a file name promises.
type kind uint8

const (
	ignored kind = iota // never read: no .ini, or begins with a dot
	iniFile
	foreign // a vassal file of uWSGI in a format that is not supported
)

func kindOf(name string) kind {
	if strings.HasPrefix(name, ".") {
		return ignored
	}
	switch filepath.Ext(name) {
	case ".ini":
		return iniFile
	case ".yml", ".yaml", ".xml", ".json", ".js":
		return foreign
	}
	return ignored
}

// nameOf returns the vassal name for raw, or the Problem that it cannot be
// one. The name is then for show.
func nameOf(raw, path string) (vassal.Name, *vassal.Problem) {
	n, err := vassal.ParseName(raw)
	if err == nil {
		return n, nil
	}
	what := "is no name for a vassal: want letters, digits, . _ - and no dot or dash first"
	if len(raw) > vassal.MaxName {
		what = fmt.Sprintf("is no name for a vassal: want at most %d characters, it has %d", vassal.MaxName, len(raw))
	}
	if raw == "" {
		what = "is no name for a vassal: it is empty"
	}
	return vassal.Name(clean(raw)), problem(path, vassal.CodeBadName, what, "call it "+string(vassal.SuggestName(raw))+".ini")
}

// clean is s fit to be shown: a file name may be any bytes, and terminals obey
// some of them.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
