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

	// Trailers are the fields behind the body; nil: the protocol has none. Only
	// their names are known before Body has given io.EOF.
	Trailers func() []Field

	// Trailing says that fields behind the answer's body reach the client: it has
	// said that it takes them, or speaks HTTP/2. No gateway passes them on, whatever
	// its client speaks.
	Trailing bool

	// Modifier1 is the uwsgi protocol's: who shall answer. It is one of those
	// below or the application's own (vassal.Workers.Modifier), which is the same
	// as ToApplication; a front, or a routing rule, sets it.
	Modifier1 uint8
}

// Values of Modifier1.
const (
	ToApplication = 0
	ToCGI         = 9
	ToPHP         = 14
	ToFunction    = 173 // never in a Request: the front calls it
)

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
	Thread  int    // of that worker, from 0
	Seq     uint64 // which request of that worker it was, from 1; 0: not known
	Status  int
	Fields  int    // header fields of the answer
	Head    int    // bytes of its head
	Bytes   int64  // of the answer's body
	File    bool   // the body came of a file
	Err     error  // why it was cut short, or why the client got an error
	Quiet   bool   // it has no line in the access log
	Extra   []Var  // further values for log-format, by name
	Then    func() // called once Status and Bytes are known; nil: nothing to do

	// Harakiri is how long the application may take: 0: what its own part of
	// the file says; below: for ever.
	Harakiri time.Duration

	// Measured says that the server has counted the answer's Content-Length, which
	// the application did not name: whoever changes the body may drop it.
	Measured bool
}

// Harakiri is how long the application may take for r, where its own part of
// the file says usual; 0: for ever.
func (r *Request) Harakiri(usual time.Duration) time.Duration {
	if d := r.Info.Harakiri; d != 0 {
		return max(d, 0)
	}
	return usual
}

// Response is where a backend writes the answer. Head is called once, before
// anything else; then Write, Flush and File in any order. A front adds the
// framing (Content-Length, chunked, Connection, Date) and drops a body that
// the method or status may not have. Head checks what it is given: an invalid
// status (200 to 599 are valid), name or value, a Transfer-Encoding or two
// Content-Lengths are an error and nothing is sent. It copies what it is
// given. Write may keep the bytes, and never waits for the client while head and
// body together have at most 12 KiB: call Flush when there is no more to come
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

// A Patient is a Body of which Read has no timeout any more once Wait was
// called: for whoever has the two sides talk in turn, and ends them himself when
// both are silent.
type Patient interface{ Wait() }

// A Watcher is a Response that can notice that the client has gone before it
// got its answer.
type Watcher interface {
	// Watch has left called, at most once and in another goroutine, when the
	// client closes its end. Stop ends the watch and waits for left to return;
	// it is called before Serve returns. Stop is nil where nothing can be
	// noticed: while there may still be a body to read, for instance.
	Watch(left func()) (stop func())
}

// A Trailerer is a Response that can send fields behind the body.
type Trailerer interface {
	// Trailers is called after the last of the body. What is no valid field is
	// left out.
	Trailers(fields []Field)
}

// SendTrailers sends fields behind the body where w can: a client by HTTP/1.1
// gets them if it has said that it takes them, and the length is not declared.
func SendTrailers(w Response, fields []Field) {
	if t, ok := w.(Trailerer); ok {
		t.Trailers(fields)
	}
}

// An Informer is a Response that can send informational ones before the answer
// (RFC 9110 15.2), such as 103 Early Hints.
type Informer interface {
	// Inform is called before Head, with a status of 102 to 199. What is no
	// valid field is left out. It never waits for the client: one that does not
	// read gets no more.
	Inform(status int, fields []Field)
}

// SendInformational sends an informational response where w can: no client by
// HTTP/1.0 understands one, and no gateway passes one on.
func SendInformational(w Response, status int, fields []Field) {
	if i, ok := w.(Informer); ok {
		i.Inform(status, fields)
	}
}

// Watch is the Watch of a Watcher, if w is one.
func Watch(w Response, left func()) (stop func()) {
	if t, ok := w.(Watcher); ok {
		return t.Watch(left)
	}
	return nil
}

// A Tunneler is a Response that can become a tunnel: what a WebSocket needs.
type Tunneler interface {
	// Tunnel sends a head, for which status may also be 101, and returns the
	// raw connection. It is called instead of Head; nothing else is called
	// after it. An error means that nothing was sent: the connection carries
	// something else besides (a body, another protocol).
	//
	// The stream has no read timeout: it lives as long as both ends do. Whoever
	// asked for it closes it before Serve returns.
	Tunnel(status int, reason string, fields []Field) (Stream, error)
}

// Stream is one connection's bytes in both directions.
type Stream interface {
	io.ReadWriteCloser
	CloseWrite() error // no more is written; the other direction goes on
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

// Unavailable is err, which passes, as 503 with Retry-After.
func Unavailable(err error) error {
	return &StatusError{Status: 503, RetryAfter: time.Second, Err: err}
}

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
	Cheap     bool   // none is wanted at the moment
	Delta     uint64 // requests of the process that is there now
	Accepting bool   // the app is loaded
	Spawned   time.Time
	Running   time.Duration // spent in requests
	Sent      uint64        // bytes of answers
	Threads   []ThreadStats // one for each of its threads
	Apps      []AppStats    // of several mounted apps; nil: there is one
}

// AppStats is what one of several apps did in a worker.
type AppStats struct {
	Mount    string
	PID      int // of the app's own process; 0: the worker's
	Requests uint64
	Errors   uint64
}

// ThreadStats is one thread of a worker, whichever process it is of.
type ThreadStats struct {
	Requests uint64
	Since    time.Time // of the request that it is at; zero: none
}
