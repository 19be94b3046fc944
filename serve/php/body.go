package php

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"liege/serve/exchange"
)

// readBody reads the body of r if it is short, so that a slow client holds no
// process. One whose length is not known is read to its end: PHP takes as much
// of a body as CONTENT_LENGTH says, and nothing without. What does not fit into
// memory goes into a file of the private /tmp meanwhile. The function that it
// returns puts r's own body back.
func (h *Handler) readBody(r *exchange.Request) (small bool, _ func(), err error) {
	own, length := r.Body, r.Length
	back := func() { r.Body, r.Length = own, length }
	switch {
	case length == 0 || length > smallBody:
		return false, back, nil
	case length > 0:
		b := make([]byte, length)
		if _, err := io.ReadFull(own, b); err != nil {
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
	f, err := os.CreateTemp(h.dir, "body-")
	if err != nil {
		return false, nil, noRoom(err)
	}
	undo := func() {
		_ = f.Close() // nobody reads it any more
		back()
	}
	if err := os.Remove(f.Name()); err != nil {
		undo()
		return false, nil, noRoom(err)
	}
	n, err := io.Copy(fileOnly{f}, io.MultiReader(bytes.NewReader(b), own))
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		undo()
		if _, ok := errors.AsType[*os.PathError](err); ok {
			return false, nil, noRoom(err)
		}
		return false, nil, badBody(err)
	}
	r.Body, r.Length = fileOnly{f}, n
	r.Set("CONTENT_LENGTH", strconv.FormatInt(n, 10))
	return false, undo, nil
}

// fileOnly hides what io.Copy would use of a file instead of its buffer.
type fileOnly struct{ f *os.File }

func (o fileOnly) Read(p []byte) (int, error)  { return o.f.Read(p) }
func (o fileOnly) Write(p []byte) (int, error) { return o.f.Write(p) }

func badBody(err error) error {
	if _, ok := errors.AsType[*exchange.StatusError](err); ok {
		return err
	}
	return &exchange.StatusError{Status: 400, Err: fmt.Errorf("the body of the request: %w", err)}
}

func noRoom(err error) error {
	return &exchange.StatusError{Status: 507, Err: fmt.Errorf("php: no room for a body without Content-Length: %w", err)}
}
