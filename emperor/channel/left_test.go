package channel

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/serve/control"
	"liege/vassal"
)

// What a core leaves for the next Emperor is found among its sockets, is the latest, and
// is there when the core is gone; nothing is taken out of another socket.
func TestLeft(t *testing.T) {
	testenv.Need(t, testenv.Root)
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	lane, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(lane[0])
	defer unix.Close(lane[1])
	if _, err := unix.Write(lane[0], []byte("a request")); err != nil {
		t.Fatal(err)
	}
	if found := FindLeft(os.Getpid(), pidfd); found != nil {
		t.Fatal("found before there is any")
	}
	left, err := control.Leave()
	if err != nil {
		t.Fatal(err)
	}
	defer left.Close()
	var found *Left
	for i := range 3 {
		if err := left.Put(vassal.Counts{Requests: uint64(i)}); err != nil {
			t.Fatal(err)
		}
		if found == nil {
			if found = FindLeft(os.Getpid(), pidfd); found == nil {
				t.Fatal("not found")
			}
			defer found.Close()
		}
		for range 2 {
			if c, ok := found.Counts(); !ok || c.Requests != uint64(i) {
				t.Errorf("put %d, got %d, %v", i, c.Requests, ok)
			}
		}
	}
	b := make([]byte, 20)
	if n, _, err := unix.Recvfrom(lane[1], b, unix.MSG_DONTWAIT); err != nil || string(b[:n]) != "a request" {
		t.Errorf("another socket has %q, %v", b[:max(n, 0)], err)
	}
}
