package kernel

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
)

// TestSocketLabel: a socket has the label that its thread asked for, and so
// has every TCP connection that it accepts. A unix connection has its type and
// the *client's* level. A pipe has its maker's label, whatever was asked.
func TestSocketLabel(t *testing.T) {
	testenv.Need(t, testenv.Micro, testenv.Enforcing)
	loopback(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, tc := range []struct{ asked, made, unix string }{
		{"", context("kernel_t"), context("kernel_t")}, // as init
		{"u:r:app_t:s0:c0", "u:r:app_t:s0:c0", context("app_t")},
	} {
		tcp, pipe := listenAs(t, tc.asked, unix.AF_INET, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
		local, _ := listenAs(t, tc.asked, unix.AF_UNIX, &unix.SockaddrUnix{})
		for _, c := range []struct {
			what string
			fd   int
			want string
		}{
			{"a TCP listener", tcp, tc.made},
			{"a TCP connection", acceptOne(t, unix.AF_INET, tcp), tc.made},
			{"a unix listener", local, tc.made},
			{"a unix connection", acceptOne(t, unix.AF_UNIX, local), tc.unix},
			{"a pipe", pipe, context("kernel_t")},
		} {
			if got := labelOf(t, c.fd); got != c.want {
				t.Errorf("asked for %q: %s is %s, want %s", tc.asked, c.what, got, c.want)
			}
		}
	}
}

// listenAs makes a listener and one end of a pipe while the thread asks for
// sockets with a context.
func listenAs(t *testing.T, asked string, family int, at unix.Sockaddr) (listener, pipe int) {
	t.Helper()
	const attr = "/proc/thread-self/attr/sockcreate"
	if err := os.WriteFile(attr, []byte(asked), 0); err != nil {
		t.Fatal(err)
	}
	listener, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	var ends [2]int
	err = errors.Join(err, unix.Pipe2(ends[:], unix.O_CLOEXEC), os.WriteFile(attr, nil, 0))
	if err == nil {
		err = errors.Join(unix.Bind(listener, at), unix.Listen(listener, 1))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range []int{listener, ends[0], ends[1]} {
		t.Cleanup(func() { unix.Close(fd) })
	}
	return listener, ends[1]
}

// acceptOne connects to a listener as who runs the tests, and accepts it.
func acceptOne(t *testing.T, family, listener int) int {
	t.Helper()
	client, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(client) })
	addr, err := unix.Getsockname(listener)
	if err == nil {
		err = unix.Connect(client, addr)
	}
	if err != nil {
		t.Fatal(err)
	}
	fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// loopback brings lo up.
func loopback(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		t.Fatal(err)
	}
}

func labelOf(t *testing.T, fd int) string {
	t.Helper()
	buf := make([]byte, 256)
	n, err := unix.Fgetxattr(fd, "security.selinux", buf)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(string(buf[:n]), "\x00")
}
