package proxy

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"liege/serve/exchange"
)

// Record types of FastCGI (its specification, section 8), as far as a web
// server's side needs them.
const (
	fcgiBegin  = 1
	fcgiEnd    = 3
	fcgiParams = 4
	fcgiStdin  = 5
	fcgiStdout = 6
	fcgiStderr = 7
	fcgiID     = 1 // of the one request of a connection
)

// Roles of a FastCGI application.
const (
	responder  = 1
	authorizer = 2
)

// FastCGI sends r on to a FastCGI responder. What it writes to its error
// stream is logged.
func (c *Client) FastCGI(ctx context.Context, r *exchange.Request, w exchange.Response, addr string) error {
	return c.fastCGI(ctx, r, w, addr, responder)
}

// Authorize asks a FastCGI authorizer about r, which it gets without its body
// (FastCGI's specification, 6.3). It answers on w: 200 lets the request pass,
// and a field Variable-NAME is a variable for it.
func (c *Client) Authorize(ctx context.Context, r *exchange.Request, w exchange.Response, addr string) error {
	bare := &exchange.Request{Start: r.Start, Body: strings.NewReader("")}
	for _, v := range r.Vars {
		if v.Name != "CONTENT_LENGTH" {
			bare.Vars = append(bare.Vars, v)
		}
	}
	return c.fastCGI(ctx, bare, w, addr, authorizer)
}

func (c *Client) fastCGI(ctx context.Context, r *exchange.Request, w exchange.Response, addr string, role byte) error {
	said := &complaint{log: func(line string) { c.log.Warn("upstream says", "upstream", addr, "text", line) }}
	defer said.end()
	return c.packet(ctx, r, w, addr, protocol{
		send: func(bw *bufio.Writer, r *exchange.Request, b *body) error { return sendFastCGI(bw, r, b, role) },
		read: func(from io.Reader) io.Reader {
			return &fcgiReader{br: bufio.NewReaderSize(from, pieceSize), said: said}
		},
	})
}

func fcgiRecord(bw *bufio.Writer, kind byte, content []byte) error {
	head := [8]byte{1, kind, 0, fcgiID, byte(len(content) >> 8), byte(len(content))}
	if _, err := bw.Write(head[:]); err != nil {
		return err
	}
	_, err := bw.Write(content)
	return err
}

func sendFastCGI(bw *bufio.Writer, r *exchange.Request, b *body, role byte) error {
	if err := fcgiRecord(bw, fcgiBegin, []byte{0, role, 0, 0, 0, 0, 0, 0}); err != nil { // close afterwards
		return err
	}
	var params []byte
	for _, v := range r.Vars {
		params = append(appendSize(appendSize(params, len(v.Name)), len(v.Value)), v.Name...)
		params = append(params, v.Value...)
	}
	for len(params) > 0 {
		n := min(len(params), pieceSize)
		if err := fcgiRecord(bw, fcgiParams, params[:n]); err != nil {
			return err
		}
		params = params[n:]
	}
	if err := fcgiRecord(bw, fcgiParams, nil); err != nil {
		return err
	}
	buf := make([]byte, pieceSize)
	for {
		if err := bw.Flush(); err != nil {
			return err
		}
		n, err := b.Read(buf)
		if n > 0 {
			if werr := fcgiRecord(bw, fcgiStdin, buf[:n]); werr != nil {
				return werr
			}
		}
		if errors.Is(err, io.EOF) {
			return fcgiRecord(bw, fcgiStdin, nil)
		}
		if err != nil {
			return err
		}
	}
}

// appendSize appends the length of a name or value (section 3.4).
func appendSize(b []byte, n int) []byte {
	if n < 128 {
		return append(b, byte(n))
	}
	return binary.BigEndian.AppendUint32(b, uint32(n)|1<<31)
}

// fcgiReader is the output of a request.
type fcgiReader struct {
	br   *bufio.Reader
	said *complaint
	left int // of the record at hand
	pad  int
	done bool
}

func (f *fcgiReader) Read(p []byte) (int, error) {
	for f.left == 0 {
		if f.done {
			return 0, io.EOF
		}
		if err := f.next(); err != nil {
			return 0, err
		}
	}
	n, err := f.br.Read(p[:min(len(p), f.left)])
	f.left -= n
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// next goes on to the next record, and takes those that are no output.
func (f *fcgiReader) next() error {
	if _, err := f.br.Discard(f.pad); err != nil {
		return io.ErrUnexpectedEOF
	}
	var h [8]byte
	if _, err := io.ReadFull(f.br, h[:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	n := int(h[4])<<8 | int(h[5])
	f.pad = int(h[6])
	if h[0] != 1 || h[2] != 0 || h[3] != fcgiID {
		return fmt.Errorf("no FastCGI record of this request: % x", h)
	}
	switch h[1] {
	case fcgiStdout:
		f.left = n
		return nil
	case fcgiStderr:
		_, err := io.CopyN(f.said, f.br, int64(n))
		return err
	case fcgiEnd:
		f.done = true
		_, err := f.br.Discard(n)
		return err
	}
	_, err := f.br.Discard(n)
	return err
}

// complaint collects what comes on an error stream, line by line.
type complaint struct {
	log  func(line string)
	rest string
	n    int
}

// maxComplaints bounds the lines of one request.
const maxComplaints = 64

func (s *complaint) Write(p []byte) (int, error) {
	s.rest += string(p)
	for {
		line, rest, ok := strings.Cut(s.rest, "\n")
		if !ok && len(s.rest) < 4<<10 {
			return len(p), nil
		}
		s.rest = rest
		s.say(line)
	}
}

func (s *complaint) say(line string) {
	if line = strings.TrimSpace(line); line != "" && s.n < maxComplaints {
		s.n++
		s.log(line)
	}
}

func (s *complaint) end() { s.say(s.rest) }
