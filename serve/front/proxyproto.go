package front

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"liege/serve/exchange"
)

// The PROXY protocol (haproxy.org/download/2.9/doc/proxy-protocol.txt), both
// versions: what a load balancer sends before the bytes of a connection. Where
// it is asked for, a connection without it is closed: who may leave it out may
// send it as well, and so name any address as his.

// Limits of the header. Version 1 has at most 107 bytes; version 2 says how
// many follow, up to 65535: load balancers send a certificate's name at most.
const (
	proxyLine  = 107
	proxyBytes = 8 << 10
)

var errProxyHeader = errors.New("malformed PROXY protocol header")

// proxySignature begins version 2. Version 1 begins with "PROXY ".
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

// proxied is what a header says: who connected, and to where. Both are
// invalid where the balancer speaks for itself (its health checks).
type proxied struct{ from, to netip.AddrPort }

// readProxyHeader reads a header and not a byte behind it.
func readProxyHeader(r io.Reader) (proxied, error) {
	var buf [proxyLine]byte
	least := buf[:15] // "PROXY UNKNOWN" CR LF
	if _, err := io.ReadFull(r, least); err != nil {
		return proxied{}, err
	}
	switch {
	case strings.HasPrefix(string(least), "PROXY "):
		n := len(least)
		for !bytes.HasSuffix(buf[:n], []byte("\r\n")) {
			if n == len(buf) {
				return proxied{}, errProxyHeader
			}
			if _, err := io.ReadFull(r, buf[n:n+1]); err != nil {
				return proxied{}, err
			}
			n++
		}
		return proxyV1(string(buf[:n-2]))
	case strings.HasPrefix(string(least), proxySignature):
		head := buf[:16]
		if _, err := io.ReadFull(r, head[15:]); err != nil {
			return proxied{}, err
		}
		size := int(binary.BigEndian.Uint16(head[14:]))
		if size > proxyBytes {
			return proxied{}, errProxyHeader
		}
		whole := make([]byte, 16+size)
		copy(whole, head)
		if _, err := io.ReadFull(r, whole[16:]); err != nil {
			return proxied{}, err
		}
		return proxyV2(whole)
	}
	return proxied{}, errProxyHeader
}

// proxyV1 parses a line without its end: "PROXY TCP4 from to port port".
func proxyV1(s string) (p proxied, err error) {
	if s == "PROXY UNKNOWN" || strings.HasPrefix(s, "PROXY UNKNOWN ") {
		return p, nil
	}
	f := strings.Split(s, " ")
	if len(f) != 6 || f[1] != "TCP4" && f[1] != "TCP6" {
		return p, errProxyHeader
	}
	var ok1, ok2 bool
	p.from, ok1 = proxyAddress(f[2], f[4], f[1] == "TCP4")
	p.to, ok2 = proxyAddress(f[3], f[5], f[1] == "TCP4")
	if !ok1 || !ok2 {
		return proxied{}, errProxyHeader
	}
	return p, nil
}

func proxyAddress(addr, port string, v4 bool) (netip.AddrPort, bool) {
	a, err := netip.ParseAddr(addr)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || a.Zone() != "" || a.Is4() != v4 || port != strconv.FormatUint(n, 10) {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a, uint16(n)), true
}

// proxyV2 parses a whole binary header.
func proxyV2(b []byte) (p proxied, err error) {
	command, family, rest := b[12], b[13], b[16:]
	if command != 0x20 && command != 0x21 {
		return p, errProxyHeader
	}
	sizes := map[byte]int{0x00: 0, 0x11: 12, 0x21: 36, 0x31: 216} // unspecified, TCP4, TCP6, unix
	size, ok := sizes[family]
	switch {
	case command == 0x20: // LOCAL: addresses are to be ignored
		return p, nil
	case !ok || len(rest) < size:
		return p, errProxyHeader
	}
	if err := proxyTLVs(b, 16+size); err != nil {
		return p, err
	}
	n := 0
	switch family {
	case 0x11:
		n = 4
	case 0x21:
		n = 16
	default:
		return p, nil
	}
	from, _ := netip.AddrFromSlice(rest[:n])
	to, _ := netip.AddrFromSlice(rest[n : 2*n])
	p.from = netip.AddrPortFrom(from, binary.BigEndian.Uint16(rest[2*n:]))
	p.to = netip.AddrPortFrom(to, binary.BigEndian.Uint16(rest[2*n+2:]))
	return p, nil
}

// proxyTLVs checks what follows the addresses, at which b goes on: types and
// lengths, and the checksum if there is one (PP2_TYPE_CRC32C must be checked).
func proxyTLVs(b []byte, at int) error {
	const checksum = 0x03
	for at < len(b) {
		if len(b)-at < 3 {
			return errProxyHeader
		}
		kind, n := b[at], int(binary.BigEndian.Uint16(b[at+1:]))
		at += 3
		if n > len(b)-at {
			return errProxyHeader
		}
		if kind == checksum {
			if n != 4 {
				return errProxyHeader
			}
			sum := binary.BigEndian.Uint32(b[at:])
			clear(b[at : at+4])
			if crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) != sum {
				return errProxyHeader
			}
		}
		at += n
	}
	return nil
}

// takeProxyHeader reads the header of nc, the connection beneath c, and takes
// over what it says; false: the connection is not served.
func (c *conn) takeProxyHeader(nc net.Conn) bool {
	c.arm(fresh, c.s.limits.HeaderTimeout)
	p, err := readProxyHeader(nc)
	if err != nil {
		if errors.Is(err, errProxyHeader) {
			c.s.hint(hintProxy, "a connection without a PROXY protocol header came", "only the load balancer may connect here: bind to an address of its network, and have it send the header", nc)
		}
		return false
	}
	if p.from.IsValid() {
		c.peer[0].Value, c.peer[1].Value = p.from.Addr().Unmap().String(), strconv.Itoa(int(p.from.Port()))
		c.peer[3].Value = strconv.Itoa(int(p.to.Port()))
		c.set = append(c.set[:len(c.set):len(c.set)], exchange.Var{Name: "SERVER_ADDR", Value: p.to.Addr().Unmap().String()})
	}
	return true
}
