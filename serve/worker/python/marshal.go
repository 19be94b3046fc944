package python

import (
	"encoding/binary"
	"unicode/utf8"
)

// Python's marshal format, as far as a request needs it: types that every
// Python from 3.6 on reads, whatever version of the format it writes itself.
// Strings are never interned ('Z'): what a client invents as a header name
// would stay in the interpreter for ever (interned strings are immortal since
// Python 3.12).

func appendNone(b []byte) []byte    { return append(b, 'N') }
func appendDict(b []byte) []byte    { return append(b, '{') }
func appendDictEnd(b []byte) []byte { return append(b, '0') }

// appendInt appends v; what has more than 32 bits is a long of 15-bit digits.
func appendInt(b []byte, v int) []byte {
	if v == int(int32(v)) {
		return binary.LittleEndian.AppendUint32(append(b, 'i'), uint32(int32(v)))
	}
	sign, left := 1, uint64(v)
	if v < 0 {
		sign, left = -1, -left
	}
	var digits []byte
	for ; left > 0; left >>= 15 {
		digits = binary.LittleEndian.AppendUint16(digits, uint16(left&0x7fff))
	}
	b = binary.LittleEndian.AppendUint32(append(b, 'l'), uint32(int32(sign*len(digits)/2)))
	return append(b, digits...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 'T')
	}
	return append(b, 'F')
}

func appendBytes[T string | []byte](b []byte, v T) []byte {
	b = binary.LittleEndian.AppendUint32(append(b, 's'), uint32(len(v)))
	return append(b, v...)
}

// appendNative appends the bytes of s as WSGI's native string, each byte one
// character below U+0100 (PEP 3333, "Unicode Issues").
func appendNative(b []byte, s string) []byte {
	high := 0
	for i := range len(s) {
		high += int(s[i] >> 7)
	}
	if high == 0 {
		return append(appendASCII(b, len(s)), s...)
	}
	b = binary.LittleEndian.AppendUint32(append(b, 'u'), uint32(len(s)+high))
	for i := range len(s) {
		if c := s[i]; c < 0x80 {
			b = append(b, c)
		} else {
			b = append(b, 0xc0|c>>6, 0x80|c&0x3f)
		}
	}
	return b
}

func appendASCII(b []byte, n int) []byte {
	if n < 256 {
		return append(b, 'z', byte(n))
	}
	return binary.LittleEndian.AppendUint32(append(b, 'a'), uint32(n))
}

// appendText appends s as Python decodes what the system gives it (PEP 383):
// UTF-8, and a byte that is none as a lone surrogate.
func appendText(b []byte, s string) []byte {
	b = append(b, 'u', 0, 0, 0, 0)
	start := len(b)
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			c := s[0]
			b = append(b, 0xed, 0xb0|c>>6&3, 0x80|c&0x3f) // U+DC00+c
		} else {
			b = append(b, s[:n]...)
		}
		s = s[n:]
	}
	binary.LittleEndian.PutUint32(b[start-4:], uint32(len(b)-start))
	return b
}

func appendList(b []byte, n int) []byte {
	return binary.LittleEndian.AppendUint32(append(b, '['), uint32(n))
}

func appendTexts(b []byte, list []string) []byte {
	b = appendList(b, len(list))
	for _, s := range list {
		b = appendText(b, s)
	}
	return b
}
