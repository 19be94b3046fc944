package route

import (
	"strconv"
	"strings"
)

// plainText are the variables that hold text and no URL: the paths among them
// are decoded.
var plainText = map[string]bool{"PATH_INFO": true, "SCRIPT_NAME": true, "DOCUMENT_URI": true, "REMOTE_USER": true}

// inURL are the values of a template that makes a URL. Plain text is encoded
// on its way in: a "%" of it would be decoded a second time (%252e%252e/admin
// would be ../admin), and a "?" of it would begin the query.
type inURL struct {
	*run
	plain bool   // what the rule's expression matched is plain text
	more  string // what is encoded beside
}

// url makes the values of r's template. more are the characters that mean
// something in a part of the URL only.
func (r *rl) url(more string) func(*run) inURL {
	plain := plainText[r.Subject]
	for name := range plainText {
		plain = plain || r.Condition == "regexp" && (strings.Contains(r.Arg, "${"+name+"}") || strings.Contains(r.Arg, "["+name+"]}"))
	}
	return func(x *run) inURL { return inURL{x, plain, more} }
}

// Var implements route.Values.
func (u inURL) Var(name string) string {
	if plainText[name] {
		return encoded(u.run.Var(name), u.more)
	}
	return u.run.Var(name)
}

// Capture implements route.Values.
func (u inURL) Capture(n int) string {
	if u.plain {
		return encoded(u.run.Capture(n), u.more)
	}
	return u.run.Capture(n)
}

// Func implements route.Values.
func (u inURL) Func(fn, arg string) string {
	if plainText[arg] && (fn == "lower" || fn == "upper") {
		return encoded(u.run.Func(fn, arg), u.more)
	}
	return u.run.Func(fn, arg)
}

// encoded is plain text as a part of a URL's path (RFC 3986 2.1): all of it
// that would mean something else there, or in more.
func encoded(s, more string) string {
	needs := func(c byte) bool {
		return c <= ' ' || c >= 0x7f || c == '%' || c == '?' || c == '#' || strings.IndexByte(more, c) >= 0
	}
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; needs(c) {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// decoded takes percent-encoding out. A "%" that encodes nothing stays, and so
// does an encoded NUL.
func decoded(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil && n != 0 {
				b = append(b, byte(n))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}
