package route

import (
	"strings"

	"liege/serve/exchange"
	"liege/vassal"
	"liege/vassal/route"
)

// verdict is what an action says about the rest of its chain.
type verdict uint8

const (
	next  verdict = iota // look at the next rule
	leave                // the chain ends, the request goes on
	stop                 // the request ends here
)

// chain is a compiled chain.
type chain struct {
	rules []rule
	from  []vassal.Rule // what it was made of
}

// rule is one compiled rule.
type rule struct {
	label   bool
	subject subject
	match   *matcher
	capture bool // the action uses what the expression matched
	cond    func(x *run) bool
	not     bool
	act     func(x *run) verdict
	at      vassal.Origin
}

// subject is a variable that expressions are matched with; 0: none.
type subject uint8

// names are the variables of subjects. The status of an answer is none.
var names = [...]string{"", "PATH_INFO", "HTTP_HOST", "REQUEST_URI", "QUERY_STRING", "REMOTE_ADDR", "HTTP_USER_AGENT", "HTTP_REFERER", "REMOTE_USER", route.Status}

const (
	pathSubject   = subject(1)
	hostSubject   = subject(2)
	statusSubject = subject(len(names) - 1)
)

func (h *Handler) compile(rules []vassal.Rule) (chain, error) {
	c := chain{from: rules}
	for i := range rules {
		r := &rules[i]
		out := rule{label: r.Label != "" || r.Action == "", not: r.Not, at: r.At}
		if out.label {
			c.rules = append(c.rules, out)
			continue
		}
		var err error
		if r.Regexp != "" {
			out.capture = route.HasCaptures(r.ActionArg)
			if out.match, err = newMatcher(expression(r)); err != nil {
				return c, problem(r, err)
			}
		}
		for n, name := range names {
			if name == r.Subject {
				out.subject = subject(n)
			}
		}
		if r.Condition != "" {
			if out.cond, err = h.condition(r, out.match, out.capture); err != nil {
				return c, problem(r, err)
			}
		}
		if out.act, err = h.action(r, i, rules); err != nil {
			return c, problem(r, err)
		}
		c.rules = append(c.rules, out)
	}
	return c, nil
}

// expression is the regular expression of r. Names of hosts are the same in any
// case (RFC 9110 4.2.3).
func expression(r *vassal.Rule) string {
	if r.Subject == names[hostSubject] {
		return "(?i)" + r.Regexp
	}
	return r.Regexp
}

// apply runs c for the request: uWSGI's loop, in which a pending goto skips
// rules and the end of the chain lets the request go on.
func (x *run) apply(c *chain) verdict {
	for pc := 0; pc < len(c.rules); pc++ {
		r := &c.rules[pc]
		if r.label || !r.applies(x) {
			continue
		}
		x.jump = 0
		if v := r.act(x); v != next {
			return v
		}
		switch {
		case x.jump == 0:
		case x.jump <= pc:
			x.fail(r.at, "goto leads back, or to a label that is not there")
			return stop
		default:
			pc = x.jump - 1
		}
	}
	return leave
}

func (r *rule) applies(x *run) bool {
	switch {
	case r.cond != nil:
		return r.cond(x) != r.not
	case r.subject == 0:
		return true
	}
	s := x.subject(r.subject)
	if r.match.match(x, s, r.capture) {
		return true
	}
	other := r.subject.other(s)
	return other != s && r.match.match(x, other, r.capture)
}

// other is how a client may write what text names as well; text, if there is no
// such way. The mount point of an app without the slash behind it has an empty
// path, and a rule for all of the app (^/) holds for it too.
func (s subject) other(text string) string {
	switch {
	case s == hostSubject:
		return hostName(text)
	case s == pathSubject && text == "":
		return "/"
	}
	return text
}

// hostName is a Host field without its port and the dot of the root: a client
// may write both, and is at the same host.
func hostName(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host = host[:i]
	}
	return strings.TrimSuffix(host, ".")
}

// subject is the text that a rule looks at: found once, and again after a
// variable was set.
func (x *run) subject(s subject) string {
	if s == statusSubject {
		return x.statusText()
	}
	if x.have&(1<<s) == 0 {
		x.have |= 1 << s
		x.subjects[s] = x.Var(names[s])
		if s == hostSubject && x.subjects[s] == "" { // as in uWSGI
			x.subjects[s] = x.r.Get("SERVER_NAME")
		}
	}
	return x.subjects[s]
}

// set sets a variable of the request.
func (x *run) set(name, value string) {
	x.r.Set(name, value)
	x.have = 0
}

// maxVars bounds what rules may add to a request.
const maxVars = 1024

// setNew is set, unless there are too many variables.
func (x *run) setNew(at vassal.Origin, name, value string) verdict {
	if len(x.r.Vars) >= maxVars {
		x.fail(at, "too many variables")
		return stop
	}
	x.set(name, value)
	return next
}

// fail makes the request end with 500, and says why in the log.
func (x *run) fail(at vassal.Origin, why string) {
	x.h.cfg.Log.Error("routing rule", "file", at.File, "line", at.Line, "err", why)
	x.ending = func(*run) error {
		return &exchange.StatusError{Status: 500, Err: &vassal.Problem{Code: vassal.CodeBadRoute, File: at.File, Line: at.Line, Step: "routing", Message: why}}
	}
}
