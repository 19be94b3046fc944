// Package channel is the near end of a core's control channel: that of the
// Emperor, and of liege serve. The core's end is serve/control; what travels is
// vassal.Message.
//
//	near, far, err := channel.Pair() // far goes to the core
//	m, err := near.Receive()         // until io.EOF
//	err = near.Send(vassal.Drain)
//
// The core runs as the tenant, so what it sends has a size, a rate and a form,
// and a core that keeps to none of them is to be ended (ErrBroken). What a valid
// message claims is still for the caller to doubt.
package channel

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

// Channel is the near end. One goroutine receives; any may send.
type Channel struct {
	conn   *net.UnixConn
	window time.Time // of the rate
	count  int
}

// Pair makes a channel. The caller owns both ends.
func Pair() (*Channel, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("control channel: %w", os.NewSyscallError("socketpair", err))
	}
	near, far := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
	defer near.Close()
	c, err := net.FileConn(near)
	if err != nil {
		far.Close()
		return nil, nil, fmt.Errorf("control channel: %w", err)
	}
	return &Channel{conn: c.(*net.UnixConn)}, far, nil
}

// Close closes the near end; a Receive that waits returns io.EOF.
func (c *Channel) Close() error { return c.conn.Close() }

// End says that the core is gone: Receive returns what is still in the queue, and
// io.EOF after grace at the latest. Without that it may never: the core could give
// its end away, to another process or into the queue of a socket that lives on.
func (c *Channel) End(grace time.Duration) error {
	return c.conn.SetReadDeadline(time.Now().Add(grace))
}

// ErrBroken is wrapped by errors about a core that breaks a rule of the
// channel.
var ErrBroken = errors.New("the core broke a rule of the control channel")

// Receive waits for the next message. io.EOF: the core has closed its end, or the
// time of End is over. An error that wraps ErrBroken must end the generation.
func (c *Channel) Receive() (vassal.Message, error) {
	buf := make([]byte, vassal.MaxMessage+1)
	n, _, flags, _, err := c.conn.ReadMsgUnix(buf, nil)
	switch {
	case err != nil && errors.Is(err, net.ErrClosed), err == nil && n == 0, errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, os.ErrDeadlineExceeded):
		return vassal.Message{}, io.EOF
	case err != nil:
		return vassal.Message{}, err
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || n > vassal.MaxMessage:
		return vassal.Message{}, fmt.Errorf("%w: a message of more than %d bytes, or with descriptors", ErrBroken, vassal.MaxMessage)
	}
	if now := time.Now(); now.Sub(c.window) >= time.Second {
		c.window, c.count = now, 0
	}
	if c.count++; c.count > vassal.MaxMessageRate {
		return vassal.Message{}, fmt.Errorf("%w: more than %d messages in a second", ErrBroken, vassal.MaxMessageRate)
	}
	return parseMessage(buf[:n])
}

// parseMessage parses a packet from a core.
func parseMessage(b []byte) (m vassal.Message, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return m, fmt.Errorf("%w: more than one message in a packet", ErrBroken)
	}
	if m.V != vassal.MessageVersion {
		return m, fmt.Errorf("%w: version %d", ErrBroken, m.V)
	}
	switch m.Type {
	case vassal.Hello, vassal.Ready, vassal.Reload, vassal.Idle, vassal.Closed, vassal.Certificates, vassal.Rested:
	case vassal.Failed:
		if m.Reason == nil {
			return m, fmt.Errorf("%w: failed without a reason", ErrBroken)
		}
	case vassal.Counters:
		if m.Counts == nil {
			return m, fmt.Errorf("%w: counters without counts", ErrBroken)
		}
	default:
		return m, fmt.Errorf("%w: type %.20q", ErrBroken, m.Type)
	}
	return m, nil
}

// Send sends a message of type t. It never waits: a core that doesn't read is told by
// other means.
func (c *Channel) Send(t vassal.MessageType) error { return c.send(vassal.Message{Type: t}, nil) }

// SendTurn is Send of a Turn: until is the minute up to which crons have been
// seen to; zero: unknown.
func (c *Channel) SendTurn(until time.Time) error {
	m := vassal.Message{Type: vassal.Turn}
	if !until.IsZero() {
		m.Until = &until
	}
	return c.send(m, nil)
}

// SendFile is Send with a descriptor beside the message. The caller still owns
// f.
func (c *Channel) SendFile(t vassal.MessageType, f *os.File) error {
	return c.send(vassal.Message{Type: t}, unix.UnixRights(int(f.Fd())))
}

func (c *Channel) send(m vassal.Message, rights []byte) error {
	m.V = vassal.MessageVersion
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) { sent = unix.Sendmsg(int(fd), b, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) })
	return errors.Join(err, sent)
}
