package route

import (
	"regexp"
	"regexp/syntax"
	"strings"
)

// matcher is a regular expression with what can be told without it: most
// rules do not concern a request, and a search for a few bytes says so.
type matcher struct {
	re     *regexp.Regexp
	prefix string // it begins with ^ and this
	whole  bool   // and is nothing else
	need   string // occurs in whatever it matches; empty: not known
	fold   bool   // in any case; need is in lower case
}

func newMatcher(expr string) (*matcher, error) {
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, err
	}
	m := &matcher{re: re}
	tree, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil, err
	}
	tree = tree.Simplify()
	if tree.Op == syntax.OpConcat && len(tree.Sub) > 1 && tree.Sub[0].Op == syntax.OpBeginText {
		if lit := tree.Sub[1]; lit.Op == syntax.OpLiteral && lit.Flags&syntax.FoldCase == 0 {
			m.prefix, m.whole = string(lit.Rune), len(tree.Sub) == 2
		}
	}
	if m.prefix == "" {
		m.need, m.fold = needed(tree)
	}
	return m, nil
}

// needed is the longest literal that whatever re matches holds.
func needed(re *syntax.Regexp) (need string, fold bool) {
	switch re.Op {
	case syntax.OpLiteral:
		if re.Flags&syntax.FoldCase == 0 {
			return string(re.Rune), false
		}
		// Letters of ASCII whose other cases are ASCII too: not k (the Kelvin
		// sign) and s (the long s).
		lower := strings.ToLower(string(re.Rune))
		for i := range len(lower) {
			if lower[i] >= 0x80 || lower[i] == 'k' || lower[i] == 's' {
				return "", false
			}
		}
		return lower, true
	case syntax.OpCapture, syntax.OpPlus:
		return needed(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return needed(re.Sub[0])
		}
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			if n, f := needed(sub); len(n) > len(need) {
				need, fold = n, f
			}
		}
	}
	return need, fold
}

// possible reports whether s can match at all.
func (m *matcher) possible(s string) bool {
	switch {
	case m.fold:
		return containsFold(s, m.need)
	case m.need != "":
		return strings.Contains(s, m.need)
	}
	return strings.HasPrefix(s, m.prefix)
}

// containsFold reports whether s holds need, which is in lower case, in any
// case of ASCII.
func containsFold(s, need string) bool {
	first := need[0]
	for i := 0; i+len(need) <= len(s); i++ {
		if lower(s[i]) == first && equalFold(s[i+1:], need[1:]) {
			return true
		}
	}
	return false
}

// equalFold reports whether s begins with need.
func equalFold(s, need string) bool {
	for i := range len(need) {
		if lower(s[i]) != need[i] {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		c |= 0x20
	}
	return c
}

// match reports whether the expression matches s, and keeps what it matched
// for the rule's action if that asks for it.
func (m *matcher) match(x *run, s string, capture bool) bool {
	switch {
	case !m.possible(s):
		return false
	case !capture && m.whole:
		return true
	case !capture:
		return m.re.MatchString(s)
	}
	x.matched, x.groups = s, m.re.FindStringSubmatchIndex(s)
	return x.groups != nil
}
