package worker

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/serve/exchange"
	"liege/vassal"
)

const chatty = `
import asyncio, os
log = open('events', 'a', 1)

async def application(scope, receive, send):
    if scope['type'] != 'websocket':
        assert scope['type'] == 'http', scope['type']
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        await send({'type': 'http.response.body', 'body': b'plain'})
        return
    path = scope['path']
    assert (await receive())['type'] == 'websocket.connect'
    if path == '/refuse':
        return await send({'type': 'websocket.close'})
    if path == '/deny':
        await send({'type': 'websocket.http.response.start', 'status': 402, 'headers': [(b'x-why', b'money')]})
        return await send({'type': 'websocket.http.response.body', 'body': b'pay'})
    if path == '/nothing':
        return
    await send({'type': 'websocket.accept', 'subprotocol': scope['subprotocols'][-1] if scope['subprotocols'] else None, 'headers': [(b'x-own', b'1')]})
    if path == '/boom':
        raise ValueError('boom')
    if path == '/return':
        return
    if path == '/die':
        os._exit(1)
    if path == '/deaf':
        await asyncio.sleep(0.5)
        await send({'type': 'websocket.close', 'code': 4001, 'reason': 'enough'})
        return
    while True:
        m = await receive()
        if m['type'] == 'websocket.disconnect':
            log.write('%d %s\n' % (m['code'], m['reason']))
            return
        if m.get('text') == 'close':
            await send({'type': 'websocket.close', 'code': 4000, 'reason': 'as you wish'})
            continue
        if m.get('text') is not None:
            await send({'type': 'websocket.send', 'text': m['text'] + '!'})
        else:
            await send({'type': 'websocket.send', 'bytes': m['bytes']})
`

// tunneler is a Response whose connection becomes a tunnel.
type tunneler struct {
	recorder
	conn   net.Conn
	fields []exchange.Field
	opened chan struct{}
}

func (w *tunneler) Tunnel(status int, _ string, fields []exchange.Field) (exchange.Stream, error) {
	w.status, w.fields = status, fields
	close(w.opened)
	return &end{Conn: w.conn}, nil
}

type end struct{ net.Conn }

func (e *end) CloseWrite() error { return e.Conn.(*net.TCPConn).CloseWrite() }

// client is a WebSocket's client.
type client struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
	w    *tunneler
	done chan error // of Serve
}

func dial(t *testing.T, r *running, path string) *client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); far.Close() })
	req := request("GET", path, "")
	for name, value := range map[string]string{"CONNECTION": "Upgrade", "UPGRADE": "websocket", "SEC_WEBSOCKET_VERSION": "13", "SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==", "SEC_WEBSOCKET_PROTOCOL": "one, two"} {
		req.Set("HTTP_"+name, value)
	}
	c := &client{t: t, conn: conn, r: bufio.NewReader(conn), w: &tunneler{recorder: recorder{keep: true}, conn: far, opened: make(chan struct{})}, done: make(chan error, 1)}
	go func() {
		err := r.Serve(t.Context(), req, c.w)
		far.Close()
		c.done <- err
	}()
	return c
}

// open waits for the 101.
func (c *client) open() *client {
	c.t.Helper()
	select {
	case <-c.w.opened:
	case err := <-c.done:
		c.t.Fatalf("not opened: %v", err)
	}
	return c
}

func (c *client) send(first byte, data string) {
	b := append([]byte{first, 0xff}, binary.BigEndian.AppendUint64(nil, uint64(len(data)))...)
	b = append(append(b, 0, 0, 0, 0), data...)
	if len(data) < 126 {
		b = append([]byte{first, 0x80 | byte(len(data)), 0, 0, 0, 0}, data...)
	}
	if _, err := c.conn.Write(b); err != nil {
		c.t.Error(err)
	}
}

// next is the next frame: its first byte and data.
func (c *client) next() (byte, string) {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	var h [2]byte
	if _, err := io.ReadFull(c.r, h[:]); err != nil {
		return 0xff, err.Error()
	}
	n := int(h[1])
	switch n {
	case 126:
		var b [2]byte
		_, _ = io.ReadFull(c.r, b[:])
		n = int(binary.BigEndian.Uint16(b[:]))
	case 127:
		var b [8]byte
		_, _ = io.ReadFull(c.r, b[:])
		n = int(binary.BigEndian.Uint64(b[:]))
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(c.r, data); err != nil {
		c.t.Error(err)
	}
	return h[0], string(data)
}

// message is the next message, of frames that may be many.
func (c *client) message() string {
	var out strings.Builder
	for {
		first, data := c.next()
		out.WriteString(data)
		if first&0x80 != 0 {
			return out.String()
		}
	}
}

func TestWebSocket(t *testing.T) {
	r := start(t, chatty, func(app *vassal.App) { app.Workers.Harakiri = 300 * time.Millisecond })
	events := func() string { b, _ := os.ReadFile(filepath.Join(r.app.Dir, "events")); return string(b) }
	c := dial(t, r, "/chat").open()
	want := []exchange.Field{{Name: "Connection", Value: "Upgrade"}, {Name: "Upgrade", Value: "websocket"}, {Name: "Sec-WebSocket-Accept", Value: "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="},
		{Name: "Sec-WebSocket-Protocol", Value: "two"}, {Name: "x-own", Value: "1"}}
	if c.w.status != 101 || len(c.w.fields) != len(want) {
		t.Errorf("opened by %d %v", c.w.status, c.w.fields)
	}
	for i := range want {
		if c.w.fields[i] != want[i] {
			t.Errorf("field %v, want %v", c.w.fields[i], want[i])
		}
	}
	c.send(0x81, "hé")
	if got := c.message(); got != "hé!" {
		t.Errorf("text: %q", got)
	}
	large := strings.Repeat("0123456789", 500000)
	c.send(0x82, large)
	if got := c.message(); got != large {
		t.Fatalf("binary: %d bytes %.50q", len(got), got)
	}
	c.send(0x01, "frag")
	c.send(0x89, "ping")
	c.send(0x80, "ments")
	if first, got := c.next(); first != 0x8a || got != "ping" {
		t.Errorf("pong: %x %q", first, got)
	}
	if got := c.message(); got != "fragments!" {
		t.Errorf("fragments: %q", got)
	}
	time.Sleep(time.Second) // a WebSocket that is open is no request that takes long
	c.send(0x88, "\x0f\xa5later")
	if first, got := c.next(); first != 0x88 || got != "\x0f\xa5" {
		t.Errorf("close: %x %q", first, got)
	}
	if err := <-c.done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	eventually(t, "the application knows", func() bool { return events() == "4005 later\n" })

	c = dial(t, r, "/chat").open()
	c.send(0x81, "close")
	if first, got := c.next(); first != 0x88 || got != "\x0f\xa0as you wish" {
		t.Errorf("closed by the application: %x %q", first, got)
	}
	c.send(0x88, "\x0f\xa0")
	if err := <-c.done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	// A client that breaks off, and one that breaks the rules.
	c = dial(t, r, "/chat").open()
	c.conn.Close()
	if err := <-c.done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	eventually(t, "broken off", func() bool { return strings.Contains(events(), "1006 \n") })
	c = dial(t, r, "/chat").open()
	c.send(0x81, "\xff")
	if _, got := c.next(); !strings.HasPrefix(got, "\x03\xef") {
		t.Errorf("not UTF-8: %q", got)
	}
	if err := <-c.done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if r.get("/") != "plain" {
		t.Error("no plain request afterwards")
	}
}

func TestWebSocketEnds(t *testing.T) {
	r := start(t, chatty, nil)
	for path, want := range map[string]struct {
		status int
		body   string
	}{"/refuse": {403, ""}, "/deny": {402, "pay"}} {
		c := dial(t, r, path)
		if err := <-c.done; err != nil || c.w.status != want.status || c.w.body.String() != want.body {
			t.Errorf("%s: %d %q, %v", path, c.w.status, c.w.body.String(), err)
		}
	}
	if c := dial(t, r, "/nothing"); exchange.StatusOf(<-c.done) != 500 {
		t.Error("/nothing is not 500")
	}
	for path, code := range map[string]string{"/boom": "\x03\xf3", "/return": "\x03\xe8", "/die": "\x03\xf3"} {
		c := dial(t, r, path).open()
		if first, got := c.next(); first != 0x88 || got != code {
			t.Errorf("%s: %x %q", path, first, got)
		}
		c.conn.Close()
		if err := <-c.done; (err != nil) != (path == "/die") {
			t.Errorf("%s: %v", path, err)
		}
	}
	eventually(t, "another worker", func() bool { _, err := r.do(request("GET", "/", "")); return err == nil })
	// An application that reads nothing: its client is made to wait, and no
	// more is kept than fits the sockets.
	c := dial(t, r, "/deaf").open()
	go func() {
		piece := strings.Repeat("x", 60000)
		for range 200 {
			if _, err := c.conn.Write(append([]byte{0x82, 0xfe, 0xea, 0x60, 0, 0, 0, 0}, piece...)); err != nil {
				return
			}
		}
	}()
	if first, got := c.next(); first != 0x88 || got != "\x0f\xa1enough" {
		t.Errorf("/deaf: %x %q", first, got)
	}
	c.conn.Close()
	if err := <-c.done; err != nil {
		t.Errorf("/deaf: %v", err)
	}
	if r.get("/") != "plain" {
		t.Error("no plain request afterwards")
	}
	// One that is told to part.
	c = dial(t, r, "/chat").open()
	c.send(0x81, "x")
	c.message()
	r.Part()
	if first, got := c.next(); first != 0x88 || got != "\x03\xf4" {
		t.Errorf("parted: %x %q", first, got)
	}
	c.send(0x88, "\x03\xf4")
	if err := <-c.done; err != nil {
		t.Errorf("parted: %v", err)
	}
	if r.get("/") != "plain" {
		t.Error("no plain request afterwards")
	}
	// What waits for a WebSocket to end says so when the worker goes.
	c = dial(t, r, "/chat").open()
	c.send(0x81, "x")
	c.message()
	go r.stop()
	if first, got := c.next(); first != 0x88 || got != "\x03\xf4" {
		t.Errorf("at the end: %x %q", first, got)
	}
	c.conn.Close()
	<-c.done
}

// void is a stream of which nothing comes and which takes all.
type void struct{ n int }

func (v *void) Read([]byte) (int, error)    { return 0, io.EOF }
func (v *void) Write(p []byte) (int, error) { v.n += len(p); return len(p), nil }
func (v *void) Close() error                { return nil }
func (v *void) CloseWrite() error           { return nil }

type voidTunneler struct {
	recorder
	void void
}

func (w *voidTunneler) Tunnel(status int, _ string, _ []exchange.Field) (exchange.Stream, error) {
	w.status = status
	return &w.void, nil
}

// FuzzSocket: whatever a worker says about a WebSocket, its lane ends, and no
// more reaches the client than it said.
func FuzzSocket(f *testing.F) {
	id := uint64(1 << 16)
	seed := func(frames ...[]byte) { f.Add(bytes.Join(frames, nil), true) }
	fields := []byte("Sec-WebSocket-Protocol\x00chat\x00X-A\x00b\x00")
	seed(header('U', len(fields), 0, 0, id), fields, header('M', 0, 3, 1, id), []byte("abc"), header('M', 0, 1, 6, id), []byte("a"), header('C', 0, 2, 1000, id), []byte("ok"), header('E', 0, 0, 0, id))
	seed(header('W', 0, 0, 0, id), header('U', 0, 0, 0, id), header('E', 0, 0, 1, id))
	seed(header('U', 3, 0, 0, id), []byte("abc"))
	seed(header('U', 0, 0, 0, id), header('C', 0, 0, 77, id))
	f.Add(bytes.Join([][]byte{header('U', 0, 0, 0, id), header('M', 0, 3, 1, id), []byte("abc"), header('E', 0, 0, 0, id)}, nil), false)
	f.Fuzz(func(t *testing.T, b []byte, asks bool) {
		l, other, end := laneOf(t)
		defer end()
		c := <-l.p.free
		rec := &voidTunneler{}
		req := request("GET", "/", "")
		if asks {
			for name, value := range map[string]string{"UPGRADE": "websocket", "SEC_WEBSOCKET_VERSION": "13", "SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ=="} {
				req.Set("HTTP_"+name, value)
			}
		}
		l.p.prepare(c, req, rec, 1, nil, nil)
		go io.Copy(io.Discard, other)
		done := make(chan struct{})
		go func() { defer close(done); l.serve() }()
		other.Write(b)
		unix.Shutdown(int(other.Fd()), unix.SHUT_WR)
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatal("the lane hangs")
		}
		if rec.void.n > 2*len(b)+200 {
			t.Errorf("%d bytes for the client out of %d", rec.void.n, len(b))
		}
	})
}

// TestKeepAlive: a client that says nothing is asked whether it is there; one
// that does not answer is cut off, and the application hears of it.
func TestKeepAlive(t *testing.T) {
	r := start(t, chatty, func(app *vassal.App) {
		app.Sockets = vassal.SocketLimits{Ping: time.Second, Pong: time.Millisecond, Message: 1000}
	})
	events := func() string { b, _ := os.ReadFile(filepath.Join(r.app.Dir, "events")); return string(b) }
	c := dial(t, r, "/chat").open()
	for range 2 {
		if first, data := c.next(); first != 0x89 || data != "" {
			t.Fatalf("got %#x %q, want a ping", first, data)
		}
		c.send(0x8a, "")
	}
	c.send(0x81, "still here")
	for {
		first, data := c.next()
		if first == 0x89 {
			c.send(0x8a, "")
			continue
		}
		if data != "still here!" {
			t.Errorf("%#x %q", first, data)
		}
		break
	}
	for first := byte(0x89); first == 0x89; { // pings, which nobody answers now
		first, _ = c.next()
		if first != 0x89 && first != 0xff {
			t.Errorf("got %#x, want the end", first)
		}
	}
	if err := <-c.done; err != nil {
		t.Error(err)
	}
	for end := time.Now().Add(30 * time.Second); events() != "1006 \n"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the application heard %q", events())
		}
	}

	c = dial(t, r, "/chat").open()
	c.send(0x82, strings.Repeat("x", 1001))
	for first := byte(0x89); first == 0x89; {
		var data string
		if first, data = c.next(); first == 0x88 && !strings.HasPrefix(data, "\x03\xf1") || first != 0x88 && first != 0x89 {
			t.Errorf("a long message: %#x %q", first, data)
		}
	}
	c.conn.Close()
	<-c.done
}
