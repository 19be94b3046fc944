package main

import (
	"testing"
	"testing/synctest"
	"time"
)

// However often an application wishes to be reloaded, the Emperor is asked once a
// second; what is wished after that is not lost.
func TestWishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ws, quit, began := newWishes(), make(chan struct{}), time.Now()
		var passed []time.Duration
		done := make(chan struct{})
		go func() {
			defer close(done)
			ws.pass(quit, func(wish) { passed = append(passed, time.Since(began)) })
		}()
		for range 300 {
			ws.add(wish{why: "again"})
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		ws.add(wish{why: "later"})
		time.Sleep(time.Second)
		close(quit)
		<-done
		want := []time.Duration{0, time.Second, 2 * time.Second, 11500 * time.Millisecond}
		if len(passed) != len(want) {
			t.Fatalf("passed on at %v, want %v", passed, want)
		}
		for i := range want {
			if passed[i] != want[i] {
				t.Errorf("passed on at %v, want %v", passed, want)
			}
		}
	})
}
