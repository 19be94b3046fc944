package network

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// match is the part of a rule that says which packets it is about.
type match []expr.Any

func all(ms ...match) match {
	var out match
	for _, m := range ms {
		out = append(out, m...)
	}
	return out
}

// interfaceIs matches an interface, or with an end of "*" all that begin so.
func interfaceIs(key expr.MetaKey, op expr.CmpOp, name string) match {
	data := make([]byte, unix.IFNAMSIZ)
	copy(data, name)
	if n := len(name); name[n-1] == '*' {
		data = []byte(name[:n-1])
	}
	return match{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: data}}
}

func from(name string) match  { return interfaceIs(expr.MetaKeyIIFNAME, expr.CmpOpEq, name) }
func to(name string) match    { return interfaceIs(expr.MetaKeyOIFNAME, expr.CmpOpEq, name) }
func notTo(name string) match { return interfaceIs(expr.MetaKeyOIFNAME, expr.CmpOpNeq, name) }

func metaByte(key expr.MetaKey, op expr.CmpOp, b byte) match {
	return match{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: []byte{b}}}
}

func protocolIs(op expr.CmpOp, proto byte) match { return metaByte(expr.MetaKeyL4PROTO, op, proto) }

func family(a netip.Addr) match {
	if a.Is4() {
		return metaByte(expr.MetaKeyNFPROTO, expr.CmpOpEq, unix.NFPROTO_IPV4)
	}
	return metaByte(expr.MetaKeyNFPROTO, expr.CmpOpEq, unix.NFPROTO_IPV6)
}

// Offsets of the addresses in the headers of IPv4 and IPv6.
const (
	source4, destination4 = 12, 16
	source6, destination6 = 8, 24
)

func destination(p netip.Prefix) match {
	p = p.Masked()
	if p.Bits() == 0 {
		return family(p.Addr())
	}
	offset := uint32(destination6)
	if p.Addr().Is4() {
		offset = destination4
	}
	return all(family(p.Addr()), address(offset, expr.CmpOpEq, p))
}

// notSource matches packets of a's family that come from anybody but a.
func notSource(a netip.Addr) match {
	offset := uint32(source6)
	if a.Is4() {
		offset = source4
	}
	return all(family(a), address(offset, expr.CmpOpNeq, netip.PrefixFrom(a, a.BitLen())))
}

func address(offset uint32, op expr.CmpOp, p netip.Prefix) match {
	n := uint32(p.Addr().BitLen() / 8)
	m := match{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: n}}
	if p.Bits() < p.Addr().BitLen() {
		mask := make([]byte, n)
		for i := range p.Bits() {
			mask[i/8] |= 0x80 >> (i % 8)
		}
		m = append(m, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: n, Mask: mask, Xor: make([]byte, n)})
	}
	return append(m, &expr.Cmp{Op: op, Register: 1, Data: p.Addr().AsSlice()})
}

// ports matches TCP and UDP to one of the ports; both 0: everything.
func ports(from, through uint16) match {
	if from == 0 && through == 0 {
		return nil
	}
	lo, hi := binary.BigEndian.AppendUint16(nil, from), binary.BigEndian.AppendUint16(nil, through)
	return all(protocolIs(expr.CmpOpNeq, unix.IPPROTO_ICMP), protocolIs(expr.CmpOpNeq, unix.IPPROTO_ICMPV6), match{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: lo, ToData: hi},
	})
}

// known matches what belongs to a connection that was let pass before.
func known() match {
	return match{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// ownAddress matches what goes to an address of the namespace itself, or to
// many at once.
func ownAddress(kind uint32) match {
	return match{
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(kind)},
	}
}

func verdict(kind expr.VerdictKind) match { return match{&expr.Verdict{Kind: kind}} }

var (
	accept  = verdict(expr.VerdictAccept)
	dropped = verdict(expr.VerdictDrop)
	back    = verdict(expr.VerdictReturn)
	// refused answers: the app is told at once, of a TCP connection that it is
	// refused. (An ICMP error that comes while connect(2) still sends is noted and
	// not told before the next try, a second later.)
	refused = match{&expr.Verdict{Kind: expr.VerdictGoto, Chain: refusal}}
)

// refusal is the chain that refuses; every table has it.
const refusal = "refuse"

func jump(chain string) match { return match{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}} }

// sourceNAT gives what leaves the address a.
func sourceNAT(a netip.Addr) match {
	fam := uint32(unix.NFPROTO_IPV6)
	if a.Is4() {
		fam = unix.NFPROTO_IPV4
	}
	return all(family(a), match{
		&expr.Immediate{Register: 1, Data: a.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: fam, RegAddrMin: 1, RegAddrMax: 1},
	})
}

// table is a table that is made, or made anew, in one transaction.
type table struct {
	conn *nftables.Conn
	t    *nftables.Table
}

func newTable(name string) (*table, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	t := &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
	conn.AddTable(t) // so that there is one to delete
	conn.DelTable(t)
	conn.AddTable(t)
	out := &table{conn, t}
	out.chain(refusal,
		all(protocolIs(expr.CmpOpEq, unix.IPPROTO_TCP), match{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}),
		match{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}})
	return out, nil
}

// hook makes a chain that packets come through; they pass at its end.
func (t *table) hook(name string, kind nftables.ChainType, at *nftables.ChainHook, prio *nftables.ChainPriority, rules ...match) {
	pass := nftables.ChainPolicyAccept
	t.add(&nftables.Chain{Name: name, Table: t.t, Type: kind, Hooknum: at, Priority: prio, Policy: &pass}, rules)
}

// chain makes one that another jumps to: make it before that.
func (t *table) chain(name string, rules ...match) {
	t.add(&nftables.Chain{Name: name, Table: t.t}, rules)
}

func (t *table) add(c *nftables.Chain, rules []match) {
	t.conn.AddChain(c)
	for _, r := range rules {
		t.conn.AddRule(&nftables.Rule{Table: t.t, Chain: c, Exprs: r})
	}
}

// removeTable removes a table of the calling thread's namespace; there need be
// none.
func removeTable(name string) error {
	t, err := newTable(name)
	if err != nil {
		return err
	}
	t.conn.DelTable(t.t)
	return t.conn.Flush()
}
