// Package mail is what an operator may bound about the mail of vassals, in
// [ceilings]: who it may come from, and how much of it (CONTRACT 21).
//
//	sendmail-sender = %U@web1.example *@%U.example
//	sendmail-rate = 100/h
//
// The rules are read by inifile, a user's name is put in by resolve, and
// liege-relay holds its vassal to them: it alone stands between an app, which may
// speak SMTP by itself, and the mail server.
package mail

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Socket is where the relay takes the mail of /usr/sbin/sendmail, inside.
const Socket = "/run/liege/sendmail.sock"

// Caps are the bounds of one vassal. The zero value has none.
type Caps struct {
	Senders []string `json:"senders,omitempty"` // rules; empty: anybody
	Rate    Rate     `json:"rate,omitzero"`
}

// None reports whether c bounds nothing.
func (c Caps) None() bool { return len(c.Senders) == 0 && c.Rate == Rate{} }

// May reports whether mail may come from sender, an address as MAIL has it
// without its brackets; empty is the null sender of bounces.
func (c Caps) May(sender string) bool {
	return len(c.Senders) == 0 || slices.ContainsFunc(c.Senders, func(rule string) bool { return covers(rule, sender) })
}

// Rule reports whether rule can stand in sendmail-sender: ADDRESS, *@DOMAIN,
// *@*.DOMAIN, or <> for the null sender. %U stands for the user's name.
func Rule(rule string) bool {
	if rule == "<>" {
		return true
	}
	local, domain, ok := strings.Cut(strings.ReplaceAll(rule, "%U", "u"), "@")
	if local == "*" {
		local = "any"
	}
	return ok && Plain(local) && Plain(strings.TrimPrefix(domain, "*."))
}

// Plain reports whether s is a local part, or a domain, that needs no quotes and
// that every program reads alike.
func Plain(s string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= 0x80
		if !alnum && !strings.ContainsRune("!#$&'+-/=?^_{|}~.", rune(c)) {
			return false
		}
	}
	return s != "" && len(s) <= 255
}

// For puts a user's name into the rules. One that could be read as more than a
// name makes rules that cover nobody.
func For(rules []string, user string) []string {
	if !Plain(user) {
		user = "\x00"
	}
	out := make([]string, len(rules))
	for i, r := range rules {
		out[i] = strings.ReplaceAll(r, "%U", user)
	}
	return out
}

// covers compares without regard to case, as mail servers do.
func covers(rule, sender string) bool {
	if rule == "<>" || sender == "" {
		return rule == "<>" && sender == ""
	}
	local, domain, ok := strings.Cut(sender, "@")
	if !ok || !Plain(local) || !Plain(domain) {
		return false
	}
	ruleLocal, ruleDomain, _ := strings.Cut(rule, "@")
	if ruleLocal != "*" && !strings.EqualFold(ruleLocal, local) {
		return false
	}
	if parent, below := strings.CutPrefix(ruleDomain, "*"); below { // "*.example": parent is ".example"
		return len(domain) > len(parent) && strings.EqualFold(domain[len(domain)-len(parent):], parent)
	}
	return strings.EqualFold(ruleDomain, domain)
}

// Rate is how many recipients in how long. The zero value is no bound.
type Rate struct {
	N   int           `json:"n"`
	Per time.Duration `json:"per"`
}

var units = []struct {
	name string
	per  time.Duration
}{{"s", time.Second}, {"m", time.Minute}, {"h", time.Hour}, {"d", 24 * time.Hour}}

// MaxRate bounds the number of a Rate.
const MaxRate = 1_000_000

// ParseRate reads N/s, N/m, N/h or N/d.
func ParseRate(text string) (Rate, bool) {
	n, unit, _ := strings.Cut(text, "/")
	many, err := strconv.Atoi(n)
	for _, u := range units {
		if unit == u.name && err == nil && many >= 1 && many <= MaxRate {
			return Rate{many, u.per}, true
		}
	}
	return Rate{}, false
}

// String is what ParseRate reads.
func (r Rate) String() string {
	for _, u := range units {
		if u.per == r.Per {
			return fmt.Sprintf("%d/%s", r.N, u.name)
		}
	}
	return "no bound"
}
