package worker

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"liege/serve/exchange"
)

// A dechunker takes the framing off a body that the application has put into
// chunks itself (RFC 9112 7.1), as Rails does for render stream: true: framing is
// the server's. Most that say Transfer-Encoding: chunked do not: a body that does
// not begin with a chunk is passed on as it is.
type dechunker struct {
	in    chunkPart
	begun bool   // the first chunk was there
	line  []byte // what there is of a line
	left  int64  // of a chunk
}

type chunkPart uint8

const (
	atSize chunkPart = iota // of a chunk
	atData
	atGap  // the line break behind a chunk
	atEnd  // trailers, or what follows a mistake: thrown away
	atText // it is in no chunks
)

const maxChunkLine = 4 << 10 // a chunk's size with extensions

var errChunks = errors.New("the application's chunked body is malformed, or not complete")

// next is the next piece of the body in b, and the rest of b.
func (d *dechunker) next(b []byte) (piece, rest []byte, err error) {
	switch d.in {
	case atText:
		return b, nil, nil
	case atEnd:
		return nil, nil, nil
	case atData:
		n := min(int64(len(b)), d.left)
		if d.left -= n; d.left == 0 {
			d.in = atGap
		}
		return b[:n], b[n:], nil
	}
	n := bytes.IndexByte(b, '\n') + 1
	whole := n > 0
	if !whole {
		n = len(b)
	}
	d.line = append(d.line, b[:n]...)
	size, ok := int64(0), string(d.line) == "\r\n"[:min(2, len(d.line))]
	if d.in == atSize {
		size, ok = chunkSize(d.line)
	}
	switch {
	case !ok && !d.begun:
		d.in = atText
		return d.line, b[n:], nil
	case !ok:
		d.in, d.line = atEnd, nil // what comes now is nothing
		return nil, nil, errChunks
	case !whole:
		return nil, nil, nil
	case d.in == atGap:
		d.in = atSize
	case size == 0:
		d.in = atEnd
	default:
		d.in, d.left = atData, size
	}
	d.begun, d.line = true, d.line[:0]
	return nil, b[n:], nil
}

// chunkSize is the size that a line says; it is false when the line, of which the
// end may be still to come, says none.
func chunkSize(line []byte) (size int64, ok bool) {
	n := 0
	for n < len(line) && strings.IndexByte("0123456789abcdefABCDEF", line[n]) >= 0 {
		n++
	}
	if n == 0 || n > 15 || len(line) > maxChunkLine {
		return 0, false
	}
	size, _ = strconv.ParseInt(string(line[:n]), 16, 64)
	rest := line[n:]
	switch {
	case len(rest) == 0:
		return size, true
	case strings.IndexByte("; \t\r", rest[0]) < 0 || rest[0] == '\r' && len(rest) > 1 && rest[1] != '\n':
		return 0, false
	case rest[len(rest)-1] == '\n':
		return size, bytes.HasSuffix(rest, []byte("\r\n"))
	}
	return size, true
}

// unframe takes Transfer-Encoding out of an answer's head: the field belongs to
// the connection, and the server writes its own.
func (l *lane) unframe() {
	index := func(name string) int {
		return slices.IndexFunc(l.fields, func(f exchange.Field) bool { return len(f.Name) == len(name) && strings.EqualFold(f.Name, name) })
	}
	l.chunks = nil
	i := index("Transfer-Encoding")
	if i < 0 || !strings.EqualFold(strings.TrimSpace(l.fields[i].Value), "chunked") {
		return // another coding, which nobody could take off, is refused
	}
	l.fields = slices.Delete(l.fields, i, i+1)
	if index("Content-Length") < 0 { // else it is no body in chunks
		l.chunks = &dechunker{}
	}
	if !l.proc.framed.Swap(true) {
		l.p.log.Info("the application says Transfer-Encoding, which is the server's part: it is left out, and a body in chunks taken out of them",
			"worker", l.proc.number)
	}
}

// pass hands a piece of the body on, without the application's framing. It is
// false when nothing more is wanted.
func (l *lane) pass(b []byte, all *atomic.Int64) bool {
	if l.chunks == nil {
		return l.current.write(b, all)
	}
	wanted := true
	for wanted && len(b) > 0 {
		var piece []byte
		var err error
		if piece, b, err = l.chunks.next(b); err != nil {
			l.current.spoil(err)
			return false
		}
		wanted = l.current.write(piece, all)
	}
	return wanted
}

// unframed ends a body that the application has framed.
func (l *lane) unframed(failed bool) {
	d := l.chunks
	switch l.chunks = nil; {
	case d == nil || failed || d.in == atEnd || d.in == atText:
	case d.begun:
		l.current.spoil(errChunks)
	case len(d.line) > 0:
		l.current.write(d.line, &l.p.spooled)
	}
}
