package sendmail

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// How long the server may take for an answer, and for the last one.
const (
	answerTime  = 5 * time.Minute
	deliverTime = 11 * time.Minute // the relay waits for 10
)

// client speaks SMTP.
type client struct {
	conn *os.File
	in   *bufio.Reader
	size bool // the server wants to know how long a message is
	bit8 bool // it takes 8BITMIME
}

// dial connects to a unix socket. It is no net.Conn: that package would make
// this small program half as large again.
func dial(path string) (*client, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	if err == nil {
		err = unix.SetNonblock(fd, true) // else a file has no deadlines
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	c := &client{conn: os.NewFile(uintptr(fd), path)}
	c.in = bufio.NewReader(c.conn)
	return c, nil
}

// envelope is who a message is from and to.
type envelope struct {
	host   string // of this machine
	sender string // empty: nobody, of a bounce
	to     []string
}

// submit sends a message. Nobody gets it if there is an error.
func (c *client) submit(e envelope, text []byte) error {
	if _, err := c.answer(answerTime); err != nil {
		return err
	}
	if err := c.hello(e.host); err != nil {
		return err
	}
	from := "MAIL FROM:<" + e.sender + ">"
	if c.size {
		from += fmt.Sprintf(" SIZE=%d", len(text))
	}
	if c.bit8 && !ascii(text) {
		from += " BODY=8BITMIME"
	}
	commands := []string{from}
	for _, to := range e.to {
		commands = append(commands, "RCPT TO:<"+to+">")
	}
	for _, cmd := range append(commands, "DATA") {
		if _, err := c.ask(cmd); err != nil {
			return err
		}
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(deliverTime)) // else the write fails
	_, err := c.conn.Write(append(text, ".\r\n"...))
	if _, aerr := c.answer(deliverTime); aerr != nil || err != nil { // who broke off says why
		if aerr == nil {
			aerr = gone(err)
		}
		return aerr
	}
	_, _ = c.ask("QUIT") // it has the message
	return nil
}

func (c *client) hello(host string) error {
	lines, err := c.ask("EHLO " + host)
	if f, ok := errors.AsType[*failure](err); ok && f.status == exitUnavailable {
		lines, err = c.ask("HELO " + host)
	}
	if err != nil {
		return err
	}
	for _, l := range lines {
		switch word, _, _ := strings.Cut(strings.ToUpper(l), " "); word {
		case "SIZE":
			c.size = true
		case "8BITMIME":
			c.bit8 = true
		}
	}
	return nil
}

func (c *client) ask(command string) ([]string, error) {
	_ = c.conn.SetWriteDeadline(time.Now().Add(answerTime)) // else the write fails
	if _, err := io.WriteString(c.conn, command+"\r\n"); err != nil {
		if lines, aerr := c.answer(time.Second); aerr != nil && len(lines) > 0 {
			return nil, aerr // it said why it ended
		}
		return nil, gone(err)
	}
	return c.answer(answerTime)
}

func gone(err error) error {
	return &failure{exitTemporary, "the mail server went away: " + err.Error()}
}

// answer reads one; a refusal is an error. The lines are without their codes.
func (c *client) answer(patience time.Duration) ([]string, error) {
	_ = c.conn.SetReadDeadline(time.Now().Add(patience)) // else the read fails
	var lines []string
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			return nil, gone(err)
		}
		line = strings.TrimRight(line, "\r\n")
		if len(line) < 3 || len(lines) > 1000 {
			return nil, &failure{exitTemporary, fmt.Sprintf("the mail server said %.100q", line)}
		}
		text := ""
		if len(line) > 4 {
			text = line[4:]
		}
		lines = append(lines, text)
		if len(line) > 3 && line[3] == '-' {
			continue
		}
		switch line[0] {
		case '2', '3':
			return lines, nil
		case '4':
			return lines, &failure{exitTemporary, "put off by the mail server: " + line}
		}
		return lines, &failure{exitUnavailable, "refused by the mail server: " + line}
	}
}

func ascii(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}
