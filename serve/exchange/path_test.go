package exchange

import "testing"

func TestCollapse(t *testing.T) {
	for _, c := range []struct{ p, want string }{
		{"", ""}, {"*", "*"}, {"/", "/"}, {"//", "/"}, {"/a", "/a"}, {"/a/", "/a/"}, {"/a//", "/a/"}, {"//a///b", "/a/b"}, {"a", "/a"}, {"a//b", "/a/b"},
		{"/./a", "/a"}, {"/a/.", "/a/"}, {"/a/..", "/"}, {"/a/../b", "/b"}, {"/../../b", "/b"}, {"..", "/"}, {".", "/"}, {"/a/b/../c", "/a/c"},
		{"/a//../b", "/b"}, {"/.a", "/.a"}, {"/a/...", "/a/..."}, {"/a./b", "/a./b"}, {"/..a//b", "/..a/b"}, {"/proxy/http://host", "/proxy/http:/host"},
	} {
		got := Collapse(c.p)
		if got != c.want || Collapse(got) != got {
			t.Errorf("Collapse(%q) = %q, want %q", c.p, got, c.want)
		}
	}
}

func TestBehind(t *testing.T) {
	for _, c := range []struct{ p, point, want string }{
		{"/app/x", "/app", "/x"}, {"/app", "/app", ""}, {"/app/", "/app", "/"}, {"//app//x", "/app", "//x"}, {"/app/http://x", "/app", "/http://x"},
		{"/a//b/c", "/a/b", "/c"}, {"/x//y", "", "/x//y"}, {"/./app/x", "/app", "/x"}, {"/app/../app//x", "/app", "/x"}, {"app/x", "/app", "/x"}, {"/app//", "/app", "//"},
		{"/b/../app/x//y", "/app", "/x/y"},
	} {
		r := Request{Vars: []Var{{"PATH_INFO", c.p}}}
		if got := r.Behind(c.point); got != c.want {
			t.Errorf("%q behind %q: got %q, want %q", c.p, c.point, got, c.want)
		}
	}
}

func TestUnprefix(t *testing.T) {
	for _, c := range []struct{ script, p, want string }{
		{"/app", "/app/x", "/x"}, {"/app", "/app", ""}, {"/app", "/appadmin.php", "/appadmin.php"}, {"", "/x", "/x"}, {"/app/", "/app/x", "/x"},
		{"/app", "//app//x", "//x"}, {"/app", "/other", "/other"},
	} {
		r := Request{Vars: []Var{{"SCRIPT_NAME", c.script}, {"PATH_INFO", c.p}}}
		if r.Unprefix(); r.Get("PATH_INFO") != c.want {
			t.Errorf("%q without %q: got %q, want %q", c.p, c.script, r.Get("PATH_INFO"), c.want)
		}
	}
}

// FuzzCollapse: what a file system understands stays, and nothing else in the
// core sees another path.
func FuzzCollapse(f *testing.F) {
	for _, s := range []string{"/a//b/../c", "//", "/.", "a/..", "/a/./", "..//a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, p string) {
		c := Collapse(p)
		if Collapse(c) != c {
			t.Errorf("Collapse(%q) = %q is not collapsed", p, c)
		}
		r := Request{Vars: []Var{{"PATH_INFO", p}}}
		if p != "*" && Collapse(r.Behind("")) != c {
			t.Errorf("%q behind nothing is %q", p, r.Behind(""))
		}
	})
}
