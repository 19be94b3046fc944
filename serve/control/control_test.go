package control

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testenv"
	"liege/vassal"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// pair returns a channel and the other end of it.
func pair(t *testing.T, kind int) (*Channel, *os.File, error) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, kind|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	other := os.NewFile(uintptr(fds[1]), "other")
	t.Cleanup(func() { other.Close() })
	c, err := Open(os.NewFile(uintptr(fds[0]), "control"))
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, other, err
}

func TestSend(t *testing.T) {
	testenv.Leaks(t)
	c, other, err := pair(t, syscall.SOCK_SEQPACKET)
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 20_000)
	for _, m := range []vassal.Message{
		{Type: vassal.Hello},
		{Type: vassal.Ready, Notes: vassal.Problems{{Message: "a"}, {Message: long}}},
		{Type: vassal.Failed, Reason: &vassal.Problem{Message: long + "the end", Hint: "h"}},
	} {
		if err := c.Send(m); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 2*vassal.MaxMessage)
		n, err := other.Read(b)
		if err != nil || n > vassal.MaxMessage {
			t.Fatalf("%d bytes, %v", n, err)
		}
		var got vassal.Message
		if err := json.Unmarshal(b[:n], &got); err != nil {
			t.Fatal(err)
		}
		if got.Type != m.Type || got.V != 1 || m.Reason != nil && !strings.HasSuffix(got.Reason.Message, "the end") {
			t.Errorf("got %+v", got)
		}
	}
}

func TestReceive(t *testing.T) {
	c, other, err := pair(t, syscall.SOCK_SEQPACKET)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []struct {
		packet string
		want   vassal.Message
		ok     bool
	}{
		{`{"v":1,"type":"drain"}`, vassal.Message{V: 1, Type: vassal.Drain}, true},
		{`{"v":1,"type":"later","more":[1]}`, vassal.Message{V: 1, Type: "later"}, true},
		{`{"v":2,"type":"drain"}`, vassal.Message{}, false},
		{`{`, vassal.Message{}, false},
		{`"` + strings.Repeat("x", vassal.MaxMessage) + `"`, vassal.Message{}, false},
	} {
		if _, err := other.WriteString(p.packet); err != nil {
			t.Fatal(err)
		}
		got, err := c.Receive()
		if (err == nil) != p.ok || errors.Is(err, io.EOF) {
			t.Errorf("%.40s: error %v", p.packet, err)
		}
		if d := cmp.Diff(p.want, got); p.ok && d != "" {
			t.Error(d)
		}
	}
	other.Close()
	if _, err := c.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want EOF", err)
	}
}

// TestReceiveFile: a descriptor comes with its message and with no other, and
// that of a message which is refused is closed.
func TestReceiveFile(t *testing.T) {
	testenv.Leaks(t)
	c, other, err := pair(t, syscall.SOCK_SEQPACKET)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, text := range []string{`{"v":1,"type":"certificates"}`, `{"v":9,"type":"certificates"}`} {
		if err := syscall.Sendmsg(int(other.Fd()), []byte(text), syscall.UnixRights(int(f.Fd())), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := other.WriteString(`{"v":1,"type":"drain"}`); err != nil {
		t.Fatal(err)
	}
	m, err := c.Receive()
	if err != nil || m.Type != vassal.Certificates || m.File == nil {
		t.Fatal(m, err)
	}
	m.File.Close()
	if m, err := c.Receive(); err == nil || m.File != nil {
		t.Error(m, err)
	}
	if m, err := c.Receive(); err != nil || m.Type != vassal.Drain || m.File != nil {
		t.Error(m, err)
	}
}

func TestOpenOther(t *testing.T) {
	testenv.Leaks(t)
	if _, _, err := pair(t, syscall.SOCK_STREAM); err == nil {
		t.Error("a stream socket is accepted")
	}
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(f); err == nil {
		t.Error("/dev/null is accepted")
	}
}
