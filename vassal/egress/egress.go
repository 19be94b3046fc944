// Package egress is the language of egress lines, and what follows from them:
// where a vassal with net = nat may connect to (CONTRACT 5).
package egress

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"liege/vassal"
)

// usual is a line to write instead.
const usual = "egress = allow 10.0.0.7:5432, egress = deny 198.51.100.0/24, or any, any:587, dns"

// ParseLine parses "allow TARGET…" or "deny TARGET…". wrong, if not empty, says
// why it is none, and hint what to write instead.
func ParseLine(line string) (out []vassal.Egress, wrong, hint string) {
	words := strings.Fields(line)
	if len(words) < 2 || words[0] != "allow" && words[0] != "deny" {
		return nil, fmt.Sprintf("%.80q does not begin with allow or deny and name a target", line), usual
	}
	for _, w := range words[1:] {
		canonical, wrong, hint := Parse(w)
		if wrong != "" {
			return nil, wrong, hint
		}
		out = append(out, vassal.Egress{Allow: words[0] == "allow", Target: canonical})
	}
	return out, "", ""
}

// Parse makes the canonical form of a target: ADDRESS, NETWORK/BITS or any, with
// :PORT or :FROM-TO behind it, or dns. An IPv6 address with a port stands in
// brackets.
func Parse(word string) (canonical, wrong, hint string) {
	t, wrong, hint := parse(word)
	if wrong != "" {
		return "", wrong, hint
	}
	return t.String(), "", ""
}

// target is one in pieces.
type target struct {
	net           netip.Prefix // not valid: the name servers
	any           bool         // every address, of IPv4 and IPv6
	from, through uint16       // ports of TCP and UDP; both 0: all
}

// targetOf is that of a line which was parsed before.
func targetOf(e vassal.Egress) target {
	t, _, _ := parse(e.Target)
	return t
}

func (t target) names() bool { return !t.net.IsValid() && !t.any }

func (t target) String() string {
	s := t.net.String()
	switch {
	case t.any:
		s = "any"
	case t.names():
		return "dns"
	case t.net.IsSingleIP():
		s = t.net.Addr().String()
	}
	if t.from == 0 {
		return s
	}
	if addr, bits, network := strings.Cut(s, "/"); strings.Contains(addr, ":") {
		s = "[" + addr + "]"
		if network {
			s += "/" + bits
		}
	}
	s += ":" + strconv.Itoa(int(t.from))
	if t.through != t.from {
		s += "-" + strconv.Itoa(int(t.through))
	}
	return s
}

func parse(word string) (e target, wrong, hint string) {
	if word == "dns" {
		return e, "", ""
	}
	host, ports := split(word)
	if ports != "" {
		lo, hi, ranged := strings.Cut(ports, "-")
		if !ranged {
			hi = lo
		}
		l, err1 := strconv.ParseUint(lo, 10, 16)
		h, err2 := strconv.ParseUint(hi, 10, 16)
		if err1 != nil || err2 != nil || l == 0 || l > h {
			return e, fmt.Sprintf("%.80q: a port is a number from 1 to 65535, or two with a dash", word), usual
		}
		e.from, e.through = uint16(l), uint16(h)
	}
	if host == "any" {
		e.any = true
		return e, "", ""
	}
	addr, bits, network := strings.Cut(host, "/")
	if strings.HasPrefix(addr, "[") != strings.HasSuffix(addr, "]") {
		addr = ""
	}
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(addr, "["), "]"))
	if err != nil || a.Zone() != "" || a.Is4In6() {
		if err != nil && strings.ContainsFunc(host, func(r rune) bool { return r > '9' && r != ':' && r != '[' && r != ']' }) && !strings.Contains(host, ":") {
			return e, fmt.Sprintf("%.80q names no address", word), "the address that the name has: getent hosts " + host
		}
		return e, fmt.Sprintf("%.80q is not an address or a network", word), usual
	}
	n := a.BitLen()
	if network {
		if n, err = strconv.Atoi(bits); err != nil || n < 0 || n > a.BitLen() {
			return e, fmt.Sprintf("%.80q: a network of this kind has 0 to %d bits", word, a.BitLen()), usual
		}
	}
	e.net = netip.PrefixFrom(a, n)
	if e.net != e.net.Masked() {
		return e, fmt.Sprintf("%.80q: the address has bits beyond the network", word), e.net.Masked().String()
	}
	return e, "", ""
}

// split cuts the ports off; those of an IPv6 address stand behind a bracket.
func split(word string) (host, ports string) {
	i := strings.LastIndexByte(word, ':')
	if i < 0 || strings.Count(word, ":") > 1 && !strings.HasPrefix(word, "[") || i < strings.LastIndexByte(word, ']') {
		return word, ""
	}
	return word[:i], word[i+1:]
}

// Rule lets a connection pass, or refuses it.
type Rule struct {
	Allow         bool
	To            netip.Prefix
	From, Through uint16 // ports of TCP and UDP; both 0: all, and whatever has none
}

func (r Rule) covers(a netip.AddrPort) bool {
	return r.To.Contains(a.Addr()) && (r.From == 0 && r.Through == 0 || r.From <= a.Port() && a.Port() <= r.Through)
}

// Policy is where one vassal may connect to: a connection must pass every
// stage. In a stage the first rule that covers it decides; one that none covers
// passes. What Never names is refused whatever a stage says.
type Policy struct{ Stages [][]Rule }

// Allows reports whether a connection to a is allowed.
func (p Policy) Allows(a netip.AddrPort) bool {
	for _, n := range never {
		if n.Contains(a.Addr()) {
			return false
		}
	}
	for _, rules := range p.Stages {
		for _, r := range rules {
			if r.covers(a) {
				if !r.Allow {
					return false
				}
				break
			}
		}
	}
	return true
}

// New makes the policy of a vassal: first come the operator's lines, then
// ceilings, which are targets that tenants may allow, and then what is so if no
// line says otherwise, in which capped closes the ports of MailPorts: mail has
// ceilings, and they would lead past them. What a tenant's lines say can only
// close more.
func New(lines, ceilings []vassal.Egress, servers []netip.Addr, capped bool) Policy {
	var own, theirs []vassal.Egress
	for _, e := range lines {
		if e.Tenant {
			theirs = append(theirs, e)
		} else {
			own = append(own, e)
		}
	}
	own = append(own, ceilings...)
	p := Policy{Stages: [][]Rule{append(rules(own, servers), usually(servers, capped)...)}}
	if len(theirs) > 0 {
		p.Stages = append(p.Stages, rules(theirs, servers))
	}
	return p
}

// rules are the rules of lines, where the name servers are known.
func rules(lines []vassal.Egress, servers []netip.Addr) []Rule {
	var out []Rule
	for _, e := range lines {
		switch t := targetOf(e); {
		case t.any:
			for _, p := range everywhere {
				out = append(out, Rule{e.Allow, p, t.from, t.through})
			}
		case t.names():
			for _, s := range servers {
				out = append(out, Rule{e.Allow, netip.PrefixFrom(s, s.BitLen()), dns, dns})
			}
		default:
			out = append(out, Rule{e.Allow, t.net, t.from, t.through})
		}
	}
	return out
}

const dns = 53

// MailPorts are those at which servers take mail, of which all but the first ask
// for a password (RFC 8314). They are closed: the first always, the others where
// mail is capped.
func MailPorts(capped bool) []uint16 {
	if capped {
		return []uint16{25, 465, 587}
	}
	return []uint16{25}
}

// usually is what is so where no line says otherwise: names are resolved, mail
// is not sent, and networks that are somebody's own are closed.
func usually(servers []netip.Addr, capped bool) []Rule {
	lines := []vassal.Egress{{Allow: true, Target: "dns"}}
	for _, port := range MailPorts(capped) {
		lines = append(lines, vassal.Egress{Target: fmt.Sprintf("any:%d", port)})
	}
	out := rules(lines, servers)
	for _, p := range inner {
		out = append(out, Rule{To: p})
	}
	return out
}

// Closed reports whether all of a target is closed unless an operator opens it.
func Closed(e vassal.Egress, capped bool) bool {
	t := targetOf(e)
	return t.from == t.through && slices.Contains(MailPorts(capped), t.from) || t.isIn(inner) || t.isIn(never)
}

// Hopeless reports whether all of a target is what no line opens.
func Hopeless(e vassal.Egress) bool { return targetOf(e).isIn(never) }

func (t target) isIn(networks []netip.Prefix) bool {
	return t.net.IsValid() && slices.ContainsFunc(networks, func(p netip.Prefix) bool {
		return p.Bits() <= t.net.Bits() && p.Contains(t.net.Addr())
	})
}

// Within reports whether ceiling covers all of a target.
func Within(ceiling, e vassal.Egress) bool {
	c, t := targetOf(ceiling), targetOf(e)
	if c.from != 0 && (t.from < c.from || t.through > c.through) {
		return false
	}
	if c.any || t.any || c.names() || t.names() {
		return c.any || c.names() && t.names()
	}
	return t.isIn([]netip.Prefix{c.net})
}

// Never returns the networks that no vassal reaches.
func Never() []netip.Prefix { return append([]netip.Prefix{}, never...) }

// Forbidden reports whether a is of one of them.
func Forbidden(a netip.Addr) bool {
	return target{net: netip.PrefixFrom(a, a.BitLen())}.isIn(never)
}

var (
	// never is nothing of the internet, but what a host or its cloud keeps for
	// itself. The last ones are IPv4 addresses in IPv6's: of NAT64, and 6to4.
	never = prefixes(
		"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
		"::/128", "::1/128", "::ffff:0:0/96", "fe80::/10", "fec0::/10", "ff00::/8", "fd00:ec2::/32",
		"64:ff9b::a9fe:0/112", "64:ff9b::7f00:0/104", "2002:a9fe::/32", "2002:7f00::/24")
	// inner is what is usually somebody's own network, or a cloud's: closed
	// unless a line opens it.
	inner = prefixes(
		"10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "192.0.0.0/24", "198.18.0.0/15", "168.63.129.16/32",
		"fc00::/7", "64:ff9b::a00:0/104", "64:ff9b::6440:0/106", "64:ff9b::ac10:0/108", "64:ff9b::c0a8:0/112", "64:ff9b:1::/48", "2001::/32", "2002::/16")
	everywhere = prefixes("0.0.0.0/0", "::/0")
)

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

// All reports whether a target is every address with every port.
func All(e vassal.Egress) bool { return e.Target == "any" }

// Names reports whether lines let a vassal ask for names.
func Names(lines []vassal.Egress) bool {
	for _, e := range lines {
		t := targetOf(e)
		if t.names() || t.any && (t.from == 0 || t.from <= dns && dns <= t.through) {
			return e.Allow
		}
	}
	return true
}
