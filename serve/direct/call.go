//go:build !race

package direct

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Receive is recvfrom(2). It does not wait: EAGAIN.
func Receive(fd uintptr, p []byte) (int, syscall.Errno) { return call(unix.SYS_RECVFROM, fd, p, 0) }

// Silent reports whether the socket is open in the direction to here, and nothing
// has come.
func Silent(fd uintptr) bool {
	_, errno := call(unix.SYS_RECVFROM, fd, make([]byte, 1), unix.MSG_PEEK)
	return errno == unix.EAGAIN
}

// Send is sendto(2). It does not wait: EAGAIN.
func Send(fd uintptr, p []byte) (int, syscall.Errno) {
	return call(unix.SYS_SENDTO, fd, p, unix.MSG_NOSIGNAL)
}

// call is recvfrom or sendto, which take the same.
func call(trap, fd uintptr, p []byte, flags uintptr) (int, syscall.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), flags|unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
