package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Memory is looked at every trimEvery. From manyLive bytes in use on, which is
// thousands of vassals, garbage may be a quarter of that instead of as much
// again; what is free beyond trimFrom is given back.
const (
	trimEvery = 30 * time.Second
	manyLive  = 16 << 20
	thrifty   = 25
	trimFrom  = 8 << 20
)

// trim gives memory back that the start of many vassals needed and nobody
// needs now. The runtime by itself keeps as much as is in use for the next
// peak, and that may be days away.
func trim(ctx context.Context) {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/free:bytes"}}
	usual := debug.SetGCPercent(-1)
	debug.SetGCPercent(usual)
	defer debug.SetGCPercent(usual)
	for t := time.NewTicker(trimEvery); ; {
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		metrics.Read(s)
		percent := usual
		if s[0].Value.Uint64() > manyLive {
			percent = thrifty
		}
		debug.SetGCPercent(percent)
		if s[1].Value.Uint64() > trimFrom {
			debug.FreeOSMemory()
		}
	}
}
