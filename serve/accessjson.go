package serve

import (
	"strconv"
	"time"
	"unicode/utf8"

	"liege/serve/exchange"
)

// varsSize is how large the variables of r are in a uwsgi packet.
func varsSize(r *exchange.Request) int64 {
	size := 0
	for i := range r.Vars {
		size += len(r.Vars[i].Name) + len(r.Vars[i].Value) + 4
	}
	return int64(size)
}

// appendJSON appends the line of r as a JSON object. Members are added, never
// renamed; those that do not apply are left out.
func (l *accessLog) appendJSON(b []byte, r *exchange.Request, n uint64, took time.Duration) []byte {
	text := func(name, value string) {
		if value != "" {
			b = append(append(append(b, ',', '"'), name...), `":"`...)
			b = append(quoteJSON(b, value), '"')
		}
	}
	number := func(name string, value int64) {
		b = append(append(append(b, ',', '"'), name...), `":`...)
		b = strconv.AppendInt(b, value, 10)
	}
	b = append(b, `{"time":"`...)
	b = r.Start.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, '"')
	number("request", int64(n))
	number("pid", int64(l.pidOf(r)))
	if r.Info.Worker > 0 {
		number("worker", int64(r.Info.Worker))
		number("thread", int64(r.Info.Thread))
	}
	text("by", r.Info.Backend)
	text("addr", l.addr(r))
	text("user", r.Get("REMOTE_USER"))
	text("method", r.Get("REQUEST_METHOD"))
	text("host", r.Get("HTTP_HOST"))
	text("uri", r.Get("REQUEST_URI"))
	text("proto", r.Get("SERVER_PROTOCOL"))
	number("status", int64(r.Info.Status))
	number("bytes", r.Info.Bytes)
	number("head_bytes", int64(r.Info.Head))
	number("micros", took.Microseconds())
	text("referer", r.Get("HTTP_REFERER"))
	text("agent", r.Get("HTTP_USER_AGENT"))
	if r.Info.Err != nil && r.Info.Status != 404 {
		text("err", r.Info.Err.Error())
	}
	return append(b, '}', '\n')
}

// quoteJSON appends s as it stands in a JSON string: what is not valid UTF-8,
// and control characters, are escaped, so that one request is one line.
func quoteJSON(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	cut := len(s) > maxLogged
	s = s[:min(len(s), maxLogged)]
	for i := 0; i < len(s); {
		c, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case c == utf8.RuneError && n == 1: // a byte that is no text: its number
			b = append(b, '\\', 'u', '0', '0', hex[s[i]>>4], hex[s[i]&15])
		case c == '"' || c == '\\':
			b = append(b, '\\', byte(c))
		case c < ' ' || c == 0x7f || c == 0x2028 || c == 0x2029 || c >= 0x80 && c < 0xa0:
			b = append(b, '\\', 'u', hex[c>>12&15], hex[c>>8&15], hex[c>>4&15], hex[c&15])
		default:
			b = append(b, s[i:i+n]...)
		}
		i += n
	}
	if cut {
		b = append(b, "..."...)
	}
	return b
}
