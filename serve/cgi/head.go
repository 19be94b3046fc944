package cgi

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/url"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"liege/serve/exchange"
)

// head is what a program says before its body (RFC 3875 6.2, 6.3).
type head struct {
	status int
	reason string
	fields []exchange.Field
	local  string // Location is a path, and there is nothing else
}

// readHead reads the fields up to the empty line; lines end in LF or CRLF.
// Together they may have limit bytes. io.EOF: the program said nothing.
func readHead(in *bufio.Reader, limit int) (head, error) {
	h := head{}
	location, size := "", 0
	for {
		line, err := in.ReadSlice('\n')
		if size += len(line); err == bufio.ErrBufferFull || size > limit {
			return h, fmt.Errorf("%w: more than %d bytes of header fields", errBadCGI, limit)
		}
		if err == io.EOF && size > 0 {
			return h, fmt.Errorf("%w: it ends before the empty line behind the header fields", errBadCGI)
		}
		if err != nil {
			return h, err
		}
		line = bytes.TrimSuffix(line[:len(line)-1], []byte("\r"))
		if len(line) == 0 {
			break
		}
		name, value, ok := strings.Cut(string(line), ":")
		if !ok || name == "" || strings.TrimSpace(name) != name {
			return h, fmt.Errorf("%w: %.60q is no header field", errBadCGI, line)
		}
		value = strings.TrimSpace(value)
		switch {
		case strings.EqualFold(name, "Status"):
			if err := h.setStatus(value); err != nil {
				return h, err
			}
			continue
		case strings.EqualFold(name, "Location"):
			location = value
		}
		h.fields = append(h.fields, exchange.Field{Name: name, Value: value})
	}
	return h.finish(location), nil
}

func (h *head) setStatus(value string) error {
	code, reason, _ := strings.Cut(value, " ")
	n, err := strconv.Atoi(code)
	if err != nil || n < 200 || n > 599 {
		return fmt.Errorf("%w: Status: %.60q", errBadCGI, value)
	}
	h.status, h.reason = n, strings.TrimSpace(reason)
	return nil
}

// finish sets what the program left out.
func (h *head) finish(location string) head {
	switch {
	case h.status != 0:
	case location == "":
		h.status = 200
	default:
		h.status = 302
		if strings.HasPrefix(location, "/") && !strings.HasPrefix(location, "//") && len(h.fields) == 1 {
			h.local = location
		}
	}
	return *h
}

// maxRedirects bounds the local redirects of one request.
const maxRedirects = 8

type hops struct{}

// redirect answers with what is at a path of the same server, as if it had
// been asked for (RFC 3875 6.2.2).
func (h *Handler) redirect(ctx context.Context, r *exchange.Request, w exchange.Response, local string) error {
	n, _ := ctx.Value(hops{}).(int)
	if n >= maxRedirects {
		return refuse(502, "CGI: more than %d local redirects", maxRedirects)
	}
	raw, query, _ := strings.Cut(local, "?")
	raw, _, _ = strings.Cut(raw, "#")
	p, err := url.PathUnescape(raw)
	if err != nil || strings.IndexByte(p, 0) >= 0 {
		return refuse(502, "CGI: local redirect to %.60q", local)
	}
	clean := path.Clean(p)
	if strings.HasSuffix(p, "/") && clean != "/" {
		clean += "/"
	}
	vars := make([]exchange.Var, 0, len(r.Vars))
	for _, v := range r.Vars {
		switch v.Name {
		case "CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_CONTENT_ENCODING", "HTTP_TRANSFER_ENCODING":
		default:
			vars = append(vars, v)
		}
	}
	next := exchange.Request{Vars: vars, Header: r.Header, Body: eof{}, Start: r.Start, Modifier1: r.Modifier1}
	if next.Get("REQUEST_METHOD") != "HEAD" {
		next.Set("REQUEST_METHOD", "GET")
	}
	next.Set("PATH_INFO", clean)
	next.Set("QUERY_STRING", query)
	err = h.whole.Serve(context.WithValue(ctx, hops{}, n+1), &next, w)
	r.Info = next.Info
	return err
}

// eof is the body of a request without one.
type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// pending reports whether a read of the pipe would not wait.
func pending(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return n > 0 || err != nil && err != unix.EINTR
}
