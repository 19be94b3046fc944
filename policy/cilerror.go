package policy

import (
	"bytes"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"liege/vassal"
)

// The compiler's words.
var (
	cilAt      = regexp.MustCompile(`^(.*?)\s*(?:statement )?(?:at|at line) (?:(\d+) of )?(\S+?\.cil)(?::(\d+))?$`)
	cilLineOf  = regexp.MustCompile(`^(.*?) at line (\d+) of (\S+\.cil)$`)
	cilKeyword = regexp.MustCompile(`^Error: Unknown keyword (\S+)`)
	neverAt    = regexp.MustCompile(`^neverallow check failed at (\S+\.cil):(\d+)$`)
	allowAt    = regexp.MustCompile(`^\s+(allow|call|booleanif|macro|optional) at (\S+\.cil):(\d+)$`)
)

// explain turns what secilc said into problems with the files and lines that
// the caller knows.
func (c *compilation) explain(bad *toolError) error {
	var ps vassal.Problems
	lines := strings.Split(bad.output, "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		if neverAt.MatchString(line) {
			for _, p := range c.violations(lines[i:]) {
				ps = once(ps, p)
			}
			continue
		}
		if strings.HasPrefix(line, " ") {
			continue // of a violation
		}
		if m := cilKeyword.FindStringSubmatch(line); m != nil {
			ps = append(ps, c.keyword(m[1]))
			continue
		}
		file, n, what := "", "", ""
		if m := cilLineOf.FindStringSubmatch(line); m != nil {
			what, n, file = m[1], m[2], m[3]
		} else if m := cilAt.FindStringSubmatch(line); m != nil && m[4] != "" {
			what, file, n = m[1], m[3], m[4]
		}
		if file == "" {
			continue
		}
		p := c.problem(file, n)
		p.Message = what
		if i > 0 && strings.HasPrefix(lines[i-1], "Failed to resolve") && !strings.Contains(lines[i-1], " at ") {
			p.Message = lines[i-1]
		}
		if text := c.line(file, n); text != "" && strings.Contains(what, "resolve") {
			p.Message = fmt.Sprintf("%s: %s", strings.TrimSuffix(p.Message, " statement"), text)
			p.Hint = "the installed policy has no such name; rules about what it may lack belong in (optional …)"
		}
		ps = append(ps, p)
	}
	if len(ps) == 0 {
		return bad
	}
	return ps
}

// once adds a violation, unless the same rule breaks another assertion already:
// apps are parted in both directions, and by their modules' own assertions.
func once(ps vassal.Problems, p vassal.Problem) vassal.Problems {
	for _, q := range ps {
		if q.Code == p.Code && q.File == p.File && q.Line == p.Line {
			return ps
		}
	}
	return append(ps, p)
}

// violations are the rules that break one assertion.
func (c *compilation) violations(lines []string) vassal.Problems {
	m := neverAt.FindStringSubmatch(lines[0])
	assertion := ""
	if len(lines) > 1 {
		assertion = strings.TrimSpace(lines[1])
	}
	var ps vassal.Problems
	var via []string
	for i := 2; i < len(lines) && strings.TrimSpace(lines[i]) != ""; i++ {
		if strings.TrimSpace(lines[i]) == "<root>" {
			via = nil
			continue
		}
		a := allowAt.FindStringSubmatch(lines[i])
		if a == nil {
			continue
		}
		if a[1] != "allow" {
			via = []string{a[2], a[3]}
			continue
		}
		at := []string{a[2], a[3]}
		if via != nil && !c.from[filepath.Base(a[2])].app {
			at = via
		}
		p := c.problem(at[0], at[1])
		rule := ""
		if i+1 < len(lines) {
			rule = strings.TrimSpace(lines[i+1])
		}
		p.Code = vassal.CodeAssertion
		p.Message = fmt.Sprintf("%s breaks the assertion %s (%s)", rule, shorten(assertion), c.where(m[1], m[2]))
		ps = append(ps, p)
	}
	return ps
}

// shorten leaves a long list of permissions out.
func shorten(rule string) string {
	i := strings.LastIndexByte(rule, '(')
	if i < 0 || strings.Count(rule[i:], " ") < 6 {
		return rule
	}
	return rule[:i] + "(…)))"
}

// keyword finds a word that CIL does not have: the compiler does not say where.
func (c *compilation) keyword(word string) vassal.Problem {
	for _, m := range c.texts {
		src := c.from[m.name+".cil"]
		if !src.app {
			continue
		}
		if at := bytes.Index(m.text, []byte("("+word)); at >= 0 {
			p := c.problem(m.name+".cil", strconv.Itoa(1+bytes.Count(m.text[:at], []byte("\n"))))
			p.Message = word + ": CIL has no such word"
			return p
		}
	}
	return vassal.Problem{Severity: vassal.Error, Code: vassal.CodeBadPolicy, Message: word + ": CIL has no such word"}
}

// problem is one at a line of a compiled file.
func (c *compilation) problem(file, line string) vassal.Problem {
	p := vassal.Problem{Severity: vassal.Error, Code: vassal.CodeBadPolicy}
	src := c.from[filepath.Base(file)]
	p.Line, _ = strconv.Atoi(line)
	p.File = src.file
	if !src.app {
		return p
	}
	if i := p.Line - src.lines - 1; src.fc != "" && i >= 0 && i < len(src.fcAt) {
		p.File, p.Line = src.fc, src.fcAt[i]
	}
	if p.File == src.file {
		p.Line = min(p.Line, src.lines) // at the end: what was appended is not there
	}
	return p
}

func (c *compilation) where(file, line string) string {
	p := c.problem(file, line)
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// line is the text of a line.
func (c *compilation) line(file, line string) string {
	n, _ := strconv.Atoi(line)
	for _, m := range c.texts {
		if m.name+".cil" != filepath.Base(file) {
			continue
		}
		lines := bytes.Split(m.text, []byte("\n"))
		if n > 0 && n <= len(lines) {
			return string(bytes.TrimSpace(lines[n-1]))
		}
	}
	return ""
}
