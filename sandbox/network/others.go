package network

import (
	"bytes"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Blocked names the chains of others that drop what passes through the host
// unless they know it, and so what vassals send: by their policy, or by a last
// rule that asks for nothing. One whose table lets the vassals' interfaces out
// and answers back is none. Only root is told.
func Blocked() []string {
	out := legacyDrops()
	conn, err := nftables.New()
	if err != nil {
		return out
	}
	chains, err := conn.ListChains()
	if err != nil {
		return out
	}
	for _, c := range chains {
		if c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward || c.Type != nftables.ChainTypeFilter || c.Table.Name == hostTable {
			continue
		}
		name := families[c.Table.Family]
		if name == "" || !closes(conn, c) || opened(conn, c.Table, chains) {
			continue
		}
		out = append(out, fmt.Sprintf("table %s %s, chain %s", name, c.Table.Name, c.Name))
	}
	return out
}

var families = map[nftables.TableFamily]string{ //nolint:gochecknoglobals // a constant
	nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
}

// Unforwarded are the settings that are off and that the first vassal with an
// address sets, for the whole host.
func Unforwarded() []string {
	if readSysctl("ipv4/ip_forward") == "0" {
		return []string{"net.ipv4.ip_forward"}
	}
	return nil
}

// closes tells whether what no rule of c knows is dropped.
func closes(conn *nftables.Conn, c *nftables.Chain) bool {
	if c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
		return true
	}
	rules, err := conn.GetRules(c.Table, c)
	if err != nil || len(rules) == 0 {
		return false
	}
	for _, e := range rules[len(rules)-1].Exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Reject:
			return true
		case *expr.Verdict:
			return e.Kind == expr.VerdictDrop
		default:
			return false // it asks for something
		}
	}
	return false
}

// opened tells whether rules of a table accept what comes from the vassals'
// interfaces, and answers to it.
func opened(conn *nftables.Conn, table *nftables.Table, chains []*nftables.Chain) bool {
	var there, back bool
	for _, c := range chains {
		if c.Table.Name != table.Name || c.Table.Family != table.Family {
			continue
		}
		rules, err := conn.GetRules(table, c)
		if err != nil {
			return false
		}
		for _, r := range rules {
			from, answers := accepts(r.Exprs)
			there, back = there || from, back || answers
		}
	}
	return there && back
}

// accepts tells whether a rule accepts all that comes from vassals, and whether
// it accepts what leads to them or what is known.
func accepts(exprs []expr.Any) (from, answers bool) {
	var asks int
	var at expr.MetaKey
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Counter:
		case *expr.Meta:
			at = e.Key
		case *expr.Cmp:
			asks++
			if ours := e.Op == expr.CmpOpEq && bytes.Equal(e.Data, []byte(hostPrefix)); ours {
				from, answers = from || at == expr.MetaKeyIIFNAME, answers || at == expr.MetaKeyOIFNAME
			}
		case *expr.Ct:
			answers = true
			asks++
		case *expr.Match: // of iptables
			answers = answers || e.Name == "conntrack" || e.Name == "state"
			asks++
		case *expr.Verdict:
			ok := e.Kind == expr.VerdictAccept
			return ok && from && asks == 1, ok && answers
		default:
			asks++
		}
	}
	return false, false
}
