package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"liege/internal/testcert"
	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/serve/front"
	"liege/vassal"
)

// h2cServer runs h as a server that speaks HTTP/2 without TLS at a unix socket.
func h2cServer(t *testing.T, h http.Handler, edit ...func(*http.Server)) (addr string, s *http.Server) {
	t.Helper()
	addr = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", addr)
	if err != nil {
		t.Fatal(err)
	}
	s = &http.Server{Handler: h, Protocols: new(http.Protocols)}
	s.Protocols.SetUnencryptedHTTP2(true)
	for _, e := range edit {
		e(s)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-ended })
	return addr, s
}

// h2cFront is our own front with TLS before addr, and a client of it by HTTP/2.
func h2cFront(t *testing.T, c *Client, addr string) (base string, client *http.Client) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cert := testcert.New(t, testcert.Cert{Name: "localhost"})
	s := front.New(front.Config{Hostname: "x", Log: slog.New(slog.DiscardHandler), Done: func(*exchange.Request) {},
		Limits: vassal.HTTPLimits{BodyTimeout: 20 * time.Millisecond}, // a client that waits for its turn is not slow
		Handler: exchange.HandlerFunc(func(ctx context.Context, r *exchange.Request, w exchange.Response) error {
			return c.H2C(ctx, r, w, Target{Address: addr})
		})})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	secure := &front.Secure{Config: &tls.Config{Certificates: []tls.Certificate{cert.TLS(t)}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}}
	go func() { ended <- s.Run(ctx, []front.Listener{{Listener: l, Protocol: vassal.HTTPS, Secure: secure}}) }()
	tr := &http.Transport{TLSClientConfig: testcert.Trusting(cert), ForceAttemptHTTP2: true, DisableCompression: true}
	t.Cleanup(func() { tr.CloseIdleConnections(); stop(); <-ended })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return "https://localhost:" + port, &http.Client{Transport: tr}
}

// TestH2CEcho: a call as gRPC makes it: both sides talk in turn while neither
// has ended, and say the rest in trailers.
func TestH2CEcho(t *testing.T) {
	addr, _ := h2cServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s %s %q %q\n", r.Proto, r.Method, r.Host, r.RequestURI, r.Header["Te"], r.Header["Grpc-Timeout"])
		http.NewResponseController(w).Flush()
		br := bufio.NewReader(r.Body)
		for {
			line, err := br.ReadString('\n')
			if err != nil {
				break
			}
			io.WriteString(w, "echo "+line)
			http.NewResponseController(w).Flush()
		}
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "said "+r.Trailer.Get("X-Last"))
	}))
	c := newPatient(t, 30*time.Second)
	base, client := h2cFront(t, c, addr)
	pr, pw := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "POST", base+"//a%2Fb?q=%20", pr)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("TE", "trailers")
	req.Header.Set("Grpc-Timeout", "5S")
	req.Trailer = http.Header{"X-Last": nil}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	br := bufio.NewReader(res.Body)
	_, port, _ := strings.Cut(base, "localhost")
	if line, err := br.ReadString('\n'); err != nil || line != fmt.Sprintf("HTTP/2.0 POST localhost%s //a%%2Fb?q=%%20 [\"trailers\"] [\"5S\"]\n", port) {
		t.Errorf("%q %v", line, err)
	}
	for i := range 3 {
		time.Sleep(50 * time.Millisecond) // more than the front gives a body
		fmt.Fprintf(pw, "line %d\n", i)
		if line, err := br.ReadString('\n'); err != nil || line != fmt.Sprintf("echo line %d\n", i) {
			t.Errorf("%q %v", line, err)
		}
	}
	req.Trailer.Set("X-Last", "goodbye")
	pw.Close()
	if _, err := io.ReadAll(br); err != nil {
		t.Error(err)
	}
	if res.Trailer.Get("Grpc-Status") != "0" || res.Trailer.Get("Grpc-Message") != "said goodbye" {
		t.Errorf("trailers %v", res.Trailer)
	}
}

// TestH2CAnswers: statuses and bodies of all kinds come through, with trailers
// alone as well.
func TestH2CAnswers(t *testing.T) {
	addr, _ := h2cServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/none":
			w.WriteHeader(204)
		case "/only":
			w.Header().Set("Grpc-Status", "12")
		case "/length":
			w.Header().Set("Content-Length", "4")
			io.WriteString(w, "body")
		case "/early": // and the rest of the body is not wanted
			w.WriteHeader(413)
			io.WriteString(w, "too much")
		case "/reset":
			panic(http.ErrAbortHandler)
		case "/half":
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "/count":
			n, _ := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n)
		}
	}))
	base, client := h2cFront(t, newPatient(t, 30*time.Second), addr)
	for _, c := range []struct {
		method, path string
		body         io.Reader
		want         string
	}{
		{"GET", "/none", nil, "204 \"\""}, {"GET", "/only", nil, "200 \"\" 12"}, {"GET", "/length", nil, "200 \"body\""}, {"HEAD", "/length", nil, "200 \"\""},
		{"POST", "/early", io.LimitReader(zeros{}, 1<<40), "413 \"too much\""}, {"GET", "/reset", nil, "502"}, {"GET", "/half", nil, "200 cut"},
		{"POST", "/count", io.LimitReader(zeros{}, 5<<20), "200 \"5242880\""}, {"POST", "/count", strings.NewReader("four"), "200 \"4\""}, {"POST", "/count", nil, "200 \"0\""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, base+c.path, c.body)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Errorf("%s: %v", c.path, err)
			continue
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		got := fmt.Sprintf("%d %q", res.StatusCode, b)
		switch {
		case res.StatusCode == 502:
			got = "502"
		case err != nil:
			got = fmt.Sprintf("%d cut", res.StatusCode)
		case res.Header.Get("Grpc-Status") != "":
			got += " " + res.Header.Get("Grpc-Status")
		}
		if got != c.want {
			t.Errorf("%s %s: %s %v, want %s", c.method, c.path, got, err, c.want)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestH2CLeaves: a client that leaves is told on, though nothing is sent.
func TestH2CLeaves(t *testing.T) {
	testenv.Leaks(t)
	told := make(chan error, 1)
	addr, _ := h2cServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		told <- nil
	}))
	c := New(Limits{Silence: time.Hour}, slog.New(slog.DiscardHandler))
	t.Cleanup(c.Close)
	base, client := h2cFront(t, c, addr)
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", base+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	leave()
	res.Body.Close()
	select {
	case <-told:
	case <-time.After(30 * time.Second):
		t.Error("the server was not told")
	}
}

// TestH2CForgets: of servers that have ended nothing stays.
func TestH2CForgets(t *testing.T) {
	testenv.Leaks(t)
	c := newClient(t)
	for range 3 {
		addr, s := h2cServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		if err := c.H2C(t.Context(), newRequest("GET", "/", ""), &answered{}, Target{Address: addr}); err != nil {
			t.Fatal(err)
		}
		s.Close()
		for i := 0; ; i++ { // until the client knows
			c.h2c.mu.Lock()
			lives, n := c.h2c.to[addr].lives(), len(c.h2c.to)
			c.h2c.mu.Unlock()
			if n != 1 || i == 5000 {
				t.Fatalf("%d servers are known, this one lives: %t", n, lives)
			}
			if !lives {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// TestH2CShares: requests share connections, and those whose answers are not
// taken do not keep others waiting.
func TestH2CShares(t *testing.T) {
	testenv.Leaks(t)
	var conns atomic.Int64
	addr, _ := h2cServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/big" {
			io.Copy(w, zeros{})
			return
		}
		io.WriteString(w, "small")
	}), func(s *http.Server) {
		s.ConnState = func(_ net.Conn, st http.ConnState) {
			if st == http.StateNew {
				conns.Add(1)
			}
		}
	})
	c := New(Limits{Silence: 30 * time.Second}, slog.New(slog.DiscardHandler))
	t.Cleanup(c.Close)
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	const slow = 2*h2cRequests + 10
	stuck := make(chan struct{}, slow)
	for range slow {
		all.Go(func() {
			c.H2C(ctx, newRequest("GET", "/big", ""), &stalled{ctx: ctx, stuck: stuck}, Target{Address: addr})
		})
	}
	for range slow {
		<-stuck
	}
	for range 20 {
		a := &answered{}
		if err := c.H2C(ctx, newRequest("GET", "/", ""), a, Target{Address: addr}); err != nil || a.text() != "small" {
			t.Fatalf("%q %v", a.text(), err)
		}
	}
	if n := conns.Load(); n != 3 {
		t.Errorf("%d connections for %d requests, want 3", n, slow)
	}
	stop()
	all.Wait()
}

// stalled is a Response that takes nothing after the first piece.
type stalled struct {
	answered
	ctx   context.Context
	stuck chan<- struct{}
	once  sync.Once
}

func (s *stalled) Write([]byte) (int, error) {
	s.once.Do(func() { s.stuck <- struct{}{} })
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

// frames is the server's end of a connection by HTTP/2, for one that lies.
type frames struct {
	*http2.Framer
	c    net.Conn
	buf  strings.Builder
	henc *hpack.Encoder
}

func (f *frames) block(kv ...string) []byte {
	f.buf.Reset()
	for i := 0; i < len(kv); i += 2 {
		_ = f.henc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]})
	}
	return []byte(f.buf.String())
}

func (f *frames) answer(id uint32, end bool, kv ...string) {
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, EndStream: end, BlockFragment: f.block(append([]string{":status", "200"}, kv...)...)})
}

// liar serves connections with settings, and calls do with each request's
// stream.
func liar(t *testing.T, settings []http2.Setting, do func(f *frames, id uint32)) string {
	return server(t, "unix", func(c net.Conn) {
		io.ReadFull(c, make([]byte, len(http2.ClientPreface)))
		f := &frames{Framer: http2.NewFramer(c, c), c: c}
		f.henc = hpack.NewEncoder(&f.buf)
		f.WriteSettings(settings...)
		for {
			fr, err := f.ReadFrame()
			if err != nil {
				return
			}
			switch fr := fr.(type) {
			case *http2.SettingsFrame:
				if !fr.IsAck() {
					f.WriteSettingsAck()
				}
			case *http2.PingFrame:
				f.WritePing(true, fr.Data)
			case *http2.HeadersFrame:
				do(f, fr.StreamID)
			}
		}
	})
}

// TestH2CLies: whatever a server does, there is an answer with the right
// status, or one that a client can tell was cut, in time; and the next request
// is served.
func TestH2CLies(t *testing.T) {
	testenv.Leaks(t)
	var lie atomic.Pointer[func(f *frames, id uint32)]
	long := strings.Repeat("x", 4000)
	for name, c := range map[string]struct {
		settings []http2.Setting
		do       func(f *frames, id uint32)
		body     int64
		want     string
		deaf     bool // it does not read any more
	}{
		"nothing":          {do: func(*frames, uint32) {}, want: "504"},
		"closes":           {do: func(f *frames, _ uint32) { f.c.Close() }, want: "502"},
		"garbage":          {do: func(f *frames, _ uint32) { io.WriteString(f.c, "HTTP/1.1 200 OK\r\n\r\nhello, this is no HTTP/2") }, want: "502"},
		"large frame":      {do: func(f *frames, id uint32) { f.answer(id, false); f.c.Write([]byte{0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1}) }, want: "cut"},
		"reset":            {do: func(f *frames, id uint32) { f.WriteRSTStream(id, http2.ErrCodeInternal) }, want: "502"},
		"refused for ever": {do: func(f *frames, id uint32) { f.WriteRSTStream(id, http2.ErrCodeRefusedStream) }, want: "502"},
		"goaway":           {do: func(f *frames, id uint32) { f.WriteGoAway(id, http2.ErrCodeEnhanceYourCalm, nil); f.c.Close() }, want: "502"},
		"goaway for ever":  {do: func(f *frames, id uint32) { f.WriteGoAway(0, http2.ErrCodeNo, nil) }, want: "502"},
		"half": {do: func(f *frames, id uint32) {
			f.answer(id, false)
			f.WriteData(id, false, []byte("half"))
			f.WriteRSTStream(id, http2.ErrCodeInternal)
		}, want: "cut"},
		"half and silence": {do: func(f *frames, id uint32) { f.answer(id, false); f.WriteData(id, false, []byte("half")) }, want: "cut"},
		"half and gone":    {do: func(f *frames, id uint32) { f.answer(id, false); f.WriteData(id, false, []byte("half")); f.c.Close() }, want: "cut"},
		"too short": {do: func(f *frames, id uint32) {
			f.answer(id, false, "content-length", "9")
			f.WriteData(id, true, []byte("half"))
		}, want: "cut"},
		"too long": {do: func(f *frames, id uint32) {
			f.answer(id, false, "content-length", "2")
			f.WriteData(id, true, []byte("half"))
		}, want: "cut"},
		"no status": {do: func(f *frames, id uint32) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, BlockFragment: f.block("a", "b")})
		}, want: "502"},
		"status 99": {do: func(f *frames, id uint32) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, BlockFragment: f.block(":status", "99")})
		}, want: "502"},
		"status 999": {do: func(f *frames, id uint32) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, EndStream: true, BlockFragment: f.block(":status", "999")})
		}, want: "502"},
		"switches protocols": {do: func(f *frames, id uint32) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, BlockFragment: f.block(":status", "101")})
		}, want: "504"},
		"1xx without end": {do: func(f *frames, id uint32) {
			for f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, BlockFragment: f.block(":status", "103", "link", long)}) == nil {
			}
		}, want: "502", deaf: true},
		"a large field list": {do: func(f *frames, id uint32) {
			kv := []string{":status", "200"}
			for i := range 100 {
				kv = append(kv, fmt.Sprint("a", i), long)
			}
			b := f.block(kv...)
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b[:16000]})
			for b = b[16000:]; len(b) > 16000; b = b[16000:] {
				f.WriteContinuation(id, false, b[:16000])
			}
			f.WriteContinuation(id, true, b)
		}, want: "502"},
		"many fields": {do: func(f *frames, id uint32) {
			kv := []string{":status", "200"}
			for i := range 1030 {
				kv = append(kv, fmt.Sprint("a", i), "b")
			}
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, EndStream: true, BlockFragment: f.block(kv...)})
		}, want: "502"},
		"headers without end": {do: func(f *frames, id uint32) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.block(":status", "200")})
			for f.WriteContinuation(id, false, f.block("a", long)) == nil {
			}
		}, want: "502", deaf: true},
		"no window":            {settings: []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}}, do: func(*frames, uint32) {}, body: 1 << 20, want: "504"},
		"a window that closes": {do: func(*frames, uint32) {}, body: 1 << 20, want: "504"},
		"too large a window":   {do: func(f *frames, id uint32) { f.WriteWindowUpdate(0, 1<<31-1) }, want: "502"},
		"no streams":           {settings: []http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: 0}}, do: func(*frames, uint32) {}, want: "50"}, // 504, or 502 where that was known
		"settings without end": {do: func(f *frames, _ uint32) {
			go io.Copy(io.Discard, f.c)
			for f.WriteSettings() == nil {
			}
		}, want: "50", deaf: true},
		"pings without end": {do: func(f *frames, _ uint32) {
			for f.WritePing(false, [8]byte{}) == nil {
			}
		}, want: "50", deaf: true},
		"a push": {do: func(f *frames, id uint32) {
			f.WritePushPromise(http2.PushPromiseParam{StreamID: id, PromiseID: 2, EndHeaders: true, BlockFragment: f.block(":method", "GET")})
		}, want: "502"},
		"another stream":      {do: func(f *frames, id uint32) { f.answer(id+100, true) }, want: "504"},
		"data for nobody":     {do: func(f *frames, id uint32) { f.WriteData(id, true, []byte("x")) }, want: "502"},
		"two answers":         {do: func(f *frames, id uint32) { f.answer(id, false); f.answer(id, false) }, want: "cut"},
		"an evil field":       {do: func(f *frames, id uint32) { f.answer(id, true, "a", "b\r\nSet-Cookie: x") }, want: "502"},
		"an upper case field": {do: func(f *frames, id uint32) { f.answer(id, true, "Upper", "b") }, want: "502"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := liar(t, c.settings, func(f *frames, id uint32) { (*lie.Load())(f, id) })
			silence := 30 * time.Second
			quiet := name == "pings without end" || name == "settings without end" || name == "no streams"
			if quiet || strings.HasPrefix(c.want, "504") || strings.HasPrefix(c.want, "cut") {
				silence = time.Second
			}
			client := newPatient(t, silence)
			lie.Store(&c.do)
			a, r := &answered{}, newRequest("GET", "/", "")
			if c.body > 0 {
				r.Set("REQUEST_METHOD", "POST")
				r.Body, r.Length = io.LimitReader(zeros{}, c.body), c.body
			}
			err := client.H2C(t.Context(), r, a, Target{Address: addr})
			got := "none"
			switch {
			case err != nil && a.Started():
				got = "cut"
			case err != nil:
				got = fmt.Sprint(exchange.StatusOf(err))
			}
			if !strings.HasPrefix(got, c.want) {
				t.Errorf("%s (%d %q) %v, want %s", got, a.status, a.text(), err, c.want)
			}
			if len(c.settings) > 0 || c.deaf {
				return
			}
			good := func(f *frames, id uint32) { f.answer(id, true, "a", "good") }
			lie.Store(&good)
			b := &answered{}
			if err := client.H2C(t.Context(), newRequest("GET", "/", ""), b, Target{Address: addr}); err != nil || b.field("A") != "good" {
				t.Errorf("afterwards: %d %v", b.status, err)
			}
		})
	}
}

// TestH2CAgain: what the server has not begun with is sent again, whatever the
// method; what it may have is not.
func TestH2CAgain(t *testing.T) {
	for name, c := range map[string]struct {
		no   func(f *frames, id uint32)
		want int
	}{
		"refused": {func(f *frames, id uint32) { f.WriteRSTStream(id, http2.ErrCodeRefusedStream) }, 2},
		"goaway":  {func(f *frames, id uint32) { f.WriteGoAway(0, http2.ErrCodeNo, nil) }, 2},
		"reset":   {func(f *frames, id uint32) { f.WriteRSTStream(id, http2.ErrCodeCancel) }, 1},
		"closed":  {func(f *frames, id uint32) { f.c.Close() }, 1},
	} {
		n := 0
		var mu sync.Mutex
		addr := liar(t, nil, func(f *frames, id uint32) {
			mu.Lock()
			defer mu.Unlock()
			if n++; n == 1 {
				c.no(f, id)
				return
			}
			f.answer(id, true)
		})
		a := &answered{}
		err := newPatient(t, 30*time.Second).H2C(t.Context(), newRequest("DELETE", "/", ""), a, Target{Address: addr})
		mu.Lock()
		if n != c.want || (err == nil) != (c.want == 2) {
			t.Errorf("%s: asked %d times, want %d: %d %v", name, n, c.want, a.status, err)
		}
		mu.Unlock()
	}
	if err := newPatient(t, 30*time.Second).H2C(t.Context(), newRequest("GET", "/", ""), &answered{}, Target{Address: filepath.Join(t.TempDir(), "none")}); !Unsent(err) {
		t.Errorf("nobody listens: %v", err)
	}
	addr := liar(t, []http2.Setting{{ID: http2.SettingMaxHeaderListSize, Val: 2000}}, func(f *frames, id uint32) { f.answer(id, true) })
	client := newPatient(t, 30*time.Second)
	if err := client.H2C(t.Context(), newRequest("GET", "/", ""), &answered{}, Target{Address: addr}); err != nil { // its settings are known then
		t.Error(err)
	}
	if err := client.H2C(t.Context(), newRequest("GET", "/", "", "HTTP_LONG="+strings.Repeat("x", 3000)), &answered{}, Target{Address: addr}); exchange.StatusOf(err) != 431 {
		t.Errorf("larger than the server takes: %v", err)
	}
}
