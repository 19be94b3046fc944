package front

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/vassal"
)

// A raw request, what we answer, and what net/http answers: where they differ
// the reason is said.
type rawCase struct {
	name, raw string
	want      int
	std       int // of net/http, if different
	why       string
}

func rawCases() []rawCase {
	long := strings.Repeat("a", 9000)
	return []rawCase{
		{"plain", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 200, 0, ""},
		{"1.0 without host", "GET / HTTP/1.0\r\n\r\n", 200, 0, ""},
		{"empty line first", "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", 200, 400, "RFC 9112 2.2: SHOULD ignore one"},
		{"two empty lines first", "\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", 400, 0, ""},
		{"bare LF", "GET / HTTP/1.1\nHost: x\n\n", 400, 200, "it takes bare LF"},
		{"bare LF in fields", "GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400, 200, "it takes bare LF"},
		{"bare CR", "GET / HTTP/1.1\r\nHost: x\rA: b\r\n\r\n", 400, 0, ""},
		{"0.9", "GET /\r\n\r\n", 400, 0, ""},
		{"1.2", "GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505, 200, "it serves any 1.x"},
		{"2.0", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, 200, "it hands the preface on"},
		{"version junk", "GET / HTTP/1.1x\r\nHost: x\r\n\r\n", 400, 0, ""},
		{"lower case version", "GET / http/1.1\r\nHost: x\r\n\r\n", 400, 0, ""},
		{"two spaces", "GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400, 0, ""},
		{"tab", "GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, 0, ""},
		{"space at end", "GET / HTTP/1.1 \r\nHost: x\r\n\r\n", 400, 0, ""},
		{"lower case method", "get / HTTP/1.1\r\nHost: x\r\n\r\n", 400, 200, "methods are upper case"},
		{"own method", "M-SEARCH / HTTP/1.1\r\nHost: x\r\n\r\n", 200, 0, ""},
		{"method with a colon", "GE:T / HTTP/1.1\r\nHost: x\r\n\r\n", 400, 0, ""},
		{"8 bit target", "GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 200, 0, ""},
		{"UTF-8 target", "GET /caf\xc3\xa9?q=\xe2\x82\xac HTTP/1.1\r\nHost: x\r\n\r\n", 200, 0, ""},
		{"8 bit absolute", "GET http://x/\xff HTTP/1.1\r\nHost: x\r\n\r\n", 200, 0, ""},
		{"8 bit authority", "GET http://x\xff/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, 200, "no host has such a byte"},
		{"8 bit relative", "GET \xff HTTP/1.1\r\nHost: x\r\n\r\n", 400, 0, ""},
		{"8 bit climbs", "GET /\xff/../../b HTTP/1.1\r\nHost: x\r\n\r\n", 400, 200, "it leaves the path as it is"},
		{"DEL in target", "GET /a\x7f HTTP/1.1\r\nHost: x\r\n\r\n", 400, 0, ""},
		{"control in target", "GET /a\x01b HTTP/1.1\r\nHost: x\r\n\r\n", 400, 0, ""},
		{"control in query", "GET /?a\tb HTTP/1.1\r\nHost: x\r\n\r\n", 400, 0, ""},
		{"fragment of query", "GET /?a#b HTTP/1.1\r\nHost: x\r\n\r\n", 400, 200, "not part of a target"},
		{"percent alone", "GET /100% HTTP/1.1\r\nHost: x\r\n\r\n", 400, 0, ""},
		{"percent alone in query", "GET /?a=100%&b=%zz HTTP/1.1\r\nHost: x\r\n\r\n", 200, 0, ""},
		{"fragment", "GET /#a HTTP/1.1\r\nHost: x\r\n\r\n", 400, 200, "not part of a target"},
		{"relative", "GET a HTTP/1.1\r\nHost: x\r\n\r\n", 400, 0, ""},
		{"bad escape", "GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400, 0, ""},
		{"NUL escape", "GET /a%00b HTTP/1.1\r\nHost: x\r\n\r\n", 400, 200, "no path holds NUL"},
		{"climbs", "GET /a/../../b HTTP/1.1\r\nHost: x\r\n\r\n", 400, 200, "it leaves the path as it is"},
		{"climbs escaped", "GET /%2e%2e/b HTTP/1.1\r\nHost: x\r\n\r\n", 400, 200, "same"},
		{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 200, 0, ""},
		{"asterisk get", "GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400, 200, "it allows * with any method"},
		{"connect", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501, 200, "we are no proxy"},
		{"absolute", "GET http://x/a HTTP/1.1\r\nHost: x\r\n\r\n", 200, 0, ""},
		{"absolute other host", "GET http://y/a HTTP/1.1\r\nHost: x\r\n\r\n", 400, 200, "it takes the target's"},
		{"absolute userinfo", "GET http://u@x/a HTTP/1.1\r\nHost: x\r\n\r\n", 400, 200, ""},
		{"absolute scheme", "GET ftp://x/a HTTP/1.1\r\nHost: x\r\n\r\n", 400, 200, ""},
		{"long target", "GET /" + long + " HTTP/1.1\r\nHost: x\r\n\r\n", 414, 431, ""},
		{"no host", "GET / HTTP/1.1\r\n\r\n", 400, 0, ""},
		{"two hosts", "GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400, 0, ""},
		{"empty and other host", "GET / HTTP/1.1\r\nHost:\r\nHost: x\r\n\r\n", 400, 0, ""},
		{"host path", "GET / HTTP/1.1\r\nHost: x/y\r\n\r\n", 400, 0, ""},
		{"host userinfo", "GET / HTTP/1.1\r\nHost: u@x\r\n\r\n", 400, 0, "same"},
		{"host dots", "GET / HTTP/1.1\r\nHost: x..y\r\n\r\n", 400, 200, "same"},
		{"host space", "GET / HTTP/1.1\r\nHost: x y\r\n\r\n", 400, 0, ""},
		{"host list", "GET / HTTP/1.1\r\nHost: x, y\r\n\r\n", 400, 0, ""},
		{"host v6", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 200, 0, ""},
		{"host bad v6", "GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n", 400, 200, "same"},
		{"host port", "GET / HTTP/1.1\r\nHost: x:80a\r\n\r\n", 400, 200, "same"},
		{"fold", "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400, 200, "it joins folded lines"},
		{"space before first field", "GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400, 0, ""},
		{"space before colon", "GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400, 0, ""},
		{"no colon", "GET / HTTP/1.1\r\nHost: x\r\nabc\r\n\r\n", 400, 0, ""},
		{"no name", "GET / HTTP/1.1\r\nHost: x\r\n: c\r\n\r\n", 400, 0, ""},
		{"8 bit name", "GET / HTTP/1.1\r\nHost: x\r\n\xe4: c\r\n\r\n", 400, 0, ""},
		{"NUL in value", "GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n", 400, 0, ""},
		{"control in value", "GET / HTTP/1.1\r\nHost: x\r\nA: a\x0bb\r\n\r\n", 400, 0, ""},
		{"8 bit value", "GET / HTTP/1.1\r\nHost: x\r\nReferer: \xe4\r\n\r\n", 200, 0, ""},
		{"large head", "GET / HTTP/1.1\r\nHost: x\r\nA: " + long + "\r\n\r\n", 431, 0, ""},
		{"many fields", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 200) + "\r\n", 431, 200, "it has no such limit"},
		{"length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab", 200, 0, ""},
		{"length with get", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab", 200, 0, ""},
		{"length plus", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +2\r\n\r\nab", 400, 0, ""},
		{"length hex", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x2\r\n\r\nab", 400, 0, ""},
		{"length negative", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400, 0, ""},
		{"length list", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2,2\r\n\r\nab", 400, 0, ""},
		{"length empty", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: \r\n\r\n", 400, 0, ""},
		{"length zero led", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 010\r\n\r\n1234567890", 400, 200, "octal to some"},
		{"length huge", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9223372036854775808\r\n\r\n", 400, 0, ""},
		{"length twice same", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab", 400, 200, "RFC 9112 6.3 allows either"},
		{"length twice", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nab", 400, 0, ""},
		{"chunked", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", 200, 0, ""},
		{"chunked upper", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", 200, 0, ""},
		{"chunked and length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", 400, 200, "it drops the length"},
		{"chunked 1.0", "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", 400, 200, "it ignores the coding"},
		{"chunked twice", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, 501, ""},
		{"chunked, identity", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400, 501, ""},
		{"gzip, chunked", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, 0, ""},
		{"identity", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n", 400, 501, ""},
		{"xchunked", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400, 501, ""},
		{"chunked VT", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\x0b\r\n\r\n0\r\n\r\n", 400, 0, ""},
		{"empty coding", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n", 400, 501, ""},
		{"chunk size LF", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\nab\r\n0\r\n\r\n", 400, 0, "CVE-2025-22871"},
		{"chunk extension", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nab\r\n0\r\n\r\n", 200, 0, ""},
		{"chunk extension LF", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2;\nab\r\n0\r\n\r\n", 400, 0, ""},
		{"chunk size 0x", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nab\r\n0\r\n\r\n", 400, 0, ""},
		{"chunk size huge", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nab\r\n0\r\n\r\n", 400, 0, ""},
		{"chunk size space", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2 \r\nab\r\n0\r\n\r\n", 400, 200, "it trims"},
		{"chunk too long", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n", 400, 0, ""},
		{"trailer", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nA: b\r\n\r\n", 200, 0, ""},
		{"bad trailer", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nA b\r\n\r\n", 400, 0, ""},
		{"expectation", "POST / HTTP/1.1\r\nHost: x\r\nExpect: 200-ok\r\nContent-Length: 0\r\n\r\n", 417, 0, ""},
	}
}

func TestRaw(t *testing.T) {
	testenv.Leaks(t)
	limits := vassal.HTTPLimits{HeaderBytes: 8 << 10, HeaderTimeout: 2 * time.Second}
	r := serve(t, vassal.HTTP, limits, echo)
	for _, c := range rawCases() {
		t.Run(c.name, func(t *testing.T) {
			got := ask(t, r.addr, c.raw)
			if status(got) != c.want {
				t.Errorf("got %d, want %d:\n%s", status(got), c.want, got)
			}
			if n := strings.Count(got, "HTTP/1.1 "); n > 1 && !strings.Contains(got, "SERVER_PROTOCOL") {
				t.Errorf("%d answers to one request:\n%s", n, got)
			}
		})
	}
}

// TestAgainstStandard asks net/http's server the same: whatever we accept it
// accepts too, and where it is more lenient the table says so.
func TestAgainstStandard(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{MaxHeaderBytes: 4 << 10, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadAll(r.Body); err != nil {
				http.Error(w, "", 400)
			}
			w.Header().Set("Connection", "close")
		})}
	go s.Serve(l)
	defer s.Close()
	for _, c := range rawCases() {
		t.Run(c.name, func(t *testing.T) {
			conn := dial(t, l.Addr().String())
			io.WriteString(conn, c.raw)
			conn.(*net.TCPConn).CloseWrite()
			answer, _ := io.ReadAll(conn)
			got, want := status(string(answer)), c.want
			if c.std != 0 {
				want = c.std
			}
			if got != want {
				t.Errorf("net/http answers %d, the table says %d", got, want)
			}
			if c.want == 200 && got != 200 && c.why == "" {
				t.Errorf("we accept what net/http refuses with %d, without a reason", got)
			}
		})
	}
}
