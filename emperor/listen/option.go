package listen

import (
	"fmt"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// buffers sets the sizes of the buffers of a listening socket: its connections
// have the same. The kernel cuts them at net.core.wmem_max and rmem_max.
func buffers(fd int, s vassal.Sockets) error {
	for _, o := range []struct {
		name     string
		opt, val int
	}{{"socket-sndbuf", unix.SO_SNDBUF, s.SendBuffer}, {"socket-rcvbuf", unix.SO_RCVBUF, s.ReceiveBuffer}} {
		if o.val == 0 {
			continue
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o.opt, o.val); err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
	}
	return nil
}

// freebind lets fd be bound to an address that the host does not have: it may
// get it later (keepalived).
func freebind(fd, family int) error {
	if family == unix.AF_INET6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
}
