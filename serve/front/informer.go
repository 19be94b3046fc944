package front

import "sync"

// maxInformed is how many informational responses may wait for a slow client;
// more are dropped.
const maxInformed = 8

// informer sends informational responses in a goroutine of its own: whoever has
// one sent serves other clients too, and never waits for this one. Whoever sends
// anything else calls wait first.
type informer struct {
	mu     sync.Mutex
	queue  []func() bool
	idle   chan struct{} // closed when the queue is empty; nil: it is
	failed bool          // the client is gone
}

// add has send called, which is false if the client is gone.
func (i *informer) add(send func() bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.failed || len(i.queue) >= maxInformed {
		return
	}
	i.queue = append(i.queue, send)
	if i.idle == nil {
		i.idle = make(chan struct{})
		go i.run()
	}
}

func (i *informer) run() {
	for send := i.next(true); send != nil; {
		send = i.next(send())
	}
}

// next is what to send after one that went well or not; nil: nothing.
func (i *informer) next(well bool) (send func() bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !well {
		i.failed, i.queue = true, nil
	}
	if len(i.queue) == 0 {
		close(i.idle)
		i.idle = nil
		return nil
	}
	send, i.queue = i.queue[0], i.queue[1:]
	return send
}

// wait waits until all is sent, and is false if the client is gone.
func (i *informer) wait() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if idle := i.idle; idle != nil {
		i.mu.Unlock()
		<-idle
		i.mu.Lock()
	}
	return !i.failed
}
