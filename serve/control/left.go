package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// Left holds the last counts of a core whose Emperor is gone, for the one that comes:
// one Counters message in the queue of a SOCK_SEQPACKET pair of which this process has
// both ends. An Emperor that adopts the core takes a copy of the far one
// (pidfd_getfd), looks into the queue and takes nothing out: what was last put is
// there also when the core has ended.
type Left struct {
	near, far int
	held      bool // one is in the queue
}

// Leave makes one. A core keeps it until it ends.
func Leave() (*Left, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("counts: %w", os.NewSyscallError("socketpair", err))
	}
	return &Left{near: fds[0], far: fds[1]}, nil
}

// Close gives it up.
func (l *Left) Close() error {
	return errors.Join(unix.Close(l.near), unix.Close(l.far))
}

// Put replaces what is there: who looks finds the old or the new, and never nothing.
// It is for one goroutine.
func (l *Left) Put(c vassal.Counts) error {
	b, err := json.Marshal(vassal.Message{V: vassal.MessageVersion, Type: vassal.Counters, Counts: &c})
	if err != nil {
		return fmt.Errorf("counts: %w", err)
	}
	if err := unix.Sendmsg(l.near, b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("counts: %w", err)
	}
	if !l.held {
		l.held = true
		return nil
	}
	if _, _, err := unix.Recvfrom(l.far, make([]byte, vassal.MaxMessage), unix.MSG_DONTWAIT); err != nil {
		return fmt.Errorf("counts: %w", err)
	}
	return nil
}
