package proxy

import (
	"bufio"
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"liege/serve/direct"
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
		if nc := c.pool.last(addr); nc != nil {
			return nc, true, nil
		}
	}
	nc, err = c.dial(ctx, addr)
	if err == nil {
		nc.br = bufio.NewReaderSize(nc, 16<<10)
	}
	return nc, false, err
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

// errStale is that of a connection that cannot be used again: nothing was sent.
var errStale = errors.New("the idle connection has ended, or something has come on it")

// again sends a request over a connection that was used before, and waits until
// there is something to be read. errStale: a server that ends the connection, or
// says 408 first, has nothing to do with this request, and what it sent behind
// an answer that may have no body must not be the next answer.
//
// All is done within one Read of the poller, which has forgotten by then what
// came before: so the look that finds nothing stands for the attempt to read
// with which each wait for an answer begins otherwise.
func (c *conn) again(request []byte) error {
	if c.own == nil {
		return errStale
	}
	c.arm()
	sent, looked := 0, false
	var errno syscall.Errno
	stale := false
	err := c.own.Raw().Read(func(fd uintptr) bool {
		if looked {
			return true
		}
		looked = true
		if stale = !direct.Silent(fd); !stale {
			sent, errno = direct.Send(fd, request)
		}
		return stale || sent < len(request) // else wait
	})
	switch {
	case err != nil:
		return err
	case stale:
		return errStale
	case errno != 0 && errno != syscall.EAGAIN:
		return os.NewSyscallError("sendto", errno)
	case sent < len(request):
		_, err = c.Write(request[sent:])
	}
	return err
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
