package control

import (
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// Whoever looks while counts are put finds some, and after that the latest.
func TestPut(t *testing.T) {
	l, err := Leave()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Put(vassal.Counts{}); err != nil {
		t.Fatal(err)
	}
	look := func() (string, error) {
		b := make([]byte, vassal.MaxMessage)
		n, _, err := unix.Recvfrom(l.far, b, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return string(b[:max(n, 0)]), err
	}
	var looking sync.WaitGroup
	end := make(chan struct{})
	looking.Go(func() {
		for {
			select {
			case <-end:
				return
			default:
			}
			if _, err := look(); err != nil {
				t.Errorf("nothing is there: %v", err)
				return
			}
		}
	})
	for n := range 20000 {
		if err := l.Put(vassal.Counts{Requests: uint64(n)}); err != nil {
			t.Fatal(err)
		}
	}
	close(end)
	looking.Wait()
	if got, err := look(); got != `{"v":1,"type":"counters","counts":{"requests":19999,"errors":0,"active":0,"respawns":0,"busy":0}}` {
		t.Errorf("%s, %v", got, err)
	}
}
