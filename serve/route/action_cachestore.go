package route

import (
	"cmp"
	"strconv"
	"strings"
	"time"

	"liege/serve/cache"
	"liege/serve/exchange"
	"liege/vassal/route"
)

// keeping is what cachestore rules have asked for.
type keeping struct {
	on     bool // there are any
	body   bool // the body is being kept
	asked  []toStore
	limit  int64
	buf    []byte
	length int64 // of the body, as the head says; below: it does not
	sent   int64 // of it
}

// toStore is one item to be made of the answer.
type toStore struct {
	in        *cache.Cache
	key, gzip string
	by        string // the key as the rule has it, with its variables
	status    int    // beside 200; 0: none
	value     string
	ttl       time.Duration
}

// cachestore keeps the body of the answer, if that is 200 or the status that
// the rule names, was sent whole, and is for everybody (shared).
func cachestore(r *rl) (act, error) {
	c, err := newCached(r.h.cfg.Cache, r.ActionArg, route.StoreKeys, r.template)
	if err != nil {
		return nil, err
	}
	packed, err1 := r.template(c.kv["gzip"])
	value, err2 := r.template(c.kv["value"])
	status := int(number(cmp.Or(c.kv["status"], c.kv["code"])))
	return func(x *run) verdict {
		if in := c.in(x); in != nil && len(x.keep.asked) < maxVars {
			x.keep.on = true
			x.keep.asked = append(x.keep.asked, toStore{in, c.key.Expand(x), packed.Expand(x), c.kv["key"], status, value.Expand(x), c.ttl})
		}
		return next
	}, cmp.Or(err1, err2)
}

// keeps decides, when the head of the answer is sent, what is kept.
func (x *run) keeps() {
	k := &x.keep
	k.length, k.sent = declared(x.fields), 0
	kept := k.asked[:0]
	if x.plainGet() && x.shared() {
		for _, s := range k.asked {
			if (x.status == 200 || s.status != 0 && x.status == s.status) && s.covers(x.fields, x.r.Get("HTTP_COOKIE")) {
				kept = append(kept, s)
			}
		}
	}
	k.asked = kept
	for _, s := range k.asked {
		if s.value == "" {
			k.body, k.limit = true, max(k.limit, s.in.Largest())
		}
	}
	k.limit = min(k.limit, maxKept)
}

// plainGet reports whether the request is one whose answer another may get:
// GET without a body, which the answer may depend on and no key tells, and
// with the path that rules see, which the key may be made of.
func (x *run) plainGet() bool {
	return x.r.Get("REQUEST_METHOD") == "GET" && x.r.Length == 0 && x.r.Path() == x.r.Get("PATH_INFO")
}

// shared reports whether the answer may be given to other clients (RFC 9111 3,
// 3.5, 5.2.2; for Set-Cookie as nginx): it is the whole answer to this very
// client, and not encoded, which a client that asked for it got.
func (x *run) shared() bool {
	if x.status == 206 || x.status == 304 {
		return false
	}
	open := x.r.Get("HTTP_AUTHORIZATION") == ""
	for _, f := range x.fields {
		switch {
		case strings.EqualFold(f.Name, "Content-Encoding"), strings.EqualFold(f.Name, "Content-Range"), strings.EqualFold(f.Name, "Set-Cookie"):
			return false
		case !strings.EqualFold(f.Name, "Cache-Control"):
		case says(f.Value, "private", "no-store", "no-cache"):
			return false
		case says(f.Value, "public", "s-maxage", "must-revalidate"):
			open = true
		}
	}
	return open
}

// says reports whether a field Cache-Control has one of the directives.
func says(control string, directives ...string) bool {
	for word := range strings.SplitSeq(control, ",") {
		word, _, _ = strings.Cut(strings.TrimSpace(word), "=")
		for _, d := range directives {
			if strings.EqualFold(word, d) {
				return true
			}
		}
	}
	return false
}

// covers reports whether the key holds what the answer to a request with these
// cookies depends on, as its field Vary says. Encodings are not kept (shared), and on Origin depend fields,
// which are not kept either.
func (s *toStore) covers(fields []exchange.Field, cookies string) bool {
	for _, f := range fields {
		if !strings.EqualFold(f.Name, "Vary") {
			continue
		}
		for name := range strings.SplitSeq(f.Value, ",") {
			name = strings.ReplaceAll(strings.ToUpper(strings.TrimSpace(name)), "-", "_")
			switch {
			case name == "", name == "ACCEPT_ENCODING", name == "ORIGIN":
			case name == "COOKIE" && strings.Contains(s.by, "${cookie[") && s.holds(cookies):
			case !strings.Contains(s.by, "HTTP_"+name+"}") && !strings.Contains(s.by, "HTTP_"+name+"]"): // "*": no field is named so
				return false
			}
		}
	}
	return true
}

// holds reports whether the key has each of the cookies: a page for who has a
// session is not for all who have its language.
func (s *toStore) holds(cookies string) bool {
	for c := range strings.SplitSeq(cookies, ";") {
		c = strings.TrimLeft(c, " ")
		name, value, _ := strings.Cut(c, "=")
		if c != "" && (!strings.Contains(s.by, "${cookie["+name+"]") || cookie(cookies, name) != value) {
			return false
		}
	}
	return true
}

// declared is the length that the fields name; below 0: none, or no number.
func declared(fields []exchange.Field) int64 {
	for _, f := range fields {
		if strings.EqualFold(f.Name, "Content-Length") {
			n, err := strconv.ParseInt(f.Value, 10, 64)
			if err != nil {
				return 1<<63 - 1 // never whole
			}
			return n
		}
	}
	return -1
}

// maxKept bounds a body that is kept, in bytes, whatever the cache takes: it is
// in memory until it is whole.
const maxKept = 64 << 20

// write counts what is sent of the body, and keeps it.
func (k *keeping) write(p []byte) {
	k.sent += int64(len(p))
	if !k.body {
		return
	}
	if int64(len(k.buf)+len(p)) > k.limit {
		k.spoil()
		return
	}
	k.buf = append(k.buf, p...)
}

// spoil gives the body up: what does not need it is stored all the same.
func (k *keeping) spoil() {
	if k.body {
		k.body, k.buf = false, nil
	}
}

// store makes the items, of an answer that is complete: as long as it said, too.
// What broke off without an error, for which the front will cut the connection,
// is not.
func (x *run) store() {
	k := &x.keep
	if k.length >= 0 && k.sent != k.length {
		return
	}
	for _, s := range k.asked {
		value := []byte(s.value)
		if s.value == "" {
			if value = k.buf; !k.body {
				continue
			}
		}
		if err := s.in.Set(s.key, value, cache.Update, s.ttl); err != nil {
			continue // it does not fit: the cache counts, and says so
		}
		if s.gzip == "" {
			continue
		}
		if packed, err := cache.Gzip(value); err == nil {
			_ = s.in.Set(s.gzip, packed, cache.Update, s.ttl) // the same
		}
	}
}
