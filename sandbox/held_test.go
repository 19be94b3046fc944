package sandbox

import (
	"testing"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// The end of a generation waits for nobody who has the stage's end of its status
// channel.
func TestStatusHeld(t *testing.T) {
	r := realStage(t)
	spec := r.realSpec("held", "echo core")
	spec.Plan.Hooks = []vassal.Hook{hookAt(vassal.InJail, 3, "exec", "echo begun; exec sleep 600")}
	b := r.start(spec)
	b.awaitOutput("begun")
	pidfd, err := unix.PidfdOpen(b.PID(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	held := 0
	const most = 64 // descriptors of a stage
	for n := range most {
		fd, err := unix.PidfdGetfd(pidfd, n, 0)
		if err != nil {
			continue
		}
		defer unix.Close(fd)
		if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err == nil && kind == unix.SOCK_SEQPACKET {
			held++
		}
	}
	if held < 2 {
		t.Fatalf("%d channels, want the control and the status channel", held)
	}
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	b.wait()
}
