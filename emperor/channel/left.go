package channel

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// Left is where a core whose Emperor is gone leaves what it has counted, for the next
// one: a copy of its socket (serve/control.Left).
type Left struct{ fd int }

// FindLeft takes a copy of it out of process pid, which pidfd is; nil: it has none, or
// none yet. The process is the tenant's: of what it has only sockets that look like one
// are touched, and nothing is waited for.
func FindLeft(pid, pidfd int) *Left {
	inodes := packetSockets(pid)
	if len(inodes) == 0 {
		return nil
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	es, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range es {
		n, err := strconv.Atoi(e.Name())
		to, err2 := os.Readlink(dir + "/" + e.Name())
		inode, socket := strings.CutPrefix(to, "socket:[")
		if err != nil || err2 != nil || !socket || !slices.Contains(inodes, strings.TrimSuffix(inode, "]")) {
			continue
		}
		fd, err := unix.PidfdGetfd(pidfd, n, 0)
		if err != nil {
			continue
		}
		l := &Left{fd: fd}
		if _, ok := l.Counts(); ok {
			return l
		}
		l.Close()
	}
	return nil
}

// maxUnix is how much is read about the sockets of a network, which are the
// tenant's: some forty thousand.
const maxUnix = 4 << 20

// packetSockets are the inodes of the SOCK_SEQPACKET sockets in pid's network
// (proc_net_unix, columns Num RefCount Protocol Flags Type St Inode).
func packetSockets(pid int) (inodes []string) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/net/unix", pid))
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxUnix))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 7 && f[4] == "0005" {
			inodes = append(inodes, f[6])
		}
	}
	return inodes
}

// Counts are those that were last left. They are the tenant's claim.
func (l *Left) Counts() (c vassal.Counts, ok bool) {
	for opt, want := range map[int]int{unix.SO_DOMAIN: unix.AF_UNIX, unix.SO_TYPE: unix.SOCK_SEQPACKET, unix.SO_ACCEPTCONN: 0} {
		if got, err := unix.GetsockoptInt(l.fd, unix.SOL_SOCKET, opt); err != nil || got != want {
			return c, false
		}
	}
	b := make([]byte, vassal.MaxMessage)
	n, _, err := unix.Recvfrom(l.fd, b, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	if err != nil || n <= 0 {
		return c, false
	}
	m, err := parseMessage(b[:n])
	if err != nil || m.Type != vassal.Counters {
		return c, false
	}
	return *m.Counts, true
}

// Close gives the copy up.
func (l *Left) Close() {
	// What is no such socket after all, but one to somewhere, is not to be waited for.
	if err := unix.SetsockoptLinger(l.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{}); err != nil {
		go unix.Close(l.fd) // no socket: it may wait for a FUSE of the tenant's
		return
	}
	unix.Close(l.fd)
}
