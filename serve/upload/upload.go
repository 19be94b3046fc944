// Package upload has the body of a request before a worker is asked: a worker
// answers one request at a time, and a client that sends slowly must not have
// it wait.
//
// A Handler stands in front of the application. It reads up to Memory bytes of
// a body into memory; with Store it goes on into a file without a name, up to
// the end. What it has not read when a bound is reached the application reads
// from the client as it comes: the bounds cost speed, never a request. Both
// bounds are of all requests together; memory is taken as bytes arrive, so
// that a client holds no more than he sent.
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
	first  = 4 << 10  // what a buffer begins with
)

// Config says what is stored.
type Config struct {
	Store bool   // what is more than Memory goes to a file
	Dir   string // where the files are; nothing of them can be seen there
	Space int64  // most bytes in files, all together
}

// Handler reads bodies. Make one with New.
type Handler struct {
	cfg    Config
	next   exchange.Handler
	create func() (file, error)
	log    *slog.Logger

	memory, space atomic.Int64 // taken
	told          atomic.Int64 // unix time of the last line about a full disk
}

// file is where a body is stored.
type file interface {
	io.Writer
	io.ReaderAt
	io.Closer
}

// New returns a Handler in front of next.
func New(next exchange.Handler, cfg Config, log *slog.Logger) *Handler {
	h := &Handler{cfg: cfg, next: next, log: log}
	h.create = func() (file, error) { return unnamed(cfg.Dir) }
	return h
}

// Serve implements exchange.Handler. An error of the client's body is
// answered without the application.
func (h *Handler) Serve(ctx context.Context, r *exchange.Request, w exchange.Response) error {
	if r.Length == 0 {
		return h.next.Serve(ctx, r, w)
	}
	b := &stored{h: h, client: r.Body}
	defer b.free()
	// Whoever ends ctx closes the connection too, which ends the wait here.
	if err := b.receive(r.Length); err != nil {
		return err
	}
	if !b.whole {
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
	whole  bool // nothing more comes
	pooled *[]byte
	mem    []byte
	taken  int64 // of h.memory

	file    file
	filed   int64 // bytes in it
	space   int64 // taken of h.space
	rest    []byte
	restBuf *[]byte

	from io.Reader // of Read
}

func (b *stored) size() int64 { return int64(len(b.mem)) + b.filed + int64(len(b.rest)) }

// receive reads what may be stored of a body of length bytes; -1: unknown.
func (b *stored) receive(length int64) error {
	if !b.grow() {
		return nil
	}
	for {
		if len(b.mem) == cap(b.mem) && (len(b.mem) == Memory || !b.grow()) {
			break
		}
		n, err := b.client.Read(b.mem[len(b.mem):cap(b.mem)])
		b.mem = b.mem[:len(b.mem)+n]
		if done, err := b.ended(length, err); done || err != nil {
			return err
		}
	}
	if len(b.mem) < Memory || !b.h.cfg.Store {
		return nil
	}
	return b.store(length)
}

// ended looks at what a Read of the client says.
func (b *stored) ended(length int64, err error) (bool, error) {
	switch {
	case errors.Is(err, io.EOF) && (length < 0 || b.size() == length), err == nil && b.size() == length:
		b.whole = true
		return true, nil
	case err == nil:
		return false, nil
	}
	if _, ok := errors.AsType[*exchange.StatusError](err); ok {
		return false, err
	}
	return false, fmt.Errorf("body of the request: %w", err)
}

// grow makes room in memory; false: there is none.
func (b *stored) grow() bool {
	more := int64(max(cap(b.mem), first))
	if b.h.memory.Add(more) > inAll {
		b.h.memory.Add(-more)
		return false
	}
	b.taken += more
	if b.mem == nil {
		b.pooled = buffers.Get().(*[]byte)
		b.mem = (*b.pooled)[:0]
		return true
	}
	b.mem = append(make([]byte, 0, cap(b.mem)+int(more)), b.mem...)
	return true
}

// step is how much of the space for files is taken at a time.
const step = 1 << 20

// store goes on into a file until the body's end or until there is no space.
func (b *stored) store(length int64) error {
	var err error
	if b.file, err = b.h.create(); err != nil {
		b.h.tell(err)
		return nil
	}
	b.restBuf = pieces.Get().(*[]byte)
	buf := *b.restBuf
	for b.room(int64(len(buf))) {
		n, rerr := b.client.Read(buf)
		m, werr := b.file.Write(buf[:n])
		b.filed += int64(m)
		b.rest = buf[m:n]
		if done, err := b.ended(length, rerr); done || err != nil {
			return err
		}
		if werr != nil {
			b.h.tell(werr)
			return nil
		}
	}
	return nil
}

// pieces is a cache of the buffers between client and file.
var pieces = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// room takes space for n more bytes in the file.
func (b *stored) room(n int64) bool {
	if b.filed+n <= b.space {
		return true
	}
	if b.h.space.Add(step) > b.h.cfg.Space {
		b.h.space.Add(-step)
		return false
	}
	b.space += step
	return true
}

// free gives back what the body takes.
func (b *stored) free() {
	if b.file != nil {
		_ = b.file.Close() // it has no name: the bytes are gone
	}
	if b.restBuf != nil {
		pieces.Put(b.restBuf)
	}
	if b.pooled != nil {
		buffers.Put(b.pooled)
	}
	b.h.memory.Add(-b.taken)
	b.h.space.Add(-b.space)
}

// reader reads what is stored.
func (b *stored) reader() io.Reader {
	if b.file == nil {
		return bytes.NewReader(b.mem)
	}
	return io.MultiReader(bytes.NewReader(b.mem), io.NewSectionReader(b.file, 0, b.filed), bytes.NewReader(b.rest))
}

// Read implements io.Reader: what is stored first.
func (b *stored) Read(p []byte) (int, error) {
	if b.from == nil {
		b.from = io.MultiReader(b.reader(), b.client)
	}
	return b.from.Read(p)
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
