package php

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"liege/serve/proxy"
)

// kill kills the process that has f's other end; where that cannot be found
// out, all of PHP, which is started anew: a script that hangs must not hold
// its process for ever.
func (h *Handler) kill(f *proxy.FastCGIConn) {
	pid := 0
	peer, err := otherEnd(f)
	if err == nil {
		var held map[uint32]int
		held, err = sockets(children(h.keep.PID(0)))
		pid = held[peer]
	}
	switch {
	case err != nil:
		h.log.Warn("php: harakiri: the process that has the request is not known: all are replaced", "err", err)
		h.keep.Kill(0)
	case pid == 0: // no process has accepted it yet
		h.log.Warn("php: harakiri of a request that no process took")
	default:
		h.log.Warn("php: harakiri", "pid", pid)
		_ = unix.Kill(pid, unix.SIGKILL) // ESRCH: it has ended
	}
}

// otherEnd is the inode of f's other end; 0: nobody has accepted it.
func otherEnd(f *proxy.FastCGIConn) (uint32, error) {
	var ino uint64
	f.Control(func(fd uintptr) {
		var st unix.Stat_t
		if unix.Fstat(int(fd), &st) == nil {
			ino = st.Ino
		}
	})
	if ino == 0 {
		return 0, errors.New("the connection is closed")
	}
	peer, err := peerOf(uint32(ino))
	if err != nil {
		return 0, fmt.Errorf("the other end of a socket: %w", err)
	}
	return peer, nil
}

// sockets are those that pids hold, by inode.
func sockets(pids []int) (map[uint32]int, error) {
	held := map[uint32]int{}
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		d, err := os.Open(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has ended
		}
		if err != nil {
			return nil, err
		}
		names, _ := d.Readdirnames(-1)
		d.Close()
		for _, name := range names {
			var ino uint32
			to, _ := os.Readlink(dir + "/" + name) // closed meanwhile
			if n, _ := fmt.Sscanf(to, "socket:[%d]", &ino); n == 1 {
				held[ino] = pid
			}
		}
	}
	return held, nil
}

// Numbers of sock_diag(7) that package unix has not.
const (
	sockDiagByFamily = 20
	udiagShowPeer    = 0x4
	unixDiagPeer     = 2
)

// peerOf asks the kernel for the inode of the socket that the unix socket ino
// is connected to (sock_diag(7)).
func peerOf(ino uint32) (uint32, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	// nlmsghdr, then unix_diag_req: family, protocol, states, inode, show, cookie.
	q := make([]byte, 16+24)
	le := binary.NativeEndian
	le.PutUint32(q, uint32(len(q)))
	le.PutUint16(q[4:], sockDiagByFamily)
	le.PutUint16(q[6:], unix.NLM_F_REQUEST)
	q[16] = unix.AF_UNIX
	le.PutUint32(q[20:], ^uint32(0))
	le.PutUint32(q[24:], ino)
	le.PutUint32(q[28:], udiagShowPeer)
	le.PutUint32(q[32:], ^uint32(0)) // no cookie
	le.PutUint32(q[36:], ^uint32(0))
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	if err := unix.Sendto(fd, q, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, os.NewSyscallError("sendto", err)
	}
	b := make([]byte, 8<<10)
	n, _, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return 0, os.NewSyscallError("recvfrom", err)
	}
	return parsePeer(b[:n])
}

// parsePeer reads the answer of the kernel.
func parsePeer(b []byte) (uint32, error) {
	le := binary.NativeEndian
	if len(b) < 16 || int(le.Uint32(b)) > len(b) || le.Uint32(b) < 16 {
		return 0, errors.New("short answer")
	}
	b = b[:le.Uint32(b)]
	if le.Uint16(b[4:]) == unix.NLMSG_ERROR && len(b) >= 20 {
		return 0, unix.Errno(-int32(le.Uint32(b[16:])))
	}
	const head = 16 + 16 // unix_diag_msg
	if len(b) < head {
		return 0, errors.New("short answer")
	}
	for b = b[head:]; len(b) >= 4; {
		n := int(le.Uint16(b))
		if n < 4 || n > len(b) {
			break
		}
		if le.Uint16(b[2:]) == unixDiagPeer && n >= 8 {
			return le.Uint32(b[4:]), nil
		}
		b = b[min(len(b), (n+3)&^3):]
	}
	return 0, errors.New("no other end")
}

// children are the pids of the children of a process, the eldest first.
func children(pid int) (out []int) {
	if pid == 0 {
		return nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	for _, f := range strings.Fields(string(b)) {
		if n, err := strconv.Atoi(f); err == nil {
			out = append(out, n)
		}
	}
	return out
}
