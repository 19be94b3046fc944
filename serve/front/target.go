package front

import (
	"bytes"
	"strings"
)

// splitURI splits a request target in origin form into its raw path and
// query.
func splitURI(uri string) (path, query string) {
	if i := strings.IndexByte(uri, '?'); i >= 0 {
		return uri[:i], uri[i+1:]
	}
	return uri, ""
}

// cleanPath decodes a raw path and takes its dot segments out, as uWSGI and
// nginx do: PATH_INFO. Decoding comes first, so that %2e%2e is "..", whatever
// decodes again later. A "%" without two hexadecimal digits, a NUL, and a path
// that climbs above "/" are errors. Empty segments ("//") are kept, but ".." is
// never the way out of one: a web server in front, which merges slashes first,
// has decided about /b when /a//../b comes. It allocates only if there is
// anything to change.
func cleanPath(raw string) (string, error) {
	if raw == "*" {
		return raw, nil
	}
	if strings.IndexByte(raw, '%') < 0 && !strings.Contains(raw, "/.") {
		return raw, nil
	}
	p, err := unescape(raw)
	if err != nil {
		return "", err
	}
	if !strings.Contains(p, "/.") {
		return p, nil
	}
	out := make([]byte, 0, len(p))
	for p != "" { // p begins with "/"
		end := strings.IndexByte(p[1:], '/') + 1
		seg, last := p, end == 0
		if !last {
			seg = p[:end]
		}
		p = p[len(seg):]
		switch seg {
		case "/.":
		case "/..":
			if out = bytes.TrimRight(out, "/"); len(out) == 0 {
				return "", errPath
			}
			for out[len(out)-1] != '/' {
				out = out[:len(out)-1]
			}
			out = out[:len(out)-1]
		default:
			out = append(out, seg...)
			continue
		}
		if last {
			out = append(out, '/')
		}
	}
	return string(out), nil
}

// unescape decodes %XX.
func unescape(s string) (string, error) {
	if strings.IndexByte(s, '%') < 0 {
		return s, nil
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if i+2 >= len(s) {
				return "", errPath
			}
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if hi < 0 || lo < 0 || hi|lo == 0 {
				return "", errPath
			}
			c = byte(hi<<4 | lo)
			i += 2
		}
		b = append(b, c)
	}
	return string(b), nil
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}
