package network

import (
	"bytes"
	"encoding/binary"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
)

// fate is what becomes of a packet in a base chain, the worse the larger.
type fate int

const (
	passes fate = iota
	unsure
	drops
)

// packet is one out of a vassal, to anywhere, or one from anywhere that answers it.
type packet struct {
	out     bool
	state   uint32 // of its connection
	version byte
}

// Bits of ct state, which iptables' matches have too, and of meta nfproto.
const (
	stateEstablished = 1 << 1
	stateNew         = 1 << 3
	nfprotoIPv4      = 2
	nfprotoIPv6      = 10
)

// truth is whether a condition holds of such packets.
type truth int

const (
	never truth = iota
	sometimes
	unknown // perhaps of all of them
	always
)

// Bounds of a walk: of jumps, the kernel's own, and of rules looked at.
const (
	maxJumps = 16
	maxRules = 20_000
)

// walk follows packets through one table.
type walk struct {
	conn   *nftables.Conn
	chains map[string]*nftables.Chain
	rules  map[string][]*nftables.Rule
	sets   map[string]*set

	looked int
	// What rules would have done that may hold of all of the packets.
	mayPass, mayDrop bool
}

// set is one of the table's, or an anonymous one.
type set struct {
	plain    bool // its elements are single values
	elements []nftables.SetElement
}

// through is the fate of p in the base chain called name; end is that of what comes to
// its end.
func (w *walk) through(name string, p packet, end fate) fate {
	w.looked, w.mayPass, w.mayDrop = 0, false, false
	verdict, ok := w.chain(name, p, 0)
	switch {
	case !ok:
		return unsure
	case verdict == expr.VerdictAccept:
		end = passes
	case verdict == expr.VerdictDrop:
		end = drops
	}
	if end == passes && w.mayDrop || end == drops && w.mayPass {
		return unsure
	}
	return end
}

// chain is what the chain called name does with p: accept, drop, or return, for what
// comes to its end. ok is false where that cannot be told.
func (w *walk) chain(name string, p packet, jumps int) (verdict expr.VerdictKind, ok bool) {
	rules, known := w.rules[name]
	if !known {
		c := w.chains[name]
		if c == nil {
			return 0, false
		}
		var err error
		if rules, err = w.conn.GetRules(c.Table, c); err != nil {
			return 0, false
		}
		w.rules[name] = rules
	}
	for _, r := range rules {
		if w.looked++; w.looked > maxRules || jumps > maxJumps {
			return 0, false
		}
		holds, does := w.rule(r, p)
		if holds <= sometimes || does == nil {
			continue
		}
		verdict, ok := w.does(does, p, jumps)
		switch {
		case !ok:
			return 0, false
		case holds == unknown:
			leaves := verdict == expr.VerdictReturn && does.Kind != expr.VerdictJump // what comes to the end, whatever follows here
			w.mayPass = w.mayPass || verdict == expr.VerdictAccept || leaves
			w.mayDrop = w.mayDrop || verdict == expr.VerdictDrop || leaves
		case verdict == expr.VerdictReturn && does.Kind == expr.VerdictJump, verdict == expr.VerdictContinue:
		default:
			return verdict, true
		}
	}
	return expr.VerdictReturn, true
}

// does is where a verdict leads: accept, drop, return or continue.
func (w *walk) does(v *expr.Verdict, p packet, jumps int) (expr.VerdictKind, bool) {
	switch v.Kind {
	case expr.VerdictAccept, expr.VerdictDrop, expr.VerdictReturn:
		return v.Kind, true
	case expr.VerdictJump, expr.VerdictGoto:
		return w.chain(v.Chain, p, jumps+1)
	case expr.VerdictContinue, expr.VerdictBreak:
		return expr.VerdictContinue, true
	}
	return 0, false // a queue: a program decides
}

// source is what a register holds: what a comparison is about.
type source struct {
	of   truth // of a comparison with it, where no more is known
	meta expr.MetaKey
	name bool   // an interface's name, by meta
	mask uint32 // ct state & mask; 0: it is another thing
}

// rule reports whether the conditions of r hold of p, and what it then does; nil:
// nothing that decides.
func (w *walk) rule(r *nftables.Rule, p packet) (holds truth, does *expr.Verdict) {
	holds = always
	regs := map[uint32]source{}
	for _, e := range r.Exprs {
		is := always
		switch e := e.(type) {
		case *expr.Meta:
			if !e.SourceRegister {
				regs[e.Register] = metaSource(e.Key)
			}
		case *expr.Ct:
			if !e.SourceRegister {
				regs[e.Register] = source{of: sometimes}
				if e.Key == expr.CtKeySTATE {
					regs[e.Register] = source{of: unknown, mask: ^uint32(0)}
				}
			}
		case *expr.Payload:
			regs[e.DestRegister] = source{of: p.header(e)}
		case *expr.Bitwise:
			regs[e.DestRegister] = regs[e.SourceRegister].masked(e)
		case *expr.Cmp:
			is = p.compared(loaded(regs, e.Register), e)
		case *expr.Range:
			is = loaded(regs, e.Register).of
		case *expr.Lookup:
			is, does = w.lookup(r.Table, loaded(regs, e.SourceRegister), e, p)
		case *expr.Match:
			is = p.matched(e)
		case *expr.Limit, *expr.Connlimit, *expr.Quota:
			is = sometimes
		case *expr.Reject:
			does = &expr.Verdict{Kind: expr.VerdictDrop}
		case *expr.Queue:
			does = &expr.Verdict{Kind: expr.VerdictQueue}
		case *expr.Target:
			if e.Name == "REJECT" {
				does = &expr.Verdict{Kind: expr.VerdictDrop}
			}
		case *expr.Verdict:
			does = e
		}
		if holds = min(holds, is); holds == never {
			return never, nil
		}
	}
	return holds, does
}

// loaded is what register n holds. What loads some is not among the expressions that
// the library knows.
func loaded(regs map[uint32]source, n uint32) source {
	if s, ok := regs[n]; ok {
		return s
	}
	return source{of: unknown}
}

func metaSource(key expr.MetaKey) source {
	switch key {
	case expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME:
		return source{of: unknown, meta: key, name: true}
	case expr.MetaKeyNFPROTO:
		return source{of: unknown, meta: key}
	case expr.MetaKeyIIF, expr.MetaKeyOIF, expr.MetaKeyL4PROTO, expr.MetaKeyMARK, expr.MetaKeyPKTTYPE:
		return source{of: sometimes, meta: key}
	}
	return source{of: unknown, meta: key}
}

// header is the truth of a comparison with a part of p: the vassal's own address may be
// meant, or all vassals'.
func (p packet) header(e *expr.Payload) truth {
	from, to, size := uint32(12), uint32(16), uint32(4)
	if p.version == nfprotoIPv6 {
		from, to, size = 8, 24, 16
	}
	ours := to
	if p.out {
		ours = from
	}
	if e.Base == expr.PayloadBaseNetworkHeader && e.Offset < ours+size && e.Offset+e.Len > ours {
		return unknown
	}
	return sometimes
}

// masked is s with some of its bits.
func (s source) masked(e *expr.Bitwise) source {
	if s.mask == 0 || len(e.Mask) < 4 || bytes.ContainsFunc(e.Xor, func(r rune) bool { return r != 0 }) {
		return source{of: max(s.of, sometimes)}
	}
	s.mask &= binary.NativeEndian.Uint32(e.Mask)
	return s
}

// compared reports whether a comparison with s holds of p.
func (p packet) compared(s source, e *expr.Cmp) truth {
	if e.Op != expr.CmpOpEq && e.Op != expr.CmpOpNeq {
		return s.of
	}
	is := p.equal(s, e.Data)
	if e.Op == expr.CmpOpNeq {
		return not(is)
	}
	return is
}

// not is the truth of the opposite.
func not(t truth) truth {
	switch t {
	case never:
		return always
	case always:
		return never
	}
	return t
}

// equal reports whether what s holds of p is data.
func (p packet) equal(s source, data []byte) truth {
	switch {
	case s.name:
		return p.at(s.meta, data)
	case s.meta == expr.MetaKeyNFPROTO && len(data) > 0:
		return truthOf(data[0] == p.version)
	case s.mask != 0 && len(data) >= 4:
		return truthOf(binary.NativeEndian.Uint32(data) == p.state&s.mask)
	}
	return s.of
}

func truthOf(is bool) truth {
	if is {
		return always
	}
	return never
}

// at reports whether p comes from, or goes to, an interface of that name. One without
// a zero at its end is the beginning of names.
func (p packet) at(key expr.MetaKey, name []byte) truth {
	ours := (key == expr.MetaKeyIIFNAME) == p.out
	begins, _, whole := strings.Cut(string(name), "\x00")
	whole = whole || len(name) >= 16 // IFNAMSIZ
	switch {
	case !ours:
		return sometimes
	case !whole && strings.HasPrefix(hostPrefix, begins):
		return always
	case strings.HasPrefix(begins, hostPrefix):
		return sometimes // one vassal's
	}
	return never
}

// lookup reports whether what s holds of p is in a set, and, of a map of verdicts, what
// then is done.
func (w *walk) lookup(t *nftables.Table, s source, e *expr.Lookup, p packet) (truth, *expr.Verdict) {
	in := w.set(t, e)
	if in == nil || !in.plain || !s.name && s.mask == 0 && s.meta != expr.MetaKeyNFPROTO {
		if e.IsDestRegSet {
			return s.of, &expr.Verdict{Kind: expr.VerdictQueue} // anything
		}
		return s.of, nil
	}
	is := never
	for _, el := range in.elements {
		one := p.equal(s, el.Key)
		if one == always && e.IsDestRegSet {
			return always, verdictOf(el.Val)
		}
		is = max(is, one)
	}
	if e.Invert {
		is = not(is)
	}
	return is, nil
}

// verdictOf is the verdict of an element of a map, in the kernel's attributes, code and
// chain, which the library leaves as they are.
func verdictOf(attrs []byte) *expr.Verdict {
	if len(attrs) < 8 {
		return &expr.Verdict{Kind: expr.VerdictQueue} // anything
	}
	v := &expr.Verdict{Kind: expr.VerdictKind(int32(binary.BigEndian.Uint32(attrs[4:])))}
	if len(attrs) > 12 {
		v.Chain, _, _ = strings.Cut(string(attrs[12:]), "\x00")
	}
	return v
}

// set is the set of a lookup; nil: it cannot be read.
func (w *walk) set(t *nftables.Table, e *expr.Lookup) *set {
	if s, known := w.sets[e.SetName]; known {
		return s
	}
	var out *set
	if s, err := w.conn.GetSetByName(t, e.SetName); err == nil {
		if els, err := w.conn.GetSetElements(s); err == nil {
			out = &set{plain: !s.Interval && !s.Concatenation && len(els) <= maxRules, elements: els}
		}
	}
	w.sets[e.SetName] = out
	return out
}

// matched reports whether a match of iptables' holds of p.
func (p packet) matched(e *expr.Match) truth {
	switch e.Name {
	case "comment":
		return always
	case "conntrack":
		return p.tracked(e.Info)
	case "state":
		if b, ok := e.Info.(*xt.Unknown); ok && len(*b) >= 4 {
			return truthOf(binary.NativeEndian.Uint32(*b)&p.state != 0)
		}
	case "tcp", "udp", "udplite", "sctp", "dccp", "esp", "ah", "icmp", "icmp6", "multiport", "mark", "connmark", "limit", "hashlimit", "connlimit", "recent", "statistic", "quota", "time":
		return sometimes
	}
	return unknown
}

// tracked is matched for conntrack, which asks for states in most rules.
func (p packet) tracked(info xt.InfoAny) truth {
	var base *xt.ConntrackMtinfoBase
	var mask uint32
	switch i := info.(type) {
	case *xt.ConntrackMtinfo1:
		base, mask = &i.ConntrackMtinfoBase, uint32(i.StateMask)
	case *xt.ConntrackMtinfo2:
		base, mask = &i.ConntrackMtinfoBase, uint32(i.StateMask)
	case *xt.ConntrackMtinfo3:
		base, mask = &i.ConntrackMtinfoBase, uint32(i.StateMask)
	default:
		return unknown
	}
	const state = uint16(xt.ConntrackState | xt.ConntrackStateAlias)
	if base.MatchFlags&^state != 0 || base.MatchFlags&uint16(xt.ConntrackState) == 0 {
		return sometimes
	}
	return truthOf(mask&p.state != 0 != (base.InvertFlags&uint16(xt.ConntrackState) != 0))
}
