package policy

import (
	"fmt"
	"regexp"
	"strings"

	"liege/vassal"
)

// A label is one line of file_contexts.
type label struct {
	regex, kind, context string
	line                 int
}

// kinds are those of file_contexts with CIL's words.
var kinds = map[string]string{"": "any", "--": "file", "-d": "dir", "-l": "symlink", "-p": "pipe", "-s": "socket", "-b": "block", "-c": "char"}

// parseFC reads lines of file_contexts; the error is a vassal.Problems.
func parseFC(text []byte) ([]label, error) {
	var labels []label
	var ps vassal.Problems
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		l := label{regex: f[0], context: f[len(f)-1], line: n}
		if len(f) == 3 {
			l.kind = f[1]
		}
		if msg := l.bad(len(f)); msg != "" {
			ps = append(ps, vassal.Problem{Severity: vassal.Error, Code: vassal.CodeBadPolicy, Line: n, Message: msg})
			continue
		}
		labels = append(labels, l)
	}
	if len(ps) > 0 {
		return nil, ps
	}
	return labels, nil
}

func (l label) bad(fields int) string {
	if fields < 2 || fields > 3 {
		return "a line is: REGEX [KIND] CONTEXT"
	}
	if _, ok := kinds[l.kind]; !ok {
		return fmt.Sprintf("kind %s: one of -- -d -l -p -s -b -c, or none", l.kind)
	}
	if !strings.HasPrefix(l.regex, "/") || strings.ContainsAny(l.regex, `"`) {
		return fmt.Sprintf("%s: not the pattern of an absolute path", l.regex)
	}
	if _, err := regexp.Compile(l.regex); err != nil {
		return fmt.Sprintf("%s: %v", l.regex, err)
	}
	if l.context != "<<none>>" && strings.Count(l.context, ":") < 2 {
		return fmt.Sprintf("%s: a context is user:role:type:level", l.context)
	}
	return ""
}

// cil is the line in CIL.
func (l label) cil() string {
	if l.context == "<<none>>" {
		return fmt.Sprintf("(filecon %q %s ())", l.regex, kinds[l.kind])
	}
	f := append(strings.SplitN(l.context, ":", 4), "s0")
	return fmt.Sprintf("(filecon \"%s\" %s (%s %s %s ((%s) (%s))))", l.regex, kinds[l.kind], f[0], f[1], f[2], f[3], f[3])
}

// stem is the longest path that all matches of the pattern have in common: the
// part before the first component with an operator. Everything that the line
// labels is at or below it.
func (l label) stem() string {
	s := strings.TrimSuffix(l.regex, "(/.*)?")
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case strings.IndexByte(".^$?*+|[](){}", c) >= 0:
			p := b.String()
			return strings.TrimSuffix(p[:strings.LastIndexByte(p, '/')+1], "/")
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
