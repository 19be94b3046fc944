package inifile

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"

	"liege/vassal"
)

// problems collects what is said about a text.
type problems struct {
	list  vassal.Problems
	order []string // files, in the order of their first problem
	extra int
}

func (ps *problems) say(sev vassal.Severity, at place, key, code, message, hint string) {
	if len(ps.list) >= MaxProblems*4 {
		ps.extra++
		return
	}
	o := at.origin()
	if !slices.Contains(ps.order, o.File) {
		ps.order = append(ps.order, o.File)
	}
	ps.list = append(ps.list, vassal.Problem{Severity: sev, Code: code, File: o.File, Line: o.Line, Key: unguard(clip(key)), Message: message, Hint: hint})
}

func (ps *problems) fail(at place, key, code, message, hint string) {
	ps.say(vassal.Error, at, key, code, message, hint)
}

func (ps *problems) warn(at place, key, code, message, hint string) {
	ps.say(vassal.Warning, at, key, code, message, hint)
}

// finish returns the problems in the order of the files and lines, the same
// one said of several lines as one, and no more than MaxProblems of them.
func (ps *problems) finish() vassal.Problems {
	slices.SortStableFunc(ps.list, func(a, b vassal.Problem) int {
		return cmp.Or(cmp.Compare(slices.Index(ps.order, a.File), slices.Index(ps.order, b.File)), cmp.Compare(a.Line, b.Line))
	})
	var out vassal.Problems
	at := map[vassal.Problem]int{}
	var lines [][]int
	for _, p := range ps.list {
		same := p
		same.Line = 0
		i, seen := at[same]
		if !seen {
			i = len(out)
			at[same] = i
			out, lines = append(out, p), append(lines, nil)
		}
		if n := lines[i]; len(n) == 0 || n[len(n)-1] != p.Line {
			lines[i] = append(n, p.Line)
		}
	}
	for i, n := range lines {
		if len(n) > 1 {
			out[i].Message += fmt.Sprintf(" (%d lines: %s)", len(n), someLines(n))
		}
	}
	if more := len(out) - MaxProblems; more > 0 {
		ps.extra += more
		out = worst(out)
	}
	if ps.extra > 0 {
		out = append(out, vassal.Problem{Severity: vassal.Error, Code: vassal.CodeTooBig, File: out[0].File, Message: fmt.Sprintf("and %d more problems", ps.extra)})
	}
	return out
}

// worst keeps MaxProblems of list, errors before warnings before notes.
func worst(list vassal.Problems) vassal.Problems {
	var out vassal.Problems
	for _, sev := range []vassal.Severity{vassal.Error, vassal.Warning, vassal.Note} {
		for _, p := range list {
			if p.Severity == sev && len(out) < MaxProblems {
				out = append(out, p)
			}
		}
	}
	return out
}

func someLines(n []int) string {
	var b strings.Builder
	for i, line := range n {
		switch {
		case i == 8:
			return b.String() + ", …"
		case i > 0:
			b.WriteString(", ")
		}
		fmt.Fprint(&b, line)
	}
	return b.String()
}

// asked is every question with its answer: what the digest is made of. One
// question gets one answer, however often the text asks.
type asked struct {
	sum   hash.Hash
	list  []Query
	seen  map[Query]bool
	bytes int
}

func (a *asked) init() { a.sum, a.seen = sha256.New(), map[Query]bool{} }

// answered adds text that was read, or a question and its answer to the digest.
func (a *asked) answered(kind, name string, answer ...any) {
	q := Query{kind, name}
	switch kind {
	case "source", "text", "set": // not questions
	case "user", "cpus", "hostname": // asked anew each time, of a host that does not change
		if a.seen[q] {
			return
		}
		fallthrough
	default:
		if !a.seen[q] {
			a.list = append(a.list, q)
		}
		a.seen[q] = true
	}
	frame(a.sum, kind)
	frame(a.sum, name)
	for _, x := range answer {
		switch x := x.(type) {
		case []byte:
			frame(a.sum, string(x))
		default:
			frame(a.sum, fmt.Sprint(x))
		}
	}
}

// frame writes s with its length: two questions never look like another one.
func frame(w hash.Hash, s string) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(s)))
	_, _ = w.Write(n[:]) // a hash never fails
	_, _ = io.WriteString(w, s)
}

func (a *asked) finish() ([]Query, vassal.Digest) {
	var d vassal.Digest
	a.sum.Sum(d[:0])
	return a.list, d
}
