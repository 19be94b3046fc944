package serve

import (
	"context"

	"liege/serve/cache"
	"liege/serve/exchange"
	"liege/serve/proxy"
)

// A CacheUser is an Application whose functions use the vassal's caches: it is
// given them before Run, and not at all if there are none.
type CacheUser interface {
	UseCaches(caches *cache.Set)
}

// makeCaches makes the vassal's caches: they belong to the core, and outlive
// its workers.
func (c *Core) makeCaches() error {
	if len(c.app.Caches) == 0 {
		return nil
	}
	var err error
	if c.caches, err = cache.New(c.app.Caches, c.app.Dir, c.log); err != nil {
		return err
	}
	if u, ok := c.pool.(CacheUser); ok {
		u.UseCaches(c.caches)
	}
	return nil
}

// fromCache answers GET with what the cache of check-cache has under the URL,
// a whole HTTP answer, before anything else is asked; as uWSGI does, but that
// what is no HTTP answer is 502, HEAD is answered too, and there is one message
// framing for all answers.
func (c *Core) fromCache(next exchange.Handler) exchange.Handler {
	if c.app.CheckCache == nil {
		return next
	}
	from := c.caches.Named(*c.app.CheckCache)
	if from == nil {
		return next // liege check has said so
	}
	raw := proxy.New(proxy.Limits{}, c.log)
	return exchange.HandlerFunc(func(ctx context.Context, r *exchange.Request, w exchange.Response) error {
		switch r.Get("REQUEST_METHOD") {
		case "GET", "HEAD":
			if answer, ok := from.Get(nil, r.Get("REQUEST_URI")); ok {
				r.Info.Backend = "cache"
				return raw.Raw(ctx, r, w, string(answer))
			}
		}
		return next.Serve(ctx, r, w)
	})
}
