package proxy

import (
	"bufio"
	"errors"
	"io"
	"strings"
)

// chunks reads a chunked body (RFC 9112 7.1). Extensions and trailers are
// thrown away.
type chunks struct {
	br    *bufio.Reader
	left  int64
	begun bool
	done  bool
}

var errChunk = errors.New("its chunked body is malformed")

func (c *chunks) Read(p []byte) (int, error) {
	if c.left == 0 && !c.done {
		if err := c.next(); err != nil {
			return 0, cutBody(err)
		}
	}
	if c.done {
		return 0, io.EOF
	}
	n, err := c.br.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, cutBody(err)
}

// cutBody makes an end of file what it is in the middle of a body.
func cutBody(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// next reads the size of a chunk; after the last one, the trailers.
func (c *chunks) next() error {
	if c.begun {
		if line, err := c.line(); err != nil || len(line) != 0 {
			return orChunk(err)
		}
	}
	c.begun = true
	line, err := c.line()
	if err != nil {
		return err
	}
	n := 0
	for ; n < len(line) && n < 16; n++ {
		d := hexDigit(line[n])
		if d < 0 {
			break
		}
		c.left = c.left<<4 | d
	}
	if n == 0 || n == 16 || n < len(line) && line[n] != ';' && line[n] != ' ' && line[n] != '\t' {
		return errChunk
	}
	if c.left > 0 {
		return nil
	}
	for range maxFields {
		line, err := c.line()
		if err != nil || len(line) == 0 {
			c.done = err == nil
			return err
		}
		if name, value, ok := strings.Cut(string(line), ":"); !ok || !token(name) || !valid(value) {
			return errChunk
		}
	}
	return errChunk
}

func orChunk(err error) error {
	if err == nil {
		err = errChunk
	}
	return err
}

// line reads a line that ends in CRLF.
func (c *chunks) line() ([]byte, error) {
	line, err := c.br.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, errChunk
	case err != nil:
		return nil, err
	case len(line) < 2 || line[len(line)-2] != '\r':
		return nil, errChunk
	}
	return line[:len(line)-2], nil
}

func hexDigit(c byte) int64 {
	switch {
	case c >= '0' && c <= '9':
		return int64(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int64(c|0x20-'a') + 10
	}
	return -1
}
