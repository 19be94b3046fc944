package network

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"liege/internal/testnet"
	"liege/vassal"
	"liege/vassal/egress"
)

func countTables() (int, error) {
	conn, err := nftables.New()
	if err != nil {
		return 0, err
	}
	ts, err := conn.ListTables()
	return len(ts), err
}

func egressOf(t *testing.T, lines ...string) egress.Policy {
	t.Helper()
	var all []vassal.Egress
	for _, l := range lines {
		es, wrong, _ := egress.ParseLine(l)
		if wrong != "" {
			t.Fatal(wrong)
		}
		all = append(all, es...)
	}
	return egress.New(all, nil, nil, false)
}

// What is refused is reached from elsewhere in the same moment.
func TestReach(t *testing.T) {
	w := newWorld(t)
	n := w.open("shop", "10.213.0.2", "fd6c:6567::a:2")
	other := w.open("blog", "10.213.0.3", "fd6c:6567::a:3")
	g := w.attach(n, 1, egressOf(t, "allow 10.20.30.40:5432-5433", "deny 198.51.100.8", "allow 198.51.100.8"))
	b := w.attach(other, 1, egressOf(t, "allow any"))
	const site, site6 = "203.0.113.1 ", "2001:db8::1 " // whom a server sees
	for _, tt := range []struct {
		what      string
		at        *os.File
		from      *os.File // where it is reached from, to show that it is there
		to        string
		shop, all string // what the vassal with the lines above, and the other, hear; empty: refused
	}{
		{"the internet", w.World, w.Host, "198.51.100.7:443", site, site},
		{"the internet, IPv6", w.World, w.Host, "[2001:db8:1::7]:443", site6, site6},
		{"mail", w.World, w.Host, "198.51.100.7:25", "", site},
		{"mail, IPv6", w.World, w.Host, "[2001:db8:1::7]:25", "", site6},
		{"denied, then allowed", w.World, w.Host, "198.51.100.8:443", "", site},
		{"a port that is allowed", w.World, w.Host, "10.20.30.40:5433", site, site},
		{"a port beyond it", w.World, w.Host, "10.20.30.40:5434", "", site},
		{"a private network", w.World, w.Host, "192.168.7.7:443", "", site},
		{"a provider's network", w.World, w.Host, "100.64.1.1:443", "", site},
		{"a cloud's own", w.World, w.Host, "168.63.129.16:80", "", site},
		{"a private network, IPv6", w.World, w.Host, "[fd00:1::7]:443", "", site6},
		{"metadata", w.World, w.Host, "169.254.169.254:80", "", ""},
		{"metadata, IPv6", w.World, w.Host, "[fd00:ec2::254]:80", "", ""},
		{"the host", w.Host, w.World, "203.0.113.1:22", "", ""},
		{"the host, IPv6", w.Host, w.World, "[2001:db8::1]:22", "", ""},
		{"an address that the host got later", w.Host, w.Host, "203.0.113.77:22", "", ""},
	} {
		ap := netip.MustParseAddrPort(tt.to)
		if ap.Addr() == netip.MustParseAddr("203.0.113.77") {
			w.In(w.Host, func() error { return AddLocal(ap.Addr()) })
		}
		w.Serve(tt.at, tt.to)
		if _, err := w.Ask(tt.from, tt.to); err != nil {
			t.Errorf("%s: not there at all: %v", tt.what, err)
		}
		for _, from := range []struct {
			name string
			ns   *os.File
			want string
		}{{"shop", g.ns, tt.shop}, {"the other", b.ns, tt.all}} {
			got, err := w.Ask(from.ns, tt.to)
			if from.want == "" && !errors.Is(err, unix.ECONNREFUSED) || from.want != got {
				t.Errorf("%s, %s from %s: hears %q (%v), want %q", tt.what, tt.to, from.name, got, err, from.want)
			}
		}
	}
	// One vassal's address leads nowhere from another's, whatever that may reach.
	for _, to := range []string{"10.213.0.2:80", "[fd6c:6567::a:2]:80"} {
		w.Serve(g.ns, to)
		if _, err := w.Ask(g.ns, to); err != nil {
			t.Errorf("%s is not there at all: %v", to, err)
		}
		if got, err := w.Ask(b.ns, to); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("a neighbour at %s is reached: %q, %v", to, got, err)
		}
	}
}

// Two generations have the same address, the same port even, and each hears its
// own answers; the rules of one are not the other's.
func TestGenerations(t *testing.T) {
	w := newWorld(t)
	w.Serve(w.World, "198.51.100.7:443")
	w.Serve(w.World, "[2001:db8:1::7]:443")
	n := w.open("shop", "10.213.0.2", "fd6c:6567::a:2")
	old := w.attach(n, 1, egressOf(t))
	held, err := w.Dial(old.ns, "198.51.100.7:443")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	young := w.attach(n, 2, egressOf(t, "deny [2001:db8::]/32"))
	_, port, _ := net.SplitHostPort(held.LocalAddr().String())
	var same net.Conn
	w.In(young.ns, func() (err error) {
		d := net.Dialer{Timeout: 20 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort("10.213.0.2:" + port))}
		same, err = d.Dial("tcp", "198.51.100.7:443")
		return err
	})
	defer same.Close()
	if held.LocalAddr().String() != same.LocalAddr().String() {
		t.Errorf("addresses %v and %v", held.LocalAddr(), same.LocalAddr())
	}
	for _, tt := range []struct {
		ns   *os.File
		want error
	}{{old.ns, nil}, {young.ns, unix.ECONNREFUSED}} {
		if _, err := w.Ask(tt.ns, "[2001:db8:1::7]:443"); !errors.Is(err, tt.want) {
			t.Errorf("IPv6: %v, want %v", err, tt.want)
		}
	}
	for c, text := range map[net.Conn]string{held: "old", same: "young"} {
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := testnet.Hear(c); err != nil || got != "203.0.113.1 "+text {
			t.Errorf("%s hears %q, %v", text, got, err)
		}
	}
	// The old one ends.
	w.In(w.Host, func() error { return n.Detach(1) })
	if _, err := w.Ask(young.ns, "198.51.100.7:443"); err != nil {
		t.Errorf("the young one alone: %v", err)
	}
	if _, err := w.Dial(old.ns, "198.51.100.7:443"); err == nil {
		t.Error("one that was taken off still connects")
	}
}

// A second Open, of another Emperor, finds everything as it was, and what no
// generation uses any more is removed.
func TestFoundAgain(t *testing.T) {
	w := newWorld(t)
	w.Serve(w.World, "198.51.100.7:443")
	n := w.open("shop", "10.213.0.2", "")
	g := w.attach(n, 1, egressOf(t))
	c, err := w.Dial(g.ns, "198.51.100.7:443")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	before := w.traffic(n)
	w.In(n.ns, func() error { // a start that was not finished
		return n.admit(7, linkAddress(7), egressOf(t), nil)
	})
	again := w.open("shop", "10.213.0.2", "")
	if after := w.traffic(again); after.Sent < before.Sent || before.Sent == 0 || before.Received == 0 {
		t.Errorf("counters %+v, then %+v", before, after)
	}
	w.In(n.ns, func() error {
		if n, err := countTables(); err != nil || n != 2 { // of the vassal, and of generation 1
			t.Errorf("%d tables, %v", n, err)
		}
		return nil
	})
	if _, err := c.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	if got, err := testnet.Hear(c); got != "203.0.113.1 still here" {
		t.Errorf("what was connected hears %q, %v", got, err)
	}
	if _, err := w.Ask(g.ns, "198.51.100.7:443"); err != nil {
		t.Errorf("a new connection: %v", err)
	}
}

// Nothing is left of many starts, of failed ones, and of a killed Emperor.
func TestNothingLeft(t *testing.T) {
	w := newWorld(t)
	before := w.count()
	n := w.open("shop", "10.213.0.2", "fd6c:6567::a:2")
	open := w.count()
	for gen := 1; gen <= 60; gen++ {
		g := w.attach(n, gen, egressOf(t))
		if gen%3 == 0 {
			g.end() // before it is taken off
		}
		w.In(w.Host, func() error { return n.Detach(gen) })
		g.end()
	}
	w.In(w.Host, func() error {
		if err := n.Attach(99, os.Getpid()+1<<30, egressOf(t)); err == nil {
			t.Error("a process that is not there is connected")
		}
		return nil
	})
	if got := w.count(); got != open {
		t.Errorf("after 60 generations: %s, want %s", got, open)
	}
	w.In(n.ns, func() error {
		links, err := netlink.LinkList()
		if err != nil || len(links) != 2 { // lo and up
			t.Errorf("%d interfaces in the middle, %v", len(links), err)
		}
		tables, err := countTables()
		if err != nil || tables != 1 {
			t.Errorf("%d tables in the middle, %v", tables, err)
		}
		return nil
	})
	// What a killed Emperor leaves.
	w.open("blog", "10.213.0.3", "")
	w.In(w.Host, func() error { return Sweep(w.dir, func(name string) bool { return name == "shop" }) })
	if got := w.count(); got != open {
		t.Errorf("swept: %s, want %s", got, open)
	}
	w.In(w.Host, n.Close)
	if got := w.count(); got != before {
		t.Errorf("closed: %s, want %s", got, before)
	}
}

// A generation has so many connections and no more.
func TestTooMany(t *testing.T) {
	w := newWorld(t)
	n := w.open("shop", "10.213.0.2", "")
	g := w.attach(n, 1, egressOf(t))
	sent := 0
	w.In(g.ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for i := range Connections + 1000 {
			to := &unix.SockaddrInet4{Addr: [4]byte{198, 51, 100, 7}, Port: 1000 + i}
			if err := unix.Sendto(fd, []byte("x"), 0, to); err == nil {
				sent++
			}
		}
		return nil
	})
	var tracked string
	w.In(w.Host, func() error { tracked = readSysctl("netfilter/nf_conntrack_count"); return nil })
	if count, err := strconv.Atoi(tracked); err != nil || count > Connections+100 || count < Connections-100 {
		t.Errorf("%s connections of the host after %d, want about %d", tracked, sent, Connections)
	}
}

// An address that leads elsewhere on the host, or that another Emperor gives, is
// an error that says so.
func TestClash(t *testing.T) {
	w := newWorld(t)
	w.In(w.Host, func() error {
		link, err := netlink.LinkByName("out")
		if err == nil {
			err = netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(10, 213, 0, 0).To4(), Mask: net.CIDRMask(24, 32)}})
		}
		return err
	})
	before := w.count()
	for _, tt := range []struct{ at, want string }{
		{"10.213.0.2", "the host has a route to 10.213.0.0/24, another network"},
		{"10.213.1.2", "a vassal of another Emperor has it (liege " + w.dir + "-other shop)"},
	} {
		w.In(w.Host, func() error {
			if tt.at == "10.213.1.2" {
				other, err := Open(w.dir+"-other", "shop", Addresses{V4: netip.MustParseAddr(tt.at)})
				if err != nil {
					return err
				}
				defer other.Close()
			}
			_, err := Open(w.dir, "shop", Addresses{V4: netip.MustParseAddr(tt.at)})
			e, ok := errors.AsType[*Error](err)
			if !ok || !strings.Contains(err.Error(), tt.want) || !strings.Contains(e.Hint, "nat-pool") {
				t.Errorf("%s: %v", tt.at, err)
			}
			return nil
		})
	}
	if got := w.count(); got != before {
		t.Errorf("left: %s, want %s", got, before)
	}
}

// A kernel that refuses is an error that says what it was about and what is
// needed; nothing is left of the try.
func TestRefused(t *testing.T) {
	w := newWorld(t)
	before := w.count()
	for _, want := range []struct{ what, hint, forward string }{{"forwarding", "sysctl -w net.ipv4.ip_forward=1", "0"}, {"nftables", "CAP_NET_ADMIN", "1"}} {
		w.In(w.Host, func() error {
			if err := sysctl("ipv4/ip_forward", want.forward); err != nil {
				return err
			}
			defer withoutNetAdmin(t)()
			_, err := Open(w.dir, "shop", Addresses{V4: netip.MustParseAddr("10.213.0.2")})
			e, ok := errors.AsType[*Error](err)
			if !ok || !errors.Is(err, unix.EPERM) || !strings.HasPrefix(e.What, want.what) || !strings.Contains(e.Hint, want.hint) {
				t.Errorf("%s: got %v, %+v", want.what, err, e)
			}
			return nil
		})
	}
	if got := w.count(); got != before {
		t.Errorf("left: %s, want %s", got, before)
	}
	w.open("shop", "10.213.0.2", "") // the control: with the capability it is made
}

// withoutNetAdmin takes CAP_NET_ADMIN from this thread until it is given back.
func withoutNetAdmin(t *testing.T) (back func()) {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		t.Fatal(err)
	}
	less := have
	less[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	if err := unix.Capset(&header, &less[0]); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Capset(&header, &have[0]); err != nil {
			t.Error(err)
		}
	}
}
