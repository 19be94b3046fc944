package front

import (
	"errors"
	"time"

	"liege/serve/exchange"
)

// retryAfter is when a client should come again after err.
func retryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*exchange.StatusError](err); ok {
		return e.RetryAfter
	}
	return 0
}

// dateLine is the Date field of one second.
type dateLine struct {
	sec  int64
	line string
}

// date returns the Date field line (RFC 9110 6.6.1), made once a second.
func (s *Server) date() string {
	now := time.Now()
	d := s.dateLine.Load()
	if d == nil || d.sec != now.Unix() {
		d = &dateLine{now.Unix(), "Date: " + now.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT") + "\r\n"}
		s.dateLine.Store(d)
	}
	return d.line
}
