package static

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// File is a descriptor that is read and closed within one request. An os.File
// would ask the poller whether it can wait for it: two system calls for
// nothing, on a path that has eight.
type File struct{ fd int }

// Fd implements exchange.File.
func (f *File) Fd() uintptr { return uintptr(f.fd) }

// ReadAt implements io.ReaderAt.
func (f *File) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		m, err := unix.Pread(f.fd, p[n:], off+int64(n))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return n, os.NewSyscallError("pread", err)
		case m == 0:
			return n, io.EOF
		default:
			n += m
		}
	}
	return n, nil
}

// Close closes the descriptor. It is called once.
func (f *File) Close() {
	_ = unix.Close(f.fd) // opened for reading: nothing to lose
}
