package listen

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"liege/internal/testenv"
)

// An Apply that hangs holds up nobody who is done with another start, and makes
// nothing more when it goes on after it was given up.
func TestApplyHangs(t *testing.T) {
	testenv.Need(t, testenv.Root)
	testenv.Leaks(t)
	s := NewRegistry().Set("v")
	first := apply(t, s, wanting(t, "v.ini", "127.0.0.1:0"))
	first.Commit()
	gone := apply(t, s, wanting(t, "v.ini", "127.0.0.1:0", "@liege-test-gone"))

	dir, err := os.MkdirTemp("/run", "liege-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := wanting(t, "v.ini", "127.0.0.1:0", dir+"/hangs.sock", "@liege-test-late")
	hangs, mend := make(chan struct{}), make(chan struct{})
	w.Listeners[1].Chown = "0:0"
	w.Owner = func(string) (int, int, error) { close(hangs); <-mend; return -1, -1, nil }
	var now string
	w.At = func(address string) { now = address }
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan bool)
	go func() {
		c, ps := s.Apply(ctx, w)
		ended <- c == nil && ps.Failed() && strings.Contains(ps.Error(), "given up")
	}()
	<-hangs
	if now != dir+"/hangs.sock" {
		t.Errorf("it hangs at %q", now)
	}
	over := make(chan struct{})
	go func() { defer close(over); gone.Abort() }()
	select {
	case <-over:
	case <-time.After(10 * time.Second):
		t.Error("another start waits for the one that hangs")
	}
	if dials("@liege-test-gone") {
		t.Error("what was aborted listens")
	}
	cancel(errors.New("given up"))
	close(mend)
	if !<-ended {
		t.Error("it goes on after it was given up")
	}
	<-over
	if dials(dir+"/hangs.sock") || dials("@liege-test-late") {
		t.Error("what was made late listens")
	}
	if got := addresses(s.Bound()); len(got) != 1 || !dials(got[0]) {
		t.Errorf("the one that serves: %q", got)
	}
	s.Close()
}
