package sendmail

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxMessage bounds a message, in bytes: it is held in memory until it is sent.
const maxMessage = 64 << 20

// maxLine is the longest line of a message, without its end (RFC 5322, 2.1.1).
const maxLine = 998

// field is one field of a header: its name, and its text with the name, the
// lines of it separated by "\n" alone.
type field struct {
	name string // lower case
	text string
}

func (f field) value() string {
	_, v, _ := strings.Cut(f.text, ":")
	return strings.ReplaceAll(v, "\n", " ")
}

// message is what was read.
type message struct {
	header []field
	body   []byte // lines end with "\n" alone
}

// readText reads a message to its end, or to a line that is a dot unless dots are
// to be kept: "\n" ends a line, a CR before it is dropped, one elsewhere becomes a
// space, and a NUL is dropped.
func readText(r io.Reader, keepDots bool) ([]byte, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	var out []byte
	for {
		line, err := in.ReadSlice('\n')
		start := len(out) == 0 || out[len(out)-1] == '\n'
		if start && !keepDots && len(line) <= 3 && string(bytes.TrimRight(line, "\r\n")) == "." {
			return out, nil
		}
		out = append(out, line...)
		if len(out) > maxMessage {
			return nil, &failure{exitData, fmt.Sprintf("the message is longer than %d bytes", maxMessage)}
		}
		switch {
		case errors.Is(err, io.EOF):
			return plainLines(out), nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return nil, &failure{exitTemporary, "standard input: " + err.Error()}
		}
	}
}

func plainLines(b []byte) []byte {
	if len(b) > 0 && b[len(b)-1] != '\n' {
		b = append(b, '\n')
	}
	b = bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
	b = bytes.ReplaceAll(b, []byte("\r"), []byte(" "))
	return bytes.ReplaceAll(b, []byte("\x00"), nil)
}

// split takes header and body apart. A text whose first lines are no header has
// none.
func split(text []byte) *message {
	m := &message{}
	if bytes.HasPrefix(text, []byte("From ")) { // as mailboxes have it
		_, text, _ = bytes.Cut(text, []byte("\n"))
	}
	for len(text) > 0 {
		line, rest, _ := bytes.Cut(text, []byte("\n"))
		switch name, isField := fieldName(line); {
		case len(line) == 0:
			m.body = rest
			return m
		case len(m.header) > 0 && (line[0] == ' ' || line[0] == '\t'):
			m.header[len(m.header)-1].text += "\n" + string(line)
		case isField:
			m.header = append(m.header, field{name, string(line)})
		default:
			m.body = text
			return m
		}
		text = rest
	}
	return m
}

func fieldName(line []byte) (string, bool) {
	name, _, ok := bytes.Cut(line, []byte(":"))
	name = bytes.TrimRight(name, " \t")
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return "", false
		}
	}
	return string(bytes.ToLower(name)), ok && len(name) > 0
}

func (m *message) has(name string) bool {
	for _, f := range m.header {
		if f.name == name {
			return true
		}
	}
	return false
}

// recipients are those of the header: of the Resent fields where there are any.
func (m *message) recipients() ([]string, error) {
	prefix := ""
	for _, name := range []string{"resent-to", "resent-cc", "resent-bcc"} {
		if m.has(name) {
			prefix = "resent-"
		}
	}
	var all []string
	for _, f := range m.header {
		switch f.name {
		case prefix + "to", prefix + "cc", prefix + "bcc":
			a, err := addresses(f.value())
			if err != nil {
				return nil, &failure{exitData, fmt.Sprintf("%s: %v", f.name, err)}
			}
			all = append(all, a...)
		}
	}
	return all, nil
}

// dropped are the fields that are not for those who get the message.
var dropped = map[string]bool{"bcc": true, "resent-bcc": true, "return-path": true, "content-length": true}

// bytes is the message as it travels: added fields first, CR and LF, no line too
// long, dots doubled; without the dot that ends it.
func (m *message) bytes(added []string) []byte {
	var out bytes.Buffer
	for _, a := range added {
		writeLine(&out, a)
	}
	for _, f := range m.header {
		if dropped[f.name] {
			continue
		}
		for line := range strings.SplitSeq(f.text, "\n") {
			if strings.TrimSpace(line) != "" { // an empty one would end the header
				writeLine(&out, line)
			}
		}
	}
	out.WriteString("\r\n")
	for line := range bytes.Lines(m.body) {
		writeLine(&out, string(bytes.TrimSuffix(line, []byte("\n"))))
	}
	return out.Bytes()
}

// writeLine writes a line; one that is too long continues on the next, as if it
// were folded, at a blank if there is one.
func writeLine(out *bytes.Buffer, line string) {
	for first := true; first || line != ""; first = false {
		if !first {
			if line = strings.TrimLeft(line, " \t"); line == "" {
				return
			}
			line = " " + line
		}
		part := line
		if len(line) > maxLine {
			part = line[:fold(line)]
		}
		line = line[len(part):]
		if strings.HasPrefix(part, ".") {
			out.WriteByte('.')
		}
		out.WriteString(part)
		out.WriteString("\r\n")
	}
}

// fold is where a long line is broken: at its last blank that fits, else between
// two characters.
func fold(line string) int {
	if i := strings.LastIndexAny(line[:maxLine], " \t"); i > maxLine/2 {
		return i
	}
	at := maxLine
	for at > maxLine-4 && line[at]&0xc0 == 0x80 {
		at--
	}
	return at
}
