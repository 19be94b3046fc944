package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Memory is looked at every trimEvery, and up to once in trimSoon while what is in
// use changes. From manyLive bytes in use on, which is thousands of vassals, garbage
// may be a quarter of that instead of as much again; what is free beyond trimFrom is
// given back.
const (
	trimSoon  = time.Second
	trimEvery = 30 * time.Second
	manyLive  = 16 << 20
	thrifty   = 25
	trimFrom  = 8 << 20
)

// trim gives memory back that the start of many vassals needed and nobody
// needs now. The runtime by itself keeps as much as is in use for the next
// peak, and that may be days away. It has to look while they start: what lasts
// would be strewn over twice the pages by then, and nothing moves it afterwards.
func trim(ctx context.Context) {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/free:bytes"}}
	usual := debug.SetGCPercent(-1)
	debug.SetGCPercent(usual)
	defer debug.SetGCPercent(usual)
	t := time.NewTimer(trimSoon)
	defer t.Stop()
	before, pause := uint64(0), trimSoon
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		metrics.Read(s)
		live, percent := s[0].Value.Uint64(), usual
		if live > manyLive {
			percent = thrifty
		}
		if pause = min(2*pause, trimEvery); live > before+before/16 || before > live+live/16 {
			pause = trimSoon
		}
		before = live
		t.Reset(pause)
		debug.SetGCPercent(percent)
		if pause > trimSoon && s[1].Value.Uint64() > trimFrom {
			debug.FreeOSMemory()
		}
	}
}
