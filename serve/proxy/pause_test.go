package proxy

import (
	"bufio"
	"io"
	"net"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/serve/exchange"
)

// pausing is the body of a client that sends three bytes, each after a pause.
type pausing struct {
	each time.Duration
	sent int
}

func (b *pausing) Read(p []byte) (int, error) {
	if b.sent == 3 {
		return 0, io.EOF
	}
	<-time.After(b.each)
	b.sent++
	return copy(p, "~"), nil
}

// TestClientPauses: a server that waits for the client is not silent; one that has
// all is.
func TestClientPauses(t *testing.T) {
	testenv.Leaks(t)
	const silence = 200 * time.Millisecond
	c := newPatient(t, silence)
	const text = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
	records := record(fcgiStdout, "Content-Length: 2\r\n\r\nok") + record(fcgiEnd, "12345678")
	for _, u := range []struct {
		name, answer string
		do           func(addr string, r *exchange.Request, a *answered) error
	}{
		{"http", text, func(addr string, r *exchange.Request, a *answered) error {
			return c.HTTP(t.Context(), r, a, Target{Address: addr})
		}},
		{"uwsgi", text, func(addr string, r *exchange.Request, a *answered) error {
			return c.UWSGI(t.Context(), r, a, addr, 0, 0)
		}},
		{"fcgi", records, func(addr string, r *exchange.Request, a *answered) error { return c.FastCGI(t.Context(), r, a, addr) }},
		{"kept", records, func(addr string, r *exchange.Request, a *answered) error {
			f, err := c.DialFastCGI(t.Context(), addr)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = c.Over(t.Context(), f, "php", nil, r, a, false)
			return err
		}},
	} {
		for how, answer := range map[string]string{"answers": u.answer, "silent": ""} {
			t.Run(u.name+" "+how, func(t *testing.T) {
				t.Parallel()
				addr := server(t, "unix", func(nc net.Conn) {
					br := bufio.NewReader(nc)
					for range 3 {
						br.ReadBytes('~')
					}
					io.WriteString(nc, answer)
					io.Copy(io.Discard, br)
				})
				r, a := newRequest("POST", "/", ""), &answered{}
				r.Body, r.Length = &pausing{each: 2 * silence}, 3
				r.Set("CONTENT_LENGTH", "3")
				err := u.do(addr, r, a)
				if took := time.Since(r.Start); answer != "" && (err != nil || a.text() != "ok") || answer == "" && (exchange.StatusOf(err) != 504 || took > 20*silence) {
					t.Errorf("%q, %v after %v", a.text(), err, took)
				}
			})
		}
	}
}
