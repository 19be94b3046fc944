package vassal

// Egress is one target of an egress line (CONTRACT 5): where a vassal with
// net = nat may, or may not, connect to.
type Egress struct {
	Allow  bool
	Target string // canonical: 10.0.0.7:5432, [fd00::]/8:443, any, any:25, dns
	Tenant bool   // of a line that is not root's: it closes, and opens what nobody closed
	At     Origin
}

// MaxEgress bounds the targets of one vassal: each new connection is held
// against one after the other.
const MaxEgress = 256
