package php

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/serve/worker"
	"liege/vassal"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == worker.ArgLimited {
		fmt.Fprintln(os.Stderr, worker.ExecLimited(os.Args[2:]))
		os.Exit(126)
	}
	// The goroutine that hands out signals stays for ever once it has started.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR2)
	signal.Stop(signals)
	os.Exit(testenv.Main(m))
}

// answer records what a handler answers.
type answer struct {
	status int
	fields []exchange.Field
	body   bytes.Buffer
	gone   bool // the client is
}

func (a *answer) Head(status int, _ string, fields []exchange.Field) error {
	a.status, a.fields = status, append([]exchange.Field(nil), fields...)
	return nil
}
func (a *answer) Write(p []byte) (int, error) {
	if a.gone {
		return 0, errors.New("the client is gone")
	}
	return a.body.Write(p)
}
func (a *answer) Flush() error                           { return nil }
func (a *answer) Started() bool                          { return a.status != 0 }
func (a *answer) File(exchange.File, int64, int64) error { return errors.New("no file expected") }
func (a *answer) field(name string) string {
	for _, f := range a.fields {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// site writes files below a new directory; a name that ends in "@" is a link
// to the text. DIR in a text is the directory.
func site(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, strings.TrimSuffix(name, "@"))
		text = strings.ReplaceAll(text, "DIR", dir)
		err := os.MkdirAll(filepath.Dir(p), 0o755)
		if strings.HasSuffix(name, "@") {
			err = errors.Join(err, os.Symlink(text, p))
		} else {
			err = errors.Join(err, os.WriteFile(p, []byte(text), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestFind: which script answers a path, as uWSGI's plugin finds it but for
// what is listed in docs/compatibility.md.
func TestFind(t *testing.T) {
	testenv.Leaks(t)
	dir := site(t, map[string]string{
		"www/a.php": "", "www/index.php": "", "www/sub/index.php": "", "www/empty/x": "", "www/foo.jpg": "", "www/.hidden.php": "", "www/fb.php": "",
		"www/out.php@": "DIR/secret.php", "secret.php": "", "www/in.php@": "a.php", "www/jpg.php@": "foo.jpg", "www/lib.php@": "DIR/lib/l.php", "lib/l.php": "", "www/loop@": "loop",
		"www/dir.php/x.php": "",
	})
	base := vassal.PHP{Docroot: dir + "/www", Index: []string{"home.php", "index.php"}, AllowedExt: []string{".php"}}
	type want struct {
		status                  int
		path, name, info, query string
		moved                   string
	}
	for _, c := range []struct {
		name, path string
		edit       func(*vassal.PHP)
		want       want
	}{
		{"script", "/a.php", nil, want{200, "/www/a.php", "/a.php", "", "q=1", ""}},
		{"path info", "/a.php/x/y", nil, want{200, "/www/a.php", "/a.php", "/x/y", "q=1", ""}},
		{"slash", "/a.php/", nil, want{200, "/www/a.php", "/a.php", "/", "q=1", ""}},
		{"index", "/", nil, want{200, "/www/index.php", "/index.php", "", "q=1", ""}},
		{"index below", "/sub/", nil, want{200, "/www/sub/index.php", "/sub/index.php", "", "q=1", ""}},
		{"a directory", "/sub", nil, want{moved: "/sub/?q=1"}},
		{"a directory of another host", "//sub", nil, want{moved: "/sub/?q=1"}},
		{"no index", "/empty/", nil, want{status: 404}},
		{"no index and a fallback", "/empty/", func(p *vassal.PHP) { p.Fallback = dir + "/www/fb.php" }, want{status: 404}},
		{"nothing", "/none.php", nil, want{status: 404}},
		{"an upload", "/foo.jpg", nil, want{status: 403}},
		{"an upload as a script", "/foo.jpg/x.php", nil, want{status: 403}},
		{"an upload as a script, and a fallback", "/foo.jpg/x.php", func(p *vassal.PHP) { p.Fallback = dir + "/www/fb.php" }, want{status: 403}},
		{"an upload by a link", "/jpg.php", nil, want{status: 403}},
		{"a directory like a script", "/dir.php/x.php", nil, want{200, "/www/dir.php/x.php", "/dir.php/x.php", "", "q=1", ""}},
		{"hidden", "/.hidden.php", nil, want{status: 404}},
		{"up", "/sub/../a.php", nil, want{200, "/www/a.php", "/a.php", "", "q=1", ""}},
		{"up and out", "/../secret.php", nil, want{status: 404}},
		{"slashes", "//a.php//x", nil, want{200, "/www/a.php", "/a.php", "//x", "q=1", ""}},
		{"no slash", "a.php", nil, want{200, "/www/a.php", "/a.php", "", "q=1", ""}},
		{"NUL", "/a.php\x00.jpg", nil, want{status: 404}},
		{"deep", "/" + strings.Repeat("a/", 100), nil, want{status: 404}},
		{"out", "/out.php", nil, want{status: 403}},
		{"a link", "/in.php", nil, want{200, "/www/a.php", "/in.php", "", "q=1", ""}},
		{"a loop", "/loop", nil, want{status: 404}},
		{"another document root", "/lib.php", func(p *vassal.PHP) { p.AllowedDocroot = []string{dir + "/lib"} }, want{200, "/lib/l.php", "/lib.php", "", "q=1", ""}},
		{"not allowed", "/a.php", func(p *vassal.PHP) { p.AllowedScript = []string{dir + "/www/index.php"} }, want{status: 403}},
		{"allowed", "/index.php", func(p *vassal.PHP) { p.AllowedScript = []string{dir + "/www/index.php"} }, want{200, "/www/index.php", "/index.php", "", "q=1", ""}},
		{"fallback", "/no/thing", func(p *vassal.PHP) { p.Fallback = dir + "/www/fb.php" }, want{200, "/www/fb.php", "/no/thing", "", "q=1", ""}},
		{"fallback and a file", "/a.php", func(p *vassal.PHP) { p.Fallback = dir + "/www/fb.php" }, want{200, "/www/a.php", "/a.php", "", "q=1", ""}},
		{"fallback2", "/no/thing", func(p *vassal.PHP) { p.Fallback2 = "fb.php" }, want{200, "/www/fb.php", "/fb.php", "", "q=1", ""}},
		{"fallback-qs", "/no/a&b=1", func(p *vassal.PHP) { p.Fallback, p.FallbackQS = dir+"/www/fb.php", "r" }, want{200, "/www/fb.php", "/no/a&b=1", "", "r=/no/a%26b%3D1&q=1", ""}},
		{"app", "/no/thing", func(p *vassal.PHP) { p.App = dir + "/www/a.php" }, want{200, "/www/a.php", "", "", "q=1", ""}},
		{"app-qs", "/no/thing", func(p *vassal.PHP) { p.App, p.AppQS = dir+"/www/a.php", "p=" }, want{200, "/www/a.php", "", "", "p=/no/thing&q=1", ""}},
		{"app-qs of the root", "/", func(p *vassal.PHP) { p.App, p.AppQS = dir+"/www/a.php", "p=" }, want{200, "/www/a.php", "", "", "q=1", ""}},
		{"bypass", "/sub/", func(p *vassal.PHP) { p.App, p.AppBypass = dir+"/www/a.php", []string{"^/sub"} }, want{200, "/www/sub/index.php", "/sub/index.php", "", "q=1", ""}},
		{"no bypass", "/sub/../index.php", func(p *vassal.PHP) { p.App, p.AppBypass = dir+"/www/a.php", []string{"^/sub"} }, want{200, "/www/a.php", "", "", "q=1", ""}},
		{"no bypass by the path alone", "//sub/", func(p *vassal.PHP) { p.App, p.AppBypass = dir+"/www/a.php", []string{"^/sub"} }, want{200, "/www/a.php", "", "", "q=1", ""}},
	} {
		p := base
		if c.edit != nil {
			c.edit(&p)
		}
		s, err := newScripts(&p, "/")
		if err != nil {
			t.Fatal(err)
		}
		r := &exchange.Request{Vars: []exchange.Var{{Name: "PATH_INFO", Value: c.path}, {Name: "QUERY_STRING", Value: "q=1"}, {Name: "REQUEST_URI", Value: c.path + "?q=1"}}}
		found, err := s.find(r)
		s.close()
		got := want{status: 200}
		switch {
		case err != nil:
			got.status = exchange.StatusOf(err)
		case found.moved != "":
			got = want{moved: found.moved}
		default:
			got = want{200, strings.TrimPrefix(found.path, dir), found.name, found.info, found.query, ""}
			if found.root != dir+"/www" {
				t.Errorf("%s: document root %s", c.name, found.root)
			}
		}
		if got != c.want {
			t.Errorf("%s: %s: got %+v, want %+v", c.name, c.path, got, c.want)
		}
	}
}

// TestNoDescriptors: where nobody can tell whether there is a script the answer
// is 503: not 404, and not that of php-fallback.
func TestNoDescriptors(t *testing.T) {
	dir := site(t, map[string]string{"a.php": "", "d/index.php": "", "fb.php": ""})
	for _, root := range []string{dir, ""} {
		s, err := newScripts(&vassal.PHP{Docroot: root, Index: []string{"index.php"}, AllowedExt: []string{".php"}, Fallback: dir + "/fb.php"}, dir)
		if err != nil {
			t.Fatal(err)
		}
		find := func(p string) error {
			_, err := s.find(&exchange.Request{Vars: []exchange.Var{{Name: "PATH_INFO", Value: p}}})
			return err
		}
		for _, p := range []string{"/a.php", "/d/", "/none"} {
			if err := find(p); err != nil {
				t.Errorf("%s: %v", p, err)
			}
			testenv.WithoutDescriptors(t, func() {
				if err := find(p); err == nil || exchange.StatusOf(err) != 503 {
					t.Errorf("%s without descriptors: %v", p, err)
				}
			})
		}
		s.close()
	}
}

// start runs PHP for the files of a site.
func start(t testing.TB, dir string, edit func(*vassal.PHP)) *Handler {
	t.Helper()
	testenv.Need(t, testenv.PHP)
	p := &vassal.PHP{Program: "/usr/bin/php-cgi", Docroot: dir, Index: []string{"index.php"}, AllowedExt: []string{".php"}, Processes: 2, StartTimeout: 30 * time.Second}
	if edit != nil {
		edit(p)
	}
	return startApp(t, &vassal.App{Name: "test", PHP: p, Dir: dir, Drain: time.Second, Env: []string{"PATH=/usr/bin:/bin", "MINE=yes"}}, 20*time.Second)
}

func startApp(t testing.TB, app *vassal.App, silence time.Duration) *Handler {
	t.Helper()
	pool, err := worker.New(app, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h, err := New(app, pool, silence, exchange.NewRoom(8<<20), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	pctx, pstop := context.WithCancel(context.Background())
	pdone, done := make(chan error, 1), make(chan error, 1)
	go func() { pdone <- pool.Run(pctx) }()
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		err := <-done
		pstop()
		if err := errors.Join(err, <-pdone); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-h.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("PHP is not ready")
	}
	return h
}

func request(method, target, body string, pairs ...string) *exchange.Request {
	p, q, _ := strings.Cut(target, "?")
	r := &exchange.Request{Start: time.Now(), Body: strings.NewReader(body), Length: int64(len(body)), Vars: []exchange.Var{{Name: "REQUEST_METHOD", Value: method},
		{Name: "REQUEST_URI", Value: target}, {Name: "PATH_INFO", Value: p}, {Name: "QUERY_STRING", Value: q}, {Name: "SERVER_PROTOCOL", Value: "HTTP/1.1"}}}
	if body != "" {
		r.Set("CONTENT_LENGTH", strconv.Itoa(len(body)))
	}
	for i := 0; i < len(pairs); i += 2 {
		r.Set(pairs[i], pairs[i+1])
	}
	return r
}

func ask(t testing.TB, h *Handler, method, target, body string, pairs ...string) (*answer, error) {
	t.Helper()
	a := &answer{}
	err := h.Serve(t.Context(), request(method, target, body, pairs...), a)
	return a, err
}

func get(t testing.TB, h *Handler, target string) string {
	t.Helper()
	a, err := ask(t, h, "GET", target, "")
	if err != nil || a.status != 200 {
		t.Errorf("%s: %d %v", target, a.status, err)
	}
	return a.body.String()
}

const form = "application/x-www-form-urlencoded"

// TestPHP: variables, settings, code before and after, statuses, bodies.
func TestPHP(t *testing.T) {
	testenv.Leaks(t)
	dir := site(t, map[string]string{
		"v.php":      `<?php foreach (["SCRIPT_NAME","SCRIPT_FILENAME","PATH_INFO","PATH_TRANSLATED","PHP_SELF","DOCUMENT_ROOT","REQUEST_URI","QUERY_STRING","SERVER_SOFTWARE","STAGE","HTTP_PROXY"] as $k) echo "$k=", $_SERVER[$k] ?? "-", "\n"; echo getcwd(), getenv("MINE");`,
		"s.php":      `<?php echo ini_get("memory_limit"), "|", ini_get("arg_separator.output"), "|", error_reporting(), "|", ini_get("user_agent"), "|", $GLOBALS["before"] ?? "-", "|", K, "|", ini_get("session.save_path") != "";`,
		"sub/st.php": `<?php header("Status: 418 Teapot"); header("X-Sendfile: /x"); setcookie("c", "1"); echo "body";`,
		"b.php":      `<?php echo $_SERVER["REQUEST_METHOD"], strlen(file_get_contents("php://input")), $_POST["a"] ?? "-";`,
		"fatal.php":  `<?php nosuch();`, "big.php": `<?php for ($i = 0; $i < 300; $i++) echo str_repeat("x", 1000);`,
		"empty.php": "", "more.ini": "user_agent = appended\nmemory_limit = 1M\n", "log.php": `<?php echo "after"; echo 1/0;`,
	})
	h := start(t, dir, func(p *vassal.PHP) {
		p.Set = []string{"memory_limit=99M", "arg_separator.output=a'b;$x\"", "error_reporting=E_ALL & ~E_NOTICE"}
		p.Vars, p.INIAppend = []string{"STAGE=live", "SERVER_SOFTWARE=mine"}, []string{dir + "/more.ini"}
		p.Before, p.After = []string{"define('K', 'const');", "$before = 1;"}, []string{`if (isset($before)) echo "|after";`}
		p.Limits = &vassal.ProcessLimits{Nice: 2}
	})
	want := "SCRIPT_NAME=/v.php\nSCRIPT_FILENAME=DIR/v.php\nPATH_INFO=/x\nPATH_TRANSLATED=DIR/v.php/x\nPHP_SELF=/v.php/x\nDOCUMENT_ROOT=DIR\nREQUEST_URI=/v.php/x?q=1\n" +
		"QUERY_STRING=q=1\nSERVER_SOFTWARE=mine\nSTAGE=live\nHTTP_PROXY=-\nDIRyes|after"
	a, err := ask(t, h, "GET", "/v.php/x?q=1", "", "HTTP_PROXY", "evil", "SCRIPT_FILENAME", "/etc/passwd")
	if d := cmp.Diff(want, strings.ReplaceAll(a.body.String(), dir, "DIR")); d != "" || err != nil {
		t.Error(d, err)
	}
	if got, want := get(t, h, "/s.php"), fmt.Sprintf("99M|a'b;$x\"|%d|appended|1|const|1|after", 32767&^8); got != want {
		t.Errorf("settings %q, want %q", got, want)
	}
	if a, err := ask(t, h, "GET", "/sub/st.php", ""); err != nil || a.status != 418 || a.body.String() != "body|after" || a.field("X-Sendfile") != "/x" || a.field("Set-Cookie") != "c=1" {
		t.Errorf("%d %q %v %v", a.status, a.body.String(), a.fields, err)
	}
	for _, n := range []int{5, smallBody, smallBody + 1, 3 << 20} {
		if a, err := ask(t, h, "POST", "/b.php", "a="+strings.Repeat("x", n-2), "CONTENT_TYPE", form); err != nil || a.body.String() != fmt.Sprintf("POST%d%s|after", n, strings.Repeat("x", n-2)) {
			t.Errorf("a body of %d: %d bytes back, %v", n, a.body.Len(), err)
		}
	}
	if a, err := ask(t, h, "GET", "/fatal.php", ""); err != nil || a.status != 500 {
		t.Errorf("a fatal error: %d %v", a.status, err)
	}
	if got := get(t, h, "/big.php"); len(got) != 300000+len("|after") {
		t.Errorf("big: %d bytes", len(got))
	}
	if a, err := ask(t, h, "HEAD", "/v.php", ""); err != nil || a.status != 200 {
		t.Errorf("HEAD: %d %v", a.status, err)
	}
	if got := get(t, h, "/empty.php"); got != "|after" {
		t.Errorf("empty: %q", got)
	}
}

// TestStream: a body of unknown length and a large one come through in pieces.
func TestStream(t *testing.T) {
	testenv.Leaks(t)
	h := start(t, site(t, map[string]string{"n.php": `<?php $n = 0; $f = fopen("php://input", "r"); while (!feof($f)) $n += strlen(fread($f, 65536)); echo $n;`, "early.php": `<?php echo "early";`}),
		func(p *vassal.PHP) { p.Set = []string{"enable_post_data_reading=0"} })
	a, r := &answer{}, request("PUT", "/n.php", "")
	r.Body, r.Length = io.LimitReader(zeros{}, 50<<20), 50<<20
	r.Set("CONTENT_LENGTH", strconv.Itoa(50<<20))
	if err := h.Serve(t.Context(), r, a); err != nil || a.body.String() != strconv.Itoa(50<<20) {
		t.Errorf("%q %v", a.body.String(), err)
	}
	for _, n := range []int{0, 7, smallBody, smallBody + 1, 5 << 20} { // chunked: of no known length
		a, r := &answer{}, request("PUT", "/n.php", "")
		r.Body, r.Length = io.LimitReader(zeros{}, int64(n)), -1
		if err := h.Serve(t.Context(), r, a); err != nil || a.body.String() != strconv.Itoa(n) || r.Length != -1 {
			t.Errorf("%d bytes: %q %v", n, a.body.String(), err)
		}
	}
	if got := get(t, h, "/early.php"); got != "early" {
		t.Errorf("afterwards: %q", got)
	}
}

// TestStreamSpace: what is stored of bodies of unknown length has a bound, for
// each and for all; what was stored is given back.
func TestStreamSpace(t *testing.T) {
	testenv.Leaks(t)
	h := start(t, site(t, map[string]string{"n.php": `<?php echo strlen(file_get_contents("php://input"));`}), nil)
	for _, c := range []struct {
		size   int64
		others int64 // bytes that they have stored
		status int
	}{{8 << 20, 0, 0}, {8<<20 + 1, 0, 413}, {1 << 20, 7<<20 + 1, 503}, {smallBody, 8 << 20, 0}, {8 << 20, 0, 0}} {
		h.space.Take(c.others)
		r := request("PUT", "/n.php", "")
		r.Body, r.Length = io.LimitReader(zeros{}, c.size), -1
		err := h.Serve(t.Context(), r, &answer{})
		if got := exchange.StatusOf(err); (err != nil) != (c.status != 0) || err != nil && got != c.status {
			t.Errorf("%d bytes, %d of others: %v, want %d", c.size, c.others, err, c.status)
		}
		h.space.Give(c.others)
		if n := h.space.Taken(); n != 0 {
			t.Errorf("%d bytes are still taken", n)
		}
	}
}

// TestSmallBodyMemory: a body that is in memory is not copied, and one that is
// only announced takes none.
func TestSmallBodyMemory(t *testing.T) {
	h := &Handler{}
	whole := bytes.NewReader(make([]byte, smallBody))
	r := &exchange.Request{Body: whole, Length: smallBody}
	if small, _, err := h.readBody(r); !small || err != nil || r.Body != whole {
		t.Errorf("%t %v: it is another body", small, err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		announced := &exchange.Request{Body: io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(io.ErrClosedPipe)), Length: smallBody}
		if _, _, err := h.readBody(announced); exchange.StatusOf(err) != 400 {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) / 100; n > 8<<10 {
		t.Errorf("%d bytes for three", n)
	}
	if _, _, err := h.readBody(&exchange.Request{Body: strings.NewReader("abc"), Length: 4}); exchange.StatusOf(err) != 400 {
		t.Errorf("a short one: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestHarakiri: a script that takes too long is 504 and counted, its process
// is killed and no other; one whose client went away is no exception.
func TestHarakiri(t *testing.T) {
	testenv.Leaks(t)
	h := start(t, site(t, map[string]string{"loop.php": `<?php echo "x"; while (ob_get_level()) ob_end_flush(); flush(); while (isset($_GET["l"]));`, "pid.php": `<?php usleep(50000); echo getmypid();`}),
		func(p *vassal.PHP) { p.Harakiri = 300 * time.Millisecond })
	pids := func() map[string]bool {
		out := map[string]bool{}
		var mu sync.Mutex
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() {
				pid := get(t, h, "/pid.php")
				mu.Lock()
				defer mu.Unlock()
				out[pid] = true
			})
		}
		all.Wait()
		return out
	}
	before := pids()
	if _, err := ask(t, h, "GET", "/loop.php?l", ""); exchange.StatusOf(err) != 504 {
		t.Error(err)
	}
	gone := &answer{gone: true}
	if err := h.Serve(t.Context(), request("GET", "/loop.php?l", ""), gone); err == nil {
		t.Error("no error of a client that is gone")
	}
	after := pids()
	if len(before) != 2 || len(after) != 2 {
		t.Fatalf("processes %v, then %v", before, after)
	}
	n := int64(0)
	for i := range h.stats {
		n += h.stats[i].harakiris.Load()
	}
	if n != 2 || h.keep.Stats()[0].Respawns != 0 {
		t.Errorf("%d harakiris, %d restarts of PHP", n, h.keep.Stats()[0].Respawns)
	}
}

// TestSilence: a rule that gives a request more time than the rest gives it to
// one that says nothing meanwhile, too.
func TestSilence(t *testing.T) {
	testenv.Need(t, testenv.PHP)
	testenv.Leaks(t)
	for rule, want := range map[string]int{"harakiri": 200, "log": 504} {
		p := &vassal.PHP{Program: "/usr/bin/php-cgi", Docroot: site(t, map[string]string{"slow.php": `<?php sleep(2);`}), AllowedExt: []string{".php"}, StartTimeout: 30 * time.Second}
		h := startApp(t, &vassal.App{Name: "test", PHP: p, Routing: &vassal.Routing{Request: []vassal.Rule{{Action: rule, ActionArg: "30"}}}}, time.Second)
		a, err := ask(t, h, "GET", "/slow.php", "")
		if want == 200 && (err != nil || a.status != 200) || want == 504 && exchange.StatusOf(err) != 504 {
			t.Errorf("%s: %d %v, want %d", rule, a.status, err, want)
		}
	}
}

// TestMaxRequests: processes end after so many and no request fails.
func TestMaxRequests(t *testing.T) {
	testenv.Leaks(t)
	h := start(t, site(t, map[string]string{"pid.php": `<?php echo getmypid();`}), func(p *vassal.PHP) { p.MaxRequests = 3 })
	pids := map[string]int{}
	for i := range 30 {
		method, body := "GET", ""
		if i%2 == 0 {
			method, body = "POST", "a=1"
		}
		a, err := ask(t, h, method, "/pid.php", body)
		if err != nil || a.status != 200 {
			t.Fatalf("request %d: %d %v", i, a.status, err)
		}
		pids[a.body.String()]++
	}
	for pid, n := range pids {
		if n > 3 {
			t.Errorf("process %s answered %d", pid, n)
		}
	}
}

// TestMaxRequestsLoses: while processes end after each third request, every
// request with a body, in memory or streamed, is answered, and each is carried
// out once.
func TestMaxRequestsLoses(t *testing.T) {
	testenv.Leaks(t)
	dir := site(t, map[string]string{"n.php": `<?php file_put_contents("done", $_GET["n"]."\n", FILE_APPEND | LOCK_EX); echo strlen(file_get_contents("php://input"));`})
	h := start(t, dir, func(p *vassal.PHP) { p.MaxRequests = 3 })
	const clients, each = 8, 12 // some thirty processes end
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			for k := range each {
				size := 1 + k*97 // in memory
				if k%2 == 1 {
					size = smallBody + 1 + k*5003 // streamed
				}
				a, err := ask(t, h, "POST", fmt.Sprintf("/n.php?n=%d-%d", i, k), strings.Repeat("x", size), "CONTENT_TYPE", "text/plain")
				if err != nil || a.body.String() != strconv.Itoa(size) {
					t.Errorf("%d bytes: %d %.40q %v", size, a.status, a.body.String(), err)
				}
			}
		})
	}
	all.Wait()
	b, err := os.ReadFile(filepath.Join(dir, "done"))
	if err != nil {
		t.Fatal(err)
	}
	done := map[string]int{}
	for line := range strings.Lines(string(b)) {
		done[line]++
	}
	for line, n := range done {
		if n != 1 {
			t.Errorf("%s was carried out %d times", strings.TrimSpace(line), n)
		}
	}
	if len(done) != clients*each {
		t.Errorf("%d requests were carried out, want %d", len(done), clients*each)
	}
}

// TestCrash: a process that dies with a request is 502, and PHP as a whole
// comes back after a kill.
func TestCrash(t *testing.T) {
	testenv.Leaks(t)
	h := start(t, site(t, map[string]string{"die.php": `<?php posix_kill(getmypid(), 9);`, "ok.php": "ok"}), nil)
	if _, err := ask(t, h, "POST", "/die.php", "a=1"); exchange.StatusOf(err) != 502 {
		t.Error(err)
	}
	if got := get(t, h, "/ok.php"); got != "ok" {
		t.Error(got)
	}
	h.keep.Kill(0)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if a, err := ask(t, h, "GET", "/ok.php", ""); err == nil && a.body.String() == "ok" && h.keep.Stats()[0].Respawns == 1 {
			return
		} else if time.Now().After(end) {
			t.Fatal("PHP does not come back:", err)
		}
	}
}

// TestLeftBehind: a program in the background holds the connection of the
// process whose script has started it, and its death is seen all the same.
func TestLeftBehind(t *testing.T) {
	testenv.Leaks(t)
	h := start(t, site(t, map[string]string{"leave.php": `<?php exec("sleep 60 > /dev/null 2>&1 &"); echo getmypid();`, "die.php": `<?php posix_kill(getmypid(), 9);`, "ok.php": "ok",
		"slow.php": `<?php sleep(3); echo "slow";`}), func(p *vassal.PHP) { p.Processes = 1 })
	began := time.Now()
	get(t, h, "/leave.php")
	if _, err := ask(t, h, "GET", "/die.php", ""); exchange.StatusOf(err) != 502 {
		t.Error("a script that kills its process:", err)
	}
	pid, err := strconv.Atoi(get(t, h, "/leave.php"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := get(t, h, "/ok.php"); got != "ok" {
		t.Errorf("the request after: %q", got)
	}
	if d := time.Since(began); d > 15*time.Second {
		t.Errorf("it took %v", d)
	}
	get(t, h, "/leave.php")
	if got := get(t, h, "/slow.php"); got != "slow" {
		t.Errorf("a process that lives: %q", got)
	}
}

// TestDiesAtEveryStep: a process of PHP that is killed at any step of the
// exchange costs its request and nothing else, and is counted.
func TestDiesAtEveryStep(t *testing.T) {
	testenv.Leaks(t)
	tmp := t.TempDir() // what a killed process leaves of a body
	h := start(t, site(t, map[string]string{"ok.php": "ok", "die.php": `<?php
function dies($n = 0, $size = 0) { while (ob_get_level()) ob_end_flush(); for ($i = 0; $i < $n; $i++) { echo str_repeat("x", $size); flush(); } posix_kill(getmypid(), 9); sleep(9); }
$in = fopen("php://input", "r");
switch ($_GET["at"]) {
case "first": dies();
case "reading": fread($in, 10000); dies();
case "read": stream_get_contents($in); dies();
case "head": header("X-A: b"); flush(); dies();
case "body": header("Content-Length: 1000000"); dies(3, 1000);
case "large": dies(5, 300000);
}`}), func(p *vassal.PHP) { p.Set = []string{"enable_post_data_reading=0", "sys_temp_dir=" + tmp} })
	deaths := int64(0)
	for _, size := range []int{10, smallBody + 1, 1 << 20} {
		for at, want := range map[string]int{"first": 502, "reading": 502, "read": 502, "head": 502, "body": 200, "large": 200} {
			a, err := ask(t, h, "POST", "/die.php?at="+at, strings.Repeat("x", size))
			if err == nil || a.status != want && exchange.StatusOf(err) != want {
				t.Errorf("%s with %d bytes: %d %v, want %d", at, size, a.status, err, want)
			}
			if got := get(t, h, "/ok.php"); got != "ok" {
				t.Errorf("after %s with %d bytes: %q", at, size, got)
			}
			deaths++
			n := int64(0)
			for i := range h.stats {
				n += h.stats[i].errors.Load()
			}
			if n != deaths {
				t.Errorf("%d errors counted, want %d", n, deaths)
			}
		}
	}
}

// TestNoPHP: what is no php-cgi says so.
func TestNoPHP(t *testing.T) {
	testenv.Leaks(t)
	for program, want := range map[string]string{"/nowhere/php-cgi": vassal.CodeNoInterpreter, "/bin/false": vassal.CodeExitedEarly} {
		app := &vassal.App{Name: "test", PHP: &vassal.PHP{Program: program, StartTimeout: 10 * time.Second, Processes: 1}}
		pool, err := worker.New(app, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		h, err := New(app, pool, time.Second, exchange.NewRoom(0), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- pool.Run(ctx) }()
		p, ok := errors.AsType[*vassal.Problem](h.Run(ctx))
		if !ok || p.Code != want || p.Hint == "" {
			t.Errorf("%s: %v", program, p)
		}
		stop()
		<-done
	}
}

// FuzzParsePeer: whatever the kernel says, no panic.
func FuzzParsePeer(f *testing.F) {
	f.Add(make([]byte, 16))
	f.Add(append([]byte{44, 0, 0, 0, 20, 0, 0, 0}, make([]byte, 40)...))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = parsePeer(b) })
}
