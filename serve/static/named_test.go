package static

import (
	"errors"
	"io"
	"io/fs"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/serve/beneath"
	"liege/serve/exchange"
	"liege/vassal"
)

// TestFile: a name that an application gives is served from beneath the
// directories that may be served, and from nowhere else.
func TestFile(t *testing.T) {
	testenv.Leaks(t)
	dir := tree(t, map[string]string{
		"secret": "secret", "www/a.html": "a", "safe/report.pdf": "pdf", "safe/sub/x": "x", "safely/x": "no", "safe/out@": "DIR/secret",
		"safe/in@": "sub/x", "safe/www@": "DIR/www/a.html", "safe/.git/config": "git", "real/y.txt": "y", "link@": "real", "rule/z.css": "z",
		"one.txt": "one",
	})
	h := newHandler(vassal.Static{Check: []string{dir + "/www"}, Safe: []string{dir + "/safe/", dir + "/link", dir + "/one.txt"}})
	rule := beneath.New(dir + "/rule")
	for _, c := range []struct {
		name, want string
		err        error
	}{
		{"/www/a.html", "a", nil}, {"/safe/report.pdf", "pdf", nil}, {"//safe//sub/x", "", fs.ErrPermission}, {"/safe//sub/x", "x", nil},
		{"/safe/in", "x", nil}, {"/safe/www", "a", nil}, {"/link/y.txt", "y", nil}, {"/real/y.txt", "y", nil}, {"/rule/z.css", "z", nil},
		{"/one.txt", "one", nil}, {"/one.txt/x", "", fs.ErrNotExist},
		{"/secret", "", fs.ErrPermission}, {"/safely/x", "", fs.ErrPermission}, {"/safe/out", "", fs.ErrNotExist}, {"/safe/nope", "", fs.ErrNotExist},
		{"/safe/../secret", "", fs.ErrPermission}, {"/safe/.git/config", "", fs.ErrPermission}, {"/safe", "", fs.ErrNotExist},
		{"/safe/sub", "", fs.ErrNotExist}, {"/safe/report.pdf\x00", "", fs.ErrPermission},
	} {
		r := &exchange.Request{Vars: []exchange.Var{{Name: "REQUEST_METHOD", Value: "GET"}}}
		a := &answer{}
		err := h.File(r, a, dir+c.name, rule)
		if a.body.String() != c.want || !errors.Is(err, c.err) || err != nil && a.Started() {
			t.Errorf("%s: got %q, %v; want %q, %v", c.name, a.body.String(), err, c.want, c.err)
		}
	}
	if err := h.File(&exchange.Request{}, &answer{}, "safe/report.pdf"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a relative name: got %v", err)
	}
	f, size, err := h.Open(dir + "/safe/report.pdf")
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(io.NewSectionReader(f, 0, size))
	f.Close()
	if string(b) != "pdf" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
}

// TestNoDescriptors: where nobody can tell whether there is a file the request
// is 503, and does not go on to the application.
func TestNoDescriptors(t *testing.T) {
	dir := tree(t, map[string]string{"www/f": "f", "www/d/index.html": "i", "map/x": "x", "root/y": "y"})
	h := newHandler(vassal.Static{Check: []string{dir + "/www"}, Map: []vassal.StaticMap{{Mount: "/m", Dir: dir + "/map"}}, Docroot: true, Index: []string{"index.html"}})
	ask := func(p string) error {
		r := &exchange.Request{Vars: []exchange.Var{{Name: "REQUEST_METHOD", Value: "GET"}, {Name: "PATH_INFO", Value: p}, {Name: "DOCUMENT_ROOT", Value: dir + "/root"}}}
		return h.Serve(t.Context(), r, &answer{})
	}
	for _, p := range []string{"/f", "/d/", "/m/x", "/y"} {
		if err := ask(p); err != nil {
			t.Errorf("%s: %v", p, err)
		}
		testenv.WithoutDescriptors(t, func() {
			if err := ask(p); exchange.StatusOf(err) != 503 || errors.Is(err, errNext) {
				t.Errorf("%s without descriptors: %v", p, err)
			}
			if _, _, err := h.Open(dir + "/www/f"); exchange.StatusOf(err) != 503 {
				t.Errorf("by name: %v", err)
			}
		})
	}
	time.Sleep(beneath.Recheck) // the directories are opened anew
	testenv.WithoutDescriptors(t, func() {
		if err := ask("/f"); exchange.StatusOf(err) != 503 || errors.Is(err, errNext) {
			t.Errorf("without descriptors for the directory: %v", err)
		}
	})
}
