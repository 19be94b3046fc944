package api

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/serve/cache"
	"liege/serve/exchange"
	"liege/serve/metrics"
	"liege/serve/worker"
	"liege/vassal"
)

// pool is a pool without processes.
type pool struct{ signals chan int }

func (p *pool) Signal(_ context.Context, _, n int) error { p.signals <- n; return nil }
func (p *pool) Sides(worker.SideKind)                    {}
func (p *pool) Rest(worker.SideKind)                     {}
func (p *pool) Renew(worker.SideKind)                    {}
func (p *pool) SideStats() []worker.SideStats            { return nil }
func (p *pool) Attach(worker.Doorman) error              { return nil }
func (p *pool) Listen(func([]byte))                      {}
func (p *pool) OnFault(func(string))                     {}
func (p *pool) Stats() exchange.Stats {
	return exchange.Stats{Workers: []exchange.WorkerStats{{ID: 1, PID: 1, Requests: 3}}}
}
func (p *pool) Start(*worker.Program) (worker.Process, error) {
	return worker.Process{}, os.ErrPermission
}
func (p *pool) Environ() []string { return nil }

// host is a Host that runs until the test ends.
func host(t testing.TB) *Host {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	set, err := cache.New([]vassal.Cache{{Name: "c", Items: 10, KeySize: 32, BlockSize: 1024, Blocks: 10, Sweep: time.Second}}, "/", log)
	if err != nil {
		t.Fatal(err)
	}
	app := &vassal.App{Dir: "/", Jobs: &vassal.Jobs{Locks: 2, Mules: make([]vassal.Mule, 2), Farms: []vassal.Farm{{Name: "f", Mules: []int{1, 2}}}, Spoolers: make([]vassal.Spooler, 1)}}
	h := New(app, set, &pool{make(chan int, 100)}, log)
	h.Metrics = metrics.New(&vassal.Metrics{Own: []vassal.Metric{{Name: "m"}}}, "/", func() []metrics.Value { return nil })
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { h.Run(ctx); close(ended) }()
	t.Cleanup(func() { end(); <-ended; h.Close(); set.Close() })
	return h
}

// dial is a connection to h.
func dial(t testing.TB, h *Host) net.Conn {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	near, err := streamOf(fds[0])
	if err == nil {
		var far *net.UnixConn
		if far, err = streamOf(fds[1]); err == nil {
			h.open.Add(1)
			h.conns.Go(func() { defer h.open.Add(-1); h.converse(t.Context(), 0, far) })
		}
	}
	unix.Close(fds[0])
	unix.Close(fds[1])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	return near
}

// req is a frame; fields are strings or ints.
func req(op byte, fields ...any) []byte {
	b := []byte{0, 0, 0, 0, op}
	for _, f := range fields {
		var p []byte
		switch v := f.(type) {
		case int:
			p = binary.LittleEndian.AppendUint64(nil, uint64(v))
		case string:
			p = []byte(v)
		}
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(p))), p...)
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// FuzzServices: whatever a process sends, the core answers or closes, and goes
// on to serve others.
func FuzzServices(f *testing.F) {
	hello := req(opHello, "m", 1)
	f.Add(hello)
	f.Add(bytes.Join([][]byte{hello, req(opSet, "", "k", "v", 0, 0), req(opGet, "", "k"), req(opKeys, ""), req(opNumber, "", "n", "+", 1, 0)}, nil))
	f.Add(bytes.Join([][]byte{hello, req(opLock, 0), req(opLock, 1), req(opUnlock, 0), req(opLocked, 7)}, nil))
	f.Add(bytes.Join([][]byte{hello, req(opHandle, 9, "mules"), req(opSignal, 9), req(opNext, 15), req(opTimer, 9, 10, 0), req(opCron, 9, -1, -1, -1, -1, -1), req(opFile, 9, "/x")}, nil))
	f.Add(bytes.Join([][]byte{hello, req(opMule, 1, "msg"), req(opFarm, "f", "msg"), req(opPoke, ""), req(opMetric, "+", "m", 2), req(opWorkers), req(opTotal), req(opQueue), req(opRing, "+", 0, "m"), req(opRing, "l", 9, ""), req(opRing, "=", -1, ""), req(opRing, "-", 0, ""), req(opPids, "s"), req(opAlarm, "a", "b")}, nil))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 'h'})
	f.Add(req('h'))
	f.Add(bytes.Join([][]byte{hello, req(opHandle, 9, "mules"), req(opNext, 15), req(opGet, "", "k")}, nil)) // sends while it waits
	f.Add(append(hello, req(opDeadly, 1)...))                                                                // it must not be the core that dies
	h := host(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		conn := dial(t, h)
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		go func() {
			_, _ = conn.Write(data)
			_ = conn.(*net.UnixConn).CloseWrite()
		}()
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Fatal(err)
		}
		other := dial(t, h)
		_, _ = other.Write(append(hello, req(opExists, "", "k")...))
		var b [10]byte
		if _, err := io.ReadFull(other, b[:]); err != nil {
			t.Fatal(err)
		}
	})
}
