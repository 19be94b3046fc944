package exchange

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
