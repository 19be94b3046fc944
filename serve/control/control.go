// Package control is the core's end of the channel to whoever started it: the
// Emperor, or liege serve. See vassal.Message for what travels on it.
package control

import (
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

// Channel is the core's end. Any goroutine may send; one receives.
type Channel struct{ conn *net.UnixConn }

// sendTimeout is how long a message may take: the other side reads at once,
// or is gone.
const sendTimeout = 5 * time.Second

// Open takes over f, one end of a SOCK_SEQPACKET pair.
func Open(f *os.File) (*Channel, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("control channel: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok || u.LocalAddr().Network() != "unixpacket" {
		_ = c.Close() // not ours to use
		return nil, errors.New("control channel: not a SOCK_SEQPACKET socket")
	}
	return &Channel{u}, nil
}

// Send sends m as one packet. What does not fit is cut: notes first, then the
// text of the reason.
func (c *Channel) Send(m vassal.Message) error {
	m.V = vassal.MessageVersion
	b, err := encode(m)
	if err != nil {
		return fmt.Errorf("control channel: %w", err)
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return fmt.Errorf("control channel: %w", err)
	}
	if _, err := c.conn.Write(b); err != nil {
		return fmt.Errorf("control channel: %w", err)
	}
	return nil
}

func encode(m vassal.Message) ([]byte, error) {
	for {
		b, err := json.Marshal(m)
		if err != nil || len(b) <= vassal.MaxMessage {
			return b, err
		}
		switch {
		case len(m.Notes) > 0:
			m.Notes = m.Notes[:len(m.Notes)/2]
		case m.Reason != nil && len(m.Reason.Message)+len(m.Reason.Hint) > 0:
			r := *m.Reason
			r.Message, r.Hint = last(r.Message, len(r.Message)/2), last(r.Hint, len(r.Hint)/2)
			m.Reason = &r
		default:
			return nil, fmt.Errorf("message %s is too long", m.Type)
		}
	}
}

// last is the last n bytes of s: the end of a traceback is what counts.
func last(s string, n int) string {
	if n == 0 {
		return ""
	}
	return "…" + s[len(s)-n:]
}

// Receive waits for the next message. It returns io.EOF when the other side
// is gone. A descriptor that came with the message is its File, which the
// caller closes.
func (c *Channel) Receive() (m vassal.Message, err error) {
	defer func() {
		if err != nil && m.File != nil {
			_ = m.File.Close() // read only
			m.File = nil
		}
	}()
	b, rights := make([]byte, vassal.MaxMessage+1), make([]byte, unix.CmsgSpace(4))
	n, nr, _, _, err := c.conn.ReadMsgUnix(b, rights)
	m.File = file(rights[:nr])
	switch {
	case n == 0 || errors.Is(err, io.EOF):
		return m, io.EOF
	case err != nil:
		return m, fmt.Errorf("control channel: %w", err)
	case n > vassal.MaxMessage:
		return m, errors.New("control channel: message is too long")
	}
	if err := json.Unmarshal(b[:n], &m); err != nil {
		return m, fmt.Errorf("control channel: %w", err)
	}
	if m.V != vassal.MessageVersion {
		return m, fmt.Errorf("control channel: message version %d", m.V)
	}
	return m, nil
}

// file is the descriptor in a control message; nil: none. The runtime makes it
// close on exec.
func file(rights []byte) *os.File {
	msgs, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(msgs) != 1 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil
	}
	return os.NewFile(uintptr(fds[0]), "received")
}

// Close ends the channel; a Receive that waits returns.
func (c *Channel) Close() error { return c.conn.Close() }
