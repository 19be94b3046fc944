package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// latencies compares the 99th percentile of the time to an answer when each
// server gets half the requests that the slowest of them has answered. All get
// the same: title's, in turn, round by round.
func (b *bench) latencies(ctx context.Context, title string, urls, names []string, got []series) error {
	rate := got[0].median()
	for _, g := range got {
		rate = min(rate, g.median()/2)
	}
	p99 := make([]series, len(urls))
	for range b.rounds {
		for i, u := range urls {
			ms, err := b.p99(ctx, u, rate)
			if err != nil {
				return err
			}
			p99[i] = append(p99[i], ms)
		}
	}
	for i := 1; i < len(urls); i++ {
		compare(title+", p99 at half load", "ms", p99[0], p99[i], names[i], true)
	}
	return nil
}

// p99 sends rate requests a second over 32 kept connections for the time of one
// load, and returns the 99th percentile in milliseconds. Each request has the
// moment at which it is due, whatever the ones before it do: its time counts
// from then, so that a server that stalls pays for all that should have been
// sent meanwhile (coordinated omission).
func (b *bench) p99(ctx context.Context, to string, rate float64) (float64, error) {
	const conns = 32
	u, err := url.Parse(to)
	if err != nil {
		return 0, err
	}
	n := int64(rate * b.load.Seconds())
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
				time.Sleep(time.Until(due))
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

func (a *asker) ask(ctx context.Context) error {
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
