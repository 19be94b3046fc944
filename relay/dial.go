package relay

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dialTime is how long a service may take to accept.
const dialTime = 10 * time.Second

// sockaddr is where d leads.
func (d Door) sockaddr() (family int, sa unix.Sockaddr, err error) {
	if p, ok := strings.CutPrefix(d.Address, "unix:"); ok {
		if p == "" || p[0] != '/' {
			return 0, nil, fmt.Errorf("relay: %q is no address", d.Address)
		}
		return unix.AF_UNIX, &unix.SockaddrUnix{Name: p}, nil
	}
	a, err := netip.ParseAddrPort(d.Address)
	switch {
	case err != nil:
		return 0, nil, fmt.Errorf("relay: %w", err)
	case a.Addr().Is4():
		return unix.AF_INET, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}, nil
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}, nil
}

// dial connects to the door's address.
func (d Door) dial() (*conn, error) {
	family, sa, err := d.sockaddr()
	if err != nil {
		return nil, err
	}
	if u, is := sa.(*unix.SockaddrUnix); is && d.NoLinks {
		node, err := lookUp(u.Name)
		if err != nil {
			return nil, err
		}
		defer unix.Close(node)
		sa = &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(node)}
	}
	by := time.Now().Add(dialTime)
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		c, err := connect(family, sa, by)
		// A unix socket whose queue is full does not let anybody wait in
		// non-blocking mode.
		if family != unix.AF_UNIX || !errors.Is(err, unix.EAGAIN) || time.Now().After(by) {
			return c, err
		}
		time.Sleep(wait)
	}
}

// lookUp finds the node at path, in which no step is a link. What is connected
// to is the node that was found, whatever has its name by then.
func lookUp(path string) (fd int, err error) {
	for {
		fd, err = unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case errors.Is(err, unix.ELOOP):
			err = errors.New("a link is on the way, and only the operator's lines may lead through one; name the path that it leads to")
		}
		return fd, err
	}
}

func connect(family int, sa unix.Sockaddr, by time.Time) (*conn, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	err = unix.Connect(fd, sa)
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		unix.Close(fd)
		return nil, err
	}
	c, cerr := newConn(fd, family)
	if cerr != nil {
		return nil, cerr
	}
	if err != nil {
		err = c.connected(by)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// connected waits for a connection in progress.
func (c *conn) connected(by time.Time) error {
	if err := c.file.SetWriteDeadline(by); err != nil {
		return err
	}
	var state error
	err := c.raw.Write(func(fd uintptr) bool {
		no, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && no != 0 {
			err = syscall.Errno(no)
		}
		if err != nil {
			state = err
			return true
		}
		_, err = unix.Getpeername(int(fd))
		return err == nil // else it is still in progress
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return unix.ETIMEDOUT
	}
	return errors.Join(err, state, c.file.SetWriteDeadline(time.Time{}))
}
