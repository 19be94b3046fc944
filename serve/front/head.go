package front

import (
	"bytes"
	"strings"

	"liege/serve/exchange"
)

// head is the parsed head of one HTTP/1.x request. Everything in it is a
// substring of one string, so it may be kept as long as one likes.
type head struct {
	method string
	target string // as received
	uri    string // origin form: path and query, raw
	minor  int    // 0 or 1 of HTTP/1.x
	host   string // of the target if that is in absolute form, else of Host
	fields []exchange.Field
	known  []known // of fields, by index

	length    int64 // Content-Length; -1: none
	chunked   bool
	expect    bool // Expect: 100-continue
	close     bool // Connection: close
	keepAlive bool // Connection: keep-alive
	trailers  bool // TE: trailers
	upgrade   bool // Connection: upgrade, and the request may become a tunnel
}

// reset empties h and keeps its memory.
func (h *head) reset() {
	*h = head{fields: h.fields[:0], known: h.known[:0], length: -1}
}

// headEnd looks for the end of a head in b, whose first line begins at line
// and whose bytes before scanned hold no further line end. It returns the
// length of the head with its empty line, 0 when there is more to come. Every
// line must end in CRLF: a bare LF is where two parsers disagree (RFC 9112
// 2.2 lets a recipient take it; it is how requests are smuggled).
func headEnd(b []byte, line, scanned int) (n, nextLine, nextScanned int, err error) {
	for {
		i := bytes.IndexByte(b[scanned:], '\n')
		if i < 0 {
			return 0, line, len(b), nil
		}
		end := scanned + i
		if end == line || b[end-1] != '\r' {
			return 0, line, end, errBareLF
		}
		if end == line+1 {
			return end + 1, line, end, nil
		}
		line, scanned = end+1, end+1
	}
}

// parse parses s, a whole head with its empty line. At most maxFields fields
// are taken.
func (h *head) parse(s string, maxFields int) error {
	h.reset()
	i := strings.Index(s, "\r\n")
	if i < 0 {
		return errRequestLine
	}
	if err := h.requestLine(s[:i]); err != nil {
		return err
	}
	if err := h.parseFields(s[i+2:], maxFields); err != nil {
		return err
	}
	return h.check()
}

// requestLine parses "METHOD target HTTP/1.x": exactly one space between.
func (h *head) requestLine(s string) error {
	i := strings.IndexByte(s, ' ')
	if i <= 0 {
		return errRequestLine
	}
	j := strings.IndexByte(s[i+1:], ' ')
	if j <= 0 {
		return errRequestLine // no version: HTTP/0.9
	}
	j += i + 1
	h.method, h.target = s[:i], s[i+1:j]
	for k := range len(h.method) {
		if !methodByte[h.method[k]] {
			return errMethod
		}
	}
	if !validTarget(h.target) {
		return errTarget
	}
	switch v := s[j+1:]; {
	case v == "HTTP/1.1":
		h.minor = 1
	case v == "HTTP/1.0":
	case len(v) == 8 && v[:5] == "HTTP/" && digit(v[5]) && v[6] == '.' && digit(v[7]):
		return errVersion
	default:
		return errRequestLine
	}
	return nil
}

// validTarget reports whether s has no byte that two readers may understand
// differently: control characters and blanks, and "#", at which one ends the
// path and another does not (CVE-2023-45539 was that). Bytes from 0x80 are no
// part of a URI either, but links and scripts hold them as UTF-8, and to every
// reader they are text.
func validTarget(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == 0x7f || c == '#' {
			return false
		}
	}
	return true
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// parseFields parses the field lines s up to and with the empty line.
func (h *head) parseFields(s string, maxFields int) error {
	for {
		i := strings.Index(s, "\r\n")
		if i < 0 {
			return errField
		}
		if i == 0 {
			return nil
		}
		if len(h.fields) >= maxFields {
			return errManyFields
		}
		name, value, err := field(s[:i])
		if err != nil {
			return err
		}
		k := lookup(name)
		h.fields = append(h.fields, exchange.Field{Name: name, Value: value})
		h.known = append(h.known, k)
		if err := h.take(k, value); err != nil {
			return err
		}
		s = s[i+2:]
	}
}

// field splits and checks one field line without its CRLF.
func field(s string) (name, value string, err error) {
	i := 0
	for i < len(s) && tokenByte[s[i]] {
		i++
	}
	switch {
	case s[0] == ' ' || s[0] == '\t':
		return "", "", errFold
	case i == 0 || i == len(s) || s[i] != ':':
		return "", "", errFieldName
	}
	value = trim(s[i+1:])
	if !validValue(value) {
		return "", "", errFieldValue
	}
	return s[:i], value, nil
}

// trim takes optional white space (RFC 9110 5.6.3) from both ends.
func trim(s string) string {
	for len(s) > 0 && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for len(s) > 0 && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// validValue reports whether s may be a field value: no control byte but tab.
// Bytes above 0x7f are let through (obs-text): browsers send them in Referer
// and Cookie.
func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// take notes what a field says about the connection and the body.
func (h *head) take(k known, value string) error {
	switch k {
	case hContentLength:
		if h.length >= 0 {
			return errTwoLengths
		}
		n, ok := parseLength(value)
		if !ok {
			return errLength
		}
		h.length = n
	case hTransferEncoding:
		if h.chunked {
			return errTransferEncoding
		}
		if !strings.EqualFold(value, "chunked") {
			if last := value[strings.LastIndexByte(value, ',')+1:]; strings.EqualFold(trim(last), "chunked") && !strings.EqualFold(trim(value[:strings.IndexByte(value, ',')]), "chunked") {
				return errCoding
			}
			return errTransferEncoding
		}
		h.chunked = true
	case hHost:
		if h.host != "" {
			return errTwoHosts
		}
		if !validHost(value) {
			return errHost
		}
		h.host = value
	case hExpect:
		if !strings.EqualFold(value, "100-continue") {
			return errExpect
		}
		h.expect = true
	case hTE:
		for v := range strings.SplitSeq(value, ",") {
			v, _, _ = strings.Cut(v, ";")
			h.trailers = h.trailers || strings.EqualFold(trim(v), "trailers")
		}
	case hConnection:
		for v := range strings.SplitSeq(value, ",") {
			switch v = trim(v); {
			case strings.EqualFold(v, "close"):
				h.close = true
			case strings.EqualFold(v, "keep-alive"):
				h.keepAlive = true
			case strings.EqualFold(v, "upgrade"):
				h.upgrade = true
			}
		}
	}
	return nil
}

// parseLength parses a Content-Length: digits only, no leading zero (octal to
// some), below 2^62 so that sums stay positive.
func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 || len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	var n int64
	for i := range len(s) {
		if !digit(s[i]) {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

// check checks what concerns several fields (RFC 9112 3.2, 3.2.2, 6.1).
func (h *head) check() error {
	hosts := 0
	for _, k := range h.known {
		if k == hHost {
			hosts++
		}
	}
	switch {
	case hosts > 1:
		return errTwoHosts
	case hosts == 0 && h.minor == 1:
		return errNoHost
	case h.chunked && h.length >= 0:
		return errBothLengths
	case h.chunked && h.minor == 0:
		return errTransferEncoding
	}
	if h.minor == 0 {
		h.expect = false // RFC 9110 10.1.1
	}
	h.upgrade = h.upgrade && h.minor == 1 && !h.hasBody() && !h.expect
	return h.checkTarget()
}

// checkTarget brings the request target into origin form.
func (h *head) checkTarget() error {
	t := h.target
	switch {
	case t[0] == '/':
		h.uri = t
		return nil
	case h.method == "CONNECT":
		return errConnect
	case t == "*" && h.method == "OPTIONS":
		h.uri = t
		return nil
	}
	rest, ok := cutScheme(t)
	if !ok {
		return errTarget
	}
	i := strings.IndexAny(rest, "/?")
	if i < 0 {
		i = len(rest)
	}
	authority := rest[:i]
	switch {
	case authority == "" || !validHost(authority):
		return errTarget
	case h.host != "" && !strings.EqualFold(h.host, authority):
		return errHostConflict // RFC 9112 3.2.2 would take the target's
	}
	h.host = authority
	if h.uri = rest[i:]; h.uri == "" {
		h.uri = "/"
	} else if h.uri[0] == '?' {
		h.uri = "/" + h.uri
	}
	return nil
}

func cutScheme(t string) (string, bool) {
	for _, s := range [...]string{"http://", "https://"} {
		if len(t) >= len(s) && strings.EqualFold(t[:len(s)], s) {
			return t[len(s):], true
		}
	}
	return "", false
}

// validHost reports whether s is a host with an optional port: letters,
// digits, ".-_", or an IPv6 address in brackets. Empty is allowed (RFC 9112
// 3.2); userinfo, slashes, empty labels and bytes above 0x7f are not.
func validHost(s string) bool {
	if s == "" {
		return true
	}
	host, port := s, ""
	if s[0] == '[' {
		i := strings.IndexByte(s, ']')
		if i < 2 {
			return false
		}
		for k := 1; k < i; k++ {
			if c := s[k]; !digit(c) && c != ':' && c != '.' && (c|0x20 < 'a' || c|0x20 > 'f') {
				return false
			}
		}
		if rest := s[i+1:]; rest != "" {
			if rest[0] != ':' {
				return false
			}
			port = rest[1:]
		}
		return validPort(port)
	}
	if i := strings.IndexByte(s, ':'); i >= 0 {
		host, port = s[:i], s[i+1:]
	}
	if host == "" || host[0] == '.' || strings.Contains(host, "..") {
		return false
	}
	for i := range len(host) {
		c := host[i]
		if !digit(c) && (c|0x20 < 'a' || c|0x20 > 'z') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return validPort(port)
}

func validPort(s string) bool {
	if len(s) > 5 {
		return false
	}
	for i := range len(s) {
		if !digit(s[i]) {
			return false
		}
	}
	return true
}

// keep reports whether the client wants the connection to go on.
func (h *head) keep() bool {
	return !h.close && (h.minor == 1 || h.keepAlive)
}

// hasBody reports whether the request says that it has a body.
func (h *head) hasBody() bool { return h.chunked || h.length > 0 }

var tokenByte, methodByte = byteTables()

// byteTables are the bytes of a token (RFC 9110 5.6.2) and those of a method:
// upper case, as every registered one is, so that "get" is an error and not
// another method.
func byteTables() (token, method [256]bool) {
	for c := range 256 {
		switch {
		case c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
			token[c], method[c] = true, true
		case c >= 'a' && c <= 'z', strings.IndexByte("!#$%&'*+.^`|~", byte(c)) >= 0:
			token[c] = true
		}
	}
	return token, method
}
