package resolve

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"

	"liege/vassal"
	"liege/vassal/egress"
)

// NAT is the network of a vassal with net = nat.
type NAT struct {
	V4, V6  netip.Addr   // the vassal's; V4 is not valid where none was allotted: check
	No6     string       // why V6 is not valid
	Servers []netip.Addr // name servers that it reaches by itself
	Policy  egress.Policy

	lines      []vassal.Egress
	capped     bool // mail has ceilings
	resolvConf string
}

// reaches reports whether the vassal reaches a TCP address. There need be no n.
func (n *NAT) reaches(address string) bool {
	a, err := netip.ParseAddrPort(address)
	return n != nil && err == nil && n.Policy.Allows(a)
}

// Says is where the vassal may connect to, in few words: what its lines say, and
// what is so without them.
func (n *NAT) Says() []string {
	var out []string
	for _, e := range n.lines {
		word := "not " + e.Target
		if e.Allow {
			word = e.Target
		}
		out = append(out, word)
	}
	if i := slices.IndexFunc(n.lines, egress.All); i >= 0 {
		return out[:i+1] // the rest is never asked
	}
	if n.capped {
		return append(out, "the internet but the ports of mail, 25, 465 and 587")
	}
	return append(out, "the internet but port 25")
}

// nat sees to the vassal's address, its name servers and its rules.
func (r *resolver) nat() {
	lines := r.cfg.Jail.Egress
	if r.res.Net != "nat" {
		for _, e := range lines {
			r.report(vassal.Note, vassal.CodeDoneOtherwise, r.at(e.At), "egress", "egress is about net = nat; the network is "+r.res.Net, "")
		}
		return
	}
	if r.host.Caller != nil {
		return // r.caller says what stands against it
	}
	n := &NAT{lines: lines, capped: !r.res.Mail.Caps.None()}
	r.res.NAT = n
	if r.host.NATAddress != nil {
		var err error
		if n.V4, n.V6, n.No6, err = r.host.NATAddress(r.cfg.Name); err != nil {
			r.fail(vassal.CodeStartFailed, r.cfg.Jail.NetAt, "net", fmt.Sprintf("no address for it: %v", err), "nat-pool = another network, in [emperor]")
		}
	}
	if n.No6 != "" {
		r.report(vassal.Note, vassal.CodeNotReachable, r.at(r.cfg.Jail.NetAt), "net", "no address of IPv6: "+n.No6, "")
	}
	for _, e := range lines {
		if e.Allow && e.Tenant && egress.Closed(e, n.capped) && !slices.ContainsFunc(r.host.Egress, func(c vassal.Egress) bool { return egress.Within(c, e) }) {
			r.fail(vassal.CodeOverCeiling, e.At, "egress", "a file of a user may not open "+e.Target, "[ceilings] egress = "+e.Target+" in emperor.ini")
		}
	}
	r.nameServers(n)
	var ceilings []vassal.Egress
	if !r.cfg.Trust.Operator {
		ceilings = r.host.Egress
	}
	n.Policy = egress.New(lines, ceilings, n.Servers, n.capped)
	if len(n.Servers) > 0 && !slices.ContainsFunc(n.Servers, func(s netip.Addr) bool { return n.Policy.Allows(netip.AddrPortFrom(s, 53)) }) {
		r.nameless()
	}
}

// Blocked warns about the firewalls of others that stand in the way of net = nat, or
// perhaps do: both are chains of network.Blocked.
func (r *Result) Blocked(drop, perhaps []string) (out vassal.Problems) {
	if r.NAT == nil {
		return nil
	}
	const hint = "accept there what comes from the interfaces lg*, and answers to them (network.md)"
	for _, chain := range drop {
		out = append(out, r.aboutNet(vassal.Warning, fmt.Sprintf("the host's firewall drops what passes through it unless a rule says otherwise (%s)", chain), hint))
	}
	for _, chain := range perhaps {
		out = append(out, r.aboutNet(vassal.Warning, fmt.Sprintf("whether the host's firewall lets pass what the vassal sends, and what answers it, cannot be told from its rules (%s)", chain), hint))
	}
	return out
}

// WillForward notes what the first start changes for the whole host: settings
// are those of network.Unforwarded.
func (r *Result) WillForward(settings []string) (out vassal.Problems) {
	if r.NAT == nil {
		return nil
	}
	for _, name := range settings {
		out = append(out, r.aboutNet(vassal.Note, name+" is 0: nothing passes through the host; the first start sets it to 1", ""))
	}
	return out
}

func (r *Result) aboutNet(sev vassal.Severity, msg, hint string) vassal.Problem {
	at := r.Config.Jail.NetAt
	return vassal.Problem{Severity: sev, Code: vassal.CodeNotReachable, File: cmp.Or(at.File, r.Config.File), Line: at.Line, Key: "net", Step: "network", Message: msg, Hint: hint}
}

func (r *resolver) nameless() {
	at := r.cfg.Jail.NetAt
	for _, e := range r.cfg.Jail.Egress {
		if !e.Allow {
			at = e.At
			break
		}
	}
	r.warn(vassal.CodeNotReachable, at, "egress", "names are not resolved: no name server may be asked", "egress = allow dns, before this line")
}

// Where the host says whom to ask for names: systemd-resolved writes the servers
// that it asks itself to the second one.
var resolvConfs = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}

// nameServers decides whom the vassal asks for names: the host's name servers, if it
// can reach them as they are; else the host's own one, through the relay and so
// by TCP.
//
// Those that an operator's own file names (resolv-conf) may be asked too.
func (r *resolver) nameServers(n *NAT) {
	var own []netip.Addr
	files := resolvConfs
	if at := r.cfg.Jail.Resolv; at == "none" {
		return
	} else if path.IsAbs(at) && r.cfg.Trust.Operator {
		files = []string{at}
	}
	for _, file := range files {
		text, err := OS{}.ReadFile(file)
		if err != nil {
			continue
		}
		servers, rest := parseResolvConf(string(text))
		for _, s := range servers {
			switch {
			case s.Is6() && !n.V6.IsValid() && r.host.NATAddress != nil && !s.IsLoopback():
			case r.outOfReach(s):
				own = append(own, s)
			default:
				n.Servers = append(n.Servers, s)
			}
		}
		if len(n.Servers) > 0 {
			n.resolvConf = resolvText(n.Servers, rest)
			return
		}
	}
	n.resolvConf = "# the host names no name server that can be reached\n"
	own = slices.DeleteFunc(own, func(a netip.Addr) bool { return a.Zone() != "" || a.Is6() && a.IsLinkLocalUnicast() })
	if len(own) == 0 {
		r.warn(vassal.CodeNotReachable, r.cfg.Jail.NetAt, "net", "names are not resolved: /etc/resolv.conf of the host names no server that can be reached", "a nameserver line there")
		return
	}
	if !egress.Names(r.cfg.Jail.Egress) {
		r.nameless()
		return
	}
	door := vassal.Connection{Address: netip.AddrPortFrom(own[0], 53).String(), Key: "net", At: r.cfg.Jail.NetAt}
	if !slices.ContainsFunc(r.res.Connect, func(c vassal.Connection) bool { return c.Address == door.Address }) {
		r.res.Connect = append(r.res.Connect, door)
	}
	n.resolvConf = resolvText(own[:1], []string{"options use-vc"})
}

// outOfReach reports whether a vassal's packets do not get to a: it is the
// host's own, its link's, or one that the relay answers for.
func (r *resolver) outOfReach(a netip.Addr) bool {
	if egress.Forbidden(a) {
		return true
	}
	for _, c := range r.res.Connect {
		if at, err := netip.ParseAddrPort(c.Address); err == nil && at.Addr() == a {
			return true
		}
	}
	as, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(as, func(own net.Addr) bool {
		p, ok := own.(*net.IPNet)
		return ok && p.IP.Equal(a.AsSlice())
	})
}

// parseResolvConf returns the servers, and the lines that say how names are
// written.
func parseResolvConf(text string) (servers []netip.Addr, rest []string) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(words[1]); err == nil {
				servers = append(servers, a.Unmap())
			}
		case "search", "domain", "options":
			rest = append(rest, strings.Join(words, " "))
		}
	}
	return servers, rest
}

func resolvText(servers []netip.Addr, rest []string) string {
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	for _, line := range rest {
		b.WriteString(line + "\n")
	}
	return b.String()
}
