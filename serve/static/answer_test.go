package static

import (
	"os"
	"strings"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/vassal"
)

// dated makes files below a new directory that were changed at the time when.
func dated(t testing.TB, when time.Time, files map[string]string) string {
	t.Helper()
	dir := tree(t, files)
	for name := range files {
		if err := os.Chtimes(dir+"/"+strings.TrimSuffix(name, "@"), when, when); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestTags(t *testing.T) {
	testenv.Leaks(t)
	when := time.Now().Add(-time.Hour)
	dir := dated(t, when, map[string]string{"f": "0123456789", "g": "0123456789"})
	h := newHandler(vassal.Static{Check: []string{dir}})
	tag := get(t, h, "/f").fields["ETag"]
	if len(tag) < 5 || tag[0] != '"' || get(t, h, "/f").fields["ETag"] != tag {
		t.Fatalf("got %q, which is no strong and steady tag", tag)
	}
	date := get(t, h, "/f").fields["Last-Modified"]
	for _, c := range []struct {
		vars   []string
		status int
	}{
		{[]string{"HTTP_IF_NONE_MATCH", tag}, 304}, {[]string{"HTTP_IF_NONE_MATCH", "W/" + tag}, 304},
		{[]string{"HTTP_IF_NONE_MATCH", `"a", W/"b,c",` + tag}, 304}, {[]string{"HTTP_IF_NONE_MATCH", `"a"`}, 200},
		{[]string{"HTTP_IF_NONE_MATCH", strings.Trim(tag, `"`)}, 200}, {[]string{"HTTP_IF_NONE_MATCH", `"` + tag}, 200},
		{[]string{"HTTP_IF_NONE_MATCH", `"a"`, "HTTP_IF_MODIFIED_SINCE", date}, 200},
		{[]string{"HTTP_IF_NONE_MATCH", tag, "HTTP_RANGE", "bytes=0-1"}, 304},
		{[]string{"HTTP_IF_MATCH", tag}, 200}, {[]string{"HTTP_IF_MATCH", "W/" + tag}, 412}, {[]string{"HTTP_IF_MATCH", "*"}, 200},
		{[]string{"HTTP_IF_MATCH", `"a"`}, 412}, {[]string{"HTTP_IF_MATCH", tag, "HTTP_IF_UNMODIFIED_SINCE", "Thu, 01 Jan 1970 00:00:00 GMT"}, 200},
		{[]string{"HTTP_RANGE", "bytes=0-1", "HTTP_IF_RANGE", tag}, 206}, {[]string{"HTTP_RANGE", "bytes=0-1", "HTTP_IF_RANGE", "W/" + tag}, 200},
		{[]string{"HTTP_RANGE", "bytes=0-1", "HTTP_IF_RANGE", date}, 206}, {[]string{"HTTP_RANGE", "bytes=90-", "HTTP_IF_RANGE", `"x"`}, 200},
		{[]string{"HTTP_RANGE", "bytes=90-"}, 416}, {[]string{"HTTP_RANGE", "bytes=0-1", "REQUEST_METHOD", "HEAD"}, 200},
	} {
		a := get(t, h, "/f", c.vars...)
		if a.status != c.status || a.fields["ETag"] != tag {
			t.Errorf("%q: got %d, ETag %q; want %d", c.vars, a.status, a.fields["ETag"], c.status)
		}
	}
	// A file that has only just changed may change again within the clock's tick.
	now := time.Now()
	if err := os.Chtimes(dir+"/g", now, now); err != nil {
		t.Fatal(err)
	}
	a := get(t, h, "/g")
	tag, date = a.fields["ETag"], a.fields["Last-Modified"]
	if !strings.HasPrefix(tag, `W/"`) {
		t.Errorf("a new file has the strong tag %s", tag)
	}
	if a := get(t, h, "/g", "HTTP_IF_NONE_MATCH", tag); a.status != 304 {
		t.Errorf("its weak tag: got %d, want 304", a.status)
	}
	for _, v := range []string{tag, date} {
		if a := get(t, h, "/g", "HTTP_RANGE", "bytes=0-1", "HTTP_IF_RANGE", v); a.status != 200 {
			t.Errorf("a part of a new file for If-Range: %s: got %d, want 200", v, a.status)
		}
	}
}

func TestExpires(t *testing.T) {
	testenv.Leaks(t)
	when := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	dir := dated(t, when, map[string]string{"a.css": "a", "b.png": "b", "c.js": "c", "d.html": "d", "e.txt": "e", "f.gif": "f"})
	h := newHandler(vassal.Static{Check: []string{dir}, Expires: []vassal.StaticExpires{
		{By: vassal.ByFile, Match: dir + `/a\.css$`, Seconds: 10}, {By: vassal.ByFile, Match: `b\.`, Seconds: 20, Mtime: true},
		{By: vassal.ByFile, Match: `b\.png`, Seconds: 21}, // from now goes before from the file's time
		{By: vassal.ByURI, Match: `\?v=\d+$`, Seconds: 30}, {By: vassal.ByPath, Match: `^/c`, Seconds: 40, Mtime: true},
		{By: vassal.ByPath, Match: `^/a`, Seconds: 41}, {By: vassal.ByType, Match: "text/plain", Seconds: 50},
		{By: vassal.ByType, Match: "text/plain", Seconds: 51}, {By: vassal.ByType, Match: "image/gif", Seconds: 60, Mtime: true},
	}})
	start := time.Now()
	for _, c := range []struct {
		path, uri string
		from      time.Time
		after     int
	}{
		{"/a.css", "/a.css", start, 10}, {"/b.png", "/b.png", start, 21}, {"/d.html", "/d.html?v=3", start, 30}, {"/d.html", "/d.html", start, -1},
		{"/c.js", "/c.js", when, 40}, {"/e.txt", "/e.txt", start, 50}, {"/f.gif", "/f.gif", when, 60},
	} {
		for _, cond := range [][]string{nil, {"HTTP_IF_NONE_MATCH", "*"}} {
			got := get(t, h, c.path, append(cond, "REQUEST_URI", c.uri)...).fields["Expires"]
			if c.after < 0 {
				if got != "" {
					t.Errorf("%s expires %s", c.uri, got)
				}
				continue
			}
			at, err := time.Parse(dateFormat, got)
			if d := at.Sub(c.from.Add(time.Duration(c.after) * time.Second)); err != nil || d < -time.Second || d > 5*time.Second {
				t.Errorf("%s expires %q, want %d s after %v", c.uri, got, c.after, c.from)
			}
		}
	}
}

func TestNeighbours(t *testing.T) {
	testenv.Leaks(t)
	dir := dated(t, time.Now().Add(-time.Hour), map[string]string{
		"a.css": "plain", "a.css.br": "brotli", "a.css.zst": "zstd", "a.css.gz": "gzip", "b.js": "plain", "b.js.gz": "gzip",
		"c.txt": "plain", "d.html": "plain", "d.html.gz/x": "", "index.html": "plain", "index.html.gz": "gzip",
	})
	all := vassal.Static{Check: []string{dir}, Index: []string{"index.html"}, Gzip: vassal.StaticGzip{All: true}}
	h := newHandler(all)
	for _, c := range []struct{ path, accept, want, coding string }{
		{"/a.css", "gzip, deflate, br, zstd", "brotli", "br"}, {"/a.css", "gzip, zstd", "zstd", "zstd"}, {"/a.css", "GZIP", "gzip", "gzip"},
		{"/a.css", "br;q=0, gzip;q=0.5", "gzip", "gzip"}, {"/a.css", "*", "gzip", "gzip"}, {"/a.css", "gzip;q=0, *", "plain", ""},
		{"/a.css", "gzip;q=x", "plain", ""}, {"/a.css", "", "plain", ""}, {"/a.css", "identity", "plain", ""}, {"/a.css", "brgzip", "plain", ""},
		{"/b.js", "br, gzip", "gzip", "gzip"}, {"/c.txt", "br, gzip", "plain", ""}, {"/d.html", "gzip", "plain", ""}, {"/", "gzip", "gzip", "gzip"},
	} {
		a := get(t, h, c.path, "HTTP_ACCEPT_ENCODING", c.accept)
		if a.body.String() != c.want || a.fields["Content-Encoding"] != c.coding || a.fields["Vary"] != "Accept-Encoding" {
			t.Errorf("%s for %q: got %q, %v; want %q %q", c.path, c.accept, a.body.String(), a.fields, c.want, c.coding)
		}
	}
	plain, packed := get(t, h, "/a.css"), get(t, h, "/a.css", "HTTP_ACCEPT_ENCODING", "br")
	if plain.fields["ETag"] == packed.fields["ETag"] || packed.fields["Content-Type"] != "text/css" {
		t.Errorf("the neighbour's fields are %v, the file's %v", packed.fields, plain.fields)
	}
	a := get(t, h, "/a.css", "HTTP_ACCEPT_ENCODING", "br", "HTTP_RANGE", "bytes=1-2")
	if a.status != 206 || a.body.String() != "ro" || a.fields["Content-Encoding"] != "br" {
		t.Errorf("a part of the neighbour: got %d %q %v", a.status, a.body.String(), a.fields)
	}
	for _, g := range []vassal.StaticGzip{{Dirs: []string{dir + "/a"}}, {Exts: []string{".css"}}, {Match: []string{`/a\.css$`}}} {
		h := newHandler(vassal.Static{Check: []string{dir}, Gzip: g})
		for path, coding := range map[string]string{"/a.css": "gzip", "/b.js": ""} {
			if a := get(t, h, path, "HTTP_ACCEPT_ENCODING", "gzip"); a.fields["Content-Encoding"] != coding || (a.fields["Vary"] != "") != (coding != "") {
				t.Errorf("%+v: %s: got %v", g, path, a.fields)
			}
		}
	}
	if a := get(t, newHandler(vassal.Static{Check: []string{dir}}), "/a.css", "HTTP_ACCEPT_ENCODING", "br"); a.body.String() != "plain" || a.fields["Vary"] != "" {
		t.Errorf("without static-gzip: got %q %v", a.body.String(), a.fields)
	}
}

func TestDocroot(t *testing.T) {
	testenv.Leaks(t)
	dir := tree(t, map[string]string{"root/a.txt": "a", "root/up@": "../secret", "secret": "s", "other/a.txt": "o", "root/b.txt": "b", "root/b.txt.gz": "gz"})
	h := newHandler(vassal.Static{Docroot: true, Gzip: vassal.StaticGzip{All: true}})
	for _, c := range []struct{ docroot, path, want string }{
		{dir + "/root", "/a.txt", "a"}, {dir + "/other/", "/a.txt", "o"}, {dir + "/root", "/up", ""}, {dir + "/root", "/../secret", ""}, {"", "/a.txt", ""},
		{"/", dir + "/root/a.txt", ""}, {"//", dir + "/secret", ""}, {dir + "/secret", "/", ""}, {dir + "/none", "/a.txt", ""}, {dir + "/root", "/b.txt", "gz"},
		{"root", "/a.txt", ""}, {dir + "/root\x00", "/a.txt", ""},
	} {
		if a := get(t, h, c.path, "DOCUMENT_ROOT", c.docroot, "HTTP_ACCEPT_ENCODING", "gzip"); a.body.String() != c.want {
			t.Errorf("%s%s: got %q, want %q", c.docroot, c.path, a.body.String(), c.want)
		}
	}
}

// TestDots: a name with a dot is served only if the configuration says so,
// and secret ones never.
func TestDots(t *testing.T) {
	dir := tree(t, map[string]string{".well-known/acme": "wk", ".vite/m.json": "vite", ".env": "e", "a/.x": "x", "...": "d", "cur@": ".releases/7", ".releases/7/f": "f"})
	for _, c := range []struct {
		path        string
		plain, dots bool
	}{{"/.well-known/acme", true, true}, {"/.vite/m.json", false, true}, {"/.env", false, false}, {"/a/.x", false, true}, {"/a/../.x", false, false},
		{"/...", false, true}, {"/cur/f", true, true}, {"/.releases/7/f", false, true}, {"/./a/.x", false, true}} {
		for _, dots := range []bool{false, true} {
			h := newHandler(vassal.Static{Check: []string{dir}, DotFiles: dots})
			want := c.plain && !dots || c.dots && dots
			if a := get(t, h, c.path); (a.status == 200) != want {
				t.Errorf("%s, static-dot-files %v: got %d", c.path, dots, a.status)
			}
		}
	}
}

// TestSkippedByLink: the source of a program is not sent under another name.
func TestSkippedByLink(t *testing.T) {
	dir := tree(t, map[string]string{"a.php": "<?php", "b@": "a.php", "c.txt@": "a.php", "d@": "e.txt", "e.txt": "e"})
	h := newHandler(vassal.Static{Check: []string{dir}, SkipExt: []string{".php"}})
	for path, want := range map[string]string{"/a.php": "", "/b": "", "/c.txt": "", "/d": "e"} {
		if a := get(t, h, path); a.body.String() != want {
			t.Errorf("%s: got %q, want %q", path, a.body.String(), want)
		}
	}
}

func TestDate(t *testing.T) {
	for _, unix := range []int64{0, 1, 951782399, 951782400, 1767323045, 4102444799, 253402300799} {
		got := string(appendDate(nil, unix))
		if want := time.Unix(unix, 0).UTC().Format(dateFormat); got != want {
			t.Errorf("%d: got %q, want %q", unix, got, want)
		}
		if back, ok := parseDate(got); !ok || back != unix {
			t.Errorf("%q: read as %d, %v", got, back, ok)
		}
	}
}

// TestAllocations: what is not asked for costs nothing.
func TestAllocations(t *testing.T) {
	dir := dated(t, time.Now().Add(-time.Hour), map[string]string{"f.html": strings.Repeat("x", 4096)})
	h := newHandler(vassal.Static{Check: []string{dir}})
	r := &exchange.Request{Start: time.Now(), Vars: []exchange.Var{{Name: "REQUEST_METHOD", Value: "GET"}, {Name: "PATH_INFO", Value: "/f.html"}}}
	got := testing.AllocsPerRun(1000, func() {
		if err := h.Serve(t.Context(), r, discard{}); err != nil {
			t.Error(err)
		}
	})
	if got > maxAllocs {
		t.Errorf("a file costs %v allocations, want at most %v", got, maxAllocs)
	}
}

// maxAllocs are the descriptor, the fields' values, and the system call's path
// and how.
const maxAllocs = 5

func FuzzFields(f *testing.F) {
	f.Add("br;q=0, gzip;q=0.5, *", `"a", W/"b", *`)
	f.Add("", `W/"`)
	f.Fuzz(func(t *testing.T, accept, list string) {
		if Accepts(accept, "br") && !strings.Contains(strings.ToLower(accept), "br") {
			t.Errorf("%q takes br", accept)
		}
		if matches(list, []byte(`"tag"`), true) && list != "*" && !strings.Contains(list, `"tag"`) {
			t.Errorf("%q holds the tag", list)
		}
	})
}
