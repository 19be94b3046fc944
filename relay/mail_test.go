package relay

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/internal/testmail"
	"liege/vassal/mail"
)

// mailer is a client at a mail door.
type mailer struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

func (r *rig) mailer() *mailer {
	r.t.Helper()
	c := r.dial()
	m := &mailer{r.t, c, bufio.NewReader(c)}
	return m
}

// says sends text, unless it is empty, and returns the last line of the answer.
func (m *mailer) says(text string) string {
	m.t.Helper()
	if text != "" {
		if _, err := io.WriteString(m.c, text+"\r\n"); err != nil {
			m.t.Fatal(err)
		}
	}
	for {
		line, err := m.r.ReadString('\n')
		if err != nil {
			return "end"
		}
		if len(line) < 4 || line[3] != '-' {
			return strings.TrimRight(line, "\r\n")
		}
	}
}

func caps(senders ...string) *mail.Caps { return &mail.Caps{Senders: senders} }

func TestMail(t *testing.T) {
	sink := testmail.New(t, "127.0.0.1:0")
	r := openDoor(t, Door{Address: sink.Addr(), Mail: caps("*@shop.example", "a@b")}, 5, nil)
	m := r.mailer()
	for _, x := range []struct{ say, want string }{
		{"", "220 sink.example ESMTP"},
		{"EHLO shop", "250 8BITMIME"},
		{"NOOP", "250 2.0.0 ok"},
		{"mail from:<a@evil.example>", "550 5.7.1 <a@evil.example> may not send here; allowed: *@shop.example a@b"},
		{"MAIL FROM:<>", "550 5.7.1 <> may not send here; allowed: *@shop.example a@b"},
		{"Mail From: <me@SHOP.example> SIZE=10 BODY=8BITMIME", "250 2.0.0 Ok"},
		{"RCPT TO:<x@y>", "250 2.0.0 Ok"},
		{"rcpt to:<postmaster> NOTIFY=NEVER", "250 2.0.0 Ok"},
		{"DATA", "354 go on"},
		{"Subject: x\r\n\r\n..dot\r\n" + strings.Repeat("long ", 20000) + "\r\n\r\n.", "250 2.0.0 Ok: queued as 4711"},
		{"RSET", "250 2.0.0 Ok"},
		{"QUIT", "221 2.0.0 Bye"},
		{"", "end"},
	} {
		if got := m.says(x.say); got != x.want {
			t.Errorf("%.80q: %q, want %q", x.say, got, x.want)
		}
	}
	got := sink.Next()
	if got.From != "<me@SHOP.example> SIZE=10 BODY=8BITMIME" || strings.Join(got.To, " ") != "<x@y> <postmaster> NOTIFY=NEVER" || got.Text != "Subject: x\n\n.dot\n"+strings.Repeat("long ", 20000)+"\n\n" {
		t.Errorf("%.300v", got)
	}
	m.c.Close()
	r.finish()
	if said := r.said.String(); !strings.Contains(said, "liege: mail from <me@SHOP.example> to 2: 250 2.0.0 Ok: queued as 4711\n") ||
		!strings.Contains(said, "liege: mail from <a@evil.example> refused: [ceilings] sendmail-sender = *@shop.example a@b\n") {
		t.Error(said)
	}
}

// TestMailWords: what a door does not understand it does not pass on. The server
// of this test would take all of it.
func TestMailWords(t *testing.T) {
	sink := testmail.New(t, "127.0.0.1:0")
	r := openDoor(t, Door{Address: sink.Addr(), Mail: caps("*@shop.example")}, 5, nil)
	m := r.mailer()
	m.says("")
	for _, say := range []string{
		"STARTTLS", "AUTH PLAIN x", "BDAT 10 LAST", "XCLIENT NAME=x", "XFORWARD NAME=x", "VRFY a", "EXPN a", "ETRN a", "HELP", "", "x\ty", "MAIL", "RCPT", "RCPT TO:<>",
		"MAIL FROM:a@shop.example", "MAIL FROM:<a@shop.example", "MAIL FROM:<a@shop.example> AUTH=<b@c>", "MAIL FROM:<a@shop.example> AUTH=b", "MAIL FROM:<a@shop.example> XY=1",
		"MAIL FROM:<a@shop.example>,<b@evil.example>", "MAIL FROM:<b@evil.example><a@shop.example>", `MAIL FROM:<"x>y"@shop.example>`, "MAIL FROM:<@evil.example:a@shop.example>", "MAIL FROM:<a%evil.example@shop.example>",
		"MAIL FROM:<a@shop.example\x00>", "MAIL FROM:<a@shop.example>\rRCPT TO:<x@y>", "MAIL FROM:<a@shop.example>\x0bx", "RCPT TO:<a@b,c@d>", "RCPT TO:<a@b> <c@d>", "EHLO a b", "EHLO", "EHLO \xff",
	} {
		if say == "" {
			say = " "
		}
		if got := m.says(say); got[0] != '5' {
			t.Errorf("%q: %q", say, got)
		}
	}
	if got := m.says("EHLO shop\nNOOP"); got != "250 8BITMIME" { // the server is never shown the bare line end
		t.Error(got)
	}
	m.says("")
	if said := sink.Said(); len(said) != 1 || said[0] != "EHLO shop" {
		t.Errorf("the server heard %q", said)
	}
	if got := m.says(strings.Repeat("x", 5000)); got != "500 5.5.2 too long a line" || m.says("") != "end" {
		t.Error(got)
	}
}

// TestMailHello: what a server offers that the door does not understand is not
// offered.
func TestMailHello(t *testing.T) {
	sink := testmail.New(t, "127.0.0.1:0")
	r := openDoor(t, Door{Address: sink.Addr(), Mail: caps()}, 5, nil)
	c := r.dial()
	io.WriteString(c, "EHLO [127.0.0.1]\r\nQUIT\r\n")
	b, err := io.ReadAll(c)
	if want := "220 sink.example ESMTP\r\n250-sink.example\r\n250-SIZE 20000000\r\n250 8BITMIME\r\n221 2.0.0 Bye\r\n"; err != nil || string(b) != want {
		t.Errorf("%q %v", b, err)
	}
}

// lenient is a mail server that takes a bare LF or CR for the end of a line, and
// keeps who mail was from.
type lenient struct {
	mu   sync.Mutex
	from []string
}

func (l *lenient) serve(c net.Conn) {
	defer c.Close()
	io.WriteString(c, "220 hi\r\n")
	in := bufio.NewScanner(c)
	in.Split(func(b []byte, eof bool) (int, []byte, error) {
		if i := bytes.IndexAny(b, "\r\n"); i >= 0 {
			return i + 1, b[:i], nil
		}
		return 0, nil, nil
	})
	data := false
	for in.Scan() {
		line := in.Text()
		switch {
		case line == "":
		case data && line == ".":
			data = false
			io.WriteString(c, "250 ok\r\n")
		case data:
		case strings.HasPrefix(line, "MAIL"):
			l.mu.Lock()
			l.from = append(l.from, line)
			l.mu.Unlock()
			io.WriteString(c, "250 ok\r\n")
		case line == "DATA":
			data = true
			io.WriteString(c, "354 go on\r\n")
		default:
			io.WriteString(c, "250 ok\r\n")
		}
	}
}

// TestMailSmuggled: no text of a message is a command to a server that sees its
// end sooner than the door does. Without the door it is.
func TestMailSmuggled(t *testing.T) {
	l := &lenient{}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { l.serve(c) })
		}
	})
	t.Cleanup(func() { ln.Close(); all.Wait() })
	r := openDoor(t, Door{Address: ln.Addr().String(), Mail: caps("*@shop.example")}, 5, nil)
	heard := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.from)
	}
	// With it a CR is the last byte that fits the door's buffer.
	fill := strings.Repeat("x", bufferSize-len("text")-1)
	for i, end := range []string{"\n.\n", "\r.\r", "\n.\r\n", "\r\n.\n", "\r\n.\r", "\r\n\x00.\r\n", "\n.\n\r\n", fill + "\n.\r\n", fill + "\r.\r\n", fill + "\r\r\n.\n", fill[1:] + "\r\r.\r\n"} {
		m := r.mailer()
		m.says("")
		m.says("MAIL FROM:<a@shop.example>")
		m.says("RCPT TO:<x@y>")
		m.says("DATA")
		got := m.says("Subject: x\r\n\r\ntext" + end + "MAIL FROM:<evil@evil.example>\r\nRCPT TO:<x@y>\r\nDATA\r\nx\r\n.")
		if !strings.HasPrefix(got, "554 5.6.0 ") || m.says("") != "end" {
			t.Errorf("%q: %q", end[max(0, len(end)-5):], got)
		}
		m.c.Close()
		if n := heard(); n != i+1 {
			t.Fatalf("%q: the server was told %q", end[max(0, len(end)-5):], l.from[i:])
		}
	}
	direct, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	before := heard()
	io.WriteString(direct, "MAIL FROM:<a@shop.example>\r\nDATA\r\ntext\n.\nMAIL FROM:<evil@evil.example>\r\nQUIT\r\n")
	in := bufio.NewReader(direct)
	for range 6 { // the greeting and five answers
		in.ReadString('\n')
	}
	if heard() != before+2 {
		t.Error("the server of this test is not lenient")
	}
}

// TestMailServer: whatever the server does, the client is told in SMTP.
func TestMailServer(t *testing.T) {
	hello := "EHLO x"
	for _, tc := range []struct {
		name  string
		reply func(string) string
		say   []string
		want  string
	}{
		{"busy", func(string) string { return "421 4.3.2 busy" }, nil, "421 4.3.2 busy"},
		{"goes at once", func(string) string { return "close" }, nil, "421 4.3.0 the mail server ADDRESS went away"},
		{"garbage", func(string) string { return "hello" }, nil, "421 4.3.0 the mail server ADDRESS went away"},
		{"control characters", func(string) string { return "220 \x1b[2J" }, nil, "421 4.3.0 the mail server ADDRESS went away"},
		{"endless", func(string) string { return "220-" + strings.Repeat("x\r\n220-", 100) }, nil, "421 4.3.0 the mail server ADDRESS went away"},
		{"long", func(string) string { return "220 " + strings.Repeat("x", 5000) }, nil, "421 4.3.0 the mail server ADDRESS went away"},
		{"two codes", func(c string) string { return map[bool]string{true: "250-a\r\n550 b"}[c == hello] }, []string{"", hello}, "421 4.3.0 the mail server ADDRESS went away"},
		{"no HELO", func(c string) string { return map[bool]string{true: "502 no"}[c == hello] }, []string{"", hello}, "502 no"},
		{"goes in the middle", func(c string) string { return map[bool]string{true: "close"}[c == "DATA"] }, []string{"", "MAIL FROM:<a@b>", "RCPT TO:<a@b>", "DATA"}, "421 4.3.0 the mail server ADDRESS went away"},
		{"goes at the end", func(c string) string { return map[bool]string{true: "close"}[c == "."] }, []string{"", "MAIL FROM:<a@b>", "RCPT TO:<a@b>", "DATA", "x\r\n."}, "421 4.3.0 the mail server ADDRESS went away"},
		{"refuses the text", func(c string) string { return map[bool]string{true: "552 5.3.4 too big"}[c == "."] }, []string{"", "MAIL FROM:<a@b>", "RCPT TO:<a@b>", "DATA", "x\r\n."}, "552 5.3.4 too big"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sink := testmail.Scripted(t, "127.0.0.1:0", tc.reply)
			m := openDoor(t, Door{Address: sink.Addr(), Mail: caps()}, 5, nil).mailer()
			got := ""
			for _, say := range append(tc.say, "")[:max(1, len(tc.say))] {
				got = m.says(say)
			}
			if got != strings.ReplaceAll(tc.want, "ADDRESS", sink.Addr()) {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestMailUnreachable(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	r := openDoor(t, Door{Address: ln.Addr().String(), Mail: caps()}, 5, nil)
	if got, want := r.mailer().says(""), "421 4.3.0 the mail server "+ln.Addr().String()+" is not reached: connection refused"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestMailAtOnce: a vassal that holds all its connections holds no more of the
// server's.
func TestMailAtOnce(t *testing.T) {
	var mu sync.Mutex
	greeted := 0
	sink := testmail.Scripted(t, "127.0.0.1:0", func(c string) string {
		if c == "" {
			mu.Lock()
			greeted++
			mu.Unlock()
		}
		return ""
	})
	r := openDoor(t, Door{Address: sink.Addr(), Mail: caps()}, 100, nil)
	var all []*mailer
	for range MailConns {
		m := r.mailer()
		m.says("")
		all = append(all, m)
	}
	waits := r.mailer()
	mu.Lock()
	if greeted != MailConns {
		t.Errorf("%d connections", greeted)
	}
	mu.Unlock()
	all[0].says("QUIT")
	all[0].c.Close()
	if got := waits.says(""); got != "220 sink.example ESMTP" {
		t.Error(got)
	}
}

// newCount is a meter in a file, and the file.
func newCount(t *testing.T) (*meter, *os.File) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "meter"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(MeterSize); err != nil {
		t.Fatal(err)
	}
	return sameCount(t, f), f
}

// sameCount is another relay's meter of the same file.
func sameCount(t *testing.T, f *os.File) *meter {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	m, err := newMeter(fd)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestMailRate: the recipients of all relays that share a meter count.
func TestMailRate(t *testing.T) {
	count, f := newCount(t)
	sink := testmail.New(t, "127.0.0.1:0")
	door := Door{Address: sink.Addr(), Mail: &mail.Caps{Rate: mail.Rate{N: 3, Per: 24 * time.Hour}}}
	a, b := openDoor(t, door, 5, count), openDoor(t, door, 5, sameCount(t, f))
	for i, r := range []*rig{a, b, a, b, a} {
		m := r.mailer()
		m.says("")
		m.says("MAIL FROM:<a@b>")
		got := m.says("RCPT TO:<x@y>")
		if want := map[bool]string{true: "250 2.0.0 Ok", false: "450 4.7.1 more than 3/d recipients; again in "}[i < 3]; !strings.HasPrefix(got, want) {
			t.Errorf("%d: %q", i, got)
		}
		m.says("QUIT")
	}
}

func TestMeter(t *testing.T) {
	count, _ := newCount(t)
	now := int64(1e18)
	count.now = func() int64 { return now }
	rate := mail.Rate{N: 10, Per: time.Hour}
	for i := range 10 {
		if wait := count.take(rate); wait != 0 {
			t.Fatalf("%d waits %v", i, wait)
		}
	}
	if wait := count.take(rate); wait != 6*time.Minute {
		t.Errorf("waits %v", wait)
	}
	now += int64(6 * time.Minute)
	if wait := count.take(rate); wait != 0 {
		t.Errorf("waits %v", wait)
	}
	if wait := count.take(rate); wait != 6*time.Minute {
		t.Errorf("waits %v", wait)
	}
	// What a larger rate counted holds nobody up for longer than this one's time.
	if wait := count.take(mail.Rate{N: 1, Per: time.Second}); wait != time.Second {
		t.Errorf("waits %v", wait)
	}
	count.earned.Store(1 << 62)
	if wait := count.take(rate); wait != 6*time.Minute {
		t.Errorf("waits %v", wait)
	}
	if testing.Short() {
		return
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	count.earned.Store(0)
	got := 0
	for range 8 {
		all.Go(func() {
			for range 1000 {
				if count.take(mail.Rate{N: 5000, Per: time.Hour}) == 0 {
					mu.Lock()
					got++
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	if got != 5000 {
		t.Errorf("%d of 5000", got)
	}
}

// FuzzMail: whatever a client says, the server hears only commands that the door
// knows, mail from nobody else, and each message ends where the door says.
func FuzzMail(f *testing.F) {
	f.Add([]byte("EHLO x\r\nMAIL FROM:<a@shop.example>\r\nRCPT TO:<b@c>\r\nDATA\r\nhi\r\n.\r\nQUIT\r\n"))
	f.Add([]byte("MAIL FROM:<a@evil>\r\nDATA\r\n\n.\nMAIL FROM:<b@evil>\r\n.\r\n"))
	f.Add([]byte("mail from: <a@shop.example> SIZE=1\r\nrcpt to:<>\r\nRSET\r\nAUTH x\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		client, theirs := pair(t)
		service, server := pair(t)
		m := &session{client: client, in: bufio.NewReaderSize(client.file, 64), service: service, from: bufio.NewReaderSize(service.file, maxReply),
			door: Door{Address: "x", Mail: caps("*@shop.example")}, report: newReporter(io.Discard)}
		var all sync.WaitGroup
		all.Go(func() { theirs.file.Write(b); theirs.shut(unix.SHUT_WR) })
		all.Go(func() { io.Copy(io.Discard, theirs.file) })
		wrong := ""
		all.Go(func() { wrong = strict(server.file) })
		_ = m.run()
		client.close()
		service.close()
		all.Wait()
		theirs.close()
		server.close()
		m.report.close()
		if wrong != "" {
			t.Error(wrong)
		}
	})
}

func pair(t *testing.T) (a, b *conn) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []**conn{&a, &b} {
		if *c, err = newConn(p[i], unix.AF_UNIX); err != nil {
			t.Fatal(err)
		}
	}
	return a, b
}

// strict is a server that knows what it may hear, and says what else it heard.
func strict(c io.ReadWriter) (wrong string) {
	in := bufio.NewReader(c)
	data := false
	fmt.Fprintf(c, "220 hi\r\n")
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return wrong
		}
		text, ok := strings.CutSuffix(line, "\r\n")
		verb, _, _ := strings.Cut(text, " ")
		switch {
		case !ok || strings.ContainsAny(text, "\r\n\x00"):
			wrong = fmt.Sprintf("%q", line)
		case data:
			if data = text != "."; data {
				continue
			}
		case verb == "DATA":
			data = true
			fmt.Fprintf(c, "354 go\r\n")
			continue
		case verb == "MAIL" && !strings.HasSuffix(strings.ToLower(strings.SplitN(text, ">", 2)[0]), "@shop.example"), !strings.Contains(" EHLO HELO MAIL RCPT RSET QUIT ", " "+verb+" "):
			wrong = fmt.Sprintf("%q", line)
		}
		fmt.Fprintf(c, "250 ok\r\n")
	}
}
