package egress

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"liege/vassal"
)

func lines(t *testing.T, text ...string) []vassal.Egress {
	t.Helper()
	var out []vassal.Egress
	for _, l := range text {
		es, wrong, _ := ParseLine(l)
		if wrong != "" {
			t.Fatalf("%s: %s", l, wrong)
		}
		out = append(out, es...)
	}
	return out
}

func TestParse(t *testing.T) {
	for _, tt := range []struct{ line, want, wrong string }{
		{"allow 10.0.0.7:5432", "10.0.0.7:5432", ""},
		{"deny 10.0.0.0/8 any:25", "10.0.0.0/8 any:25", ""},
		{"allow 10.0.0.0/8:5432-5440 any dns", "10.0.0.0/8:5432-5440 any dns", ""},
		{"allow 2001:db8::7", "2001:db8::7", ""},
		{"allow 2001:db8::/32 [2001:db8::7]", "2001:db8::/32 2001:db8::7", ""},
		{"allow [10.0.0.7:80", "", "is not an address"},
		{"allow [2001:db8::]/32:443 [2001:db8::7]:443-444", "[2001:db8::]/32:443 [2001:db8::7]:443-444", ""},
		{"deny fd00::/8 [fd00::]/8", "fd00::/8 fd00::/8", ""},
		{"", "", "begin with allow or deny"},
		{"allow", "", "begin with allow or deny"},
		{"permit any", "", "begin with allow or deny"},
		{"allow 10.0.0.1/8", "", "bits beyond"},
		{"allow 10.0.0.0/33", "", "0 to 32 bits"},
		{"allow 10.0.0.7:0", "", "from 1 to 65535"},
		{"allow 10.0.0.7:9-5", "", "from 1 to 65535"},
		{"allow 10.0.0.7:http", "", "from 1 to 65535"},
		{"allow 10.0.0.7:65536", "", "from 1 to 65535"},
		{"allow db.internal:5432", "", "names no address"},
		{"allow fe80::1%eth0", "", "is not an address"},
		{"allow ::ffff:10.0.0.1", "", "is not an address"},
	} {
		es, wrong, _ := ParseLine(tt.line)
		var got []string
		for _, e := range es {
			got = append(got, e.Target)
		}
		if s := strings.Join(got, " "); s != tt.want || (wrong == "") != (tt.wrong == "") || !strings.Contains(wrong, tt.wrong) {
			t.Errorf("%q: %q, %q; want %q, %q", tt.line, s, wrong, tt.want, tt.wrong)
		}
	}
}

// The first line that covers a connection decides; a tenant's cannot open what
// is closed.
func TestPolicy(t *testing.T) {
	servers := []netip.Addr{netip.MustParseAddr("192.168.1.1")}
	open := lines(t, "deny 10.0.0.9", "allow 10.0.0.0/8:5432 any:25", "allow 169.254.169.254", "deny 203.0.113.0/24", "allow 203.0.113.5")
	theirs := slices.Clone(open)
	for i := range theirs {
		theirs[i].Tenant = true
	}
	shut := lines(t, "allow 198.51.100.7:443 10.0.0.7:5432", "deny any")
	ceilings := lines(t, "allow 10.0.0.7:5432 192.168.5.0/24")
	for _, tt := range []struct {
		to                               string
		nothing, operator, tenant, shuts bool // no line; an operator's open; the same of a tenant; shut, of an operator
	}{
		{"198.51.100.7:443", true, true, true, true},
		{"198.51.100.7:80", true, true, true, false},
		{"198.51.100.7:25", false, true, false, false},
		{"10.0.0.7:5432", false, true, true, true},
		{"10.0.0.8:5432", false, true, false, false},
		{"10.0.0.7:5433", false, false, false, false},
		{"10.0.0.9:5432", false, false, false, false},
		{"203.0.113.5:80", true, false, false, false},
		{"169.254.169.254:80", false, false, false, false},
		{"127.0.0.1:80", false, false, false, false},
		{"192.168.1.1:53", true, true, true, false},
		{"192.168.1.1:80", false, false, false, false},
		{"192.168.5.5:80", false, false, true, false},
		{"[2001:db8::1]:443", true, true, true, false},
		{"[2001:db8::1]:25", false, true, false, false},
		{"[fd00::1]:443", false, false, false, false},
		{"[fe80::1]:443", false, false, false, false},
		{"[64:ff9b::a9fe:a9fe]:80", false, false, false, false},
		{"[64:ff9b::a00:1]:80", false, false, false, false},
		{"[64:ff9b::c633:6407]:80", true, true, true, false},
	} {
		a := netip.MustParseAddrPort(tt.to)
		for _, p := range []struct {
			what   string
			policy Policy
			want   bool
		}{
			{"no line", New(nil, nil, servers, false), tt.nothing},
			{"an operator's lines", New(open, nil, servers, false), tt.operator},
			{"a tenant's lines", New(theirs, ceilings, servers, false), tt.tenant},
			{"shut", New(shut, nil, servers, false), tt.shuts},
		} {
			if got := p.policy.Allows(a); got != p.want {
				t.Errorf("%s: %s: %v, want %v", p.what, tt.to, got, p.want)
			}
		}
	}
}

// Where mail has ceilings its other ports are closed as port 25 is, and opened as
// that is.
func TestCapped(t *testing.T) {
	for _, tt := range []struct {
		to           string
		free, capped bool
		opened       bool // by an operator's line, capped
	}{
		{"203.0.113.1:25", false, false, false},
		{"203.0.113.1:465", true, false, false},
		{"203.0.113.1:587", true, false, true},
		{"[2001:db8::1]:587", true, false, false},
		{"203.0.113.1:443", true, true, true},
	} {
		a := netip.MustParseAddrPort(tt.to)
		line := lines(t, "allow 203.0.113.1:587")
		if got := []bool{New(nil, nil, nil, false).Allows(a), New(nil, nil, nil, true).Allows(a), New(line, nil, nil, true).Allows(a)}; got[0] != tt.free || got[1] != tt.capped || got[2] != tt.opened {
			t.Errorf("%s: %v, want %v %v %v", tt.to, got, tt.free, tt.capped, tt.opened)
		}
		if e := lines(t, "allow any:587")[0]; Closed(e, false) || !Closed(e, true) {
			t.Error("what a tenant may not open")
		}
	}
}

func TestWithin(t *testing.T) {
	for _, tt := range []struct {
		ceiling, target string
		want            bool
	}{
		{"10.0.0.0/8", "10.1.2.3:5432", true},
		{"10.0.0.0/8:5432", "10.1.2.3", false},
		{"10.0.0.0/8:5432", "10.1.2.3:5432", true},
		{"10.0.0.0/8:5432", "10.1.2.3:5432-5433", false},
		{"10.0.0.0/8", "any", false},
		{"any", "10.0.0.1", true},
		{"any:25", "any:25", true},
		{"any:25", "any", false},
		{"dns", "dns", true},
		{"dns", "any", false},
		{"10.0.0.0/8", "dns", false},
	} {
		c, t1 := lines(t, "allow "+tt.ceiling)[0], lines(t, "allow "+tt.target)[0]
		if got := Within(c, t1); got != tt.want {
			t.Errorf("%s within %s: %v", tt.target, tt.ceiling, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"10.0.0.7:5432", "any:25", "[fd00::]/8:1-2", "dns", "0.0.0.0/0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, word string) {
		e, wrong, _ := Parse(word)
		if wrong != "" {
			return
		}
		again, wrong, _ := Parse(e)
		if wrong != "" || again != e {
			t.Errorf("%q is %q, which is %q %s", word, e, again, wrong)
		}
	})
}
