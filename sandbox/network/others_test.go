package network

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// answer is what Blocked says of the chain FORWARD of the table ip filter.
type answer string

const no, yes, perhaps answer = "passes", "drops", "perhaps"

func (a answer) check(t *testing.T) {
	t.Helper()
	got := map[answer][]string{}
	got[yes], got[perhaps] = Blocked()
	want := map[answer][]string{yes: nil, perhaps: nil}
	if a != no {
		want[a] = []string{"table ip filter, chain FORWARD"}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

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
		blocked answer
	}{
		{"a policy", nftables.ChainPolicyDrop, nil, yes},
		{"none", nftables.ChainPolicyAccept, nil, no},
		{"one way", nftables.ChainPolicyDrop, rules{out}, yes},
		{"the other way", nftables.ChainPolicyDrop, rules{back}, yes},
		{"both", nftables.ChainPolicyDrop, rules{out, back}, no},
		{"some of it", nftables.ChainPolicyDrop, rules{{iif, ours, oif, others, accept}, back}, yes},
		{"another interface", nftables.ChainPolicyDrop, rules{{iif, others, accept}, back}, yes},
		{"not accepted", nftables.ChainPolicyDrop, rules{{iif, ours, drop}, {oif, ours, drop}}, yes},
		{"a last rule", nftables.ChainPolicyAccept, rules{{iif, others, accept}, {count, drop}}, yes},
		{"it refuses", nftables.ChainPolicyAccept, rules{{count, reject}}, yes},
		{"a last rule, and both", nftables.ChainPolicyAccept, rules{out, back, {reject}}, no},
		{"a last rule that asks", nftables.ChainPolicyAccept, rules{{iif, others, drop}}, no},
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
				tc.blocked.check(t)
				return nil
			})
		})
	}
}

// TestFollowed: chains are followed as the kernel follows them: in order, into those
// that rules jump to and back, and of others' rules only those that hold.
func TestFollowed(t *testing.T) {
	iif, oif, ours := &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte("lg")}
	others := &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte("eth0\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")}
	accept, drop, back := &expr.Verdict{Kind: expr.VerdictAccept}, &expr.Verdict{Kind: expr.VerdictDrop}, &expr.Verdict{Kind: expr.VerdictReturn}
	jump := func(to string) *expr.Verdict { return &expr.Verdict{Kind: expr.VerdictJump, Chain: to} }
	state := func(bits uint32, then expr.Any) []expr.Any {
		mask := binary.NativeEndian.AppendUint32(nil, bits)
		return []expr.Any{&expr.Ct{Register: 1, Key: expr.CtKeySTATE}, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)}, then}
	}
	address := func(offset uint32, then expr.Any) []expr.Any {
		return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 2}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{10, 213}}, then}
	}
	port := func(then expr.Any) []expr.Any {
		return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0, 25}}, then}
	}
	there, here := []expr.Any{iif, ours, accept}, append([]expr.Any{oif, ours}, state(stateEstablished, accept)...)
	type chains map[string][][]expr.Any
	for _, tc := range []struct {
		name   string
		policy nftables.ChainPolicy
		chains chains
		want   answer
	}{
		{"accepted before it is dropped", nftables.ChainPolicyAccept, chains{"FORWARD": {there, here, {drop}}}, no},
		{"accepted after it is dropped", nftables.ChainPolicyAccept, chains{"FORWARD": {{drop}, there, here}}, yes},
		{"dropped for not coming from elsewhere", nftables.ChainPolicyAccept, chains{"FORWARD": {{iif, others, drop}, there, here}}, yes},
		{"accepted in a chain that nothing leads to", nftables.ChainPolicyDrop, chains{"FORWARD": nil, "INPUT": {there, here}}, yes},
		{"accepted in a chain that is jumped to", nftables.ChainPolicyDrop, chains{"FORWARD": {{jump("user")}}, "user": {there, here}}, no},
		{"which returns before", nftables.ChainPolicyDrop, chains{"FORWARD": {{jump("user")}}, "user": {{back}, there, here}}, yes},
		{"which others jump to", nftables.ChainPolicyDrop, chains{"FORWARD": {{iif, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte("docker0\x00")}, jump("user")}}, "user": {there, here}}, yes},
		{"what comes back from a jump goes on", nftables.ChainPolicyAccept, chains{"FORWARD": {{jump("user")}, {drop}}, "user": {there, here}}, no},
		{"what went for good comes to the policy", nftables.ChainPolicyDrop, chains{"FORWARD": {{&expr.Verdict{Kind: expr.VerdictGoto, Chain: "user"}}, there, here}, "user": nil}, yes},
		{"answers by state alone", nftables.ChainPolicyDrop, chains{"FORWARD": {state(stateEstablished, accept), there}}, no},
		{"new ones only", nftables.ChainPolicyDrop, chains{"FORWARD": {state(stateNew, accept)}}, yes},
		{"what has no state is dropped", nftables.ChainPolicyAccept, chains{"FORWARD": {state(1, drop)}}, no},
		{"new ones are dropped", nftables.ChainPolicyAccept, chains{"FORWARD": {state(stateNew, drop)}}, yes},
		{"one port is dropped", nftables.ChainPolicyAccept, chains{"FORWARD": {port(drop)}}, no},
		{"one port is accepted", nftables.ChainPolicyDrop, chains{"FORWARD": {port(accept), here}}, yes},
		{"addresses that may be the vassals'", nftables.ChainPolicyDrop, chains{"FORWARD": {address(12, accept), here}}, perhaps},
		{"they are dropped", nftables.ChainPolicyAccept, chains{"FORWARD": {address(12, drop)}}, perhaps},
		{"addresses of others", nftables.ChainPolicyDrop, chains{"FORWARD": {append([]expr.Any{iif, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte("eth0\x00")}}, address(12, accept)...), here}}, yes},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.In(w.Host, func() error {
				conn, err := nftables.New()
				if err != nil {
					return err
				}
				table := conn.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
				made := map[string]*nftables.Chain{}
				for name := range tc.chains {
					c := &nftables.Chain{Name: name, Table: table}
					if name == "FORWARD" {
						c.Type, c.Hooknum, c.Priority, c.Policy = nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter, &tc.policy
					}
					made[name] = conn.AddChain(c)
				}
				for name, rules := range tc.chains {
					for _, exprs := range rules {
						conn.AddRule(&nftables.Rule{Table: table, Chain: made[name], Exprs: exprs})
					}
				}
				if err := conn.Flush(); err != nil {
					return err
				}
				tc.want.check(t)
				return nil
			})
		})
	}
}

// TestFollowedSets: of sets of states and interfaces, and maps of verdicts, what is in
// them is looked at.
func TestFollowedSets(t *testing.T) {
	word := func(bits uint32) []byte { return binary.NativeEndian.AppendUint32(nil, bits) }
	name := func(s string) []byte { return append([]byte(s), make([]byte, 16-len(s))...) }
	accept, drop := &expr.Verdict{Kind: expr.VerdictAccept}, &expr.Verdict{Kind: expr.VerdictDrop}
	for _, tc := range []struct {
		name     string
		load     expr.Any
		set      nftables.Set
		elements []nftables.SetElement
		want     answer
	}{
		{"verdicts by state", &expr.Ct{Register: 1, Key: expr.CtKeySTATE}, nftables.Set{IsMap: true, KeyType: nftables.TypeCTState, DataType: nftables.TypeVerdict},
			[]nftables.SetElement{{Key: word(stateEstablished), VerdictData: accept}, {Key: word(stateNew), VerdictData: accept}, {Key: word(1), VerdictData: drop}}, no},
		{"a map that drops them", &expr.Ct{Register: 1, Key: expr.CtKeySTATE}, nftables.Set{IsMap: true, KeyType: nftables.TypeCTState, DataType: nftables.TypeVerdict},
			[]nftables.SetElement{{Key: word(stateEstablished), VerdictData: accept}, {Key: word(stateNew), VerdictData: drop}}, yes},
		{"one is missing", &expr.Ct{Register: 1, Key: expr.CtKeySTATE}, nftables.Set{IsMap: true, KeyType: nftables.TypeCTState, DataType: nftables.TypeVerdict},
			[]nftables.SetElement{{Key: word(stateEstablished), VerdictData: accept}}, yes},
		{"interfaces of others", &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, nftables.Set{KeyType: nftables.TypeIFName}, []nftables.SetElement{{Key: name("eth0")}, {Key: name("docker0")}}, yes},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.In(w.Host, func() error {
				conn, err := nftables.New()
				if err != nil {
					return err
				}
				policy := nftables.ChainPolicyDrop
				table := conn.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
				c := conn.AddChain(&nftables.Chain{Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &policy})
				tc.set.Table, tc.set.Anonymous, tc.set.Constant = table, true, true
				if err := conn.AddSet(&tc.set, tc.elements); err != nil {
					return err
				}
				look := &expr.Lookup{SourceRegister: 1, SetName: tc.set.Name, SetID: tc.set.ID, IsDestRegSet: tc.set.IsMap}
				exprs := []expr.Any{tc.load, look}
				if !tc.set.IsMap {
					exprs = append(exprs, accept)
				}
				conn.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: exprs})
				if err := conn.Flush(); err != nil {
					return err
				}
				tc.want.check(t)
				return nil
			})
		})
	}
}
