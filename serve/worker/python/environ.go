package python

import (
	"fmt"

	"liege/serve/exchange"
	"liege/serve/worker/lang"
)

// Request implements lang.Encoder: the dict becomes the environ.
func (py *Python) Request(b []byte, id uint64, r *exchange.Request, body []byte) []byte {
	b = appendDict(b)
	raw := lang.PutID(id)
	b = appendBytes(appendNative(b, "liege.id"), raw[:])
	scheme := lang.Scheme{}
	for i := range r.Vars {
		v := &r.Vars[i]
		scheme.See(v)
		b = appendNative(appendNative(b, v.Name), v.Value)
	}
	b = appendNative(appendNative(b, "wsgi.url_scheme"), scheme.String())
	b = appendNative(b, "wsgi.input")
	switch {
	case r.Length == 0:
		b = appendNone(b)
	case body != nil:
		b = appendBytes(b, body)
	default:
		b = appendBool(b, true)
	}
	if r.Trailing {
		b = appendBool(appendNative(b, "liege.trailing"), true)
	}
	if r.Length < 0 {
		b = appendBool(appendNative(b, "wsgi.input_terminated"), true)
	}
	return appendDictEnd(b)
}

// Dict implements lang.Encoder.
func (py *Python) Dict(b []byte, entries []lang.Entry) []byte {
	b = appendDict(b)
	for _, e := range entries {
		b = appendNative(b, e.Name)
		switch v := e.Value.(type) {
		case int:
			b = appendInt(b, v)
		case bool:
			b = appendBool(b, v)
		case string:
			b = appendText(b, v)
		case []byte:
			b = appendBytes(b, v)
		case []string:
			b = appendTexts(b, v)
		case [][]byte:
			b = appendList(b, len(v))
			for _, s := range v {
				b = appendBytes(b, s)
			}
		default:
			panic(fmt.Sprintf("packet: %s is a %T", e.Name, v))
		}
	}
	return appendDictEnd(b)
}
