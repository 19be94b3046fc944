package perl

import (
	"encoding/binary"
	"fmt"
	"strconv"

	"liege/serve/exchange"
	"liege/serve/worker/lang"
)

// A packet is what Perl's unpack takes apart by one call:
//
//	Q id ask body (name value)…   a request: template "a a8 a V/a* (V/a*)*";
//	                              ask is "1" if the body is to be asked for
//	D (name value)…               anything else: template "x (V/a*)*"; the first
//	                              byte of a value is "v", or "l" for a list
//
// Strings have their length in front, 32 bits little-endian.

func appendString[T string | []byte](b []byte, v T) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(v))), v...)
}

// Request implements lang.Encoder: the pairs become the env.
func (pl *Perl) Request(b []byte, id uint64, r *exchange.Request, body []byte) []byte {
	raw := lang.PutID(id)
	b = append(append(b, 'Q'), raw[:]...)
	ask := byte('0')
	if r.Length != 0 && body == nil {
		ask = '1'
	}
	b = appendString(append(b, ask), body)
	scheme := lang.Scheme{}
	for i := range r.Vars {
		v := &r.Vars[i]
		scheme.See(v)
		if lang.Wanted(v) {
			b = appendString(appendString(b, v.Name), v.Value)
		}
	}
	return appendString(appendString(b, "psgi.url_scheme"), scheme.String())
}

// Dict implements lang.Encoder.
func (pl *Perl) Dict(b []byte, entries []lang.Entry) []byte {
	b = append(b, 'D')
	for _, e := range entries {
		b = appendString(b, e.Name)
		at := len(b)
		b = append(b, 0, 0, 0, 0)
		switch v := e.Value.(type) {
		case int:
			b = strconv.AppendInt(append(b, 'v'), int64(v), 10)
		case bool:
			b = append(b, 'v')
			if v {
				b = append(b, '1')
			}
		case string:
			b = append(append(b, 'v'), v...)
		case []byte:
			b = append(append(b, 'v'), v...)
		case []string:
			b = appendList(append(b, 'l'), v)
		case [][]byte:
			b = appendList(append(b, 'l'), v)
		default:
			panic(fmt.Sprintf("packet: %s is a %T", e.Name, v))
		}
		binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	}
	return b
}

func appendList[T string | []byte](b []byte, list []T) []byte {
	for _, v := range list {
		b = appendString(b, v)
	}
	return b
}
