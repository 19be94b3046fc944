package serve

import (
	"math"
	"os"
	"path/filepath"
	"slices"
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

// parallel tells how many requests the application serves at once, of several
// that which serves fewest; nil: a program that knows itself.
func (c *Core) parallel() func() int {
	var all []int
	if php := c.app.PHP; php != nil {
		all = append(all, php.Processes)
	}
	if cgi := c.app.CGI; cgi != nil {
		all = append(all, max(1, cgi.Processes)*max(1, cgi.Threads))
	}
	pool, ok := c.pool.(interface{ Parallel() int })
	switch {
	case c.app.Workers != nil && ok:
		return func() int { return min(pool.Parallel(), slices.Min(append(all, math.MaxInt))) }
	case len(all) > 0 && c.app.Exec == nil:
		return func() int { return slices.Min(all) }
	}
	return nil
}
