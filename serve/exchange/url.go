package exchange

import "strings"

// URL is s as it may stand in a field value or a request line: bytes that no
// URL may have (RFC 3986) are encoded, so that a path with a line break in it is
// not the end of the field. Clients send such bytes raw, as UTF-8, and a server
// that is handed them would take them for another charset, or refuse them.
func URL(s string) string {
	const hex = "0123456789ABCDEF"
	var b []byte
	for i := range len(s) {
		c := s[i]
		if c > ' ' && c < 0x7f {
			if b != nil {
				b = append(b, c)
			}
			continue
		}
		if b == nil {
			b = append(make([]byte, 0, len(s)+8), s[:i]...)
		}
		b = append(b, '%', hex[c>>4], hex[c&15])
	}
	if b == nil {
		return s
	}
	return string(b)
}

// Undotted is the request target uri without the dot segments of its path,
// encoded or not: for who finds by it what rules have decided about by Path. A
// rule for ^/admin does not hold for /admin/../x, and a program that is asked
// for that may take it for a page of /admin. No browser sends such a target
// (RFC 3986 5.2.4). The rest stays as it is written.
func Undotted(uri string) string {
	p, query, asks := strings.Cut(uri, "?")
	if !strings.HasPrefix(p, "/") || !strings.Contains(p, "/.") && !strings.Contains(p, "%2") {
		return uri
	}
	out := make([]byte, 0, len(p)+1)
	var begins []int // of the segments in out
	dropped := false
	for p != "" {
		n := slash(p)
		end := n
		for end < len(p) && slash(p[end:]) == 0 {
			end++
		}
		up, dots := dotSegment(p[n:end])
		if !dots {
			begins, out = append(begins, len(out)), append(out, p[:end]...)
		}
		for up && len(begins) > 0 { // as cleaning does it: an empty segment is no level
			last := begins[len(begins)-1]
			up = slash(string(out[last:])) == len(out)-last
			begins, out = begins[:len(begins)-1], out[:last]
		}
		if p = p[end:]; p == "" && dots {
			out = append(out, '/')
		}
		dropped = dropped || dots
	}
	if !dropped {
		return uri
	}
	to := "/" + string(out[slash(string(out)):])
	if asks {
		to += "?" + query
	}
	return to
}

// slash is the length of the slash that s begins with, encoded or not; 0: none.
func slash(s string) int {
	switch {
	case strings.HasPrefix(s, "/"):
		return len("/")
	case len(s) >= 3 && strings.EqualFold(s[:3], "%2f"):
		return len("%2f")
	}
	return 0
}

// dotSegment reports whether s is "." or "..", which leads up.
func dotSegment(s string) (up, dots bool) {
	n := 0
	for ; s != ""; n++ {
		switch {
		case s[0] == '.':
			s = s[1:]
		case len(s) >= 3 && strings.EqualFold(s[:3], "%2e"):
			s = s[3:]
		default:
			return false, false
		}
	}
	return n == 2, n == 1 || n == 2
}
