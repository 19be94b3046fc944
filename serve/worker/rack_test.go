package worker

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/serve/worker/lang"
	"liege/serve/worker/ruby"
	"liege/vassal"
)

// startRack runs a config.ru until the test ends.
func startRack(t testing.TB, text string, set func(app *vassal.App)) *running {
	t.Helper()
	p, app, log := rackFixture(t, text, set)
	return run(t, p, app, log)
}

func rackFixture(t testing.TB, text string, set func(app *vassal.App)) (*Pool, *vassal.App, string) {
	t.Helper()
	testenv.Need(t, testenv.Ruby)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "config.ru"), text)
	app := &vassal.App{Name: "shop", Dir: dir, Drain: 5 * time.Second, Workers: &vassal.Workers{
		Language: "ruby", Processes: 1, Threads: 1, LoadTimeout: 30 * time.Second,
		Ruby: &vassal.Ruby{File: "config.ru", At: vassal.Origin{File: "shop.ini", Line: 3}}}}
	if set != nil {
		set(app)
	}
	p, path := logged(t, app, func(log *slog.Logger) (*Pool, error) {
		return NewMounted(app, func(a *vassal.App) (lang.Runtime, error) { return ruby.New(a), nil }, log)
	})
	return p, app, path
}

// logged makes a pool whose log, and whose application's, is a file.
func logged(t testing.TB, _ *vassal.App, make func(*slog.Logger) (*Pool, error)) (*Pool, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	p, err := make(slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	p.Stdout, p.Stderr = log, log
	return p, path
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// linted is wrapped in Rack::Lint, which checks both sides of Rack: env and
// input on ours, so a breach is a LintError and a 500.
const linted = `
require 'uri'
require 'rack/lint'
require 'rack/body_proxy'
class Pieces
  def initialize(list) @list = list end
  def each; @list.each { |p| yield p }; end
  def close; $closed = ($closed || 0) + 1; end
end
TEXT = {'Content-Type' => 'text/plain'}
app = lambda do |env|
  input = env['rack.input']
  case env['PATH_INFO']
  when '/echo' then [200, TEXT, [input.read]]
  when '/sized' then [200, TEXT, [input.read(env['CONTENT_LENGTH'].to_i)]]
  when '/lines' then [200, TEXT, [input.each { |l| (@l ||= []) << l } && @l.join('|')].tap { @l = nil }]
  when '/gets' then [200, TEXT, [[input.gets, input.gets, input.read].inspect]]
  when '/rewind'
    first = input.read
    input.rewind
    again = input.read(5).to_s + input.read.to_s
    [200, TEXT, [(first == again).to_s + ' ' + again.bytesize.to_s]]
  when '/each' then [200, TEXT, Pieces.new(['a', '', 'b' * 10, "\xff\xfe".dup.force_encoding('BINARY'), "\u00e9"])]
  when '/length' then [200, TEXT.merge('Content-Length' => '3'), Pieces.new(['abc'])]
  when '/many' then [200, TEXT, ['x' * 10, "\u00e9", "\xff".dup.force_encoding('BINARY')]]
  when '/proxy' then [200, TEXT, Rack::BodyProxy.new(['proxied']) { $proxied = true }]
  when '/204' then [204, {}, []]
  when '/304' then [304, {'ETag' => '"x"'}, []]
  when '/empty' then [200, TEXT, []]
  when '/cookies' then [200, TEXT.merge('Set-Cookie' => "a=1\nb=2"), ['c']]
  when '/status' then [418, TEXT, ['teapot']]
  when '/closed' then [200, TEXT, [[$closed, $proxied].inspect]]
  when '/errors'
    env['rack.errors'].puts 'put line'
    env['rack.errors'].write "written\n"
    env['rack.errors'].flush
    [200, TEXT, ['ok']]
  when '/raise' then raise ArgumentError, 'on purpose'
  else [404, TEXT, ['none']]
  end
end
run Rack::Lint.new(app)
`

func TestRackLinted(t *testing.T) {
	r := startRack(t, linted, nil)
	long := strings.Repeat("0123456789abcdef\n", 20000) // not in the packet
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/echo", "hello", 200, "hello"}, {"POST", "/echo", long, 200, long}, {"GET", "/echo", "", 200, ""},
		{"POST", "/sized", long, 200, long},
		{"POST", "/lines", "a\nb\n\nc", 200, "a\n|b\n|\n|c"}, {"POST", "/lines", long, 200, strings.ReplaceAll(long[:len(long)-1], "\n", "\n|") + "\n"},
		{"POST", "/gets", "a\nb\nrest", 200, `["a\n", "b\n", "rest"]`},
		{"POST", "/gets", "a\nb\n" + long, 200, `["a\n", "b\n", "` + strings.ReplaceAll(long, "\n", `\n`) + `"]`},
		{"POST", "/rewind", "short", 200, "true 5"}, {"POST", "/rewind", long, 200, fmt.Sprintf("true %d", len(long))},
		{"GET", "/each", "", 200, "a" + strings.Repeat("b", 10) + "\xff\xfe\u00e9"}, {"GET", "/length", "", 200, "abc"},
		{"GET", "/many", "", 200, "xxxxxxxxxx\u00e9\xff"}, {"GET", "/proxy", "", 200, "proxied"},
		{"GET", "/204", "", 204, ""}, {"GET", "/304", "", 304, ""}, {"GET", "/empty", "", 200, ""},
		{"HEAD", "/echo", "", 200, ""}, {"HEAD", "/each", "", 200, ""},
		{"GET", "/cookies", "", 200, "c"}, {"GET", "/status", "", 418, "teapot"}, {"GET", "/errors", "", 200, "ok"},
		{"GET", "/closed", "", 200, "[3, true]"},
	} {
		rec, err := r.do(request(c.method, c.path, c.body))
		if err != nil {
			t.Errorf("%s %s: %v", c.method, c.path, err)
			continue
		}
		if got := rec.body.String(); rec.status != c.status || got != c.want {
			t.Errorf("%s %s: %d %.100q, want %d %.100q", c.method, c.path, rec.status, got, c.status, c.want)
		}
		if c.path == "/cookies" && fmt.Sprint(rec.fields) != "[{Content-Type text/plain} {Set-Cookie a=1} {Set-Cookie b=2}]" {
			t.Errorf("fields %v", rec.fields)
		}
	}
	if _, err := r.do(request("GET", "/raise", "")); exchange.StatusOf(err) != 500 || err == nil {
		t.Errorf("an exception: %v", err)
	}
	for _, want := range []string{"put line\n", "written\n", "ArgumentError: on purpose\n", "config.ru:"} {
		if !strings.Contains(r.log(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
}

const unlinted = `
class Path
  def initialize(path) @path = path end
  def to_path; @path end
  def each; yield 'by each' end
end
class Streaming
  def call(stream)
    Thread.new do
      3.times { |i| stream.write("#{i};") }
      stream << 'read ' << stream.read.to_s
      stream.close
    end
  end
end
run(lambda do |env|
  text = {'content-type' => 'text/plain'}
  case env['PATH_INFO']
  when '/array' then [200, text.merge('set-cookie' => ['a=1', 'b=2']), ['c']]
  when '/file' then [200, text, Path.new(File.expand_path('config.ru'))]
  when '/part' then [206, text.merge('content-range' => 'bytes 1-7/9'), Path.new(File.expand_path('config.ru'))]
  when '/nofile' then [200, text, Path.new('/nonexistent')]
  when '/device' then [200, text, Path.new('/dev/null')]
  when '/string' then [200, text, 'a string']
  when '/no-array'
    body = Path.new('/nonexistent')
    def body.to_ary; end
    [200, text, body]
  when '/stream' then [200, text, Streaming.new]
  when '/partial'
    [200, text.merge('rack.hijack' => lambda { |io| io.write('partial'); io.close }), []]
  when '/nil' then nil
  when '/two' then [200, text]
  when '/bad-status' then [99, text, []]
  when '/hijack'
    io = env['rack.hijack'].call
    Thread.new do
      io.write("HTTP/1.1 201 Made\r\nX-Own: yes\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
      sleep 0.2
      io.write("0\r\n\r\n")
      io.close
    end
    [500, {}, ['ignored']]
  when '/switch'
    io = env['rack.hijack'].call
    Thread.new do
      io.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n")
      while (line = io.gets); io.write('echo ' + line); end
      io.close
    end
    nil
  when '/upload'
    io = env['rack.hijack'].call
    Thread.new { got = io.read(300000); io.write("HTTP/1.0 200 OK\r\n\r\n#{got.bytesize}"); io.close }
    nil
  when '/dropped' then env['rack.hijack'].call.close; nil
  when '/symbol' then [200, text, [:symbol]]
  when '/newline' then [200, {'x-a' => "a\rb"}, []]
  when '/nul' then [200, {'x-a' => "a\0x-b\0b"}, []]
  when '/half'
    body = Object.new
    def body.each; yield 'half'; raise 'on purpose'; end
    [200, text, body]
  when '/exit' then exit(3)
  when '/die' then Process.kill(:KILL, Process.pid)
  when '/memory' then raise NoMemoryError
  when '/pid' then [200, text, [Process.pid.to_s]]
  when '/core' then [200, text, [env['uwsgi.core'].to_s, ' ', env['rack.multithread'].to_s, ' ', UWSGI.worker_id.to_s]]
  when '/sleep' then sleep 60
  when '/nap' then sleep 0.3; [200, text, ['ok']]
  when '/finished'
    env['rack.response_finished'] << lambda { |e, s, h, err| $finished = [s, err.inspect] }
    [200, text, ['ok']]
  when '/was' then [200, text, [$finished.inspect]]
  when '/env' then [200, text, [env.reject { |k, _| k =~ /^rack|uwsgi/ }.sort.map { |k, v| "#{k}=#{v}\n" }.join]]
  when '/hash'
    require 'digest'
    d, n = Digest::SHA256.new, 0
    p = ''
    while env['rack.input'].read(65536, p); d << p; n += p.bytesize; end
    [200, text, ["#{n} #{d.hexdigest} #{File.read('/proc/self/status')[/VmHWM:\s+(\d+)/, 1]}"]]
  when '/flood'
    body = Object.new
    def body.each; p = 'x' * 65536; loop { yield p }; end
    def body.close; $flooded = true; end
    [200, text, body]
  when '/large'
    body = Object.new
    def body.each; p = 'x' * 65536; 1600.times { yield p }; end
    [200, text, body]
  when '/rss' then [200, text, [File.read('/proc/self/status')[/VmHWM:\s+(\d+)/, 1]]]
  when '/flooded' then [200, text, [$flooded.inspect]]
  else [200, text, ['hello']]
  end
end)
`

func TestRackAnswers(t *testing.T) {
	r := startRack(t, unlinted, nil)
	for _, c := range []struct {
		method, path, body string
		want               string
	}{
		{"GET", "/array", "", "c"}, {"GET", "/file", "", unlinted}, {"HEAD", "/file", "", ""}, {"GET", "/nofile", "", "by each"}, {"GET", "/device", "", "by each"}, {"GET", "/string", "", "a string"}, {"GET", "/no-array", "", "by each"}, {"POST", "/stream", "body", "0;1;2;read body"},
		{"GET", "/stream", "", "0;1;2;read "}, {"HEAD", "/stream", "", ""}, {"GET", "/partial", "", "partial"},
		{"GET", "/core", "", "0 false 1"}, {"GET", "/finished", "", "ok"}, {"GET", "/was", "", `[200, "nil"]`},
	} {
		rec, err := r.do(request(c.method, c.path, c.body))
		if err != nil || rec.status != 200 || rec.body.String() != c.want {
			t.Errorf("%s %s: %v %d %q, want %q", c.method, c.path, err, rec.status, rec.body.String(), c.want)
		}
		if c.path == "/array" && fmt.Sprint(rec.fields) != "[{content-type text/plain} {set-cookie a=1} {set-cookie b=2} {Content-Length 1}]" {
			t.Errorf("fields %v", rec.fields)
		}
	}
	if rec, err := r.do(request("GET", "/part", "")); err != nil || rec.status != 206 || rec.body.String() != "by each" {
		t.Errorf("a part of a file: %v %d %q", err, rec.status, rec.body.String())
	}
	for path, want := range map[string]string{
		"/nil": "the application returned nothing", "/two": "", "/bad-status": "the status is 99", "/symbol": "yielded Symbol",
		"/newline": "", "/nul": "a NUL in a header field",
	} {
		rec, err := r.do(request("GET", path, ""))
		if path == "/two" { // [status, headers]: an answer without a body
			if err != nil || rec.status != 200 {
				t.Errorf("%s: %v", path, err)
			}
			continue
		}
		if err == nil || exchange.StatusOf(err) != 500 || !strings.Contains(r.log(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	rec, err := r.do(request("GET", "/half", ""))
	if err == nil || rec.body.String() != "half" {
		t.Errorf("/half: %v %q", err, rec.body.String())
	}
	rec, err = r.do(request("GET", "/env?a=b", ""))
	if want := "HTTP_HOST=shop.example\nPATH_INFO=/env\nQUERY_STRING=a=b\n"; err != nil || !strings.HasPrefix(rec.body.String(), want) {
		t.Errorf("env: %v\n%s", err, rec.body.String())
	}
}

// tunnelled is a client whose connection can become a tunnel.
type tunnelled struct {
	recorder
	near net.Conn
}

func (w *tunnelled) Tunnel(status int, reason string, fields []exchange.Field) (exchange.Stream, error) {
	w.status, w.reason, w.fields = status, reason, fields
	return w.near.(*net.UnixConn), nil
}

// TestRackHijack: the application takes the connection over, and its worker
// is free.
func TestRackHijack(t *testing.T) {
	r := startRack(t, unlinted, nil)
	rec, err := r.do(request("GET", "/hijack", ""))
	if err != nil || rec.status != 201 || rec.body.String() != "hello" || rec.field("X-Own") != "yes" {
		t.Errorf("%v: %d %q %v", err, rec.status, rec.body.String(), rec.fields)
	}
	rec, err = r.do(request("POST", "/upload", strings.Repeat("x", 300000)))
	if err != nil || rec.body.String() != "300000" {
		t.Errorf("a body: %v %q", err, rec.body.String())
	}
	if _, err := r.do(request("GET", "/dropped", "")); exchange.StatusOf(err) != 502 || err == nil {
		t.Errorf("nothing: %v", err)
	}
	near, far, err := socketPair(unix.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.FileConn(far)
	far.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	req := request("GET", "/switch", "")
	req.Set("HTTP_UPGRADE", "websocket")
	w := &tunnelled{near: near}
	done := make(chan error, 1)
	go func() { done <- r.Serve(t.Context(), req, w) }()
	in := bufio.NewReader(client)
	for _, line := range []string{"one\n", "two\n"} {
		if _, err := io.WriteString(client, line); err != nil {
			t.Fatal(err)
		}
		if got, err := in.ReadString('\n'); err != nil || got != "echo "+line {
			t.Errorf("%q %v", got, err)
		}
		if got := r.get("/"); got != "hello" { // by the only worker
			t.Errorf("beside the tunnel: %q", got)
		}
	}
	client.Close()
	if err := <-done; err != nil || w.status != 101 {
		t.Errorf("%v %d", err, w.status)
	}
	// One whose client is gone before it has answered leaves nothing.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Serve(ctx, req, w); err == nil {
		t.Error("no error")
	}
}

// TestRackDies: whatever ends a worker, its request fails, and the next one
// is answered.
func TestRackDies(t *testing.T) {
	r := startRack(t, unlinted, func(a *vassal.App) { a.Workers.Harakiri = time.Second })
	for path, status := range map[string]int{"/exit": 500, "/die": 502, "/memory": 500, "/sleep": 504} {
		if _, err := r.do(request("GET", path, "")); err == nil || exchange.StatusOf(err) != status {
			t.Errorf("%s: %v, want %d", path, err, status)
		}
		if rec, err := r.do(request("GET", "/", "")); err != nil || rec.body.String() != "hello" {
			t.Errorf("after %s: %v", path, err)
		}
	}
}

func TestRackThreads(t *testing.T) {
	r := startRack(t, unlinted, func(a *vassal.App) { a.Workers.Threads, a.Workers.MaxRequests = 4, 10 })
	started := time.Now()
	done := make(chan error)
	const n = 16
	for range n {
		go func() {
			_, err := r.do(request("GET", "/nap", ""))
			done <- err
		}()
	}
	for range n {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if took := time.Since(started); took > 4*time.Second { // one after the other would be 4.8
		t.Errorf("16 naps by 4 threads took %v", took)
	}
	pids := map[string]bool{}
	for range 30 {
		rec, err := r.do(request("GET", "/pid", ""))
		if err != nil {
			t.Fatal(err)
		}
		pids[rec.body.String()] = true
	}
	if len(pids) < 3 {
		t.Errorf("%d processes for 46 requests, of 10 each", len(pids))
	}
}

// TestRackLines: the lines of a body, however long they are, take the time of
// what is read, and each ends behind its separator.
func TestRackLines(t *testing.T) {
	r := startRack(t, `
run(lambda do |env|
  input, lines = env['rack.input'], []
  while (line = env['PATH_INFO'] == '/crlf' ? input.gets("\r\n") : input.gets)
    lines << line.bytesize
  end
  [200, {}, [lines.inspect]]
end)
`, nil)
	long := strings.Repeat("x", 12<<20)
	for _, c := range [][3]string{
		{"/", long, "[12582912]"},
		{"/", "a\n\n" + long + "\n" + strings.Repeat("y", 4095) + "\nz", "[2, 1, 12582913, 4096, 1]"},
		{"/crlf", strings.Repeat("x", 4095) + "\r\n\n\r" + long + "\r\n", "[4097, 12582916]"},
	} {
		began := time.Now()
		if rec, err := r.do(request("POST", c[0], c[1])); err != nil || rec.body.String() != c[2] || time.Since(began) > 4*time.Second {
			t.Errorf("%s: %v in %v, want %s", rec.body.String(), err, time.Since(began), c[2])
		}
	}
}

// TestRackLargeBothWays: bodies larger than any buffer pass without growing
// the worker.
func TestRackLargeBothWays(t *testing.T) {
	r := startRack(t, unlinted, nil)
	size := int64(100 << 20)
	if v := os.Getenv("LIEGE_TEST_BODY"); v != "" {
		if _, err := fmt.Sscan(v, &size); err != nil {
			t.Fatal(err)
		}
	}
	rss := func() (n int) {
		rec, err := r.do(request("GET", "/rss", ""))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Sscan(rec.body.String(), &n)
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
	if want := fmt.Sprintf("%d %s ", size, hex.EncodeToString(sum.Sum(nil))); !strings.HasPrefix(rec.body.String(), want) {
		t.Errorf("got %q, want %q", rec.body.String(), want)
	}
	w := &recorder{}
	if err := r.Serve(t.Context(), request("GET", "/large", ""), w); err != nil || w.size != 1600*65536 {
		t.Errorf("download: %v, %d bytes", err, w.size)
	}
	if grown := rss() - before; grown > 24<<10 {
		t.Errorf("the worker grew by %d kB", grown)
	}
}

func TestRackAbort(t *testing.T) {
	r := startRack(t, unlinted, nil)
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
	rec, err := r.do(request("GET", "/flooded", ""))
	if err != nil || rec.body.String() != "true" {
		t.Errorf("the body was not closed: %v %q", err, rec.body.String())
	}
}

func TestRackLargeHead(t *testing.T) {
	r := startRack(t, unlinted, nil)
	req := request("GET", "/env", "")
	req.Set("HTTP_COOKIE", strings.Repeat("c", 60000))
	rec, err := r.do(req)
	if err != nil || !strings.Contains(rec.body.String(), "HTTP_COOKIE="+strings.Repeat("c", 60000)+"\n") {
		t.Errorf("%v: %d bytes", err, rec.body.Len())
	}
}

func TestRackCall(t *testing.T) {
	r := startRack(t, `
UWSGI.register_rpc('join', lambda { |*args| args.join('|') }, 0)
UWSGI.register_rpc('none', proc { nil })
UWSGI.register_rpc('raise', proc { raise 'on purpose' })
UWSGI.register_rpc('number', proc { 7 })
run lambda { |env| [200, {}, [UWSGI.rpc(nil, 'join', 'x', 'y')]] }
`, nil)
	if got, err := r.Call(t.Context(), "join", []string{"a", "b"}); err != nil || got != "a|b" {
		t.Errorf("join: %q %v", got, err)
	}
	big := strings.Repeat("x", 30000)
	if got, err := r.Call(t.Context(), "join", []string{big, big}); err != nil || got != big+"|"+big {
		t.Errorf("join of much: %d %v", len(got), err)
	}
	for _, name := range []string{"none", "raise", "number", "missing"} {
		if got, err := r.Call(t.Context(), name, nil); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
	if rec, err := r.do(request("GET", "/", "")); err != nil || rec.body.String() != "x|y" {
		t.Errorf("%v %q", err, rec.body.String())
	}
}

// TestRackFails: what does not load is a problem with its place and a hint.
func TestRackFails(t *testing.T) {
	for _, c := range []struct {
		name, text string
		set        func(dir string, a *vassal.App)
		code       string
		want, hint string
	}{
		{"syntax", "run lambda { |env|\n  [200, {}, [}\n}\n", nil, vassal.CodeImportError, "config.ru:2", ""},
		{"name", "\nrun Shop\n", nil, vassal.CodeImportError, "config.ru:2", ""},
		{"gem", "require 'nosuchgem/part'\n", nil, vassal.CodeImportError, "config.ru:1", "gem install nosuchgem"},
		{"library", "require 'shop'\n", func(dir string, _ *vassal.App) {
			_ = os.Mkdir(filepath.Join(dir, "lib"), 0o755)
			_ = os.WriteFile(filepath.Join(dir, "lib/shop.rb"), nil, 0o644)
		}, vassal.CodeImportError, "config.ru:1", "rb-lib = "},
		{"nothing", "# empty\n", nil, vassal.CodeImportError, "missing run", ""},
		{"missing", "", func(_ string, a *vassal.App) { a.Workers.Ruby.File = "other.ru" }, vassal.CodeAppNotFound, "other.ru", "check rack"},
		{"dir", "", func(_ string, a *vassal.App) { a.Dir = "/nonexistent" }, vassal.CodeAppNotFound, "/nonexistent", "chdir"},
		{"exit", "exit 3\n", nil, vassal.CodeImportError, "exit(3)", ""},
		{"bundle", "run 1\n", func(dir string, _ *vassal.App) {
			_ = os.WriteFile(filepath.Join(dir, "Gemfile"), []byte("source 'https://gems.invalid'\ngem 'nosuchgem'\n"), 0o644)
		}, vassal.CodeImportError, "nosuchgem", "bundle install"},
		{"interpreter", "", func(_ string, a *vassal.App) { a.Workers.Interpreter = "/nonexistent/ruby" }, vassal.CodeNoInterpreter, "/nonexistent/ruby not found", "liege plugin build"},
		{"lazy", "raise 'on purpose'\n", func(_ string, a *vassal.App) { a.Workers.LazyApps = true }, vassal.CodeImportError, "on purpose", ""},
		{"no rack", "", func(dir string, a *vassal.App) {
			a.Env = []string{"RUBYOPT=-I" + dir}
			_ = os.WriteFile(filepath.Join(dir, "rack.rb"), []byte("raise LoadError, 'cannot load such file -- rack'\n"), 0o644)
		}, vassal.CodeImportError, "no gem rack", "apt install ruby-rack"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, _, log := rackFixture(t, c.text, func(a *vassal.App) {
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

// TestRackSettings: what each setting of Ruby does.
func TestRackSettings(t *testing.T) {
	p, app, log := rackFixture(t, `
run lambda { |env| [200, {}, [[Shop, $order, GC.count, Process.pid == $loader].inspect]] }
`, func(a *vassal.App) {
		for name, text := range map[string]string{"lib/shop.rb": "Shop = 'lib'\n", "first.rb": "($order ||= []) << 'shared'; $loader = Process.pid\n", "second.rb": "$order << 'require'\n"} {
			_ = os.MkdirAll(filepath.Join(a.Dir, filepath.Dir(name)), 0o755)
			writeFile(t, filepath.Join(a.Dir, name), text)
		}
		rb := a.Workers.Ruby
		rb.Lib, rb.Require, rb.SharedRequire, rb.GCFreq = []string{filepath.Join(a.Dir, "lib")}, []string{"shop", "./second.rb"}, []string{"./first.rb"}, 1
	})
	r := run(t, p, app, log)
	var counts []int
	for range 3 {
		rec, err := r.do(request("GET", "/", ""))
		if err != nil {
			t.Fatal(err)
		}
		var n int
		body := rec.body.String()
		if _, err := fmt.Sscanf(body, `["lib", ["shared", "require"], %d, false]`, &n); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		counts = append(counts, n)
	}
	if counts[1] <= counts[0] || counts[2] <= counts[1] {
		t.Errorf("collections after each request: %v", counts)
	}
}

// TestRackPosture: what the core sets for programs that cannot.
func TestRackPosture(t *testing.T) {
	umask := os.FileMode(0o027)
	r := startRack(t, `
run lambda { |env|
  stat = File.read('/proc/self/stat').rpartition(')')[2].split
  cpus = File.read('/proc/self/status')[/Cpus_allowed_list:\s+(\S+)/, 1]
  [200, {}, [[stat[16], stat[38], cpus, '%o' % File.umask, $0].join(' ')]]
}`, func(a *vassal.App) {
		a.Workers.CPUAffinity, a.Workers.Batch, a.Workers.Nice, a.Workers.Umask = 1, true, 3, &umask
	})
	var own unix.CPUSet
	if err := unix.SchedGetaffinity(0, &own); err != nil {
		t.Fatal(err)
	}
	first := 0
	for !own.IsSet(first) {
		first++
	}
	want := fmt.Sprintf("3 %d %d 27 shop worker 1", unix.SCHED_BATCH, first)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		got := r.get("/") // the CPUs are set when the core has heard of the worker
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q, want %q", got, want)
		}
	}
}

func TestRackNothingIsLeft(t *testing.T) {
	testenv.Leaks(t)
	r := startRack(t, unlinted, func(a *vassal.App) { a.Workers.Processes = 2 })
	if _, err := r.do(request("GET", "/", "")); err != nil {
		t.Fatal(err)
	}
	r.close()
}

func BenchmarkRack(b *testing.B) {
	r := startRack(b, unlinted, func(a *vassal.App) { a.Workers.Processes = 2 })
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := r.Serve(context.Background(), request("GET", "/", ""), &recorder{}); err != nil {
				b.Error(err)
			}
		}
	})
}

// TestRackFinished: what an application wants called when a request is over is,
// and its body is closed, however the request ended.
func TestRackFinished(t *testing.T) {
	r := startRack(t, `
run(lambda do |env|
  path = env['PATH_INFO']
  next [200, {}, [File.exist?('said') ? File.read('said') : '']] if path == '/said'
  say = lambda { |text| File.write('said', text, :mode => 'a') }
  env['rack.response_finished'] << lambda { |e, status, headers, error| say.call("#{path} #{status.inspect} #{headers.class} #{error.class};") }
  raise 'on purpose' if path == '/raise'
  if path == '/hijack'
    io = env['rack.hijack'].call
    io.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    io.close
  end
  body = Object.new
  body.define_singleton_method(:each) { |&b| b.call('ok'); raise ArgumentError if path == '/half' }
  body.define_singleton_method(:close) { say.call('closed ') }
  [200, {}, body]
end)
`, nil)
	for _, path := range []string{"/ok", "/raise", "/hijack", "/half"} {
		rec, err := r.do(request("GET", path, ""))
		if failed := path == "/raise" || path == "/half"; (err != nil) != failed || path != "/raise" && rec.body.String() != "ok" {
			t.Errorf("%s: %q, %v", path, rec.body.String(), err)
		}
	}
	want := "closed /ok 200 Hash NilClass;/raise nil NilClass RuntimeError;closed /hijack 200 Hash NilClass;closed /half 200 Hash ArgumentError;"
	if got := r.get("/said"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestRackFinishedRaises: what is called behind an answer is no reason for the
// worker to end, unless it wants that.
func TestRackFinishedRaises(t *testing.T) {
	r := startRack(t, `
run(lambda do |env|
  case env['PATH_INFO']
  when '/script' then env['rack.response_finished'] << lambda { |*a| raise NotImplementedError, 'on purpose' }
  when '/number' then env['rack.response_finished'] = 7
  when '/list' then env['rack.response_finished'] = {'a' => 'b'}
  when '/exit' then env['rack.response_finished'] << lambda { |*a| exit 0 }
  end
  [200, {}, [Process.pid.to_s]]
end)
`, nil)
	pid := r.get("/")
	for _, path := range []string{"/script", "/number", "/list", "/"} {
		if got := r.get(path); got != pid {
			t.Errorf("%s: worker %s instead of %s", path, got, pid)
		}
	}
	if log := r.log(); !strings.Contains(log, "NotImplementedError: on purpose") || strings.Count(log, "NoMethodError") < 2 {
		t.Errorf("the log says nothing of it:\n%s", log)
	}
	r.get("/exit")
	if got := r.get("/"); got == pid {
		t.Error("exit did not end the worker")
	}
}

// TestRackEarlyHints: a 103 before the answer, where the file asks for it and the
// client can take it.
func TestRackEarlyHints(t *testing.T) {
	const hinting = `
run(lambda do |env|
  hints = env['rack.early_hints'] or next [200, {}, ['not offered']]
  hints.call('Link' => "</a.css>; rel=preload\n</b.js>; rel=preload", 'x-a' => ['1', 'é'])
  [200, {}, [hints.call({}).inspect]]
end)
`
	r := startRack(t, hinting, func(app *vassal.App) { app.Workers.Ruby.EarlyHints = true })
	w := &informed{}
	w.keep = true
	err := r.Serve(t.Context(), request("GET", "/", ""), w)
	if want := "[103 [{Link </a.css>; rel=preload} {Link </b.js>; rel=preload} {x-a 1} {x-a é}] 103 []]"; err != nil || w.body.String() != "nil" || fmt.Sprint(w.before) != want {
		t.Errorf("%v %q, %v", err, w.body.String(), w.before)
	}
	old := request("GET", "/", "")
	old.Set("SERVER_PROTOCOL", "HTTP/1.0")
	if rec, err := r.do(old); err != nil || rec.body.String() != "not offered" {
		t.Errorf("by HTTP/1.0: %v %q", err, rec.body.String())
	}
	if got := startRack(t, hinting, nil).get("/"); got != "not offered" {
		t.Errorf("without rack-early-hints: %q", got)
	}
}

// TestRackLateHints: hints of another thread, while the answer begins, are a matter of
// luck, and break nothing.
func TestRackLateHints(t *testing.T) {
	r := startRack(t, `
run(lambda do |env|
  h = env['rack.early_hints']
  Thread.new { 300.times { h.call('Link' => '</a.css>; rel=preload') } }
  sleep 0.001
  [200, {}, ['ok']]
end)
`, func(app *vassal.App) { app.Workers.Ruby.EarlyHints = true })
	for range 60 {
		if rec, err := r.do(request("GET", "/", "")); err != nil || rec.body.String() != "ok" {
			t.Fatalf("%v %q; log:\n%s", err, rec.body.String(), r.log())
		}
	}
}

// TestRackOpt: UWSGI::OPT shows the file's lines as uWSGI does.
func TestRackOpt(t *testing.T) {
	r := startRack(t, "run lambda { |env| [200, {}, [UWSGI::OPT.inspect]] }", func(app *vassal.App) {
		app.Keys = []vassal.Key{{Name: "foo", Value: "a"}, {Name: "bare"}, {Name: "foo", Value: "b"}, {Name: "foo", Value: "ü"}, {Name: "master", Flag: true}}
	})
	if got, want := r.get("/"), `{"foo"=>["a", "b", "ü"], "bare"=>"", "master"=>true}`; strings.ReplaceAll(got, " => ", "=>") != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
