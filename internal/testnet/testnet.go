// Package testnet is an internet for tests: network namespaces that know only
// each other.
package testnet

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Internet is a host's network and what that takes for the internet.
type Internet struct {
	t     testing.TB
	Host  *os.File // of New: a namespace of its own
	World *os.File
}

// The host's addresses, and its next hop's.
const (
	HostAt  = "203.0.113.1"
	Host6At = "2001:db8::1"
	hopAt   = "203.0.113.2"
	hop6At  = "2001:db8::2"
)

// New makes both namespaces. The world has these addresses. They are gone when
// their descriptors are closed, at the end of the test, and nobody is in them.
func New(t testing.TB, addresses ...string) *Internet {
	t.Helper()
	w := &Internet{t: t, Host: newNetwork(t)}
	w.In(w.Host, func() error { return linkUp("lo") })
	w.connect(addresses)
	return w
}

// Beside makes an internet for this machine itself, which must have no other.
func Beside(t testing.TB, addresses ...string) *Internet {
	t.Helper()
	w := &Internet{t: t}
	var err error
	if w.Host, err = os.Open("/proc/self/ns/net"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Host.Close() })
	w.connect(addresses)
	t.Cleanup(func() {
		l, err := netlink.LinkByName("out")
		if err == nil {
			err = netlink.LinkDel(l)
		}
		if err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *Internet) connect(addresses []string) {
	w.t.Helper()
	w.World = newNetwork(w.t)
	w.In(w.Host, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "out"
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "in", PeerNamespace: netlink.NsFd(w.World.Fd())})
	})
	w.In(w.World, func() error { return errors.Join(linkUp("lo"), own("in", hopAt+"/24", hop6At+"/64"), linkUp("in")) })
	w.In(w.Host, func() error {
		return errors.Join(own("out", HostAt+"/24", Host6At+"/64"), linkUp("out"), awaitUp("out"), through("out", hopAt), through("out", hop6At))
	})
	w.In(w.World, func() error {
		err := awaitUp("in")
		for _, a := range addresses {
			err = errors.Join(err, Own("lo", a))
		}
		return err
	})
}

// newNetwork makes a network namespace that lives as long as its descriptor.
func newNetwork(t testing.TB) *os.File {
	t.Helper()
	var f *os.File
	err := onThread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			f, err = os.Open("/proc/thread-self/ns/net")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func onThread(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and ends with the goroutine
		done <- do()
	}()
	return <-done
}

// Inside runs do in a network namespace; nil: this one.
func Inside(ns *os.File, do func() error) error {
	if ns == nil {
		return do()
	}
	return onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return do()
	})
}

// In runs do, which must succeed, in a network namespace.
func (w *Internet) In(ns *os.File, do func() error) {
	w.t.Helper()
	if err := Inside(ns, do); err != nil {
		w.t.Fatal(err)
	}
}

// Own gives an interface of the calling thread's namespace an address more.
func Own(name, address string) error {
	bits := "/32"
	if net.ParseIP(address).To4() == nil {
		bits = "/128"
	}
	return own(name, address+bits)
}

func linkUp(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// awaitUp waits until a link has a carrier and its IPv6 addresses are usable.
func awaitUp(name string) error {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if l, err := netlink.LinkByName(name); err != nil || l.Attrs().OperState == netlink.OperUp {
			return err
		}
	}
	return fmt.Errorf("%s has no carrier", name)
}

func own(name string, addresses ...string) error {
	l, err := netlink.LinkByName(name)
	for _, text := range addresses {
		var a *netlink.Addr
		if err == nil {
			a, err = netlink.ParseAddr(text)
		}
		if err == nil {
			a.Flags = unix.IFA_F_NODAD
			err = netlink.AddrAdd(l, a)
		}
	}
	return err
}

// through makes hop the way to everything.
func through(name, hop string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(hop)})
}

// Serve answers each connection with who the client is and then what it says,
// until the test ends.
func (w *Internet) Serve(ns *os.File, at string) {
	w.t.Helper()
	var ln net.Listener
	w.In(ns, func() (err error) { ln, err = net.Listen("tcp", at); return err })
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				fmt.Fprintf(c, "%s ", host)
				_, _ = io.Copy(struct{ io.Writer }{c}, c) // not by splice, whose pipes are kept
			})
		}
	})
	w.t.Cleanup(func() { ln.Close(); all.Wait() })
}

// Dial connects from a namespace.
func (w *Internet) Dial(ns *os.File, to string) (c net.Conn, err error) {
	err = Inside(ns, func() (err error) { c, err = net.DialTimeout("tcp", to, 20*time.Second); return err })
	return c, err
}

// Ask connects from a namespace, says nothing, and returns what it hears.
func (w *Internet) Ask(ns *os.File, to string) (string, error) {
	c, err := w.Dial(ns, to)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return Hear(c)
}

// Hear says that nothing more comes, and returns all that is heard.
func Hear(c net.Conn) (string, error) {
	if err := errors.Join(c.SetDeadline(time.Now().Add(30*time.Second)), c.(*net.TCPConn).CloseWrite()); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}
