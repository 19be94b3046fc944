package relay

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// quiet is how long the same trouble of the same address is told once.
const quiet = 10 * time.Second

// maxTroubles bounds what is remembered of them.
const maxTroubles = 256

// reporter writes why services are not reached to the vassal's log. It never
// makes a connection wait for the log.
type reporter struct {
	lines chan string
	done  chan struct{}

	mu   sync.Mutex
	told map[string]time.Time
}

func newReporter(to io.Writer) *reporter {
	r := &reporter{lines: make(chan string, 16), done: make(chan struct{}), told: map[string]time.Time{}}
	go func() {
		defer close(r.done)
		for line := range r.lines {
			_, _ = io.WriteString(to, line) // nobody reads it: then nobody wants it
		}
	}()
	return r
}

// say tells that something went wrong at an address.
func (r *reporter) say(address string, err error) {
	r.rarely(fmt.Sprintf("liege: connect %s: %v", address, err))
}

// rarely tells what was not told a short time ago.
func (r *reporter) rarely(line string) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.told[line]) < quiet {
		return
	}
	if len(r.told) >= maxTroubles {
		clear(r.told)
	}
	r.told[line] = now
	r.line(line)
}

// line tells it, unless the log is behind.
func (r *reporter) line(line string) {
	select {
	case r.lines <- line + "\n":
	default:
	}
}

// close waits until what was said is written; nobody says anything more.
func (r *reporter) close() {
	close(r.lines)
	<-r.done
}
