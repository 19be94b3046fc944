package proxy

import (
	"context"
	"encoding/hex"
	"maps"
	"net/http"
	"slices"
	"sync"
)

// h2cPool are the connections by HTTP/2. A request goes over the first one that
// has room; where none has, another one is made.
type h2cPool struct {
	t *http.Transport

	mu     sync.Mutex
	to     map[string]*h2cPeer
	closed bool
}

// h2cPeer are the connections to one server.
type h2cPeer struct {
	conns []*http.ClientConn
	gate  chan struct{} // held while a connection is made, so that those who wait share it
}

// get returns a connection on which a place is kept for one request, and
// whether it was used before.
func (p *h2cPool) get(ctx context.Context, addr string) (_ *http.ClientConn, old bool, err error) {
	if c := p.room(addr); c != nil {
		return c, true, nil
	}
	q := p.peer(addr)
	select {
	case q.gate <- struct{}{}:
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
	defer func() { <-q.gate }()
	if c := p.room(addr); c != nil {
		return c, true, nil
	}
	cc, err := p.t.NewClientConn(ctx, "http", hex.EncodeToString([]byte(addr))+":80")
	if err != nil {
		return nil, false, err
	}
	if err := cc.Reserve(); err != nil {
		_ = cc.Close() // nothing was sent
		return nil, false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = cc.Close() // as above
		return nil, false, http.ErrServerClosed
	}
	if now := p.to[addr]; now != nil {
		q = now
	} else {
		p.to[addr] = q // forgotten before it had a connection
	}
	q.conns = append(q.conns, cc)
	return cc, false, nil
}

// peer is that of addr. A new one takes the place of those that have nothing
// any more: a server that is started anew has another address each time.
func (p *h2cPool) peer(addr string) *h2cPeer {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.to[addr]
	if q == nil {
		maps.DeleteFunc(p.to, func(_ string, other *h2cPeer) bool { return len(other.gate) == 0 && !other.lives() })
		q = &h2cPeer{gate: make(chan struct{}, 1)}
		if p.to == nil {
			p.to = map[string]*h2cPeer{}
		}
		p.to[addr] = q
	}
	return q
}

// lives forgets the connections that have ended, and reports whether one is
// left. The mutex is held.
func (q *h2cPeer) lives() bool {
	q.conns = slices.DeleteFunc(q.conns, func(c *http.ClientConn) bool { return c.Err() != nil })
	return len(q.conns) > 0
}

// room keeps a place on a connection that there is.
func (p *h2cPool) room(addr string) *http.ClientConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.to[addr]
	if q == nil {
		return nil
	}
	q.lives()
	for _, c := range q.conns {
		if c.InFlight() < h2cRequests && c.Reserve() == nil {
			return c
		}
	}
	return nil
}

func (p *h2cPool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, q := range p.to {
		for _, c := range q.conns {
			_ = c.Close() // what is under way ends
		}
	}
	p.to = nil
	p.t.CloseIdleConnections()
}
