package front

import "time"

// patience is how long a connection may be fresh, begun or leaving before it must
// make room for others, where there are as many as there may be. One that is idle
// makes room at once.
const patience = time.Second

// bodyPatience is the same for one whose client is silent in the middle of a body,
// and has no answer yet: a line may have its pauses.
func (s *Server) bodyPatience() time.Duration { return s.limits.BodyTimeout / 6 }

// evict ends the connection that waits longest for another request, else the
// one that has sent no whole one for longest: whoever only connects, or sends a
// byte now and then, keeps nobody out.
func (s *Server) evict() {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest *conn
	var since time.Time
	best := 0
	for c := range s.conns {
		rank, t := c.spare(now)
		if rank > best || rank == best && rank > 0 && t.Before(since) {
			oldest, since, best = c, t, rank
		}
	}
	if oldest != nil {
		oldest.evict()
	}
}

// spare is how readily c is to make room for another connection, 0: not at all;
// and since when it has been in the state that it is in.
func (c *conn) spare(now time.Time) (rank int, since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	waited := now.Sub(c.since)
	switch {
	case c.wait == idle:
		return 3, c.since
	case c.wait == busy && c.streams != nil:
		if _, since, all := c.streams.silent(now); all {
			return 1, since
		}
	case c.wait == feeding && waited >= c.s.bodyPatience():
		return 1, c.since
	case c.wait != feeding && c.wait != busy && waited >= patience:
		return 2, c.since
	}
	return 0, c.since
}

// evict has c make room. A request that has come meanwhile is served.
func (c *conn) evict() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wait != busy || c.streams != nil {
		c.evicted = true
		c.endRead()
	}
}

// evictBody has the request by HTTP/2 make room whose client has been silent for
// longest in the middle of its body, and reports whether there is one.
func (s *Server) evictBody() bool {
	b := s.silent(time.Now())
	if b == nil || !b.pause.end() { // else it is not found again
		return false
	}
	b.endRead() // not under mu: net/http may have it wait for what asks for that
	return true
}

// silent is the body of all connections by HTTP/2 whose client has been silent for
// longest; nil: none has for long.
func (s *Server) silent(now time.Time) (oldest *h2body) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var since time.Time
	for _, c := range s.h2conns {
		c.mu.Lock()
		h := c.streams
		c.mu.Unlock()
		if h == nil {
			continue
		}
		if b, t, _ := h.silent(now); b != nil && (oldest == nil || t.Before(since)) {
			oldest, since = b, t
		}
	}
	return oldest
}

// silent is the body of h whose client has been silent for longest, and has no
// answer yet; nil: none has for long. all: so have those of all requests.
func (h *h2handler) silent(now time.Time) (oldest *h2body, since time.Time, all bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for b := range h.bodies {
		t := b.pause.began()
		if t.IsZero() || now.Sub(t) < h.c.s.bodyPatience() || b.res.replied.Load() {
			continue
		}
		if n++; oldest == nil || t.Before(since) {
			oldest, since = b, t
		}
	}
	return oldest, since, n > 0 && n == h.n
}
