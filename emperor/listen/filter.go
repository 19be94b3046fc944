package listen

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// listenHere makes a bound inet socket listen, and hear of its own port alone
// for ever. An accepted socket is in the host's network wherever it is handed
// to, and listen(2) on one that was taken apart (connect with AF_UNSPEC) picks
// a port of the host: no hook of a cgroup is asked about that bind. But a
// filter is inherited with the socket, and SO_LOCK_FILTER has it neither
// removed nor replaced by anybody (KERNEL 1).
//
// Nothing is heard on such a port, but it is taken from the host, whose connections
// need ports of the same range: onePort has them all ask for one and the same.
//
// The filter is there before the first connection can be: what was accepted
// without it would stay so. Without root (liege serve) there is none: what
// accepts then is the caller, who may listen where he likes.
func listenHere(fd, backlog int) error {
	if os.Geteuid() != 0 {
		return unix.Listen(fd, backlog)
	}
	locked, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_LOCK_FILTER)
	if err == nil && locked == 0 {
		err = filterPort(fd)
	}
	if err == nil {
		err = onePort(fd)
	}
	if err != nil {
		return fmt.Errorf("filter: %w", err)
	}
	return unix.Listen(fd, backlog)
}

// filterPort drops, for good, what comes to another port than the one that fd
// is bound to. A TCP socket's filter sees the packet from the TCP header on.
func filterPort(fd int) error {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	const destination = 2 // where its port is in a TCP header
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: destination},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(portOf(sa)), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: ^uint32(0)}, // all of it
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})
	if err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1)
}

// ipLocalPortRange is IP_LOCAL_PORT_RANGE of ip(7), since Linux 6.3, which is
// inherited by what is accepted. The sandbox's filter refuses it to vassals.
const ipLocalPortRange = 51

// onePort has the kernel pick no port for fd, and for what fd accepts, but the first
// of those that it picks from. An older kernel cannot: there a vassal can take as
// many as it may have descriptors.
func onePort(fd int) error {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return err
	}
	var first uint16
	if _, err := fmt.Sscan(string(text), &first); err != nil {
		return fmt.Errorf("ip_local_port_range: %q: %w", text, err)
	}
	err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, ipLocalPortRange, int(first)<<16|int(first))
	if errors.Is(err, unix.ENOPROTOOPT) {
		return nil
	}
	return err
}
