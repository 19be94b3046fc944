package api

import (
	"fmt"
	"sync"
)

// locks are uWSGI's user locks: 0 is always there.
type locks struct {
	mu  sync.Mutex
	all []lock
}

type lock struct {
	holder  *client
	waiting []*lockWait
}

type lockWait struct {
	c       *client
	granted chan struct{}
}

func (l *locks) init(more int) { l.all = make([]lock, 1+max(0, more)) }

// number is the lock that a request names; a wrong one is refused.
func (c *client) lockNumber() (int, bool) {
	n, good := c.f.small(0, 0, len(c.h.locks.all)-1)
	if !good {
		c.a.refuse("invalid lock number: there are %d; hint: locks = N", len(c.h.locks.all))
	}
	return n, good
}

// lock waits for a lock. Whoever has it already has it once more, and gives it
// back once: uWSGI would wait for ever.
func (c *client) lock() bool {
	n, good := c.lockNumber()
	if !good {
		return true
	}
	l := &c.h.locks
	l.mu.Lock()
	k := &l.all[n]
	if k.holder == nil || k.holder == c {
		k.holder = c
		l.mu.Unlock()
		return true
	}
	w := &lockWait{c, make(chan struct{})}
	k.waiting = append(k.waiting, w)
	l.mu.Unlock()
	return c.wait(w.granted) // if not, leave takes it back
}

// unlock gives a lock back. Any thread of the process that holds it may.
func (c *client) unlock() bool {
	n, good := c.lockNumber()
	if !good {
		return true
	}
	l := &c.h.locks
	l.mu.Lock()
	defer l.mu.Unlock()
	k := &l.all[n]
	if k.holder == nil || k.holder.pid != c.pid {
		return c.say(false)
	}
	k.pass()
	return true
}

// pass gives the lock to the next that waits.
func (k *lock) pass() {
	k.holder = nil
	if len(k.waiting) > 0 {
		w := k.waiting[0]
		k.waiting = k.waiting[1:]
		k.holder = w.c
		close(w.granted)
	}
}

func (c *client) locked() bool {
	n, good := c.lockNumber()
	if !good {
		return true
	}
	l := &c.h.locks
	l.mu.Lock()
	defer l.mu.Unlock()
	return c.say(l.all[n].holder != nil)
}

// leave takes from c what it holds and what it waits for.
func (l *locks) leave(c *client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.all {
		k := &l.all[i]
		for j := 0; j < len(k.waiting); {
			if k.waiting[j].c == c {
				k.waiting = append(k.waiting[:j], k.waiting[j+1:]...)
				continue
			}
			j++
		}
		if k.holder == c {
			k.pass()
		}
	}
}

// Locks are the locks and who holds them (0: nobody), as uWSGI's stats have
// them.
func (h *Host) Locks() []map[string]uint64 {
	l := &h.locks
	l.mu.Lock()
	defer l.mu.Unlock()
	out := []map[string]uint64{}
	for i := range l.all {
		pid := 0
		if l.all[i].holder != nil {
			pid = l.all[i].holder.pid
		}
		out = append(out, map[string]uint64{fmt.Sprintf("user %d", i): uint64(pid)})
	}
	return out
}
