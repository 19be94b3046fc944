package serve

import (
	"strconv"
	"strings"
	"time"

	"liege/serve/exchange"
)

// logLine is what a line of the access log is made of.
type logLine struct {
	l    *accessLog
	r    *exchange.Request
	n    uint64 // of the request, from 1
	took time.Duration
	pid  int
}

// extra is the last value that a logvar rule gave name.
func (l *logLine) extra(name string) string {
	for i := len(l.r.Info.Extra) - 1; i >= 0; i-- {
		if l.r.Info.Extra[i].Name == name {
			return l.r.Info.Extra[i].Value
		}
	}
	return ""
}

// piece appends one part of a line.
type piece func(b []byte, l *logLine) []byte

// compile compiles a log-format: text with %(name) in it, by uWSGI's names
// and %(var.NAME) for any variable of the request; any other is what a logvar
// rule has set. What is empty, or not known here (metrics, memory), is "-".
func compile(format string) []piece {
	quoted := quoteText
	if strings.HasPrefix(format, "{") {
		quoted = quoteJSON
	}
	var ps []piece
	for format != "" {
		i := strings.Index(format, "%(")
		j := -1
		if i >= 0 {
			j = strings.IndexByte(format[i:], ')')
		}
		if j < 0 {
			return append(ps, text(format))
		}
		if i > 0 {
			ps = append(ps, text(format[:i]))
		}
		ps = append(ps, value(format[i+2:i+j], quoted))
		format = format[i+j+1:]
	}
	return ps
}

func text(s string) piece {
	return func(b []byte, _ *logLine) []byte { return append(b, s...) }
}

// variables are the %(names) that are variables of the request.
var variables = map[string]string{
	"uri": "REQUEST_URI", "method": "REQUEST_METHOD", "user": "REMOTE_USER", "host": "HTTP_HOST",
	"proto": "SERVER_PROTOCOL", "uagent": "HTTP_USER_AGENT", "referer": "HTTP_REFERER", "cl": "CONTENT_LENGTH",
}

// numbers are the %(names) that are numbers.
var numbers = map[string]func(l *logLine) int64{
	"status":  func(l *logLine) int64 { return int64(l.r.Info.Status) },
	"rsize":   func(l *logLine) int64 { return l.r.Info.Bytes },
	"hsize":   func(l *logLine) int64 { return int64(l.r.Info.Head) },
	"size":    func(l *logLine) int64 { return l.r.Info.Bytes + int64(l.r.Info.Head) },
	"headers": func(l *logLine) int64 { return int64(l.r.Info.Fields) },
	"core":    func(l *logLine) int64 { return int64(l.r.Info.Thread) },
	"pktsize": func(l *logLine) int64 { return varsSize(l.r) },

	"switches":  func(*logLine) int64 { return 1 },
	"modifier1": func(l *logLine) int64 { return int64(l.r.Modifier1) },
	"modifier2": func(*logLine) int64 { return 0 },
	"werr":      func(l *logLine) int64 { return cut(l) },
	"rerr":      func(*logLine) int64 { return 0 },
	"ioerr":     func(l *logLine) int64 { return cut(l) },
	"micros":    func(l *logLine) int64 { return l.took.Microseconds() },
	"msecs":     func(l *logLine) int64 { return l.took.Milliseconds() },
	"secs":      func(l *logLine) int64 { return int64(l.took.Seconds()) },
	"tmsecs":    func(l *logLine) int64 { return l.r.Start.UnixMilli() },
	"tmicros":   func(l *logLine) int64 { return l.r.Start.UnixMicro() },
	"time":      func(l *logLine) int64 { return l.r.Start.Unix() },
	"epoch":     func(l *logLine) int64 { return l.r.Start.Add(l.took).Unix() },
	"pid":       func(l *logLine) int64 { return int64(l.pid) },
	"wid":       func(l *logLine) int64 { return int64(l.r.Info.Worker) },
	"vars":      func(l *logLine) int64 { return int64(len(l.r.Vars)) },
	"count":     func(l *logLine) int64 { return int64(l.n) },
}

// times are the %(names) that are times, with their layout.
var times = map[string]string{"ctime": time.ANSIC, "ltime": "02/Jan/2006:15:04:05 -0700", "ftime": "02/Jan/2006:15:04:05 -0700"}

// cut is 1 for an answer that did not reach the client whole.
func cut(l *logLine) int64 {
	if l.r.Info.Err != nil && l.r.Info.Status < 400 {
		return 1
	}
	return 0
}

// value is one %(name); quoted escapes what a client may have said.
func value(name string, quoted func([]byte, string) []byte) piece {
	if name == "addr" {
		return func(b []byte, l *logLine) []byte { return quoted(b, orDash(l.l.addr(l.r))) }
	}
	if n, ok := numbers[name]; ok {
		return func(b []byte, l *logLine) []byte { return strconv.AppendInt(b, n(l), 10) }
	}
	if layout, ok := times[name]; ok {
		return func(b []byte, l *logLine) []byte { return l.r.Start.AppendFormat(b, layout) }
	}
	v, ok := variables[name]
	if !ok {
		v, ok = strings.CutPrefix(name, "var.")
		if !ok {
			return func(b []byte, l *logLine) []byte { return quoted(b, orDash(l.extra(name))) }
		}
	}
	return func(b []byte, l *logLine) []byte { return quoted(b, orDash(l.r.Get(v))) }
}
