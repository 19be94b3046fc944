package emperor

import (
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A user with many vassals that wait does not go before others with one; the
// operator's go in the order in which they came.
func TestGateIsFairToUsers(t *testing.T) {
	const mallory, alice, operator = 1001, 1002, 0
	for _, tt := range []struct {
		many int
		want []string
	}{
		{mallory, []string{"1", "alice", "2", "3", "4", "5"}},
		{operator, []string{"1", "2", "3", "4", "5", "alice"}}, // the control
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(1)
			first, err := g.acquire(t.Context(), ordinary, time.Now(), tt.many)
			if err != nil {
				t.Fatal(err)
			}
			var order []string
			enter := func(name string, user int) {
				since := time.Now()
				go func() {
					s, err := g.acquire(t.Context(), ordinary, since, user)
					if err != nil {
						t.Error(err)
						return
					}
					order = append(order, name)
					s.Release()
				}()
				synctest.Wait()
			}
			for _, n := range []string{"1", "2", "3", "4", "5"} {
				enter(n, tt.many)
			}
			time.Sleep(time.Second)
			enter("alice", alice)
			first.Release()
			synctest.Wait()
			if d := cmp.Diff(tt.want, slices.Clone(order)); d != "" {
				t.Errorf("order (-want +got):\n%s", d)
			}
		})
	}
}

// A start waits for much of its time: one for each CPU leaves them idle.
func TestDefaultConcurrency(t *testing.T) {
	if got, want := New(Options{}).Concurrency(), 2*runtime.NumCPU(); got != want {
		t.Errorf("%d starts at once, want %d", got, want)
	}
	if got := New(Options{Concurrency: 1}).Concurrency(); got != 1 {
		t.Errorf("start-concurrency = 1: %d at once", got)
	}
}
