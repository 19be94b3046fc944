package static

import (
	"log/slog"
	"math"
	"regexp"

	"liege/serve/exchange"
	"liege/vassal"
)

// expires are the static-expires* options. In uWSGI each family that matches
// adds an Expires field; a client can use only one, so here the first family
// that matches counts, in uWSGI's order, and in it the first rule: those from
// now before those from the file's time.
type expires struct {
	file, path, uri []expiry
	types           map[string]expiry
}

type expiry struct {
	re      *regexp.Regexp
	seconds int64
	mtime   bool
}

func newExpires(rules []vassal.StaticExpires, log *slog.Logger) *expires {
	if len(rules) == 0 {
		return nil
	}
	e := &expires{types: map[string]expiry{}}
	for _, mtime := range []bool{false, true} {
		for _, rule := range rules {
			if rule.Mtime == mtime {
				e.rule(rule, log)
			}
		}
	}
	return e
}

func (e *expires) rule(rule vassal.StaticExpires, log *slog.Logger) {
	x := expiry{seconds: rule.Seconds, mtime: rule.Mtime}
	if rule.By == vassal.ByType {
		if _, dup := e.types[rule.Match]; !dup {
			e.types[rule.Match] = x
		}
		return
	}
	var err error
	if x.re, err = regexp.Compile(rule.Match); err != nil {
		log.Error("static-expires", "line", rule.At.Line, "err", err) // found by check already
		return
	}
	switch rule.By {
	case vassal.ByFile:
		e.file = append(e.file, x)
	case vassal.ByPath:
		e.path = append(e.path, x)
	case vassal.ByURI:
		e.uri = append(e.uri, x)
	}
}

// byFile reports whether a rule asks for the file's path.
func (e *expires) byFile() bool { return e != nil && len(e.file) > 0 }

// add adds Expires to a, if a rule says when f expires.
func (e *expires) add(a *head, r *exchange.Request, f *found, real, kind string) {
	if e == nil {
		return
	}
	x, ok := first(e.file, real)
	if !ok {
		x, ok = first(e.path, r.Path())
	}
	if !ok {
		x, ok = first(e.uri, r.Get("REQUEST_URI"))
	}
	if !ok {
		if x, ok = e.types[kind]; !ok {
			return
		}
	}
	from := r.Start.Unix()
	if x.mtime {
		from = f.mtime
	}
	at := len(a.text)
	a.text = appendDate(a.text, from+min(x.seconds, math.MaxInt32))
	a.mark("Expires", at)
}

func first(rules []expiry, s string) (expiry, bool) {
	for _, x := range rules {
		if x.re.MatchString(s) {
			return x, true
		}
	}
	return expiry{}, false
}
