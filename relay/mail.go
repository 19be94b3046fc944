package relay

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"liege/vassal/mail"
)

// MailConns is how many connections of one relay are with mail servers at once.
// A mail server serves few, and all tenants of a host share it.
const MailConns = 4

// How long a mail session waits. A client that is silent gives its place away.
const (
	clientTime  = time.Minute
	serverTime  = 5 * time.Minute
	deliverTime = 10 * time.Minute // until the server has the message (RFC 5321, 4.5.3.2.6)
)

// maxCommand bounds a line of a client, maxReply one of a server and maxReplies
// how many make one answer.
const (
	maxCommand = 2048
	maxReply   = 2048
	maxReplies = 64
)

// extensions are what a server may offer through a mail door. What is not here
// would let a client say things that the door does not understand: BDAT and its
// chunks, STARTTLS, AUTH, the XCLIENT of Postfix.
var extensions = []string{"SIZE", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN"}

// parameters of MAIL and RCPT, of the extensions above.
var parameters = []string{"SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "NOTIFY", "ORCPT"}

// session is one connection through a mail door. It understands each command,
// says it again in its own words and waits for the answer, so that client and
// server can never differ about where a message ends.
type session struct {
	client, service *conn
	in, from        *bufio.Reader // of client and service
	door            Door
	meter           *meter // nil: no rate
	report          *reporter

	sender string
	to     int // recipients of the present message
}

// errClient ends a session that the client broke, errServer one that the server did.
var (
	errClient = errors.New("the client is gone")
	errServer = errors.New("the mail server is gone")
)

// serveMail is one connection through a mail door; both ends are closed.
func (s *server) serveMail(d Door, client *conn) {
	m := &session{client: client, in: bufio.NewReaderSize(client.file, bufferSize), door: d, meter: s.meter, report: s.report}
	defer func() { // what is unread would take back what was said last
		client.shut(unix.SHUT_WR)
		client.drain()
		client.close()
	}()
	service, err := d.dial()
	if err != nil {
		s.report.say(d.Address, err)
		_ = m.answer("421 4.3.0 the mail server " + d.Address + " is not reached: " + err.Error()) // or it is gone
		return
	}
	defer service.close()
	m.service, m.from = service, bufio.NewReaderSize(service.file, maxReply)
	err = m.run()
	switch {
	case errors.Is(err, errServer):
		s.report.say(d.Address, err)
		_ = m.answer("421 4.3.0 the mail server " + d.Address + " went away") // as above
	case errors.Is(err, os.ErrDeadlineExceeded):
		_ = m.answer("421 4.4.2 too slow") // as above
	}
}

// run speaks until one of both has enough.
func (m *session) run() error {
	greeting, err := m.reply(serverTime)
	if err == nil {
		err = m.answer(greeting...)
	}
	if err != nil || greeting[0][0] != '2' {
		return err
	}
	for {
		line, err := m.command()
		if err != nil {
			return err
		}
		if over, err := m.obey(line); over || err != nil {
			return err
		}
	}
}

// obey does what one command says.
func (m *session) obey(line string) (over bool, err error) {
	verb, arg, _ := strings.Cut(line, " ")
	switch verb = strings.ToUpper(verb); verb {
	case "EHLO", "HELO":
		return false, m.hello(verb, strings.TrimSpace(arg))
	case "MAIL":
		return false, m.mail(arg)
	case "RCPT":
		return false, m.rcpt(arg)
	case "DATA":
		return m.data()
	case "RSET":
		m.sender, m.to = "", 0
		_, err = m.pass("RSET")
		return false, err
	case "NOOP":
		return false, m.answer("250 2.0.0 ok")
	case "QUIT":
		_, err = m.pass("QUIT")
		return true, err
	}
	return false, m.answer("502 5.5.1 not through this door")
}

// hello passes a greeting on, with a name that is one.
func (m *session) hello(verb, name string) error {
	if !mail.Plain(strings.NewReplacer("[", "", "]", "", ":", "").Replace(name)) {
		return m.answer("501 5.5.4 " + verb + " needs a host's name")
	}
	lines, err := m.ask(verb + " " + name)
	if err != nil {
		return err
	}
	out := []string{lines[0][:3] + " " + lines[0][4:]}
	for _, l := range lines[1:] {
		if word, _, _ := strings.Cut(l[4:], " "); slices.Contains(extensions, strings.ToUpper(word)) {
			out[len(out)-1] = l[:3] + "-" + out[len(out)-1][4:]
			out = append(out, l[:3]+" "+l[4:])
		}
	}
	return m.answer(out...)
}

// path reads what follows MAIL or RCPT: "FROM:<a@b> PARAMETER…", in the one form
// that nobody can read in two ways.
func path(arg, what string) (address, params string, ok bool) {
	if len(arg) < len(what) || !strings.EqualFold(arg[:len(what)], what) {
		return "", "", false
	}
	rest, ok := strings.CutPrefix(strings.TrimLeft(arg[len(what):], " "), "<")
	if !ok {
		return "", "", false
	}
	address, params, ok = strings.Cut(rest, ">")
	params = strings.TrimSpace(params)
	for word := range strings.FieldsSeq(params) {
		name, _, _ := strings.Cut(word, "=")
		ok = ok && slices.Contains(parameters, strings.ToUpper(name))
	}
	if address == "" {
		return "", params, ok
	}
	local, domain, qualified := strings.Cut(address, "@")
	return address, params, ok && mail.Plain(local) && (!qualified || mail.Plain(strings.Trim(domain, "[]")))
}

func (m *session) mail(arg string) error {
	sender, params, ok := path(arg, "FROM:")
	switch {
	case !ok:
		return m.answer("501 5.1.7 MAIL FROM:<address>, without quotes")
	case !m.door.Mail.May(sender):
		m.report.rarely(fmt.Sprintf("liege: mail from <%s> refused: [ceilings] sendmail-sender = %s", sender, strings.Join(m.door.Mail.Senders, " ")))
		return m.answer("550 5.7.1 <" + sender + "> may not send here; allowed: " + strings.Join(m.door.Mail.Senders, " "))
	}
	ok, err := m.pass(strings.TrimSpace("MAIL FROM:<" + sender + "> " + params))
	if ok {
		m.sender, m.to = sender, 0
	}
	return err
}

func (m *session) rcpt(arg string) error {
	to, params, ok := path(arg, "TO:")
	if !ok || to == "" {
		return m.answer("501 5.1.3 RCPT TO:<address>, without quotes")
	}
	if m.meter != nil {
		if wait := m.meter.take(m.door.Mail.Rate); wait > 0 {
			m.report.rarely(fmt.Sprintf("liege: mail from <%s> put off: [ceilings] sendmail-rate = %s", m.sender, m.door.Mail.Rate))
			return m.answer(fmt.Sprintf("450 4.7.1 more than %s recipients; again in %v", m.door.Mail.Rate, wait.Round(time.Second)+time.Second))
		}
	}
	ok, err := m.pass(strings.TrimSpace("RCPT TO:<" + to + "> " + params))
	if ok {
		m.to++
	}
	return err
}

// data passes a message on. One that breaks a rule ends the session before the
// server has seen its end.
func (m *session) data() (over bool, err error) {
	lines, err := m.ask("DATA")
	if err != nil {
		return true, err
	}
	if err := m.answer(lines...); err != nil || lines[0][0] != '3' {
		return false, err
	}
	wrong, err := m.body()
	if wrong != "" {
		return true, m.answer("554 5.6.0 " + wrong)
	}
	if err != nil && !errors.Is(err, errServer) {
		return true, err
	}
	lines, rerr := m.reply(deliverTime) // also of a server that broke off: it says why
	if rerr != nil {
		return true, rerr
	}
	m.report.line(fmt.Sprintf("liege: mail from <%s> to %d: %s", m.sender, m.to, lines[len(lines)-1]))
	m.sender, m.to = "", 0
	return err != nil, m.answer(lines...)
}

// body passes lines on until the one that is a dot. Only CR and LF together end
// a line, and there is no NUL: a server that took less for an end would see
// commands where this saw text.
func (m *session) body() (wrong string, err error) {
	out := bufio.NewWriterSize(m.service.file, bufferSize)
	start, cr := true, false // of a line; the last byte was a CR
	for {
		part, err := m.line()
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return "", err
		}
		text := part
		if cr && text[0] != '\n' {
			return "a CR that ends no line", nil
		}
		if whole := err == nil; whole {
			var ok bool
			if text, ok = bytes.CutSuffix(part, []byte("\r\n")); !ok && !(cr && len(part) == 1) {
				return "a line that ends without CR", nil
			}
		} else {
			text, cr = bytes.CutSuffix(part, []byte("\r"))
		}
		if i := bytes.IndexAny(text, "\r\x00"); i >= 0 {
			return "a NUL, or a CR that ends no line", nil
		}
		over := start && string(part) == ".\r\n"
		if start = err == nil; start {
			cr = false
		}
		if werr := m.send(out, part, over || m.in.Buffered() == 0); werr != nil || over {
			return "", werr
		}
	}
}

// send writes to the server, at once if now.
func (m *session) send(out *bufio.Writer, b []byte, now bool) error {
	_ = m.service.file.SetWriteDeadline(time.Now().Add(serverTime)) // else the write fails
	_, err := out.Write(b)
	if err == nil && now {
		err = out.Flush()
	}
	if err != nil {
		return errServer
	}
	return nil
}

// line reads a line of the client, or as much of it as fits.
func (m *session) line() ([]byte, error) {
	_ = m.client.file.SetReadDeadline(time.Now().Add(clientTime)) // else the read fails
	part, err := m.in.ReadSlice('\n')
	if err != nil && !errors.Is(err, bufio.ErrBufferFull) && !errors.Is(err, os.ErrDeadlineExceeded) {
		err = errClient
	}
	return part, err
}

// command reads a command of the client.
func (m *session) command() (string, error) {
	part, err := m.line()
	switch {
	case errors.Is(err, bufio.ErrBufferFull), err == nil && len(part) > maxCommand:
		_ = m.answer("500 5.5.2 too long a line") // it ends here either way
		return "", errClient
	case err != nil:
		return "", err
	}
	text := strings.TrimRight(string(part), "\r\n")
	if strings.ContainsFunc(text, unicode.IsControl) || !utf8.ValidString(text) {
		text = "?" // which is no command
	}
	return text, nil
}

// answer writes lines to the client.
func (m *session) answer(lines ...string) error {
	_ = m.client.file.SetWriteDeadline(time.Now().Add(clientTime)) // else the write fails
	if _, err := m.client.file.WriteString(strings.Join(lines, "\r\n") + "\r\n"); err != nil {
		return errClient
	}
	return nil
}

// ask says a command to the server and returns its answer.
func (m *session) ask(command string) ([]string, error) {
	_ = m.service.file.SetWriteDeadline(time.Now().Add(serverTime)) // else the write fails
	if _, err := m.service.file.WriteString(command + "\r\n"); err != nil {
		return nil, errServer
	}
	return m.reply(serverTime)
}

// pass says a command to the server and its answer to the client; ok tells that
// the server agreed.
func (m *session) pass(command string) (ok bool, err error) {
	lines, err := m.ask(command)
	if err != nil {
		return false, err
	}
	return lines[0][0] == '2', m.answer(lines...)
}

// reply reads an answer of the server: lines that begin with the same code, all
// but the last with a dash behind it. The lines can be passed on as they are.
func (m *session) reply(patience time.Duration) (lines []string, err error) {
	_ = m.service.file.SetReadDeadline(time.Now().Add(patience)) // else the read fails
	for len(lines) < maxReplies {
		part, err := m.from.ReadSlice('\n')
		text := strings.TrimRight(string(part), "\r\n")
		if len(text) == 3 {
			text += " "
		}
		if err != nil || !replyLine(text) || len(lines) > 0 && text[:3] != lines[0][:3] {
			return nil, errServer
		}
		if lines = append(lines, text); text[3] == ' ' {
			return lines, nil
		}
	}
	return nil, errServer
}

func replyLine(s string) bool {
	return len(s) >= 4 && s[0] >= '2' && s[0] <= '5' && s[1] >= '0' && s[1] <= '9' && s[2] >= '0' && s[2] <= '9' &&
		(s[3] == ' ' || s[3] == '-') && !strings.ContainsFunc(s, unicode.IsControl)
}
