package asuser

import (
	"fmt"
	"strconv"
	"sync"
)

// maxHung is how many children and threads of ours may hang in the kernel for
// one user, or one vassal of the operator's, before nothing is started for it any
// more.
const maxHung = 2

// hung counts them, by whose they are. A FUSE of the user's own, or a dead
// server, can hold each for ever, and not even SIGKILL ends it; every vassal of
// the user is looked at again and again.
var hung = counts{n: map[string]int{}}

type counts struct {
	mu sync.Mutex
	n  map[string]int
}

// until counts one until it is done.
func (c *counts) until(key string, done <-chan struct{}) {
	c.mu.Lock()
	c.n[key]++
	c.mu.Unlock()
	go func() {
		<-done
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.n[key]--; c.n[key] == 0 {
			delete(c.n, key)
		}
	}()
}

func (c *counts) full(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[key] >= maxHung
}

func (w Who) key() string { return strconv.Itoa(w.UID) + " " + w.For }

// Hangs counts a thread of the caller's that hangs on a file of who's until done is
// closed: with maxHung of them nothing more is started for who.
func Hangs(who Who, done <-chan struct{}) { hung.until(who.key(), done) }

// errHung says why nothing is started for w.
func errHung(w Who) error {
	return fmt.Errorf("act as uid %d: earlier programs for that user hang in the kernel, on a dead server or a FUSE that does not answer: %w", w.UID, ErrGone)
}
