package front

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"liege/vassal"
)

// FuzzHead: whatever the parser accepts holds what the rest relies on, and
// net/http agrees about method, framing and host.
func FuzzHead(f *testing.F) {
	for _, c := range rawCases() {
		f.Add([]byte(c.raw))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, _, _, err := headEnd(b, 0, 0)
		if err != nil || n == 0 {
			return
		}
		c := &conn{}
		if err := c.head.parse(string(b[:n]), 100); err != nil {
			return
		}
		if err := c.variables(); err != nil {
			return
		}
		seen := map[string]bool{}
		for _, v := range c.req.Vars {
			if v.Name != "" && !validVariable(v.Name) || strings.ContainsAny(v.Value, "\r\n\x00") && v.Name != "PATH_INFO" || strings.Contains(v.Value, "\x00") {
				t.Errorf("variable %q = %q", v.Name, v.Value)
			}
			if v.Name != "" && seen[v.Name] {
				t.Errorf("variable %s twice", v.Name)
			}
			seen[v.Name] = true
		}
		if p := c.req.Get("PATH_INFO"); p != "*" && (p == "" || p[0] != '/' || strings.Contains(p+"/", "/../")) {
			t.Errorf("PATH_INFO %q", p)
		}
		if u := c.req.Get("REQUEST_URI"); strings.ContainsFunc(u, func(c rune) bool { return c <= ' ' || c == 0x7f || c == '#' }) {
			t.Errorf("REQUEST_URI %q", u)
		}
		std, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b[:n])))
		if err != nil {
			return // it refuses more in a few places; what we accept is checked above
		}
		if std.Method != c.head.method {
			t.Errorf("method %q, net/http %q", c.head.method, std.Method)
		}
		if chunked := len(std.TransferEncoding) > 0; chunked != c.head.chunked {
			t.Errorf("chunked %t, net/http %t", c.head.chunked, chunked)
		}
		if !c.head.chunked && std.ContentLength != max(c.head.length, 0) {
			t.Errorf("length %d, net/http %d", c.head.length, std.ContentLength)
		}
		if p := c.req.Get("PATH_INFO"); !strings.Contains(std.URL.Path, "/.") && p != std.URL.Path && p+std.URL.Path != "/" || c.req.Get("QUERY_STRING") != std.URL.RawQuery {
			t.Errorf("path %q and query %q, net/http %q and %q", p, c.req.Get("QUERY_STRING"), std.URL.Path, std.URL.RawQuery)
		}
		if !strings.EqualFold(std.Host, c.head.host) {
			t.Errorf("host %q, net/http %q", c.head.host, std.Host)
		}
	})
}

// fakeConn is a connection that holds b.
type fakeConn struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (f *fakeConn) Read(p []byte) (int, error)  { return f.in.Read(p) }
func (f *fakeConn) Write(p []byte) (int, error) { return f.out.Write(p) }

// FuzzChunks: a chunked body is read the same in one piece and byte by byte,
// and what is accepted net/http reads the same.
func FuzzChunks(f *testing.F) {
	for _, c := range rawCases() {
		if _, body, ok := strings.Cut(c.raw, "chunked\r\n\r\n"); ok {
			f.Add([]byte(body))
		}
	}
	f.Add([]byte("5;a=\"b\"\r\nhello\r\n00\r\nA: b\r\n\r\nGET"))
	f.Fuzz(func(t *testing.T, b []byte) {
		whole, rest, err := readChunked(t, bytes.NewReader(b))
		slow, slowRest, slowErr := readChunked(t, iotest.OneByteReader(bytes.NewReader(b)))
		if whole != slow || (err == nil) != (slowErr == nil) || err == nil && rest != "" && !strings.HasPrefix(rest, slowRest) {
			t.Fatalf("in one piece %q, %v; byte by byte %q, %v", whole, err, slow, slowErr)
		}
		if err != nil {
			return
		}
		std, stdErr := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"), bytes.NewReader(b))))
		if stdErr != nil {
			t.Fatal(stdErr)
		}
		want, stdErr := io.ReadAll(std.Body)
		if stdErr == nil && string(want) != whole {
			t.Errorf("got %q, net/http %q", whole, want)
		}
	})
}

// readChunked reads a chunked body from in; rest is what is buffered behind it.
func readChunked(t *testing.T, in io.Reader) (body, rest string, err error) {
	c := New(Config{}).newConn(deadlines{&fakeConn{in: in}}, vassal.HTTP)
	c.body.start(-1, false)
	b, err := io.ReadAll(&c.body)
	if c.r > c.w || c.w > len(c.buf) {
		t.Fatalf("buffer %d:%d of %d", c.r, c.w, len(c.buf))
	}
	return string(b), string(c.buf[c.r:c.w]), err
}

// FuzzPacket: no packet makes the parser fail otherwise than by an error, and
// what it accepts holds no variable that tells the app to load something.
func FuzzPacket(f *testing.F) {
	f.Add([]byte(packet(0, "REQUEST_METHOD", "GET", "UWSGI_FILE", "/x")[4:]))
	f.Add([]byte(packet(0, "REQUEST_METHOD", "GET", "UWSGI_FILE", "/x")[4:9]))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := New(Config{}).newConn(deadlines{&fakeConn{}}, vassal.UWSGI)
		if err := c.packetVariables(b, true); err != nil {
			return
		}
		for _, v := range c.req.Vars {
			if strings.HasPrefix(v.Name, "UWSGI_") && v.Name != "UWSGI_SCHEME" || !validVariable(v.Name) {
				t.Errorf("variable %q", v.Name)
			}
		}
	})
}

// deadlines is a connection without deadlines and addresses.
type deadlines struct{ *fakeConn }

func (deadlines) SetReadDeadline(time.Time) error  { return nil }
func (deadlines) SetWriteDeadline(time.Time) error { return nil }
func (deadlines) RemoteAddr() net.Addr             { return nil }
func (deadlines) LocalAddr() net.Addr              { return &net.TCPAddr{} }
