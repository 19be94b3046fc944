package guest

import (
	"strings"
	"testing"

	"liege/internal/testenv"
	"liege/internal/testnet"
)

// TestNAT: under enforcement an app with net = nat reaches the internet and
// nothing that is closed, and keeps its address over a reload.
func TestNAT(t *testing.T) {
	testenv.Need(t, testenv.NFTables)
	h := newHost(t)
	w := testnet.Beside(t, "198.51.100.7", "169.254.169.254")
	// A port without a service: the default domain may connect to it.
	const site, metadata, own = "198.51.100.7:25432", "169.254.169.254:25432", testnet.HostAt + ":25432"
	w.Serve(w.World, site)
	w.Serve(w.World, metadata)
	w.Serve(w.Host, own)
	h.write("/srv/foo/app.py", string(hostile))
	h.drop("foo", appLines("foo", "net = nat"))
	v := h.up("foo")
	if len(v.Addresses) == 0 {
		t.Fatalf("no address: %+v", v)
	}
	for range 2 {
		addr := v.Listen[0]
		h.does(addr, tcpProbe(site), "b'"+testnet.HostAt+" '")
		for _, to := range []string{metadata, own} {
			if got := h.ask(addr, tcpProbe(to)); !strings.HasPrefix(got, "ECONNREFUSED") {
				t.Errorf("%s: %q, want ECONNREFUSED", to, got)
			}
		}
		h.run("liege", "reload", "foo")
		if now := h.up("foo"); now.Addresses[0] != v.Addresses[0] {
			t.Errorf("address %s, was %s", now.Addresses[0], v.Addresses[0])
		}
	}
}
