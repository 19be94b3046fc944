package sandbox

import (
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// fakeBuffers says how many MiB the kernel takes of what nobody reads.
func fakeBuffers() error {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	sent, piece := 0, make([]byte, 64<<10)
	for range 30 {
		c, err := net.Dial("tcp4", ln.Addr().String())
		if err != nil {
			return err
		}
		peer, err := ln.Accept()
		if err != nil {
			return err
		}
		for _, end := range []net.Conn{c, peer} {
			defer end.Close()
			if err := end.SetDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
				return err
			}
			n, _ := io.Copy(end, forever(piece)) // until none is taken
			sent += int(n)
		}
	}
	fmt.Println(sent >> 20)
	return nil
}

// forever reads the same again and again.
type forever []byte

func (f forever) Read(b []byte) (int, error) { return copy(b, f), nil }

// What connections hold counts too: the kernel has so much of it for the whole host.
func TestMemoryOfSockets(t *testing.T) {
	r := newRig(t)
	spec := r.spec("buffers", 1, "buffers")
	spec.Limits.MemoryMax = 64 << 20
	b := r.start(spec)
	b.wait()
	mib, err := strconv.Atoi(strings.TrimSpace(b.output()))
	if err != nil || mib < 1 || mib > 100 {
		t.Errorf("connections of a vassal with 64 MiB hold %q", b.output())
	}
	// The negative control.
	spec = r.spec("free", 1, "buffers")
	b = r.start(spec)
	b.wait()
	if mib, err := strconv.Atoi(strings.TrimSpace(b.output())); err != nil || mib < 150 {
		t.Errorf("without a limit they hold %q: the test shows nothing", b.output())
	}
}

// What ended with a failure after pids-max had refused it something says so.
func TestExitWithoutPids(t *testing.T) {
	for code, want := range map[int]string{0: "", 2: "exited with status 2, after pids-max had refused it 4 processes or threads"} {
		cmd := exec.Command("/bin/sh", "-c", fmt.Sprintf("exit %d", code))
		_ = cmd.Run() // the state says it
		if e := (&Sandbox{state: cmd.ProcessState}).describe(Usage{PidsRefused: 4}); e.Reason != want || e.Code != code {
			t.Errorf("exit %d: %+v", code, e)
		}
	}
}
