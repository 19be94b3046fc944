package websocket

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"liege/serve/exchange"
)

// pipe is a client's bytes, and what is written to it.
type pipe struct {
	io.Reader
	bytes.Buffer
}

func (p *pipe) Read(b []byte) (int, error) { return p.Reader.Read(b) }

// frame is a frame as clients send them.
func frame(first byte, data string) []byte {
	b := []byte{first}
	switch n := len(data); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	mask := [4]byte{1, 2, 3, 250}
	b = append(b, mask[:]...)
	for i := range len(data) {
		b = append(b, data[i]^mask[i&3])
	}
	return b
}

func frames(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// read reads all messages of in; "T:" and "B:" are their types.
func read(in io.Reader, limit int64, buf int) (messages []string, end *Closed, out []byte) {
	p := &pipe{Reader: in}
	c := New(p, limit)
	b := make([]byte, buf)
	text := ""
	for {
		piece, err := c.Next(b)
		if err != nil {
			errors.As(err, &end)
			return messages, end, p.Bytes()
		}
		if text == "" {
			text = string(" TB"[piece.Op]) + ":"
		}
		text += string(piece.Data)
		if !piece.More {
			messages, text = append(messages, text), ""
		}
	}
}

func TestRead(t *testing.T) {
	long := strings.Repeat("é", 40000)
	for _, c := range []struct {
		name string
		in   []byte
		want string
		code int
		out  string
	}{
		{"two", frames(frame(0x81, "hello"), frame(0x82, "\x00\xff")), "T:hello|B:\x00\xff", Abnormal, ""},
		{"empty", frame(0x81, ""), "T:", Abnormal, ""},
		{"fragments", frames(frame(0x01, "a"), frame(0x00, "b"), frame(0x89, "ping"), frame(0x80, "c")), "T:abc", Abnormal, "\x8a\x04ping"},
		{"empty last", frames(frame(0x01, "a"), frame(0x80, "")), "T:a", Abnormal, ""},
		{"pong", frames(frame(0x8a, "x"), frame(0x82, "y")), "B:y", Abnormal, ""},
		{"long", frame(0x81, long), "T:" + long, Abnormal, ""},
		{"middle", frame(0x82, strings.Repeat("m", 300)), "B:" + strings.Repeat("m", 300), Abnormal, ""},
		{"split character", frames(frame(0x01, "\xc3"), frame(0x80, "\xa9")), "T:é", Abnormal, ""},
		{"close", frame(0x88, "\x03\xe8bye"), "", Normal, "\x88\x02\x03\xe8"},
		{"close without a code", frame(0x88, ""), "", None, "\x88\x00"},
		{"bad code", frame(0x88, "\x03\xed"), "", Protocol, ""},
		{"half a code", frame(0x88, "\x03"), "", Protocol, ""},
		{"bad reason", frame(0x88, "\x03\xe8\xff"), "", BadData, ""},
		{"not masked", []byte{0x81, 1, 'a'}, "", Protocol, ""},
		{"reserved bit", frame(0xc1, "a"), "", Protocol, ""},
		{"unknown", frame(0x83, "a"), "", Protocol, ""},
		{"unknown control", frame(0x8b, ""), "", Protocol, ""},
		{"long ping", frame(0x89, strings.Repeat("x", 126)), "", Protocol, ""},
		{"fragmented ping", frame(0x09, "x"), "", Protocol, ""},
		{"continuation of nothing", frame(0x80, "x"), "", Protocol, ""},
		{"message within a message", frames(frame(0x01, "a"), frame(0x81, "b")), "", Protocol, ""},
		{"not UTF-8", frame(0x81, "\xff"), "", BadData, ""},
		{"half a character", frame(0x81, "\xc3"), "", BadData, ""},
		{"too long", frame(0x82, strings.Repeat("x", 100001)), "", TooBig, ""},
		{"too long together", frames(frame(0x02, strings.Repeat("x", 60000)), frame(0x80, strings.Repeat("x", 60000))), "", TooBig, ""},
		{"length of 64 bits", []byte{0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, "", Protocol, ""},
		{"cut", frame(0x82, "abc")[:7], "", Abnormal, ""},
	} {
		for _, buf := range []int{1, 3, 4096} {
			messages, end, out := read(iotest.HalfReader(bytes.NewReader(c.in)), 100000, buf)
			if got := strings.Join(messages, "|"); got != c.want || end.Code != c.code {
				t.Errorf("%s by %d: got %.40q, %v; want %.40q, %d", c.name, buf, got, end, c.want, c.code)
			}
			want := c.out
			if want == "" && c.code != Abnormal { // a breach is answered with its code
				want = string(binary.BigEndian.AppendUint16([]byte{0x88, byte(len(out) - 2)}, uint16(c.code)))
			}
			if !strings.HasPrefix(string(out), want) || c.out != "" && string(out) != c.out {
				t.Errorf("%s by %d: answered %q, want %q", c.name, buf, out, want)
			}
		}
	}
}

func TestWrite(t *testing.T) {
	p := &pipe{Reader: strings.NewReader("")}
	c := New(p, 10)
	long := bytes.Repeat([]byte("x"), 70000)
	for _, err := range []error{c.Write(Text, []byte("a"), true), c.Write(Text, []byte("b"), true), c.Write(Text, nil, false), c.Write(Binary, long[:200], false),
		c.Write(Binary, long, false), c.Close(4000, strings.Repeat("é", 100))} {
		if err != nil {
			t.Error(err)
		}
	}
	want := string(frames([]byte("\x01\x01a\x00\x01b\x80\x00"), []byte("\x82\x7e\x00\xc8"), long[:200], []byte("\x82\x7f\x00\x00\x00\x00\x00\x01\x11\x70"), long,
		[]byte("\x88\x7c\x0f\xa0"), []byte(strings.Repeat("é", 61))))
	if got := p.String(); got != want {
		t.Errorf("got %d bytes %.20q … %q", len(got), got, got[max(0, len(got)-130):])
	}
	if c.Write(Text, nil, false) == nil || c.Close(Normal, "") == nil {
		t.Error("something follows a close")
	}
}

func TestAccept(t *testing.T) {
	r := &exchange.Request{Vars: []exchange.Var{{Name: "REQUEST_METHOD", Value: "GET"}, {Name: "HTTP_UPGRADE", Value: "WebSocket"},
		{Name: "HTTP_SEC_WEBSOCKET_VERSION", Value: "13"}, {Name: "HTTP_SEC_WEBSOCKET_KEY", Value: "dGhlIHNhbXBsZSBub25jZQ=="}}}
	fields, err := Accept(r, "chat")
	if err != nil || len(fields) != 4 || fields[2].Value != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" || fields[3].Value != "chat" { // RFC 6455 1.3
		t.Errorf("got %v, %v", fields, err)
	}
	for _, c := range []struct {
		name, value string
		status      int
	}{{"REQUEST_METHOD", "POST", 400}, {"HTTP_UPGRADE", "h2c", 400}, {"HTTP_SEC_WEBSOCKET_VERSION", "8", 426}, {"HTTP_SEC_WEBSOCKET_KEY", "c2hvcnQ=", 400}, {"HTTP_SEC_WEBSOCKET_KEY", "?", 400}} {
		bad := *r
		bad.Vars = append([]exchange.Var{}, r.Vars...)
		bad.Set(c.name, c.value)
		if _, err := Accept(&bad, ""); exchange.StatusOf(err) != c.status {
			t.Errorf("%s = %s: %v", c.name, c.value, err)
		}
	}
}

// FuzzRead: whatever a client sends, reading ends, no message is longer than
// the limit, and text is UTF-8.
func FuzzRead(f *testing.F) {
	f.Add(frames(frame(0x81, "hello"), frame(0x01, "a"), frame(0x89, "p"), frame(0x80, "é"), frame(0x88, "\x03\xe8bye")), 5)
	f.Add(frame(0x82, strings.Repeat("x", 300)), 64)
	f.Fuzz(func(t *testing.T, in []byte, buf int) {
		messages, end, _ := read(bytes.NewReader(in), 1000, max(1, min(buf, 4096)))
		if end == nil {
			t.Fatal("no end")
		}
		for _, m := range messages {
			if len(m) > 1002 || m[0] == 'T' && strings.ToValidUTF8(m, "") != m {
				t.Errorf("message %q", m)
			}
		}
	})
}
