package mail

import (
	"testing"
	"time"
)

func TestMay(t *testing.T) {
	rules := For([]string{"%U@web1.example", "*@%U.example", "*@*.shop.example"}, "alice")
	for _, tc := range []struct {
		sender string
		want   bool
	}{
		{"alice@web1.example", true},
		{"ALICE@Web1.Example", true},
		{"bob@web1.example", false},
		{"anybody@alice.example", true},
		{"anybody@sub.alice.example", false},
		{"anybody@evilalice.example", false},
		{"x@a.shop.example", true},
		{"x@a.b.shop.example", true},
		{"x@shop.example", false},
		{"x@.shop.example", false},
		{"", false},
		{"alice", false},
		{"@alice.example", false},
		{"a@b@alice.example", false},
		{`"a@alice.example"@evil.example`, false},
		{`"x"@alice.example`, false},
		{"a b@alice.example", false},
		{"a%evil.example@alice.example", false}, // a server that routes by % would send for evil.example
		{"x@alice.example\x00", false},
	} {
		if got := (Caps{Senders: rules}).May(tc.sender); got != tc.want {
			t.Errorf("%q: %v", tc.sender, got)
		}
	}
	if !(Caps{}).May("who@ever") || !(Caps{}).None() {
		t.Error("no rules bound somebody")
	}
	if !(Caps{Senders: []string{"<>"}}).May("") {
		t.Error("<> does not cover the null sender")
	}
	for _, name := range []string{"*", "a@b", "", "a b", "x\n"} {
		if (Caps{Senders: For([]string{"%U@web1.example", "*@%U"}, name)}).May(name + "@web1.example") {
			t.Errorf("a user named %q", name)
		}
	}
}

func TestRule(t *testing.T) {
	for rule, want := range map[string]bool{
		"a@b.example": true, "*@b.example": true, "*@*.b.example": true, "%U@b": true, "*@%U.b": true, "<>": true, "*@%U": true,
		"": false, "*": false, "a": false, "a*@b": false, "a@*": false, "a@b*.c": false, "%n@b": false, "a@b@c": false, "@b": false, "a@": false, "%%U@b": false, `"a"@b`: false,
	} {
		if Rule(rule) != want {
			t.Errorf("%q: %v", rule, !want)
		}
	}
}

func TestRate(t *testing.T) {
	for text, want := range map[string]Rate{"100/h": {100, time.Hour}, "1/s": {1, time.Second}, "5/m": {5, time.Minute}, "7/d": {7, 24 * time.Hour}} {
		got, ok := ParseRate(text)
		if !ok || got != want || got.String() != text {
			t.Errorf("%q: %v %v %s", text, got, ok, got)
		}
	}
	for _, text := range []string{"", "100", "0/h", "-1/h", "1/y", "h", "1/", "1000001/s", "1/hour", "1 /h"} {
		if got, ok := ParseRate(text); ok {
			t.Errorf("%q is %v", text, got)
		}
	}
}
