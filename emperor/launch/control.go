package launch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// control is the Emperor's end of a generation's control channel.
type control struct {
	*net.UnixConn
	window time.Time // of the rate
	count  int
}

func newControl(fd int) (*control, error) {
	f := os.NewFile(uintptr(fd), "control")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return &control{UnixConn: c.(*net.UnixConn)}, nil
}

// errBroken is wrapped by errors about a core that breaks a rule of the
// channel.
var errBroken = errors.New("the core broke a rule of the control channel")

// receive waits for the next message. io.EOF: the core has closed its end. An
// error that wraps errBroken must end the generation.
func (c *control) receive() (vassal.Message, error) {
	buf := make([]byte, vassal.MaxMessage+1)
	n, _, flags, _, err := c.ReadMsgUnix(buf, nil)
	switch {
	case err != nil && errors.Is(err, net.ErrClosed), err == nil && n == 0, errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET):
		return vassal.Message{}, io.EOF
	case err != nil:
		return vassal.Message{}, err
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || n > vassal.MaxMessage:
		return vassal.Message{}, fmt.Errorf("%w: a message of more than %d bytes, or with descriptors", errBroken, vassal.MaxMessage)
	}
	if now := time.Now(); now.Sub(c.window) >= time.Second {
		c.window, c.count = now, 0
	}
	if c.count++; c.count > vassal.MaxMessageRate {
		return vassal.Message{}, fmt.Errorf("%w: more than %d messages in a second", errBroken, vassal.MaxMessageRate)
	}
	return parseMessage(buf[:n])
}

// parseMessage parses a packet from a core.
func parseMessage(b []byte) (m vassal.Message, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("%w: %w", errBroken, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return m, fmt.Errorf("%w: more than one message in a packet", errBroken)
	}
	if m.V != vassal.MessageVersion {
		return m, fmt.Errorf("%w: version %d", errBroken, m.V)
	}
	switch m.Type {
	case vassal.Hello, vassal.Ready, vassal.Reload:
	case vassal.Failed:
		if m.Reason == nil {
			return m, fmt.Errorf("%w: failed without a reason", errBroken)
		}
	case vassal.Counters:
		if m.Counts == nil {
			return m, fmt.Errorf("%w: counters without counts", errBroken)
		}
	default:
		return m, fmt.Errorf("%w: type %.20q", errBroken, m.Type)
	}
	return m, nil
}

// send sends a message. It never waits: a core that doesn't read is told by
// other means.
func (c *control) send(t vassal.MessageType) error {
	b, err := json.Marshal(vassal.Message{V: vassal.MessageVersion, Type: t})
	if err != nil {
		return err
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) { sent = unix.Send(int(fd), b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) })
	return errors.Join(err, sent)
}
