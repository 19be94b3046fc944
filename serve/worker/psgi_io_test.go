package worker

import (
	"bufio"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/serve/exchange"
	"liege/vassal"
)

const ioPSGI = `
use Fcntl;
sub { my $env = shift;
    my $path = $env->{PATH_INFO};
    my $io = $env->{'psgix.io'};
    my %copy = %$env; # as some frameworks make: nothing is taken over by that
    if ($path eq '/offered') { return [200, [], [join ' ', ref $io, $io->isa('IO::Handle') ? 1 : 0, fcntl($io, F_GETFL, 0) ? 1 : 0]] }
    if ($path eq '/raw') { return sub { print $io "HTTP/1.1 201 Made\r\nX-Own: yes\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"; $io->syswrite("0\r\n\r\n"); $io->close } }
    if ($path eq '/large') { return sub { syswrite $io, "HTTP/1.0 200 OK\r\n\r\n"; $io->print('x' x 65536) for 1 .. 64; close $io } }
    if ($path eq '/upload') { return sub { my ($all, $b) = ('', ''); while (length $all < 300000) { sysread $io, $b, 65536 or last; $all .= $b } $io->print("HTTP/1.0 200 OK\r\n\r\n" . length $all) } }
    if ($path eq '/echo') { return sub {
        print $io "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n";
        while (my $line = <$io>) { print $io "echo $line" }
    } }
    if ($path eq '/dropped') { return sub { close $io } }
    if ($path eq '/late') { return sub { my $w = $_[0]->([200, []]); $w->write('begun'); eval { print $io 'x' }; warn $@; $w->write(' and done'); $w->close } }
    [200, [], ['hello']];
}
`

// TestPSGIIO: with psgi-enable-psgix-io an app that uses the connection itself
// answers over it, and one that does not is none the wiser.
func TestPSGIIO(t *testing.T) {
	r := startPSGI(t, ioPSGI, func(a *vassal.App) { a.Workers.Perl.IO = true })
	for path, want := range map[string]string{"/": "hello", "/offered": "IO::Socket::UNIX 1 1", "/large": strings.Repeat("x", 64<<16), "/late": "begun and done"} {
		if got := r.get(path); got != want {
			t.Errorf("%s: %d bytes %.40q, want %.40q", path, len(got), got, want)
		}
	}
	if !strings.Contains(r.log(), "the answer has begun: the connection cannot be taken over") {
		t.Errorf("the log lacks why it is too late:\n%s", r.log())
	}
	rec, err := r.do(request("GET", "/raw", ""))
	if err != nil || rec.status != 201 || rec.body.String() != "hello" || rec.field("X-Own") != "yes" {
		t.Errorf("%v: %d %q %v", err, rec.status, rec.body.String(), rec.fields)
	}
	if rec, err = r.do(request("POST", "/upload", strings.Repeat("x", 300000))); err != nil || rec.body.String() != "300000" {
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
	req := request("GET", "/echo", "")
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
	}
	client.Close()
	if err := <-done; err != nil || w.status != 101 {
		t.Errorf("%v %d", err, w.status)
	}
	if got := r.get("/"); got != "hello" {
		t.Errorf("after it all: %q", got)
	}
	if s := r.Stats().Workers[0]; s.Respawns != 0 {
		t.Errorf("%d workers were replaced", s.Respawns)
	}
	// Without the option there is none.
	r = startPSGI(t, `sub { [200, [], [exists $_[0]{'psgix.io'} ? 'offered' : 'none']] }`, nil)
	if got := r.get("/"); got != "none" {
		t.Errorf("without the option: %q", got)
	}
}

// TestPSGIAutoreload: what was loaded is looked at, before the workers were
// forked or in one of them, but for what is to be ignored.
func TestPSGIAutoreload(t *testing.T) {
	changes := make(chan string, 16)
	var dir string
	p, app, log := psgiFixture(t, "", func(a *vassal.App) {
		dir = a.Dir
		for name, text := range map[string]string{"One.pm": "package One; 1;", "Late.pm": "package Late; 1;", "Quiet.pm": "package Quiet; 1;",
			"app.psgi": "use One; use Quiet;\nsub { require Late; [200, [], ['ok']] }\n"} {
			later(t, filepath.Join(dir, name), text, -100)
		}
		a.Workers.Perl.Lib = []string{dir}
		a.Workers.Perl.Watch, a.Workers.Perl.Unwatched = 40*time.Millisecond, []string{"Quiet.pm"}
	})
	p.Changed = func(file string) { changes <- file }
	r := run(t, p, app, log)
	if got := r.get("/"); got != "ok" {
		t.Fatalf("got %q", got)
	}
	for i, name := range []string{"Late.pm", "app.psgi", "One.pm"} { // what lies beside one that changed is looked at anyway
		path := filepath.Join(dir, name)
		eventually(t, name+" is known", func() bool {
			p.code.mu.Lock()
			defer p.code.mu.Unlock()
			_, ok := p.code.files[path]
			return ok
		})
		later(t, filepath.Join(dir, "Quiet.pm"), "# changed\n", 10+i)
		later(t, path, "# changed\n", 10+i)
		select {
		case got := <-changes:
			if got != path {
				t.Errorf("%s: got %s", name, got)
			}
		case <-time.After(60 * time.Second):
			t.Fatalf("%s: nothing", name)
		}
	}
}
