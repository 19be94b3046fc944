package direct

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// connected is a pair of connected sockets, one of them a Conn too.
func connected(t *testing.T) (own net.Conn, c *Conn, peer *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		ends[i], err = net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ends[i].Close() })
	}
	if c = New(ends[0]); c == nil {
		t.Fatal("it is a socket")
	}
	return ends[0], c, ends[1].(*net.UnixConn)
}

// What is sent arrives whole and in order, whatever the buffers hold: small
// writes, which wait for room, and those that are the net package's.
func TestWhole(t *testing.T) {
	for _, size := range []int{1000, most, most + 1} {
		_, c, peer := connected(t)
		want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB: several times what the kernel keeps
		go func() {
			for rest := want; len(rest) > 0; {
				n := min(len(rest), size)
				if _, err := c.Write(rest[:n]); err != nil {
					t.Errorf("%v", err)
					peer.Close()
					return
				}
				rest = rest[n:]
			}
		}()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("by %d: %v", size, err)
		}
		go func() { peer.Write(want); peer.CloseWrite() }()
		if all, err := io.ReadAll(c); err != nil || !bytes.Equal(all, want) {
			t.Errorf("%d of %d bytes, %v", len(all), len(want), err)
		}
	}
}

// A wait ends as one of the connection itself does.
func TestEnds(t *testing.T) {
	full := bytes.Repeat([]byte("x"), most)
	for _, c := range []struct {
		name  string
		meet  func(own net.Conn, peer *net.UnixConn)
		read  error
		write error
	}{
		{"a deadline", func(own net.Conn, _ *net.UnixConn) { own.SetDeadline(time.Now().Add(50 * time.Millisecond)) },
			os.ErrDeadlineExceeded, os.ErrDeadlineExceeded},
		{"closed here", func(own net.Conn, _ *net.UnixConn) { own.Close() }, net.ErrClosed, net.ErrClosed},
		{"ended there", func(_ net.Conn, peer *net.UnixConn) { peer.CloseRead(); peer.CloseWrite() }, io.EOF, syscall.EPIPE},
	} {
		t.Run(c.name, func(t *testing.T) {
			testenv.Leaks(t)
			own, d, peer := connected(t)
			done := make(chan error, 2)
			go func() { _, err := d.Read(make([]byte, 1)); done <- err }()
			go func() {
				var err error
				for err == nil { // until the buffers are full
					_, err = d.Write(full)
				}
				done <- err
			}()
			time.Sleep(10 * time.Millisecond) // most often both wait then; the outcome is the same
			c.meet(own, peer)
			first, second := <-done, <-done
			if errors.Is(first, c.write) && !errors.Is(first, c.read) {
				first, second = second, first
			}
			if !errors.Is(first, c.read) || !errors.Is(second, c.write) {
				t.Errorf("read: %v, write: %v", first, second)
			}
		})
	}
}

// Silent tells whether anything is there, and takes nothing.
func TestSilent(t *testing.T) {
	_, c, peer := connected(t)
	silent := func() (out bool) {
		if err := c.Raw().Control(func(fd uintptr) { out = Silent(fd) }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if !silent() {
		t.Error("nothing has come")
	}
	peer.Write([]byte("a"))
	b := make([]byte, 2)
	if silent() {
		t.Error("a byte has come")
	} else if n, err := c.Read(b); n != 1 || err != nil || b[0] != 'a' {
		t.Errorf("%d %v %q", n, err, b)
	}
	peer.Close()
	if silent() {
		t.Error("it has ended")
	}
}

// Nothing is allocated for a request.
func TestAllocates(t *testing.T) {
	_, c, peer := connected(t)
	b := []byte("request")
	if n := testing.AllocsPerRun(100, func() {
		c.Write(b)
		peer.Read(b)
		peer.Write(b)
		c.Read(b)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// Other connections than sockets have none.
func TestNoSocket(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if New(a) != nil {
		t.Error("a pipe within the process")
	}
}
