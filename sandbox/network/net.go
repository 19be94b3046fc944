package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"liege/vassal/egress"
)

// Net is one vassal's line out. Its methods may be called at the same time.
type Net struct {
	path string // where its namespace is mounted
	name string
	mtu  int
	own  Addresses

	mu sync.Mutex
	ns *os.File
}

// Names of interfaces: on the host (and the number of the vassal's address), in
// the middle, and inside.
const (
	hostPrefix = "lg"
	uplink     = "up"
	inside     = "eth0"
)

func hostLink(a netip.Addr) string { return fmt.Sprintf("%s%x", hostPrefix, a.As4()) }
func genLink(gen int) string       { return fmt.Sprintf("g%d", gen) }
func tableOf(gen int) string       { return genTable + strconv.Itoa(gen) }

// genTable and its number is the name of a generation's table.
const genTable = "generation-"

// alias is what an interface of the host says of itself: whose it is.
func alias(dir, name string) string { return "liege " + dir + " " + name }

// Open makes the vassal's namespace, mounted below dir, and its link to the
// host, or finds what it, or a killed Emperor, made before with the same
// address. With another address it makes all anew; the generations that were
// connected are then no longer.
func Open(dir, name string, own Addresses) (*Net, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	n := &Net{path: filepath.Join(dir, name), name: alias(dir, name), own: own, mtu: hostMTU()}
	if err := ready(own); err != nil {
		return nil, err
	}
	if ns := held(n.path); ns != nil && n.whole(ns) {
		n.ns = ns
		return n, n.prune()
	} else if ns != nil {
		ns.Close()
	}
	if err := n.remove(); err != nil {
		return nil, err
	}
	if err := clash(own.V4); err != nil {
		return nil, err
	}
	if err := n.make(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// whole tells whether the vassal's namespace is as make left it.
func (n *Net) whole(ns *os.File) bool {
	link, err := netlink.LinkByName(hostLink(n.own.V4))
	if err != nil || link.Attrs().Alias != n.name || link.Attrs().OperState == netlink.OperDown {
		return false
	}
	if n.own.V6.IsValid() != routed(link, n.own.V6) {
		return false
	}
	return Inside(ns, func() error {
		if _, err := netlink.LinkByName(uplink); err != nil {
			return err
		}
		conn, err := nftables.New()
		if err == nil {
			_, err = conn.ListTableOfFamily(middleTable, nftables.TableFamilyINet)
		}
		return err
	}) == nil
}

// prune removes the rules of generations that are not connected: a start that a
// killed Emperor did not finish.
func (n *Net) prune() error {
	return Inside(n.ns, func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
		if err != nil {
			return tableError("of all generations", err)
		}
		var errs []error
		for _, t := range tables {
			gen, err := strconv.Atoi(strings.TrimPrefix(t.Name, genTable))
			if err != nil {
				continue
			}
			if _, err := netlink.LinkByName(genLink(gen)); err != nil {
				errs = append(errs, removeTable(t.Name))
			}
		}
		return errors.Join(errs...)
	})
}

// routed tells whether the host's way to a leads through link.
func routed(link netlink.Link, a netip.Addr) bool {
	if !a.IsValid() {
		rs, err := netlink.RouteList(link, unix.AF_INET6)
		return err == nil && len(rs) > 0
	}
	rs, err := netlink.RouteListFiltered(unix.AF_INET6, &netlink.Route{LinkIndex: link.Attrs().Index, Dst: single(a)}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST)
	return err == nil && len(rs) > 0
}

func (n *Net) make() error {
	if err := hold(n.path); err != nil {
		return linkError("network namespace", err)
	}
	if n.ns = held(n.path); n.ns == nil {
		return errors.New("network namespace: it is not there")
	}
	name := hostLink(n.own.V4)
	if err := connect(name, n.name, n.mtu, uplink, n.ns); err != nil {
		return err
	}
	if err := (end{name: name, far: farAddress, to: n.own}).setUp(); err != nil {
		return err
	}
	return errors.Join(Inside(n.ns, n.middle), settled(name))
}

const middleTable = "vassal"

// middle makes the vassal's namespace a router that nobody talks to.
func (n *Net) middle() error {
	for _, s := range [][2]string{
		{"ipv4/ip_forward", "1"}, {"ipv4/conf/all/accept_source_route", "0"},
		{"ipv4/conf/all/rp_filter", "0"}, {"ipv4/conf/default/rp_filter", "0"}, // the rules look at sources
	} {
		if err := sysctl(s[0], s[1]); err != nil {
			return err
		}
	}
	if n.own.V6.IsValid() {
		if err := sysctl("ipv6/conf/all/forwarding", "1"); err != nil {
			return err
		}
	}
	// The source of what the rules answer.
	if err := errors.Join(loUp(), AddLocal(middleHop.V4)); err != nil {
		return err
	}
	t, err := newTable(middleTable)
	if err != nil {
		return err
	}
	t.hook("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter, refused)
	// Nobody answers at the vassal's address itself.
	t.hook("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter, all(from(uplink), to(uplink), refused))
	nat := []match{all(to(uplink), sourceNAT(n.own.V4))}
	if n.own.V6.IsValid() {
		nat = append(nat, all(to(uplink), sourceNAT(n.own.V6)))
	}
	t.hook("leave", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, nat...)
	if err := t.conn.Flush(); err != nil {
		return tableError(middleTable, err)
	}
	return errors.Join(end{name: uplink, far: nearAddress, to: hostHop.like(n.own), onward: true}.setUp(), settled(uplink))
}

// Addresses are the vassal's.
func (n *Net) Addresses() Addresses { return n.own }

// Attach connects generation gen, whose first process is pid, and holds it to
// the policy.
func (n *Net) Attach(gen, pid int, p egress.Policy) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := ready(n.own); err != nil {
		return err
	}
	ns, err := Of(pid)
	if err != nil {
		return err
	}
	defer ns.Close()
	hosts, err := hostAddresses()
	if err != nil {
		return err
	}
	link := linkAddress(gen).like(n.own)
	// The kernel takes its time for rules, and for those of two namespaces no
	// longer than for one's.
	translated := make(chan error, 1)
	go func() { translated <- Inside(ns, func() error { return translate(link) }) }()
	err = Inside(n.ns, func() error {
		if err := errors.Join(disconnect(genLink(gen)), n.admit(gen, link, p, hosts)); err != nil {
			return err
		}
		if err := connect(genLink(gen), "", n.mtu, inside, ns); err != nil {
			return err
		}
		own := middleHop.like(n.own)
		own.V4 = netip.Addr{} // it has it on lo
		return end{name: genLink(gen), own: own, far: farAddress, to: link}.setUp()
	})
	if err = errors.Join(err, <-translated); err == nil {
		err = Inside(ns, n.generation)
	}
	if err == nil {
		err = Inside(n.ns, func() error { return settled(genLink(gen)) })
	}
	if err != nil {
		return errors.Join(err, n.detach(gen))
	}
	return nil
}

// translate makes the generation's address that of its link, on the way out.
func translate(link Addresses) error {
	t, err := newTable("liege")
	if err != nil {
		return err
	}
	nat := []match{all(to(inside), sourceNAT(link.V4))}
	if link.V6.IsValid() {
		nat = append(nat, all(to(inside), sourceNAT(link.V6)))
	}
	t.hook("leave", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, nat...)
	if err := t.conn.Flush(); err != nil {
		return tableError("liege", err)
	}
	return nil
}

// generation sets up the generation's end of its link.
func (n *Net) generation() error {
	return errors.Join(end{name: inside, own: n.own, far: nearAddress, to: middleHop.like(n.own), onward: true}.setUp(), settled(inside))
}

// Connections is how many connections a generation may have at once, those of
// UDP and those that have just ended included: the host's table of connections
// is everybody's.
const Connections = 4096

// admit makes the rules of a generation, in the vassal's namespace. Before them
// nothing of it passes, as it has no link.
func (n *Net) admit(gen int, link Addresses, p egress.Policy, hosts []netip.Addr) error {
	t, err := newTable(tableOf(gen))
	if err != nil {
		return err
	}
	var stages []match
	for i, rules := range p.Stages {
		name := fmt.Sprintf("stage-%d", i)
		stages = append(stages, jump(name))
		var out []match
		for _, r := range rules {
			end := refused
			if r.Allow {
				end = back
			}
			out = append(out, all(destination(r.To), ports(r.From, r.Through), end))
		}
		t.chain(name, out...)
	}
	first := []match{all(notTo(uplink), refused), all(known(), accept)}
	for _, a := range []netip.Addr{link.V4, link.V6} {
		if a.IsValid() {
			first = append(first, all(notSource(a), dropped))
		}
	}
	for _, a := range hosts {
		first = append(first, all(destination(netip.PrefixFrom(a, a.BitLen())), refused))
	}
	for _, a := range egress.Never() {
		first = append(first, all(destination(a), refused))
	}
	first = append(first, all(match{&tooMany}, refused))
	for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6} {
		stages = append(stages, all(protocolIs(0, proto), accept))
	}
	t.chain("out", append(append(first, stages...), refused)...)
	t.hook("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter,
		all(from(genLink(gen)), jump("out")),
		all(to(genLink(gen)), known(), accept),
		all(to(genLink(gen)), dropped))
	if err := t.conn.Flush(); err != nil {
		return tableError(tableOf(gen), err)
	}
	return nil
}

// Detach removes what Attach made outside of the generation's own namespace,
// which goes with it.
func (n *Net) Detach(gen int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.detach(gen)
}

func (n *Net) detach(gen int) error {
	if n.ns == nil {
		return nil
	}
	err := Inside(n.ns, func() error {
		return errors.Join(disconnect(genLink(gen)), removeTable(tableOf(gen)))
	})
	if err != nil {
		return fmt.Errorf("network of generation %d: %w", gen, err)
	}
	return nil
}

// Traffic is what the vassal sent and received since its line is there, in
// bytes of whole packets: what a rule refused is not in it.
type Traffic struct{ Sent, Received int64 }

// Traffic reads the kernel's counters.
func (n *Net) Traffic() (Traffic, error) {
	link, err := netlink.LinkByName(hostLink(n.own.V4))
	if err != nil {
		return Traffic{}, fmt.Errorf("interface %s: %w", hostLink(n.own.V4), err)
	}
	s := link.Attrs().Statistics
	if s == nil {
		return Traffic{}, fmt.Errorf("interface %s: no counters", hostLink(n.own.V4))
	}
	return Traffic{Sent: int64(s.RxBytes), Received: int64(s.TxBytes)}, nil
}

// Close removes the line: no generation is connected any more.
func (n *Net) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var err error
	if n.ns != nil {
		err = n.ns.Close()
		n.ns = nil
	}
	return errors.Join(err, n.remove(), leave())
}

// remove removes the interface, whatever its address was, and the namespace.
func (n *Net) remove() error {
	return errors.Join(removeLinks(func(a string) bool { return a == n.name }), drop(n.path))
}

// removeLinks removes the interfaces of the host that are Liege's and whose
// alias fits.
func removeLinks(fits func(alias string) bool) error {
	links, err := ours()
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		if fits(l.Attrs().Alias) {
			errs = append(errs, disconnect(l.Attrs().Name))
		}
	}
	return errors.Join(errs...)
}

// ours lists the host's interfaces that are Liege's.
func ours() ([]netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("interfaces: %w", err)
	}
	var out []netlink.Link
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, hostPrefix) && strings.HasPrefix(l.Attrs().Alias, "liege ") {
			out = append(out, l)
		}
	}
	return out, nil
}

// Sweep removes what a killed Emperor left below dir, but that of vassals for
// which keep says true.
func Sweep(dir string, keep func(name string) bool) error {
	es, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range es {
		if !keep(e.Name()) {
			errs = append(errs, drop(filepath.Join(dir, e.Name())))
		}
	}
	prefix := alias(dir, "")
	errs = append(errs, removeLinks(func(a string) bool {
		name, mine := strings.CutPrefix(a, prefix)
		return mine && !keep(name)
	}))
	return errors.Join(append(errs, leave())...)
}
