package route

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"strings"
)

// Limits of a regular expression: its text, and the instructions it compiles
// to, which are memory and the factor in the time of each match.
const (
	maxPattern = 4 << 10
	maxProgram = 20_000
)

// unsupported is a construct of PCRE without a translation.
type unsupported struct{ what, hint string }

func (u *unsupported) Error() string { return u.what }

func hintOf(err error) string {
	if u, ok := errors.AsType[*unsupported](err); ok {
		return u.hint
	}
	return ""
}

// groups are the special groups of PCRE, the longest first, with what they are.
var groups = []struct{ open, what, hint string }{
	{"(?=", "look-ahead (?=…) would need a matcher that can take for ever", "test twice: route-if = regexp:${PATH_INFO};FIRST goto:second"},
	{"(?!", "negative look-ahead (?!…) would need a matcher that can take for ever", "let another rule above end the chain for what is not meant: route = ^/public last:"},
	{"(?<=", "look-behind (?<=…) would need a matcher that can take for ever", "match what stands before too, and use $1"},
	{"(?<!", "negative look-behind (?<!…) would need a matcher that can take for ever", "let another rule above end the chain for what is not meant"},
	{"(?>", "an atomic group (?>…) means nothing to a matcher that never goes back", "(?:…), if nothing else depends on it"},
	{"(?|", "a branch reset (?|…) has no translation", "(?:…), and count the groups one after the other"},
	{"(?(", "a conditional group (?(…)…) has no translation", "two rules"},
	{"(?R", "recursion has no translation", ""},
	{"(?&", "recursion has no translation", ""},
	{"(?P>", "recursion has no translation", ""},
	{"(?P=", "a back reference needs a matcher that can take for ever", ""},
	{"(?C", "a callout has no translation", ""},
	{"(?x", "extended syntax (?x) has no translation", "write the expression without blanks"},
	{"(*", "a verb (*…) has no translation", "leave it out"},
}

// escapes are the escapes of PCRE that mean something else, or nothing, to
// package regexp, and what is written instead; inside a class without the
// brackets. Those without a translation say why.
var escapes = map[byte]struct{ out, in, why string }{
	'h': {`[\t ]`, `\t `, ""},
	'H': {`[^\t ]`, "", "a negated set inside a class has no translation"},
	'v': {`[\n\v\f\r]`, `\n\v\f\r`, ""},
	'V': {`[^\n\v\f\r]`, "", "a negated set inside a class has no translation"},
	'N': {`[^\n]`, "", "it means nothing inside a class"},
	'R': {`(?:\r\n|[\n\v\f\r])`, "", "it means nothing inside a class"},
	'Z': {`(?:\n?\z)`, "", "it means nothing inside a class"},
	'e': {`\x1b`, `\x1b`, ""},
	'K': {"", "", `\K has no translation`},
	'G': {"", "", `\G has no translation`},
	'X': {"", "", `\X has no translation`},
	'C': {"", "", `\C, a single byte, has no translation`},
	'c': {"", "", `\c, a control character, has no translation`},
	'g': {"", "", "a back reference needs a matcher that can take for ever"},
	'k': {"", "", "a back reference needs a matcher that can take for ever"},
}

// Translate returns the PCRE expression p in the syntax of package regexp, or
// why that cannot be. "$" matches before a line break at the end as well, as
// in PCRE: a rule that keeps /x.php away keeps "/x.php\n" away.
func Translate(p string) (string, error) {
	if len(p) > maxPattern {
		return "", fmt.Errorf("longer than %d bytes", maxPattern)
	}
	t := translator{in: p, multi: strings.Contains(p, "(?m") || strings.Contains(p, "m)")}
	for t.i < len(p) {
		if err := t.next(); err != nil {
			return "", err
		}
	}
	out := t.out.String()
	re, err := syntax.Parse(out, syntax.Perl)
	if err != nil {
		if e, ok := errors.AsType[*syntax.Error](err); ok {
			return "", fmt.Errorf("%s: %.40q", e.Code, e.Expr)
		}
		return "", err
	}
	if n := program(re); n > maxProgram {
		return "", &unsupported{"too large: every match would take long", "fewer or smaller repetitions {n}"}
	}
	return out, nil
}

type translator struct {
	in      string
	i       int
	out     strings.Builder
	class   bool
	first   bool // nothing of the class yet, so "]" is itself
	multi   bool // (?m) is set somewhere: "$" is left alone
	literal bool // between \Q and \E
	repeats bool // what stands before may be repeated
}

func (t *translator) next() error {
	rest := t.in[t.i:]
	switch c := rest[0]; {
	case t.literal:
		if strings.HasPrefix(rest, `\E`) {
			t.literal = false
			return t.copy(2)
		}
		return t.copy(1)
	case c == '\\':
		return t.escape(rest)
	case t.class:
		return t.inClass(rest)
	case c == '[':
		t.class, t.first = true, true
		if strings.HasPrefix(rest, "[^") {
			return t.copy(2)
		}
		return t.copy(1)
	case c == '(':
		t.repeats = false
		return t.group(rest)
	case c == '$' && !t.multi:
		t.repeats = false
		return t.write(1, `(?:\n?\z)`)
	case c == '*' || c == '+' || c == '?':
		return t.repeat(rest, 1)
	case c == '{':
		if n := counted(rest); n > 0 {
			return t.repeat(rest, n)
		}
		t.repeats = true
		return t.copy(1)
	}
	t.repeats = rest[0] != '|' && rest[0] != '^'
	return t.copy(1)
}

// inClass copies one item of a class; the character right after "[" or "[^"
// does not end it.
func (t *translator) inClass(rest string) error {
	if strings.HasPrefix(rest, "[:") {
		if end := strings.Index(rest, ":]"); end > 0 {
			t.first = false
			return t.copy(end + 2)
		}
	}
	if rest[0] == ']' && !t.first {
		t.class, t.repeats = false, true
	}
	t.first = false
	if rest[0] == '[' {
		return t.write(1, `\[`) // itself, here
	}
	return t.copy(1)
}

// repeat copies a quantifier of n bytes, and refuses a possessive one.
func (t *translator) repeat(rest string, n int) error {
	if t.repeats && len(rest) > n && rest[n] == '+' {
		return &unsupported{"a possessive repetition " + rest[:n+1] + " means nothing to a matcher that never goes back", "leave the second + out"}
	}
	if len(rest) > n && rest[n] == '?' {
		n++
	}
	return t.copy(n)
}

// counted is the length of a repetition {n}, {n,} or {n,m} at the start of s.
func counted(s string) int {
	end := strings.IndexByte(s, '}')
	if end < 2 || s[1] == ',' {
		return 0
	}
	for _, c := range s[1:end] {
		if (c < '0' || c > '9') && c != ',' {
			return 0
		}
	}
	return end + 1
}

func (t *translator) group(rest string) error {
	if strings.HasPrefix(rest, "(?#") {
		end := strings.IndexByte(rest, ')')
		if end < 0 {
			return errors.New("a comment (?#… without its end")
		}
		t.i += end + 1
		return nil
	}
	if len(rest) > 3 && strings.HasPrefix(rest, "(?'") {
		if end := strings.IndexByte(rest[3:], '\''); end > 0 {
			return t.write(3+end+1, "(?P<"+rest[3:3+end]+">")
		}
	}
	for _, g := range groups {
		if strings.HasPrefix(rest, g.open) {
			return &unsupported{g.what, g.hint}
		}
	}
	if len(rest) > 2 && rest[1] == '?' && (rest[2] >= '0' && rest[2] <= '9' || (rest[2] == '-' || rest[2] == '+') && len(rest) > 3 && rest[3] >= '0' && rest[3] <= '9') {
		return &unsupported{"recursion has no translation", ""}
	}
	if strings.HasPrefix(rest, "(?") {
		return t.copy(2)
	}
	return t.copy(1)
}

func (t *translator) escape(rest string) error {
	if len(rest) < 2 {
		return errors.New(`a backslash at the end; uWSGI cuts the expression at the first blank: write \s for one`)
	}
	c := rest[1]
	t.first, t.repeats = false, true
	if c == 'Q' && !t.class {
		t.literal = true
		return t.copy(2)
	}
	if c >= '1' && c <= '9' && !t.class && (len(rest) < 3 || rest[2] < '0' || rest[2] > '9') {
		return &unsupported{`a back reference \` + string(c) + " needs a matcher that can take for ever", ""}
	}
	if high(rest) {
		return &unsupported{"a byte above 0x7f: expressions match characters of UTF-8, not bytes", "write the character itself"}
	}
	e, ok := escapes[c]
	switch {
	case !ok:
		return t.copy(2)
	case t.class && e.in != "":
		return t.write(2, e.in)
	case t.class || e.out == "":
		return &unsupported{e.why, ""}
	}
	return t.write(2, e.out)
}

// high reports whether s begins with an escape \x80 to \xff.
func high(s string) bool {
	return len(s) >= 4 && s[1] == 'x' && (s[2] == '8' || s[2] == '9' || s[2]|0x20 >= 'a' && s[2]|0x20 <= 'f') && s[3] != '{'
}

func (t *translator) copy(n int) error { return t.write(n, t.in[t.i:t.i+n]) }

func (t *translator) write(n int, s string) error {
	t.out.WriteString(s)
	t.i += n
	return nil
}

// program estimates the instructions that re compiles to. It grows with the
// product of nested repetitions, so it stops at maxProgram.
func program(re *syntax.Regexp) int {
	n := 1 + len(re.Rune)
	if re.Op == syntax.OpCharClass {
		n = 1 + len(re.Rune)/8
	}
	for _, s := range re.Sub {
		if n += program(s); n > maxProgram {
			return n
		}
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return min(n, maxProgram+1)
}
