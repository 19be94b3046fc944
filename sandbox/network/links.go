package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Hardware addresses of the two ends of every link: that of the router's side,
// and the other. A link has no third, so they need not differ between links,
// and as they are set by us udev leaves them alone.
var (
	nearAddress = net.HardwareAddr{0x02, 'l', 'i', 'e', 'g', 1}
	farAddress  = net.HardwareAddr{0x02, 'l', 'i', 'e', 'g', 2}
)

// connect makes a link between this namespace and another.
func connect(name, alias string, mtu int, peer string, in *os.File) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr, attrs.NumTxQueues, attrs.NumRxQueues = name, mtu, nearAddress, 1, 1
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerHardwareAddr: farAddress, PeerMTU: uint32(mtu),
		PeerNamespace: netlink.NsFd(in.Fd()), PeerNumTxQueues: 1, PeerNumRxQueues: 1}
	if err := netlink.LinkAdd(link); err != nil {
		return linkError("interface "+name, err)
	}
	if alias == "" {
		return nil
	}
	if err := netlink.LinkSetAlias(link, alias); err != nil {
		return errors.Join(fmt.Errorf("interface %s: %w", name, err), netlink.LinkDel(link))
	}
	return nil
}

// disconnect removes a link of this namespace; there need be none.
func disconnect(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if errors.As(err, &netlink.LinkNotFoundError{}) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// end is one end of a link, as it is to be.
type end struct {
	name string
	own  Addresses // its addresses; not valid: none
	far  net.HardwareAddr
	to   Addresses // what is at the other end; with onward: everything is
	// onward: to is the next hop to everything.
	onward bool
}

// setUp gives an interface of this namespace its addresses, neighbours and
// routes. Nobody asks for anything on a link: no ARP, no router advertisements,
// no duplicates to detect.
func (e end) setUp() error {
	link, err := netlink.LinkByName(e.name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", e.name, err)
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		if err := e.quiet6(); err != nil {
			return err
		}
	}
	for _, a := range []netip.Addr{e.own.V4, e.own.V6} {
		if !a.IsValid() {
			continue
		}
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: single(a), Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("interface %s: address %s: %w", e.name, a, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("interface %s: up: %w", e.name, err)
	}
	for _, a := range []netip.Addr{e.to.V4, e.to.V6} {
		if !a.IsValid() {
			continue
		}
		if err := e.route(link.Attrs().Index, a); err != nil {
			return fmt.Errorf("interface %s: route to %s: %w", e.name, a, err)
		}
	}
	return nil
}

// quiet6 keeps IPv6 from making addresses by itself, or keeps it away.
func (e end) quiet6() error {
	conf := "ipv6/conf/" + e.name + "/"
	if !e.to.V6.IsValid() {
		return sysctl(conf+"disable_ipv6", "1")
	}
	return errors.Join(sysctl(conf+"addr_gen_mode", "1"), sysctl(conf+"accept_ra", "0"))
}

func (e end) route(index int, a netip.Addr) error {
	err := netlink.NeighSet(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: e.far})
	if err != nil {
		return err
	}
	r := &netlink.Route{LinkIndex: index, Dst: single(a), Scope: netlink.SCOPE_LINK}
	if a.Is6() {
		r.Scope = netlink.SCOPE_UNIVERSE
	}
	if e.onward {
		r = &netlink.Route{LinkIndex: index, Gw: a.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
	}
	return netlink.RouteReplace(r)
}

// settled waits until the kernel has told all of itself that an interface, both
// of whose ends are up, has a carrier: before that it drops packets, and has no
// IPv6 addresses. There is an event for that, which can be missed.
func settled(name string) error {
	for end := time.Now().Add(settleTime); ; time.Sleep(200 * time.Microsecond) {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("interface %s: %w", name, err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("interface %s: it is %v and not up", name, link.Attrs().OperState)
		}
	}
}

const settleTime = 10 * time.Second

func single(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// AddLocal gives lo of this namespace an address more; it may have it already.
func AddLocal(a netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	err = netlink.AddrAdd(lo, &netlink.Addr{IPNet: single(a), Flags: unix.IFA_F_NODAD})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("an address more on lo: %w", err)
	}
	return nil
}

// loUp brings lo of this namespace up.
func loUp() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	return nil
}
