package worker

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"liege/serve/exchange"
)

// TestOddAnswers: values that an application may well come to have fail their
// own request, and not the worker with all that it is at.
func TestOddAnswers(t *testing.T) {
	r := start(t, `
import os
async def application(scope, receive, send):
    if scope['type'] == 'lifespan':
        raise RuntimeError('none')
    path, query = scope['path'], scope['query_string'].decode()
    large = [(b'x-large', b'x' * 140000)]
    if scope['type'] == 'websocket':
        await receive()
        await send({'type': 'websocket.accept', 'headers': large if path == '/large' else [(b'x-nul', b'a\0b\0c')] if path == '/nul' else []})
        if path in ('/large', '/nul'):
            return await receive()
        code = None if query == 'None' else int(query)
        return await send({'type': 'websocket.close', 'code': code})
    start = {'type': 'http.response.start', 'status': 200, 'headers': large if path == '/large' else [(b'x-nul', b'a\0b\0c')] if path == '/nul' else [], 'trailers': path == '/trailers'}
    if path == '/pid':
        await send(start)
        return await send({'type': 'http.response.body', 'body': b'%d' % os.getpid()})
    await send(start)
    if path == '/file':
        return await send({'type': 'http.response.pathsend', 'path': query})
    await send({'type': 'http.response.body', 'body': b'x' * int(query or 1), 'more_body': True})
    await send({'type': 'http.response.body'})
    if path == '/trailers':
        await send({'type': 'http.response.trailers', 'headers': large})
`, nil)
	pid := r.get("/pid")
	fifo := t.TempDir() + "/fifo"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/large", "/nul", "/large?300000", "/file?/tmp", "/file?" + fifo, "/file?/dev/zero"} {
		if rec, err := r.do(request("GET", path, "")); exchange.StatusOf(err) != 500 || rec.Started() {
			t.Errorf("%s: %v, %d", path, err, rec.status)
		}
	}
	req := request("GET", "/trailers", "")
	req.Set("SERVER_PROTOCOL", "HTTP/2.0")
	if _, err := r.do(req); err == nil || !strings.Contains(err.Error(), "bytes of trailers") {
		t.Errorf("trailers: %v", err)
	}
	for code, want := range map[string]string{"None": "\x03\xe8", "1005": "\x03\xe8", "1006": "\x03\xe8", "1001": "\x03\xe9", "3000": "\x0b\xb8",
		"999": "\x03\xf3", "1004": "\x03\xf3", "1015": "\x03\xf3", "2500": "\x03\xf3", "70000": "\x03\xf3", "-1": "\x03\xf3"} { // 1011: by an exception
		c := dial(t, r, "/?"+code).open()
		if first, got := c.next(); first != 0x88 || got != want {
			t.Errorf("code %s: %x %q", code, first, got)
		}
		c.conn.Close()
		if err := <-c.done; err != nil {
			t.Errorf("code %s: %v", code, err)
		}
	}
	for _, path := range []string{"/large", "/nul"} {
		if c := dial(t, r, path); exchange.StatusOf(<-c.done) != 500 {
			t.Errorf("WebSocket %s is no 500", path)
		}
	}
	if got := r.get("/pid"); got != pid {
		t.Errorf("worker %s instead of %s\n%s", got, pid, r.log())
	}
}
