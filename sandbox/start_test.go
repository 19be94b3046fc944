package sandbox

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestStart(t *testing.T) {
	r := newRig(t)
	b := r.start(r.spec("shop", 1, "wait"))
	b.awaitOutput("waiting")
	if err := b.Verify(); err != nil {
		t.Error(err)
	}
	if err := b.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if e := b.wait(); e.Code != 0 || e.Signal != "" || e.OOM {
		t.Errorf("exit: got %+v, want status 0; log %q", e, b.output())
	}
	if err := b.Signal(unix.SIGTERM); err == nil {
		t.Error("a signal to a sandbox that is done: got nil, want an error")
	}
}
