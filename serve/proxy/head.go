package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"liege/serve/exchange"
)

// Limits of an answer's head.
const (
	maxHead   = 128 << 10 // bytes
	maxFields = 1024
)

// head is the head of an answer: of HTTP/1.x (RFC 9112), or of CGI (RFC 3875
// 6), which has no status line. What is ambiguous is refused, as the front
// refuses it of clients: where the answer ends must be beyond doubt, or the
// next one on the connection begins somewhere else.
type head struct {
	status  int
	reason  string
	fields  []exchange.Field // without those of the connection, but with Content-Length
	length  int64            // Content-Length; -1: none
	chunked bool
	old     bool   // HTTP/1.0
	last    bool   // no other answer follows on the connection
	upgrade string // the field Upgrade
	hop     []string

	buf []byte
}

var (
	errLongHead  = errors.New("the head of its answer is too long")
	errNoAnswer  = errors.New("it closed the connection before it answered")
	errHalfHead  = errors.New("it closed the connection in the middle of a head")
	errTwoEnds   = errors.New("its answer says in two ways where it ends")
	errManyField = errors.New("its answer has too many header fields")
)

// read reads the next head. cgi says that there is no status line.
func (h *head) read(br *bufio.Reader, cgi bool) error {
	*h = head{fields: h.fields[:0], hop: h.hop[:0], buf: h.buf[:0], length: -1, status: 200}
	for {
		line, err := br.ReadSlice('\n')
		h.buf = append(h.buf, line...)
		switch {
		case len(h.buf) > maxHead:
			return errLongHead
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			if len(h.buf) == 0 {
				return errNoAnswer
			}
			return errHalfHead
		case err != nil:
			return err
		}
		if n := len(h.buf); string(line) == "\n" && (n == 1 || h.buf[n-2] == '\n') || string(line) == "\r\n" && (n == 2 || h.buf[n-3] == '\n') {
			break
		}
	}
	s := string(h.buf)
	if cap(h.buf) > 16<<10 {
		h.buf = nil
	}
	if !cgi {
		var line string
		line, s, _ = strings.Cut(s, "\n")
		if err := h.statusLine(strings.TrimSuffix(line, "\r")); err != nil {
			return err
		}
	}
	return h.parse(s, cgi)
}

// statusLine parses "HTTP/1.1 200 OK".
func (h *head) statusLine(s string) error {
	version, rest, _ := strings.Cut(s, " ")
	code, reason, _ := strings.Cut(rest, " ")
	h.old = version == "HTTP/1.0"
	h.last = h.old
	if version != "HTTP/1.1" && !h.old {
		return fmt.Errorf("its answer begins with %.40q", s)
	}
	return h.setStatus(code, reason, 100)
}

func (h *head) setStatus(code, reason string, least int) error {
	n, err := strconv.Atoi(code)
	if err != nil || len(code) != 3 || n < least || n > 599 || !valid(reason) {
		return fmt.Errorf("its status is %.40q", code+" "+reason)
	}
	h.status, h.reason = n, reason
	return nil
}

// parse parses the fields s up to the empty line.
func (h *head) parse(s string, cgi bool) error {
	moved := false
	for {
		line, rest, _ := strings.Cut(s, "\n")
		line = strings.TrimSuffix(line, "\r")
		if s = rest; line == "" {
			break
		}
		name, value, ok := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		switch {
		case !ok || !token(name):
			return fmt.Errorf("its answer has a malformed header field: %.40q", line)
		case !valid(value):
			return fmt.Errorf("its answer has an invalid byte in the field %s", name)
		case len(h.fields) >= maxFields:
			return errManyField
		case cgi && strings.EqualFold(name, "Status"):
			code, reason, _ := strings.Cut(value, " ")
			if err := h.setStatus(code, reason, 200); err != nil {
				return err
			}
			moved = false
			continue
		case cgi && strings.EqualFold(name, "Location") && h.status == 200:
			moved = true
		}
		if err := h.take(name, value); err != nil {
			return err
		}
	}
	if moved && h.status == 200 {
		h.status = 302
	}
	if h.chunked && (h.length >= 0 || h.old || cgi) { // HTTP/1.0 knows no chunks: others read on
		return errTwoEnds
	}
	h.dropHops()
	return nil
}

// take keeps one field, unless it is of the connection.
func (h *head) take(name, value string) error {
	switch {
	case strings.EqualFold(name, "Content-Length"):
		n, err := strconv.ParseUint(value, 10, 62)
		if err != nil || value[0] == '+' || h.length >= 0 && h.length != int64(n) {
			return fmt.Errorf("its Content-Length is %.40q", value)
		}
		if h.length >= 0 {
			return nil
		}
		h.length = int64(n)
	case strings.EqualFold(name, "Transfer-Encoding"):
		if h.chunked || !strings.EqualFold(value, "chunked") {
			return fmt.Errorf("its Transfer-Encoding is %.40q", value)
		}
		h.chunked = true
		return nil
	case strings.EqualFold(name, "Connection"), strings.EqualFold(name, "Proxy-Connection"):
		for word := range strings.SplitSeq(value, ",") {
			if word = strings.Trim(word, " \t"); strings.EqualFold(word, "close") {
				h.last = true
			} else if word != "" && !strings.EqualFold(word, "keep-alive") {
				h.hop = append(h.hop, word)
			}
		}
		return nil
	case strings.EqualFold(name, "Upgrade"):
		h.upgrade = value
		return nil
	case strings.EqualFold(name, "Keep-Alive"), strings.EqualFold(name, "TE"), strings.EqualFold(name, "Trailer"):
		return nil
	}
	h.fields = append(h.fields, exchange.Field{Name: name, Value: value})
	return nil
}

// dropHops takes out the fields that Connection names (RFC 9110 7.6.1).
func (h *head) dropHops() {
	if len(h.hop) == 0 {
		return
	}
	kept := h.fields[:0]
	for _, f := range h.fields {
		drop := false
		for _, name := range h.hop {
			drop = drop || strings.EqualFold(f.Name, name) && !strings.EqualFold(name, "Content-Length")
		}
		if !drop {
			kept = append(kept, f)
		}
	}
	h.fields = kept
}

// token reports whether s may be a field name (RFC 9110 5.6.2).
func token(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// valid reports whether s may be a field value.
func valid(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
