package php

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"liege/serve/exchange"
)

// readBody reads the body of r if it is short, so that a slow client holds no
// process. One whose length is not known is read to its end: PHP takes as much
// of a body as CONTENT_LENGTH says, and nothing without. What does not fit into
// memory goes into a file of the private /tmp meanwhile, within the space for
// such. The function that it returns puts r's own body back.
func (h *Handler) readBody(r *exchange.Request) (small bool, _ func(), err error) {
	own, length := r.Body, r.Length
	back := func() { r.Body, r.Length = own, length }
	switch {
	case length == 0 || length > smallBody:
		return false, back, nil
	case length > 0:
		if inMemory(own) {
			return true, back, nil
		}
		b, err := io.ReadAll(io.LimitReader(own, length)) // as it comes: who announces has sent nothing
		if err == nil && int64(len(b)) < length {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return false, nil, badBody(err)
		}
		r.Body = bytes.NewReader(b)
		return true, back, nil
	}
	b, err := io.ReadAll(io.LimitReader(own, smallBody+1))
	if err != nil {
		return false, nil, badBody(err)
	}
	if len(b) <= smallBody {
		r.Body, r.Length = bytes.NewReader(b), int64(len(b))
		r.Set("CONTENT_LENGTH", strconv.Itoa(len(b)))
		return true, back, nil
	}
	f, err := h.store(io.MultiReader(bytes.NewReader(b), own))
	if err != nil {
		return false, nil, err
	}
	r.Body, r.Length = f, f.size
	r.Set("CONTENT_LENGTH", strconv.FormatInt(f.size, 10))
	return false, func() { f.free(); back() }, nil
}

// inMemory reports whether package upload has read all of a body, which counts
// it: a copy would not be.
func inMemory(body io.Reader) bool {
	_, ok := body.(*bytes.Reader)
	return ok
}

// store puts a body into a file, and goes back to its beginning.
func (h *Handler) store(body io.Reader) (_ *filed, err error) {
	f, err := os.CreateTemp(h.dir, "body-")
	if err != nil {
		return nil, noRoom(err)
	}
	s := &filed{f: f, space: h.space}
	defer func() {
		if err != nil {
			s.free()
		}
	}()
	if err := os.Remove(f.Name()); err != nil {
		return nil, noRoom(err)
	}
	if _, err = io.Copy(s, body); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if _, ok := errors.AsType[*os.PathError](err); ok {
		return nil, noRoom(err)
	}
	if err != nil {
		return nil, badBody(err)
	}
	return s, nil
}

// filed is a body in a file without a name. It has no more methods than it
// needs, so that io.Copy uses its buffer.
type filed struct {
	f     *os.File
	space *exchange.Room
	size  int64 // taken of space
}

func (s *filed) Read(p []byte) (int, error) { return s.f.Read(p) }

// Write takes the space first: the private /tmp is the vassal's memory.
func (s *filed) Write(p []byte) (int, error) {
	n := int64(len(p))
	if s.size+n > s.space.Most() {
		return 0, &exchange.StatusError{Status: 413, Err: errors.New("php: a body without Content-Length is larger than post-buffering-space")}
	}
	if !s.space.Take(n) {
		return 0, &exchange.StatusError{Status: 503, RetryAfter: time.Second, Err: errors.New("php: bodies without Content-Length take all of post-buffering-space")}
	}
	s.size += n
	return s.f.Write(p)
}

// free gives back what the body takes; nobody reads it any more.
func (s *filed) free() {
	_ = s.f.Close() // it has no name: the bytes are gone
	s.space.Give(s.size)
}

func badBody(err error) error {
	if _, ok := errors.AsType[*exchange.StatusError](err); ok {
		return err
	}
	return &exchange.StatusError{Status: 400, Err: fmt.Errorf("the body of the request: %w", err)}
}

func noRoom(err error) error {
	return &exchange.StatusError{Status: 507, Err: fmt.Errorf("php: no room for a body without Content-Length: %w", err)}
}
