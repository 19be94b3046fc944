package front

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"liege/internal/testcert"
	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/vassal"
)

// httpClient is a client that speaks HTTP/2.
func (s *secured) httpClient(t testing.TB) *http.Client {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: s.client, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

// TestH2Variables: a request by HTTP/2 becomes the variables that it becomes by
// HTTP/1.1.
func TestH2Variables(t *testing.T) {
	testenv.Leaks(t)
	s := serveTLS(t, vassal.HTTPS, keepAlive, func(ctx context.Context, req *exchange.Request, w exchange.Response) error {
		if !req.Trailing {
			t.Error("an answer by HTTP/2 may not have trailers")
		}
		return echo(ctx, req, w)
	}, nil)
	req, err := http.NewRequest("POST", "https://"+s.addr+"/a%20b/./c/../d//e?x=%20y", strings.NewReader("abc"))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "Example.com:80"
	req.Header = http.Header{"User-Agent": {"t"}, "X-A": {"1", "2"}, "Cookie": {"a=1", "b=2"}, "Content-Type": {"text/plain"}, "X_a": {"evil"},
		"Proxy": {"http://evil"}, "Content_Length": {"7"}, "Https": {"off"}, "Remote-User": {"root"}, "X.Y": {"z"}, "Accept-Encoding": {"identity"}, "Te": {"trailers"}}
	c := s.httpClient(t)
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.ProtoMajor != 2 {
		t.Fatal(err, res.Proto)
	}
	var lines []string
	for l := range strings.SplitSeq(string(b), "\n") {
		if !strings.HasPrefix(l, "REMOTE_PORT=") && !strings.HasPrefix(l, "SERVER_PORT=") {
			lines = append(lines, l)
		}
	}
	want := []string{"REQUEST_METHOD=POST", "REQUEST_URI=/a%20b/./c/../d//e?x=%20y", "PATH_INFO=/a b/d//e", "QUERY_STRING=x=%20y",
		"SERVER_PROTOCOL=HTTP/2.0", "SCRIPT_NAME=", "REQUEST_SCHEME=https", "REMOTE_ADDR=127.0.0.1", "SERVER_NAME=shop", "HTTPS=on",
		"CONTENT_LENGTH=3", "HTTP_HOST=Example.com:80", "HTTP_TE=trailers", "HTTP_ACCEPT_ENCODING=identity", "CONTENT_TYPE=text/plain", "HTTP_COOKIE=a=1; b=2", "HTTP_HTTPS=off", "HTTP_REMOTE_USER=root",
		"HTTP_USER_AGENT=t", "HTTP_X_A=1, 2", "length=3", "body=abc", ""}
	if d := cmp.Diff(want, lines); d != "" {
		t.Error(d)
	}
	c.CloseIdleConnections()
	s.stop()
	if i := s.infos(); len(i) != 1 || i[0].Status != 200 || i[0].Bytes != int64(len(b)) || i[0].Fields != 1 {
		t.Errorf("logged: %+v", i)
	}
}

// frames is one raw connection of HTTP/2.
type frames struct {
	*http2.Framer
	t   testing.TB
	buf bytes.Buffer
	enc *hpack.Encoder
}

func (s *secured) frames(t testing.TB) *frames {
	t.Helper()
	c := s.dial(t, "h2")
	f := &frames{Framer: http2.NewFramer(c, c), t: t}
	f.enc = hpack.NewEncoder(&f.buf)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	io.WriteString(c, http2.ClientPreface)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return f
}

// block encodes a header, given as name, value, name, value.
func (f *frames) block(kv ...string) []byte {
	f.buf.Reset()
	for i := 0; i < len(kv); i += 2 {
		if err := f.enc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]}); err != nil {
			f.t.Fatal(err)
		}
	}
	return f.buf.Bytes()
}

// answer reads until stream id has its header, or is reset, or the connection
// ends: then it is 0.
func (f *frames) answer(id uint32) (status int) {
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			return 0
		}
		switch fr := fr.(type) {
		case *http2.MetaHeadersFrame:
			if fr.StreamID == id {
				fmt.Sscan(fr.PseudoValue("status"), &status)
				return status
			}
		case *http2.RSTStreamFrame:
			if fr.StreamID == id {
				return 0
			}
		}
	}
}

// TestH2Raw: what is malformed is refused, by us or by net/http: 0 is a reset
// stream.
func TestH2Raw(t *testing.T) {
	testenv.Leaks(t)
	s := serveTLS(t, vassal.HTTPS, vassal.HTTPLimits{HeaderBytes: 8 << 10, Fields: 20, BodyBytes: 100}, echo, nil)
	base := []string{":method", "GET", ":scheme", "https", ":authority", "x", ":path", "/"}
	with := func(kv ...string) []string { return append(append([]string{}, base...), kv...) }
	set := func(name, value string) []string {
		out := append([]string{}, base...)
		for i := 0; i < len(out); i += 2 {
			if out[i] == name {
				out[i+1] = value
			}
		}
		return out
	}
	many := base
	for i := range 21 {
		many = append(many, fmt.Sprintf("x-%d", i), "a")
	}
	// Refused by us, or by net/http when it comes first.
	const either = -1
	for _, c := range []struct {
		name string
		kv   []string
		body string // "-": there is none
		want int
	}{
		{"plain", base, "-", 200},
		{"body", with("content-length", "3"), "abc", 200},
		{"body of unknown length", base, "abc", 200},
		{"two lengths", with("content-length", "3", "content-length", "3"), "abc", 400},
		{"length list", with("content-length", "3, 3"), "abc", either},
		{"length junk", with("content-length", "+3"), "abc", either},
		{"length without body", with("content-length", "3"), "-", 400},
		{"body longer", with("content-length", "2"), "abc", 0},
		{"body shorter", with("content-length", "4"), "abc", 400},
		{"body over the limit", with("content-length", "101"), strings.Repeat("a", 101), 413},
		{"body over the limit, unknown", base, strings.Repeat("a", 101), 413},
		{"connection", with("connection", "close"), "-", 400},
		{"transfer-encoding", with("transfer-encoding", "chunked"), "abc", 400},
		{"upgrade", with("upgrade", "websocket"), "-", 400},
		{"te", with("te", "gzip"), "-", 400},
		{"upper case", with("X-A", "b"), "-", 0},
		{"space in name", with("x a", "b"), "-", 0},
		{"LF in value", with("x-a", "b\nc"), "-", 0},
		{"NUL in value", with("x-a", "b\x00c"), "-", 0},
		{"host as well", with("host", "x"), "-", 200},
		{"another host", with("host", "y"), "-", 400},
		{"two hosts", with("host", "x", "host", "x"), "-", 400},
		{"no authority", append([]string{":method", "GET", ":scheme", "https", ":path", "/"}, "host", "x"), "-", 200},
		{"no host at all", []string{":method", "GET", ":scheme", "https", ":path", "/"}, "-", 400},
		{"userinfo", set(":authority", "u@x"), "-", 0},
		{"bad authority", set(":authority", "x/y"), "-", 400},
		{"absolute", set(":path", "http://x/"), "-", 400},
		{"relative", set(":path", "a"), "-", 0},
		{"asterisk", set(":path", "*"), "-", 400},
		{"fragment", set(":path", "/#a"), "-", 400},
		{"8 bit path", set(":path", "/caf\xc3\xa9?q=\xff"), "-", 200},
		{"DEL in path", set(":path", "/\x7f"), "-", 0},
		{"control in query", set(":path", "/?\x01"), "-", 0},
		{"space in path", set(":path", "/a b"), "-", 400},
		{"climbs", set(":path", "/a/../../b"), "-", 400},
		{"NUL escape", set(":path", "/%00"), "-", 400},
		{"lower case method", set(":method", "get"), "-", 400},
		{"connect", []string{":method", "CONNECT", ":authority", "x:1"}, "-", 501},
		{"extended connect", with(":protocol", "websocket"), "-", 0},
		{"unknown pseudo field", with(":x", "y"), "-", 0},
		{"scheme", set(":scheme", "ftp"), "-", 0},
		{"expectation", with("expect", "200-ok"), "-", 417},
		{"many fields", many, "-", 431},
		{"length list, no body", with("content-length", "0, 0"), "-", 400},
		{"large header", with("x-a", strings.Repeat("a", 3000), "x-b", strings.Repeat("b", 3000), "x-c", strings.Repeat("c", 3000)), "-", 431},
		{"large field", with("x-a", strings.Repeat("a", 9000)), "-", either},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := s.frames(t)
			p := http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block(c.kv...), EndHeaders: true, EndStream: c.body == "-"}
			if err := f.WriteHeaders(p); err != nil {
				t.Fatal(err)
			}
			if c.body != "-" {
				if err := f.WriteData(1, true, []byte(c.body)); err != nil {
					t.Fatal(err)
				}
			}
			if got := f.answer(1); got != c.want && !(c.want == either && (got == 0 || got == 400 || got == 431)) {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

// TestH2SentAhead: what a client may send of bodies that nobody reads is what
// the manual says.
func TestH2SentAhead(t *testing.T) {
	testenv.Leaks(t)
	const most = 128 << 10
	s := serveTLS(t, vassal.HTTPS, keepAlive, hello, nil)
	f := s.frames(t)
	stream, all := uint32(0), uint32(65535) // RFC 9113 6.9.2: what a connection begins with
	for stream == 0 || all == 65535 {
		fr, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch fr := fr.(type) {
		case *http2.SettingsFrame:
			if n, ok := fr.Value(http2.SettingInitialWindowSize); ok {
				stream = n
			}
		case *http2.WindowUpdateFrame:
			all += fr.Increment
		}
	}
	if stream != most || all != 100*most {
		t.Errorf("%d of a stream, %d of a connection, want %d of each of 100", stream, all, most)
	}
}

// TestH2BodiesInTurn: bodies of a connection that wait for an application keep
// nothing from the one that it reads.
func TestH2BodiesInTurn(t *testing.T) {
	testenv.Leaks(t)
	const all, size = 8, 1 << 20
	var come sync.WaitGroup
	come.Add(all)
	one := make(chan bool, 1)
	s := serveTLS(t, vassal.HTTPS, vassal.HTTPLimits{KeepAlive: true, BodyTimeout: 2 * time.Second}, func(ctx context.Context, r *exchange.Request, w exchange.Response) error {
		if r.Length == 0 {
			return hello(ctx, r, w)
		}
		come.Done()
		come.Wait()
		one <- true
		defer func() { <-one }()
		if n, err := io.Copy(io.Discard, r.Body); err != nil || n != size {
			return fmt.Errorf("%d bytes: %w", n, err)
		}
		return hello(ctx, r, w)
	}, nil)
	c := s.httpClient(t)
	if _, err := c.Head("https://" + s.addr); err != nil { // the connection that all go over
		t.Fatal(err)
	}
	var asked sync.WaitGroup
	for range all {
		asked.Go(func() {
			res, err := c.Post("https://"+s.addr, "text/plain", bytes.NewReader(make([]byte, size)))
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			if res.StatusCode != 200 || res.ProtoMajor != 2 {
				t.Error(res.Status, res.Proto)
			}
		})
	}
	asked.Wait()
}

// TestH2Reset: streams that are opened and reset at once (CVE-2023-44487) never
// have more handlers than may run, and the server goes on to serve others.
func TestH2Reset(t *testing.T) {
	testenv.Leaks(t)
	var now, most atomic.Int64
	release := make(chan struct{})
	s := serveTLS(t, vassal.HTTPS, vassal.HTTPLimits{}, func(ctx context.Context, r *exchange.Request, w exchange.Response) error {
		if r.Get("PATH_INFO") == "/" {
			n := now.Add(1)
			defer now.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			<-release
		}
		return hello(ctx, r, w)
	}, nil)
	f := s.frames(t)
	var err error
	opened := 0
	for id := uint32(1); err == nil && opened < 5000; id += 2 {
		if err = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.block(":method", "GET", ":scheme", "https", ":authority", "x", ":path", "/"), EndHeaders: true, EndStream: true}); err == nil {
			err = f.WriteRSTStream(id, http2.ErrCodeCancel)
		}
		opened++
	}
	for err == nil { // what the server says: it ends the connection
		var fr http2.Frame
		fr, err = f.ReadFrame()
		if g, ok := fr.(*http2.GoAwayFrame); ok && g.ErrCode != http2.ErrCodeEnhanceYourCalm {
			t.Errorf("goaway: %v", g.ErrCode)
		}
	}
	if m := most.Load(); m > maxStreams {
		t.Errorf("%d handlers at once, of %d allowed", m, maxStreams)
	}
	res, err := s.httpClient(t).Get("https://" + s.addr + "/other")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	close(release)
}

// TestH2Continuation: a header without end ends the connection (CVE-2023-45288)
// before it has cost much.
func TestH2Continuation(t *testing.T) {
	testenv.Leaks(t)
	s := serveTLS(t, vassal.HTTPS, vassal.HTTPLimits{HeaderBytes: 8 << 10}, hello, nil)
	f := s.frames(t)
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block(":method", "GET", ":scheme", "https", ":authority", "x", ":path", "/"), EndStream: true}); err != nil {
		t.Fatal(err)
	}
	sent := 0
	piece := bytes.Clone(f.block("x-a", strings.Repeat("a", 8000)))
	var err error
	for sent < 64<<20 {
		if err = f.WriteContinuation(1, false, piece); err != nil {
			break
		}
		sent += len(piece)
	}
	if err == nil {
		t.Errorf("%d bytes of a header were taken", sent)
	}
}

// TestH2Answer: what a backend says is checked and framed, and what breaks off
// does not look whole.
func TestH2Answer(t *testing.T) {
	testenv.Leaks(t)
	big := strings.Repeat("0123456789abcdef", 8<<10)
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte(big), 0o600); err != nil {
		t.Fatal(err)
	}
	open, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	write := func(w exchange.Response, status int, f []exchange.Field, body ...string) error {
		if err := w.Head(status, "", f); err != nil {
			return err
		}
		for _, b := range body {
			if _, err := io.WriteString(w, b); err != nil {
				return err
			}
		}
		return nil
	}
	handlers := map[string]exchange.HandlerFunc{
		"small": func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
			return write(w, 200, nil, "a", "b")
		},
		"big": func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
			return write(w, 200, nil, big, "x")
		},
		"counted": func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
			return write(w, 200, fields("Content-Length", "3"), "abc")
		},
		"short": func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
			return write(w, 200, fields("Content-Length", "4"), "abc")
		},
		"short later": func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
			return write(w, 200, fields("Content-Length", "999999"), big)
		},
		"long": func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
			return write(w, 200, fields("Content-Length", "2"), "abc")
		},
		"no content": func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
			return write(w, 204, nil, "abc")
		},
		"hop": func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
			return write(w, 200, fields("Connection", "close", "Upgrade", "x", "Keep-Alive", "1", "X-A", "1", "x-a", "2"), "a")
		},
		"chunked": func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
			return write(w, 200, fields("Transfer-Encoding", "chunked"), "a")
		},
		"bad name": func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
			return write(w, 200, fields("A b", "1"), "a")
		},
		"bad value": func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
			return write(w, 200, fields("A", "1\r\nB: 2"), "a")
		},
		"bad status": func(_ context.Context, _ *exchange.Request, w exchange.Response) error { return write(w, 101, nil) },
		"two lengths": func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
			return write(w, 200, fields("Content-Length", "1", "Content-Length", "1"), "a")
		},
		"no answer": func(context.Context, *exchange.Request, exchange.Response) error { return nil },
		"error":     func(context.Context, *exchange.Request, exchange.Response) error { return errors.New("oh") },
		"retry": func(context.Context, *exchange.Request, exchange.Response) error {
			return &exchange.StatusError{Status: 503, RetryAfter: 1500 * time.Millisecond, Err: errors.New("oh")}
		},
		"error after": func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
			return errors.Join(write(w, 200, nil, "a"), errors.New("oh"))
		},
		"error late": func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
			return errors.Join(write(w, 200, nil, big), errors.New("oh"))
		},
		"file": func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
			return errors.Join(write(w, 206, nil, "<"), w.File(open, 16, 100_000))
		},
		"file shrinks": func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
			return errors.Join(write(w, 200, fields("Content-Length", "999999")), w.File(open, 0, 999_999))
		},
		"flush": func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
			return errors.Join(write(w, 200, nil, "a"), w.Flush(), func() error { _, err := io.WriteString(w, "b"); return err }())
		},
	}
	s := serveTLS(t, vassal.HTTPS, keepAlive, func(ctx context.Context, r *exchange.Request, w exchange.Response) error {
		return handlers[strings.TrimPrefix(r.Get("PATH_INFO"), "/")](ctx, r, w)
	}, nil)
	c := s.httpClient(t)
	for _, tt := range []struct {
		name   string
		status int
		body   string // "!": it breaks off
		field  string // name=value
	}{
		{"small", 200, "ab", "Content-Length=2"}, {"big", 200, big + "x", "Content-Length="}, {"counted", 200, "abc", "Content-Length=3"},
		{"short", 502, "502 Bad Gateway\n", ""}, {"short later", 200, "!", ""}, {"long", 502, "502 Bad Gateway\n", ""}, {"no content", 204, "", "Content-Length="},
		{"hop", 200, "a", "X-A=1,2"}, {"hop", 200, "a", "Upgrade="}, {"hop", 200, "a", "Content-Type="},
		{"chunked", 502, "502 Bad Gateway\n", ""}, {"bad name", 502, "502 Bad Gateway\n", ""}, {"bad value", 502, "502 Bad Gateway\n", "B="},
		{"bad status", 502, "502 Bad Gateway\n", ""}, {"two lengths", 502, "502 Bad Gateway\n", ""},
		{"no answer", 502, "502 Bad Gateway\n", ""}, {"error", 500, "500 Internal Server Error\n", ""}, {"retry", 503, "503 Service Unavailable\n", "Retry-After=2"},
		{"error after", 500, "500 Internal Server Error\n", ""}, {"error late", 200, "!", ""},
		{"file", 206, "<" + big[16:100_016], ""}, {"file shrinks", 200, "!", ""}, {"flush", 200, "ab", ""},
	} {
		res, err := c.Get("https://" + s.addr + "/" + strings.ReplaceAll(tt.name, " ", "%20"))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if cut := err != nil; cut != (tt.body == "!") {
			t.Errorf("%s: %v", tt.name, err)
		}
		if res.StatusCode != tt.status || tt.body != "!" && string(b) != tt.body {
			t.Errorf("%s: %d, %d bytes %.40q", tt.name, res.StatusCode, len(b), b)
		}
		if name, want, ok := strings.Cut(tt.field, "="); ok && strings.Join(res.Header[name], ",") != want {
			t.Errorf("%s: %s is %q, want %q", tt.name, name, res.Header[name], want)
		}
	}
	res, err := c.Head("https://" + s.addr + "/big")
	if err != nil || res.StatusCode != 200 || res.ContentLength > 0 {
		t.Errorf("HEAD: %v %+v", err, res)
	}
}

// TestH2Slow: a client that sends no more of a body gets 408; one that reads no
// more of an answer loses it. Neither holds a handler.
func TestH2Slow(t *testing.T) {
	testenv.Leaks(t)
	ended := make(chan error, 2)
	limits := vassal.HTTPLimits{BodyTimeout: 100 * time.Millisecond, WriteTimeout: 200 * time.Millisecond}
	s := serveTLS(t, vassal.HTTPS, limits, func(_ context.Context, r *exchange.Request, w exchange.Response) error {
		if r.Get("REQUEST_METHOD") == "POST" {
			_, err := io.ReadAll(r.Body)
			ended <- err
			return err
		}
		if err := w.Head(200, "", nil); err != nil {
			return err
		}
		var err error
		for err == nil {
			_, err = w.Write(make([]byte, 32<<10))
		}
		ended <- err
		return err
	}, nil)
	f := s.frames(t)
	head := func(id uint32, method string) {
		t.Helper()
		if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.block(":method", method, ":scheme", "https", ":authority", "x", ":path", "/"), EndHeaders: true, EndStream: method == "GET"}); err != nil {
			t.Fatal(err)
		}
	}
	head(1, "POST")
	if err := f.WriteData(1, false, []byte("some")); err != nil {
		t.Fatal(err)
	}
	if got := f.answer(1); got != 408 {
		t.Errorf("slow body: %d", got)
	}
	if err := <-ended; !errors.Is(err, errBodyTimeout) {
		t.Error(err)
	}
	head(3, "GET") // and no window beyond the first
	if got := f.answer(3); got != 200 {
		t.Errorf("slow reader: %d", got)
	}
	if err := <-ended; !errors.Is(err, errClientGone) {
		t.Error(err)
	}
}

// TestH2SlowApplication: timeouts are for clients. An application may take as long
// as it likes between two reads of a body, and between two events that it sends.
func TestH2SlowApplication(t *testing.T) {
	testenv.Leaks(t)
	const timeout = 100 * time.Millisecond
	s := serveTLS(t, vassal.HTTPS, vassal.HTTPLimits{BodyTimeout: timeout, WriteTimeout: timeout, KeepAlive: true}, func(_ context.Context, r *exchange.Request, w exchange.Response) error {
		if _, err := io.ReadFull(r.Body, make([]byte, 1<<10)); err != nil {
			return err
		}
		<-time.After(3 * timeout)
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return err
		}
		if err := w.Head(200, "", nil); err != nil {
			return err
		}
		for range 2 {
			if _, err := io.WriteString(w, "event"); err != nil {
				return err
			}
			if err := w.Flush(); err != nil {
				return err
			}
			<-time.After(3 * timeout)
		}
		return nil
	}, nil)
	res, err := s.httpClient(t).Post("https://"+s.addr, "text/plain", bytes.NewReader(make([]byte, 1<<20)))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); res.StatusCode != 200 || string(b) != "eventevent" || err != nil {
		t.Errorf("%s %q, %v", res.Status, b, err)
	}
}

// TestH2Ping: a silent client is asked for a sign of life when a body would be
// given up, and may take its time for the answer.
func TestH2Ping(t *testing.T) {
	testenv.Leaks(t)
	s := serveTLS(t, vassal.HTTPS, vassal.HTTPLimits{BodyTimeout: 200 * time.Millisecond, WriteTimeout: 300 * time.Millisecond, KeepAlive: true}, hello, nil)
	f := s.frames(t)
	begin, asked := time.Now(), time.Duration(0)
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			break
		}
		if _, ok := fr.(*http2.PingFrame); ok {
			asked = time.Since(begin)
		}
	}
	if cut := time.Since(begin); asked < 200*time.Millisecond || cut < asked+290*time.Millisecond {
		t.Errorf("asked after %v, cut after %v", asked, cut)
	}
}

// TestH2FileCut: of a file that a client stops reading, what was sent counts.
func TestH2FileCut(t *testing.T) {
	testenv.Leaks(t)
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	s := serveTLS(t, vassal.HTTPS, vassal.HTTPLimits{WriteTimeout: 100 * time.Millisecond, KeepAlive: true}, func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
		if err := w.Head(200, "", nil); err != nil {
			return err
		}
		return w.File(file, 0, 1<<20)
	}, nil)
	f := s.frames(t)
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block(":method", "GET", ":scheme", "https", ":authority", "x", ":path", "/"), EndHeaders: true, EndStream: true})
	f.answer(1)
	for end := time.Now().Add(10 * time.Second); len(s.infos()) == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if infos := s.infos(); len(infos) != 1 || infos[0].Bytes > 256<<10 { // its window has 64 KiB
		t.Errorf("%+v", infos)
	}
}

// TestH2Drain: a request that runs is finished, an idle connection is told to
// go (GOAWAY), and the end comes soon.
func TestH2Drain(t *testing.T) {
	testenv.Leaks(t)
	started, release := make(chan struct{}), make(chan struct{})
	s := serveTLS(t, vassal.HTTPS, keepAlive, func(ctx context.Context, r *exchange.Request, w exchange.Response) error {
		if r.Get("PATH_INFO") == "/slow" {
			close(started)
			<-release
		}
		return hello(ctx, r, w)
	}, nil)
	idle := s.frames(t)
	idle.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: idle.block(":method", "GET", ":scheme", "https", ":authority", "x", ":path", "/"), EndHeaders: true, EndStream: true})
	if idle.answer(1) != 200 {
		t.Fatal("no answer")
	}
	got := make(chan error, 1)
	go func() {
		res, err := s.httpClient(t).Get("https://" + s.addr + "/slow")
		if err == nil {
			_, err = io.ReadAll(res.Body)
			res.Body.Close()
		}
		got <- err
	}()
	<-started
	stopped := make(chan struct{})
	go func() { s.stop(); close(stopped) }()
	away := false
	for {
		fr, err := idle.ReadFrame()
		if err != nil {
			break
		}
		if g, ok := fr.(*http2.GoAwayFrame); ok {
			away = g.ErrCode == http2.ErrCodeNo
		}
	}
	if !away {
		t.Error("the idle connection ended without GOAWAY")
	}
	close(release)
	if err := <-got; err != nil {
		t.Errorf("the running request: %v", err)
	}
	<-stopped
}

// TestH2GraceOfLate: a client that was in its handshake at the moment of the
// drain gets its answer, however long that takes, and is told to go; one that
// then says nothing has no longer than by HTTP/1.1.
func TestH2GraceOfLate(t *testing.T) {
	for _, asks := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			cert := testcert.New(t, testcert.Cert{Name: "localhost"})
			s := New(Config{Done: func(*exchange.Request) {}, Log: slog.New(slog.DiscardHandler),
				Handler: exchange.HandlerFunc(func(ctx context.Context, r *exchange.Request, w exchange.Response) error {
					time.Sleep(2 * freshGrace)
					return hello(ctx, r, w)
				})})
			var err error
			if s.h2, err = s.newH2(); err != nil {
				t.Fatal(err)
			}
			s.h2conns = map[net.Conn]*conn{}
			s.drain(t.Context())
			mine, theirs := net.Pipe()
			ended := make(chan time.Duration, 1)
			begin := time.Now()
			go func() {
				s.one(t.Context(), theirs, &Listener{Protocol: vassal.HTTPS, Secure: &Secure{Config: &tls.Config{
					Certificates: []tls.Certificate{cert.TLS(t)}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}}}})
				ended <- time.Since(begin)
			}()
			conf := testcert.Trusting(cert)
			conf.ServerName, conf.NextProtos = "localhost", []string{"h2"}
			tr := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true,
				DialContext: func(context.Context, string, string) (net.Conn, error) { return mine, nil }}
			cc, err := tr.NewClientConn(t.Context(), "https", "localhost:443")
			if err != nil {
				t.Fatal(err)
			}
			if asks {
				req, _ := http.NewRequest("GET", "https://localhost/", nil)
				res, err := cc.RoundTrip(req)
				if err != nil {
					t.Error(err)
				} else {
					res.Body.Close()
				}
				synctest.Wait()
				if cc.Available() > 0 {
					t.Error("the client was not told to go")
				}
			}
			took := <-ended
			if asks && took < 2*freshGrace || !asks && took != freshGrace {
				t.Errorf("asks: %t: ended after %v", asks, took)
			}
			mine.Close()
		})
	}
}

// TestH2ConnectionLimit: an idle connection makes room for another.
func TestH2ConnectionLimit(t *testing.T) {
	testenv.Leaks(t)
	s := serveTLS(t, vassal.HTTPS, vassal.HTTPLimits{Connections: 2, KeepAlive: true}, hello, nil)
	for range 5 {
		f := s.frames(t)
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block(":method", "GET", ":scheme", "https", ":authority", "x", ":path", "/"), EndHeaders: true, EndStream: true})
		if got := f.answer(1); got != 200 {
			t.Fatalf("got %d", got)
		}
	}
}

// TestH2StreamLimit: all connections together have no more requests at once
// than HTTP/1.1 could have.
func TestH2StreamLimit(t *testing.T) {
	release := make(chan struct{})
	s := serveTLS(t, vassal.HTTPS, vassal.HTTPLimits{Connections: 3, KeepAlive: true}, func(ctx context.Context, r *exchange.Request, w exchange.Response) error {
		<-release
		return hello(ctx, r, w)
	}, nil)
	f := s.frames(t)
	for id := uint32(1); id <= 7; id += 2 {
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.block(":method", "GET", ":scheme", "https", ":authority", "x", ":path", "/"), EndHeaders: true, EndStream: true})
	}
	refused := 0
	for n := 0; n < 4; n++ {
		fr, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		h, ok := fr.(*http2.MetaHeadersFrame)
		if !ok {
			n--
			continue
		}
		if h.PseudoValue("status") == "503" {
			refused++
			close(release)
		}
	}
	if refused != 1 {
		t.Errorf("%d of four were refused, want one", refused)
	}
}

// TestH2Informational: responses before the answer; their fields are not of it.
func TestH2Informational(t *testing.T) {
	testenv.Leaks(t)
	s := serveTLS(t, vassal.HTTPS, keepAlive, func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
		exchange.SendInformational(w, 103, fields("Link", "</a>; rel=preload", "Content-Length", "7", "Connection", "x"))
		exchange.SendInformational(w, 101, nil)
		return answerWith(200, "", fields("X-A", "b"), nil, "hello")(context.Background(), nil, w)
	}, nil)
	var said []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		said = append(said, fmt.Sprint(code, h))
		return nil
	}})
	req, err := http.NewRequestWithContext(ctx, "GET", "https://"+s.addr+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	c := s.httpClient(t)
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if want := "[103 map[Link:[</a>; rel=preload]]]"; err != nil || res.ProtoMajor != 2 || string(b) != "hello" || fmt.Sprint(said) != want || res.Header.Get("Link") != "" || res.Header.Get("X-A") != "b" {
		t.Errorf("%v %q, %v, want %s; %v", err, b, said, want, res.Header)
	}
	c.CloseIdleConnections()
	s.stop()
}
