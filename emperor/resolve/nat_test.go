package resolve

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"liege/vassal"
	"liege/vassal/egress"
)

func egressLines(t *testing.T, tenant bool, lines ...string) []vassal.Egress {
	t.Helper()
	var out []vassal.Egress
	for i, l := range lines {
		es, wrong, _ := egress.ParseLine(l)
		if wrong != "" {
			t.Fatal(wrong)
		}
		for _, e := range es {
			e.Tenant, e.At = tenant, vassal.Origin{Line: i + 10}
			out = append(out, e)
		}
	}
	return out
}

// resolveNAT resolves the network of a file, and nothing else of it.
func resolveNAT(t *testing.T, trust vassal.Trust, nets, ceilings []string, resolv string, lines ...string) *Result {
	t.Helper()
	cfg := vassal.Config{Name: "v", File: "/etc/vassals/v.ini", Trust: trust}
	cfg.Jail.Net, cfg.Jail.NetAt = "nat", vassal.Origin{Line: 5}
	cfg.Jail.Egress = egressLines(t, !trust.Operator, lines...)
	h := Host{FS: OS{}, Nets: nets, NATAddress: func(vassal.Name) (v4, v6 netip.Addr, no6 string, err error) {
		return netip.MustParseAddr("10.213.0.2"), netip.Addr{}, "none", nil
	}}
	for _, c := range ceilings {
		h.Egress = append(h.Egress, egressLines(t, false, "allow "+c)...)
	}
	if resolv != "" {
		cfg.Jail.Resolv = filepath.Join(t.TempDir(), "resolv.conf")
		if err := os.WriteFile(cfg.Jail.Resolv, []byte(resolv), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := &resolver{host: h, cfg: cfg, res: &Result{Net: "nat"}}
	r.network()
	r.nat()
	return r.res
}

func TestNATCeilings(t *testing.T) {
	root, alice := vassal.Trust{Operator: true}, vassal.Trust{UID: 1000}
	nat := []string{"nat"}
	const servers = "nameserver 192.0.2.53\n"
	for _, tt := range []struct {
		what           string
		trust          vassal.Trust
		nets, ceilings []string
		lines          []string
		want           string // of the first error; empty: none
	}{
		{"an operator's, without a ceiling", root, nil, nil, []string{"allow 10.0.0.7:5432"}, ""},
		{"an operator's, over the ceiling", root, []string{"host"}, nil, nil, "net = nat is not allowed here"},
		{"a tenant's, without a ceiling", alice, nil, nil, nil, "net = nat is not allowed here"},
		{"a tenant's", alice, nat, nil, []string{"allow 198.51.100.7:443", "deny any"}, ""},
		{"a tenant's private network", alice, nat, nil, []string{"allow 10.0.0.7:5432"}, "may not open 10.0.0.7:5432"},
		{"a tenant's mail", alice, nat, nil, []string{"allow any:25"}, "may not open any:25"},
		{"within the ceiling", alice, nat, []string{"10.0.0.0/24:5432"}, []string{"allow 10.0.0.7:5432"}, ""},
		{"beyond it", alice, nat, []string{"10.0.0.0/24:5432"}, []string{"allow 10.0.0.7"}, "may not open 10.0.0.7"},
	} {
		got := ""
		r := resolveNAT(t, tt.trust, tt.nets, tt.ceilings, servers, tt.lines...)
		if p := r.Problems.First(); p != nil {
			got = p.Message
			if p.Code != vassal.CodeOverCeiling || p.Line == 0 || p.Hint == "" {
				t.Errorf("%s: %+v", tt.what, p)
			}
		}
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.what, got, tt.want)
		}
	}
	// What a tenant may open, its lines can leave closed.
	r := resolveNAT(t, alice, nat, []string{"10.0.0.7:5432"}, servers, "deny 10.0.0.7:5432")
	if r.NAT.Policy.Allows(netip.MustParseAddrPort("10.0.0.7:5432")) {
		t.Error("a tenant's deny is not heard")
	}
}

func TestNATNames(t *testing.T) {
	root := vassal.Trust{Operator: true}
	const closed = "names are not resolved: no name server may be asked"
	for _, tt := range []struct {
		what, conf string
		lines      []string
		servers    string // reached directly
		connect    string // through the relay
		warning    string
	}{
		{"one", "nameserver 192.0.2.53\n", nil, "[192.0.2.53]", "[]", ""},
		{"a private one", "nameserver 10.1.1.1\nsearch x\n", nil, "[10.1.1.1]", "[]", ""},
		{"the host's own and another", "nameserver 127.0.0.1\nnameserver 192.0.2.53\n", nil, "[192.0.2.53]", "[]", ""},
		{"the host's own", "nameserver 127.0.0.53\n", nil, "[]", "[127.0.0.53:53]", ""},
		{"a cloud's", "nameserver 169.254.169.253\n", nil, "[]", "[169.254.169.253:53]", ""},
		{"IPv6, which the vassal has not", "nameserver 2001:db8::53\n", nil, "[]", "[]", "names are not resolved: /etc/resolv.conf of the host names no server that can be reached"},
		{"closed", "nameserver 192.0.2.53\n", []string{"deny any"}, "[192.0.2.53]", "[]", closed},
		{"opened before that", "nameserver 192.0.2.53\n", []string{"allow dns", "deny any"}, "[192.0.2.53]", "[]", ""},
		{"the host's own, closed", "nameserver 127.0.0.53\n", []string{"deny dns"}, "[]", "[]", closed},
	} {
		r := resolveNAT(t, root, nil, nil, tt.conf, tt.lines...)
		text := func(as []netip.Addr) string {
			var out []string
			for _, a := range as {
				out = append(out, a.String())
			}
			return "[" + strings.Join(out, " ") + "]"
		}
		if got := text(r.NAT.Servers); got != tt.servers {
			t.Errorf("%s: servers %s, want %s", tt.what, got, tt.servers)
		}
		if got := "[" + strings.Join(r.Reaches(), " ") + "]"; got != tt.connect {
			t.Errorf("%s: connects to %s, want %s", tt.what, got, tt.connect)
		}
		got := ""
		for _, p := range r.Problems {
			if p.Severity != vassal.Note {
				got = p.Message
			}
		}
		if got != tt.warning {
			t.Errorf("%s: %q, want %q", tt.what, got, tt.warning)
		}
	}
}

// An address is a name's for good; when the pool is used up, those that were let
// go are given again.
func TestAddresses(t *testing.T) {
	file := filepath.Join(t.TempDir(), AddressesFile)
	pool4, pool6 := netip.MustParsePrefix("10.9.0.0/24"), netip.MustParsePrefix("fd00:9::/64")
	a := NewAddresses(file, pool4, pool6, 0)
	v4, v6, err := a.Of("a")
	if err != nil || v4.String() != "10.9.0.2" || v6.String() != "fd00:9::2" {
		t.Fatalf("%v %v %v", v4, v6, err)
	}
	if v4, _, _ := a.Of("b"); v4.String() != "10.9.0.3" {
		t.Errorf("the second is %v", v4)
	}
	again := NewAddresses(file, pool4, netip.Prefix{}, 0)
	if v4, v6, err := again.Of("b"); v4.String() != "10.9.0.3" || v6.IsValid() || err != nil {
		t.Errorf("after a restart %v %v %v", v4, v6, err)
	}
	if err := again.Forget(func(n vassal.Name) bool { return n != "b" }); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		v4, _, err := again.Of(vassal.Name("n" + strings.Repeat("x", i)))
		if err != nil {
			if i != 252 || !strings.Contains(err.Error(), "is allotted") { // 2 to 254, less a's
				t.Errorf("the pool ends after %d: %v", i, err)
			}
			break
		}
		if !pool4.Contains(v4) || v4.String() == "10.9.0.255" || v4.String() == "10.9.0.2" {
			t.Errorf("%d has %v", i, v4)
		}
	}
}
