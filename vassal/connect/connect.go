// Package connect is the language of connect lines, and of [ceilings] connect
// (CONTRACT 5).
package connect

import (
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"

	"liege/vassal"
)

// maxSocketPath is the longest path of a unix socket: sun_path less its NUL.
const maxSocketPath = 107

// Parse makes the canonical form of an address: ADDRESS:PORT, with
// brackets around an IPv6 one, or unix:/path. wrong, if not empty, says why it
// is none, and hint what to write instead. A name is no address: what it means
// may change, and who decides that would decide whom the vassal reaches.
func Parse(word string) (address, wrong, hint string) {
	const usual = "127.0.0.1:5432, [::1]:25 or unix:/run/mysqld/mysqld.sock"
	p, unix := strings.CutPrefix(word, "unix:")
	switch {
	case unix || strings.HasPrefix(word, "/"):
		return parseSocketPath(word, p)
	case strings.HasPrefix(word, "@"):
		return "", fmt.Sprintf("%.80q: abstract sockets are not reached", word), usual
	case strings.Contains(word, "://"):
		return "", fmt.Sprintf("%.80q is a URL", word), "the address and the port alone: " + usual
	}
	if a, err := netip.ParseAddr(strings.Trim(word, "[]")); err == nil && a.Zone() == "" {
		return "", fmt.Sprintf("%.80q names no port", word), netip.AddrPortFrom(a, 5432).String()
	}
	i := strings.LastIndexByte(word, ':')
	if i < 0 {
		return "", fmt.Sprintf("%.80q is not an address and a port", word), usual
	}
	host, port := word[:i], word[i+1:]
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", fmt.Sprintf("%.80q: the port is a number from 1 to 65535", word), usual
	}
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	switch {
	case host == "localhost":
		return "", fmt.Sprintf("%.80q is a name", word), "127.0.0.1:" + port
	case err != nil:
		return "", fmt.Sprintf("%.80q names no address", word), "the address that the name has: getent hosts " + host
	case a.Is6() && host[0] != '[':
		return "", fmt.Sprintf("%.80q: an IPv6 address stands in brackets", word), "[" + host + "]:" + port
	case a.Zone() != "" || a.Is6() && a.IsLinkLocalUnicast() || a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "", fmt.Sprintf("%.80q: nobody can be reached there", word), usual
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(n)).String(), "", ""
}

func parseSocketPath(word, p string) (address, wrong, hint string) {
	switch {
	case p != "" && p[0] == '@':
		return "", fmt.Sprintf("%.80q: abstract sockets are not reached", word), "unix:/run/mysqld/mysqld.sock"
	case !path.IsAbs(p) || strings.ContainsRune(p, 0):
		return "", fmt.Sprintf("%.80q is not an absolute path", word), "unix:/run/mysqld/mysqld.sock"
	}
	p = path.Clean(p)
	if rest, ok := strings.CutPrefix(p, "/var/run/"); ok { // one path (CONTRACT 23)
		p = "/run/" + rest
	}
	if len(p) > maxSocketPath || p == "/" {
		return "", fmt.Sprintf("%.80q: a socket's path has 2 to %d bytes", word, maxSocketPath), ""
	}
	return "unix:" + p, "", ""
}

// Rule reports whether rule can stand in [ceilings] connect:
// ADDRESS:PORT, ADDRESS:FROM-TO, NETWORK/BITS with either, unix:/path, a shell
// pattern of one, or unix:/path/**.
func Rule(rule string) bool {
	if p, ok := strings.CutPrefix(rule, "unix:"); ok {
		_, err := path.Match(p, "/")
		return path.IsAbs(p) && err == nil
	}
	_, _, _, ok := parseRule(rule)
	return ok
}

// parseRule parses a rule about TCP.
func parseRule(rule string) (in netip.Prefix, from, to uint16, ok bool) {
	i := strings.LastIndexByte(rule, ':')
	if i < 0 {
		return in, 0, 0, false
	}
	host, lo, hi := rule[:i], rule[i+1:], rule[i+1:]
	if a, b, ranged := strings.Cut(lo, "-"); ranged {
		lo, hi = a, b
	}
	l, err1 := strconv.ParseUint(lo, 10, 16)
	h, err2 := strconv.ParseUint(hi, 10, 16)
	addr, bits, network := strings.Cut(host, "/")
	bare := strings.TrimSuffix(strings.TrimPrefix(addr, "["), "]")
	a, err3 := netip.ParseAddr(bare)
	if err1 != nil || err2 != nil || err3 != nil || a.Is6() != strings.HasPrefix(addr, "[") || a.Zone() != "" || l > h || l == 0 {
		return in, 0, 0, false
	}
	if !network {
		bits = strconv.Itoa(a.BitLen())
	}
	n, err := strconv.Atoi(bits)
	if err != nil {
		return in, 0, 0, false
	}
	in, err = a.Prefix(n)
	return in, uint16(l), uint16(h), err == nil
}

// Within reports whether rule, of [ceilings] connect, covers the address.
func Within(rule string, c vassal.Connection) bool {
	if p := c.Path(); p != "" {
		to, ok := strings.CutPrefix(rule, "unix:")
		if rest, ok := strings.CutPrefix(to, "/var/run/"); ok {
			to = "/run/" + rest
		}
		if dir, all := strings.CutSuffix(to, "/**"); all && ok {
			return strings.HasPrefix(p, path.Clean(dir)+"/") && dir != ""
		}
		match, err := path.Match(to, p)
		return ok && (match && err == nil || to == p)
	}
	a, err := netip.ParseAddrPort(c.Address)
	in, from, to, ok := parseRule(rule)
	return err == nil && ok && in.Contains(a.Addr()) && from <= a.Port() && a.Port() <= to
}
