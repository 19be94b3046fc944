package channel

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// pair is a control channel and the core's end of it.
func pair(t *testing.T) (*Channel, int) {
	t.Helper()
	c, far, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	fd, err := unix.FcntlInt(far.Fd(), unix.F_DUPFD_CLOEXEC, 0) // tests close it by number
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, fd
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
		"certificates":    {`{"v":1,"type":"certificates","notes":[{"severity":"warning","code":"bad-certificate","message":"no"}]}`, true},
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
			_, err := c.Receive()
			if (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrBroken) {
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
		if _, err := c.Receive(); err != nil {
			t.Fatal(err)
		}
	}
	send(t, fd, hello)
	if _, err := c.Receive(); !errors.Is(err, ErrBroken) {
		t.Errorf("one too many in a second: %v", err)
	}
	before := fdCount(t)
	c2, fd2 := pair(t)
	if err := unix.Sendmsg(fd2, []byte(hello), unix.UnixRights(0), nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := c2.Receive(); !errors.Is(err, ErrBroken) {
		t.Errorf("a descriptor: %v", err)
	}
	unix.Close(fd2)
	if _, err := c2.Receive(); !errors.Is(err, io.EOF) {
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
		err = c.Send(vassal.Alone)
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
			if !errors.Is(err, ErrBroken) {
				t.Errorf("%v", err)
			}
			return
		}
		if m.V != vassal.MessageVersion || m.Type == vassal.Failed && m.Reason == nil || m.Type == vassal.Counters && m.Counts == nil {
			t.Errorf("accepted %q", b)
		}
	})
}

// TestEnd: whoever else holds the end of a core that is gone holds up nobody, and
// what it had said is read.
func TestEnd(t *testing.T) {
	c, fd := pair(t)
	defer unix.Close(fd)
	send(t, fd, `{"v":1,"type":"hello"}`)
	if err := c.End(time.Second); err != nil {
		t.Fatal(err)
	}
	if m, err := c.Receive(); err != nil || m.Type != vassal.Hello {
		t.Errorf("%v, %v; want what is in the queue", m, err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := c.Receive()
		got <- err
	}()
	select {
	case err := <-got:
		if !errors.Is(err, io.EOF) {
			t.Errorf("%v, want the end", err)
		}
	case <-time.After(time.Minute):
		t.Error("it still waits")
	}
}
