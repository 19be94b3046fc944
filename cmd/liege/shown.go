package main

import (
	"io"
	"unicode/utf8"
)

// shown is a writer for people: what a terminal might act on becomes "?". A
// vassal's file, and what a vassal prints, is somebody else's text; it must
// not clear, retitle or answer for the terminal of the operator who looks.
type shown struct {
	w    io.Writer
	part []byte // the beginning of a character
}

// Write implements io.Writer.
func (s *shown) Write(b []byte) (int, error) {
	in := append(s.part, b...)
	s.part = nil
	out := make([]byte, 0, len(in))
	for len(in) > 0 {
		if !utf8.FullRune(in) {
			s.part = append(s.part, in...)
			break
		}
		r, n := utf8.DecodeRune(in)
		switch {
		case r == utf8.RuneError && n == 1, r < ' ' && r != '\n' && r != '\t', r >= 0x7f && r < 0xa0:
			out = append(out, '?')
		default:
			out = append(out, in[:n]...)
		}
		in = in[n:]
	}
	if _, err := s.w.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}
