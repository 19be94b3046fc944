package sendmail

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"mime"
	"os"
	"os/user"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"liege/vassal/mail"
)

// Main is liege-sendmail. It returns the exit status.
func Main() int {
	h := here{socket: mail.Socket, host: hostName(), domain: domain("/etc/mailname"), user: userName(), now: time.Now()}
	err := h.run(os.Args[1:], os.Stdin, os.Stdout)
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(os.Stderr, "sendmail:", err)
	if f, ok := errors.AsType[*failure](err); ok {
		return f.status
	}
	return exitTemporary
}

// here is what a message needs to know of this place.
type here struct {
	socket string
	host   string // this machine's name
	domain string // of mail from here
	user   string
	now    time.Time
}

func hostName() string {
	if name, err := os.Hostname(); err == nil && mail.Plain(name) {
		return name
	}
	return "localhost"
}

// domain is the name under which the host sends mail, which is in a file.
func domain(file string) string {
	if b, err := os.ReadFile(file); err == nil {
		if f := strings.Fields(string(b)); len(f) > 0 && mail.Plain(f[0]) {
			return f[0]
		}
	}
	return hostName()
}

func userName() string {
	if u, err := user.Current(); err == nil && mail.Plain(u.Username) {
		return u.Username
	}
	return fmt.Sprintf("u%d", os.Getuid())
}

// run does what the command line says.
func (h here) run(args []string, in io.Reader, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	switch o.mode {
	case 'p':
		fmt.Fprintln(out, "Mail queue is empty")
		return nil
	case 's':
		return h.speak(in, out)
	}
	text, err := readText(in, o.dots)
	if err != nil {
		return err
	}
	m := split(text)
	e := envelope{host: h.host}
	if e.to, err = h.recipients(o, m); err != nil {
		return err
	}
	if e.sender, err = h.sender(o); err != nil {
		return err
	}
	c, err := h.dial()
	if err != nil {
		return err
	}
	defer c.conn.Close()
	return c.submit(e, m.bytes(h.missing(o, m, e)))
}

func (h here) dial() (*client, error) {
	c, err := dial(h.socket)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, &failure{exitUnavailable, "this vassal sends no mail; hint: sendmail = 127.0.0.1:25 in its file"}
	case err != nil:
		return nil, &failure{exitTemporary, "the way to the mail server: " + err.Error()}
	}
	return c, nil
}

// speak is -bs: SMTP on standard input and output.
func (h here) speak(in io.Reader, out io.Writer) error {
	c, err := h.dial()
	if err != nil {
		return err
	}
	defer c.conn.Close()
	go func() {
		_, _ = io.Copy(c.conn, in) // the server sees the end
		_ = unix.Shutdown(int(c.conn.Fd()), unix.SHUT_WR)
	}()
	if _, err := io.Copy(out, c.conn); err != nil {
		return gone(err)
	}
	return nil
}

// recipients are the full addresses, each once.
func (h here) recipients(o options, m *message) (to []string, err error) {
	var all []string
	if o.fromHeader {
		if all, err = m.recipients(); err != nil {
			return nil, err
		}
	}
	for _, arg := range o.to {
		a, err := addresses(arg)
		if err != nil {
			return nil, &failure{exitData, err.Error()}
		}
		all = append(all, a...)
	}
	seen := map[string]bool{}
	for _, a := range all {
		a = h.full(a)
		if !ascii([]byte(a)) {
			return nil, &failure{exitData, fmt.Sprintf("%q: an address here is ASCII", a)}
		}
		if !seen[a] {
			seen[a], to = true, append(to, a)
		}
	}
	if len(to) == 0 {
		return nil, &failure{exitData, "the message has no recipients"}
	}
	return to, nil
}

// full gives an address without a domain this host's.
func (h here) full(a string) string {
	if _, _, ok := cutLast(a); !ok {
		return a + "@" + h.domain
	}
	return a
}

// sender is the envelope's: -f, else the user.
func (h here) sender(o options) (string, error) {
	if !o.senderSet {
		return h.full(h.user), nil
	}
	all, err := addresses(o.sender)
	switch {
	case err != nil || len(all) > 1:
		return "", &failure{exitUsage, fmt.Sprintf("-f %s: not an address", o.sender)}
	case len(all) == 0:
		return "", nil // a bounce's
	case !ascii([]byte(all[0])):
		return "", &failure{exitData, fmt.Sprintf("%q: an address here is ASCII", all[0])}
	}
	return h.full(all[0]), nil
}

// missing are the fields that a message has to have and this one has not.
func (h here) missing(o options, m *message, e envelope) (out []string) {
	if !m.has("from") {
		from := e.sender
		if from == "" {
			from = h.full("MAILER-DAEMON")
		}
		if o.name != "" {
			from = phrase(o.name) + " <" + from + ">"
		}
		out = append(out, "From: "+from)
	}
	if !m.has("to") && !m.has("cc") {
		out = append(out, "To: undisclosed-recipients:;")
	}
	if !m.has("date") {
		out = append(out, "Date: "+h.now.Format("Mon, 2 Jan 2006 15:04:05 -0700"))
	}
	if !m.has("message-id") {
		out = append(out, fmt.Sprintf("Message-ID: <%s.%s@%s>", h.now.UTC().Format("20060102150405"), strings.ToLower(rand.Text()), h.domain))
	}
	return out
}

// phrase is a name as a field has it.
func phrase(name string) string {
	if !ascii([]byte(name)) {
		return mime.QEncoding.Encode("utf-8", strings.ToValidUTF8(name, "?"))
	}
	return `"` + strings.NewReplacer("\r", " ", "\n", " ", `\`, `\\`, `"`, `\"`).Replace(name) + `"`
}
