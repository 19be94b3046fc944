package proxy

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/serve/exchange"
)

// held is a body of which the rest comes when release is closed.
type held struct {
	first   io.Reader
	release chan struct{}
	rest    io.Reader
	read    bool // somebody asked for it
}

func (h *held) Read(p []byte) (int, error) {
	h.read = true
	if n, err := h.first.Read(p); n > 0 || err == nil {
		return n, nil
	}
	<-h.release
	return h.rest.Read(p)
}

const fcgiAnswer = "Status: 201 Made\r\nContent-Length: 4\r\n\r\nbody"

// TestFastCGIEarly: php-cgi answers when it has CONTENT_LENGTH bytes, or does
// not want them, and may close the connection with that: its last request. The
// rest cannot be sent then, and the answer counts all the same: a request is
// never sent twice once a script may have begun with it.
func TestFastCGIEarly(t *testing.T) {
	testenv.Leaks(t)
	for _, small := range []bool{true, false} {
		for _, answer := range []string{record(fcgiStdout, fcgiAnswer) + record(fcgiEnd, "12345678"), ""} {
			body := &held{first: strings.NewReader(strings.Repeat("x", 40<<10)), release: make(chan struct{}), rest: strings.NewReader(strings.Repeat("y", 20<<10))}
			addr := server(t, "unix", func(c net.Conn) {
				io.ReadFull(c, make([]byte, 100)) // the head, and some of the body
				io.WriteString(c, answer)
				c.Close()
				close(body.release)
			})
			client := newClient(t)
			f, err := client.DialFastCGI(t.Context(), addr)
			if err != nil {
				t.Fatal(err)
			}
			r, a := newRequest("POST", "/", ""), &answered{}
			r.Body, r.Length = body, 60<<10
			trip, err := client.Over(t.Context(), f, "php", AppendParam(nil, "CONTENT_LENGTH", "61440"), r, a, small)
			f.Close()
			switch {
			case answer != "" && (err != nil || a.status != 201 || a.text() != "body" || trip.Again):
				t.Errorf("small %v: %d %q %+v %v", small, a.status, a.text(), trip, err)
			case answer == "" && (exchange.StatusOf(err) != 502 || !Unanswered(err)):
				t.Errorf("small %v, no answer: %v", small, err)
			}
			if trip.Shut {
				t.Errorf("small %v: said to be sent again: %v", small, err)
			}
		}
	}
}

// TestFastCGIShut: what was closed before the head was there may be sent again.
func TestFastCGIShut(t *testing.T) {
	for _, small := range []bool{true, false} {
		closed := make(chan struct{})
		addr := server(t, "unix", func(c net.Conn) { c.Close(); close(closed) })
		client := newClient(t)
		f, err := client.DialFastCGI(t.Context(), addr)
		if err != nil {
			t.Fatal(err)
		}
		<-closed
		body := &held{first: strings.NewReader("body"), release: make(chan struct{}), rest: strings.NewReader("")}
		close(body.release)
		r, a := newRequest("POST", "/", ""), &answered{}
		r.Body, r.Length = body, 4
		trip, err := client.Over(t.Context(), f, "php", nil, r, a, small)
		f.Close()
		if !trip.Shut || !Unanswered(err) || trip.Heard || body.read && !small {
			t.Errorf("small %v: %+v %v, read %v", small, trip, err, body.read)
		}
	}
}

// TestFastCGISlowBody: php-cgi closes a connection on which nothing comes for
// five seconds: the head does not wait for the client's body.
func TestFastCGISlowBody(t *testing.T) {
	body := &held{first: strings.NewReader(""), release: make(chan struct{}), rest: strings.NewReader("body")}
	addr := server(t, "unix", func(c net.Conn) {
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		head := make([]byte, 16+8+6+8) // begin, one variable, their end
		_, err := io.ReadFull(c, head)
		close(body.release)
		if err != nil {
			return
		}
		io.ReadFull(c, make([]byte, 8+4+8))
		io.WriteString(c, record(fcgiStdout, fcgiAnswer)+record(fcgiEnd, "12345678"))
	})
	client := newClient(t)
	f, err := client.DialFastCGI(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.nc.silence = 20 * time.Second
	r, a := newRequest("POST", "/", ""), &answered{}
	r.Body, r.Length = body, 4
	if trip, err := client.Over(t.Context(), f, "php", AppendParam(nil, "A", "abc"), r, a, false); err != nil || a.text() != "body" || !trip.Again {
		t.Errorf("%+v %v", trip, err)
	}
}
