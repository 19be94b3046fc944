package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// pair is a control channel and the core's end of it.
func pair(t *testing.T) (*control, int) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newControl(p[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, p[1]
}

func send(t *testing.T, fd int, text string) {
	t.Helper()
	if err := unix.Send(fd, []byte(text), 0); err != nil {
		t.Fatal(err)
	}
}

// What a core may send, and what ends its generation.
func TestReceive(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		ok   bool
	}{
		"hello":           {`{"v":1,"type":"hello"}`, true},
		"failed":          {`{"v":1,"type":"failed","reason":{"severity":"error","code":"import-error","message":"no"}}`, true},
		"largest":         {`{"v":1,"type":"hello"` + strings.Repeat(" ", vassal.MaxMessage-22) + `}`, true},
		"too large":       {`{"v":1,"type":"hello"` + strings.Repeat(" ", vassal.MaxMessage-21) + `}`, false},
		"no reason":       {`{"v":1,"type":"failed"}`, false},
		"no counts":       {`{"v":1,"type":"counters"}`, false},
		"version":         {`{"v":2,"type":"hello"}`, false},
		"type":            {`{"v":1,"type":"verified"}`, false},
		"two":             {`{"v":1,"type":"hello"}{"v":1,"type":"hello"}`, false},
		"not JSON at all": {"hello", false},
	} {
		t.Run(name, func(t *testing.T) {
			c, fd := pair(t)
			defer unix.Close(fd)
			send(t, fd, tt.text)
			_, err := c.receive()
			if (err == nil) != tt.ok || err != nil && !errors.Is(err, errBroken) {
				t.Errorf("got %v, want ok %v", err, tt.ok)
			}
		})
	}
}

// A core may not make the Emperor work: more than the rate ends it, and so does
// a descriptor that it sends along.
func TestReceiveAbuse(t *testing.T) {
	c, fd := pair(t)
	hello := `{"v":1,"type":"hello"}`
	for range vassal.MaxMessageRate {
		send(t, fd, hello)
		if _, err := c.receive(); err != nil {
			t.Fatal(err)
		}
	}
	send(t, fd, hello)
	if _, err := c.receive(); !errors.Is(err, errBroken) {
		t.Errorf("one too many in a second: %v", err)
	}
	before := fdCount(t)
	c2, fd2 := pair(t)
	if err := unix.Sendmsg(fd2, []byte(hello), unix.UnixRights(0), nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := c2.receive(); !errors.Is(err, errBroken) {
		t.Errorf("a descriptor: %v", err)
	}
	unix.Close(fd2)
	if _, err := c2.receive(); !errors.Is(err, io.EOF) {
		t.Errorf("closed: %v", err)
	}
	c2.Close()
	if after := fdCount(t); after != before {
		t.Errorf("descriptors: %d before, %d after", before, after)
	}
	unix.Close(fd)
}

// A core that doesn't read does not stop the Emperor.
func TestSendNeverWaits(t *testing.T) {
	c, fd := pair(t)
	defer unix.Close(fd)
	var err error
	for i := 0; err == nil && i < 1e6; i++ {
		err = c.send(vassal.Alone)
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Errorf("a full channel: %v", err)
	}
}

func fdCount(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

// What a core claims is shown bounded, harmless, and never as worse or milder
// than what it may say.
func TestClaims(t *testing.T) {
	in := &instance{}
	many := make(vassal.Problems, maxClaims+10)
	for i := range many {
		many[i] = vassal.Problem{Severity: vassal.Error, Code: "made-up", Message: fmt.Sprintf("\x1b[2J%d\nline", i)}
	}
	got := in.claims(many, vassal.Warning)
	if len(got) != maxClaims || got[0].Severity != vassal.Warning || got[0].Code != vassal.CodeStartFailed || got[0].Message != "?[2J0\nline" {
		t.Errorf("%d claims, first %+v", len(got), got[0])
	}
	got = in.claims(vassal.Problems{{Severity: vassal.Note, Code: vassal.CodeImportError}}, vassal.Error)
	if got[0].Severity != vassal.Error || got[0].Code != vassal.CodeImportError {
		t.Errorf("a reason: %+v", got[0])
	}
}

func FuzzMessage(f *testing.F) {
	for _, m := range []vassal.Message{
		{V: 1, Type: vassal.Hello}, {V: 1, Type: vassal.Counters, Counts: &vassal.Counts{Requests: 3}},
		{V: 1, Type: vassal.Failed, Reason: &vassal.Problem{Message: "no"}},
	} {
		b, err := json.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err != nil {
			if !errors.Is(err, errBroken) {
				t.Errorf("%v", err)
			}
			return
		}
		if m.V != vassal.MessageVersion || m.Type == vassal.Failed && m.Reason == nil || m.Type == vassal.Counters && m.Counts == nil {
			t.Errorf("accepted %q", b)
		}
	})
}

// A core that fails over and over again does not fill the Emperor's memory.
func TestFailedAgainAndAgain(t *testing.T) {
	in := &instance{}
	verified, ready := true, false
	for range 10 * maxClaims {
		m := vassal.Message{V: 1, Type: vassal.Failed, Reason: &vassal.Problem{Message: "no"}}
		if err := in.obey(m, nil, &verified, &ready); err != nil {
			t.Fatal(err)
		}
	}
	if len(in.said) != maxClaims {
		t.Errorf("%d reasons kept, want %d", len(in.said), maxClaims)
	}
}
