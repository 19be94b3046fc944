package network

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
)

// Blocked names the chains of somebody else's that drop what vassals send through the
// host, or what answers them, and those that perhaps do: that depends on rules that are
// not understood, or not read. Of nftables, and so of iptables-nft, each
// base chain at the hook forward is followed as the kernel follows it, for a first
// packet out of a vassal and one that answers it; of iptables-legacy only the policy is
// read. A rule about some of the packets, one port for instance, is its owner's wish
// and no obstacle, and opens nothing. Only root is told.
func Blocked() (drop, perhaps []string) {
	drop, perhaps = legacyForward()
	conn, err := nftables.New()
	if err != nil {
		return drop, perhaps
	}
	chains, err := conn.ListChains()
	if err != nil {
		return drop, perhaps
	}
	for _, c := range chains {
		name := families[c.Table.Family]
		if name == "" || c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward || c.Type != nftables.ChainTypeFilter || c.Table.Name == hostTable {
			continue
		}
		name = fmt.Sprintf("table %s %s, chain %s", name, c.Table.Name, c.Name)
		switch followed(conn, c, chains) {
		case drops:
			drop = append(drop, name)
		case unsure:
			perhaps = append(perhaps, name)
		}
	}
	return drop, perhaps
}

var families = map[nftables.TableFamily]string{ //nolint:gochecknoglobals // a constant
	nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
}

// Unforwarded are the settings that are off and that the first vassal with an
// address sets, for the whole host.
func Unforwarded() []string {
	if readSysctl("ipv4/ip_forward") == "0" {
		return []string{"net.ipv4.ip_forward"}
	}
	return nil
}

// followed is the worst that base does to the two packets.
func followed(conn *nftables.Conn, base *nftables.Chain, all []*nftables.Chain) fate {
	w := walk{conn: conn, chains: map[string]*nftables.Chain{}, rules: map[string][]*nftables.Rule{}, sets: map[string]*set{}}
	for _, c := range all {
		if c.Table.Name == base.Table.Name && c.Table.Family == base.Table.Family {
			w.chains[c.Name] = c
		}
	}
	end := passes
	if base.Policy != nil && *base.Policy == nftables.ChainPolicyDrop {
		end = drops
	}
	versions := []byte{nfprotoIPv4, nfprotoIPv6}
	switch base.Table.Family {
	case nftables.TableFamilyIPv4:
		versions = versions[:1]
	case nftables.TableFamilyIPv6:
		versions = versions[1:]
	}
	var fates []fate
	for _, v := range versions {
		for _, p := range []packet{{out: true, state: stateNew, version: v}, {state: stateEstablished, version: v}} {
			fates = append(fates, w.through(base.Name, p, end))
		}
	}
	return slices.Max(fates)
}
