package resolve

import (
	"encoding/binary"
	"net/netip"

	"liege/vassal"
)

// Addresses allots an address of each pool to the vassals with net = nat, and
// remembers them in a file, as AutoUIDs does.
type Addresses struct {
	pool4, pool6 netip.Prefix
	numbers      *AutoUIDs
}

// NewAddresses keeps the allotments in file. The first address of a pool is
// nobody's, nor is the second; first counts on from there. pool6 may be not
// valid.
func NewAddresses(file string, pool4, pool6 netip.Prefix, first int) *Addresses {
	a := &Addresses{pool4, pool6, NewAutoUIDs(file, 2+first)}
	a.numbers.last = 1<<(32-pool4.Bits()) - 2 // the last one is a broadcast's
	return a
}

// AddressesFile is the file's name in the state directory.
const AddressesFile = "nat-addresses.json"

// Of returns name's addresses; the second one is not valid without a pool.
func (a *Addresses) Of(name vassal.Name) (v4, v6 netip.Addr, err error) {
	n, err := a.numbers.UID(name)
	if err != nil {
		return v4, v6, err
	}
	b := a.pool4.Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n))
	v4 = netip.AddrFrom4(b)
	if a.pool6.IsValid() {
		b := a.pool6.Addr().As16()
		binary.BigEndian.PutUint32(b[12:], binary.BigEndian.Uint32(b[12:])+uint32(n))
		v6 = netip.AddrFrom16(b)
	}
	return v4, v6, nil
}

// Forget lets go of the addresses of names for which lives says false.
func (a *Addresses) Forget(lives func(vassal.Name) bool) error { return a.numbers.Forget(lives) }
