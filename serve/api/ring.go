package api

import (
	"sync"

	"liege/vassal"
)

// ring is uWSGI's queue: places for messages, of which one is where the next
// message is pushed, and behind which the last is popped, and one is where the
// next is pulled. What is pushed into a full one takes the place of the oldest.
type ring struct {
	mu     sync.Mutex
	places [][]byte
	block  int // bytes of a message, at most
	at     int // where the next is pushed
	pull   int // where the next is pulled
}

func (r *ring) init(q vassal.Queue) {
	r.places, r.block = make([][]byte, max(0, q.Items)), q.Block
	if r.block <= 0 {
		r.block = vassal.QueueBlock
	}
}

// step is the place n behind place i; n is at least -len(places).
func (r *ring) step(i, n int) int { return (i + n + len(r.places)) % len(r.places) }

// ring is what the queue_… functions do, by kind:
//
//   - push   - pop   < pull   = place n   ! place n becomes the message
//     l the last n, newest first   s where the next is pushed   p where the next is pulled
func (c *client) ring() bool {
	r := &c.h.ring
	n, good := c.f.number(1)
	if !good || len(c.f.fields) != 3 || len(c.f.fields[0]) != 1 {
		return false
	}
	kind, message := c.f.fields[0][0], c.f.fields[2]
	if len(r.places) == 0 || len(message) > r.block {
		return c.say(false)
	}
	if (kind == 'l' || r.block > bigFrame) && !c.room() {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	take := func(i int) bool {
		if i >= len(r.places) || r.places[i] == nil {
			return c.say(false)
		}
		c.a.field(r.places[i])
		return true
	}
	switch kind {
	case '+':
		if len(message) == 0 {
			return c.say(false)
		}
		r.places[r.at] = append([]byte(nil), message...)
		r.at = r.step(r.at, 1)
	case '-':
		if i := r.step(r.at, -1); take(i) && r.places[i] != nil {
			r.places[i], r.at = nil, i
		}
	case '<':
		if take(r.pull) && r.places[r.pull] != nil {
			r.places[r.pull], r.pull = nil, r.step(r.pull, 1)
		}
	case '=':
		take(int(min(uint64(n), uint64(len(r.places)))))
	case '!':
		if n < 0 || n >= int64(len(r.places)) || len(message) == 0 {
			return c.say(false)
		}
		r.places[n] = append([]byte(nil), message...)
	case 'l':
		for i := range min(n, int64(len(r.places))) {
			if len(c.a.b) > maxFrame {
				break // a refusal
			}
			c.a.field(r.places[r.step(r.at, -1-int(i))])
		}
	case 's':
		c.a.number(int64(r.at))
	case 'p':
		c.a.number(int64(r.pull))
	default:
		return false
	}
	return true
}
