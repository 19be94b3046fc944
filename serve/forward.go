package serve

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"liege/serve/exchange"
	"liege/serve/front"
	"liege/serve/proxy"
	"liege/vassal"
)

// defaultGrace is for how long a server that could not be reached is left
// alone, as in uWSGI.
const defaultGrace = 30 * time.Second

// forward sends requests on to the servers of http-to, in turn; one that
// cannot be reached is passed over for a time, and nothing of the request is
// lost with it: no byte was sent. When none can be reached those of
// http-fallback are tried, and in the end all once more, for a wrong memory is
// worse than a try.
type forward struct {
	f            *vassal.Forward
	to, fallback []*node
	client       *proxy.Client
	next         atomic.Uint32
	log          *slog.Logger
}

// node is one server.
type node struct {
	addr string
	dead atomic.Int64 // until when, unix nanoseconds
}

func newForward(f *vassal.Forward, silence time.Duration, log *slog.Logger) *forward {
	h := &forward{f: f, client: proxy.New(proxy.Limits{Connect: f.Connect, Silence: silence}, log), log: log}
	for _, addr := range f.To {
		h.to = append(h.to, &node{addr: addr})
	}
	for _, addr := range f.Fallback {
		h.fallback = append(h.fallback, &node{addr: addr})
	}
	return h
}

// Serve implements exchange.Handler.
func (h *forward) Serve(ctx context.Context, r *exchange.Request, w exchange.Response) error {
	var err error
	start := int(h.next.Add(1) - 1)
	for _, round := range []struct {
		nodes []*node
		dead  bool // those that could not be reached, too
	}{{h.to, false}, {h.fallback, false}, {h.to, true}, {h.fallback, true}} {
		for i := range round.nodes {
			n := round.nodes[(start+i)%len(round.nodes)]
			now := time.Now()
			if dead := n.dead.Load() > now.UnixNano(); dead != round.dead {
				continue
			}
			if err = h.send(ctx, r, w, n.addr); !proxy.Unreached(err) || ctx.Err() != nil {
				return err
			}
			n.bury(now, h.grace(), h.log, err)
		}
	}
	return err
}

func (h *forward) grace() time.Duration {
	if h.f.Grace > 0 {
		return h.f.Grace
	}
	return defaultGrace
}

// bury remembers that n could not be reached, and says so once.
func (n *node) bury(now time.Time, grace time.Duration, log *slog.Logger, err error) {
	if was := n.dead.Swap(now.Add(grace).UnixNano()); was <= now.UnixNano() {
		log.Warn("a server of http-to cannot be reached", "upstream", n.addr, "err", err, "again_in", grace)
	}
}

func (h *forward) send(ctx context.Context, r *exchange.Request, w exchange.Response, addr string) error {
	if h.f.HTTP {
		if r.Get("HTTPS") == "on" {
			r.Set("HTTP_X_FORWARDED_PROTO", "https")
		}
		return h.client.HTTP(ctx, r, w, proxy.Target{Address: addr, Upgrade: true})
	}
	r.Set("UWSGI_ROUTER", "http")
	return h.client.UWSGI(ctx, r, w, addr, h.f.Modifier[0], h.f.Modifier[1])
}

// fronts are the listeners as the front serves them.
func (c *Core) fronts() []front.Listener {
	var out []front.Listener
	for i := range c.app.Listen {
		l := &c.app.Listen[i]
		f := c.listener(i)
		if l.Key == "http" || l.Key == "https" || l.Key == "https2" { // uWSGI's router
			f.Vars, f.HostName = c.vars, c.app.Front.ServerName
			if c.forward != nil && l.Protocol != vassal.Redirect {
				f.Handler = c.forward
			}
		}
		out = append(out, f)
	}
	return out
}

// options builds what App.Front and App.Forward ask for, around h.
func (c *Core) options(h exchange.Handler) (exchange.Handler, error) {
	for _, kv := range c.app.Front.Vars {
		for i := range len(kv) {
			if kv[i] == '=' {
				c.vars = append(c.vars, exchange.Var{Name: kv[:i], Value: kv[i+1:]})
				break
			}
		}
	}
	if c.app.Forward != nil {
		c.forward = newForward(c.app.Forward, c.app.HTTP.WriteTimeout, c.log)
	}
	if c.app.Front.AutoGzip {
		h = autoGzip{next: h, compressors: &c.compressors}
	}
	var err error
	if c.pages, err = pages(c.app.Front.Pages); err != nil {
		return nil, err
	}
	return h, nil
}
