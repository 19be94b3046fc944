package proxy

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"liege/serve/exchange"
)

// protocol is how a request goes to a server that takes variables.
type protocol struct {
	send func(w *bufio.Writer, r *exchange.Request, b *body) error
	read func(from io.Reader) io.Reader // nil: the answer is what comes
}

// UWSGI sends r on over the uwsgi protocol.
func (c *Client) UWSGI(ctx context.Context, r *exchange.Request, w exchange.Response, addr string, modifier1, modifier2 byte) error {
	return c.packet(ctx, r, w, addr, protocol{send: func(bw *bufio.Writer, r *exchange.Request, b *body) error {
		if err := uwsgiVars(bw, r, modifier1, modifier2); err != nil {
			return err
		}
		if err := bw.Flush(); err != nil {
			return err
		}
		return sendBody(flushing{bw}, b, false)
	}})
}

// SCGI sends r on over SCGI.
func (c *Client) SCGI(ctx context.Context, r *exchange.Request, w exchange.Response, addr string) error {
	return c.packet(ctx, r, w, addr, protocol{send: func(bw *bufio.Writer, r *exchange.Request, b *body) error {
		if err := scgiVars(bw, r); err != nil {
			return err
		}
		if err := bw.Flush(); err != nil {
			return err
		}
		return sendBody(flushing{bw}, b, false)
	}})
}

// packet sends r on and answers with what the server says: an HTTP answer, or
// a CGI one. The request is sent by a goroutine of its own, which is gone when
// packet returns: a server may answer before it has the whole body.
func (c *Client) packet(ctx context.Context, r *exchange.Request, w exchange.Response, addr string, p protocol) error {
	r.Info.Backend = "proxy"
	if r.Length < 0 && p.read == nil {
		return &exchange.StatusError{Status: 411, Err: errors.New("the upstream's protocol needs the length of the body")}
	}
	nc, err := c.dial(ctx, addr)
	if err != nil {
		return upstream(addr, err)
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	b := newBody(r, nc)
	vars := *r // its own: rules about the answer may set variables
	vars.Vars = append([]exchange.Var(nil), r.Vars...)
	sent := make(chan error, 1)
	go func() {
		bw := bufio.NewWriterSize(nc, pieceSize)
		err := p.send(bw, &vars, b)
		if err == nil {
			err = bw.Flush()
		}
		if _, refused := errors.AsType[*exchange.StatusError](err); refused || b.failed() {
			nc.Close() // ends the wait for an answer; a server that reads no further may still give one
		}
		sent <- err
	}()
	from := io.Reader(nc)
	if p.read != nil {
		from = p.read(nc)
	}
	err = c.reply(ctx, r, w, nc, from)
	nc.Close()
	cause := b.take()
	if serr := <-sent; err != nil && !w.Started() {
		if cause != nil {
			return cause
		}
		if e, ok := errors.AsType[*exchange.StatusError](serr); ok {
			return e
		}
	}
	return err
}

// Raw answers with a whole answer, head and body.
func (c *Client) Raw(ctx context.Context, r *exchange.Request, w exchange.Response, answer string) error {
	return c.reply(ctx, r, w, &conn{addr: "function"}, strings.NewReader(answer))
}

// reply reads an answer and sends it on.
func (c *Client) reply(ctx context.Context, r *exchange.Request, w exchange.Response, nc *conn, from io.Reader) error {
	br := bufio.NewReaderSize(from, pieceSize)
	start, err := br.Peek(5)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errNoAnswer
	}
	if err != nil {
		return upstream(nc.addr, err)
	}
	h := &nc.head
	cgi := string(start) != "HTTP/"
	if err := h.read(br, cgi); err != nil {
		return upstream(nc.addr, err)
	}
	if h.status == 101 && nc.Conn != nil {
		return c.switched(ctx, h, w, nc, br, Upgrades(r))
	}
	if h.status < 200 {
		return upstream(nc.addr, fmt.Errorf("it answers %d", h.status))
	}
	if text, ok := from.(*strings.Reader); ok && h.length < 0 && !h.chunked { // it is all there: its end is known
		h.length = int64(text.Len() + br.Buffered())
		h.fields = append(h.fields, exchange.Field{Name: "Content-Length", Value: strconv.FormatInt(h.length, 10)})
	}
	x := trip{c: c, r: r, w: w, nc: nc, method: r.Get("REQUEST_METHOD")}
	return x.relay(h, br)
}

var errManyVars = &exchange.StatusError{Status: 431, Err: errors.New("the variables do not fit the upstream's protocol")}

// uwsgiVars writes a packet's head and variables (docs: "The uwsgi Protocol").
func uwsgiVars(bw *bufio.Writer, r *exchange.Request, modifier1, modifier2 byte) error {
	size := 0
	for _, v := range r.Vars {
		size += 4 + len(v.Name) + len(v.Value)
	}
	if size > 1<<16-1 {
		return errManyVars
	}
	b := make([]byte, 0, 4+size)
	b = append(b, modifier1, byte(size), byte(size>>8), modifier2)
	for _, v := range r.Vars {
		b = append(binary.LittleEndian.AppendUint16(b, uint16(len(v.Name))), v.Name...)
		b = append(binary.LittleEndian.AppendUint16(b, uint16(len(v.Value))), v.Value...)
	}
	_, err := bw.Write(b)
	return err
}

// scgiVars writes the head of an SCGI request: CONTENT_LENGTH first.
func scgiVars(bw *bufio.Writer, r *exchange.Request) error {
	b := append(strconv.AppendInt([]byte("CONTENT_LENGTH\x00"), max(r.Length, 0), 10), "\x00SCGI\x001\x00"...)
	for _, v := range r.Vars {
		if v.Name == "CONTENT_LENGTH" || v.Name == "SCGI" || strings.IndexByte(v.Value, 0) >= 0 {
			continue
		}
		b = append(append(append(append(b, v.Name...), 0), v.Value...), 0)
	}
	_, err := fmt.Fprintf(bw, "%d:%s,", len(b), b)
	return err
}

// flushing is a buffered writer of which nothing stays behind.
type flushing struct{ bw *bufio.Writer }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.bw.Write(p)
	if err == nil {
		err = f.bw.Flush()
	}
	return n, err
}
