// Package upload has the body of a request before a worker is asked: a worker
// answers one request at a time, and a client that sends slowly must not have
// it wait.
//
// A Handler stands in front of the application. It reads up to Memory bytes of
// a body into memory; with Store it goes on into a file without a name, up to
// the end, and when the memory of all is taken it goes there at once. What it
// has not read when the bounds are reached the application reads from the client
// as it comes: the bounds cost speed, never a request. They are of all requests
// together, and taken as bytes arrive, so that a client holds no more than he
// sent; only the first bytes of a body are not counted, so that a form is read
// whatever others do.
//
// Whoever takes all of the bounds still takes no application: bodies that are
// not there whole leave one of the requests that it serves at once to others.
// And a body ends: a client that sends less than leastRate for long is given up.
//
// A body that is there whole has a length: then the request has one too,
// whatever coding brought it.
package upload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"liege/serve/exchange"
)

// Bounds of what lies in memory, in bytes.
const (
	Memory = 64 << 10 // of one body
	inAll  = 16 << 20 // of all
	first  = 4 << 10  // what a buffer begins with, beside those
)

// leastRate is how many bytes a second a client must send in the long run: the
// default of Apache's mod_reqtimeout (body=20,MinRate=500).
const leastRate = 500

// Config says what is stored.
type Config struct {
	Store bool           // what does not lie in memory goes to a file
	Dir   string         // where the files are; nothing of them can be seen there
	Space *exchange.Room // of the files, all together; with Store

	// Patience is how long a client may be waited for altogether, beside the time
	// that what it sent takes at leastRate; 0: for ever.
	Patience time.Duration

	// Parallel is how many requests the application serves at once; nil: so many
	// that nobody waits. It is asked when there is a first request.
	Parallel func() int
}

// Handler reads bodies. Make one with New.
type Handler struct {
	cfg    Config
	next   exchange.Handler
	create func() (file, error)
	log    *slog.Logger

	memory     *exchange.Room
	unfinished func() *exchange.Places // of bodies that the application waits for; nil: no bound
	told       atomic.Int64            // unix time of the last line about a full disk
}

// file is where a body is stored.
type file interface {
	io.Writer
	io.ReaderAt
	io.Closer
}

// New returns a Handler in front of next.
func New(next exchange.Handler, cfg Config, log *slog.Logger) *Handler {
	h := &Handler{cfg: cfg, next: next, log: log, memory: exchange.NewRoom(inAll)}
	h.create = func() (file, error) { return unnamed(cfg.Dir) }
	if cfg.Parallel != nil {
		h.unfinished = sync.OnceValue(func() *exchange.Places { return exchange.NewPlaces(max(1, cfg.Parallel()-1)) })
	}
	return h
}

// Serve implements exchange.Handler. An error of the client's body is
// answered without the application.
func (h *Handler) Serve(ctx context.Context, r *exchange.Request, w exchange.Response) error {
	if r.Length == 0 {
		return h.next.Serve(ctx, r, w)
	}
	b := &stored{h: h, client: r.Body, length: r.Length}
	defer b.free()
	// Whoever ends ctx closes the connection too, which ends the wait here.
	if err := b.receive(); err != nil {
		return err
	}
	if !b.whole {
		if err := b.enter(ctx); err != nil {
			return err
		}
		r.Body = b
		return h.next.Serve(ctx, r, w)
	}
	if r.Length < 0 {
		r.Length = b.size()
		r.Set("CONTENT_LENGTH", strconv.FormatInt(r.Length, 10))
	}
	r.Body = b.reader()
	return h.next.Serve(ctx, r, w)
}

// buffers is a cache of those that bodies begin with.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, first); return &b }}

// stored is a body as far as it has been received. After receive it is a
// reader of all of it: what is stored, then what the client sends.
type stored struct {
	h      *Handler
	client io.Reader
	length int64         // -1: unknown
	came   int64         // bytes from the client
	waited time.Duration // for them
	whole  bool          // nothing more comes

	file   file
	filed  int64   // bytes in it, taken of the space
	mem    []byte  // what follows
	pooled *[]byte // mem is still that
	taken  int64   // of h.memory

	from  io.Reader // of Read
	leave func()    // gives back the place among the unfinished
}

func (b *stored) size() int64 { return b.filed + int64(len(b.mem)) }

// receive reads what may be stored.
func (b *stored) receive() error {
	b.pooled = buffers.Get().(*[]byte)
	b.mem = (*b.pooled)[:0]
	for len(b.mem) < cap(b.mem) || b.more() {
		n, err := b.pull(b.mem[len(b.mem):cap(b.mem)])
		b.mem = b.mem[:len(b.mem)+n]
		switch {
		case b.came == b.length && (err == nil || errors.Is(err, io.EOF)), b.length < 0 && errors.Is(err, io.EOF):
			b.whole = true
			return nil
		case err != nil:
			return badBody(err)
		}
	}
	return nil
}

func badBody(err error) error {
	if _, ok := errors.AsType[*exchange.StatusError](err); ok {
		return err
	}
	return fmt.Errorf("body of the request: %w", err)
}

var errSlow = &exchange.StatusError{Status: 408, Err: errors.New("the client sends the body too slowly")}

// pull reads from the client. The front bounds each wait; a byte before each
// bound would have it last for ever.
func (b *stored) pull(p []byte) (int, error) {
	asked := time.Now()
	n, err := b.client.Read(p)
	b.waited += time.Since(asked)
	b.came += int64(n)
	if d := b.h.cfg.Patience; err == nil && d > 0 && b.waited > d+time.Duration(b.came/leastRate)*time.Second {
		return 0, errSlow
	}
	return n, err
}

// more makes room behind mem, which is full; false: there is none.
func (b *stored) more() bool {
	if b.file == nil && cap(b.mem) < Memory && b.grow() {
		return true
	}
	return b.h.cfg.Store && b.shift()
}

// grow doubles mem.
func (b *stored) grow() bool {
	size := 2 * cap(b.mem)
	more := int64(size) - b.taken
	if !b.h.memory.Take(more) {
		return false
	}
	b.taken += more
	b.mem = append(make([]byte, 0, size), b.mem...)
	b.recycle()
	return true
}

// recycle gives back the buffer that mem began with.
func (b *stored) recycle() {
	if b.pooled != nil {
		buffers.Put(b.pooled)
		b.pooled = nil
	}
}

// shift moves what is in mem to the file.
func (b *stored) shift() bool {
	if b.file == nil {
		f, err := b.h.create()
		if err != nil {
			b.h.tell(err)
			return false
		}
		b.file = f
	}
	n := int64(len(b.mem))
	if !b.h.cfg.Space.Take(n) {
		return false
	}
	m, err := b.file.Write(b.mem)
	b.filed += int64(m)
	if err != nil {
		b.h.cfg.Space.Give(n - int64(m))
		b.h.tell(err)
		b.mem = b.mem[m:]
		return false
	}
	b.mem = b.mem[:0]
	return true
}

// enter waits until the application may have one more body to wait for.
func (b *stored) enter(ctx context.Context) error {
	if b.h.unfinished == nil {
		return nil
	}
	places := b.h.unfinished()
	i, err := places.Take(ctx)
	if err != nil {
		return fmt.Errorf("bodies that are not there yet: %w", err)
	}
	b.leave = sync.OnceFunc(func() { places.Give(i) })
	return nil
}

// free gives back what the body takes.
func (b *stored) free() {
	if b.leave != nil {
		b.leave()
	}
	if b.file != nil {
		_ = b.file.Close() // it has no name: the bytes are gone
		b.h.cfg.Space.Give(b.filed)
	}
	b.recycle()
	b.h.memory.Give(b.taken)
}

// reader reads what is stored.
func (b *stored) reader() io.Reader {
	if b.file == nil {
		return bytes.NewReader(b.mem)
	}
	return io.MultiReader(io.NewSectionReader(b.file, 0, b.filed), bytes.NewReader(b.mem))
}

// Read implements io.Reader: what is stored first.
func (b *stored) Read(p []byte) (int, error) {
	if b.from == nil {
		b.from = io.MultiReader(b.reader(), rest{b})
	}
	return b.from.Read(p)
}

// rest is what the client still sends. Once that is all of it nobody waits for
// the client any more, however long the application works on it.
type rest struct{ *stored }

func (r rest) Read(p []byte) (int, error) {
	n, err := r.pull(p)
	if (err != nil || r.came == r.length) && r.leave != nil {
		r.leave()
	}
	return n, err
}

// Close implements io.Closer: a Read that is pending fails.
func (b *stored) Close() error {
	if c, ok := b.client.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// tell says, at most once a minute, why bodies are not stored.
func (h *Handler) tell(err error) {
	now := time.Now().Unix()
	if last := h.told.Load(); now-last >= 60 && h.told.CompareAndSwap(last, now) {
		h.log.Warn("request bodies cannot be stored: slow uploads hold workers", "dir", h.cfg.Dir, "err", err)
	}
}

// unnamed makes a file in dir that nobody can open.
func unnamed(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), dir), nil
	}
	f, err := os.CreateTemp(dir, ".upload-") // a file system without O_TMPFILE
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
