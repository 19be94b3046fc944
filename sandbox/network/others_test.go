package network

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Another's chain that drops what passes is told, unless its table lets vassals
// out and answers in.
func TestBlocked(t *testing.T) {
	iif, oif, ours := &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte("lg")}
	others := &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte("eth0\x00")}
	accept, drop, count := &expr.Verdict{Kind: expr.VerdictAccept}, &expr.Verdict{Kind: expr.VerdictDrop}, &expr.Counter{}
	reject := &expr.Reject{Type: 0, Code: 3} // icmp, port unreachable
	type rules [][]expr.Any
	out, back := []expr.Any{iif, ours, count, accept}, []expr.Any{oif, ours, accept}
	for _, tc := range []struct {
		name    string
		policy  nftables.ChainPolicy
		rules   rules
		blocked bool
	}{
		{"a policy", nftables.ChainPolicyDrop, nil, true},
		{"none", nftables.ChainPolicyAccept, nil, false},
		{"one way", nftables.ChainPolicyDrop, rules{out}, true},
		{"the other way", nftables.ChainPolicyDrop, rules{back}, true},
		{"both", nftables.ChainPolicyDrop, rules{out, back}, false},
		{"some of it", nftables.ChainPolicyDrop, rules{{iif, ours, oif, others, accept}, back}, true},
		{"another interface", nftables.ChainPolicyDrop, rules{{iif, others, accept}, back}, true},
		{"not accepted", nftables.ChainPolicyDrop, rules{{iif, ours, drop}, {oif, ours, drop}}, true},
		{"a last rule", nftables.ChainPolicyAccept, rules{{iif, others, accept}, {count, drop}}, true},
		{"it refuses", nftables.ChainPolicyAccept, rules{{count, reject}}, true},
		{"a last rule, and both", nftables.ChainPolicyAccept, rules{out, back, {reject}}, false},
		{"a last rule that asks", nftables.ChainPolicyAccept, rules{{iif, others, drop}}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.In(w.Host, func() error {
				conn, err := nftables.New()
				if err != nil {
					return err
				}
				table := conn.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
				chain := conn.AddChain(&nftables.Chain{Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &tc.policy})
				always := nftables.ChainPolicyDrop
				conn.AddChain(&nftables.Chain{Name: "INPUT", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &always})
				for _, exprs := range tc.rules {
					conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
				}
				if err := conn.Flush(); err != nil {
					return err
				}
				var want []string
				if tc.blocked {
					want = []string{"table ip filter, chain FORWARD"}
				}
				if diff := cmp.Diff(want, Blocked()); diff != "" {
					t.Error(diff)
				}
				return nil
			})
		})
	}
}
