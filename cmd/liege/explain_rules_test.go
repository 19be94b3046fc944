package main

import (
	"testing"

	"liege/vassal"
)

func TestRuleText(t *testing.T) {
	for _, c := range []struct {
		rule    vassal.Rule
		secrets bool
		want    string
	}{
		{vassal.Rule{Label: "https"}, false, "label https"},
		{vassal.Rule{Subject: "PATH_INFO", Regexp: "^/a", Action: "goto", ActionArg: "x"}, false, "PATH_INFO matches ^/a: goto:x"},
		{vassal.Rule{Condition: "equal", Arg: "${HTTPS};on", Not: true, Action: "break"}, false, "not equal ${HTTPS};on: break:"},
		{vassal.Rule{Condition: "regexp", Arg: "${A}", Regexp: "b", Action: "last"}, false, "${A} matches b: last:"},
		{vassal.Rule{Action: "basicauth", ActionArg: "realm,joe:secret"}, false, "basicauth:realm,…"},
		{vassal.Rule{Action: "basicauth", ActionArg: "realm,joe:secret"}, true, "basicauth:realm,joe:secret"},
		{vassal.Rule{Action: "basicauth-next", ActionArg: "realm,/etc/passwords"}, false, "basicauth-next:realm,/etc/passwords"},
	} {
		if got := ruleText(&c.rule, c.secrets); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
