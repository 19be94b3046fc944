package static

import (
	"strconv"
	"strings"
	"time"

	"liege/serve/exchange"
)

// dateFormat is that of HTTP dates (RFC 9110 5.6.7); only this one of its
// three forms is read, as in uWSGI.
const dateFormat = "Mon, 02 Jan 2006 15:04:05 GMT"

// send answers with the file f, whose type goes by name.
func (h *Handler) send(r *exchange.Request, w exchange.Response, f exchange.File, name string, fi info) error {
	modified := time.Unix(fi.mtime, 0).UTC().Format(dateFormat)
	switch precondition(r, fi) {
	case 304:
		return w.Head(304, "", []exchange.Field{{Name: "Last-Modified", Value: modified}})
	case 412:
		return w.Head(412, "", []exchange.Field{{Name: "Content-Length", Value: "0"}})
	}
	var fields [5]exchange.Field
	head := fields[:0]
	if t := h.types.of(name); t != "" {
		head = append(head, exchange.Field{Name: "Content-Type", Value: t})
	}
	status, off, n := 200, int64(0), fi.size
	if s := r.Get("HTTP_RANGE"); s != "" && current(r, modified) {
		status, off, n = byteRange(s, fi.size)
	}
	switch status {
	case 416:
		return w.Head(416, "", []exchange.Field{{Name: "Content-Range", Value: "bytes */" + strconv.FormatInt(fi.size, 10)},
			{Name: "Content-Length", Value: "0"}})
	case 206:
		head = append(head, exchange.Field{Name: "Content-Range", Value: "bytes " + strconv.FormatInt(off, 10) + "-" +
			strconv.FormatInt(off+n-1, 10) + "/" + strconv.FormatInt(fi.size, 10)})
	}
	head = append(head, exchange.Field{Name: "Content-Length", Value: strconv.FormatInt(n, 10)},
		exchange.Field{Name: "Last-Modified", Value: modified},
		exchange.Field{Name: "Accept-Ranges", Value: "bytes"})
	if err := w.Head(status, "", head); err != nil {
		return err
	}
	return w.File(f, off, n)
}

// precondition evaluates If-None-Match, If-Modified-Since and
// If-Unmodified-Since (RFC 9110 13.2.2) for a file that has no entity tag. It
// returns the status that ends the request, or 0.
func precondition(r *exchange.Request, fi info) int {
	if s := r.Get("HTTP_IF_UNMODIFIED_SINCE"); s != "" {
		if t, err := time.Parse(dateFormat, s); err == nil && fi.mtime > t.Unix() {
			return 412
		}
	}
	if s := r.Get("HTTP_IF_NONE_MATCH"); s != "" {
		if s == "*" {
			return 304
		}
		return 0
	}
	if s := r.Get("HTTP_IF_MODIFIED_SINCE"); s != "" {
		if t, err := time.Parse(dateFormat, s); err == nil && fi.mtime <= t.Unix() {
			return 304
		}
	}
	return 0
}

// current reports whether If-Range, if there is one, names the file as it is.
func current(r *exchange.Request, modified string) bool {
	s := r.Get("HTTP_IF_RANGE")
	return s == "" || s == modified
}

// byteRange parses a Range field for a file of size bytes. It returns 206 and
// the part, 416, or 200 for what is not one range of bytes: a list of ranges
// can make an answer many times the file.
func byteRange(s string, size int64) (status int, off, n int64) {
	spec, ok := strings.CutPrefix(s, "bytes=")
	first, last, dash := strings.Cut(strings.TrimSpace(spec), "-")
	if !ok || !dash || strings.IndexByte(spec, ',') >= 0 {
		return 200, 0, size
	}
	if first == "" { // the last bytes
		n, ok := number(last)
		switch {
		case !ok:
			return 200, 0, size
		case n == 0 || size == 0:
			return 416, 0, 0
		}
		n = min(n, size)
		return 206, size - n, n
	}
	a, ok1 := number(first)
	b, ok2 := size-1, true
	if last != "" {
		b, ok2 = number(last)
	}
	switch {
	case !ok1 || !ok2 || last != "" && b < a:
		return 200, 0, size
	case a >= size:
		return 416, 0, 0
	}
	return 206, a, min(b, size-1) - a + 1
}

// number parses decimal digits; more than fit are the largest number.
func number(s string) (int64, bool) {
	if s == "" {
		return 0, false
	}
	var n int64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		if n < 1<<58 {
			n = n*10 + int64(s[i]-'0')
		}
	}
	return n, true
}
