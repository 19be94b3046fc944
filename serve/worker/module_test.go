package worker

import (
	"errors"
	"strings"
	"testing"
	"time"

	"liege/vassal"
)

// TestStreams: wsgi.input of a request without a body, and wsgi.errors, have what
// programs ask files for.
func TestStreams(t *testing.T) {
	r := start(t, `
import io
def application(e, start_response):
    i, errors = e['wsgi.input'], e['wsgi.errors']
    try:
        i.fileno()
    except io.UnsupportedOperation:
        no = 'no fileno'
    start_response('200 OK', [])
    return [repr((i.read(), i.tell(), i.seek(0), i.readable(), no, errors.fileno(), errors.encoding, errors.closed)).encode()]
`, nil)
	if got, want := r.get("/"), "(b'', 0, 0, True, 'no fileno', 2, 'UTF-8', False)"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestModuleName: the module of a file is named after what its line says.
func TestModuleName(t *testing.T) {
	const text = "def application(e, start_response):\n start_response('200 OK', [])\n return [__name__.encode()]\n"
	for written, want := range map[string]string{"app.py": "uwsgi_file_app", "sub/app.py": "uwsgi_file_sub_app", "": "uwsgi_file__"} {
		r := start(t, text, func(app *vassal.App) {
			app.Workers.Python.File, app.Workers.Python.Written = app.Dir+"/app.py", written
		})
		if got := r.get("/"); got != want && (written != "" || !strings.HasPrefix(got, want)) {
			t.Errorf("%q: got %s, want %s", written, got, want)
		}
	}
}

// TestModuleData: the module knows its generation, and what it does not have says so.
func TestModuleData(t *testing.T) {
	const text = `
import uwsgi
def say(name):
    try:
        return getattr(uwsgi, name)()
    except Exception as e:
        return type(e).__name__
def application(e, start_response):
    start_response('200 OK', [])
    names = ('sharedarea_readbyte', 'snmp_incr_gauge', 'add_var', 'log_this_request', 'nothing')
    return [repr([uwsgi.is_a_reload] + [say(name) for name in names]).encode()]
`
	for generation, first := range map[int]string{1: "False", 2: "True"} {
		r := start(t, text, func(app *vassal.App) { app.Generation = generation })
		want := "[" + first + ", " + strings.Repeat("'NotImplementedError', ", 4) + "'AttributeError']"
		if got := r.get("/"); got != want {
			t.Errorf("generation %d: got %s, want %s", generation, got, want)
		}
	}
}

// TestLifespanSaid: an application that raises at its lifespan is served, which
// the log says; one that waits there for ever is named by what it waits for.
func TestLifespanSaid(t *testing.T) {
	const text = `
async def application(scope, receive, send):
    if scope['type'] == 'lifespan':
        import asyncio
        await asyncio.sleep(3600 if WAITS else 0)
        raise ValueError('none of that')
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    await send({'type': 'http.response.body', 'body': b'ok'})
`
	r := start(t, "WAITS = False\n"+text, nil)
	if got := r.get("/"); got != "ok" {
		t.Errorf("got %q", got)
	}
	if log, want := r.log(), "takes no lifespan, and is served without: ValueError: none of that"; strings.Count(log, want) != 1 {
		t.Errorf("log without %q:\n%s", want, log)
	}
	p, _, _ := newFixture(t, "WAITS = True\n"+text, func(app *vassal.App) { app.Workers.LoadTimeout = 2 * time.Second })
	var problem *vassal.Problem
	if err := p.Run(t.Context()); !errors.As(err, &problem) || !strings.Contains(problem.Hint, "lifespan.startup") {
		t.Errorf("got %v, of which the hint is %q", err, problem.Hint)
	}
}
