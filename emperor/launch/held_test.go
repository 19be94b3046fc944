package launch

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// packetSockets are copies of the SOCK_SEQPACKET sockets of process pid.
func packetSockets(t *testing.T, pid int) (fds []int) {
	t.Helper()
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	const most = 256 // descriptors of a core that does nothing
	for n := range most {
		fd, err := unix.PidfdGetfd(pidfd, n, 0)
		if err != nil {
			continue
		}
		if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err == nil && kind == unix.SOCK_SEQPACKET {
			fds = append(fds, fd)
			continue
		}
		unix.Close(fd)
	}
	return fds
}

// A core can give its end of the control channel away, to a process or into the
// queue of a socket: the end of its generation waits for nobody who has it.
func TestControlHeld(t *testing.T) {
	r := newRig(t)
	r.site()
	in, _ := r.start(r.launcher("held"), r.file("held", static, 0), 1)
	r.ready(in)
	held := packetSockets(t, in.PID())
	defer func() {
		for _, fd := range held {
			unix.Close(fd)
		}
	}()
	if len(held) == 0 {
		t.Fatal("the core has no control channel")
	}
	if err := unix.Kill(in.PID(), unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		t.Fatal(err)
	}
	r.gone(in)
	if in.Exit().Signal == "" || !in.Problems().Failed() {
		t.Errorf("%+v, %v; want that it was killed", in.Exit(), in.Problems())
	}
}
