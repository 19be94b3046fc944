package listen

import (
	"context"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A Porter says when somebody connects to a vassal that sleeps. One epoll
// instance watches the listeners of all, and it is itself watched by the
// runtime: whatever the number of those that sleep, they cost one goroutine and
// no thread.
//
//	p, err := listen.NewPorter()
//	go p.Run(ctx)
//	p.Watch(set, wake)  // wake is called once, soon, if a connection waits
//	p.Leave(set)        // no more: before anything else accepts, or closes them
//
// A listener that was broken (KERNEL 31) wakes too: the start mends it.
type Porter struct {
	epoll *os.File

	mu      sync.Mutex
	watches map[uint64]*watch // by the number that epoll returns
	sets    map[*Set]*watch
	last    uint64
}

// watch is the listeners of one Set, from Watch to Leave.
type watch struct {
	id   uint64
	fds  []int
	wake func() // nil: it was called
}

// NewPorter returns a Porter. Call Run.
func NewPorter() (*Porter, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // else os.File does not have it watched
		unix.Close(fd)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &Porter{epoll: os.NewFile(uintptr(fd), "epoll"), watches: map[uint64]*watch{}, sets: map[*Set]*watch{}}, nil
}

// Run calls the wakes until ctx is done. Then the Porter is closed.
func (p *Porter) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { p.epoll.Close() })
	defer stop()
	raw, err := p.epoll.SyscallConn()
	if err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	events := make([]unix.EpollEvent, 64)
	for {
		var n int
		var werr error
		err := raw.Read(func(fd uintptr) bool {
			n, werr = unix.EpollWait(int(fd), events, 0)
			return n != 0 || werr != nil && werr != unix.EINTR
		})
		if ctx.Err() != nil {
			return nil
		}
		if err != nil || werr != nil {
			return fmt.Errorf("epoll: %w", firstOf(err, werr))
		}
		for _, e := range events[:max(n, 0)] {
			p.ring(number(e))
		}
	}
}

func firstOf(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// ring calls the wake of watch id, once.
func (p *Porter) ring(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.watches[id]
	if w == nil || w.wake == nil {
		return // it left meanwhile, or rang already
	}
	w.wake()
	w.wake = nil
}

// Watch has wake called, by Run's goroutine, when a connection waits on one of
// the set's listeners. wake must not wait, nor call the Porter. A second Watch
// replaces the first.
func (p *Porter) Watch(s *Set, wake func()) error {
	p.Leave(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	w := &watch{id: p.last, wake: wake}
	p.watches[w.id], p.sets[s] = w, w
	for _, k := range s.current {
		fd := int(k.file.Fd())
		e := event(w.id)
		// One event, and only then Leave: what is accepted by a generation that
		// the wake started is none of the Porter's business.
		e.Events = unix.EPOLLIN | unix.EPOLLONESHOT
		if err := p.control(unix.EPOLL_CTL_ADD, fd, &e); err != nil {
			p.leave(s)
			return fmt.Errorf("%s: %w", k.bound, err)
		}
		w.fds = append(w.fds, fd)
	}
	return nil
}

// Leave ends Watch. The set's listeners must not be closed before it: cores
// hold copies of them, with which they would stay watched.
func (p *Porter) Leave(s *Set) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leave(s)
}

func (p *Porter) leave(s *Set) {
	w := p.sets[s]
	if w == nil {
		return
	}
	delete(p.sets, s)
	delete(p.watches, w.id)
	for _, fd := range w.fds {
		_ = p.control(unix.EPOLL_CTL_DEL, fd, nil) // the Porter is closed, if it fails
	}
}

func (p *Porter) control(op, fd int, e *unix.EpollEvent) error {
	raw, err := p.epoll.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(epoll uintptr) { failed = unix.EpollCtl(int(epoll), op, fd, e) }); err != nil {
		return err
	}
	return failed
}

// event carries the number of a watch, which is never used again: a descriptor's
// number may be.
func event(id uint64) unix.EpollEvent {
	return unix.EpollEvent{Fd: int32(uint32(id)), Pad: int32(uint32(id >> 32))}
}

func number(e unix.EpollEvent) uint64 { return uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32 }
