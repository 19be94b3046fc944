package ruby

import (
	"fmt"
	"unicode/utf8"

	"liege/serve/exchange"
	"liege/serve/worker/lang"
)

// Ruby's marshal format 4.8, as far as a request needs it; every Ruby since
// 1.8 reads it. Strings of requests are binary, as in uWSGI and as Rack::Lint
// wants those that are no ASCII; text of our own is UTF-8.

// begin starts a value.
func begin(b []byte) []byte { return append(b, 4, 8) }

// appendLong appends a number of the format's own: lengths and small integers.
func appendLong(b []byte, n int) []byte {
	switch {
	case n == 0:
		return append(b, 0)
	case 0 < n && n < 123:
		return append(b, byte(n+5))
	case -124 < n && n < 0:
		return append(b, byte(n-5))
	}
	at := len(b)
	b = append(b, 0)
	size := 0
	for m := n; m != 0 && m != -1; m >>= 8 {
		b = append(b, byte(m))
		size++
	}
	if n < 0 {
		size = -size
	}
	b[at] = byte(size)
	return b
}

// appendInt appends v as an Integer; what has more than 31 bits is a Bignum.
func appendInt(b []byte, v int) []byte {
	if v >= -1<<30 && v < 1<<30 {
		return appendLong(append(b, 'i'), v)
	}
	sign, left := byte('+'), uint64(v)
	if v < 0 {
		sign, left = '-', -left
	}
	var digits []byte
	for ; left > 0; left >>= 16 {
		digits = append(digits, byte(left), byte(left>>8))
	}
	return append(appendLong(append(b, 'l', sign), len(digits)/2), digits...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 'T')
	}
	return append(b, 'F')
}

func appendNil(b []byte) []byte          { return append(b, '0') }
func appendArray(b []byte, n int) []byte { return appendLong(append(b, '['), n) }
func appendHash(b []byte, n int) []byte  { return appendLong(append(b, '{'), n) }

// appendBytes appends a binary String.
func appendBytes[T string | []byte](b []byte, v T) []byte {
	return append(appendLong(append(b, '"'), len(v)), v...)
}

// text appends Strings of UTF-8: the name of the variable that holds the
// encoding is a symbol, which is written once per value.
type text struct{ named bool }

func (t *text) append(b []byte, s string) []byte {
	if !utf8.ValidString(s) {
		return appendBytes(b, s)
	}
	b = appendLong(appendBytes(append(b, 'I'), s), 1)
	if t.named {
		b = append(b, ';', 0)
	} else {
		b = append(b, ':', 6, 'E')
		t.named = true
	}
	return append(b, 'T')
}

// Request implements lang.Encoder: an array of the request's number, its body
// (true: to be asked for; nil: none) and the hash that becomes its env.
func (rb *Ruby) Request(b []byte, id uint64, r *exchange.Request, body []byte) []byte {
	raw := lang.PutID(id)
	b = appendBytes(appendArray(begin(b), 3), raw[:])
	switch {
	case r.Length == 0:
		b = appendNil(b)
	case body != nil:
		b = appendBytes(b, body)
	default:
		b = appendBool(b, true)
	}
	n := 1
	for i := range r.Vars {
		if lang.Wanted(&r.Vars[i]) {
			n++
		}
	}
	b = appendHash(b, n)
	scheme := lang.Scheme{}
	for i := range r.Vars {
		v := &r.Vars[i]
		scheme.See(v)
		if lang.Wanted(v) {
			b = appendBytes(appendBytes(b, v.Name), v.Value)
		}
	}
	return appendBytes(appendBytes(b, "rack.url_scheme"), scheme.String())
}

// Dict implements lang.Encoder.
func (rb *Ruby) Dict(b []byte, entries []lang.Entry) []byte {
	b = appendHash(begin(b), len(entries))
	var texts text
	for _, e := range entries {
		b = appendBytes(b, e.Name)
		switch v := e.Value.(type) {
		case int:
			b = appendInt(b, v)
		case bool:
			b = appendBool(b, v)
		case string:
			b = texts.append(b, v)
		case []byte:
			b = appendBytes(b, v)
		case []string:
			b = appendArray(b, len(v))
			for _, s := range v {
				b = texts.append(b, s)
			}
		case [][]byte:
			b = appendArray(b, len(v))
			for _, s := range v {
				b = appendBytes(b, s)
			}
		default:
			panic(fmt.Sprintf("packet: %s is a %T", e.Name, v))
		}
	}
	return b
}
