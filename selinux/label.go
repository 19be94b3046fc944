package selinux

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	goselinux "github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"
)

// Sockets calls open, whose sockets get context instead of the caller's own
// (setsockcreatecon(3)): a listener or a socket pair that a vassal is given is
// that vassal's by the policy too, and what is accepted from it (KERNEL 10).
// With an empty context it just calls open. The attribute is the thread's, so
// open runs on one thread and must not start goroutines that make sockets.
func Sockets(context string, open func() error) error {
	if context == "" {
		return open()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := goselinux.SetSocketLabel(context)
		if err != nil {
			err = fmt.Errorf("sockets of %s: %w", context, err)
		} else {
			err = open()
		}
		if reset := goselinux.SetSocketLabel(""); reset == nil {
			runtime.UnlockOSThread()
		} // else the thread ends with this goroutine
		done <- err
	}()
	return <-done
}

// ThreadSockets gives the sockets that this thread makes from now on context;
// empty: no change. The caller has locked its goroutine to the thread and lets
// it end.
func ThreadSockets(context string) error {
	if context == "" {
		return nil
	}
	if err := goselinux.SetSocketLabel(context); err != nil {
		return fmt.Errorf("sockets of %s: %w", context, err)
	}
	return nil
}

// ThreadExec lets what this thread executes, or a child of it, begin in context
// (setexeccon(3)); empty: as the policy has it. The caller has locked its
// goroutine to the thread and lets it end.
func ThreadExec(context string) error {
	if context == "" {
		return nil
	}
	if err := goselinux.SetExecLabel(context); err != nil {
		return fmt.Errorf("exec as %s: %w", context, err)
	}
	return nil
}

// xattr is where the kernel keeps the context of a file or socket.
const xattr = "security.selinux"

// FileContext is the context of an open file or socket.
func FileContext(f *os.File) (string, error) {
	buf := make([]byte, 4096)
	n, err := unix.Fgetxattr(int(f.Fd()), xattr, buf)
	if err != nil {
		return "", fmt.Errorf("context of %s: %w", f.Name(), err)
	}
	return strings.TrimRight(string(buf[:n]), "\x00\n"), nil
}

// PathContext is the context of the file at path, of a link itself.
func PathContext(path string) (string, error) {
	buf := make([]byte, 4096)
	n, err := unix.Lgetxattr(path, xattr, buf)
	if err != nil {
		return "", &os.PathError{Op: "context", Path: path, Err: err}
	}
	return strings.TrimRight(string(buf[:n]), "\x00\n"), nil
}

// Relabel gives the file at path, or a link itself, context if it has another.
// An empty context changes nothing. Only the owner of every directory on the
// way may name a path here.
func Relabel(path, context string) error {
	if context == "" {
		return nil
	}
	have, err := PathContext(path)
	if err == nil && have == context {
		return nil
	}
	if err != nil && !errors.Is(err, unix.ENODATA) {
		return err
	}
	if err := unix.Lsetxattr(path, xattr, []byte(context), 0); err != nil {
		return &os.PathError{Op: "relabel as " + context, Path: path, Err: err}
	}
	return nil
}

// MountOption is the mount option that gives everything in a file system
// context (mount(8), context=); empty for an empty one.
func MountOption(context string) string {
	if context == "" {
		return ""
	}
	return fmt.Sprintf("context=%q", context)
}
