package vassal

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Severity says what a Problem does to a vassal.
type Severity string

// The severities, worst first.
const (
	Error   Severity = "error"   // it does not start
	Warning Severity = "warning" // it starts; something in the file has no or another effect
	Note    Severity = "note"    // shown by explain and --json only
)

// A Problem is one thing to tell the person who can act on it: what, on what,
// why, and what to write instead. Its JSON form is part of the outside
// contract. Message and Hint never quote a secret.
type Problem struct {
	Severity Severity `json:"severity"`
	Code     string   `json:"code"` // a stable word of docs/errors.md, such as "unknown-option"
	File     string   `json:"file,omitempty"`
	Line     int      `json:"line,omitempty"` // from 1; 0: none
	Key      string   `json:"key,omitempty"`  // the option
	Step     string   `json:"step,omitempty"` // of a start: "resolve", "listen", "hook as-root", "exec" …
	Message  string   `json:"message"`
	Hint     string   `json:"hint,omitempty"`
}

// MarshalJSON writes every member, null where there is nothing (CONTRACT 16).
func (p Problem) MarshalJSON() ([]byte, error) {
	text := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	var line *int
	if p.Line > 0 {
		line = &p.Line
	}
	return json.Marshal(struct {
		Severity Severity `json:"severity"`
		Code     string   `json:"code"`
		File     *string  `json:"file"`
		Line     *int     `json:"line"`
		Key      *string  `json:"key"`
		Step     *string  `json:"step"`
		Message  string   `json:"message"`
		Hint     *string  `json:"hint"`
	}{p.Severity, p.Code, text(p.File), line, text(p.Key), text(p.Step), p.Message, text(p.Hint)})
}

// Error is the one-line form without the hint: file:line: key: step: message.
func (p *Problem) Error() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	}
	for _, s := range []string{p.Key, p.Step} {
		if s != "" && s != "resolve" { // a mistake in the file: the step says nothing to its author
			b.WriteString(s + ": ")
		}
	}
	b.WriteString(p.Message)
	return b.String()
}

// Problems are all that was found, in the order of the file. As an error it
// stands for those of severity Error.
type Problems []Problem

// Failed reports whether any of ps is an Error.
func (ps Problems) Failed() bool { return ps.First() != nil }

// First returns the first Error of ps, or nil.
func (ps Problems) First() *Problem {
	if i := slices.IndexFunc(ps, func(p Problem) bool { return p.Severity == Error }); i >= 0 {
		return &ps[i]
	}
	return nil
}

// Err returns ps as an error if it Failed, else nil.
func (ps Problems) Err() error {
	if ps.Failed() {
		return ps
	}
	return nil
}

// Error is the first Error and the number of the others.
func (ps Problems) Error() string {
	first := ps.First()
	if first == nil {
		return "no problem"
	}
	n := 0
	for _, p := range ps {
		if p.Severity == Error {
			n++
		}
	}
	if n == 1 {
		return first.Error()
	}
	return fmt.Sprintf("%s (and %d more)", first.Error(), n-1)
}

// AsProblems returns err as Problems: what it wraps if it wraps Problems or a
// Problem, else one Error with the given step and code.
func AsProblems(err error, step, code string) Problems {
	if err == nil {
		return nil
	}
	if ps, ok := errors.AsType[Problems](err); ok {
		return ps
	}
	if p, ok := errors.AsType[*Problem](err); ok {
		return Problems{*p}
	}
	return Problems{{Severity: Error, Code: code, Step: step, Message: err.Error()}}
}
