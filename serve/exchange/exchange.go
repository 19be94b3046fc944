// Package exchange is one request and its answer, whatever protocol brought it
// and whatever produces the answer: the seam between fronts (HTTP, the uwsgi
// protocol) and backends (static files, workers, later proxies and CGI).
//
// A request is its CGI variables, as in uWSGI: routing, static files and
// workers all read those. A front fills them in from the wire; what a client
// sends never becomes a variable other than HTTP_*, CONTENT_TYPE,
// CONTENT_LENGTH and those that the protocol defines.
package exchange

import (
	"context"
	"errors"
	"io"
	"time"
)

// Var is one CGI variable.
type Var struct{ Name, Value string }

// Field is one header field.
type Field struct{ Name, Value string }

// Request is one request. It is valid until Serve returns.
//
// Body is read by one goroutine at a time, which need not be the one that
// writes the answer. If Body is also an io.Closer, Close makes a Read that is
// pending in another goroutine fail: for an answer that is complete before
// the request is.
type Request struct {
	Vars   []Var     // CGI/1.1 (RFC 3875) and uWSGI's own; names are unique
	Header []Field   // as received, in order; nil when the protocol has none
	Body   io.Reader // never nil; each Read obeys the front's timeout
	Length int64     // of the body in bytes; -1: unknown (chunked)
	Start  time.Time
	Info   Info
}

// Get returns the value of the variable name, "" if there is none.
func (r *Request) Get(name string) string {
	for i := range r.Vars {
		if r.Vars[i].Name == name {
			return r.Vars[i].Value
		}
	}
	return ""
}

// Set sets the variable name.
func (r *Request) Set(name, value string) {
	for i := range r.Vars {
		if r.Vars[i].Name == name {
			r.Vars[i].Value = value
			return
		}
	}
	r.Vars = append(r.Vars, Var{name, value})
}

// Info is what the access log says about a request. Whoever knows fills it in.
type Info struct {
	Backend string // "static", "python"
	Worker  int    // number, from 1; 0: none had it
	PID     int    // of that worker, as the core sees it
	Status  int
	Bytes   int64 // of the answer's body
	Err     error // why it was cut short
}

// Response is where a backend writes the answer. Head is called once, before
// anything else; then Write, Flush and File in any order. A front adds the
// framing (Content-Length, chunked, Connection, Date) and drops a body that
// the method or status may not have. Head checks what it is given: an invalid
// status (200 to 599 are valid), name or value, a Transfer-Encoding or two
// Content-Lengths are an error and nothing is sent. It copies what it is
// given. Write may keep the bytes: call Flush when there is no more to come
// for a moment. One goroutine writes; if the Response is also an io.Closer,
// Close makes a Write that is pending in another goroutine, and every later
// one, fail.
type Response interface {
	Head(status int, reason string, fields []Field) error
	io.Writer
	Flush() error
	// File sends n bytes of f from offset off, with sendfile where it can.
	File(f File, off, n int64) error
	// Started reports whether any byte has been sent to the client.
	Started() bool
}

// File is an open regular file, such as an *os.File. Its owner closes it.
type File interface {
	io.ReaderAt
	Fd() uintptr
}

// A Handler answers requests. If it returns an error before anything was
// sent, the front answers with the status of the error (StatusOf); after that
// the connection is cut, so that a client can tell.
type Handler interface {
	Serve(ctx context.Context, r *Request, w Response) error
}

// HandlerFunc is a function as a Handler.
type HandlerFunc func(ctx context.Context, r *Request, w Response) error

// Serve implements Handler.
func (f HandlerFunc) Serve(ctx context.Context, r *Request, w Response) error { return f(ctx, r, w) }

// StatusError is an error with the HTTP status to answer.
type StatusError struct {
	Status     int
	RetryAfter time.Duration // 503: when to come again; 0: not said
	Err        error         // for the log, never for the client
}

func (e *StatusError) Error() string { return e.Err.Error() }
func (e *StatusError) Unwrap() error { return e.Err }

// StatusOf is the status to answer for err: that of a StatusError, else 500.
func StatusOf(err error) int {
	if e, ok := errors.AsType[*StatusError](err); ok {
		return e.Status
	}
	return 500
}

// Stats is what a pool of workers tells about itself. Counts are since the
// start of the core.
type Stats struct {
	Queued   int    // requests that wait for a worker
	Respawns uint64 // workers that had to be replaced
	Workers  []WorkerStats
}

// WorkerStats is one worker.
type WorkerStats struct {
	ID        int // from 1
	PID       int // 0: none at the moment
	Requests  uint64
	Errors    uint64 // requests it did not finish
	Respawns  uint64
	Harakiris uint64
	Busy      bool
	Accepting bool // the app is loaded
	Spawned   time.Time
	Running   time.Duration // spent in requests
	Sent      uint64        // bytes of answers
}
