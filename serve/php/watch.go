package php

import (
	"errors"
	"sync"
	"time"

	"liege/serve/proxy"
)

// lookAgain is how often it is looked whether the requests that take longer than
// that are at a process yet.
const lookAgain = time.Second

var errDead = errors.New("php: the process that had the request has died")

// watch finds requests whose process has died. What a script has started holds the
// connection as well (php-cgi has it inherited), so that of a process which leaves a
// program in the background the end is not seen. All are looked at in one go.
type watch struct {
	held func() (map[uint32]int, error) // the sockets of PHP's processes
	one  sync.Mutex                     // look at a time

	mu    sync.Mutex
	tries map[*try]struct{} // that are under way
	timer *time.Timer       // there are some; nil: there were none yet
}

// try is a request at a process.
type try struct {
	f     *proxy.FastCGIConn
	dead  func()
	since time.Time
	lost  bool // no process had it at the last look; look's
}

// begin has dead called when f was at a process that has died, until end.
func (w *watch) begin(f *proxy.FastCGIConn, dead func()) *try {
	t := &try{f: f, dead: dead, since: time.Now()}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.tries) == 0 {
		w.arm()
	}
	w.tries[t] = struct{}{}
	return t
}

func (w *watch) arm() {
	if w.timer == nil {
		w.timer = time.AfterFunc(lookAgain, w.look)
		return
	}
	w.timer.Reset(lookAgain)
}

func (w *watch) end(t *try) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if delete(w.tries, t); len(w.tries) == 0 {
		w.timer.Stop()
	}
}

// long are the requests that have taken long, if any is under way.
func (w *watch) long() (all []*try) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for t := range w.tries {
		if time.Since(t.since) >= lookAgain {
			all = append(all, t)
		}
	}
	if len(w.tries) > 0 {
		w.arm()
	}
	return all
}

func (w *watch) look() {
	w.one.Lock()
	defer w.one.Unlock()
	all := w.long()
	if len(all) == 0 {
		return
	}
	held, err := w.held()
	if err != nil || len(held) == 0 {
		return // it is not known: PHP may begin anew
	}
	for _, t := range all {
		peer, err := otherEnd(t.f)
		now := err == nil && peer != 0 && held[peer] == 0
		if now && t.lost { // a list of children that change may lack one
			t.dead()
		}
		t.lost = now
	}
}
