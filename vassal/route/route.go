// Package route is the language of internal routing: what a line such as
//
//	route-if-not = equal:${HTTPS};on redirect-permanent:https://${HTTP_HOST}${REQUEST_URI}
//
// means, and what is wrong with it. Whoever reads vassal files makes a rule of
// each line with Parse and looks at whole chains with Check; package
// serve/route carries rules out and reads them with the same functions. It
// asks the host nothing.
//
// The language is uWSGI's (its documentation, "uWSGI internal routing"). Four
// chains (Request, Error, Response, Final) hold rules in the order of the
// file. A rule has a regular expression and the variable it is matched with, or
// a condition, or neither; then an action and its argument, in which variables
// (see Template) are replaced. An action ends in one of three ways: the next
// rule is looked at, the chain ends and the request goes on, or the request
// ends here.
//
// Regular expressions are those of package regexp, which match in time linear
// in the text whatever the expression: tenants write them, and clients choose
// the text. PCRE's syntax is translated where it means the same (Translate);
// look-around, back references, recursion and the like have no such
// translation and are refused with their reason.
//
// Text that comes from a request is never looked at for variables again.
package route

import (
	"fmt"
	"strings"

	"liege/vassal"
)

// Chain is when rules are applied.
type Chain string

// The chains.
const (
	Request  Chain = "request"
	Error    Chain = "error"
	Response Chain = "response"
	Final    Chain = "final"
)

// MaxRules bounds the rules of a vassal, in all chains together.
const MaxRules = 4096

// Status is the subject of the …-route-status options.
const Status = "status"

// Trouble is what is wrong with a rule.
type Trouble struct {
	Severity vassal.Severity
	Code     string
	Message  string
	Hint     string
}

func wrong(hint, format string, a ...any) []Trouble {
	return []Trouble{{vassal.Error, vassal.CodeBadRoute, fmt.Sprintf(format, a...), hint}}
}

// subjects maps the last part of an option to the variable it looks at.
var subjects = map[string]string{
	"":            "PATH_INFO",
	"host":        "HTTP_HOST",
	"uri":         "REQUEST_URI",
	"qs":          "QUERY_STRING",
	"remote-addr": "REMOTE_ADDR",
	"user-agent":  "HTTP_USER_AGENT",
	"referer":     "HTTP_REFERER",
	"remote-user": "REMOTE_USER",
	"status":      Status,
}

// Option splits the name of an option of internal routing: "error-route-if" is
// the Error chain and "if". It is false for any other option.
func Option(key string) (c Chain, kind string, ok bool) {
	c = Request
	for _, p := range [...]Chain{Error, Response, Final} {
		if rest, found := strings.CutPrefix(key, string(p)+"-"); found {
			c, key = p, rest
		}
	}
	kind, ok = strings.CutPrefix(key, "route")
	if !ok || kind == "" {
		return c, "", ok
	}
	if kind, ok = strings.CutPrefix(kind, "-"); !ok {
		return c, "", false
	}
	switch kind {
	case "if", "if-not", "run", "label":
		return c, kind, true
	case Status:
		return c, kind, c != Request
	case "":
		return c, "", false
	}
	_, ok = subjects[kind]
	return c, kind, ok
}

// Parse makes a rule of the option key and its value. With a Trouble of
// severity Error the rule cannot be used. What concerns other rules, such as
// the label of a goto, is for Check.
func Parse(key, value string) (vassal.Rule, []Trouble) {
	chain, kind, ok := Option(key)
	r := vassal.Rule{Key: key}
	if !ok {
		return r, wrong("", "is no option of internal routing")
	}
	if kind == "label" {
		r.Label = value
		return r, nil
	}
	var ts []Trouble
	command := value
	if kind != "run" {
		test, rest, found := strings.Cut(value, " ")
		if !found {
			return r, wrong(example(kind), "has no blank between what is tested and the action")
		}
		command = strings.TrimLeft(rest, " \t")
		if kind == "if" || kind == "if-not" {
			r.Not = kind == "if-not"
			ts = parseCondition(&r, test)
		} else {
			r.Subject = subjects[kind]
			ts = parseRegexp(&r, test)
		}
		if failed(ts) {
			return r, ts
		}
	}
	action, arg, found := strings.Cut(command, ":")
	if !found {
		return r, wrong(example(kind), "%.60q is not written as action:argument", command)
	}
	r.Action, r.ActionArg = action, arg
	return r, append(ts, checkAction(chain, &r)...)
}

func example(kind string) string {
	switch kind {
	case "run":
		return "route-run = log:hello"
	case "if", "if-not":
		return "route-if = equal:${HTTPS};on continue:"
	}
	return "route = ^/admin redirect:https://example.org/"
}

func parseRegexp(r *vassal.Rule, pattern string) []Trouble {
	re, err := Translate(pattern)
	if err != nil {
		return wrong(hintOf(err), "regular expression %.80q: %v", pattern, err)
	}
	r.Regexp = re
	return nil
}

func failed(ts []Trouble) bool {
	for _, t := range ts {
		if t.Severity == vassal.Error {
			return true
		}
	}
	return false
}

// Captures reports whether $0 to $9 mean something in the action of r.
func Captures(r *vassal.Rule) bool { return r.Regexp != "" }

// Check looks at a chain as a whole: that every goto leads forward to a label
// or a rule. It returns the troubles by the number of the rule.
func Check(rules []vassal.Rule) map[int][]Trouble {
	out := map[int][]Trouble{}
	for i := range rules {
		r := &rules[i]
		if r.Action != "goto" {
			continue
		}
		t, err := ParseTemplate(r.ActionArg, Captures(r))
		label, constant := t.Constant()
		if err != nil || !constant {
			continue // known only when a request is there
		}
		switch to, found := Target(rules, label); {
		case !found:
			out[i] = wrong("route-label = "+label, "goto: there is no label %.60q in this chain", label)
		case to <= i:
			out[i] = wrong("move the label below the rule", "goto can only jump forward, and %.60q is above", label)
		}
	}
	return out
}

// Target is the number of the rule that a goto leads to: the first one with
// the label, else the label as a number, as in uWSGI.
func Target(rules []vassal.Rule, label string) (int, bool) {
	for i := range rules {
		if rules[i].Label == label && label != "" {
			return i, true
		}
	}
	n := 0
	for i := range len(label) {
		if label[i] < '0' || label[i] > '9' || n > MaxRules {
			return 0, false
		}
		n = n*10 + int(label[i]-'0')
	}
	return n, label != "" && n < len(rules)
}
