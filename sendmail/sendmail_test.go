package sendmail

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testmail"
)

func place(t *testing.T, reply func(string) string) (here, *testmail.Sink) {
	t.Helper()
	h := here{socket: filepath.Join(t.TempDir(), "s"), host: "shop", domain: "web1.example", user: "alice", now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	return h, testmail.Scripted(t, h.socket, reply)
}

func status(err error) int {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.status
	}
	return -1
}

func TestSend(t *testing.T) {
	long := strings.Repeat("x", 900) + " " + strings.Repeat("y", 900)
	for _, tc := range []struct {
		name, args, in string
		from           string
		to             []string
		text           string // of the message, without Message-ID
	}{
		{"from the header", "-t -i", "To: a@b.example, C <c@d.example>\nCc: root\nBcc: secret@x.example,\n other@x.example\nSubject: s\n t\nMessage-ID: <1@x>\n\nhello\n.\n..two\n",
			"<alice@web1.example>", []string{"<a@b.example>", "<c@d.example>", "<root@web1.example>", "<secret@x.example>", "<other@x.example>"},
			"From: alice@web1.example\nDate: Fri, 2 Jan 2026 03:04:05 +0000\nTo: a@b.example, C <c@d.example>\nCc: root\nSubject: s\n t\nMessage-ID: <1@x>\n\nhello\n.\n..two\n"},
		{"CR and LF, as mail() of PHP writes", "-t -i -fwww@shop.example", "To: a@b.example\r\nFrom: x@y\r\nDate: d\r\nMessage-ID: m\r\nBcc: b@b\r\n\r\none\r\ntwo\r\n",
			"<www@shop.example>", []string{"<a@b.example>", "<b@b>"}, "To: a@b.example\nFrom: x@y\nDate: d\nMessage-ID: m\n\none\ntwo\n"},
		{"a dot ends it", "a@b.example", "From: x@y\nTo: z@z\nDate: d\nMessage-ID: m\nBcc: kept@secret\n\none\n.\ntwo\n",
			"<alice@web1.example>", []string{"<a@b.example>"}, "From: x@y\nTo: z@z\nDate: d\nMessage-ID: m\n\none\n"},
		{"no header, a name, flags of others", "-oi -oem -B 8BITMIME -F Al\"ice -N never a@b.example b@b a@b.example", "hello\nyou",
			"<alice@web1.example>", []string{"<a@b.example>", "<b@b>"}, "From: \"Al\\\"ice\" <alice@web1.example>\nTo: undisclosed-recipients:;\nDate: Fri, 2 Jan 2026 03:04:05 +0000\n\nhello\nyou\n"},
		{"a bounce", "-f <> a@b.example", "From: x\nDate: d\nMessage-ID: m\nTo: g:;\n\n", "<>", []string{"<a@b.example>"}, "From: x\nDate: d\nMessage-ID: m\nTo: g:;\n\n"},
		{"a CR makes no field", "-t", "To: a@b\nSubject: x\rBcc: evil@x\nFrom: x\nDate: d\nMessage-ID: m\n\na\rb\x00c\n", "<alice@web1.example>", []string{"<a@b>"}, "To: a@b\nSubject: x Bcc: evil@x\nFrom: x\nDate: d\nMessage-ID: m\n\na bc\n"},
		{"resent", "-t", "To: a@b\nResent-To: c@d\nResent-Bcc: e@f\nFrom: x\nDate: d\nMessage-ID: m\n\n", "<alice@web1.example>", []string{"<c@d>", "<e@f>"}, "To: a@b\nResent-To: c@d\nFrom: x\nDate: d\nMessage-ID: m\n\n"},
		{"long lines", "-t", "To: a@b\nFrom: x\nDate: d\nMessage-ID: m\nSubject: " + long + "\n\n" + strings.Repeat("é", 600) + "\n", "<alice@web1.example>", []string{"<a@b>"},
			"To: a@b\nFrom: x\nDate: d\nMessage-ID: m\nSubject: " + strings.Replace(long, " ", "\n ", 1) + "\n\n" + strings.Repeat("é", 499) + "\n " + strings.Repeat("é", 101) + "\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, sink := place(t, nil)
			if err := h.run(strings.Fields(tc.args), strings.NewReader(tc.in), nil); err != nil {
				t.Fatal(err)
			}
			m := sink.Next()
			m.From, _, _ = strings.Cut(m.From, " ")
			var lines []string
			for line := range strings.Lines(m.Text) {
				if !strings.HasPrefix(line, "Message-ID: <20260102030405.") {
					lines = append(lines, line)
				}
			}
			m.Text = strings.Join(lines, "")
			if d := cmp.Diff(testmail.Message{From: tc.from, To: tc.to, Text: tc.text}, m); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestPhrase(t *testing.T) {
	for in, want := range map[string]string{"a b": `"a b"`, "a\nBcc: x": `"a Bcc: x"`, "é\nBcc: x": "=?utf-8?q?=C3=A9=0ABcc:_x?=", `\"`: `"\\\""`} {
		if got := phrase(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// TestWire: what the sink cannot show.
func TestWire(t *testing.T) {
	m := split([]byte("A: b\nBcc: c\n\n.\n..\nx\n"))
	if got, want := string(m.bytes([]string{"D: e"})), "D: e\r\nA: b\r\n\r\n..\r\n...\r\nx\r\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestRefuses(t *testing.T) {
	const good = "To: a@b.example\n\nx\n"
	for _, tc := range []struct {
		name, args, in string
		reply          func(string) string
		status         int
		text           string
	}{
		{"a flag that is none", "-Z", "", nil, 64, "-Z is no flag of it"},
		{"no recipients", "-i", "", nil, 64, "no recipients: sendmail -t, or sendmail ADDRESS…"},
		{"both", "-t a@b", good, nil, 64, "-t and recipients in the command line: one of both"},
		{"a value is missing", "a@b -f", "", nil, 64, "-f needs a value"},
		{"a server's mode", "-bd", "", nil, 64, ""},
		{"the queue", "-q", "", nil, 69, "there is no queue here: a message is sent at once, or not"},
		{"nobody in the header", "-t", "Subject: x\n\n", nil, 65, "the message has no recipients"},
		{"no address", "-t", "To: a b@c\n\n", nil, 65, `to: "a b@c" is not an address`},
		{"quotes that hide another", "-t", "To: \"x@y\"@z\n\n", nil, 65, ""},
		{"not ASCII", "-t", "To: ü@z\n\n", nil, 65, ""},
		{"a sender that is none", "-t -f x,y", good, nil, 64, "-f x,y: not an address"},
		{"refused sender", "-t", good, on("MAIL", "550 5.7.1 no"), 69, "refused by the mail server: 550 5.7.1 no"},
		{"refused recipient", "-t", good, on("RCPT", "550 5.1.1 unknown"), 69, "refused by the mail server: 550 5.1.1 unknown"},
		{"put off", "-t", good, on("RCPT", "450 4.7.1 later"), 75, "put off by the mail server: 450 4.7.1 later"},
		{"refused text", "-t", good, on(".", "554 5.6.0 spam"), 69, "refused by the mail server: 554 5.6.0 spam"},
		{"busy", "-t", good, on("", "421 4.3.2 busy"), 75, "put off by the mail server: 421 4.3.2 busy"},
		{"garbage", "-t", good, on("MAIL", "hi"), 75, ""},
		{"gone at once", "-t", good, on("", "close"), 75, ""},
		{"gone at DATA", "-t", good, on("DATA", "close"), 75, ""},
		{"gone at the end", "-t", good, on(".", "close"), 75, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, sink := place(t, tc.reply)
			err := h.run(strings.Fields(tc.args), strings.NewReader(tc.in), &bytes.Buffer{})
			if status(err) != tc.status || tc.text != "" && err.Error() != tc.text {
				t.Errorf("%d %v", status(err), err)
			}
			if sink.Count() != 0 {
				t.Errorf("it was sent: %+v", sink.Next())
			}
		})
	}
}

func on(command, answer string) func(string) string {
	return func(c string) string {
		if verb, _, _ := strings.Cut(c, " "); verb == command {
			return answer
		}
		return ""
	}
}

// TestOff: a vassal without mail says how to have some; one whose relay is away
// asks for patience.
func TestOff(t *testing.T) {
	h := here{socket: filepath.Join(t.TempDir(), "none"), domain: "d", user: "u"}
	err := h.run([]string{"a@b"}, strings.NewReader("x"), nil)
	if status(err) != 69 || !strings.Contains(err.Error(), "hint: sendmail = 127.0.0.1:25") {
		t.Errorf("%d %v", status(err), err)
	}
	_, sink := place(t, nil)
	if !slices.Equal(sink.Said(), nil) {
		t.Error("it said something")
	}
}

func TestSpeak(t *testing.T) {
	h, sink := place(t, nil)
	var out bytes.Buffer
	if err := h.run([]string{"-bs"}, strings.NewReader("HELO x\r\nQUIT\r\n"), &out); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != "220 sink.example ESMTP\r\n250 2.0.0 Ok\r\n221 2.0.0 Bye\r\n" || len(sink.Said()) != 2 {
		t.Errorf("%q", got)
	}
	out.Reset()
	if err := h.run([]string{"-bp"}, nil, &out); err != nil || out.String() != "Mail queue is empty\n" {
		t.Errorf("%v %q", err, out.String())
	}
}

func TestTooLong(t *testing.T) {
	h, _ := place(t, nil)
	err := h.run([]string{"a@b"}, &zeros{n: maxMessage + 1}, nil)
	if status(err) != 65 {
		t.Errorf("%v", err)
	}
}

type zeros struct{ n int }

func (z *zeros) Read(p []byte) (int, error) {
	n := min(len(p), z.n)
	z.n -= n
	for i := range p[:n] {
		p[i] = '0'
	}
	if n == 0 {
		return 0, fmt.Errorf("read too far")
	}
	return n, nil
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string][]string{
		"":                          nil,
		" , ;":                      nil,
		"a@b":                       {"a@b"},
		`"x, y" <a@b>, c (d, e) `:   {"a@b", "c"},
		"G: a@b, <c@d>;, e":         {"a@b", "c@d", "e"},
		`"a\"b" <c@d>`:              {"c@d"},
		"(x (y) \\) z) a@b":         {"a@b"},
		"undisclosed-recipients:;":  nil,
		"=?utf-8?Q?J=C3=BC?= <j@x>": {"j@x"},
	} {
		got, err := addresses(in)
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%q: %v %s", in, err, d)
		}
	}
	for _, in := range []string{"a b", "<a@b", "<a><b>", `"x`, "(x", "a@b@c", "a@", "@b", "<a\n@b>", "a>@b", "x@[IPv6::1]", `"a b"@c`} {
		if got, err := addresses(in); err == nil {
			t.Errorf("%q: %q", in, got)
		}
	}
}

// FuzzMessage: whatever comes, what goes out is one message whose header cannot
// be left early and which the dot alone ends.
func FuzzMessage(f *testing.F) {
	f.Add([]byte("To: a@b\nBcc: c@d\n e@f\n\nhi\n.\n"))
	f.Add([]byte("From x\nTo: <a@b>, G: c;\r\nSubject: \rBcc: x\r\n \r\n\r\n.\r\n"))
	f.Add([]byte(strings.Repeat("x", 3000) + "\n" + strings.Repeat(" ", 3000) + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		text, err := readText(bytes.NewReader(b), true)
		if err != nil {
			t.Fatal(err)
		}
		m := split(text)
		to, err := m.recipients()
		for _, a := range to {
			if strings.ContainsAny(a, "<>\r\n \x00") || err != nil {
				t.Errorf("%q", a)
			}
		}
		out := m.bytes(nil)
		if bytes.Contains(bytes.ReplaceAll(out, []byte("\r\n"), nil), []byte("\r")) || bytes.Contains(bytes.ReplaceAll(out, []byte("\r\n"), nil), []byte("\n")) || bytes.Contains(out, []byte{0}) {
			t.Errorf("%q", out)
		}
		for line := range strings.SplitSeq(string(out), "\r\n") {
			if line == "." || len(line) > maxLine+1 {
				t.Errorf("%q", line)
			}
		}
		head, _, ok := strings.Cut("\r\n"+string(out), "\r\n\r\n")
		for line := range strings.SplitSeq(strings.ToLower(head), "\r\n") {
			if strings.HasPrefix(line, "bcc:") || !ok {
				t.Errorf("%q", out)
			}
		}
	})
}
