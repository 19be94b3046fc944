package inifile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"liege/vassal"
)

// maxNames is how long a chain of placeholders may be.
const maxNames = 1000

// expand makes the value of every entry that is there: $() and @() of all of
// them, then %(). Words of the language have acted on their text already; only
// the path of an inherit and what a placeholder stands for are expanded.
func (r *reader) expand() {
	for _, e := range r.entries {
		if r.stopped {
			return
		}
		if (e.kind == option || e.key == "inherit") && !e.late { // set-placeholder acts at once, as in uWSGI
			r.size -= len(e.value)
			e.value = r.replace(e, e.value, '$', r.environment)
			e.value = r.replace(e, e.value, '@', r.content)
			if r.size += len(e.value); r.size > MaxExpansion {
				r.stop(e.at, e.key, fmt.Sprintf("with it the settings expand to more than %d bytes", MaxExpansion))
				e.value = ""
			}
		}
		e.value = strings.ReplaceAll(e.value, theirs, "")
		e.expanded = e.value
	}
	for _, e := range r.entries {
		if r.stopped {
			return
		}
		if e.kind != word || e.key == "inherit" {
			r.placeholders(e, 0)
		}
	}
}

// replace replaces every sigil(…) in s by what f gives for the text between.
// Without ok the text stays. An expansion begins at a sigil and ends at the
// next ")"; what replaces it is not looked at again.
func (r *reader) replace(e *entry, s string, sigil byte, f func(e *entry, inner string) (string, bool)) string {
	open := string(sigil) + "("
	if !strings.Contains(s, open) {
		return s
	}
	var b strings.Builder
	for {
		i := strings.Index(s, open)
		if i < 0 {
			break
		}
		n := strings.IndexByte(s[i+2:], ')')
		if n < 0 {
			break
		}
		b.WriteString(s[:i])
		if v, ok := f(e, s[i+2:i+2+n]); ok && n > 0 {
			b.WriteString(v)
		} else {
			b.WriteString(s[i : i+2+n+1])
		}
		s = s[i+2+n+1:]
		if b.Len()+len(s) > MaxExpansion {
			r.stop(e.at, e.key, fmt.Sprintf("expands to more than %d bytes", MaxExpansion))
			return ""
		}
	}
	b.WriteString(s)
	return b.String()
}

// environment is $(NAME), $(NAME-default) or $(NAME:-default).
func (r *reader) environment(e *entry, inner string) (string, bool) {
	name, fallback, given := strings.Cut(inner, "-")
	if r.named(e, name) {
		return "", true
	}
	name, unsetOrEmpty := strings.CutSuffix(unguard(name), ":")
	if unsetOrEmpty && !given || !isName(name) {
		return "", false // a command substitution of some shell, not ours
	}
	v, set := r.getenv(e.at, name)
	switch {
	case set && (v != "" || !unsetOrEmpty):
		return r.data(e.at, e.key, v), true
	case given:
		return fallback, true // of this line: $(PORT:-%(port)) works
	case !e.at.operator:
		r.fail(e.at, e.key, vassal.CodeNotForTenants, "$("+clip(name)+"): only a file that belongs to root may read the environment", "write the value, or $("+clip(name)+":-value)")
	default:
		r.warn(e.at, e.key, vassal.CodeUnsetEnv, "$("+clip(name)+") is not set and stays as it is", "set it for the Emperor, or write $("+clip(name)+":-default)")
	}
	return "", false
}

func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '_' && !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(i > 0 && c >= '0' && c <= '9') {
			return false
		}
	}
	return s != ""
}

// content is @(PATH): the file without one final line end.
func (r *reader) content(e *entry, inner string) (string, bool) {
	name := unguard(inner)
	switch {
	case name == "":
		return "", false
	case r.named(e, inner):
		return "", true
	case hasScheme(name):
		r.refuseScheme(e.at, e.key, name)
		return "", true
	}
	f, ok := r.readFile(e.at.text, e.at, e.key, r.abs(name))
	if !ok {
		return "", true
	}
	e.tenant = e.tenant || !f.Operator
	s := strings.TrimSuffix(string(f.Data), "\n")
	return r.data(e.at, e.key, strings.TrimSuffix(s, "\r")), true
}

// named reports whether a user's words have a part in what a line of the operator's
// asks: root would read for the user what only root may.
func (r *reader) named(e *entry, asked string) bool {
	by := *e
	by.tenant = strings.Contains(asked, theirs)
	return r.strangers(&by)
}

// data is what came from outside the text: it is never expanded.
func (r *reader) data(at place, key, s string) string {
	if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
		r.fail(at, key, vassal.CodeSyntax, "what it reads is not text in UTF-8", "")
		return ""
	}
	return guard(s)
}

// placeholders expands every %(…) of e, and of what they stand for.
func (r *reader) placeholders(e *entry, depth int) {
	if e.state != 0 || r.stopped {
		return
	}
	if depth > maxNames {
		r.stop(e.at, e.key, fmt.Sprintf("more than %d placeholders refer to each other", maxNames))
		return
	}
	e.state = 1
	if !e.late {
		e.expanded = r.replace(e, e.value, '%', func(e *entry, inner string) (string, bool) { return r.formula(e, inner, depth) })
	}
	e.state = 2
	if r.grown += len(e.expanded); r.grown > MaxExpansion {
		r.stop(e.at, e.key, fmt.Sprintf("with it the settings expand to more than %d bytes", MaxExpansion))
	}
}

// unexpanded says that an inherited line is not what its writer meant.
func (r *reader) unexpanded(e *entry) {
	found := strings.Contains(e.value, "$(") || strings.Contains(e.value, "@(")
	r.replace(e, e.value, '%', func(_ *entry, inner string) (string, bool) {
		found = found || r.first[unguard(inner)] != nil
		return "", false
	})
	if found {
		r.warn(e.at, e.key, vassal.CodeNotExpanded, "$(), @() and %() are not expanded in a file read by inherit", "use include, or %-variables such as %N")
	}
}

// formula is what stands between %( and ).
func (r *reader) formula(e *entry, inner string, depth int) (string, bool) {
	inner = unguard(inner)
	if !strings.Contains(inner, " ") {
		v, ok := r.value(e, inner, depth)
		if !ok && inner != "" && !formats(e.key) {
			r.warn(e.at, e.key, vassal.CodePlaceholder, fmt.Sprintf("%%(%s) is not defined and stays as it is", clip(inner)), "")
		}
		return v, ok
	}
	var result []byte
	op := ""
	for token := range strings.FieldsFuncSeq(inner, func(c rune) bool { return c == ' ' }) {
		switch token {
		case "+", "-", "*", "/":
			op = token
			continue
		case "++", "--":
			result, op = calculate(token[:1], result, "1"), ""
			continue
		}
		arg := token
		if !isNumber(token) {
			var ok bool
			if arg, ok = r.value(e, token, depth); !ok {
				arg = ""
				r.warn(e.at, e.key, vassal.CodePlaceholder, fmt.Sprintf("%s in %%(%s) is not defined and counts as empty", clip(token), clip(inner)), "")
			}
		}
		if op == "" {
			result = append(result, arg...)
		} else {
			result, op = calculate(op, result, arg), ""
		}
		if r.work += len(arg); len(result) > MaxExpansion || r.work > 16*MaxExpansion {
			r.stop(e.at, e.key, fmt.Sprintf("expands to more than %d bytes", MaxExpansion))
			return "", true
		}
	}
	return string(result), true
}

// formats reports whether %(…) in values of key has a meaning of its own:
// log formats, where a name that is no placeholder is a variable of the
// request.
func formats(key string) bool {
	return strings.Contains(key, "log") || strings.Contains(key, "format") || strings.HasPrefix(key, "route")
}

// firstFor is the first entry of a name, as a line at may know it. An operator's
// line knows a user's only by names that the operator gives no meaning anywhere:
// who reads what first must not decide what the operator says. Users' lines know
// what the operator says by options that are theirs too, and by names of its own;
// not its hooks.
func (r *reader) firstFor(at place, name string) *entry {
	first, own := r.first[name], r.operators[name]
	switch {
	case at.operator && own != nil:
		return own
	case !at.operator && first != nil && first.at.operator && unspoken(name):
		return nil
	}
	return first
}

// unspoken reports whether name is an option whose value users are not told.
func unspoken(name string) bool {
	o, ok := Lookup(name)
	return ok && !o.Tenant && o.Type != Language
}

// value is what %(name) stands for: the first entry of that name. A name that
// refers to itself stays as it is, as in uWSGI; several that refer to each
// other, with which uWSGI fills its memory, are an Error.
func (r *reader) value(e *entry, name string, depth int) (string, bool) {
	r.referenced[name] = true
	d := r.firstFor(e.at, name)
	switch {
	case d == nil:
		return "", false
	case d == e:
		r.warn(e.at, e.key, vassal.CodePlaceholder, fmt.Sprintf("%%(%s) is this very line and stays as it is", clip(name)), "")
		return "%(" + guard(name) + ")", true
	case d.state == 1:
		r.fail(e.at, e.key, vassal.CodePlaceholder, fmt.Sprintf("%%(%s) refers back to this line", clip(name)), "")
		return "", true
	}
	r.placeholders(d, depth+1)
	e.tenant = e.tenant || d.tenant
	return d.expanded, true
}

// calculate is uWSGI's arithmetic: 64 bits, what is no number is 0, and so is
// a division by 0.
func calculate(op string, a []byte, b string) []byte {
	const longest = 64 // bytes that can be a number
	x, _ := leadingInt(string(a[:min(len(a), longest)]))
	y, _ := leadingInt(b[:min(len(b), longest)])
	switch op {
	case "+":
		x += y
	case "-":
		x -= y
	case "*":
		x *= y
	case "/":
		if y == 0 {
			x = 0
		} else {
			x /= y
		}
	}
	return strconv.AppendInt(nil, x, 10)
}

// isNumber: a sign makes it a name, as in uWSGI.
func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// leadingInt is strtoll: the number at the beginning of s, 0 without one, and
// the rest.
func leadingInt(s string) (n int64, rest string) {
	t := strings.TrimLeft(s, " \t")
	i := 0
	if i < len(t) && (t[i] == '-' || t[i] == '+') {
		i++
	}
	digits := i
	for i < len(t) && t[i] >= '0' && t[i] <= '9' {
		i++
	}
	if i == digits {
		return 0, s
	}
	n, _ = strconv.ParseInt(t[:i], 10, 64) // out of range: the nearest, as strtoll
	return n, t[i:]
}

// custom appends what the use s of a declared option stands for. Its template
// is K=V;K=V, with $1, $2 … for the words of the value.
func (r *reader) custom(out []Setting, e *entry, s Setting, d declaration, depth int) []Setting {
	if depth > MaxDepth {
		r.stop(e.at, s.Key, fmt.Sprintf("more than %d declared options stand for each other", MaxDepth))
		return out
	}
	args := strings.FieldsFunc(s.Value, func(c rune) bool { return c == ' ' })
	if len(args) == 0 {
		args = []string{""}
	}
	for part := range strings.SplitSeq(unguard(d.template), ";") {
		key, value, ok := strings.Cut(part, "=")
		if !ok {
			break // uWSGI too stops here: declare-option = x=$1 only makes x known
		}
		one := s
		one.Key, one.Value, one.Placeholder = arguments(key, args), arguments(value, args), false
		one.Raw, one.Tenant = one.Value, s.Tenant || d.tenant
		if r.grown += len(one.Key) + len(one.Value); r.grown > MaxExpansion || len(out) >= MaxSettings {
			r.stop(e.at, s.Key, fmt.Sprintf("with it the settings are more than %d, or more than %d bytes", MaxSettings, MaxExpansion))
			return out
		}
		switch inner, declared := r.declaredFor(one); {
		case declared:
			one.Placeholder = true
			out = r.custom(append(out, one), e, one, inner, depth+1)
		case slices.Contains([]string{"include", "ini", "inherit"}, one.Key):
			if by := *e; one.Tenant {
				if by.tenant = true; r.strangers(&by) {
					continue
				}
			}
			t := *e.at.text
			t.late = true
			r.load(&t, e.at, one.Key, guard(one.Value))
			r.inheritPending()
		case one.Key == "":
			r.fail(e.at, s.Key, vassal.CodeSyntax, "stands for a line without a name", "declare-option = NAME=KEY=VALUE;KEY=VALUE")
		case r.isWord(one.Key):
			r.fail(e.at, s.Key, vassal.CodeBlock, fmt.Sprintf("stands for %s, which a declared option cannot", one.Key), "")
		default:
			out = append(out, one)
		}
	}
	return out
}

// arguments replaces $1, $2 … of a template. One without a word stays.
func arguments(s string, args []string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		j := i + 1
		for j < len(s) && s[j] >= '0' && s[j] <= '9' && j-i < 4 {
			j++
		}
		n, err := strconv.Atoi(s[min(i+1, len(s)):j])
		if s[i] != '$' || err != nil || n < 1 || n > len(args) {
			b.WriteByte(s[i])
			continue
		}
		b.WriteString(args[n-1])
		i = j - 1
	}
	return b.String()
}
