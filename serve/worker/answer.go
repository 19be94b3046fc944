package worker

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"liege/serve/exchange"
)

// answer reads the head of an answer and gives it to the response. What is
// wrong with it in HTTP's eyes is the application's failure; what this
// protocol forbids is a breach.
func (l *lane) answer(f frame) error {
	if f.head > maxHead {
		if err := l.skipHead(f.head); err != nil {
			return err
		}
		return l.refuse(fmt.Sprintf("the application's answer has a head of %d bytes, more than %d", f.head, maxHead))
	}
	if err := l.fill(int(f.head)); err != nil {
		return err
	}
	raw := l.in[l.r : l.r+int(f.head)]
	l.r += int(f.head)
	if bytes.IndexByte(raw, '\n') >= 0 || bytes.IndexByte(raw, '\r') >= 0 {
		return l.refuse("the application's answer has a line break in its status or a header field")
	}
	text := string(raw)
	line, rest, more := strings.Cut(text, "\x00")
	status, reason, ok := parseStatus(line)
	if !ok {
		return l.refuse(fmt.Sprintf("the application's status is %.40q; want three digits from 200 and a reason", line))
	}
	l.fields = l.fields[:0]
	for more {
		var field exchange.Field
		field.Name, rest, more = strings.Cut(rest, "\x00")
		if !more {
			return l.refuse("the application's answer has a NUL in a header field")
		}
		field.Value, rest, more = strings.Cut(rest, "\x00")
		l.fields = append(l.fields, field)
	}
	l.unframe()
	if f.kind == 'A' && l.chunks == nil {
		l.measure(status, f)
	}
	if err := l.current.head(status, reason, l.fields); err != nil {
		return breachf("%v", err)
	}
	return nil
}

// measure adds the Content-Length of a whole answer that names none. Of one to
// HEAD without a body nobody knows what GET's would be (RFC 9110 8.6).
func (l *lane) measure(status int, f frame) {
	for i := range l.fields {
		if strings.EqualFold(l.fields[i].Name, "Content-Length") {
			return
		}
	}
	if status == 204 || status == 304 {
		return
	}
	n, c := f.size, l.current
	if c.nobody {
		if n = f.arg; n == 0 {
			return
		}
	}
	c.mu.Lock()
	if c.r != nil {
		c.r.Info.Measured = true
	}
	c.mu.Unlock()
	l.fields = append(l.fields, exchange.Field{Name: "Content-Length", Value: strconv.Itoa(int(n))})
}

// trailers hands on the fields behind the body. Whoever cannot send them drops
// them.
func (l *lane) trailers(f frame) error {
	c := l.current
	if !c.started {
		return breachf("trailers before the head")
	}
	if f.size > maxHead {
		c.spoil(fmt.Errorf("the application's answer has %d bytes of trailers, more than %d", f.size, maxHead))
		return l.skipHead(f.size)
	}
	return l.hand(f, exchange.SendTrailers)
}

// inform hands on an informational response. Whoever cannot send it drops it; so
// is one with more fields than an answer may have.
func (l *lane) inform(f frame) error {
	c := l.current
	if c.started || f.arg < 102 || f.arg > 199 {
		return breachf("an informational response %d out of turn", f.arg)
	}
	if f.size > maxHead {
		return l.skipHead(f.size)
	}
	return l.hand(f, func(w exchange.Response, fields []exchange.Field) { exchange.SendInformational(w, int(f.arg), fields) })
}

// hand reads the fields of a frame, of maxHead bytes at most, and has send hand
// them to whoever still wants the answer.
func (l *lane) hand(f frame, send func(exchange.Response, []exchange.Field)) error {
	b := make([]byte, f.size)
	if err := l.read(b); err != nil {
		return err
	}
	var fields []exchange.Field
	for words := strings.Split(string(b), "\x00"); len(words) >= 2; words = words[2:] {
		fields = append(fields, exchange.Field{Name: words[0], Value: words[1]})
	}
	c := l.current
	c.lock(writing)
	defer c.unlock()
	if c.w != nil && c.err == nil {
		send(c.w, fields)
	}
	return nil
}

// refuse makes the current answer a 500 and goes on reading what the worker
// sends of it.
func (l *lane) refuse(why string) error {
	c := l.current
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.started {
		return breachf("a second head")
	}
	c.started = true
	c.err = &exchange.StatusError{Status: 500, Err: errors.New(why)}
	return nil
}

// skipHead throws away fields that are too many.
func (l *lane) skipHead(n uint32) error {
	if n > oddHead {
		return breachf("a head of %d bytes", n)
	}
	return l.skip(n)
}

// spoil makes the answer one that cannot be continued, because of err.
func (c *call) spoil(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

// parseStatus splits "200 OK". uWSGI takes a status without a reason, and 1xx
// is not an answer.
func parseStatus(line string) (int, string, bool) {
	if len(line) < 3 || line[0] < '2' || line[0] > '9' || line[1]-'0' > 9 || line[2]-'0' > 9 {
		return 0, "", false
	}
	status := int(line[0]-'0')*100 + int(line[1]-'0')*10 + int(line[2]-'0')
	if len(line) == 3 {
		return status, "", true
	}
	if line[3] != ' ' {
		return 0, "", false
	}
	return status, line[4:], true
}
