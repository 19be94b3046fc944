package network

import (
	"fmt"
	"net/netip"
)

// Addresses are a vassal's.
type Addresses struct {
	V4 netip.Addr `json:"v4"`
	V6 netip.Addr `json:"v6"` // not valid: the host has no IPv6 to offer
}

func (a Addresses) String() string {
	if a.V6.IsValid() {
		return fmt.Sprintf("%s %s", a.V4, a.V6)
	}
	return a.V4.String()
}

// The next hops, of a generation and of the middle. They answer to nobody: that
// of the host it does not even have, and nobody asks for hardware addresses,
// which are known.
var (
	middleHop = Addresses{netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr("fe80::1")}
	hostHop   = Addresses{netip.MustParseAddr("169.254.1.2"), netip.MustParseAddr("fe80::2")}
)

// like returns a without IPv6 if the other has none.
func (a Addresses) like(other Addresses) Addresses {
	if !other.V6.IsValid() {
		a.V6 = netip.Addr{}
	}
	return a
}

// links is how many generations' links have addresses of their own; the live
// ones of a vassal have numbers that are near each other.
const links = 1 << 14

// linkAddress is what generation gen is on its link: never seen outside of the
// vassal's namespaces.
func linkAddress(gen int) Addresses {
	n := gen%links + 1
	b := [16]byte{0xfd, 0x6c, 0x69, 0x65, 0x67, 0x65, 14: byte(n >> 8), 15: byte(n)}
	return Addresses{netip.AddrFrom4([4]byte{169, 254, 128 + byte(n>>8), byte(n)}), netip.AddrFrom16(b)}
}
