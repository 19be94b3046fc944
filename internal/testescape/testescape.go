// Package testescape is the attack of e2e/testdata/hostilecore on the network of
// the host, for the tests that start it under an Emperor: one of their own, and
// the one that systemd started under SELinux.
package testescape

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// Secret is what only the host may read.
const Secret = "only-for-the-host"

// beyond is an address where clouds have what is secret, at a port to which
// SELinux lets an app connect: the guard alone stands before it.
const beyond = "169.254.169.254:25432"

// Bait is a server on the host's loopback that tells the secret.
func Bait(t testing.TB, at string) string {
	t.Helper()
	ln, err := net.Listen("tcp4", at)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, Secret) // who asked sees whether it came
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

// Told reports whether the bait told its secret, or somebody else answered.
func Told(said string) bool {
	return strings.Contains(said, Secret) || strings.Contains(said, "connected")
}

// Attack is what the core shall do (its file "attack") to reach the bait.
func Attack(bait string) string { return "escape " + bait + " " + beyond }

// Over reports whether the core has said all that it will, or enough.
func Over(said string) bool { return strings.Contains(said, "attack is over") || Told(said) }

// Poke connects to the core's listener, which it waits for, and does not mind
// what becomes of the connection.
func Poke(t testing.TB, addr string) {
	t.Helper()
	c, err := net.Dial("tcp4", addr)
	if errors.Is(err, syscall.ECONNRESET) {
		return // accepted, and taken apart at once
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
}

// Guarded expects of what the core said that the guard kept it in with all that
// it was given. EPERM is the guard's: SELinux says EACCES.
func Guarded(t testing.TB, said, bait string) {
	t.Helper()
	if Told(said) {
		t.Errorf("the tenant got out:\n%s", said)
	}
	const refused = ": operation not permitted"
	wants(t, "", said,
		"accepted domain 2 type 1 to "+bait+refused,
		"accepted domain 2 type 1 to "+beyond+refused,
		"listener domain 2 type 1 to "+bait+refused,
		"listener domain 2 type 1 to "+beyond+refused,
		"accepted domain 2 type 1 to a port of its choice"+refused,
		"fresh domain 2 type 1 to "+bait+": connection refused", // its own lo
		"fresh domain 2 type 1 to "+beyond+": network is unreachable",
	)
	if strings.Contains(said, "domain 1 type 2") {
		t.Errorf("the core was given a unix datagram socket, with which it reaches the host's abstract names:\n%s", said)
	}
}

// Unguarded is the negative control: the same program in a network of its own,
// with a listener that no guard has seen, gets out.
func Unguarded(t testing.TB, core, bait string) {
	t.Helper()
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
	var out bytes.Buffer
	cmd := exec.Command(core, "--bare", "escape "+bait)
	cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = []*os.File{f}, &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	Poke(t, ln.Addr().String())
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	wants(t, "without the guard: ", out.String(),
		"accepted domain 2 type 1 to a port of its choice: bound",
		"accepted domain 2 type 1 to "+bait+": connected: "+Secret,
		"listener domain 2 type 1 to "+bait+": connected: "+Secret,
		"fresh domain 2 type 1 to "+bait+": network is unreachable",
	)
}

func wants(t testing.TB, when, said string, all ...string) {
	t.Helper()
	for _, want := range all {
		if !strings.Contains(said, want) {
			t.Errorf("%swant %q in\n%s", when, want, said)
		}
	}
}
