package network

import (
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// What may come to the end of a chain before its last rule is not told to be dropped.
func TestReturnsPerhaps(t *testing.T) {
	table := &nftables.Table{Name: "f", Family: nftables.TableFamilyIPv4}
	for _, kind := range []expr.VerdictKind{expr.VerdictReturn, expr.VerdictAccept, expr.VerdictDrop} {
		// ip saddr 10.0.0.0/8 KIND; drop
		rules := []*nftables.Rule{
			{Table: table, Exprs: []expr.Any{
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
				&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{255, 0, 0, 0}, Xor: []byte{0, 0, 0, 0}},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{10, 0, 0, 0}},
				&expr.Verdict{Kind: kind}}},
			{Table: table, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}},
		}
		w := walk{chains: map[string]*nftables.Chain{}, rules: map[string][]*nftables.Rule{"forward": rules}, sets: map[string]*set{}}
		want := unsure
		if kind == expr.VerdictDrop {
			want = drops
		}
		if got := w.through("forward", packet{out: true, state: stateNew, version: nfprotoIPv4}, passes); got != want {
			t.Errorf("kind %d: %d, want %d", kind, got, want)
		}
	}
}
