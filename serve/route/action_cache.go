package route

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"liege/serve/cache"
	"liege/serve/exchange"
	"liege/vassal/route"
)

// cached is what the rules about caches have in common: an item of a cache.
type cached struct {
	kv   map[string]string
	key  route.Template
	set  *cache.Set
	name route.Template
	one  *cache.Cache // the cache, if the rule names it without variables
	ttl  time.Duration
}

func newCached(set *cache.Set, arg, known string, template func(string) (route.Template, error)) (*cached, error) {
	kv, err := route.Keyvals(arg, known)
	if err != nil {
		return nil, err
	}
	c := &cached{kv: kv, set: set, ttl: time.Duration(number(kv["expires"])) * time.Second}
	if c.key, err = template(kv["key"]); err != nil {
		return nil, err
	}
	if c.name, err = template(kv["name"]); err != nil {
		return nil, err
	}
	if name, ok := c.name.Constant(); ok {
		if c.one = set.Named(name); c.one == nil {
			return nil, fmt.Errorf("there is no cache %q", name)
		}
	}
	return c, nil
}

// in is the cache; nil if there is no such one.
func (c *cached) in(x *run) *cache.Cache {
	if c.one != nil {
		return c.one
	}
	return c.set.Named(c.name.Expand(x))
}

// inCache compiles the condition incache.
func (h *Handler) inCache(arg string) (func(x *run) bool, error) {
	c, err := newCached(h.cfg.Cache, arg, route.InCacheKeys, func(text string) (route.Template, error) { return route.ParseTemplate(text, false) })
	if err != nil {
		return nil, err
	}
	return func(x *run) bool {
		in := c.in(x)
		return in != nil && in.Exists(c.key.Expand(x))
	}, nil
}

// maxPooled is how large a buffer for values is kept, in bytes.
const maxPooled = 64 << 10

// values are buffers for values on their way.
var values = sync.Pool{New: func() any { return new([]byte) }}

// cacheAction answers with an item; one that is not there leaves the request
// to the next rule, and so does what asks for more than to read: the program
// must carry it out. With before it is put before the body of whatever answers.
func cacheAction(before bool) func(*rl) (act, error) {
	return func(r *rl) (act, error) {
		c, err := newCached(r.h.cfg.Cache, r.ActionArg, route.CacheKeys, r.template)
		if err != nil {
			return nil, err
		}
		kind, coding := cmp.Or(c.kv["content_type"], "text/html"), c.kv["content_encoding"]
		uncounted := c.kv["no_cl"]+c.kv["nocl"]+c.kv["no_content_length"] != ""
		return func(x *run) verdict {
			in := c.in(x)
			if in == nil || !before && !reads(x.r) {
				return next
			}
			key, buf := c.key.Expand(x), values.Get().(*[]byte)
			value, expires, ok := in.Lookup((*buf)[:0], key)
			*buf = value
			if !ok {
				values.Put(buf)
				return next
			}
			if before {
				defer values.Put(buf)
				return x.before(r.At.Line, string(value))
			}
			fields := []exchange.Field{{Name: "Content-Type", Value: kind}}
			if t := r.h.files.Type(key); c.kv["mime"] != "" && t != "" {
				fields[0].Value = t
			}
			if coding != "" {
				fields = append(fields, exchange.Field{Name: "Content-Encoding", Value: coding})
			}
			if !expires.IsZero() {
				fields = append(fields, exchange.Field{Name: "Expires", Value: httpTime(expires.Unix())})
			}
			if !uncounted {
				fields = append(fields, length(len(value)))
			}
			x.ending = func(x *run) error { return x.item(fields, buf) }
			return stop
		}, nil
	}
}

// reads reports whether r may be answered with what another request was.
func reads(r *exchange.Request) bool {
	m := r.Get("REQUEST_METHOD")
	return m == "GET" || m == "HEAD"
}

// item answers with a value, and gives its buffer back.
func (x *run) item(fields []exchange.Field, buf *[]byte) error {
	x.r.Info.Backend = "cache"
	err := x.Head(200, "", fields)
	if err == nil {
		_, err = x.Write(*buf)
	}
	if cap(*buf) <= maxPooled {
		values.Put(buf)
	}
	return err
}

// cachevar keeps an item in a variable; one that is not there sets none.
func cachevar(r *rl) (act, error) {
	c, err := newCached(r.h.cfg.Cache, r.ActionArg, route.CacheVar, r.template)
	if err != nil {
		return nil, err
	}
	return func(x *run) verdict {
		in := c.in(x)
		if in == nil {
			return next
		}
		b, ok := in.Get(nil, c.key.Expand(x))
		if !ok {
			return next
		}
		text := string(b)
		if c.kv["num"] != "" {
			text = format(cache.Number(b))
		}
		if strings.IndexByte(text, 0) >= 0 {
			x.fail(r.At, "the item holds a NUL, which no variable can hold (a number? num=1)")
			return stop
		}
		return x.setNew(r.At, c.kv["var"], text)
	}, nil
}

// cacheset adds an item. A key that is there keeps its value; uWSGI closes the
// connection then.
func cacheset(r *rl) (act, error) {
	c, err := newCached(r.h.cfg.Cache, r.ActionArg, route.CacheSet, r.template)
	if err != nil {
		return nil, err
	}
	value, err := r.template(c.kv["value"])
	return func(x *run) verdict {
		in := c.in(x)
		if in == nil {
			x.fail(r.At, "there is no such cache")
			return stop
		}
		if err := in.Set(c.key.Expand(x), []byte(value.Expand(x)), cache.Add, c.ttl); err != nil && !errors.Is(err, cache.ErrExists) {
			x.fail(r.At, err.Error())
			return stop
		}
		return next
	}, err
}

// cachemath counts. What cannot be counted ends the request, as in uWSGI: a
// rule that follows may keep somebody out because of the number.
func cachemath(unset int64, do func(*cache.Cache, string, int64, time.Duration) (int64, error)) func(*rl) (act, error) {
	return func(r *rl) (act, error) {
		c, err := newCached(r.h.cfg.Cache, r.ActionArg, route.CacheMath, r.template)
		if err != nil {
			return nil, err
		}
		value, err := r.template(c.kv["value"])
		return func(x *run) verdict {
			n := unset
			if c.kv["value"] != "" {
				n = number(value.Expand(x))
			}
			in := c.in(x)
			if in == nil {
				x.fail(r.At, "there is no such cache")
				return stop
			}
			if _, err := do(in, c.key.Expand(x), n, c.ttl); err != nil {
				x.fail(r.At, err.Error())
				return stop
			}
			return next
		}, err
	}
}
