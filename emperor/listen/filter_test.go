package listen

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
)

// TestOwnPortAlone: a connection that its tenant takes apart and makes a
// listener of, on a port that the kernel picks, hears nothing; nor can the
// filter be taken off. The control is the same without the filter.
func TestOwnPortAlone(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", "[::]:0"} {
		t.Run(address, func(t *testing.T) {
			s := NewRegistry().Set("a")
			defer s.Close()
			c := apply(t, s, wanting(t, vassalFile(t, "a.ini"), address))
			c.Commit()
			b := c.Bound()[0]
			stray := strayFrom(t, int(b.File.Fd()))
			none := unix.SockFprog{}
			for name, err := range map[string]error{
				"detach": unix.SetsockoptInt(stray, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0),
				"attach": unix.SetsockoptSockFprog(stray, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &none),
				"unlock": unix.SetsockoptInt(stray, unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 0),
			} {
				if err == nil {
					t.Errorf("%s: no error", name)
				}
			}
			if heard(t, stray) {
				t.Error("the stray listener was connected to")
			}
			if !dials(portAt(t, int(b.File.Fd())).String()) {
				t.Error("the listener itself hears nothing")
			}
		})
	}
	t.Run("control", func(t *testing.T) {
		ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		f, err := ln.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if !heard(t, strayFrom(t, int(f.Fd()))) {
			t.Error("without the filter the stray listener hears nothing: the test shows nothing")
		}
	})
}

// TestOnePortForStrays: of however many connections that are taken apart one at most
// gets a port of the host's, whosever they are.
func TestOnePortForStrays(t *testing.T) {
	testenv.Need(t, testenv.PortRange)
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(address, func(t *testing.T) {
			s := NewRegistry().Set("a")
			defer s.Close()
			c := apply(t, s, wanting(t, vassalFile(t, "a.ini"), address))
			c.Commit()
			ln := int(c.Bound()[0].File.Fd())
			got := 0
			for range 3 {
				fd := apart(t, ln)
				switch err := unix.Listen(fd, 1); {
				case err == nil:
					got++
					continue
				case !errors.Is(err, unix.EADDRINUSE):
					t.Fatal(err)
				}
				if anyPort(t, fd); unix.Listen(fd, 1) != nil {
					t.Error("it is not the range that keeps it from listening")
				}
			}
			if got > 1 {
				t.Errorf("%d strays listen", got)
			}
		})
	}
}

// portAt is where on loopback the inet socket fd is connected to.
func portAt(t *testing.T, fd int) netip.AddrPort {
	t.Helper()
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), portOf(sa))
	if sa, is := sa.(*unix.SockaddrInet6); is && sa.Addr == netip.IPv6Loopback().As16() {
		at = netip.AddrPortFrom(netip.IPv6Loopback(), at.Port())
	}
	return at
}

// strayFrom makes a listener without bind of a connection accepted from ln.
func strayFrom(t *testing.T, ln int) int {
	t.Helper()
	fd := apart(t, ln)
	anyPort(t, fd) // the one may be taken
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	if portAt(t, fd).Port() == portAt(t, ln).Port() {
		t.Fatal("the stray listener has the port of the other")
	}
	return fd
}

// anyPort undoes onePort, which no vassal may.
func anyPort(t *testing.T, fd int) {
	t.Helper()
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, ipLocalPortRange, 0); err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		t.Fatal(err)
	}
}

// apart accepts a connection from ln and takes it apart.
func apart(t *testing.T, ln int) int {
	t.Helper()
	c, err := net.Dial("tcp", portAt(t, ln).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := unix.SetNonblock(ln, false); err != nil {
		t.Fatal(err)
	}
	fd, _, err := unix.Accept(ln)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	unspec := unix.RawSockaddrInet6{Family: unix.AF_UNSPEC}
	if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), unix.SizeofSockaddrInet6); errno != 0 {
		t.Fatal(errno)
	}
	return fd
}

// heard connects to fd, and tells whether that succeeds or what is sent is
// dropped there.
func heard(t *testing.T, fd int) bool {
	t.Helper()
	done := make(chan error, 1)
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	to := portAt(t, fd).String()
	go func() {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", to)
		if err == nil {
			c.Close()
		}
		done <- err
	}()
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			return err == nil
		case <-time.After(5 * time.Millisecond):
		}
		if drops(t, fd) > 0 {
			stop()
			return <-done == nil
		}
	}
}

// drops is how many packets a socket has dropped (SK_MEMINFO_DROPS).
func drops(t *testing.T, fd int) uint32 {
	t.Helper()
	var info [9]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	return info[8]
}
