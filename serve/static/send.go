package static

import (
	"strconv"
	"strings"
	"sync"

	"liege/serve/exchange"
)

// head collects the fields of an answer. Their values are cut from one string.
type head struct {
	fields [maxFields]exchange.Field
	spans  [maxFields][2]int // of the value in text; the end 0: it is a constant
	n      int
	text   []byte
}

// maxFields is how many fields an answer may have.
const maxFields = 9

// heads is a cache of buffers.
var heads = sync.Pool{New: func() any { return &head{text: make([]byte, 0, 256)} }}

func (a *head) add(name, value string) {
	a.fields[a.n] = exchange.Field{Name: name, Value: value}
	a.n++
}

// mark ends a value that was appended to a.text from the position from.
func (a *head) mark(name string, from int) {
	a.fields[a.n].Name = name
	a.spans[a.n] = [2]int{from, len(a.text)}
	a.n++
}

// done returns the fields. They are valid until a is given back.
func (a *head) done() []exchange.Field {
	all := string(a.text)
	for i := range a.n {
		if s := a.spans[i]; s[1] > 0 {
			a.fields[i].Value = all[s[0]:s[1]]
		}
	}
	return a.fields[:a.n]
}

func (a *head) reset() {
	clear(a.fields[:a.n])
	clear(a.spans[:a.n])
	a.n, a.text = 0, a.text[:0]
}

// send answers with f, and closes it.
func (h *Handler) send(r *exchange.Request, w exchange.Response, f *found) error {
	a := heads.Get().(*head)
	defer func() {
		f.close()
		a.reset()
		heads.Put(a)
	}()
	kind, real := h.types.of(f.name), ""
	if h.expires.byFile() || h.packed.byFile() {
		real = f.real()
	}
	vary, encoding := h.packed.choose(h, r, f, real)
	status, off, n := 200, int64(0), f.size
	tag := appendTag(a.text, r, f, encoding)
	a.text = tag
	if m := r.Get("REQUEST_METHOD"); m == "GET" || m == "HEAD" {
		status = precondition(r, f, tag)
		if s := r.Get("HTTP_RANGE"); s != "" && status == 200 && m == "GET" && current(r, f, tag) {
			status, off, n = byteRange(s, f.size)
		}
	}
	a.mark("ETag", 0)
	if status != 412 && status != 416 {
		a.modified(f)
		if vary {
			a.add("Vary", "Accept-Encoding")
		}
		h.expires.add(a, r, f, real, kind)
	}
	switch status {
	case 304:
		return w.Head(304, "", a.done())
	case 412:
		a.add("Content-Length", "0")
		return w.Head(412, "", a.done())
	case 416:
		a.contentRange(-1, 0, f.size)
		a.add("Content-Length", "0")
		return w.Head(416, "", a.done())
	case 206:
		a.contentRange(off, n, f.size)
	}
	if kind != "" {
		a.add("Content-Type", kind)
	}
	if encoding != "" {
		a.add("Content-Encoding", encoding)
	}
	a.add("Accept-Ranges", "bytes")
	a.number("Content-Length", n)
	if err := w.Head(status, "", a.done()); err != nil {
		return err
	}
	return w.File(f, off, n)
}

func (a *head) number(name string, n int64) {
	at := len(a.text)
	a.text = strconv.AppendInt(a.text, n, 10)
	a.mark(name, at)
}

// contentRange adds Content-Range for n bytes from off; off < 0: for none.
func (a *head) contentRange(off, n, size int64) {
	at := len(a.text)
	a.text = append(a.text, "bytes "...)
	if off < 0 {
		a.text = append(a.text, '*')
	} else {
		a.text = strconv.AppendInt(a.text, off, 10)
		a.text = append(a.text, '-')
		a.text = strconv.AppendInt(a.text, off+n-1, 10)
	}
	a.text = append(a.text, '/')
	a.text = strconv.AppendInt(a.text, size, 10)
	a.mark("Content-Range", at)
}

func (a *head) modified(f *found) {
	at := len(a.text)
	a.text = appendDate(a.text, f.mtime)
	a.mark("Last-Modified", at)
}

// appendTag appends the entity tag of f: its time and size. One that changed
// within the last second may change again without a new time (a clock tick is
// milliseconds), so its tag is weak (RFC 9110 8.8.1).
func appendTag(b []byte, r *exchange.Request, f *found, encoding string) []byte {
	if !settled(r, f) {
		b = append(b, "W/"...)
	}
	b = append(b, '"')
	b = strconv.AppendInt(b, f.mtime, 16)
	b = append(b, '.')
	b = strconv.AppendInt(b, f.nsec, 16)
	b = append(b, '-')
	b = strconv.AppendInt(b, f.size, 16)
	if encoding != "" {
		b = append(append(b, '-'), encoding...)
	}
	return append(b, '"')
}

// settled reports whether f has not changed within the last second or so.
func settled(r *exchange.Request, f *found) bool { return r.Start.Unix()-f.mtime >= 2 }

// precondition evaluates If-Match, If-Unmodified-Since, If-None-Match and
// If-Modified-Since in the order of RFC 9110 13.2.2. It returns 200, or the
// status that ends the request.
func precondition(r *exchange.Request, f *found, tag []byte) int {
	if s := r.Get("HTTP_IF_MATCH"); s != "" {
		if !matches(s, tag, true) {
			return 412
		}
	} else if s := r.Get("HTTP_IF_UNMODIFIED_SINCE"); s != "" {
		if t, ok := parseDate(s); ok && f.mtime > t {
			return 412
		}
	}
	if s := r.Get("HTTP_IF_NONE_MATCH"); s != "" {
		if matches(s, tag, false) {
			return 304
		}
		return 200
	}
	if s := r.Get("HTTP_IF_MODIFIED_SINCE"); s != "" {
		if t, ok := parseDate(s); ok && f.mtime <= t {
			return 304
		}
	}
	return 200
}

// matches reports whether tag is in list, which is "*" or entity tags
// (RFC 9110 13.1). Compared strongly, a weak tag equals none.
func matches(list string, tag []byte, strong bool) bool {
	if list == "*" {
		return true
	}
	weak := len(tag) > 0 && tag[0] == 'W'
	if weak {
		if strong {
			return false
		}
		tag = tag[len("W/"):]
	}
	for list != "" {
		list = strings.TrimLeft(list, " \t,")
		other, isWeak := strings.CutPrefix(list, "W/")
		if other == "" || other[0] != '"' {
			return false
		}
		end := strings.IndexByte(other[1:], '"')
		if end < 0 {
			return false
		}
		if other[:end+2] == string(tag) && !(strong && isWeak) {
			return true
		}
		list = other[end+2:]
	}
	return false
}

// current reports whether If-Range, if there is one, names the file as it is:
// a strong tag, or the date of a file that cannot have changed since without
// a new one (RFC 9110 13.1.5).
func current(r *exchange.Request, f *found, tag []byte) bool {
	s := r.Get("HTTP_IF_RANGE")
	switch {
	case s == "":
		return true
	case s[0] == '"':
		return s == string(tag)
	}
	t, ok := parseDate(s)
	return ok && t == f.mtime && settled(r, f)
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
