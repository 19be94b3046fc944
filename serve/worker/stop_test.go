package worker

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/vassal"
)

// TestStopAfterAnswer: what an application does after its answers it can finish,
// though no request is in flight any more.
func TestStopAfterAnswer(t *testing.T) {
	testenv.Need(t, testenv.Plack)
	testenv.Need(t, testenv.Ruby)
	type started struct {
		r    *running
		want string
	}
	var all []started
	set := func(app *vassal.App) { app.Drain = 30 * time.Second }
	all = append(all, started{start(t, `
import atexit, time
class Body(list):
    def close(self):
        time.sleep(2.5)
        open('done', 'a').write('closed ')
def bye():
    time.sleep(1.5)
    open('done', 'a').write('atexit')
atexit.register(bye)
def application(environ, start_response):
    start_response('200 OK', [('Content-Length', '1')])
    return Body([b'x'])
`, set), "closed atexit"})
	all = append(all, started{start(t, `
import asyncio
async def application(scope, receive, send):
    if scope['type'] == 'lifespan':
        await receive()
        await send({'type': 'lifespan.startup.complete'})
        await receive()
        await asyncio.sleep(1)
        open('done', 'a').write('shutdown')
        await send({'type': 'lifespan.shutdown.complete'})
        return
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    await send({'type': 'http.response.body', 'body': b'x'})
    await asyncio.sleep(2.5)
    open('done', 'a').write('task ')
`, set), "task shutdown"})
	all = append(all, started{startPSGI(t, `
END { if ($main::served) { sleep 1; open my $f, '>>', 'done'; print $f 'END' } }
sub {
    my $env = shift;
    push @{ $env->{'psgix.cleanup.handlers'} }, sub { $main::served = 1; select undef, undef, undef, 2.5; open my $f, '>>', 'done'; print $f 'cleanup '; close $f };
    [200, [], ['x']];
};
`, set), "cleanup END"})
	all = append(all, started{startRack(t, `
at_exit { if $served then sleep 1; File.write('done', 'at_exit', :mode => 'a') end }
run(lambda do |env|
  env['rack.response_finished'] << lambda { |*| $served = true; sleep 2.5; File.write('done', 'finished ', :mode => 'a') }
  [200, {}, ['x']]
end)
`, set), "finished at_exit"})
	for _, s := range all {
		if got := s.r.get("/"); got != "x" {
			t.Errorf("got %q", got)
		}
	}
	for _, s := range all {
		s.r.stop()
	}
	for _, s := range all {
		s.r.close()
		b, _ := os.ReadFile(filepath.Join(s.r.app.Dir, "done"))
		if string(b) != s.want {
			t.Errorf("done is %q, want %q\n%s", b, s.want, s.r.log())
		}
	}
}

// TestStopBounded: a worker that does not end is killed when the drain is over,
// counted from its beginning, and that is said.
func TestStopBounded(t *testing.T) {
	for _, parted := range []time.Duration{0, time.Hour} {
		r := start(t, `
import atexit, time
def application(environ, start_response):
    start_response('200 OK', [])
    return [b'x']
atexit.register(time.sleep, 60)
`, func(app *vassal.App) { app.Drain = time.Hour })
		if parted == 0 {
			r.app.Drain = 3 * time.Second
		} else {
			r.parted.Store(time.Now().Add(-parted).UnixNano())
		}
		began := time.Now()
		r.close()
		if took := time.Since(began); took < exitTime {
			t.Errorf("it had %v only", took)
		}
		if want := "has not ended in time\" worker=1 pid="; !strings.Contains(r.log(), want) {
			t.Errorf("log without %s:\n%s", want, r.log())
		}
	}
}

// TestRestWithoutWorkers: of an app that is all PHP, exec or CGI nothing has to
// rest, and who asks for it does not wait.
func TestRestWithoutWorkers(t *testing.T) {
	p, err := New(&vassal.App{Name: "shop"}, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	p.Adopt = false
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }()
	rested := make(chan struct{})
	go func() { p.Rest(Spooler); close(rested) }()
	select {
	case <-rested:
	case <-time.After(10 * time.Second):
		t.Error("it waits for ever")
	}
	stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}
