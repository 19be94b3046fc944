package front

import (
	"strings"
	"testing"

	"liege/vassal"
)

// With stats-http a stats listener waits for a request and answers it.
func TestStatsHTTP(t *testing.T) {
	r := serve(t, vassal.Stats, vassal.HTTPLimits{StatsHTTP: true}, echo)
	head, body, _ := strings.Cut(ask(t, r.addr, "GET / HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n"), "\r\n\r\n")
	if want := "HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 3"; head != want || body != "{}\n" {
		t.Errorf("%q, %q", head, body)
	}
}
