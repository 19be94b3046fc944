package front

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"liege/vassal"
)

// v2 is a header of version 2; a checksum of four bytes is filled in.
func v2(command, family byte, rest string, tlvs ...string) string {
	all := rest + strings.Join(tlvs, "")
	b := append([]byte(proxySignature), command, family, byte(len(all)>>8), byte(len(all)))
	b = append(b, all...)
	at := 16 + len(rest)
	for _, t := range tlvs {
		if t == "\x03\x00\x04\x00\x00\x00\x00" {
			binary.BigEndian.PutUint32(b[at+3:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
		}
		at += len(t)
	}
	return string(b)
}

const (
	v4ends = "\x0a\x00\x00\x01\x0a\x00\x00\x02\x1f\x90\x00\x50" // 10.0.0.1:8080 → 10.0.0.2:80
	crc    = "\x03\x00\x04\x00\x00\x00\x00"
)

func TestProxyHeader(t *testing.T) {
	v6 := string(netip.MustParseAddr("2001:db8::1").AsSlice()) + string(netip.MustParseAddr("2001:db8::2").AsSlice()) + "\x1f\x90\x01\xbb"
	bad := errProxyHeader.Error()
	for _, c := range []struct{ name, raw, want string }{
		{"v1", "PROXY TCP4 10.0.0.1 10.0.0.2 8080 80\r\n", "10.0.0.1:8080 10.0.0.2:80"},
		{"v1 IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 8080 443\r\n", "[2001:db8::1]:8080 [2001:db8::2]:443"},
		{"v1 unknown", "PROXY UNKNOWN\r\n", "invalid AddrPort invalid AddrPort"},
		{"v1 unknown with words", "PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "invalid AddrPort invalid AddrPort"},
		{"v2", v2(0x21, 0x11, v4ends), "10.0.0.1:8080 10.0.0.2:80"},
		{"v2 IPv6", v2(0x21, 0x21, v6), "[2001:db8::1]:8080 [2001:db8::2]:443"},
		{"v2 with more", v2(0x21, 0x11, v4ends, "\x02\x00\x03abc", crc, "\x04\x00\x00"), "10.0.0.1:8080 10.0.0.2:80"},
		{"v2 local", v2(0x20, 0x00, ""), "invalid AddrPort invalid AddrPort"},
		{"v2 local with anything", v2(0x20, 0x11, "xxxxxxxxxxxxxxxx"), "invalid AddrPort invalid AddrPort"},
		{"v2 unix", v2(0x21, 0x31, strings.Repeat("\x00", 216)), "invalid AddrPort invalid AddrPort"},
		{"v2 unspecified", v2(0x21, 0x00, ""), "invalid AddrPort invalid AddrPort"},

		{"HTTP", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", bad},
		{"lower case", "proxy TCP4 10.0.0.1 10.0.0.2 8080 80\r\n", bad},
		{"other family", "PROXY TCP6 10.0.0.1 10.0.0.2 8080 80\r\n", bad},
		{"UDP", "PROXY UDP4 10.0.0.1 10.0.0.2 8080 80\r\n", bad},
		{"two spaces", "PROXY TCP4  10.0.0.1 10.0.0.2 8080 80\r\n", bad},
		{"space at the end", "PROXY TCP4 10.0.0.1 10.0.0.2 8080 80 \r\n", bad},
		{"no port", "PROXY TCP4 10.0.0.1 10.0.0.2 8080\r\n", bad},
		{"port", "PROXY TCP4 10.0.0.1 10.0.0.2 65536 80\r\n", bad},
		{"octal port", "PROXY TCP4 10.0.0.1 10.0.0.2 080 80\r\n", bad},
		{"zone", "PROXY TCP6 fe80::1%eth0 fe80::2 8080 80\r\n", bad},
		{"name", "PROXY TCP4 localhost 10.0.0.2 8080 80\r\n", bad},
		{"bare LF", "PROXY TCP4 10.0.0.1 10.0.0.2 8080 80\nGET / HTTP/1.1\r\n", bad},
		{"endless line", "PROXY UNKNOWN " + strings.Repeat("x", 200), bad},
		{"cut", "PROXY TCP4 10.0.0.1 10", io.EOF.Error()},
		{"v2 version", v2(0x11, 0x11, v4ends), bad},
		{"v2 command", v2(0x22, 0x11, v4ends), bad},
		{"v2 datagrams", v2(0x21, 0x12, v4ends), bad},
		{"v2 short", v2(0x21, 0x11, v4ends[:11]), bad},
		{"v2 too long", v2(0x21, 0x11, strings.Repeat("\x00", proxyBytes+1)), bad},
		{"v2 cut", v2(0x21, 0x11, v4ends)[:20], io.ErrUnexpectedEOF.Error()},
		{"v2 odd end", v2(0x21, 0x11, v4ends, "\x04\x00"), bad},
		{"v2 long value", v2(0x21, 0x11, v4ends, "\x04\x00\x09a"), bad},
		{"v2 checksum", strings.Replace(v2(0x21, 0x11, v4ends, crc), "\x0a\x00\x00\x01", "\x0a\x00\x00\x03", 1), bad},
	} {
		in := strings.NewReader(c.raw + "rest")
		if strings.Contains(c.name, "cut") {
			in = strings.NewReader(c.raw)
		}
		p, err := readProxyHeader(iotest.HalfReader(in))
		got := p.from.String() + " " + p.to.String()
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
		if rest, _ := io.ReadAll(in); err == nil && string(rest) != "rest" {
			t.Errorf("%s: %q is left", c.name, rest)
		}
	}
}

func TestProxyProtocol(t *testing.T) {
	r := serve(t, vassal.HTTP, vassal.HTTPLimits{ProxyProtocol: true, KeepAlive: true, HeaderTimeout: 200 * time.Millisecond}, echo)
	get := "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	bye := "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	for _, head := range []string{"PROXY TCP4 10.0.0.1 10.0.0.2 8080 81\r\n", v2(0x21, 0x11, v4ends[:11]+"\x51")} {
		got := ask(t, r.addr, head+get+bye)
		for _, want := range []string{"REMOTE_ADDR=10.0.0.1\n", "REMOTE_PORT=8080\n", "SERVER_ADDR=10.0.0.2\n", "SERVER_PORT=81\n"} {
			if strings.Count(got, want) != 2 { // both requests of the connection
				t.Errorf("%q: %q is not there twice:\n%s", head, want, got)
			}
		}
	}
	if got := ask(t, r.addr, "PROXY UNKNOWN\r\n"+bye); !strings.Contains(got, "REMOTE_ADDR=127.0.0.1\n") {
		t.Errorf("got %s", got)
	}
	for _, raw := range []string{bye, "PROXY ", "PROXY TCP4 1 2 3 4\r\n" + bye} {
		k := dial(t, r.addr)
		if _, err := io.WriteString(k, raw); err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(k); len(got) > 0 { // a reset is fine
			t.Errorf("%q: got %s", raw, got)
		}
	}
	if n := strings.Count(r.logs.String(), "without a PROXY protocol header"); n != 1 {
		t.Errorf("%d hints", n)
	}
}

// FuzzProxyHeader: what is accepted is read the same byte by byte, and its
// addresses are whole.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 10.0.0.1 10.0.0.2 8080 80\r\n"))
	f.Add([]byte("PROXY TCP6 ::1 ::ffff:1.2.3.4 1 2\r\n"))
	f.Add([]byte(v2(0x21, 0x11, v4ends, "\x02\x00\x03abc", crc)))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := readProxyHeader(bytes.NewReader(b))
		q, slow := readProxyHeader(iotest.OneByteReader(bytes.NewReader(b)))
		if p != q || (err == nil) != (slow == nil) || errors.Is(err, errProxyHeader) != errors.Is(slow, errProxyHeader) {
			t.Fatalf("%v %v, byte by byte %v %v", p, err, q, slow)
		}
		if p.from.IsValid() != p.to.IsValid() || err != nil && p.from.IsValid() {
			t.Errorf("%+v, %v", p, err)
		}
	})
}
