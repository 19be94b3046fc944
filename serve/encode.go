package serve

import (
	"regexp"
	"strconv"
	"strings"
	"time"

	"liege/vassal"
)

// lineEncoder is uWSGI's log-req-encoder: it appends the line msg, which has
// no line end, in another form.
type lineEncoder func(b, msg []byte, now time.Time) []byte

// encoders makes those of the file's lines, "NAME ARGUMENTS"; the decoder has
// checked the names.
func encoders(lines []string) []lineEncoder {
	var out []lineEncoder
	for _, line := range lines {
		name, arg, _ := strings.Cut(line, " ")
		switch name {
		case "prefix":
			out = append(out, func(b, msg []byte, _ time.Time) []byte { return append(append(b, arg...), msg...) })
		case "suffix":
			out = append(out, func(b, msg []byte, _ time.Time) []byte { return append(append(b, msg...), arg...) })
		case "format", "json":
			out = append(out, template(arg, name == "json"))
		case "nl": // every line has one anyway
		}
	}
	return out
}

// template is the encoder of a text with ${msg}, ${msgnl}, ${unix}, ${millis},
// ${micros} and ${strftime:FORMAT}. With json the line is escaped as the inside
// of a JSON string.
func template(text string, json bool) lineEncoder {
	var parts []func(b, msg []byte, now time.Time) []byte
	plain := func(s string) {
		if s != "" {
			parts = append(parts, func(b, _ []byte, _ time.Time) []byte { return append(b, s...) })
		}
	}
	number := func(f func(time.Time) int64) {
		parts = append(parts, func(b, _ []byte, now time.Time) []byte { return strconv.AppendInt(b, f(now), 10) })
	}
	for {
		before, rest, ok := strings.Cut(text, "${")
		plain(before)
		if !ok {
			break
		}
		name, after, ok := strings.Cut(rest, "}")
		if !ok {
			plain("${" + rest)
			break
		}
		text = after
		switch {
		case name == "msg" || name == "msgnl":
			parts = append(parts, func(b, msg []byte, _ time.Time) []byte {
				if json {
					return quoteJSON(b, string(msg))
				}
				return append(b, msg...)
			})
		case name == "unix":
			number(time.Time.Unix)
		case name == "millis":
			number(time.Time.UnixMilli)
		case name == "micros":
			number(time.Time.UnixMicro)
		case strings.HasPrefix(name, "strftime:"):
			layout := strings.TrimPrefix(name, "strftime:")
			parts = append(parts, func(b, _ []byte, now time.Time) []byte { return appendStrftime(b, layout, now) })
		}
	}
	return func(b, msg []byte, now time.Time) []byte {
		for _, p := range parts {
			b = p(b, msg, now)
		}
		return b
	}
}

// appendStrftime appends now as strftime(3) would, of whose conversions it
// knows those that logs have.
func appendStrftime(b []byte, layout string, now time.Time) []byte {
	forms := map[byte]string{'Y': "2006", 'm': "01", 'd': "02", 'H': "15", 'M': "04", 'S': "05", 'y': "06", 'b': "Jan", 'B': "January",
		'a': "Mon", 'A': "Monday", 'z': "-0700", 'Z': "MST", 'p': "PM", 'I': "03", 'j': "002", 'e': "_2", 'T': "15:04:05", 'F': "2006-01-02",
		'D': "01/02/06", 'R': "15:04", 'c': "Mon Jan _2 15:04:05 2006"}
	for i := 0; i < len(layout); i++ {
		if layout[i] != '%' || i+1 == len(layout) {
			b = append(b, layout[i])
			continue
		}
		i++
		switch form, ok := forms[layout[i]]; {
		case ok:
			b = now.AppendFormat(b, form)
		case layout[i] == 's':
			b = strconv.AppendInt(b, now.Unix(), 10)
		case layout[i] == '%':
			b = append(b, '%')
		default:
			b = append(b, '%', layout[i])
		}
	}
	return b
}

// sieve is log-drain and log-filter.
type sieve struct{ drain, filter []*regexp.Regexp }

// newSieve compiles the expressions, which the decoder has checked.
func newSieve(f vassal.LogFormat) *sieve {
	if len(f.Drain)+len(f.Filter) == 0 {
		return nil
	}
	s := &sieve{}
	for _, text := range f.Drain {
		s.drain = append(s.drain, regexp.MustCompile(text))
	}
	for _, text := range f.Filter {
		s.filter = append(s.filter, regexp.MustCompile(text))
	}
	return s
}

// keeps reports whether a line is written.
func (s *sieve) keeps(line []byte) bool {
	for _, re := range s.drain {
		if re.Match(line) {
			return false
		}
	}
	for _, re := range s.filter {
		if re.Match(line) {
			return true
		}
	}
	return len(s.filter) == 0
}

// finish encodes or drops the line that begins at from and ends in a line end.
func (l *accessLog) finish(from int, now time.Time) {
	line := l.pending[from : len(l.pending)-1]
	if l.sieve != nil && !l.sieve.keeps(line) {
		l.pending = l.pending[:from]
		return
	}
	if len(l.encoders) == 0 {
		return
	}
	msg := append([]byte(nil), line...)
	for _, e := range l.encoders {
		msg = e(nil, msg, now)
	}
	l.pending = append(append(l.pending[:from], msg...), '\n')
}
