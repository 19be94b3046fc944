package main

import (
	"fmt"
	"strings"

	"liege/emperor/resolve"
	"liege/vassal"
)

// rules is the table of internal routing, as uWSGI prints it at its start:
// each rule with its number, which goto and the log speak of. The password of
// a basicauth rule is shown only if secrets is set.
func rules(r *resolve.Result, secrets bool) []explained {
	out := []explained{}
	all := r.App.Routing
	if all == nil {
		return out
	}
	for _, c := range []struct {
		chain string
		rules []vassal.Rule
	}{{"request", all.Request}, {"error", all.Error}, {"response", all.Response}, {"final", all.Final}} {
		for i := range c.rules {
			out = append(out, explained{fmt.Sprintf("%s %d", c.chain, i), ruleText(&c.rules[i], secrets), origin(c.rules[i].At)})
		}
	}
	return out
}

func ruleText(r *vassal.Rule, secrets bool) string {
	if r.Label != "" {
		return "label " + r.Label
	}
	arg := r.ActionArg
	if realm, who, ok := strings.Cut(arg, ","); ok && strings.HasPrefix(r.Action, "basicauth") && strings.Contains(who, ":") && !secrets {
		arg = realm + ",…"
	}
	not := ""
	if r.Not {
		not = "not "
	}
	then := r.Action + ":" + arg
	switch {
	case r.Condition == "regexp":
		return fmt.Sprintf("%s%s matches %s: %s", not, r.Arg, r.Regexp, then)
	case r.Condition != "":
		return fmt.Sprintf("%s%s %s: %s", not, r.Condition, r.Arg, then)
	case r.Subject != "":
		return fmt.Sprintf("%s matches %s: %s", r.Subject, r.Regexp, then)
	}
	return then
}
