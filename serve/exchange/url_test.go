package exchange

import (
	"net/url"
	"strings"
	"testing"
)

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

func TestUndotted(t *testing.T) {
	for _, c := range []struct{ uri, want string }{
		{"/a", "/a"}, {"*", "*"}, {"/a.b/..c/%2e%2ed?x=/../y", "/a.b/..c/%2e%2ed?x=/../y"}, {"/a%2fb%2F", "/a%2fb%2F"},
		{"/admin/../x", "/x"}, {"/admin/%2E%2e/x?a", "/x?a"}, {"/admin%2f../x", "/x"}, {"/a/b/.%2e", "/a/"}, {"/a/./b//c", "/a/b//c"},
		{"/a/.", "/a/"}, {"/a//../b", "/b"}, {"/a/%2f/../b", "/b"}, {"/../x", "/x"}, {"/..", "/"}, {"/a%20b/../c%20d", "/c%20d"}, {"/a/..%2Fb", "/b"},
	} {
		if got := Undotted(c.uri); got != c.want {
			t.Errorf("Undotted(%q) = %q, want %q", c.uri, got, c.want)
		}
	}
}

// FuzzUndotted: it means the same, and says it without dot segments.
func FuzzUndotted(f *testing.F) {
	for _, s := range []string{"/a/../b", "/%2e/%2f..", "/a%2F/.", "//..//x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, p string) {
		was, err := url.PathUnescape(p)
		if err != nil || !strings.HasPrefix(p, "/") || strings.Contains(p, "?") {
			return
		}
		got := Undotted(p)
		is, err := url.PathUnescape(got)
		if err != nil || Collapse(is) != Collapse(was) {
			t.Errorf("%q is %q", p, got)
		}
		for seg := range strings.SplitSeq(is, "/") {
			if seg == "." || seg == ".." {
				t.Errorf("%q is %q", p, got)
			}
		}
	})
}
