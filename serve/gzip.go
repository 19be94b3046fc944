package serve

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"liege/serve/compress"
	"liege/serve/exchange"
	"liege/serve/static"
)

// autoGzip compresses answers that ask for it (http-auto-gzip): a field
// uWSGI-Encoding: gzip of the app, which is taken out, and no Content-Length
// or Content-Encoding of the app's own; and the client takes gzip. As in uWSGI the
// app decides: only it knows what is worth it, and what holds a secret beside
// what the client says, which compression would let out (BREACH).
type autoGzip struct {
	next        exchange.Handler
	compressors *compress.Lender
}

// Serve implements exchange.Handler.
func (a autoGzip) Serve(ctx context.Context, r *exchange.Request, w exchange.Response) error {
	if r.Header == nil { // not HTTP: what is in front does it
		return a.next.Serve(ctx, r, w)
	}
	z := &gzipped{Response: w, r: r, lender: a.compressors, takes: static.Accepts(r.Get("HTTP_ACCEPT_ENCODING"), "gzip"), head: r.Get("REQUEST_METHOD") == "HEAD"}
	err := a.next.Serve(ctx, r, z)
	if z.w == nil {
		return err
	}
	if err == nil {
		err = z.w.Close()
	}
	a.compressors.Return(z.w)
	return err
}

// gzipped is a Response that may be compressed.
type gzipped struct {
	exchange.Response
	r           *exchange.Request
	takes, head bool
	lender      *compress.Lender
	w           *gzip.Writer // nil: as it is
}

// Unwrap returns what it is around.
func (z *gzipped) Unwrap() exchange.Response { return z.Response }

// Head implements exchange.Response.
func (z *gzipped) Head(status int, reason string, fields []exchange.Field) error {
	const mark = "uWSGI-Encoding"
	i := slices.IndexFunc(fields, func(f exchange.Field) bool { return strings.EqualFold(f.Name, mark) })
	if i < 0 {
		return z.Response.Head(status, reason, fields)
	}
	wants := strings.EqualFold(strings.TrimSpace(fields[i].Value), "gzip")
	out := make([]exchange.Field, 0, len(fields)+1)
	length := -1 // where the server's own Content-Length is
	for _, f := range fields {
		switch {
		case strings.EqualFold(f.Name, mark):
			continue
		case z.r.Info.Measured && strings.EqualFold(f.Name, "Content-Length"):
			length = len(out)
		case strings.EqualFold(f.Name, "Content-Length"), strings.EqualFold(f.Name, "Content-Encoding"), strings.EqualFold(f.Name, "Content-Range"):
			wants = false
		}
		out = append(out, f)
	}
	if wants {
		out = append(out, exchange.Field{Name: "Vary", Value: "Accept-Encoding"}) // the client matters, whatever it takes
	}
	if wants && status != 204 && status != 304 && z.begins() {
		if length >= 0 {
			out = slices.Delete(out, length, length+1)
		}
		out = append(out, exchange.Field{Name: "Content-Encoding", Value: "gzip"})
		for i := range out { // RFC 9110 8.8.3: other bytes are not the same strongly
			if f := &out[i]; strings.EqualFold(f.Name, "ETag") && !strings.HasPrefix(f.Value, "W/") {
				f.Value = "W/" + f.Value
			}
		}
	}
	return z.Response.Head(status, reason, out)
}

// begins reports whether the client takes what is compressed, and has a
// compressor ready if there is a body.
func (z *gzipped) begins() bool {
	if z.takes && !z.head {
		z.w = z.lender.Gzip(z.Response)
	}
	return z.takes && (z.head || z.w != nil)
}

// Write implements exchange.Response.
func (z *gzipped) Write(p []byte) (int, error) {
	if z.w == nil {
		return z.Response.Write(p)
	}
	return z.w.Write(p)
}

// Flush implements exchange.Response.
func (z *gzipped) Flush() error {
	if z.w != nil {
		if err := z.w.Flush(); err != nil {
			return err
		}
	}
	return z.Response.Flush()
}

// File implements exchange.Response.
func (z *gzipped) File(f exchange.File, off, n int64) error {
	if z.w == nil {
		return z.Response.File(f, off, n)
	}
	m, err := io.Copy(z.w, io.NewSectionReader(f, off, n))
	if err == nil && m < n {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Close implements io.Closer, for a Write that is pending.
func (z *gzipped) Close() error {
	if c, ok := z.Response.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Trailers implements exchange.Trailerer.
func (z *gzipped) Trailers(fields []exchange.Field) { exchange.SendTrailers(z.Response, fields) }

// Inform implements exchange.Informer.
func (z *gzipped) Inform(status int, fields []exchange.Field) {
	exchange.SendInformational(z.Response, status, fields)
}

// Watch implements exchange.Watcher.
func (z *gzipped) Watch(left func()) (stop func()) { return exchange.Watch(z.Response, left) }

// Tunnel implements exchange.Tunneler.
func (z *gzipped) Tunnel(status int, reason string, fields []exchange.Field) (exchange.Stream, error) {
	if t, ok := z.Response.(exchange.Tunneler); ok {
		return t.Tunnel(status, reason, fields)
	}
	return nil, &exchange.StatusError{Status: 400, Err: errors.New("the connection cannot become a tunnel")}
}
