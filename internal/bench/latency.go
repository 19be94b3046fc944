package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// latencies compares the 99th percentile of the time to an answer of the first
// server with that of each of the others, when both get half the requests that
// the slower of the two has answered: in turn, round by round.
func (b *bench) latencies(ctx context.Context, title, path string, all []rival, got []series) error {
	for i := 1; i < len(all); i++ {
		rate := min(got[0].median(), got[i].median()) / 2
		var p99 [2]series
		for range b.rounds {
			for j, r := range []rival{all[0], all[i]} {
				ms, err := b.p99(ctx, "http://"+r.addr+path, rate)
				if err != nil {
					return fmt.Errorf("%s: %w", r.name, err)
				}
				p99[j] = append(p99[j], ms)
			}
		}
		compare(fmt.Sprintf("%s, p99 at %.0f requests/s", title, rate), "ms", p99[0], p99[1], all[i].name, true)
	}
	return nil
}

// p99 sends rate requests a second over 32 kept connections for half the time
// of one load, and returns the 99th percentile in milliseconds. Each request has the
// moment at which it is due, whatever the ones before it do: when all
// connections were busy then, its time counts from that moment, so that a server
// that stalls pays for all that should have been sent meanwhile (coordinated
// omission). How late a connection that waited is woken is not the server's.
func (b *bench) p99(ctx context.Context, to string, rate float64) (float64, error) {
	const conns = 32
	u, err := url.Parse(to)
	if err != nil {
		return 0, err
	}
	n := max(1, int64(rate*b.load.Seconds()/2))
	times := make([]time.Duration, n)
	var next atomic.Int64
	errs := make(chan error, conns)
	began := time.Now().Add(50 * time.Millisecond)
	var all sync.WaitGroup
	for range conns {
		all.Go(func() { // ends with the last request, or ctx
			c := &asker{url: u}
			defer c.close()
			for i := next.Add(1) - 1; i < n; i = next.Add(1) - 1 {
				due := began.Add(time.Duration(float64(i) / rate * float64(time.Second)))
				if wait := time.Until(due); wait > 0 {
					time.Sleep(wait)
					due = time.Now()
				}
				if err := c.ask(ctx); err != nil {
					errs <- err
					return
				}
				times[i] = time.Since(due)
			}
			errs <- nil
		})
	}
	all.Wait()
	for range conns {
		if err := <-errs; err != nil {
			return 0, err
		}
	}
	slices.Sort(times)
	return float64(times[n*99/100].Microseconds()) / 1000, nil
}

// asker sends one request after the other over a connection, and makes another
// one when the server has ended it.
type asker struct {
	url *url.URL
	c   net.Conn // nil: none
	br  *bufio.Reader
}

// ask sends a request, again over another connection where the server has
// closed the one at hand without a word, as uWSGI's http-socket does.
func (a *asker) ask(ctx context.Context) error {
	kept := a.c != nil
	err := a.once(ctx)
	if kept && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) {
		a.close()
		err = a.once(ctx)
	}
	return err
}

func (a *asker) once(ctx context.Context) error {
	if a.c == nil {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", a.url.Host)
		if err != nil {
			return err
		}
		a.c, a.br = c, bufio.NewReader(c)
	}
	if _, err := io.WriteString(a.c, "GET "+a.url.RequestURI()+" HTTP/1.1\r\nHost: "+a.url.Host+"\r\n\r\n"); err != nil {
		return err
	}
	res, err := http.ReadResponse(a.br, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.Close {
		a.close()
	}
	return ctx.Err()
}

func (a *asker) close() {
	if a.c != nil {
		_ = a.c.Close() // nothing is written any more
		a.c = nil
	}
}
