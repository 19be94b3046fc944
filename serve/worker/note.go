package worker

import (
	"strings"

	"liege/serve/exchange"
)

// Bounds of what a worker adds to the access log's line of a request.
const (
	maxNotes = 64
	maxNote  = 8 << 10 // bytes of name and value
)

// note keeps a variable for the access log: uwsgi.set_logvar. What is too much
// is not kept.
func (l *lane) note(f frame) error {
	if f.size > maxNote {
		return breachf("a variable of the log of %d bytes", f.size)
	}
	b := make([]byte, f.size)
	if err := l.read(b); err != nil {
		return err
	}
	name, value, ok := strings.Cut(string(b), "\x00")
	if !ok {
		return breachf("a variable of the log without a value")
	}
	c := l.current
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.r != nil && len(c.r.Info.Extra) < maxNotes {
		c.r.Info.Extra = append(c.r.Info.Extra, exchange.Var{Name: name, Value: value})
	}
	return nil
}
