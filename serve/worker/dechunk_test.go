package worker

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"liege/serve/exchange"
	"liege/vassal"
)

// TestDechunk: however a body comes in pieces.
func TestDechunk(t *testing.T) {
	bad := errors.New("malformed")
	for body, want := range map[string]struct {
		text string
		err  error
	}{
		"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX-T: 1\r\n\r\n": {"hello world", nil},
		"00A \r\n0123456789\r\n0\r\n\r\n":                      {"0123456789", nil},
		"0\r\n\r\n":                                            {"", nil},
		"":                                                     {"", nil},
		"data: x\n\ndata: y\n\n":                               {"data: x\n\ndata: y\n\n", nil},
		"{\"a\": 1}":                                           {"{\"a\": 1}", nil},
		"12":                                                   {"12", nil},
		"cafe\nbar":                                            {"cafe\nbar", nil},
		"12\rx":                                                {"12\rx", nil},
		"1234567890123456\r\n":                                 {"1234567890123456\r\n", nil},
		"\r\n":                                                 {"\r\n", nil},
		"5\r\nhello":                                           {"hello", bad},
		"5\r\nhello\r\n":                                       {"hello", bad},
		"5\r\nhelloo\r\n0\r\n\r\n":                             {"hello", bad},
		"1\r\na\r\nzz\r\n":                                     {"a", bad},
	} {
		for step := 1; step <= len(body)+1; step++ {
			d := &dechunker{}
			var out strings.Builder
			var err error
			for at := 0; at < len(body) && err == nil; at += step {
				b := []byte(body[at:min(len(body), at+step)])
				for len(b) > 0 && err == nil {
					var piece []byte
					piece, b, err = d.next(b)
					out.Write(piece)
				}
			}
			switch {
			case d.in == atSize && !d.begun:
				out.Write(d.line)
			case err == nil && d.in != atEnd && d.in != atText:
				err = bad
			}
			if out.String() != want.text || (err != nil) != (want.err != nil) {
				t.Errorf("%q in pieces of %d: %q, %v; want %q, %v", body, step, out.String(), err, want.text, want.err)
			}
		}
	}
}

// TestDechunkMistake: what comes behind a malformed chunk is dropped, and not kept.
func TestDechunkMistake(t *testing.T) {
	c := &call{w: &recorder{status: 200}, started: true, left: -1, poured: make(chan *spool, 1)}
	l := &lane{current: c, chunks: &dechunker{}}
	var all atomic.Int64
	if l.pass([]byte("1\r\na\r\nzz\r\n"), &all) || !errors.Is(c.err, errChunks) {
		t.Fatalf("a malformed chunk passes: %v", c.err)
	}
	spooled, more := all.Load(), make([]byte, 64<<10)
	for range 16 << 20 / len(more) {
		if l.pass(more, &all) {
			t.Fatal("more is wanted")
		}
	}
	if n := cap(l.chunks.line); n > maxChunkLine || all.Load() != spooled {
		t.Errorf("of 16 MiB behind it %d bytes are kept as a line, %d in the spool", n, all.Load()-spooled)
	}
}

// TestFramedAnswers: an application that writes Transfer-Encoding, with its body in
// chunks or not.
func TestFramedAnswers(t *testing.T) {
	const wsgi = `
def application(environ, start_response):
    fields = [('Transfer-Encoding', 'gzip' if environ['PATH_INFO'] == '/gzip' else 'chunked')]
    if environ['PATH_INFO'] == '/length':
        fields.append(('Content-Length', '6'))
    start_response('200 OK', fields)
    return {
        '/raw': lambda: (p for p in (b'data: 1\n\n', b'data: 2\n\n')),
        '/whole': lambda: [b'5\r\nhello\r\n0\r\n\r\n'],
        '/pieces': lambda: (p for p in (b'5\r\nhel', b'lo\r\n', b'0\r\n\r\n')),
        '/cut': lambda: (p for p in (b'5\r\nhel', b'lo\r\n')),
        '/bad': lambda: (p for p in (b'1\r\nx', b'lo\r\n', b'more', b'more')),
        '/number': lambda: [b'12'],
    }.get(environ['PATH_INFO'], lambda: [b'length'])()
`
	r := start(t, wsgi, nil)
	for path, want := range map[string]string{"/raw": "data: 1\n\ndata: 2\n\n", "/whole": "hello", "/pieces": "hello", "/number": "12", "/length": "length"} {
		rec, err := r.do(request("GET", path, ""))
		if err != nil || rec.body.String() != want || rec.field("Transfer-Encoding") != "" {
			t.Errorf("%s: %q %v, %v", path, rec.body.String(), rec.fields, err)
		}
		if n := rec.field("Content-Length"); n != "" && path != "/length" {
			t.Errorf("%s: Content-Length %s", path, n)
		}
	}
	if rec, err := r.do(request("HEAD", "/pieces", "")); err != nil || rec.field("Transfer-Encoding") != "" {
		t.Errorf("HEAD: %v, %v", rec.fields, err)
	}
	for _, path := range []string{"/cut", "/bad"} {
		if _, err := r.do(request("GET", path, "")); !errors.Is(err, errChunks) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if rec, err := r.do(request("GET", "/gzip", "")); err != nil || rec.field("Transfer-Encoding") != "gzip" {
		t.Errorf("another coding, which the front refuses, is gone: %v, %v", rec.fields, err)
	}
	if n := strings.Count(r.log(), "says Transfer-Encoding"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
	if r.Stats().Workers[0].Respawns != 0 {
		t.Error("the worker was replaced")
	}
}

// TestFramedRack: what Rails does for render stream: true.
func TestFramedRack(t *testing.T) {
	r := startRack(t, `
run(lambda do |env|
  [200, {'transfer-encoding' => 'chunked', 'content-type' => 'text/html'}, ["5\r\nhello\r\n", "7\r\n, world\r\n", "0\r\n\r\n"].each]
end)
`, func(app *vassal.App) {})
	rec, err := r.do(request("GET", "/", ""))
	if err != nil || rec.body.String() != "hello, world" || len(rec.fields) != 1 || rec.fields[0] != (exchange.Field{Name: "content-type", Value: "text/html"}) {
		t.Errorf("%q %v, %v", rec.body.String(), rec.fields, err)
	}
}
