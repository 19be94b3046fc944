package route

import (
	"context"
	"net/netip"
	"sync"
)

// turns has one slow hash computed at a time, so that whoever guesses passwords
// costs one CPU, not all. Clients take turns: of each only one request waits for
// that, and its others wait for each other. So however many guesses one client
// sends at once, they delay another's login by one hash.
type turns struct {
	one chan struct{} // full: somebody computes

	mu sync.Mutex
	of map[string]*turn // by client, while it has any
}

// turn is one client's.
type turn struct {
	one   chan struct{}
	users int // those who have it or wait for it
}

func newTurns() *turns { return &turns{one: make(chan struct{}, 1), of: make(map[string]*turn)} }

// take waits until it is the client's turn, and one of his requests'. The error
// is that of ctx.
func (t *turns) take(ctx context.Context, client string) (give func(), err error) {
	client = network(client)
	own := t.enter(client)
	if err := enter(ctx, own.one); err != nil {
		t.leave(client)
		return nil, err
	}
	if err := enter(ctx, t.one); err != nil {
		<-own.one
		t.leave(client)
		return nil, err
	}
	return func() {
		<-t.one
		<-own.one
		t.leave(client)
	}, nil
}

func enter(ctx context.Context, door chan struct{}) error {
	select {
	case door <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t *turns) enter(client string) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.of[client]
	if own == nil {
		own = &turn{one: make(chan struct{}, 1)}
		t.of[client] = own
	}
	own.users++
	return own
}

func (t *turns) leave(client string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.of[client]
	if own.users--; own.users == 0 {
		delete(t.of, client)
	}
}

// network is what one client has of addresses: a whole /64 of IPv6.
func network(addr string) string {
	a, err := netip.ParseAddr(addr)
	if err != nil || !a.Is6() || a.Is4In6() {
		return addr
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return addr
	}
	return p.String()
}
