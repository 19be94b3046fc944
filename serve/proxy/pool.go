package proxy

import (
	"bufio"
	"context"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Connections that wait for another request: how many to one server, to all,
// and for how long.
const (
	idlePerServer = 64
	idleInAll     = 256
	idleTime      = 30 * time.Second
)

// pool keeps connections to HTTP servers for the next request.
type pool struct {
	mu     sync.Mutex
	idle   map[string][]*conn // the one used last at the end
	n      int
	sweeps *time.Timer // nil: none is idle
	closed bool
}

// get returns a connection that was used before, or a new one.
func (c *Client) get(ctx context.Context, addr string, used bool) (nc *conn, old bool, err error) {
	if used {
		if nc := c.pool.take(addr); nc != nil {
			return nc, true, nil
		}
	}
	nc, err = c.dial(ctx, addr)
	if err == nil {
		nc.br = bufio.NewReaderSize(nc, 16<<10)
	}
	return nc, false, err
}

// take returns a connection that nothing has come on since: a server that ends
// it, or says 408 first, has nothing to do with the next request, and what it
// sent behind an answer that may have no body must not be the next answer.
func (p *pool) take(addr string) *conn {
	for {
		nc := p.last(addr)
		if nc == nil || nc.silent() {
			return nc
		}
		nc.Close()
	}
}

func (p *pool) last(addr string) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.idle[addr]
	if len(list) == 0 {
		return nil
	}
	nc := list[len(list)-1]
	p.idle[addr] = list[:len(list)-1]
	p.n--
	return nc
}

// silent reports whether a connection is open and nothing is there to be read.
func (c *conn) silent() bool {
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		quiet = err == unix.EAGAIN
	})
	return quiet && err == nil
}

// put keeps nc, or closes it if there are enough.
func (p *pool) put(nc *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.n >= idleInAll || len(p.idle[nc.addr]) >= idlePerServer {
		nc.Close()
		return
	}
	if p.idle == nil {
		p.idle = map[string][]*conn{}
	}
	nc.idleAt = time.Now()
	p.idle[nc.addr] = append(p.idle[nc.addr], nc)
	p.n++
	if p.sweeps == nil {
		p.sweeps = time.AfterFunc(idleTime, p.sweep)
	}
}

// sweep closes what has been idle for too long.
func (p *pool) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweeps = nil
	for addr, list := range p.idle {
		kept := slices.DeleteFunc(list, func(nc *conn) bool {
			old := p.closed || time.Since(nc.idleAt) >= idleTime
			if old {
				nc.Close()
				p.n--
			}
			return old
		})
		if p.idle[addr] = kept; len(kept) == 0 {
			delete(p.idle, addr)
		}
	}
	if p.n > 0 {
		p.sweeps = time.AfterFunc(idleTime/2, p.sweep)
	}
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	if p.sweeps != nil {
		p.sweeps.Stop()
	}
	p.mu.Unlock()
	p.sweep()
}
