package static

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/vassal"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// answer records what a handler answers.
type answer struct {
	status int
	fields map[string]string
	body   bytes.Buffer
}

func (a *answer) Head(status int, _ string, fields []exchange.Field) error {
	a.status, a.fields = status, map[string]string{}
	for _, f := range fields {
		a.fields[f.Name] = f.Value
	}
	return nil
}
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }
func (a *answer) Flush() error                { return nil }
func (a *answer) Started() bool               { return a.status != 0 }
func (a *answer) File(f exchange.File, off, n int64) error {
	_, err := io.Copy(&a.body, io.NewSectionReader(f, off, n))
	return err
}

var errNext = errors.New("next")

func next(context.Context, *exchange.Request, exchange.Response) error { return errNext }

// get asks h for path; status 0 is what went on to the next handler.
func get(t testing.TB, h *Handler, path string, vars ...string) *answer {
	t.Helper()
	r := &exchange.Request{Vars: []exchange.Var{{Name: "REQUEST_METHOD", Value: "GET"}, {Name: "PATH_INFO", Value: path}}, Start: time.Now()}
	for i := 0; i < len(vars); i += 2 {
		r.Set(vars[i], vars[i+1])
	}
	a := &answer{}
	if err := h.Serve(t.Context(), r, a); err != nil && !errors.Is(err, errNext) {
		t.Errorf("%s: %v", path, err)
	}
	return a
}

func newHandler(s vassal.Static) *Handler {
	return New(s, exchange.HandlerFunc(next), slog.New(slog.DiscardHandler))
}

// tree makes files below a new directory: "name" → text, "name@" → the target
// of a link, "name/" a directory.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, strings.TrimSuffix(name, "@"))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(p, 0o755)
		case strings.HasSuffix(name, "@"):
			err = os.Symlink(strings.ReplaceAll(text, "DIR", dir), p)
		default:
			err = os.WriteFile(p, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLookup(t *testing.T) {
	dir := tree(t, map[string]string{
		"a/x.html": "ax", "a/index.html": "ai", "a/sub/home.htm": "ash", "a/empty/": "", "a/x.php": "php", "a/phpdir/index.php": "p",
		"b/x.html": "bx", "b/y.css": "by", "m/img/z.png": "mz", "m/rest.txt": "mr", "m2/pics/q.gif": "q", "one.txt": "one",
		"a/index2/index.html/": "", "a/UP.TXT": "up", "a/none": "none", "a/.well-known/acme": "wk",
	})
	h := newHandler(vassal.Static{Check: []string{dir + "/a", dir + "/b"}, Index: []string{"index.php", "index.html", "home.htm"}, SkipExt: []string{".php"},
		Map: []vassal.StaticMap{{Mount: "/m", Dir: dir + "/m"}, {Mount: "/pics", Dir: dir + "/m2", Append: true}, {Mount: "/one", Dir: dir + "/one.txt"},
			{Mount: "/slash/", Dir: dir + "/m"}}})
	for _, c := range []struct{ path, want, typ string }{
		{"/x.html", "ax", "text/html"}, {"/y.css", "by", "text/css"}, {"/", "ai", "text/html"}, {"//x.html", "ax", "text/html"},
		{"/sub", "ash", "text/html"}, {"/sub/", "ash", "text/html"}, {"/empty", "", ""}, {"/nope", "", ""}, {"", "", ""}, {"x.html", "ax", "text/html"}, {"/sub//", "ash", "text/html"}, {"/sub/./../x.html", "ax", "text/html"}, {"/../x.html", "ax", "text/html"},
		{"/x.php", "", ""}, {"/phpdir", "", ""}, {"/index2", "", ""}, {"/x.html/", "", ""}, {"/x.html/y", "", ""},
		{"/m/img/z.png", "mz", "image/png"}, {"/mrest.txt", "", ""}, {"/m//rest.txt", "mr", "text/plain"}, {"//m/rest.txt", "mr", "text/plain"},
		{"/slash/rest.txt", "mr", "text/plain"}, {"/slash", "", ""}, {"/slashrest.txt", "", ""}, {"/oneself", "", ""},
		{"/pics/q.gif", "q", "image/gif"}, {"/q.gif", "", ""}, {"/one", "one", "text/plain"}, {"/one/any/thing", "one", "text/plain"},
		{"/UP.TXT", "up", "text/plain"}, {"/none", "none", ""}, {"/.well-known/acme", "wk", ""}, {"*", "", ""},
	} {
		a := get(t, h, c.path)
		if a.body.String() != c.want || a.fields["Content-Type"] != c.typ || (a.status == 200) != (c.want != "") {
			t.Errorf("%q: got %d %q %q, want %q %q", c.path, a.status, a.body.String(), a.fields["Content-Type"], c.want, c.typ)
		}
	}
	for _, m := range []string{"POST", "PUT", "OPTIONS", "get"} {
		if a := get(t, h, "/x.html", "REQUEST_METHOD", m); a.status != 0 {
			t.Errorf("%s: got %d, want the next handler", m, a.status)
		}
	}
}

// TestTraversal: nothing outside the directory is served (threats B01, B02,
// B04). The control: the same canary inside the directory is.
func TestTraversal(t *testing.T) {
	dir := tree(t, map[string]string{
		"canary": "secret", "www/canary": "public", "www/d/x": "x", "other/canary": "other", "safe/ok.txt": "safe",
		"safe/.git/config": "git", "other/.env": "e",
		"www/up@": "../canary", "www/abs@": "DIR/canary", "www/dirup@": "..", "www/etc@": "/etc", "www/env@": "/proc/self/environ",
		"www/self@": "/proc/self/root", "www/null@": "/dev/zero", "www/loop@": "loop", "www/gone@": "nowhere",
		"www/in@": "d/x", "www/absin@": "DIR/www/d/x", "www/dirin@": "d", "www/map@": "DIR/other", "www/safelink@": "DIR/safe/ok.txt",
		"www/safegit@": "DIR/safe/.git", "www/chain@": "abs", "www/inchain@": "absin",
		"www/.git/config": "g", "www/.env": "e", "www/.env.local": "e", "www/.htaccess": "h", "www/sub/.svn/entries": "s", "www/.a": "dot", "www/vcs@": ".git",
	})
	if err := syscall.Mkfifo(dir+"/www/fifo", 0o644); err != nil {
		t.Fatal(err)
	}
	h := newHandler(vassal.Static{Check: []string{dir + "/www"}, Map: []vassal.StaticMap{{Mount: "/o", Dir: dir + "/other"}}, Safe: []string{dir + "/safe"}})
	served := map[string]string{"/canary": "public", "/d/x": "x", "/in": "x", "/absin": "x", "/dirin/x": "x", "/map/canary": "other",
		"/safelink": "safe", "/inchain": "x", "/o/canary": "other",
		"/../canary": "public", "/d/../../canary": "public", "/o/../canary": "public", "/o//../canary": "public"} // never above the root
	refused := []string{"/up", "/abs", "/dirup/canary", "/etc/passwd", "/env", "/self/etc/passwd", "/null", "/loop",
		"/gone", "/fifo", "/chain", "/o../canary", "/..", "/canary\x00.html", "/\x00", "/safegit/config", "/map/.env",
		"/.git/config", "/.env", "/.env.local", "/.htaccess", "/sub/.svn/entries", "/.git", "/d", "/.a", "/vcs/config", "/dot", "/" + strings.Repeat("a/", 2000) + "x",
		"/" + strings.Repeat("a", 300), "/..\\canary", "/..;/canary", "/%2e%2e/canary", "/\xc0\xae\xc0\xae/canary", "http://x/canary"}
	for p, want := range served {
		if a := get(t, h, p); a.body.String() != want {
			t.Errorf("%q: got %d %q, want %q", p, a.status, a.body.String(), want)
		}
	}
	for _, p := range refused {
		if a := get(t, h, p); a.status != 0 {
			t.Errorf("%q: got %d %q, want the next handler", p, a.status, a.body.String())
		}
	}
}

// TestLinkRace exchanges a file with links out of the directory while it is
// asked for (threat B03). The control counts that both sides were seen.
func TestLinkRace(t *testing.T) {
	dir := tree(t, map[string]string{"secret": "secret", "www/f": "public", "www/l@": "DIR/secret", "www/d/f": "public", "out/f": "secret", "www/ld@": "DIR/out"})
	h := newHandler(vassal.Static{Check: []string{dir + "/www"}})
	stop := make(chan struct{})
	var swap sync.WaitGroup
	swap.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			exchangeNames(t, dir+"/www/f", dir+"/www/l")
			exchangeNames(t, dir+"/www/d", dir+"/www/ld")
		}
	})
	seen, refused := 0, 0
	for range 20_000 {
		for _, p := range []string{"/f", "/d/f"} {
			switch a := get(t, h, p); {
			case a.status == 0:
				refused++
			case a.body.String() == "public":
				seen++
			default:
				t.Fatalf("%s: got %q", p, a.body.String())
			}
		}
	}
	close(stop)
	swap.Wait()
	if seen == 0 || refused == 0 {
		t.Errorf("served %d, refused %d: the race was not run", seen, refused)
	}
}

func TestConditions(t *testing.T) {
	dir := tree(t, map[string]string{"f.txt": "0123456789"})
	mtime := time.Date(2026, 1, 2, 3, 4, 5, 999, time.UTC)
	if err := os.Chtimes(dir+"/f.txt", mtime, mtime); err != nil {
		t.Fatal(err)
	}
	const date, before, after = "Fri, 02 Jan 2026 03:04:05 GMT", "Fri, 02 Jan 2026 03:04:04 GMT", "Fri, 02 Jan 2026 03:04:06 GMT"
	h := newHandler(vassal.Static{Check: []string{dir}})
	for _, c := range []struct {
		vars   []string
		status int
		body   string
		rng    string
	}{
		{nil, 200, "0123456789", ""},
		{[]string{"HTTP_IF_MODIFIED_SINCE", date}, 304, "", ""},
		{[]string{"HTTP_IF_MODIFIED_SINCE", after}, 304, "", ""},
		{[]string{"HTTP_IF_MODIFIED_SINCE", before}, 200, "0123456789", ""},
		{[]string{"HTTP_IF_MODIFIED_SINCE", "yesterday"}, 200, "0123456789", ""},
		{[]string{"HTTP_IF_MODIFIED_SINCE", date, "HTTP_IF_NONE_MATCH", `"x"`}, 200, "0123456789", ""},
		{[]string{"HTTP_IF_NONE_MATCH", "*"}, 304, "", ""},
		{[]string{"HTTP_IF_UNMODIFIED_SINCE", before}, 412, "", ""},
		{[]string{"HTTP_IF_UNMODIFIED_SINCE", date}, 200, "0123456789", ""},
		{[]string{"HTTP_RANGE", "bytes=2-4"}, 206, "234", "bytes 2-4/10"},
		{[]string{"HTTP_RANGE", "bytes=7-"}, 206, "789", "bytes 7-9/10"},
		{[]string{"HTTP_RANGE", "bytes=-3"}, 206, "789", "bytes 7-9/10"},
		{[]string{"HTTP_RANGE", "bytes=-30"}, 206, "0123456789", "bytes 0-9/10"},
		{[]string{"HTTP_RANGE", "bytes=7-99999999999999999999999"}, 206, "789", "bytes 7-9/10"},
		{[]string{"HTTP_RANGE", "bytes=10-"}, 416, "", "bytes */10"},
		{[]string{"HTTP_RANGE", "bytes=-0"}, 416, "", "bytes */10"},
		{[]string{"HTTP_RANGE", "bytes=99999999999999999999999-"}, 416, "", "bytes */10"},
		{[]string{"HTTP_RANGE", "bytes=4-2"}, 200, "0123456789", ""},
		{[]string{"HTTP_RANGE", "bytes=abc"}, 200, "0123456789", ""},
		{[]string{"HTTP_RANGE", "bytes=-"}, 200, "0123456789", ""},
		{[]string{"HTTP_RANGE", "lines=1-2"}, 200, "0123456789", ""},
		{[]string{"HTTP_RANGE", "bytes=0-1,3-4"}, 200, "0123456789", ""},
		{[]string{"HTTP_RANGE", "bytes=" + strings.Repeat("0-,", 10000) + "0-"}, 200, "0123456789", ""},
		{[]string{"HTTP_RANGE", "bytes=2-4", "HTTP_IF_RANGE", date}, 206, "234", "bytes 2-4/10"},
		{[]string{"HTTP_RANGE", "bytes=2-4", "HTTP_IF_RANGE", before}, 200, "0123456789", ""},
		{[]string{"HTTP_RANGE", "bytes=2-4", "HTTP_IF_RANGE", `"tag"`}, 200, "0123456789", ""},
	} {
		a := get(t, h, "/f.txt", c.vars...)
		if a.status != c.status || a.body.String() != c.body || a.fields["Content-Range"] != c.rng {
			t.Errorf("%q: got %d %q %q, want %d %q %q", c.vars, a.status, a.body.String(), a.fields["Content-Range"], c.status, c.body, c.rng)
		}
		if n, ok := a.fields["Content-Length"]; ok && n != strconv.Itoa(len(c.body)) {
			t.Errorf("%q: Content-Length %s, want %d", c.vars, n, len(c.body))
		}
		if a.status == 200 && a.fields["Last-Modified"] != date {
			t.Errorf("Last-Modified %q, want %q", a.fields["Last-Modified"], date)
		}
	}
}

// TestReplacedRoot: a deployment that puts another directory, or a link to
// one, under the same path is seen within a second or so.
func TestReplacedRoot(t *testing.T) {
	testenv.Leaks(t)
	dir := tree(t, map[string]string{"r1/f": "one", "r2/f": "two", "current@": "r1"})
	h := newHandler(vassal.Static{Check: []string{dir + "/current", dir + "/later"}})
	if got := get(t, h, "/f").body.String(); got != "one" {
		t.Fatalf("got %q", got)
	}
	if err := errors.Join(os.Symlink("r2", dir+"/new"), os.Rename(dir+"/new", dir+"/current"),
		os.Mkdir(dir+"/later", 0o755), os.WriteFile(dir+"/later/g", []byte("later"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, r := range h.safe {
		r.Forget()
	}
	if got := get(t, h, "/f").body.String(); got != "two" {
		t.Errorf("got %q, want the new directory's", got)
	}
	if got := get(t, h, "/g").body.String(); got != "later" {
		t.Errorf("got %q from a directory that was made later", got)
	}
}

func TestMime(t *testing.T) {
	dir := tree(t, map[string]string{"mime.types": "# types\ntext/x-own\tfoo .bar # more\nimage/x-other png\nnotype\n\napplication/empty\n"})
	types := loadTypes([]string{dir + "/mime.types", dir + "/missing"}, slog.New(slog.DiscardHandler))
	got := map[string]string{}
	for _, n := range []string{"a.foo", "a.bar", "a.png", "a.css", "a.css/b", "a", "a.unknown", ".css", "a.tar.gz"} {
		got[n] = types.of(n)
	}
	want := map[string]string{"a.foo": "text/x-own", "a.bar": "text/x-own", "a.png": "image/x-other", "a.css": "text/css", "a.css/b": "",
		"a": "", "a.unknown": "", ".css": "text/css", "a.tar.gz": "application/gzip"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if common["png"] != "image/png" {
		t.Error("a mimefile changed the common table")
	}
}

func FuzzRange(f *testing.F) {
	f.Add("bytes=1-2", int64(10))
	f.Add("bytes=-5", int64(0))
	f.Fuzz(func(t *testing.T, s string, size int64) {
		if size < 0 {
			return
		}
		status, off, n := byteRange(s, size)
		if status != 416 && (off < 0 || n < 0 || off+n > size || status == 206 && n == 0) {
			t.Errorf("byteRange(%q, %d) = %d, %d, %d", s, size, status, off, n)
		}
	})
}

func BenchmarkServe(b *testing.B) {
	dir := tree(b, map[string]string{"f.html": strings.Repeat("x", 4096)})
	h := newHandler(vassal.Static{Check: []string{dir}})
	r := &exchange.Request{Start: time.Now(), Vars: []exchange.Var{{Name: "REQUEST_METHOD", Value: "HEAD"}, {Name: "PATH_INFO", Value: "/f.html"}}}
	w := discard{}
	b.ReportAllocs()
	for b.Loop() {
		if err := h.Serve(b.Context(), r, w); err != nil {
			b.Fatal(err)
		}
	}
}

type discard struct{}

func (discard) Head(int, string, []exchange.Field) error { return nil }
func (discard) Write(p []byte) (int, error)              { return len(p), nil }
func (discard) Flush() error                             { return nil }
func (discard) Started() bool                            { return false }
func (discard) File(exchange.File, int64, int64) error   { return nil }

// TestSkippedIndex: the index that a directory has but must not be sent is what
// the next handler is asked for, so that its program runs.
func TestSkippedIndex(t *testing.T) {
	dir := tree(t, map[string]string{"index.cgi": "c", "index.html": "h", "sub/index.cgi": "c", "html/index.html": "h", "none/": "", "dir/index.cgi/x": "", "dir/index.html": "h"})
	var asked string
	next := exchange.HandlerFunc(func(_ context.Context, r *exchange.Request, _ exchange.Response) error {
		asked = r.Get("PATH_INFO")
		return nil
	})
	log := slog.New(slog.DiscardHandler)
	s := vassal.Static{Check: []string{dir}, Index: []string{"index.cgi", "index.html"}, SkipExt: []string{".cgi"}, Map: []vassal.StaticMap{{Mount: "/m", Dir: dir}}}
	h := New(s, next, log)
	s.SkipExt = nil
	plain := New(s, next, log)
	for _, c := range []struct {
		h                  *Handler
		method, path, want string // what the next handler is asked for; empty: nothing
	}{
		{h, "GET", "/", "/index.cgi"}, {h, "HEAD", "/sub", "/sub/index.cgi"}, {h, "POST", "/sub/", "/sub/index.cgi"}, {h, "GET", "/m/sub", "/m/sub/index.cgi"},
		{h, "GET", "/html", ""}, {h, "POST", "/html", "/html"}, {h, "GET", "/none", "/none"}, {h, "GET", "/index.cgi", "/index.cgi"}, {h, "GET", "/dir", ""},
		{plain, "GET", "/sub", ""}, {plain, "POST", "/sub", "/sub"},
	} {
		asked = ""
		if get(t, c.h, c.path, "REQUEST_METHOD", c.method); asked != c.want {
			t.Errorf("%s %s: the next handler is asked for %q, want %q", c.method, c.path, asked, c.want)
		}
	}
}
