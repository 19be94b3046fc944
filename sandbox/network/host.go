package network

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hostTable is the table of the host's network, one for all Emperors: it knows
// interfaces by their prefix, not vassals.
const hostTable = "liege"

// hostLock keeps one vassal from making what another, the last one, removes.
var hostLock sync.Mutex //nolint:gochecknoglobals // the host's network is one, however many Managers there are

var tooMany = expr.Connlimit{Count: Connections, Flags: 1} //nolint:gochecknoglobals // a constant

// ready makes what vassals need of the host: its table, and forwarding.
func ready(a Addresses) error {
	if err := sysctl("ipv4/ip_forward", "1"); err != nil {
		return &Error{"forwarding", err, "sysctl -w net.ipv4.ip_forward=1"}
	}
	if a.V6.IsValid() {
		if err := sysctl("ipv6/conf/all/forwarding", "1"); err != nil {
			return &Error{"forwarding", err, "sysctl -w net.ipv6.conf.all.forwarding=1, or nat-pool6 = no in [emperor]"}
		}
	}
	hostLock.Lock()
	defer hostLock.Unlock()
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	if there(conn) {
		return nil
	}
	return makeHostTable()
}

// there tells whether the host's table is there with all of its chains.
func there(conn *nftables.Conn) bool {
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return false
	}
	n := 0
	for _, c := range chains {
		if c.Table.Name == hostTable {
			n++
		}
	}
	return n == hostChains
}

const hostChains = 5 // with that of newTable

func makeHostTable() error {
	t, err := newTable(hostTable)
	if err != nil {
		return err
	}
	vassals := hostPrefix + "*"
	// Before anybody's DNAT, which would make a forwarded packet of one that is
	// for the host.
	t.hook("early", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw,
		all(from(vassals), ownAddress(unix.RTN_LOCAL), refused),
		all(from(vassals), ownAddress(unix.RTN_BROADCAST), dropped),
		all(from(vassals), ownAddress(unix.RTN_MULTICAST), dropped))
	t.hook("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter,
		all(from(vassals), refused))
	t.hook("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter,
		all(to(vassals), from(vassals), refused),
		all(to(vassals), known(), accept),
		all(to(vassals), dropped))
	t.hook("leave", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource,
		all(from(vassals), match{&expr.Masq{}}))
	if err := t.conn.Flush(); err != nil {
		return tableError(hostTable, err)
	}
	return nil
}

// leave removes the host's table when no vassal is connected. Forwarding stays
// on: others may count on it by now.
func leave() error {
	hostLock.Lock()
	defer hostLock.Unlock()
	links, err := ours()
	if err != nil || len(links) > 0 {
		return err
	}
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	if _, err := conn.ListTableOfFamily(hostTable, nftables.TableFamilyINet); err != nil {
		return nil // there is none, or no nftables at all
	}
	return removeTable(hostTable)
}

// hostMTU is that of the interface that leads out.
func hostMTU() int {
	const usual = 1500
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		if r := defaultRoute(family); r != nil {
			if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil && link.Attrs().MTU >= 1280 && link.Attrs().MTU <= 65535 {
				return link.Attrs().MTU
			}
		}
	}
	return usual
}

func defaultRoute(family int) *netlink.Route {
	rs, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil
	}
	for i := range rs {
		if (rs[i].Dst == nil || rs[i].Dst.IP.IsUnspecified()) && rs[i].LinkIndex > 0 {
			return &rs[i]
		}
	}
	return nil
}

// hostAddresses are the host's own, now: what it gets later is kept from the
// vassals by the host's table.
func hostAddresses() ([]netip.Addr, error) {
	as, err := netlink.AddrList(nil, unix.AF_UNSPEC)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("addresses of the host: %w", err)
	}
	var out []netip.Addr
	for _, a := range as {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && !ip.IsLoopback() {
			out = append(out, ip.Unmap())
		}
	}
	return out, nil
}

// IPv6 says why the host has no IPv6 to offer; nil: it has.
func IPv6() error {
	r := defaultRoute(unix.AF_INET6)
	if r == nil {
		return errors.New("the host has no IPv6 default route")
	}
	if readSysctl("ipv6/conf/all/forwarding") == "1" {
		return nil
	}
	// A host that forwards hears no router advertisements, unless told to: it
	// would lose its own way out.
	link, err := netlink.LinkByIndex(r.LinkIndex)
	if err != nil {
		return err
	}
	name := link.Attrs().Name
	if r.Protocol == unix.RTPROT_RA && readSysctl("ipv6/conf/"+name+"/accept_ra") != "2" {
		return fmt.Errorf("%s has its route from router advertisements, which the kernel ignores once it forwards; hint: sysctl -w net.ipv6.conf.%s.accept_ra=2", name, name)
	}
	return nil
}

// clash says which of the host's routes leads to where a vassal's address is.
func clash(a netip.Addr) error {
	rs, err := netlink.RouteList(nil, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("routes: %w", err)
	}
	for _, r := range rs {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() || !r.Dst.Contains(a.AsSlice()) {
			continue
		}
		why := fmt.Errorf("the host has a route to %s, another network", r.Dst)
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil && link.Attrs().Name == hostLink(a) {
			why = fmt.Errorf("a vassal of another Emperor has it (%s)", link.Attrs().Alias)
		}
		return &Error{"address " + a.String(), why, "nat-pool = another network, in [emperor]"}
	}
	return nil
}
