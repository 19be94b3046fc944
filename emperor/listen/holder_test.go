package listen

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

// TestAdvice: nobody is told to kill an Emperor or a core.
func TestAdvice(t *testing.T) {
	for _, tt := range []struct {
		has       owner
		who, hint string
	}{
		{owner{}, unseen, "ss -ltnp"},
		{owner{7, "nginx", ""}, "pid 7 (nginx) listens there", "stop it (kill 7), or name another address"},
		{owner{7, "uwsgi", ""}, "pid 7 (uwsgi)", "systemctl stop uwsgi uwsgi-emperor"},
		{owner{7, "liege-core", ""}, "pid 7 (liege-core) listens there, for a vassal", "liege stop NAME, or name another address"},
		{owner{7, "liege-emperor", ""}, "for a vassal", "liege ls"},
		{owner{7, "python3", "shop"}, "vassal shop (pid 7, python3) listens there", "liege stop shop, or name another address"},
	} {
		who, hint := tt.has.advice()
		if !strings.Contains(who, tt.who) || !strings.Contains(hint, tt.hint) {
			t.Errorf("%+v: %q, %q; want %q, %q", tt.has, who, hint, tt.who, tt.hint)
		}
		if tt.has.command != "nginx" && strings.Contains(hint, "kill") {
			t.Errorf("%+v: %q", tt.has, hint)
		}
	}
}

// TestVassalOf: a process is a vassal's where this Emperor's vassals are, and nowhere
// that only looks like it.
func TestVassalOf(t *testing.T) {
	for _, tt := range []struct{ groups, all, want string }{
		{"0::/liege.slice/liege-vassals.service/vassals/v-shop/g3\n", "/liege.slice/liege-vassals.service/vassals", "shop"},
		{"5:memory:/liege-ab/vassals/v-shop/g3\n0::/liege-ab/vassals/v-shop\n", "/liege-ab/vassals", "shop"},
		{"1:name=systemd:/user.slice\n5:memory:/liege-ab/vassals/v-shop/g3\n", "/liege-ab/vassals", "shop"},
		{"0::/docker/ab/liege-ab/vassals/v-shop/g3\n", "/liege-ab/vassals", ""},
		{"0::/liege-cd/vassals/v-shop/g3\n", "/liege-ab/vassals", ""},
		{"0::/liege-ab/vassals/v-shop/g3/vassals/v-other\n", "/liege-ab/vassals", "shop"},
		{"0::/machine:/liege-ab/vassals/v-other/g3\n", "/liege-ab/vassals", ""},
		{"0::/liege-ab/vassals/v-shop/g3\n", "", ""},
		{"0::/user.slice\n", "/vassals", ""},
		{"0::/vassals/v-../g1\n", "/vassals", ""},
		{"0::/liege-x/vassals/leaf\n", "/liege-x/vassals", ""},
	} {
		if got := vassalOf(tt.groups, tt.all); got != tt.want {
			t.Errorf("%q below %q: vassal %q, want %q", tt.groups, tt.all, got, tt.want)
		}
	}
}

// TestRival: a port is taken only where the address is the same, or a part.
func TestRival(t *testing.T) {
	for on, want := range map[string]map[string]bool{
		"127.0.0.1:0": {"127.0.0.1": true, "127.0.0.2": false, "0.0.0.0": true, "::1": false},
		"0.0.0.0:0":   {"127.0.0.1": true, "0.0.0.0": true, "::1": false},
	} {
		ln, err := net.Listen("tcp4", on)
		if err != nil {
			t.Fatal(err)
		}
		port := netip.MustParseAddrPort(ln.Addr().String()).Port()
		for addr, taken := range want {
			who, _ := Rival(netip.AddrPortFrom(netip.MustParseAddr(addr), port), "")
			if (who != "") != taken {
				t.Errorf("%s listens, %s: %q, want %v", on, addr, who, taken)
			}
		}
		ln.Close()
		if who, _ := Rival(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), ""); who != "" {
			t.Errorf("nobody listens: %q", who)
		}
	}
}
