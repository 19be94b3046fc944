package network

import (
	"net/netip"
	"path/filepath"
	"testing"

	"liege/internal/testenv"
	"liege/internal/testnet"
	"liege/vassal/egress"
)

// What net = nat adds to a start: the line, once for a vassal, and a
// generation's link and rules.
func BenchmarkStart(b *testing.B) {
	testenv.Need(b, testenv.Root, testenv.NFTables)
	w := &world{Internet: testnet.New(b), t: b, dir: filepath.Join(b.TempDir(), "net")}
	a := Addresses{V4: netip.MustParseAddr("10.213.0.2"), V6: netip.MustParseAddr("fd6c:6567::a:2")}
	g := w.generation()
	policy := egress.New(nil, nil, nil, false)
	keep := w.open("keep", "10.213.0.3", "") // the host's table stays
	b.Run("vassal", func(b *testing.B) {
		w.In(w.Host, func() error { // each b.Run has a goroutine of its own
			for b.Loop() {
				n, err := Open(w.dir, "shop", a)
				if err != nil {
					return err
				}
				b.StopTimer()
				if err := n.Close(); err != nil {
					return err
				}
				b.StartTimer()
			}
			return nil
		})
	})
	b.Run("generation", func(b *testing.B) {
		w.In(w.Host, func() error {
			for gen := 1; b.Loop(); gen++ {
				if err := keep.Attach(gen, g.cmd.Process.Pid, policy); err != nil {
					return err
				}
				b.StopTimer()
				if err := keep.Detach(gen); err != nil {
					return err
				}
				b.StartTimer()
			}
			return nil
		})
	})
}
