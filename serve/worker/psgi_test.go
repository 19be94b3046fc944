package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/serve/worker/lang"
	"liege/serve/worker/perl"
	"liege/vassal"
)

// startPSGI runs an app.psgi until the test ends.
func startPSGI(t testing.TB, text string, set func(app *vassal.App)) *running {
	t.Helper()
	p, app, log := psgiFixture(t, text, set)
	return run(t, p, app, log)
}

func psgiFixture(t testing.TB, text string, set func(app *vassal.App)) (*Pool, *vassal.App, string) {
	t.Helper()
	testenv.Need(t, testenv.Plack)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "app.psgi"), text)
	app := &vassal.App{Name: "shop", Dir: dir, Drain: 5 * time.Second, Workers: &vassal.Workers{
		Language: "perl", Processes: 1, Threads: 1, LoadTimeout: 30 * time.Second,
		Perl: &vassal.Perl{File: "app.psgi", At: vassal.Origin{File: "shop.ini", Line: 3}}}}
	if set != nil {
		set(app)
	}
	p, path := logged(t, app, func(log *slog.Logger) (*Pool, error) {
		return NewMounted(app, func(a *vassal.App) (lang.Runtime, error) { return perl.New(a), nil }, log)
	})
	return p, app, path
}

// lintedPSGI is wrapped in Plack::Middleware::Lint, which checks both sides.
const lintedPSGI = `
use strict; use warnings;
use Plack::Middleware::Lint;
use Plack::Request;
my @text = ('Content-Type', 'text/plain');
my $closed = 0;
{ package Pieces; sub new { my ($c, @l) = @_; bless [@l], $c } sub getline { shift @{$_[0]} } sub close { $closed++ } }
my $app = sub {
    my $env = shift;
    my $path = $env->{PATH_INFO};
    my $input = $env->{'psgi.input'};
    if ($path eq '/echo') { my $all = ''; while ($input->read(my $b, 10000)) { $all .= $b } return [200, [@text], [$all]] }
    if ($path eq '/sized') { $input->read(my $b, $env->{CONTENT_LENGTH}); return [200, [@text], [$b]] }
    if ($path eq '/offset') { my $b = 'ab'; $input->read($b, 3, 4); $b =~ tr/\0/./; return [200, [@text], [$b]] }
    if ($path eq '/seek') {
        $input->read(my $a, 1 << 24); $input->seek(0, 0); $input->read(my $b, 5); $input->read(my $c, 1 << 24);
        return [200, [@text], [($a eq $b . $c ? 'same ' : 'other ') . length $a]];
    }
    if ($path eq '/form') { my $r = Plack::Request->new($env); return [200, [@text], [$r->parameters->{a} . ' ' . length $r->content]] }
    if ($path eq '/lines') { my @l; while (defined(my $l = $input->getline)) { push @l, $l } return [200, [@text], [join '|', @l]] }
    if ($path eq '/many') { return [200, [@text], ['x' x 10, '', "\xff\xfe", 'y']] }
    if ($path eq '/empty') { return [200, [@text], []] }
    if ($path eq '/204') { return [204, [], []] }
    if ($path eq '/304') { return [304, [ETag => '"x"'], []] }
    if ($path eq '/cookies') { return [200, [@text, 'Set-Cookie', 'a=1', 'Set-Cookie', 'b=2'], ['c']] }
    if ($path eq '/pieces') { return [200, [@text], Pieces->new('a', 'b' x 10)] }
    if ($path eq '/closed') { return [200, [@text], [$closed]] }
    if ($path eq '/file') { open my $fh, '<', 'app.psgi' or die; return [200, [@text], $fh] }
    if ($path eq '/rest') { open my $fh, '<', 'app.psgi' or die; my $line = <$fh>; $line = <$fh>; return [200, [@text], $fh] }
    if ($path eq '/delayed') { return sub { $_[0]->([200, [@text], ['later']]) } }
    if ($path eq '/stream') { return sub { my $w = $_[0]->([200, [@text]]); $w->write("$_;") for 1 .. 3; $w->close } }
    if ($path eq '/errors') { $env->{'psgi.errors'}->print("printed\n"); $env->{'psgix.logger'}->({level => 'warn', message => 'logged'}); warn "warned\n"; return [200, [@text], ['ok']] }
    if ($path eq '/die') { die "on purpose\n" }
    return [404, [@text], ['none']];
};
Plack::Middleware::Lint->wrap($app);
`

func TestPSGILinted(t *testing.T) {
	r := startPSGI(t, lintedPSGI, nil)
	long := strings.Repeat("0123456789abcdef\n", 20000) // not in the packet
	_, rest, _ := strings.Cut(lintedPSGI[1:], "\n")
	form := func(body string) string { return "a=1&b=" + body }
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/echo", "hello", 200, "hello"}, {"POST", "/echo", long, 200, long}, {"GET", "/echo", "", 200, ""},
		{"POST", "/sized", long, 200, long}, {"POST", "/offset", "hello", 200, "ab..hel"},
		{"POST", "/seek", "short", 200, "same 5"}, {"POST", "/seek", long, 200, fmt.Sprintf("same %d", len(long))},
		{"POST", "/form", form("x"), 200, "1 7"}, {"POST", "/form", form(strings.Repeat("x", 200000)), 200, "1 200006"},
		{"POST", "/lines", "a\nb\n\nc", 200, "a\n|b\n|\n|c"}, {"POST", "/lines", long, 200, strings.ReplaceAll(long[:len(long)-1], "\n", "\n|") + "\n"},
		{"GET", "/many", "", 200, "xxxxxxxxxx\xff\xfey"}, {"GET", "/empty", "", 200, ""}, {"GET", "/204", "", 204, ""}, {"GET", "/304", "", 304, ""},
		{"GET", "/cookies", "", 200, "c"}, {"GET", "/pieces", "", 200, "abbbbbbbbbb"}, {"GET", "/closed", "", 200, "1"},
		{"GET", "/file", "", 200, lintedPSGI}, {"GET", "/rest", "", 200, rest}, {"HEAD", "/file", "", 200, ""}, {"HEAD", "/echo", "", 200, ""},
		{"HEAD", "/pieces", "", 200, ""}, {"GET", "/delayed", "", 200, "later"}, {"GET", "/stream", "", 200, "1;2;3;"}, {"GET", "/errors", "", 200, "ok"},
	} {
		req := request(c.method, c.path, c.body)
		if c.path == "/form" {
			req.Set("CONTENT_TYPE", "application/x-www-form-urlencoded")
		}
		rec, err := r.do(req)
		if err != nil {
			t.Errorf("%s %s: %v", c.method, c.path, err)
			continue
		}
		if got := rec.body.String(); rec.status != c.status || got != c.want {
			t.Errorf("%s %s: %d %.100q, want %d %.100q", c.method, c.path, rec.status, got, c.status, c.want)
		}
		if c.path == "/cookies" && fmt.Sprint(rec.fields) != "[{Content-Type text/plain} {Set-Cookie a=1} {Set-Cookie b=2} {Content-Length 1}]" {
			t.Errorf("fields %v", rec.fields)
		}
	}
	if _, err := r.do(request("GET", "/die", "")); exchange.StatusOf(err) != 500 || err == nil {
		t.Errorf("die: %v", err)
	}
	for _, want := range []string{"printed\n", "warn: logged\n", "warned\n", "on purpose\n"} {
		if !strings.Contains(r.log(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
}

const barePSGI = `
use Digest::SHA;
my ($cleaned, $flooded) = ('', 0);
sub { my $env = shift;
    my $path = $env->{PATH_INFO};
    my @text = ('Content-Type', 'text/plain');
    if ($path eq '/undef') { return undef }
    if ($path eq '/two') { return [200, []] }
    if ($path eq '/status') { return [99, [], []] }
    if ($path eq '/wide') { return [200, [], ["\x{263a}"]] }
    if ($path eq '/newline') { return [200, ['X-A', "a\nb"], []] }
    if ($path eq '/nul') { return [200, ['X-A', "a\0X-B\0b"], []] }
    if ($path eq '/silent') { return sub { } }
    if ($path eq '/twice') { return sub { my $r = shift; $r->([200, [], ['a']]); $r->([200, [], ['b']]) } }
    if ($path eq '/half') { return sub { my $w = $_[0]->([200, []]); $w->write('half'); die "on purpose\n" } }
    if ($path eq '/exit') { exit 3 }
    if ($path eq '/kill') { kill KILL => $$ }
    if ($path eq '/sleep') { sleep 60 }
    if ($path eq '/pid') { return [200, [@text], [$$]] }
    if ($path eq '/hints') {
        my $inform = $env->{'psgix.informational'} or return [200, [], ['not offered']];
        $inform->(103, [Link => '</a.css>; rel=preload', 'X-A', 1]);
        $inform->(102, []);
        my @said = map { my ($status, $headers) = @$_; eval { $inform->($status, $headers) }; $@ } [200, []], [101, []], [103, {}];
        return sub {
            my $w = $_[0]->([200, []]);
            $w->write('x');
            eval { $inform->(103, []) };
            $w->write(join '', @said, $@);
            $w->close;
        };
    }
    if ($path eq '/cleanup') { push @{ $env->{'psgix.cleanup.handlers'} }, sub { $cleaned = "$_[0]{PATH_INFO}" }; return [200, [], ['ok']] }
    if ($path eq '/cleaned') { return [200, [], [$cleaned]] }
    if ($path eq '/harakiri') { $env->{'psgix.harakiri.commit'} = 1; return [200, [], [$$]] }
    if ($path eq '/env') { return [200, [], [join '', map { "$_=$env->{$_}\n" } sort grep { !/psgi|uwsgi/ } keys %$env]] }
    if ($path eq '/title') { return [200, [], [$0, ' ', uwsgi::worker_id()]] }
    if ($path eq '/hash') {
        my ($d, $n, $b) = (Digest::SHA->new(256), 0);
        while ($env->{'psgi.input'}->read($b, 65536)) { $d->add($b); $n += length $b }
        return [200, [], ["$n " . $d->hexdigest]];
    }
    if ($path eq '/rss') { open my $s, '<', '/proc/self/status'; return [200, [], [map { /VmHWM:\s+(\d+)/ ? $1 : () } <$s>]] }
    if ($path eq '/large') { return sub { my $w = $_[0]->([200, []]); my $p = 'x' x 65536; $w->write($p) for 1 .. 1600; $w->close } }
    if ($path eq '/flood') { return sub { my $w = $_[0]->([200, []]); my $p = 'x' x 65536; eval { $w->write($p) while 1 }; $flooded = 1; die $@ } }
    if ($path eq '/flooded') { return [200, [], [$flooded]] }
    [200, [@text], ['hello']];
}
`

func TestPSGIAnswers(t *testing.T) {
	r := startPSGI(t, barePSGI, nil)
	for path, want := range map[string]string{
		"/undef": "neither an array nor", "/two": "returned 2 values", "/status": "the status is '99'", "/wide": "Wide character",
		"/newline": "", "/nul": "a NUL in a header field", "/silent": "without an answer",
	} {
		if _, err := r.do(request("GET", path, "")); err == nil || exchange.StatusOf(err) != 500 || !strings.Contains(r.log(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if rec, err := r.do(request("GET", "/half", "")); err == nil || rec.body.String() != "half" {
		t.Errorf("/half: %v %q", err, rec.body.String())
	}
	if rec, err := r.do(request("GET", "/twice", "")); err != nil || rec.body.String() != "a" {
		t.Errorf("/twice: %v %q", err, rec.body.String())
	}
	pid := r.get("/pid") // of the same worker, so what it logged before is there
	if !strings.Contains(r.log(), "called twice") {
		t.Error("a second answer is not logged")
	}
	for path, want := range map[string]string{"/": "hello", "/title": "shop worker 1 1", "/cleanup": "ok", "/harakiri": pid} {
		if path != "/harakiri" {
			if got := r.get(path); got != want {
				t.Errorf("%s: %q, want %q", path, got, want)
			}
		}
	}
	if got := r.get("/cleaned"); got != "/cleanup" {
		t.Errorf("cleanup handlers: %q", got)
	}
	w := &informed{}
	w.keep = true
	err := r.Serve(t.Context(), request("GET", "/hints", ""), w)
	want := "xthe status is '200', not 102 to 199\nthe status is '101', not 102 to 199\nthe headers are no array\nthe answer has begun: nothing can come before it\n"
	if got := w.body.String(); err != nil || got != want || fmt.Sprint(w.before) != "[103 [{Link </a.css>; rel=preload} {X-A 1}] 102 []]" {
		t.Errorf("informational: %v %q, %v", err, got, w.before)
	}
	old := request("GET", "/hints", "")
	old.Set("SERVER_PROTOCOL", "HTTP/1.0")
	if rec, err := r.do(old); err != nil || rec.body.String() != "not offered" {
		t.Errorf("informational, by HTTP/1.0: %v %q", err, rec.body.String())
	}
	if got := r.get("/harakiri"); got != pid {
		t.Errorf("harakiri: %q, want %q", got, pid)
	}
	if got := r.get("/pid"); got == pid {
		t.Errorf("the worker lives on after psgix.harakiri.commit")
	}
	req := request("GET", "/env?a=b", "")
	req.Set("HTTP_COOKIE", strings.Repeat("c", 60000))
	rec, err := r.do(req)
	if want := "HTTP_COOKIE=" + strings.Repeat("c", 60000) + "\nHTTP_HOST=shop.example\nPATH_INFO=/env\nQUERY_STRING=a=b\n"; err != nil || !strings.HasPrefix(rec.body.String(), want) {
		t.Errorf("env: %v\n%d bytes", err, rec.body.Len())
	}
}

// TestPSGIEnvironment: as under uWSGI no framework takes itself for a developer's,
// and what the file says stands, also when it says nothing.
func TestPSGIEnvironment(t *testing.T) {
	for _, c := range []struct {
		env  []string
		want string
	}{
		{nil, "uwsgi uwsgi uwsgi"},
		{[]string{"PLACK_ENV=production"}, "production production uwsgi"},
		{[]string{"PLACK_ENV=", "PLACK_SERVER=mine"}, "  mine"},
	} {
		r := startPSGI(t, `my $loaded = $ENV{PLACK_ENV}; sub { [200, [], [qx'printf %s "$PLACK_ENV"' . " $loaded $ENV{PLACK_SERVER}"]] }`, func(app *vassal.App) { app.Env = c.env })
		if got := r.get("/"); got != c.want {
			t.Errorf("%q: got %q, want %q", c.env, got, c.want)
		}
	}
}

func TestPSGIDies(t *testing.T) {
	r := startPSGI(t, barePSGI, func(a *vassal.App) { a.Workers.Harakiri = time.Second })
	for path, status := range map[string]int{"/exit": 502, "/kill": 502, "/sleep": 504} {
		if _, err := r.do(request("GET", path, "")); err == nil || exchange.StatusOf(err) != status {
			t.Errorf("%s: %v, want %d", path, err, status)
		}
		if got := r.get("/"); got != "hello" {
			t.Errorf("after %s: %q", path, got)
		}
	}
}

func TestPSGIProcesses(t *testing.T) {
	r := startPSGI(t, barePSGI, func(a *vassal.App) { a.Workers.Processes, a.Workers.MaxRequests = 3, 10 })
	pids := map[string]bool{}
	for range 60 {
		pids[r.get("/pid")] = true
	}
	if len(pids) < 5 {
		t.Errorf("%d processes for 60 requests, of 10 each", len(pids))
	}
}

func TestPSGILargeBothWays(t *testing.T) {
	r := startPSGI(t, barePSGI, nil)
	size := int64(100 << 20)
	if v := os.Getenv("LIEGE_TEST_BODY"); v != "" {
		if _, err := fmt.Sscan(v, &size); err != nil {
			t.Fatal(err)
		}
	}
	rss := func() (n int) {
		_, _ = fmt.Sscan(r.get("/rss"), &n)
		return n
	}
	before := rss()
	sum := sha256.New()
	req := request("POST", "/hash", "")
	req.Length = size
	req.Body = io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{}), size), sum)
	rec, err := r.do(req)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%d %s", size, hex.EncodeToString(sum.Sum(nil))); rec.body.String() != want {
		t.Errorf("got %q, want %q", rec.body.String(), want)
	}
	w := &recorder{}
	if err := r.Serve(t.Context(), request("GET", "/large", ""), w); err != nil || w.size != 1600*65536 {
		t.Errorf("download: %v, %d bytes", err, w.size)
	}
	if grown := rss() - before; grown > 8<<10 {
		t.Errorf("the worker grew by %d kB", grown)
	}
}

func TestPSGIAbort(t *testing.T) {
	r := startPSGI(t, barePSGI, nil)
	gone := errors.New("connection reset")
	n := 0
	w := &recorder{onWrite: func([]byte) error {
		if n++; n > 10 {
			return gone
		}
		return nil
	}}
	if err := r.Serve(t.Context(), request("GET", "/flood", ""), w); !errors.Is(err, gone) {
		t.Errorf("Serve: %v", err)
	}
	if got := r.get("/flooded"); got != "1" {
		t.Errorf("the application was not told: %q", got)
	}
}

func TestPSGICall(t *testing.T) {
	r := startPSGI(t, `
uwsgi::register_rpc('join', sub { join '|', @_ });
uwsgi::register_rpc('none', sub { return });
uwsgi::register_rpc('die', sub { die "on purpose\n" });
sub { [200, [], [uwsgi::rpc('', 'join', 'x', 'y'), uwsgi::call('join', 'z')]] }
`, nil)
	big := strings.Repeat("x", 30000)
	for _, args := range [][]string{{"a", "b"}, {big, big}} {
		if got, err := r.Call(t.Context(), "join", args); err != nil || got != strings.Join(args, "|") {
			t.Errorf("join: %d bytes, %v", len(got), err)
		}
	}
	for _, name := range []string{"none", "die", "missing"} {
		if got, err := r.Call(t.Context(), name, nil); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := r.get("/"); got != "x|yz" {
		t.Errorf("%q", got)
	}
}

func TestPSGIFails(t *testing.T) {
	for _, c := range []struct {
		name, text string
		set        func(dir string, a *vassal.App)
		code       string
		want, hint string
	}{
		{"syntax", "use strict;\nmy $a = ;\nsub {}\n", nil, vassal.CodeImportError, "app.psgi line 2", ""},
		{"strict", "use strict;\n$nope = 1;\nsub {}\n", nil, vassal.CodeImportError, "app.psgi line 2", ""},
		{"die", "\ndie 'on purpose';\n", nil, vassal.CodeImportError, "on purpose at ", ""},
		{"module", "use No::Such::Thing;\nsub {}\n", nil, vassal.CodeImportError, "app.psgi line 1", "apt install libno-such-thing-perl"},
		{"library", "use Shop;\nsub {}\n", func(dir string, _ *vassal.App) {
			_ = os.Mkdir(filepath.Join(dir, "lib"), 0o755)
			_ = os.WriteFile(filepath.Join(dir, "lib/Shop.pm"), []byte("1;"), 0o644)
		}, vassal.CodeImportError, "Shop.pm", "perl-local-lib = "},
		{"value", "42;\n", nil, vassal.CodeNoCallable, "'42'", "the last value"},
		{"missing", "", func(_ string, a *vassal.App) { a.Workers.Perl.File = "other.psgi" }, vassal.CodeAppNotFound, "other.psgi", "check psgi"},
		{"dir", "", func(_ string, a *vassal.App) { a.Dir = "/nonexistent" }, vassal.CodeAppNotFound, "/nonexistent", "chdir"},
		{"interpreter", "", func(_ string, a *vassal.App) { a.Workers.Interpreter = "/nonexistent/perl" }, vassal.CodeNoInterpreter, "/nonexistent/perl not found", "liege plugin build"},
		{"lazy", "die 'on purpose';\n", func(_ string, a *vassal.App) { a.Workers.LazyApps = true }, vassal.CodeImportError, "on purpose", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, _, log := psgiFixture(t, c.text, func(a *vassal.App) {
				if c.set != nil {
					c.set(a.Dir, a)
				}
			})
			err := p.Run(t.Context())
			problem, ok := errors.AsType[*vassal.Problem](err)
			if !ok {
				b, _ := os.ReadFile(log)
				t.Fatalf("Run: %v\n%s", err, b)
			}
			if problem.Code != c.code || !strings.Contains(problem.Message, c.want) || !strings.Contains(problem.Hint, c.hint) {
				t.Errorf("got %s: %s; hint: %s", problem.Code, problem.Message, problem.Hint)
			}
			if problem.File != "shop.ini" || problem.Line != 3 {
				t.Errorf("at %s:%d", problem.File, problem.Line)
			}
		})
	}
}

func TestPSGISettings(t *testing.T) {
	r := startPSGI(t, `
use Shop;
our @ORDER;
sub { [200, [], [join ' ', $Shop::NAME, @ARGV, @main::ORDER]] }
`, func(a *vassal.App) {
		for name, text := range map[string]string{"ext/lib/perl5/Shop.pm": "package Shop; our $NAME = 'local'; 1;", "first.pl": "push @main::ORDER, 'exec'; 1;", "second.pl": "push @main::ORDER, 'postfork'; 1;"} {
			_ = os.MkdirAll(filepath.Join(a.Dir, filepath.Dir(name)), 0o755)
			writeFile(t, filepath.Join(a.Dir, name), text)
		}
		pl := a.Workers.Perl
		pl.Lib, pl.Args, pl.Exec, pl.ExecPostFork = []string{filepath.Join(a.Dir, "ext")}, []string{"one", "two"}, []string{"first.pl"}, []string{"second.pl"}
	})
	if got := r.get("/"); got != "local one two exec postfork" {
		t.Errorf("%q", got)
	}
}

func BenchmarkPSGI(b *testing.B) {
	r := startPSGI(b, barePSGI, func(a *vassal.App) { a.Workers.Processes = 2 })
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := r.Serve(context.Background(), request("GET", "/", ""), &recorder{}); err != nil {
				b.Error(err)
			}
		}
	})
}

// TestPSGIUnicode: an application that has made its handles :utf8, and one whose
// exceptions have no text, get their lines into the log and their requests answered.
func TestPSGIUnicode(t *testing.T) {
	r := startPSGI(t, `
use strict; use warnings; use utf8;
use open qw(:std :utf8);
binmode STDERR, ':utf8';
{ package Mute; use overload '""' => sub { die "no text" }, fallback => 1; }
sub {
    my $env = shift;
    my $path = $env->{PATH_INFO};
    if ($path eq '/die') { die "died: \x{263a}" }
    if ($path eq '/mute') { die bless {}, 'Mute' }
    if ($path eq '/log') { $env->{'psgi.errors'}->print("logged: \x{263a}"); push @{ $env->{'psgix.cleanup.handlers'} }, sub { die bless {}, 'Mute' } }
    [200, [], [$$]];
};
`, nil)
	pid := r.get("/log")
	for _, path := range []string{"/die", "/mute"} {
		if _, err := r.do(request("GET", path, "")); exchange.StatusOf(err) != 500 {
			t.Errorf("%s: %v", path, err)
		}
	}
	if got := r.get("/"); got != pid {
		t.Errorf("worker %s instead of %s", got, pid)
	}
	for _, want := range []string{"died: \u263a", "logged: \u263a", "an exception of Mute"} {
		if !strings.Contains(r.log(), want) {
			t.Errorf("log without %q:\n%s", want, r.log())
		}
	}
}

// informed is an answer before which others may come.
type informed struct {
	recorder
	before []any
}

func (w *informed) Inform(status int, fields []exchange.Field) {
	w.before = append(w.before, status, fields)
}

// TestPSGIUtf8Files: what makes every file of a Perl a text leaves the
// worker's own alone, which are bytes.
func TestPSGIUtf8Files(t *testing.T) {
	for _, env := range []string{"PERL_UNICODE=D", "PERL_UNICODE=SDA", "PERL5OPT=-C127", "PERL5OPT=-Mopen=:std,:utf8"} {
		r := startPSGI(t, `
sub {
    my $env = shift;
    $env->{'psgi.input'}->read(my $body, $env->{CONTENT_LENGTH} || 0);
    utf8::is_utf8($body) and return [200, [], ['text']];
    if ($env->{PATH_INFO} eq '/io') { my $io = $env->{'psgix.io'}; syswrite $io, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"; close $io; return [] }
    warn "\x{fc}ber alles\n";
    [200, [], [$body, "\xff\xc3\xa4"]];
};
`, func(app *vassal.App) {
			app.Env = []string{env}
			app.Workers.Perl.IO, app.Workers.Harakiri = true, 10*time.Second
		})
		for _, size := range []int{0, 100, 300000} {
			body := strings.Repeat("\xfe\x00\xc3\xa4", size/4)
			rec, err := r.do(request("POST", "/", body))
			if err != nil || rec.body.String() != body+"\xff\xc3\xa4" {
				t.Fatalf("%s: %d bytes: %v, %d bytes back", env, size, err, rec.body.Len())
			}
		}
		if got := r.get("/io"); got != "ok" {
			t.Errorf("%s: psgix.io: %q", env, got)
		}
		r.close()
	}
}
