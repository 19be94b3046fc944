package launch

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"liege/emperor/expand"
	"liege/emperor/resolve"
	"liege/sandbox"
	"liege/sandbox/network"
	"liege/vassal"
)

// An address that cannot be made inside is a problem of its line.
func TestDoorProblem(t *testing.T) {
	at := vassal.Origin{File: "/etc/vassals/v.ini", Line: 7}
	s := &start{p: &prepared{Expanded: expand.Expanded{Result: &resolve.Result{Connect: []vassal.Connection{
		{Address: "127.0.0.1:1", Key: "connect"}, {Address: "[::1]:25", Key: "connect", At: at},
	}}}}}
	err := s.ofNetwork(fmt.Errorf("start v-g1: %w", &sandbox.DoorError{Door: 1, Err: unix.EADDRNOTAVAIL}))
	p, ok := errors.AsType[*vassal.Problem](err)
	if !ok || p.File != at.File || p.Line != 7 || p.Key != "connect" || p.Message != "[::1]:25 cannot be there inside: cannot assign requested address" {
		t.Errorf("%+v", err)
	}
	s.p.Config.Jail.NetAt = vassal.Origin{File: at.File, Line: 3}
	why := &network.Error{What: "interface lg0", Err: unix.EOPNOTSUPP, Hint: "modprobe veth"}
	err = s.ofNetwork(fmt.Errorf("start v-g1: %w", &sandbox.NATError{Err: why}))
	p, ok = errors.AsType[*vassal.Problem](err)
	if !ok || p.Step != "network" || p.Line != 3 || p.Key != "net" || p.Hint != "modprobe veth" || p.Message != "net = nat: interface lg0: operation not supported" {
		t.Errorf("%+v", err)
	}
	if other := errors.New("other"); s.ofNetwork(other) != other {
		t.Error("another error is changed")
	}
}

func TestReaches(t *testing.T) {
	named := func(as ...string) (out []vassal.Connection) {
		for _, a := range as {
			out = append(out, vassal.Connection{Address: a})
		}
		return out
	}
	nat := &resolve.NAT{V4: netip.MustParseAddr("10.213.0.2")}
	for _, tc := range []struct {
		r    resolve.Result
		want string
	}{
		{resolve.Result{Net: "none"}, "none, may connect to: nothing"},
		{resolve.Result{Net: "none", Connect: named("127.0.0.1:5432", "unix:/run/x")}, "none, may connect to: 127.0.0.1:5432 unix:/run/x"},
		{resolve.Result{Net: "host", Connect: named("unix:/run/x")}, "host, may connect to: anything that the host can reach"},
		{resolve.Result{Net: "nat", NAT: nat}, "nat, 10.213.0.2, may connect to: the internet but port 25"},
		{resolve.Result{Net: "nat", NAT: nat, Connect: named("unix:/run/x")}, "nat, 10.213.0.2, may connect to: the internet but port 25, unix:/run/x"},
	} {
		if got := reaches(&tc.r); got != tc.want {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
}
