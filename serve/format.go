package serve

import (
	"strconv"
	"strings"
	"time"

	"liege/serve/exchange"
)

// logLine is what a line of the access log is made of.
type logLine struct {
	r    *exchange.Request
	n    uint64 // of the request, from 1
	took time.Duration
	pid  int
}

// piece appends one part of a line.
type piece func(b []byte, l *logLine) []byte

// compile compiles a log-format: text with %(name) in it, by uWSGI's names
// and %(var.NAME) for any variable of the request. What is empty, or not
// known here (switches, core, metrics, memory, bytes of the head), is "-".
func compile(format string) []piece {
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
		ps = append(ps, value(format[i+2:i+j]))
		format = format[i+j+1:]
	}
	return ps
}

func text(s string) piece {
	return func(b []byte, _ *logLine) []byte { return append(b, s...) }
}

// variables are the %(names) that are variables of the request.
var variables = map[string]string{
	"uri": "REQUEST_URI", "method": "REQUEST_METHOD", "user": "REMOTE_USER", "addr": "REMOTE_ADDR", "host": "HTTP_HOST",
	"proto": "SERVER_PROTOCOL", "uagent": "HTTP_USER_AGENT", "referer": "HTTP_REFERER", "cl": "CONTENT_LENGTH",
}

// numbers are the %(names) that are numbers.
var numbers = map[string]func(l *logLine) int64{
	"status":  func(l *logLine) int64 { return int64(l.r.Info.Status) },
	"rsize":   func(l *logLine) int64 { return l.r.Info.Bytes },
	"size":    func(l *logLine) int64 { return l.r.Info.Bytes },
	"micros":  func(l *logLine) int64 { return l.took.Microseconds() },
	"msecs":   func(l *logLine) int64 { return l.took.Milliseconds() },
	"secs":    func(l *logLine) int64 { return int64(l.took.Seconds()) },
	"tmsecs":  func(l *logLine) int64 { return l.r.Start.UnixMilli() },
	"tmicros": func(l *logLine) int64 { return l.r.Start.UnixMicro() },
	"time":    func(l *logLine) int64 { return l.r.Start.Unix() },
	"epoch":   func(l *logLine) int64 { return l.r.Start.Add(l.took).Unix() },
	"pid":     func(l *logLine) int64 { return int64(l.pid) },
	"wid":     func(l *logLine) int64 { return int64(l.r.Info.Worker) },
	"vars":    func(l *logLine) int64 { return int64(len(l.r.Vars)) },
	"count":   func(l *logLine) int64 { return int64(l.n) },
}

// times are the %(names) that are times, with their layout.
var times = map[string]string{"ctime": time.ANSIC, "ltime": "02/Jan/2006:15:04:05 -0700", "ftime": "02/Jan/2006:15:04:05 -0700"}

func value(name string) piece {
	if n, ok := numbers[name]; ok {
		return func(b []byte, l *logLine) []byte { return strconv.AppendInt(b, n(l), 10) }
	}
	if layout, ok := times[name]; ok {
		return func(b []byte, l *logLine) []byte { return l.r.Start.AppendFormat(b, layout) }
	}
	v, ok := variables[name]
	if !ok {
		v, _ = strings.CutPrefix(name, "var.")
		if v == name {
			return text("-")
		}
	}
	return func(b []byte, l *logLine) []byte { return quoteText(b, orDash(l.r.Get(v))) }
}
