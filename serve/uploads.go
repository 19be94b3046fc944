package serve

import (
	"os"
	"path/filepath"
	"strings"

	"liege/serve/exchange"
	"liege/serve/front"
	"liege/serve/upload"
)

// uploads has the bodies of requests before h, whatever runs the application,
// is asked. A program that speaks HTTP/2 may answer while its client speaks, and
// has no worker that waits.
func (c *Core) uploads(h exchange.Handler) exchange.Handler {
	u := c.app.Upload
	if u.Stream || c.app.Exec != nil && c.app.Exec.H2C {
		return h
	}
	dir := os.TempDir()
	for _, kv := range c.app.Env { // as uWSGI: where the app would store it
		if v, ok := strings.CutPrefix(kv, "TMPDIR="); ok && filepath.IsAbs(v) {
			dir = v
		}
	}
	return upload.New(h, upload.Config{Store: u.Store, Dir: dir, Space: c.space, Patience: front.Complete(c.app.HTTP).BodyTimeout, Parallel: c.parallel()}, c.log)
}

// parallel tells how many requests the application serves at once; nil: a
// program that knows itself.
func (c *Core) parallel() func() int {
	pool, ok := c.pool.(interface{ Parallel() int })
	switch php := c.app.PHP; {
	case c.app.Workers != nil && ok && php != nil:
		return func() int { return min(pool.Parallel(), php.Processes) }
	case c.app.Workers != nil && ok:
		return pool.Parallel
	case php != nil && c.app.Exec == nil:
		return func() int { return php.Processes }
	}
	return nil
}
