package serve

import (
	"encoding/json"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/vassal"
)

// TestHold: every request has the one answer, in each listener's protocol, and
// none reaches files or workers.
func TestHold(t *testing.T) {
	testenv.Leaks(t)
	app := httpApp(t.TempDir())
	app.HTTP.KeepAlive = true
	app.Listen = append(app.Listen, vassal.Listener{Protocol: vassal.UWSGI, Address: "u:1"})
	app.Workers = nil
	app.Hold = &vassal.Hold{Status: 402, Page: []byte("<h1>unpaid</h1>"), RetryAfter: 1500 * time.Millisecond}
	addrs, log, stop := start(t, app, newFake(hello))
	field := func(answer, want string) {
		t.Helper()
		head, _, _ := strings.Cut(answer, "\r\n\r\n")
		if !strings.Contains(head+"\r\n", "\r\n"+want+"\r\n") {
			t.Errorf("no %q in\n%s", want, answer)
		}
	}
	requests := []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n", "DELETE /b HTTP/1.1\r\nHost: x\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "GET /old HTTP/1.0\r\n\r\n", "POST /c HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"}
	for _, raw := range requests {
		got := ask(t, addrs[0], strings.Replace(raw, "Host: x", "Host: x\r\nConnection: close", 1))
		if !strings.Contains(got[:min(len(got), 13)], " 402 ") {
			t.Errorf("%q: got\n%s", raw, got)
		}
		if body := strings.HasSuffix(got, "\r\n\r\n<h1>unpaid</h1>"); body == strings.HasPrefix(raw, "HEAD") {
			t.Errorf("%q: body sent: %t", raw, body)
		}
		field(got, "Retry-After: 2")
		field(got, "Content-Type: text/html; charset=utf-8")
		field(got, "Content-Length: 15")
	}
	// Three requests on one connection, the last of which ends it.
	got := ask(t, addrs[0], requests[0]+requests[5]+requests[4])
	if n := strings.Count(got, "<h1>unpaid</h1>"); n != 3 {
		t.Errorf("%d answers on a kept connection, want 3:\n%s", n, got)
	}
	packet := "\x00\x15\x00\x00\x0e\x00REQUEST_METHOD\x03\x00GET"
	got = ask(t, addrs[2], packet)
	if !strings.Contains(got, " 402 ") || !strings.HasSuffix(got, "unpaid</h1>") {
		t.Errorf("uwsgi protocol: got\n%s", got)
	}
	field(got, "Retry-After: 2")
	var st struct{ Requests int }
	if err := json.Unmarshal([]byte(ask(t, addrs[1], "")), &st); err != nil || st.Requests != len(requests)+4 {
		t.Errorf("stats: %d requests, %v; want %d", st.Requests, err, len(requests)+4)
	}
	// A connection without a request does not hold up the drain.
	idle, err := net.Dial("tcp", addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	if _, err := io.WriteString(idle, requests[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := idle.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > app.Drain-time.Second {
		t.Errorf("the drain took %v", took)
	}
	if log.String() != "" {
		t.Errorf("access log: %q, want nothing", log)
	}
}

func TestHoldText(t *testing.T) {
	app := httpApp(t.TempDir())
	app.Hold = &vassal.Hold{Status: 503}
	addrs, _, _ := start(t, app, newFake(hello))
	got := ask(t, addrs[0], "GET / HTTP/1.0\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.0 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n") ||
		!strings.HasSuffix(got, "\r\n\r\n"+holdText) || strings.Contains(got, "Retry-After") {
		t.Errorf("got\n%s", got)
	}
}
