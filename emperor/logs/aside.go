package logs

import (
	"io"
	"sync/atomic"
	"time"
)

// Bounds of an aside.
const (
	asideLines = 512         // that wait to be written
	asideClose = time.Second // for them to be written at the end
)

// aside writes to a file of the vassal's own, which may lie on a file system
// that hangs when the tenant, or a dead server, wishes so. A goroutine of its
// own waits for that; everybody else sees lines that are dropped.
type aside struct {
	w     io.WriteCloser
	lines chan []byte
	busy  atomic.Int64
	err   atomic.Pointer[string] // of a line, until somebody asks
	bad   atomic.Pointer[string] // of the last line; nil: it was written
	done  chan struct{}
	hangs func(done <-chan struct{}) // is told of a goroutine that is left behind; or nil
}

func newAside(w io.WriteCloser, hangs func(done <-chan struct{})) *aside {
	a := &aside{w: w, lines: make(chan []byte, asideLines), done: make(chan struct{}), hangs: hangs}
	go a.run()
	return a
}

func (a *aside) run() {
	defer close(a.done)
	for s := range a.lines {
		if _, err := a.w.Write(s); err != nil {
			why := reason(err).Error()
			a.err.Store(&why)
			a.bad.Store(&why)
		} else {
			a.bad.Store(nil)
		}
		a.busy.Add(-1)
	}
	a.w.Close() // what could not be written was counted
}

// write takes s to be written, or says why it was not.
func (a *aside) write(s []byte) (why string) {
	if p := a.err.Swap(nil); p != nil {
		return *p // of an earlier line; this one goes with it
	}
	a.busy.Add(1)
	select {
	case a.lines <- append([]byte(nil), s...):
		return ""
	default:
		a.busy.Add(-1)
		return "the file that logto names takes no more"
	}
}

// close gives the rest a moment to be written. A goroutine that hangs in the
// kernel ends when the kernel lets it go.
func (a *aside) close() {
	close(a.lines)
	select {
	case <-a.done:
	case <-time.After(asideClose):
		if a.hangs != nil {
			a.hangs(a.done)
		}
	}
}
