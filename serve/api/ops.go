package api

import (
	"errors"
	"math"
	"time"

	"liege/serve/cache"
	"liege/serve/worker"
)

// cache is the cache that a request names; without one the answer says so.
func (c *client) cache() *cache.Cache {
	k := c.h.caches.Named(c.f.text(0))
	if k == nil {
		c.a.begin(none)
	}
	return k
}

func (c *client) cacheGet() bool {
	k := c.cache()
	if k == nil {
		return true
	}
	if k.Largest() > bigFrame && !c.room() {
		return false
	}
	at := len(c.a.b)
	c.a.b = append(c.a.b, 0, 0, 0, 0)
	b, found := k.Get(c.a.b, c.f.text(1))
	if !found {
		c.a.begin(none)
		return true
	}
	c.a.b = b
	n := len(b) - at - 4
	b[at], b[at+1], b[at+2], b[at+3] = byte(n), byte(n>>8), byte(n>>16), byte(n>>24)
	return true
}

// say makes the answer yes or no.
func (c *client) say(yes bool) bool {
	if !yes {
		c.a.begin(none)
	}
	return true
}

func (c *client) cacheExists() bool {
	k := c.cache()
	return k == nil || c.say(k.Exists(c.f.text(1)))
}

func (c *client) cacheSet() bool {
	ttl, good := c.seconds(3)
	how, good2 := c.f.small(4, 0, 1)
	if !good || !good2 {
		return false
	}
	k := c.cache()
	return k == nil || c.say(k.Set(c.f.text(1), c.f.fields[2], cache.How(how), ttl) == nil)
}

// seconds is a time to live.
func (c *client) seconds(i int) (time.Duration, bool) {
	n, good := c.f.number(i)
	if n < 0 || n > math.MaxInt64/int64(time.Second)/2 {
		n = 0
	}
	return time.Duration(n) * time.Second, good
}

func (c *client) cacheDel() bool {
	k := c.cache()
	return k == nil || c.say(k.Del(c.f.text(1)))
}

func (c *client) cacheClear() bool {
	if k := c.cache(); k != nil {
		k.Clear()
	}
	return true
}

func (c *client) cacheKeys() bool {
	k := c.cache()
	if k == nil {
		return true
	}
	if !c.room() {
		return false
	}
	for _, key := range k.Keys() {
		c.a.text(key)
	}
	return true
}

func (c *client) cacheNumber() bool {
	by, good := c.f.number(3)
	ttl, good2 := c.seconds(4)
	if !good || !good2 || len(c.f.fields[2]) != 1 {
		return false
	}
	k := c.cache()
	if k == nil {
		return true
	}
	var n int64
	var err error
	switch c.f.fields[2][0] {
	case '+':
		n, err = k.Inc(c.f.text(1), by, ttl)
	case '-':
		n, err = k.Dec(c.f.text(1), by, ttl)
	case '*':
		n, err = k.Mul(c.f.text(1), by, ttl)
	case '/':
		n, err = k.Div(c.f.text(1), by, ttl)
	default:
		return false
	}
	if err != nil {
		return c.say(false)
	}
	c.a.number(n)
	return true
}

func (c *client) cacheNum() bool {
	if k := c.cache(); k != nil {
		c.a.number(k.Num(c.f.text(1)))
	}
	return true
}

// workers tells what each worker does, as uwsgi.workers() does.
func (c *client) workers() bool {
	st := c.h.pool.Stats()
	for i := range st.Workers {
		w := &st.Workers[i]
		spawned := int64(0)
		respawns := int64(w.Respawns)
		if !w.Spawned.IsZero() {
			spawned = w.Spawned.Unix()
			respawns++
		}
		rt := int64(0)
		if w.Requests > 0 {
			rt = w.Running.Microseconds() / int64(w.Requests)
		}
		size, resident := worker.MemoryOf(w.PID)
		for _, n := range []int64{int64(w.ID), int64(w.PID), int64(w.Requests), int64(w.Delta), int64(w.Errors),
			w.Running.Microseconds(), spawned, respawns, int64(w.Sent), rt, resident, size} {
			c.a.number(n)
		}
		status := "idle"
		switch {
		case w.Cheap:
			status = "cheap"
		case w.Busy:
			status = "busy"
		}
		c.a.text(status)
	}
	return true
}

// pids are those of the mules, or of the spoolers.
func (c *client) pids() bool {
	kind := worker.Mule
	if c.f.text(0) == "s" {
		kind = worker.Spooler
	}
	for _, x := range c.h.pool.SideStats() {
		if x.Kind == kind && x.PID > 0 {
			c.a.number(int64(x.PID))
		}
	}
	return true
}

func (c *client) total() bool {
	n := int64(0)
	for _, w := range c.h.pool.Stats().Workers {
		n += int64(w.Requests)
	}
	c.a.number(n)
	return true
}

func (c *client) queue() bool {
	n := 0
	if c.h.Queue != nil {
		n = c.h.Queue()
	}
	c.a.number(int64(n))
	return true
}

func (c *client) reload() bool {
	if c.h.Reload == nil {
		return c.say(false)
	}
	c.h.Reload(c.pid)
	return true
}

func (c *client) stop() bool {
	if c.h.Stop == nil {
		return c.say(false)
	}
	c.h.log.Info("the application asks to be stopped", "pid", c.pid)
	c.h.Stop()
	return true
}

// alarm is uwsgi.alarm.
func (c *client) alarm() bool {
	c.h.Alarm(c.f.text(0), c.f.text(1))
	return true
}

func clip(s string) string { return s[:min(len(s), 2000)] }

var errTooMany = errors.New("there are too many already")
