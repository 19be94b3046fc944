package cgi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
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
	mu     sync.Mutex
	status int
	reason string
	fields []exchange.Field
	body   bytes.Buffer
	writes int
	gone   error // what a write returns
}

func (a *answer) Head(status int, reason string, fields []exchange.Field) error {
	a.status, a.reason, a.fields = status, reason, slices.Clone(fields)
	return nil
}

func (a *answer) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gone != nil {
		return 0, a.gone
	}
	return a.body.Write(p)
}

func (a *answer) text() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.body.String()
}

func (a *answer) Flush() error                           { a.writes++; return nil }
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

// programs writes files below a new directory: a name that ends in "@" is a
// link to the text, a text that begins with "#!" may be executed.
func programs(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, strings.TrimSuffix(name, "@"))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		err := os.WriteFile(p, []byte(text), mode)
		if strings.HasSuffix(name, "@") {
			err = errors.Join(os.Remove(p), os.Symlink(strings.ReplaceAll(text, "DIR", dir), p))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// handler starts a pool that waits for programs.
func handler(t testing.TB, c vassal.CGI) *Handler {
	t.Helper()
	app := &vassal.App{Name: "test", CGI: &c, Dir: os.TempDir(), Env: []string{"PATH=/usr/bin:/bin", "MINE=1", "SECRET=x"}}
	if c.Timeout == 0 {
		c.Timeout = 20 * time.Second
	}
	pool, err := worker.New(app, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h, err := New(app, pool, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- pool.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		h.Close()
	})
	return h
}

// ask asks h for a path with a query.
func ask(t testing.TB, h *Handler, target string, vars ...string) (*answer, error) {
	t.Helper()
	p, query, _ := strings.Cut(target, "?")
	r := &exchange.Request{Start: time.Now(), Body: eof{}, Vars: []exchange.Var{{Name: "REQUEST_METHOD", Value: "GET"},
		{Name: "PATH_INFO", Value: p}, {Name: "QUERY_STRING", Value: query}, {Name: "SCRIPT_NAME", Value: ""}}}
	for i := 0; i < len(vars); i += 2 {
		r.Set(vars[i], vars[i+1])
		if vars[i] == "BODY" {
			r.Vars = r.Vars[:len(r.Vars)-1]
			r.Body, r.Length = strings.NewReader(vars[i+1]), int64(len(vars[i+1]))
		}
	}
	a := &answer{}
	err := h.Serve(t.Context(), r, a)
	return a, err
}

const hello = "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\n%s' \"$0|$PWD|$SCRIPT_NAME|${PATH_INFO-unset}|${PATH_TRANSLATED-unset}|$*\"\n"

func TestFind(t *testing.T) {
	testenv.Leaks(t)
	dir := programs(t, map[string]string{
		"cgi/a.sh": hello, "cgi/d/index.sh": hello, "cgi/d/b.sh": hello, "cgi/e/x": "no", "cgi/plain.sh": "no program", "cgi/a.txt": hello,
		"cgi/l.sh@": "a.sh", "cgi/hid.sh@": "a.txt", "cgi/up.sh@": "../out.sh", "cgi/abs.sh@": "DIR/out.sh", "cgi/safe.sh@": "DIR/safe/s.sh",
		"cgi/.h.sh": hello, "safe/s.sh": hello, "out.sh": hello, "cgi2/x.sh": hello, "one.sh": hello, "dflt/z.sh": hello, "cgi/sub/c.sh": hello,
	})
	h := handler(t, vassal.CGI{Mounts: []vassal.CGIMount{{Mount: "/cgi-bin", Path: dir + "/cgi"}, {Mount: "/cgi-bin/sub2/", Path: dir + "/cgi2"},
		{Mount: "/one", Path: dir + "/one.sh"}, {Mount: "", Path: dir + "/dflt"}}, Index: []string{"none.sh", "index.sh"}, AllowedExt: []string{".sh"}, Safe: []string{dir + "/safe"}})
	tmp := os.TempDir()
	for _, c := range []struct {
		target string
		status int
		want   string
	}{
		{"/cgi-bin/a.sh", 200, "cgi/a.sh|cgi|/cgi-bin/a.sh|unset|unset|"},
		{"/cgi-bin//a.sh/x//y", 200, "cgi/a.sh|cgi|/cgi-bin/a.sh|/x//y|cgi/x/y|"},
		{"//cgi-bin//a.sh", 200, "cgi/a.sh|cgi|/cgi-bin/a.sh|unset|unset|"}, {"//one//more", 200, "one.sh|" + tmp + "|/one|//more|" + tmp + "/more|"},
		{"/cgi-bin/a.sh/", 200, "cgi/a.sh|cgi|/cgi-bin/a.sh|/|cgi|"},
		{"/cgi-bin/a.sh?one+t%77o+%24x", 200, `cgi/a.sh|cgi|/cgi-bin/a.sh|unset|unset|one two \$x`},
		{"/cgi-bin/a.sh?a=b+c", 200, "cgi/a.sh|cgi|/cgi-bin/a.sh|unset|unset|"},
		{"/cgi-bin/a.sh?-s+x", 200, "cgi/a.sh|cgi|/cgi-bin/a.sh|unset|unset|"},
		{"/cgi-bin/a.sh?%2ds", 200, "cgi/a.sh|cgi|/cgi-bin/a.sh|unset|unset|"},
		{"/cgi-bin/d/", 200, "cgi/d/index.sh|cgi/d|/cgi-bin/d/index.sh|unset|unset|"},
		{"/cgi-bin/d/b.sh/p", 200, "cgi/d/b.sh|cgi/d|/cgi-bin/d/b.sh|/p|cgi/p|"},
		{"/cgi-bin/l.sh", 200, "cgi/a.sh|cgi|/cgi-bin/l.sh|unset|unset|"},
		{"/cgi-bin/safe.sh", 200, "safe/s.sh|safe|/cgi-bin/safe.sh|unset|unset|"},
		{"/cgi-bin/sub2/x.sh", 200, "cgi2/x.sh|cgi2|/cgi-bin/sub2/x.sh|unset|unset|"},
		{"/one", 200, "one.sh|" + tmp + "|/one|unset|unset|"}, {"/one/more", 200, "one.sh|" + tmp + "|/one|/more|" + tmp + "/more|"},
		{"/z.sh", 200, "dflt/z.sh|dflt|/z.sh|unset|unset|"}, {"/cgi-binary/a.sh", 404, ""}, {"/onemore", 404, ""},
		{"/cgi-bin/none.sh", 404, ""}, {"/cgi-bin/none/a.sh", 404, ""}, {"/cgi-bin/e/", 404, ""}, {"/cgi-bin/", 404, ""},
		{"/cgi-bin/plain.sh", 403, ""}, {"/cgi-bin/a.txt", 403, ""}, {"/cgi-bin/hid.sh", 403, ""}, {"/cgi-bin/up.sh", 403, ""}, {"/cgi-bin/abs.sh", 403, ""},
		{"/cgi-bin/../out.sh", 404, ""}, {"/cgi-bin/d/../../out.sh", 404, ""}, {"/x/../cgi-bin/./d/../a.sh", 200, "cgi/a.sh|cgi|/cgi-bin/a.sh|unset|unset|"}, {"/cgi-bin/.h.sh", 404, ""}, {"/cgi-bin/a.sh\x00", 404, ""},
		{"/cgi-bin/" + strings.Repeat("d/", 100) + "a.sh", 404, ""}, {"/cgi-bin/" + strings.Repeat("d", 300), 404, ""},
	} {
		a, err := ask(t, h, c.target)
		got := strings.ReplaceAll(a.text(), dir+"/", "")
		if err != nil {
			a.status = exchange.StatusOf(err)
		}
		if a.status != c.status || got != c.want {
			t.Errorf("%s: got %d %q, %v; want %d %q", c.target, a.status, got, err, c.status, c.want)
		}
	}
	for target, want := range map[string]string{"/cgi-bin/d": "/cgi-bin/d/", "/cgi-bin/d?a=b&c": "/cgi-bin/d/?a=b&c", "/cgi-bin": "/cgi-bin/"} {
		if a, err := ask(t, h, target); err != nil || a.status != 301 || a.field("Location") != want {
			t.Errorf("%s: got %d %v, %v; want 301 to %s", target, a.status, a.fields, err, want)
		}
	}
}

// TestNoDescriptors: where nobody can tell whether there is a program the
// answer is 503 and not 404.
func TestNoDescriptors(t *testing.T) {
	dir := programs(t, map[string]string{"a.sh": hello, "d/index.sh": hello})
	h := handler(t, vassal.CGI{Mounts: []vassal.CGIMount{{Path: dir}}, Index: []string{"index.sh"}})
	if _, err := ask(t, h, "/a.sh"); err != nil {
		t.Error(err)
	}
	testenv.WithoutDescriptors(t, func() {
		for _, p := range []string{"/a.sh", "/d/", "/none"} {
			if _, err := ask(t, h, p); exchange.StatusOf(err) != 503 || err == nil {
				t.Errorf("%s: %v", p, err)
			}
		}
	})
}

// TestHostileRedirect: the slash that a directory needs never leads to
// another host or another header field.
func TestHostileRedirect(t *testing.T) {
	dir := programs(t, map[string]string{"evil.example/x": "", "a\r\nb: c/x": ""})
	h := handler(t, vassal.CGI{Mounts: []vassal.CGIMount{{Path: dir}}})
	for target, want := range map[string]string{"//evil.example": "/evil.example/", "/a\r\nb: c": "/a%0D%0Ab:%20c/"} {
		if a, err := ask(t, h, target); err != nil || a.status != 301 || a.field("Location") != want {
			t.Errorf("%q: got %d %v, %v; want 301 to %s", target, a.status, a.fields, err, want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	testenv.Leaks(t)
	dir := programs(t, map[string]string{"env.sh": "#!/bin/sh\necho\nexec /usr/bin/env\n"})
	h := handler(t, vassal.CGI{Mounts: []vassal.CGIMount{{Path: dir}}, Unset: []string{"SECRET", "SERVER_SOFTWARE", "HTTP_COOKIE"}})
	a, err := ask(t, h, "/env.sh/extra?q=1", "HTTP_X_TEST", "v w", "LD_PRELOAD", "/tmp/x.so", "PATH", "/evil", "MINE", "2", "BASH_FUNC_x%%", "() { :; }",
		"HTTP_SHELLSHOCK", "() { :; }", "PYTHONPATH", "/tmp", "HTTP_COOKIE", "c", "CONTENT_TYPE", "text/plain", "SERVER_PROTOCOL", "HTTP/1.1", "GATEWAY_INTERFACE", "x")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for line := range strings.Lines(a.text()) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		switch name {
		case "PWD", "_", "SHLVL", "OLDPWD": // the shell's
		default:
			if _, inherited := os.LookupEnv(name); !inherited || name == "PATH" {
				got[name] = strings.ReplaceAll(value, dir, "DIR")
			}
		}
	}
	want := map[string]string{"PATH": "/usr/bin:/bin", "MINE": "1", "REQUEST_METHOD": "GET", "QUERY_STRING": "q=1", "HTTP_X_TEST": "v w",
		"HTTP_SHELLSHOCK": "() { :; }", "CONTENT_TYPE": "text/plain", "SERVER_PROTOCOL": "HTTP/1.1", "GATEWAY_INTERFACE": "CGI/1.1",
		"SCRIPT_NAME": "/env.sh", "SCRIPT_FILENAME": "DIR/env.sh", "DOCUMENT_ROOT": "DIR", "REDIRECT_STATUS": "200", "PATH_INFO": "/extra",
		"PATH_TRANSLATED": "DIR/extra"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestAnswers(t *testing.T) {
	testenv.Leaks(t)
	say := func(text string) string { return "#!/bin/sh\nprintf '" + text + "'\n" }
	dir := programs(t, map[string]string{
		"status.sh": say(`Status: 404 Gone Fishing\r\nX-A: b\r\n\r\nbody`), "loc.sh": say(`Location: http://x/y\n\n`), "locb.sh": say(`Location: /plain.sh\nX: y\n\n`),
		"plain.sh": say(`A: b\nA: c\n\nplain`), "local.sh": say(`Location: /plain.sh?q\n\n`), "loop.sh": say(`Location: /loop.sh\n\n`), "escape.sh": say(`Location: /../../plain.sh\n\n`),
		"empty.sh": "#!/bin/sh\nexit 3\n", "killed.sh": "#!/bin/sh\nkill -9 $$\n", "nohead.sh": say("hello world"), "nocolon.sh": say(`hello\n\nworld`),
		"cut.sh": say(`A: b\n`), "badstatus.sh": say(`Status: x\n\n`), "fold.sh": say(`A: b\n c\n\n`), "ok.sh": say(`\nbare`), "noint.sh": "#!/nonexistent\n",
		"big.sh": "#!/bin/sh\necho\nhead -c 3000000 /dev/zero\n", "bighead.sh": "#!/bin/sh\nprintf 'A: '\nhead -c 100000 /dev/zero | tr '\\0' x\nprintf '\\n\\n'\n",
		"helped.txt": "Hello: x\n\nhelped", "missing.pl": "x", "stderr.sh": "#!/bin/sh\necho oops >&2\necho\n",
		"half.sh": "#!/bin/sh\nprintf '\nhalf'\nkill -9 $$\n", "whole.sh": "#!/bin/sh\nprintf 'Content-Length: 5\n\nwhole'\nkill -9 $$\n",
	})
	h := handler(t, vassal.CGI{Mounts: []vassal.CGIMount{{Path: dir}}, HeadBytes: 65536,
		Helpers: []vassal.CGIHelper{{Ext: ".txt", Command: "cat"}, {Ext: ".pl", Command: "no-such-interpreter"}}})
	h.Whole(h)
	for _, c := range []struct {
		name   string
		status int
		body   string
	}{
		{"status.sh", 404, "body"}, {"loc.sh", 302, ""}, {"locb.sh", 302, ""}, {"plain.sh", 200, "plain"}, {"local.sh", 200, "plain"}, {"loop.sh", 502, ""},
		{"escape.sh", 200, "plain"}, {"empty.sh", 502, ""}, {"killed.sh", 502, ""}, {"nohead.sh", 502, ""}, {"nocolon.sh", 502, ""}, {"cut.sh", 502, ""},
		{"badstatus.sh", 502, ""}, {"fold.sh", 502, ""}, {"ok.sh", 200, "bare"}, {"noint.sh", 500, ""}, {"big.sh", 200, strings.Repeat("\x00", 3000000)},
		{"bighead.sh", 502, ""}, {"helped.txt", 200, "helped"}, {"missing.pl", 500, ""}, {"stderr.sh", 200, ""},
		{"half.sh", 502, "half"}, {"whole.sh", 200, "whole"},
	} {
		a, err := ask(t, h, "/"+c.name)
		if err != nil {
			a.status = exchange.StatusOf(err)
		}
		if a.status != c.status || a.text() != c.body {
			t.Errorf("%s: got %d %.80q, %v; want %d %.80q", c.name, a.status, a.text(), err, c.status, c.body)
		}
	}
	if a, _ := ask(t, h, "/status.sh"); a.reason != "Gone Fishing" || a.field("X-A") != "b" || a.field("Status") != "" {
		t.Errorf("status.sh: %q %v", a.reason, a.fields)
	}
	if _, err := ask(t, h, "/killed.sh"); err == nil || !strings.Contains(err.Error(), "killed by") {
		t.Errorf("killed.sh: got %v, want how it ended", err)
	}
}

func TestBodies(t *testing.T) {
	testenv.Leaks(t)
	dir := programs(t, map[string]string{"cat.sh": "#!/bin/sh\necho\nexec cat\n", "deaf.sh": "#!/bin/sh\necho\necho deaf\n", "count.sh": "#!/bin/sh\necho\nexec wc -c\n"})
	h := handler(t, vassal.CGI{Mounts: []vassal.CGIMount{{Path: dir}}})
	big := strings.Repeat("0123456789", 200_000)
	for _, c := range []struct{ name, body, want string }{{"cat.sh", "hello", "hello"}, {"cat.sh", big, big}, {"cat.sh", "", ""}, {"deaf.sh", big, "deaf\n"}} {
		a, err := ask(t, h, "/"+c.name, "BODY", c.body)
		if err != nil || a.text() != c.want {
			t.Errorf("%s, %d bytes: got %d bytes, %v", c.name, len(c.body), len(a.text()), err)
		}
	}
	// A body that breaks off must not be taken for a whole one.
	r := &exchange.Request{Start: time.Now(), Length: 10, Body: io.MultiReader(strings.NewReader("123"), broken{}),
		Vars: []exchange.Var{{Name: "PATH_INFO", Value: "/count.sh"}}}
	a := &answer{}
	if err := h.Serve(t.Context(), r, a); exchange.StatusOf(err) != 408 || strings.Contains(a.text(), "3") {
		t.Errorf("a broken body: got %v, %q", err, a.text())
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) {
	return 0, &exchange.StatusError{Status: 408, Err: errors.New("the client is too slow")}
}

// drip is the body of a slow client.
type drip struct {
	left int
	each time.Duration
}

func (d *drip) Read(p []byte) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	<-time.After(d.each)
	d.left--
	return copy(p, "a"), nil
}

// TestEnds: whatever ends a request ends its program and what that started.
func TestEnds(t *testing.T) {
	testenv.Leaks(t)
	dir := programs(t, map[string]string{
		"count.sh": "#!/bin/sh\nn=$(wc -c)\necho\necho $n\n",
		"later.sh": "#!/bin/sh\necho\nfor i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do printf .; sleep 0.1; done\nwc -c\n",
		"hang.sh":  "#!/bin/sh\necho $$ > pid\nsleep 600 &\nwait\n",
		"pause.sh": "#!/bin/sh\necho\necho first\nsleep 600\n",
		"flood.sh": "#!/bin/sh\necho\nexec yes\n",
		"part.sh":  "#!/bin/sh\nprintf 'Content-Length: 9\\n\\nhalf'\nkill -9 $$\n",
		"whole.sh": "#!/bin/sh\nprintf 'Content-Length: 5\\n\\nwhole'\nkill -9 $$\n",
	})
	expect := func(h *Handler, name string, ctx context.Context, a *answer, status int) {
		t.Helper()
		begun := time.Now()
		err := h.Serve(ctx, &exchange.Request{Start: begun, Body: eof{}, Vars: []exchange.Var{{Name: "PATH_INFO", Value: name}}}, a)
		if exchange.StatusOf(err) != status || err == nil || time.Since(begun) > 10*time.Second {
			t.Errorf("%s: got %v after %v, want %d", name, err, time.Since(begun), status)
		}
	}
	mounts := []vassal.CGIMount{{Path: dir}}
	slow := handler(t, vassal.CGI{Mounts: mounts, Timeout: 300 * time.Millisecond})
	expect(slow, "/hang.sh", t.Context(), &answer{}, 504)
	a := &answer{}
	if err := slow.Serve(t.Context(), &exchange.Request{Start: time.Now(), Body: &drip{left: 6, each: 200 * time.Millisecond}, Length: 6, Vars: []exchange.Var{{Name: "PATH_INFO", Value: "/count.sh"}}}, a); err != nil || a.text() != "6\n" {
		t.Errorf("a slow body: %q, %v", a.text(), err)
	}
	a = &answer{}
	if err := handler(t, vassal.CGI{Mounts: mounts, Timeout: time.Second}).Serve(t.Context(), &exchange.Request{Start: time.Now(), Body: strings.NewReader(strings.Repeat("a", 1<<20)), Length: 1 << 20, Vars: []exchange.Var{{Name: "PATH_INFO", Value: "/later.sh"}}}, a); err != nil || a.text() != "..............1048576\n" {
		t.Errorf("a body that waits for the program: %q, %v", a.text(), err)
	}
	a = &answer{}
	expect(slow, "/pause.sh", t.Context(), a, 504)
	if a.text() != "first\n" {
		t.Errorf("before the pause came %q", a.text())
	}
	expect(slow, "/part.sh", t.Context(), &answer{}, 502)
	if a, err := ask(t, slow, "/whole.sh"); err != nil || a.text() != "whole" {
		t.Errorf("killed after its answer: %q, %v", a.text(), err)
	}
	harakiri := handler(t, vassal.CGI{Mounts: mounts, Harakiri: 300 * time.Millisecond})
	expect(harakiri, "/flood.sh", t.Context(), &answer{}, 504)
	if n := harakiri.Stats().Workers[0].Harakiris; n != 1 {
		t.Errorf("%d harakiris are counted, want 1", n)
	}
	patient := handler(t, vassal.CGI{Mounts: mounts})
	expect(patient, "/flood.sh", t.Context(), &answer{gone: errors.New("client gone")}, 500)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	expect(patient, "/hang.sh", ctx, &answer{}, 503)
	if b, err := os.ReadFile(dir + "/pid"); err != nil {
		t.Error(err)
	} else if out, _ := os.ReadFile("/proc/" + strings.TrimSpace(string(b)) + "/stat"); len(out) > 0 && !bytes.Contains(out, []byte(") Z ")) {
		t.Errorf("it still runs: %s", out)
	}
}

// TestPlaces: no more programs run at once than there are places.
func TestPlaces(t *testing.T) {
	testenv.Leaks(t)
	dir := programs(t, map[string]string{"n.sh": "#!/bin/sh\nmkdir busy.$$\nsleep 0.1\necho\nls -d busy.* | wc -l\nrmdir busy.$$\n"})
	h := handler(t, vassal.CGI{Mounts: []vassal.CGIMount{{Path: dir}}, Processes: 2, Threads: 1})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			a, err := ask(t, h, "/n.sh")
			if n := strings.TrimSpace(a.text()); err != nil || n != "1" && n != "2" {
				t.Errorf("%s programs ran at once: %v", n, err)
			}
		})
	}
	all.Wait()
	st := h.Stats()
	if len(st.Workers) != 2 || st.Workers[0].Requests+st.Workers[1].Requests != 8 || st.Workers[0].Busy || st.Workers[1].Busy {
		t.Errorf("stats: %+v", st)
	}
}

func TestLimits(t *testing.T) {
	testenv.Leaks(t)
	umask := os.FileMode(0o027)
	dir := programs(t, map[string]string{"l.sh": "#!/bin/sh\necho\nulimit -n\nulimit -v\numask\nnice\necho $1\n", "plain": "x"})
	h := handler(t, vassal.CGI{Mounts: []vassal.CGIMount{{Path: dir}}, Limits: &vassal.ProcessLimits{Nice: 3, Umask: &umask,
		Rlimits: []vassal.Rlimit{{Resource: "nofile", Value: 99}, {Resource: "as", Value: 512 << 20}}}})
	a, err := ask(t, h, "/l.sh?arg")
	if want := "99\n524288\n0027\n3\narg\n"; err != nil || a.text() != want {
		t.Errorf("got %q, %v; want %q", a.text(), err, want)
	}
	if _, err := ask(t, h, "/plain"); exchange.StatusOf(err) != 403 {
		t.Errorf("a file that is no program: got %v", err)
	}
	var own syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_AS, &own); err != nil || own.Cur == 512<<20 {
		t.Errorf("the limit is this process's own now: %v, %v", own, err)
	}
}

func FuzzHead(f *testing.F) {
	for _, s := range []string{"A: b\r\n\r\n", "Status: 204 No\n\n", "Location: /x\n\n", ": x\n\n", "A : b\n\n", "\n", "Status: 999999999999999999999\n\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parse(s)
		if err == nil && (h.status < 200 || h.status > 599) {
			t.Errorf("%q: status %d", s, h.status)
		}
	})
}

func parse(s string) (head, error) {
	return readHead(bufio.NewReaderSize(strings.NewReader(s), 4<<10), 4<<10)
}

// TestEarlyAnswer: a program that answers before the client has sent its body
// waits for neither.
func TestEarlyAnswer(t *testing.T) {
	testenv.Leaks(t)
	dir := programs(t, map[string]string{"early.sh": "#!/bin/sh\necho\necho early\n"})
	h := handler(t, vassal.CGI{Mounts: []vassal.CGIMount{{Path: dir}}})
	body := &stalled{closed: make(chan struct{})}
	r := &exchange.Request{Start: time.Now(), Length: 10, Body: body, Vars: []exchange.Var{{Name: "PATH_INFO", Value: "/early.sh"}}}
	a := &answer{}
	if err := h.Serve(t.Context(), r, a); err != nil || a.text() != "early\n" || time.Since(r.Start) > 10*time.Second {
		t.Errorf("got %q, %v after %v", a.text(), err, time.Since(r.Start))
	}
}

// stalled is the body of a client that sends nothing.
type stalled struct{ closed chan struct{} }

func (s *stalled) Read([]byte) (int, error) { <-s.closed; return 0, errors.New("closed") }
func (s *stalled) Close() error             { close(s.closed); return nil }
