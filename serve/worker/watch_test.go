package worker

import (
	"strings"
	"testing"
	"time"
)

// TestStrayTaker: a process that is no worker and takes requests from the queue
// does not leave them without an answer.
func TestStrayTaker(t *testing.T) {
	p, app, log := newFixture(t, `
import os, socket, time
def application(e, start_response):
    if e['PATH_INFO'] == '/slow':
        time.sleep(3)
    if e['PATH_INFO'] == '/fork':
        queue = socket.fromfd(4, socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            for i in range(5):
                queue.recv(1 << 15)
            os._exit(0)
    start_response('200 OK', [])
    return [b'ok']
`, nil)
	p.patience = time.Second
	r := run(t, p, app, log)
	slow := make(chan string)
	go func() { slow <- r.send("/slow", "") }()
	time.Sleep(100 * time.Millisecond)
	if got := r.send("/", "") + <-slow; got != "okok" { // one waits for the other, and is not lost
		t.Errorf("got %q", got)
	}
	r.get("/fork")
	began, lost := time.Now(), 0
	for lost == 0 && time.Since(began) < 30*time.Second {
		if got := r.send("/", ""); strings.Contains(got, "no worker") {
			lost++
		} else if got != "ok" {
			t.Errorf("got %q", got)
		}
	}
	if lost == 0 {
		t.Error("no request was lost: this tests nothing")
	}
	if log := r.log(); !strings.Contains(log, "requests are lost") || strings.Contains(log, "worker died") {
		t.Errorf("log:\n%s", log)
	}
}
