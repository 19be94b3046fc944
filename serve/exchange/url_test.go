package exchange

import "testing"

func TestURL(t *testing.T) {
	for s, want := range map[string]string{
		"":                    "",
		"/a%20b?c=d#e":        "/a%20b?c=d#e",
		"/caf\xc3\xa9?q=\xff": "/caf%C3%A9?q=%FF",
		"/a b\r\nX: y\x7f":    "/a%20b%0D%0AX:%20y%7F",
		"\x85\xa0":            "%85%A0", // white space to who takes it for Latin-1
	} {
		if got := URL(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}
