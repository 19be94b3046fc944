package relay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/vassal/mail"
)

const patience = 30 * time.Second

// rig is a server with one door, as Main would run it.
type rig struct {
	t       *testing.T
	in      net.Listener // the door inside
	said    *bytes.Buffer
	channel *os.File
	end     chan os.Signal
	done    chan error
}

// open opens a door to address, of the same kind.
func open(t *testing.T, address string, conns int) *rig {
	t.Helper()
	return openDoor(t, Door{Address: address}, conns, nil)
}

func openDoor(t *testing.T, door Door, conns int, counts *meter) *rig {
	t.Helper()
	address := door.Address
	r := &rig{t: t, said: &bytes.Buffer{}, end: make(chan os.Signal, 1), done: make(chan error, 1)}
	var err error
	if strings.HasPrefix(address, "unix:") {
		r.in, err = net.Listen("unix", filepath.Join(t.TempDir(), "in"))
	} else {
		r.in, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.in.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	s, err := newServer(&Config{Doors: []Door{door}, Conns: conns}, []int{fd}, r.said)
	if err != nil {
		t.Fatal(err)
	}
	s.meter = counts
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	r.channel = os.NewFile(uintptr(pair[0]), "channel")
	theirs := os.NewFile(uintptr(pair[1]), "channel")
	go func() { r.done <- s.run(theirs, r.end); theirs.Close() }()
	buf := make([]byte, 64)
	if n, err := r.channel.Read(buf); err != nil || string(buf[:n]) != Ready {
		t.Fatalf("%q %v", buf[:n], err)
	}
	t.Cleanup(r.finish)
	return r
}

// finish ends the server, which waits for its connections.
func (r *rig) finish() {
	if r.channel == nil {
		return
	}
	r.end <- Finish
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Error(err)
		}
	case <-time.After(patience):
		r.t.Error("it does not finish")
	}
	r.channel.Close()
	r.in.Close()
	r.channel = nil
}

func (r *rig) dial() net.Conn {
	r.t.Helper()
	c, err := net.Dial(r.in.Addr().Network(), r.in.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// service serves connections at address until the test ends.
func service(t *testing.T, network string, serve func(net.Conn)) (address string, stop func()) {
	t.Helper()
	at := "127.0.0.1:0"
	if network == "unix" {
		at = filepath.Join(t.TempDir(), "service")
	}
	return serviceAt(t, network, at, serve)
}

func serviceAt(t *testing.T, network, at string, serve func(net.Conn)) (string, func()) {
	t.Helper()
	l, err := net.Listen(network, at)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				serve(c)
			})
		}
	})
	stop := sync.OnceFunc(func() { l.Close(); all.Wait() })
	t.Cleanup(stop)
	if network == "unix" {
		return "unix:" + at, stop
	}
	return l.Addr().String(), stop
}

func echo(c net.Conn) {
	io.Copy(c, c)
	c.(interface{ CloseWrite() error }).CloseWrite()
}

func each(t *testing.T, test func(t *testing.T, network string)) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			testenv.Leaks(t)
			test(t, network)
		})
	}
}

// The end of one direction passes, and the other goes on; much data waits for
// its reader.
func TestHalfClose(t *testing.T) {
	each(t, func(t *testing.T, network string) {
		addr, _ := service(t, network, echo)
		r := open(t, addr, 10)
		text := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB
		c := r.dial()
		go func() {
			c.Write(text)
			c.(interface{ CloseWrite() error }).CloseWrite()
		}()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, text) {
			t.Errorf("%d bytes came back, %v", len(got), err)
		}
	})
}

// The service ends first, and what the client says after that arrives.
func TestServiceEndsFirst(t *testing.T) {
	each(t, func(t *testing.T, network string) {
		heard := make(chan string, 1)
		addr, _ := service(t, network, func(c net.Conn) {
			io.WriteString(c, "bye")
			c.(interface{ CloseWrite() error }).CloseWrite()
			b, err := io.ReadAll(c)
			heard <- fmt.Sprint(string(b), err)
		})
		c := open(t, addr, 10).dial()
		if got, err := io.ReadAll(c); string(got) != "bye" || err != nil {
			t.Errorf("%q %v", got, err)
		}
		io.WriteString(c, "after you")
		c.Close()
		if got := <-heard; got != "after you<nil>" {
			t.Error(got)
		}
	})
}

// A client that goes without reading has said what it said, though the service
// is slow and speaks to it meanwhile. (Over TCP the client's own kernel takes
// back what the relay has not read.)
func TestLastWords(t *testing.T) {
	testenv.Leaks(t)
	heard, gone := make(chan int, 1), make(chan struct{})
	addr, _ := service(t, "unix", func(c net.Conn) {
		io.WriteString(c, "a greeting that nobody reads")
		<-gone
		io.WriteString(c, "more that nobody reads")
		time.Sleep(50 * time.Millisecond) // the relay finds out that nobody does
		n, _ := io.Copy(io.Discard, c)
		heard <- int(n)
	})
	c := open(t, addr, 10).dial()
	if _, err := c.Read(make([]byte, 1)); err != nil { // the greeting is there
		t.Fatal(err)
	}
	const size = 300 << 10 // more than waits in the service's queue, less than in both and the relay
	if _, err := c.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	c.Close() // with the rest of the greeting unread: a reset
	close(gone)
	if got := <-heard; got != size {
		t.Errorf("%d of %d bytes arrived", got, size)
	}
}

func TestRefused(t *testing.T) {
	each(t, func(t *testing.T, network string) {
		addr, stop := service(t, network, echo)
		stop()
		r := open(t, addr, 10)
		c, err := net.Dial(r.in.Addr().Network(), r.in.Addr().String())
		if err == nil { // else the reset was faster
			c.SetDeadline(time.Now().Add(patience))
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if network == "tcp" && !errors.Is(err, unix.ECONNRESET) || network == "unix" && err != io.EOF {
			t.Errorf("the client sees %v", err)
		}
		// A service that comes back is found.
		at := strings.TrimPrefix(addr, "unix:")
		if network == "unix" {
			os.Remove(at)
		}
		serviceAt(t, network, at, echo)
		c = r.dial()
		io.WriteString(c, "x")
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		c.Close()
		r.finish()
		if want := "liege: connect " + addr + ": "; !strings.HasPrefix(r.said.String(), want) || strings.Count(r.said.String(), "\n") != 1 {
			t.Errorf("it said %q", r.said)
		}
	})
}

// A service that breaks is no service that ends.
func TestReset(t *testing.T) {
	testenv.Leaks(t)
	addr, _ := service(t, "tcp", func(c net.Conn) {
		c.Read(make([]byte, 1))
		c.(*net.TCPConn).SetLinger(0)
	})
	c := open(t, addr, 10).dial()
	io.WriteString(c, "x")
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the client sees %v", err)
	}
}

// More than the limit wait; none is lost.
func TestLimit(t *testing.T) {
	each(t, func(t *testing.T, network string) {
		var mu sync.Mutex
		now, most := 0, 0
		addr, stop := service(t, network, func(c net.Conn) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			io.Copy(c, c)
			mu.Lock()
			now-- // before the relay can know that it is over
			mu.Unlock()
		})
		const limit = 5
		r := open(t, addr, limit)
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				c := r.dial()
				io.WriteString(c, "x")
				if _, err := c.Read(make([]byte, 1)); err != nil {
					t.Error(err)
				}
				c.Close()
			})
		}
		all.Wait()
		r.finish()
		stop()
		// One slot is the door's own while it waits.
		if most > limit+1 || most < 2 {
			t.Errorf("%d at once, the limit is %d", most, limit)
		}
	})
}

// The end of the channel ends nothing.
func TestEmperorGone(t *testing.T) {
	testenv.Leaks(t)
	addr, _ := service(t, "tcp", echo)
	r := open(t, addr, 10)
	r.channel.Close()
	c := r.dial()
	io.WriteString(c, "x")
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	c.Close()
}

func FuzzDecode(f *testing.F) {
	good, err := (&Config{Doors: []Door{{Address: "127.0.0.1:5432"}, {Address: "unix:/run/x", Mail: &mail.Caps{Rate: mail.Rate{N: 1, Per: 1}}}}, Meter: true, Conns: 5, Filter: []unix.SockFilter{{Code: 6}}}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"doors":[{"address":"x"}],"conns":1}`))
	f.Add([]byte(`{"conns":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Decode(b)
		if err != nil {
			return
		}
		if _, err := c.Encode(); err != nil && len(b) < MaxConfig/8 {
			t.Errorf("%q: %v", b, err)
		}
	})
}

// TestNoLinks: a link of a tenant's on the way to a service does not count as
// the path that is written; anybody else's does.
func TestNoLinks(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "run"), 0o755), os.Symlink("run", filepath.Join(dir, "by")), os.Symlink("s.sock", filepath.Join(dir, "run/last"))); err != nil {
		t.Fatal(err)
	}
	service, err := net.Listen("unix", filepath.Join(dir, "run/s.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	for _, tc := range []struct {
		path    string
		noLinks bool
		reached bool
	}{
		{"run/s.sock", true, true},
		{"by/s.sock", true, false},
		{"run/last", true, false},
		{"by/s.sock", false, true},
		{"run/last", false, true},
	} {
		c, err := Door{Address: "unix:" + filepath.Join(dir, tc.path), NoLinks: tc.noLinks}.dial()
		if (err == nil) != tc.reached || err != nil && !strings.Contains(err.Error(), "a link is on the way") {
			t.Errorf("%+v: %v", tc, err)
		}
		if err == nil {
			c.close()
		}
	}
	if _, err := (Door{Address: "unix:" + filepath.Join(dir, "none"), NoLinks: true}).dial(); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no node: %v", err)
	}
}
