package serve

import "testing"

// TestDoze: who looks at the counts seldom is told of one request, and of the next
// only when he asks anew.
func TestDoze(t *testing.T) {
	c := &Core{counts: counts{woken: make(chan struct{}, 1)}}
	told := func() bool {
		select {
		case <-c.Woken():
			return true
		default:
			return false
		}
	}
	c.counts.add(200, 0)
	if told() {
		t.Error("told without having asked")
	}
	for range 2 {
		c.Doze()
		c.Doze()
		c.counts.add(200, 0)
		c.counts.add(200, 0)
		if !told() || told() {
			t.Error("not told once")
		}
	}
}
