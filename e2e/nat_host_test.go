package e2e

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"liege/internal/testnet"
	"liege/vassal"
)

// asks runs a command about a file on the realm's host, which is another one
// than this machine.
func (r *realm) asks(verb, file string) string {
	r.t.Helper()
	var out []byte
	if err := testnet.Inside(r.net, func() (err error) {
		out, err = exec.Command(filepath.Join(r.bin, "liege"), verb, "--config", filepath.Join(r.dir, "emperor.ini"), filepath.Join(r.etc, file)).CombinedOutput()
		return err
	}); err != nil {
		r.t.Errorf("%s: %v\n%s", verb, err, out)
	}
	return string(out)
}

// forwardDrops is a firewall that lets nothing through the host, as those of
// Docker and ufw.
func forwardDrops(conn *nftables.Conn) (*nftables.Table, *nftables.Chain) {
	drop := nftables.ChainPolicyDrop
	table := conn.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
	return table, conn.AddChain(&nftables.Chain{Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop})
}

// TestNATCheck: check and explain say before a start what status says after it
// and what then is so: that another's firewall keeps packets back, and no more
// once it has the rules of the manual.
func TestNATCheck(t *testing.T) {
	const site, warning, note = "198.51.100.7:443", "drops what passes through it unless a rule says otherwise (table ip filter, chain FORWARD)", "net.ipv4.ip_forward is 0"
	r, w := natRealm(t, "198.51.100.7")
	r.begin()
	w.Serve(w.World, site)
	r.write("etc/shop.ini", "[uwsgi]\n"+strings.NewReplacer("DIR", r.dir, "NAME", "shop").Replace(natLines))
	elsewhere := "../etc/shop.ini"
	w.In(w.Host, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0) })
	if out := r.asks("explain", elsewhere); !strings.Contains(out, note) || strings.Contains(out, warning) {
		t.Errorf("a host that forwards nothing:\n%s", out)
	}
	var table *nftables.Table
	var chain *nftables.Chain
	with := func(do func(conn *nftables.Conn)) {
		w.In(w.Host, func() error {
			conn, err := nftables.New()
			if err == nil {
				do(conn)
				err = conn.Flush()
			}
			return err
		})
	}
	with(func(conn *nftables.Conn) { table, chain = forwardDrops(conn) })
	for _, verb := range []string{"check", "explain"} {
		if out := r.asks(verb, elsewhere); strings.Count(out, warning) != 1 || !strings.Contains(out, "shop.ini:8: net") {
			t.Errorf("%s:\n%s", verb, out)
		}
	}
	r.nat("shop", "")
	warned := func() bool {
		return slices.ContainsFunc(r.up("shop").Problems, func(p vassal.Problem) bool {
			return p.Severity == vassal.Warning && p.Line == 8 && strings.Contains(p.Message, warning)
		})
	}
	if !warned() {
		t.Error("status does not say it")
	}
	if got := r.call("shop", site); strings.Contains(got, "hello") {
		t.Errorf("it gets out all the same: %q", got)
	}
	with(func(conn *nftables.Conn) {
		name := func(key expr.MetaKey) []expr.Any {
			return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte("lg")}}
		}
		const answers = expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED
		accept := &expr.Verdict{Kind: expr.VerdictAccept}
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(name(expr.MetaKeyIIFNAME), &expr.Counter{}, accept)})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(name(expr.MetaKeyOIFNAME), &expr.Ct{Key: expr.CtKeySTATE, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, answers), Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)}, accept)})
	})
	if got := r.call("shop", site); got != testnet.HostAt+" hello" {
		t.Errorf("with the rules of the manual: %q", got)
	}
	for _, verb := range []string{"check", "explain"} {
		if out := r.asks(verb, elsewhere); strings.Contains(out, warning) || strings.Contains(out, note) {
			t.Errorf("%s, with the rules of the manual:\n%s", verb, out)
		}
	}
	r.liege("reload", "shop")
	if warned() {
		t.Error("status says it, with the rules of the manual")
	}
}

// TestNATServe: root's liege serve gives a file its way out too, beside an
// Emperor and with another address, and takes nothing of that one's with it.
func TestNATServe(t *testing.T) {
	const site, metadata = "198.51.100.7:443", "169.254.169.254:80"
	r, w := natRealm(t, "198.51.100.7", "169.254.169.254")
	r.begin()
	w.Serve(w.World, site)
	w.Serve(w.World, metadata)
	r.nat("shop", "")
	r.up("shop")
	file := r.write("one/one.ini", "[uwsgi]\n"+strings.NewReplacer("DIR", r.dir, "NAME", "one").Replace(natLines))
	links := func() (n int) {
		w.In(w.Host, func() error {
			all, err := netlink.LinkList()
			n = len(all)
			return err
		})
		return n
	}
	before := links()
	var s *served
	w.In(w.Host, func() error { s = serve(t, r.dir, 0, file); return nil })
	s.await("msg=serves", 1)
	for to, want := range map[string]string{site: testnet.HostAt + " hello", metadata: "ConnectionRefusedError: Connection refused"} {
		if got := r.call("one", to); got != want {
			t.Errorf("one to %s: %q, want %q", to, got, want)
		}
	}
	if shop := r.status("shop").Addresses[0]; links() != before+1 || strings.Contains(s.text(), "nat, "+shop+",") {
		t.Errorf("%d interfaces, were %d; shop has %s:\n%s", links(), before, shop, s.text())
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := s.exit(); code != 0 {
		t.Errorf("exit %d:\n%s", code, s.text())
	}
	if now := links(); now != before {
		t.Errorf("%d interfaces are left, were %d", now, before)
	}
	if got := r.call("shop", site); got != testnet.HostAt+" hello" {
		t.Errorf("the other one afterwards: %q", got)
	}
}
