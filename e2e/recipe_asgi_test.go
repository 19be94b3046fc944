package e2e

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"liege/internal/testenv"
)

// TestASGI: a Starlette application with lifespan, streamed answers, bodies
// and a WebSocket.
func TestASGI(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Python3, testenv.Starlette)
	cook(t, "asgi", "site.ini", nil, "", func(r *recipe) {
		for path, want := range map[string]string{"/hello/world": "hello world, ready: True", "/stream": "0\n1\n2\n"} {
			if res, got := r.ask("GET", path); res.StatusCode != 200 || got != want {
				r.t.Errorf("%s: %d %q", path, res.StatusCode, got)
			}
		}
		if res, _ := r.ask("GET", "/none"); res.StatusCode != 404 {
			r.t.Errorf("/none: %d", res.StatusCode)
		}
		res, err := http.Post("http://"+r.addr+"/echo", "text/plain", strings.NewReader(strings.Repeat("x", 1<<20)))
		if err != nil {
			r.t.Fatal(err)
		}
		defer res.Body.Close()
		if b, err := io.ReadAll(res.Body); string(b) != `{"got":1048576}` || err != nil {
			r.t.Errorf("/echo: %q, %v", b, err)
		}
		r.chat()
	})
}

// chat talks to the WebSocket.
func (r *recipe) chat() {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(conn, "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != 101 || res.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		r.t.Fatalf("handshake: %v %+v", err, res)
	}
	for range 3 {
		io.WriteString(conn, "\x81\x82\x00\x00\x00\x00hi") // masked with zeroes
		got := make([]byte, 2+len("you said hi"))
		if _, err := io.ReadFull(br, got); err != nil || string(got[2:]) != "you said hi" {
			r.t.Fatalf("got %q, %v", got, err)
		}
	}
	io.WriteString(conn, "\x88\x82\x00\x00\x00\x00\x03\xe8")
	if got, err := io.ReadAll(br); string(got) != "\x88\x02\x03\xe8" || err != nil {
		r.t.Errorf("at the end: %q, %v", got, err)
	}
}
