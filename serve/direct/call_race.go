//go:build race

package direct

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// The race detector learns from syscall.Read and Write that what was done before
// bytes were sent was done before they came.

// Receive is read(2).
func Receive(fd uintptr, p []byte) (int, syscall.Errno) {
	return again(func() (int, error) { return syscall.Read(int(fd), p) })
}

// Silent reports whether the socket is open in the direction to here, and nothing
// has come.
func Silent(fd uintptr) bool {
	_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return err == unix.EAGAIN
}

// Send is write(2).
func Send(fd uintptr, p []byte) (int, syscall.Errno) {
	return again(func() (int, error) { return syscall.Write(int(fd), p) })
}

func again(call func() (int, error)) (int, syscall.Errno) {
	for {
		n, err := call()
		if errno, _ := errors.AsType[syscall.Errno](err); errno != syscall.EINTR {
			return max(n, 0), errno
		}
	}
}
