package e2e

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"liege/internal/testenv"
	"liege/internal/testnet"
)

const natLines = "uid = www-data\nhttp = DIR/sock/NAME.sock\nchdir = DIR/app\nwsgi-file = caller.py\nprocesses = 2\nthreads = 8\nnet = nat\n"

// natRealm is an Emperor whose host is the internet's.
func natRealm(t *testing.T, addresses ...string) (*realm, *testnet.Internet) {
	t.Helper()
	testenv.Need(t, testenv.NFTables)
	r := layRealm(t)
	w := testnet.New(t, addresses...)
	r.net = w.Host
	r.caller()
	if err := os.Mkdir(r.dir+"/sock", 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(r.dir+"/sock", 0o777); err != nil {
		t.Fatal(err)
	}
	return r, w
}

func (r *realm) nat(name, lines string) {
	r.drop(name, strings.ReplaceAll(natLines, "NAME", name)+lines)
}

// call lets the app of a vassal connect, and returns what it heard.
func (r *realm) call(name, to string) string {
	r.t.Helper()
	code, body := r.get(r.dir+"/sock/"+name+".sock", "/?to="+url.QueryEscape(to))
	if code != 200 {
		r.t.Fatalf("%s: %d %s", to, code, body)
	}
	return body
}

// TestNAT: what is refused is reached from elsewhere in the same moment.
func TestNAT(t *testing.T) {
	const site, denied, private, metadata, site6 = "198.51.100.7", "198.51.100.8", "10.20.30.40", "169.254.169.254", "2001:db8:1::7"
	r, w := natRealm(t, site, denied, private, metadata, site6)
	r.begin()
	r.nat("shop", "egress = allow "+private+":5432\negress = deny "+denied+"\negress = allow "+denied+":443\n")
	r.nat("blog", "")
	shop, blog := r.up("shop"), r.up("blog")
	if len(shop.Addresses) != 2 || shop.Addresses[0] == blog.Addresses[0] {
		t.Fatalf("addresses %v and %v", shop.Addresses, blog.Addresses)
	}
	const refused = "ConnectionRefusedError: Connection refused"
	at := func(ip, port string) string { return net.JoinHostPort(ip, port) }
	for _, tt := range []struct {
		ns             *os.File // where it is
		at, shop, blog string
	}{
		{w.World, at(site, "443"), testnet.HostAt + " hello", testnet.HostAt + " hello"},
		{w.World, at(site6, "443"), testnet.Host6At + " hello", testnet.Host6At + " hello"},
		{w.World, at(site, "25"), refused, refused},
		{w.World, at(site6, "25"), refused, refused},
		{w.World, at(denied, "443"), refused, testnet.HostAt + " hello"},
		{w.World, at(private, "5432"), testnet.HostAt + " hello", refused},
		{w.World, at(private, "5433"), refused, refused},
		{w.World, at(metadata, "80"), refused, refused},
		{w.Host, at(testnet.HostAt, "22"), refused, refused},
		{w.Host, at(testnet.Host6At, "22"), refused, refused},
	} {
		w.Serve(tt.ns, tt.at)
		if _, err := w.Ask(w.Host, tt.at); err != nil {
			t.Fatalf("%s is not there at all: %v", tt.at, err)
		}
		for name, want := range map[string]string{"shop": tt.shop, "blog": tt.blog} {
			if got := r.call(name, tt.at); got != want {
				t.Errorf("%s to %s: %q, want %q", name, tt.at, got, want)
			}
		}
	}
	// Counted, and kept over a reload, a killed Emperor and one that was stopped.
	before := r.status("shop")
	if before.NetSent == 0 || before.NetReceived == 0 {
		t.Errorf("counted: %d sent, %d received", before.NetSent, before.NetReceived)
	}
	for _, how := range []func(){
		func() { r.liege("reload", "shop") },
		func() { r.kill(); r.start() },
		func() { r.stop(); r.start() },
	} {
		how()
		after := r.up("shop")
		if got := r.call("shop", at(site, "443")); got != testnet.HostAt+" hello" {
			t.Errorf("afterwards: %q", got)
		}
		if got := r.call("shop", at(denied, "443")); got != refused {
			t.Errorf("afterwards, what is denied: %q", got)
		}
		if !slices.Equal(after.Addresses, shop.Addresses) {
			t.Errorf("addresses %v, were %v", after.Addresses, shop.Addresses)
		}
		if after.NetSent < before.NetSent || after.NetReceived < before.NetReceived {
			t.Errorf("counters %d %d, were %d %d", after.NetSent, after.NetReceived, before.NetSent, before.NetReceived)
		}
		before = r.status("shop")
	}
	// Nothing is left of those that are gone.
	for _, name := range []string{"shop", "blog"} {
		if err := os.Remove(r.etc + "/" + name + ".ini"); err != nil {
			t.Fatal(err)
		}
		r.liege("wait", name, "gone", "--timeout", patience)
	}
	w.In(w.Host, func() error {
		links, err := netlink.LinkList()
		if err != nil || len(links) != 2 { // lo and out
			t.Errorf("%d interfaces of the host, %v", len(links), err)
		}
		return nil
	})
	if left, err := os.ReadDir(r.run + "/sandbox/net"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestNATReload: what an old generation was connected to, it hears to the end,
// and the new one has the same address beside it.
func TestNATReload(t *testing.T) {
	r, w := natRealm(t, "198.51.100.7")
	var ln net.Listener
	w.In(w.World, func() (err error) { ln, err = net.Listen("tcp", "198.51.100.7:443"); return err })
	came := make(chan net.Conn, 2)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			came <- c
		}
	})
	t.Cleanup(func() { ln.Close(); all.Wait() })
	r.begin()
	r.nat("shop", "")
	r.up("shop")
	heard := make(chan string, 2)
	ask := func() { all.Go(func() { heard <- r.call("shop", "198.51.100.7:443") }) }
	ask()
	old := <-came
	r.liege("reload", "shop") // returns when the new one serves
	ask()
	young := <-came
	for _, c := range []net.Conn{young, old} {
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		if _, err := io.Copy(io.Discard, c); err != nil { // what it says
			t.Error(err)
		}
		if _, err := io.WriteString(c, host+" late"); err != nil {
			t.Error(err)
		}
		c.Close()
		if got := <-heard; got != testnet.HostAt+" late" {
			t.Errorf("hears %q", got)
		}
	}
	r.until("the old generation is gone", func() bool {
		es, err := os.ReadDir(r.run + "/sandbox/state")
		return err == nil && len(es) == 1
	})
	if got := r.status("shop").Generation; got != 2 {
		t.Errorf("generation %d", got)
	}
}

// TestNATNames: a name server of the network is asked directly, and only for
// names; one of the host through the relay.
func TestNATNames(t *testing.T) {
	const server = "192.168.7.7"
	r, w := natRealm(t, server)
	for ns, at := range map[*os.File]string{w.World: server + ":53", w.Host: "127.0.0.53:53"} {
		w.Serve(ns, at)
	}
	w.Serve(w.World, server+":443")
	r.begin()
	for name, text := range map[string]string{"direct": "nameserver " + server + "\n", "own": "nameserver 127.0.0.53\n"} {
		r.nat(name, "resolv-conf = "+r.write("resolv-"+name, text)+"\n")
		r.up(name)
	}
	const refused = "ConnectionRefusedError: Connection refused"
	for _, tt := range []struct{ name, to, want string }{
		{"direct", server + ":53", testnet.HostAt + " hello"},
		{"direct", server + ":443", refused},
		{"own", "127.0.0.53:53", "127.0.0.1 hello"},
		{"own", server + ":53", refused},
	} {
		if got := r.call(tt.name, tt.to); got != tt.want {
			t.Errorf("%s to %s: %q, want %q", tt.name, tt.to, got, tt.want)
		}
	}
}

// TestNATEscape: a core that its tenant took over does not leave its network by
// what it was given, whatever its own rules allow. TestEscape has the negative
// control.
func TestNATEscape(t *testing.T) {
	r, w := natRealm(t, "169.254.169.254")
	r.bin = hostileBin(t, r.bin, "core")
	const secret, listener = "127.0.0.1:7777", testnet.HostAt + ":8080"
	w.Serve(w.Host, secret)
	w.Serve(w.World, "169.254.169.254:80")
	for _, at := range []string{secret, "169.254.169.254:80"} {
		if _, err := w.Ask(w.Host, at); err != nil {
			t.Fatalf("%s is not there at all: %v", at, err)
		}
	}
	r.write("app/attack", "escape "+secret+" 169.254.169.254:80")
	r.begin()
	r.drop("v", "uid = nobody\nhttp = "+listener+"\nchdir = DIR/app\ncheck-static = DIR/app\nnet = nat\negress = allow any\n")
	r.up("v")
	c, err := w.Dial(w.World, listener)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	if c != nil {
		defer c.Close()
	}
	var said string
	r.until("the attack is over", func() bool { said = r.liege("logs", "v"); return strings.Contains(said, "attack is over") })
	if strings.Contains(said, "connected") {
		t.Errorf("the tenant got out:\n%s", said)
	}
	for _, want := range []string{
		"accepted domain 2 type 1 to " + secret + ": operation not permitted",
		"accepted domain 2 type 1 to 169.254.169.254:80: operation not permitted",
		"listener domain 2 type 1 to " + secret + ": operation not permitted",
		"fresh domain 2 type 1 to " + secret + ": connection refused", // its own lo
		"fresh domain 2 type 1 to 169.254.169.254:80: connection refused",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("want %q in\n%s", want, said)
		}
	}
}

// TestNATMany: many at once, each with an address of its own.
func TestNATMany(t *testing.T) {
	r, w := natRealm(t, "198.51.100.7")
	w.Serve(w.World, "198.51.100.7:443")
	r.begin()
	const n = 40
	for i := range n {
		r.nat(fmt.Sprintf("v%02d", i), "processes = 1\nthreads = 1\n")
	}
	seen := map[string]bool{}
	for i := range n {
		name := fmt.Sprintf("v%02d", i)
		v := r.up(name)
		if len(v.Addresses) == 0 || seen[v.Addresses[0]] {
			t.Errorf("%s has the addresses %v", name, v.Addresses)
			continue
		}
		seen[v.Addresses[0]] = true
		if got := r.call(name, "198.51.100.7:443"); got != testnet.HostAt+" hello" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestNATKilled: whenever the Emperor is killed, at a first start or a reload,
// the next one finds the vassal's network, and nothing is left of it in the end.
func TestNATKilled(t *testing.T) {
	const site = "198.51.100.7:443"
	r, w := natRealm(t, "198.51.100.7")
	w.Serve(w.World, site)
	r.begin()
	address := ""
	for i := range 12 {
		if i%4 == 3 { // from the beginning
			if err := os.Remove(r.etc + "/a.ini"); err != nil {
				t.Fatal(err)
			}
			r.liege("wait", "a", "gone", "--timeout", patience)
		}
		r.nat("a", fmt.Sprintf("env = TRY=%d\n", i))
		time.Sleep(time.Duration(rand.Int64N(int64(300 * time.Millisecond)))) // any moment of the start
		r.kill()
		r.start()
		v := r.up("a")
		if address == "" {
			address = v.Addresses[0]
		}
		if v.Addresses[0] != address {
			t.Errorf("try %d: address %s, was %s", i, v.Addresses[0], address)
		}
		if got := r.call("a", site); got != testnet.HostAt+" hello" {
			t.Errorf("try %d: %q", i, got)
		}
	}
	if err := os.Remove(r.etc + "/a.ini"); err != nil {
		t.Fatal(err)
	}
	r.liege("wait", "a", "gone", "--timeout", patience)
	r.stop()
	w.In(w.Host, func() error {
		links, err := netlink.LinkList()
		if err != nil || len(links) != 2 { // lo and out
			t.Errorf("%d interfaces of the host, %v", len(links), err)
		}
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		if tables, err := conn.ListTables(); err != nil || len(tables) > 0 {
			t.Errorf("%d tables of the host, %v", len(tables), err)
		}
		return nil
	})
	if left := processesOf(t, r.dir); len(left) > 0 {
		t.Errorf("processes: %v", left)
	}
	r.start() // for the realm's own end
}

// TestNATUserNS: the network of a user namespace is set up from outside as any
// other, and root inside has no right over what holds it to the rules.
func TestNATUserNS(t *testing.T) {
	testenv.Need(t, testenv.UserNS)
	const site, private = "198.51.100.7", "10.20.30.40"
	r, w := natRealm(t, site, private)
	r.begin()
	w.Serve(w.World, site+":443")
	w.Serve(w.World, private+":5432")
	r.nat("shop", "namespaces = user\n")
	if v := r.up("shop"); len(v.Addresses) == 0 {
		t.Errorf("no address: %+v", v)
	}
	for to, want := range map[string]string{site + ":443": testnet.HostAt + " hello", private + ":5432": "ConnectionRefusedError: Connection refused"} {
		if got := r.call("shop", to); got != want {
			t.Errorf("to %s: %q, want %q", to, got, want)
		}
	}
	if out, code := r.says("", "--root", "shop", "cat", "/proc/self/uid_map"); code != 0 || strings.Contains(out, " 4294967295") {
		t.Errorf("root inside (%d) has the map %q", code, out)
	}
	r.liege("reload", "shop")
	if got := r.call("shop", site+":443"); got != testnet.HostAt+" hello" {
		t.Errorf("after a reload: %q", got)
	}
}
