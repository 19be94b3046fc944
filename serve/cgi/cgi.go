// Package cgi answers requests with CGI programs (RFC 3875), as uWSGI's cgi
// plugin does: one process for each request.
//
// A program is a file below a directory that the configuration names; what a
// request says is resolved beneath it by descriptor (package beneath), so
// nothing that a request names outside it, or outside what cgi-safe names, is
// run. The program is executed, and an interpreter is given it, by the path
// that the descriptor has, without a symbolic link: programs look for their
// neighbours by it. Who can exchange that file meanwhile can write into the
// directory, and could have put a program there. Names that begin with a dot
// are no programs.
//
// A program gets the request as variables and its body as standard input,
// which ends where the body ends; its standard error is the vassal's log. It
// answers with header fields, an empty line and a body, which is sent as it
// comes. Each pause of it that the body does not make is bounded by cgi-timeout.
// When the client goes away, the time is over or the answer cannot be understood, the
// program and its process group are killed.
//
// At most processes x threads programs run at once; a bounded number of
// requests waits, and more are answered with 503.
//
// Differences from uWSGI: an error is answered with a status (403, 404, 502,
// 504) where uWSGI closes the connection; standard input ends; a Location with
// a path alone is answered with what is there (RFC 3875 6.2.2); arguments that
// begin with "-" are not passed (CVE-2012-1823); variables that a loader or an
// interpreter takes orders from are not taken from a request.
package cgi

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"liege/serve/beneath"
	"liege/serve/exchange"
	"liege/serve/worker"
	"liege/vassal"
)

// Starter starts programs and waits for them: worker.Pool.
type Starter interface {
	Start(*worker.Program) (worker.Process, error)
	Environ() []string
}

// Handler runs CGI programs. Make one with New; it is safe for concurrent use.
type Handler struct {
	c       *vassal.CGI
	mounts  []mount
	safe    []*beneath.Root
	start   Starter
	env     []string        // of every program
	fixed   map[string]bool // the names in env
	unset   map[string]bool
	dir     string // working directory of a program that is a mount by itself
	places  *exchange.Places
	stats   []slotStats
	stderr  *os.File
	null    *os.File
	whole   exchange.Handler
	readers sync.Pool // of *bufio.Reader
	log     *slog.Logger
}

type mount struct {
	prefix string
	root   *beneath.Root
}

// slotStats are the counts of one of the programs that may run at once.
type slotStats struct{ pid, requests, errors, harakiris, running, sent, since atomic.Int64 }

// New returns a Handler for app.CGI. What a program answers with a path in
// Location is asked of whole.
func New(app *vassal.App, start Starter, log *slog.Logger) (*Handler, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("standard input of CGI programs: %w", err)
	}
	c := app.CGI
	h := &Handler{c: c, start: start, dir: app.Dir, stderr: os.Stderr, null: null, log: log, fixed: map[string]bool{}, unset: map[string]bool{}}
	h.readers.New = func() any { return bufio.NewReaderSize(nil, max(c.HeadBytes, 4<<10)) }
	n := max(1, c.Processes) * max(1, c.Threads)
	h.places, h.stats = exchange.NewPlaces(n), make([]slotStats, n)
	for _, m := range c.Mounts {
		root := beneath.New(m.Path)
		h.mounts = append(h.mounts, mount{strings.TrimRight(m.Mount, "/"), root})
		h.safe = append(h.safe, root)
		if _, err := root.Open(); err != nil {
			log.Warn("CGI: directory cannot be opened", "path", m.Path, "err", err)
		}
	}
	for _, d := range c.Safe {
		h.safe = append(h.safe, beneath.New(d))
	}
	for _, name := range c.Unset {
		h.unset[name] = true
	}
	h.base(start.Environ())
	return h, nil
}

// Whole sets the handler that a local redirect goes to: the one that the
// request came through. Without one it is an error of the program.
func (h *Handler) Whole(whole exchange.Handler) { h.whole = whole }

// Serve implements exchange.Handler.
func (h *Handler) Serve(ctx context.Context, r *exchange.Request, w exchange.Response) error {
	r.Info.Backend = "cgi"
	s, err := h.find(r)
	if err != nil {
		return err
	}
	if s.moved != "" {
		return w.Head(301, "", []exchange.Field{{Name: "Location", Value: exchange.URL(s.moved)}, {Name: "Content-Length", Value: "0"}})
	}
	slot, err := h.places.Take(ctx)
	if err != nil {
		return fmt.Errorf("CGI programs: %w", err)
	}
	run := &run{h: h, s: s, r: r, w: w, slot: slot}
	err = run.serve(ctx)
	h.release(slot, err)
	if err == nil && run.local != "" {
		return h.redirect(ctx, r, w, run.local)
	}
	return err
}

func (h *Handler) release(slot int, err error) {
	s := &h.stats[slot]
	s.pid.Store(0)
	s.requests.Add(1)
	s.running.Add(time.Now().UnixNano() - s.since.Load())
	if err != nil {
		s.errors.Add(1)
	}
	h.places.Give(slot)
}

// Stats tells what the places have done: places that belong to one of
// uWSGI's worker processes are one worker.
func (h *Handler) Stats() exchange.Stats {
	out := exchange.Stats{Queued: h.places.Waiting()}
	threads := max(1, h.c.Threads)
	for i := range h.stats {
		s := &h.stats[i]
		if i%threads == 0 {
			out.Workers = append(out.Workers, exchange.WorkerStats{ID: i/threads + 1, Accepting: true})
		}
		w := &out.Workers[len(out.Workers)-1]
		w.Requests += uint64(s.requests.Load())
		w.Errors += uint64(s.errors.Load())
		w.Harakiris += uint64(s.harakiris.Load())
		w.Running += time.Duration(s.running.Load())
		w.Sent += uint64(s.sent.Load())
		t := exchange.ThreadStats{Requests: uint64(s.requests.Load())}
		if pid := int(s.pid.Load()); pid > 0 {
			w.PID, w.Busy = pid, true
			t.Since = time.Unix(0, s.since.Load())
		}
		w.Threads, w.Delta = append(w.Threads, t), w.Requests
	}
	return out
}

// Close closes what is open. No request may be served any more.
func (h *Handler) Close() {
	for _, root := range h.safe {
		root.Close()
	}
	_ = h.null.Close() // opened for reading
}
