package route

import (
	"cmp"
	"hash/maphash"
	"os"
	"strings"
	"sync/atomic"

	"liege/serve/exchange"
	"liege/vassal/route"
)

// addheader adds a field to the answer, whichever it will be.
func addheader(r *rl) (act, error) {
	t, err := r.template(r.ActionArg)
	at := r.At
	return func(x *run) verdict {
		name, value, _ := strings.Cut(t.Expand(x), ":")
		if route.Field(name, value) != nil || !printable(value) {
			x.h.cfg.Log.Warn("routing rule: no such header field can be sent", "file", at.File, "line", at.Line)
			return next
		}
		if len(x.add) < maxVars {
			x.add = append(x.add, exchange.Field{Name: name, Value: strings.TrimSpace(value)})
		}
		return next
	}, err
}

// printable reports whether s may be the value of a field (RFC 9110 5.5).
func printable(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// delheader takes a field out of the answer that is not the server's own.
func delheader(r *rl) (act, error) {
	t, err := r.template(r.ActionArg)
	return func(x *run) verdict {
		if name := t.Expand(x); len(x.remove) < maxVars && route.FieldName(name) == nil {
			x.remove = append(x.remove, name)
		}
		return next
	}, err
}

// clearheaders takes what the answer's head has so far away, and gives it
// another status.
func clearheaders(r *rl) (act, error) {
	code, reason, err := route.ParseStatus(r.ActionArg)
	return func(x *run) verdict {
		x.cleared = statusLine{code, reason}
		return next
	}, err
}

// maxPrefix bounds what rules put before a body, in bytes.
const maxPrefix = 1 << 20

// send puts text before the body of the answer.
func send(end string) func(*rl) (act, error) {
	return func(r *rl) (act, error) {
		t, err := r.template(r.ActionArg)
		at := r.At
		return func(x *run) verdict {
			return x.before(at.Line, t.Expand(x)+end)
		}, err
	}
}

func (x *run) before(line int, text string) verdict {
	if len(x.prefix)+len(text) > maxPrefix {
		x.h.cfg.Log.Error("routing rule: too much is put before the body", "line", line)
		return next
	}
	x.prefix = append(x.prefix, text...)
	return next
}

// expires adds the field Expires.
func expires(r *rl) (act, error) {
	kv, err := route.Keyvals(r.ActionArg, route.ExpiresKeys)
	if err != nil {
		return nil, err
	}
	file, err1 := r.template(kv["filename"])
	unix, err2 := r.template(kv["unix"])
	value, err3 := r.template(kv["value"])
	h := r.h
	return func(x *run) verdict {
		at := number(unix.Expand(x))
		if name := file.Expand(x); name != "" {
			fi, err := os.Stat(h.absolute(name))
			if err != nil {
				return next
			}
			at = fi.ModTime().Unix()
		}
		x.add = append(x.add, exchange.Field{Name: "Expires", Value: httpTime(at + number(value.Expand(x)))})
		return next
	}, cmp.Or(err1, err2, err3)
}

// hashAction chooses one of several values by a key.
func hashAction(r *rl) (act, error) {
	kv, err := route.Keyvals(r.ActionArg, route.HashKeys)
	if err != nil {
		return nil, err
	}
	key, err1 := r.template(kv["key"])
	items, err2 := r.template(kv["items"])
	sum := hashes(kv["algo"])
	at := r.At
	return func(x *run) verdict {
		all := strings.Split(items.Expand(x), ";")
		return x.setNew(at, kv["var"], all[sum(key.Expand(x))%uint32(len(all))])
	}, cmp.Or(err1, err2)
}

func hashes(algo string) func(string) uint32 {
	switch algo {
	case "murmur2":
		return murmur2
	case "random", "rand":
		seed := maphash.MakeSeed()
		var n atomic.Uint64
		return func(string) uint32 { return uint32(maphash.Comparable(seed, n.Add(1))) }
	case "rr":
		var n atomic.Uint32
		return func(string) uint32 { return n.Add(1) - 1 }
	}
	return djb33x
}

// signed is a byte as C's char is on x86: uWSGI's hashes are of those.
func signed(c byte) uint32 { return uint32(int32(int8(c))) }

// djb33x is uWSGI's default hash.
func djb33x(s string) uint32 {
	h := uint32(5381)
	for i := range len(s) {
		h = h*33 ^ signed(s[i])
	}
	return h
}

// murmur2 is MurmurHash2 of 32 bits with a seed of 0 as uWSGI computes it: for
// what is left of the text after whole words it takes the first bytes again.
// What a key was mapped to must stay.
func murmur2(s string) uint32 {
	const m = 0x5bd1e995
	first, h := s, uint32(len(s))
	for ; len(s) >= 4; s = s[4:] {
		k := (uint32(s[0]) | uint32(s[1])<<8 | uint32(s[2])<<16 | uint32(s[3])<<24) * m
		h = h*m ^ (k^k>>24)*m
	}
	switch len(s) {
	case 3:
		h ^= signed(first[2]) << 16
		fallthrough
	case 2:
		h ^= signed(first[1]) << 8
		fallthrough
	case 1:
		h = (h ^ signed(first[0])) * m
	}
	h = (h ^ h>>13) * m
	return h ^ h>>15
}
