package testenv

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Mute is a FUSE file system of a user whose server never answers: whoever is let
// in waits. It is mounted for as long as the test runs.
type Mute struct {
	t      testing.TB
	dir    string
	server int    // -1: closed
	gone   bool   // unmounted
	number string // of the connection
}

// NewMute mounts one on dir for the user uid. everybody lets others in, as
// allow_other does; root is one of them.
func NewMute(t testing.TB, dir string, uid int, everybody bool) *Mute {
	t.Helper()
	Need(t, Root, FUSE)
	server, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0) // the runtime cannot poll it
	if err != nil {
		t.Fatal(err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%[2]d", server, uid)
	if everybody {
		options += ",allow_other"
	}
	if err := unix.Mount("mute", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		unix.Close(server)
		t.Fatalf("mount FUSE on %s: %v", dir, err)
	}
	m := &Mute{t: t, dir: dir, server: server}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == dir {
			_, m.number, _ = strings.Cut(f[2], ":")
		}
	}
	t.Cleanup(m.Close)
	return m
}

// Asked reports whether anybody waits for an answer.
func (m *Mute) Asked() bool {
	poll := []unix.PollFd{{Fd: int32(m.server), Events: unix.POLLIN}}
	buf := make([]byte, 1<<17)
	for {
		if n, err := unix.Poll(poll, 0); n == 0 || err != nil {
			return false
		}
		n, err := unix.Read(m.server, buf)
		if err != nil {
			return false
		}
		const opcode, initial = 4, 26 // FUSE_INIT, which the kernel asks by itself
		if n > opcode && buf[opcode] != initial {
			return true
		}
		if err := m.begin(buf); err != nil {
			m.t.Error(err)
			return false
		}
	}
}

// Begin has the kernel go on to ask, for who calls Waits and not Asked.
func (m *Mute) Begin() {
	buf := make([]byte, 1<<17)
	if _, err := unix.Read(m.server, buf); err != nil {
		m.t.Error(err)
		return
	}
	if err := m.begin(buf); err != nil {
		m.t.Error(err)
	}
}

// Waits is Asked of a server that does not even take the question: for a request
// that it has taken a thread waits even if it is killed (request_wait_answer of
// fs/fuse/dev.c). Begin comes first.
func (m *Mute) Waits() bool {
	poll := []unix.PollFd{{Fd: int32(m.server), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0
}

// begin answers FUSE_INIT, so that the kernel goes on to ask.
func (m *Mute) begin(asked []byte) error {
	answer := make([]byte, 16+64) // fuse_out_header, fuse_init_out
	answer[0] = byte(len(answer))
	copy(answer[8:16], asked[8:16])           // the number of the request
	answer[16], answer[20] = 7, 31            // the version of the protocol
	copy(answer[16+20:], []byte{0, 16, 0, 0}) // max_write 4096
	_, err := unix.Write(m.server, answer)
	return err
}

// Close ends the server, so that whoever waits gets an error, and unmounts.
func (m *Mute) Close() {
	if m.gone {
		return
	}
	m.gone = true
	m.Die()
	if err := unix.Unmount(m.dir, unix.MNT_DETACH); err != nil {
		m.t.Error(err)
	}
}

// Die ends the server: whoever waits gets an error, and so does who comes later.
func (m *Mute) Die() {
	if m.server < 0 {
		return
	}
	if n, err := strconv.Atoi(m.number); err == nil {
		_ = os.WriteFile(fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", n), []byte("1"), 0) // where that is mounted
	}
	unix.Close(m.server)
	m.server = -1
}
