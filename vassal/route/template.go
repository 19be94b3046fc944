package route

import (
	"fmt"
	"strings"
)

// A Template is the argument of an action or a condition: text in which
//
//	${NAME}        is a variable of the request, empty if it is not set
//	${name[arg]}   is the result of a function, see Functions
//	$0 … $9        is what the rule's regular expression, or a group of it,
//	               matched; nothing for a group that it does not have
//
// Any other "$" is itself, and "$$" is "$$", as in uWSGI. In a rule without a
// regular expression, $0 to $9 are themselves. What replaces them is never
// looked at again.
type Template struct{ pieces []piece }

// piece is one part of a template; exactly one of its meanings is used.
type piece struct {
	text    string // as it is
	capture int    // from 1: $0; 0: none
	name    string // of a variable, or with function of its argument
	fn      string
}

// Values is what a template's parts are replaced by.
type Values interface {
	Var(name string) string
	Func(fn, arg string) string
	Capture(n int) string
}

// Functions are those of ${name[arg]}, with the meaning of arg.
var Functions = map[string]string{
	"cookie":   "the value of the cookie arg, as sent",
	"qs":       "the value of arg in the query string, not decoded",
	"mime":     "the media type of the file that the variable arg names",
	"time":     "now: unix in seconds, micros in microseconds",
	"httptime": "now and arg seconds, as in a Date field",
	"uwsgi":    "wid, pid, uuid, status, rtime, lq, rsize or sor",
	"base64":   "of the variable arg",
	"hex":      "of the variable arg",
	"upper":    "of the variable arg",
	"lower":    "of the variable arg",
	"metric":   "the value of the metric arg",
}

// missing are functions of uWSGI's plugins that are not there.
var missing = map[string]bool{"geoip": true, "xattr": true, "xattr2": true, "math": true}

// words are the arguments that time and uwsgi take.
var words = map[string][]string{
	"time":  {"unix", "micros"},
	"uwsgi": {"wid", "pid", "uuid", "status", "rtime", "lq", "rsize", "sor"},
}

// ParseTemplate reads text; captures says that its rule has a regular
// expression.
func ParseTemplate(text string, captures bool) (Template, error) {
	var t Template
	for text != "" {
		i := strings.IndexByte(text, '$')
		if i < 0 || i+1 == len(text) {
			break
		}
		switch c := text[i+1]; {
		case c >= '0' && c <= '9' && captures:
			t.add(piece{text: text[:i]})
			t.pieces = append(t.pieces, piece{capture: int(c-'0') + 1})
			text = text[i+2:]
			continue
		case c == '{':
			end := strings.IndexByte(text[i:], '}')
			if end < 0 {
				t.add(piece{text: text}) // as in uWSGI
				return t, nil
			}
			p, err := variable(text[i+2 : i+end])
			if err != nil {
				return t, err
			}
			t.add(piece{text: text[:i]})
			t.pieces = append(t.pieces, p)
			text = text[i+end+1:]
			continue
		}
		t.add(piece{text: text[:i+2]})
		text = text[i+2:]
	}
	t.add(piece{text: text})
	return t, nil
}

// add appends text, joined with text before it.
func (t *Template) add(p piece) {
	if p.text == "" {
		return
	}
	if n := len(t.pieces); n > 0 && t.pieces[n-1].text != "" {
		t.pieces[n-1].text += p.text
		return
	}
	t.pieces = append(t.pieces, p)
}

func variable(name string) (piece, error) {
	open := strings.IndexByte(name, '[')
	if open <= 0 || name[len(name)-1] != ']' {
		return piece{name: name, fn: "var"}, nil
	}
	fn, arg := name[:open], name[open+1:len(name)-1]
	if missing[fn] {
		return piece{}, fmt.Errorf("${%s[…]} is not there yet", fn)
	}
	if Functions[fn] == "" {
		return piece{}, fmt.Errorf("${%s}: there is no function %q", name, fn)
	}
	if ws := words[fn]; ws != nil && !contains(ws, arg) {
		return piece{}, fmt.Errorf("${%s}: %s takes one of %s", name, fn, strings.Join(ws, ", "))
	}
	return piece{name: arg, fn: fn}, nil
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}

// Constant returns the text of a template without variables.
func (t *Template) Constant() (string, bool) {
	switch {
	case len(t.pieces) == 0:
		return "", true
	case len(t.pieces) == 1 && t.pieces[0].text != "":
		return t.pieces[0].text, true
	}
	return "", false
}

// Literal is the text before the first variable.
func (t *Template) Literal() string {
	if len(t.pieces) == 0 {
		return ""
	}
	return t.pieces[0].text
}

// Names are the variables that the template reads.
func (t *Template) Names() []string {
	var out []string
	for _, p := range t.pieces {
		if p.fn == "var" {
			out = append(out, p.name)
		}
	}
	return out
}

// Expand returns the template's text for a request. It allocates only if there
// is more than one part.
func (t *Template) Expand(v Values) string {
	switch len(t.pieces) {
	case 0:
		return ""
	case 1:
		return t.pieces[0].value(v)
	}
	var buf [256]byte
	b := buf[:0]
	for i := range t.pieces {
		b = append(b, t.pieces[i].value(v)...)
	}
	return string(b)
}

func (p *piece) value(v Values) string {
	switch {
	case p.text != "":
		return p.text
	case p.capture > 0:
		return v.Capture(p.capture - 1)
	case p.fn == "var":
		return v.Var(p.name)
	}
	return v.Func(p.fn, p.name)
}

// HasCaptures reports whether an argument uses $0 to $9.
func HasCaptures(arg string) bool {
	for i := 0; i+1 < len(arg); i++ {
		if arg[i] == '$' && arg[i+1] >= '0' && arg[i+1] <= '9' {
			return true
		}
	}
	return false
}
