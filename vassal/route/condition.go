package route

import (
	"fmt"
	"net/netip"
	"strings"

	"liege/vassal"
)

// Shape is what a condition's argument looks like.
type Shape uint8

// The shapes.
const (
	One    Shape = iota // one text
	Two                 // a;b
	Regexp              // subject;regexp
	Item                // key=K,name=CACHE
)

// A Condition is one kind of test of route-if.
type Condition struct {
	Name  string // the others are its synonyms
	Shape Shape
	Why   string // not empty: it is not there, and why
}

// conditions are uWSGI's, by every name.
var conditions = map[string]Condition{
	"exists": {"exists", One, ""}, "isfile": {"isfile", One, ""}, "isdir": {"isdir", One, ""}, "islink": {"islink", One, ""},
	"isexec": {"isexec", One, ""}, "empty": {"empty", One, ""},
	"equal": {"equal", Two, ""}, "isequal": {"equal", Two, ""}, "eq": {"equal", Two, ""}, "==": {"equal", Two, ""},
	"startswith": {"startswith", Two, ""}, "endswith": {"endswith", Two, ""}, "contains": {"contains", Two, ""}, "contain": {"contains", Two, ""},
	"ishigher": {"ishigher", Two, ""}, ">": {"ishigher", Two, ""}, "islower": {"islower", Two, ""}, "<": {"islower", Two, ""},
	"ishigherequal": {"ishigherequal", Two, ""}, ">=": {"ishigherequal", Two, ""},
	"islowerequal": {"islowerequal", Two, ""}, "<=": {"islowerequal", Two, ""},
	"ipv4in": {"ipv4in", Two, ""}, "ipv6in": {"ipv6in", Two, ""},
	"regexp": {"regexp", Regexp, ""}, "re": {"regexp", Regexp, ""},
	"lord":    {"lord", One, "there are no legions"},
	"incache": {"incache", Item, ""},
}

// Conditions are the tests of route-if that are there, by their first name.
func Conditions() map[string]Shape {
	out := map[string]Shape{}
	for _, c := range conditions {
		if c.Why == "" {
			out[c.Name] = c.Shape
		}
	}
	return out
}

// Sides splits the argument of a condition of shape Two. It is false when
// there is no ";": then the condition never holds, as in uWSGI.
func Sides(arg string) (a, b string, ok bool) { return strings.Cut(arg, ";") }

func parseCondition(r *vassal.Rule, test string) []Trouble {
	name, arg, ok := strings.Cut(test, ":")
	if !ok {
		return wrong(example("if"), "%.60q is not written as condition:argument", test)
	}
	c, ok := conditions[name]
	if !ok {
		return wrong("equal, empty, regexp, startswith, endswith, contains, exists, isfile, isdir …", "there is no condition %.40q", name)
	}
	if c.Why != "" {
		return notThere(name, c.Why)
	}
	r.Condition = c.Name
	if c.Shape == Regexp {
		subject, pattern, ok := strings.Cut(arg, ";")
		if !ok {
			return never(r, arg)
		}
		r.Arg = subject
		if ts := parseRegexp(r, pattern); ts != nil {
			return ts
		}
		_, err := ParseTemplate(subject, false)
		return asTrouble(err)
	}
	r.Arg = arg
	if c.Shape == Item {
		return asTrouble(keyed(InCacheKeys, "key")(arg, false))
	}
	if c.Shape == One {
		_, err := ParseTemplate(arg, false)
		return asTrouble(err)
	}
	a, b, ok := Sides(arg)
	if !ok {
		return never(r, arg)
	}
	for _, side := range [...]string{a, b} {
		if _, err := ParseTemplate(side, false); err != nil {
			return asTrouble(err)
		}
	}
	if t, _ := ParseTemplate(b, false); c.Name == "ipv4in" || c.Name == "ipv6in" {
		if text, constant := t.Constant(); constant {
			_, err := Network(text, c.Name == "ipv6in")
			return asTrouble(err)
		}
	}
	return nil
}

// never keeps a condition that cannot hold: uWSGI takes it, and a rule of
// route-if-not always applies.
func never(r *vassal.Rule, arg string) []Trouble {
	r.Condition, r.Arg = "never", ""
	what := "the rule is never applied"
	if r.Not {
		what = "the rule is always applied"
	}
	return []Trouble{{vassal.Warning, vassal.CodeBadRoute, fmt.Sprintf("%.60q has no \";\" between the two sides, so %s", arg, what),
		"equal:${HTTPS};on"}}
}

// Network parses an address or a network in CIDR form.
func Network(s string, v6 bool) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, err2 := netip.ParseAddr(s)
		if err2 != nil {
			return p, fmt.Errorf("%.60q is no address and no network", s)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p.Addr().Is6() != v6 {
		return p, fmt.Errorf("%.60q is of the other version of IP", s)
	}
	return p.Masked(), nil
}

func asTrouble(err error) []Trouble {
	if err == nil {
		return nil
	}
	return wrong("", "%v", err)
}

func notThere(what, why string) []Trouble {
	return []Trouble{{vassal.Error, vassal.CodeRoutingNotApplied, fmt.Sprintf("%.40s: %s", what, why), "remove the line, or let the front end do it"}}
}
