package front

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"
)

// maxChunkLine bounds a chunk's size line with its extensions, in bytes.
const maxChunkLine = 1 << 10

// body is the body of the request that a connection is serving. It is read by
// one goroutine at a time; Close may come from another.
type body struct {
	c       *conn
	left    int64 // of the body, or of the chunk at hand
	total   int64 // delivered so far
	limit   int64 // 0: none
	chunked bool
	toEnd   bool // of unknown length, up to the end of the connection's reads
	first   bool // no chunk has been read yet
	expect  bool // the client waits for 100 Continue
	err     error
	closed  atomic.Bool
}

// start prepares b for a request: length bytes, or -1 for chunked.
func (b *body) start(length int64, expect bool) {
	b.left, b.total, b.err = max(length, 0), 0, nil
	b.limit = b.c.s.limits.BodyBytes
	b.chunked, b.toEnd, b.first, b.expect = length < 0, false, true, expect
	b.closed.Store(false)
	if !b.chunked && b.left == 0 {
		b.err = io.EOF
	}
}

// Read implements io.Reader. Each call waits at most the body timeout.
func (b *body) Read(p []byte) (int, error) {
	if b.closed.Load() {
		return 0, errBodyClosed
	}
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	if b.expect {
		b.expect = false
		if err := b.c.res.sendContinue(); err != nil {
			b.err = err
			return 0, err
		}
	}
	if b.chunked && b.left == 0 {
		if b.err = b.nextChunk(); b.err != nil {
			return 0, b.err
		}
	}
	n, err := b.c.readBody(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	b.total += int64(n)
	switch {
	case b.toEnd && errors.Is(err, io.EOF):
		b.err = io.EOF
	case err != nil:
		b.err = b.why(err)
	case b.toEnd && b.limit > 0 && b.total > b.limit:
		b.err = errBodyLarge
	case b.left == 0 && !b.chunked:
		b.err = io.EOF
	}
	if n > 0 {
		return n, nil
	}
	return 0, b.err
}

// Close makes a Read that is pending in another goroutine, and every later
// one, fail. The connection is closed after the answer.
func (b *body) Close() error {
	if !b.closed.Swap(true) {
		b.c.interrupt()
	}
	return nil
}

// why translates an error of the connection.
func (b *body) why(err error) error {
	switch {
	case b.closed.Load():
		return errBodyClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errBodyTimeout
	}
	if _, ok := errors.AsType[*refusal](err); ok {
		return err
	}
	return errCutBody
}

// nextChunk reads up to the data of the next chunk. It returns io.EOF after
// the last one and its trailers, which are checked and dropped: a trailer
// never becomes a variable.
func (b *body) nextChunk() error {
	if !b.first {
		if line, err := b.c.readLine(2); err != nil {
			return b.why(err)
		} else if len(line) != 0 {
			return errChunk
		}
	}
	b.first = false
	line, err := b.c.readLine(maxChunkLine)
	if err != nil {
		return b.why(err)
	}
	if b.left, err = chunkSize(line); err != nil {
		return err
	}
	if b.limit > 0 && b.left > b.limit-b.total {
		return errBodyLarge
	}
	if b.left > 0 {
		return nil
	}
	return b.trailers()
}

func (b *body) trailers() error {
	size := 0
	for range b.c.s.limits.Fields + 1 {
		line, err := b.c.readLine(maxChunkLine * 4)
		if err != nil {
			return b.why(err)
		}
		if len(line) == 0 {
			return io.EOF
		}
		if _, _, err := field(string(line)); err != nil {
			return err
		}
		if size += len(line) + 2; size > b.c.s.limits.HeaderBytes {
			return errLargeHead
		}
	}
	return errManyFields
}

// chunkSize parses a chunk's size line without its CRLF: hexadecimal digits,
// then nothing or ";" and extensions, which are ignored.
func chunkSize(line []byte) (int64, error) {
	var n int64
	i := 0
	for ; i < len(line) && unhex(line[i]) >= 0; i++ {
		if i == 15 {
			return 0, errChunk
		}
		n = n<<4 | int64(unhex(line[i]))
	}
	if i == 0 || i < len(line) && line[i] != ';' {
		return 0, errChunk
	}
	for ; i < len(line); i++ {
		if c := line[i]; c < ' ' && c != '\t' || c == 0x7f {
			return 0, errChunk
		}
	}
	return n, nil
}

// maxDiscard is how much of a body that nobody read is thrown away to keep
// the connection, in bytes.
const maxDiscard = 64 << 10

// discard reads what the backend left of the body, and reports whether the
// next request can follow on the connection.
func (b *body) discard() bool {
	if errors.Is(b.err, io.EOF) {
		return !b.closed.Load()
	}
	if b.err != nil || b.closed.Load() || b.expect || !b.chunked && b.left > maxDiscard {
		return false
	}
	b.c.leave()
	buf := make([]byte, 4<<10)
	end := time.Now().Add(b.c.s.limits.BodyTimeout)
	for n := 0; n <= maxDiscard && time.Now().Before(end); {
		m, err := b.Read(buf)
		n += m
		if err != nil {
			return errors.Is(err, io.EOF)
		}
	}
	return false
}
