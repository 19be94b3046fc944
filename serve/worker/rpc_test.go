package worker

import (
	"context"
	"strings"
	"testing"
	"time"

	"liege/vassal"
)

const rpcApp = `
import os, time, uwsgi

def application(environ, start_response):
    start_response('200 OK', [])
    return [repr([uwsgi.rpc(None, 'join', 'a', b'b'), uwsgi.call(b'text'), sorted(uwsgi.rpc_list())[0]]).encode()]

uwsgi.register_rpc('join', lambda *args: b'|'.join(args))
uwsgi.register_rpc(b'text', lambda: 't\xe9xt')
uwsgi.register_rpc('none', lambda: None)
uwsgi.register_rpc('empty', lambda: '')
uwsgi.register_rpc('raise', lambda: 1 / 0)
uwsgi.register_rpc('number', lambda: 7)
uwsgi.register_rpc('long', lambda: 'x' * 70000)
uwsgi.register_rpc('sleep', lambda: time.sleep(60))
uwsgi.register_rpc('die', lambda: os._exit(9))
uwsgi.register_rpc('exit', lambda: exit(3))
for bad in ('', 'x' * 255):
    try:
        uwsgi.register_rpc(bad, repr)
    except ValueError:
        pass
    else:
        raise AssertionError(bad)
`

// TestCall: functions that the application has registered, and every way one
// can fail.
func TestCall(t *testing.T) {
	r := start(t, rpcApp, func(app *vassal.App) { app.Workers.Harakiri = 2 * time.Second })
	if got := r.get("/"); got != `[b'a|b', b't\xc3\xa9xt', b'die']` {
		t.Errorf("inside: %s", got)
	}
	long := strings.Repeat("y", 40000) // more than a packet
	for _, c := range []struct {
		name string
		args []string
		want string
		err  string
	}{
		{"join", nil, "", ""}, {"join", []string{"a", "", "b\x00\xff"}, "a||b\x00\xff", ""}, {"join", []string{long, "z"}, long + "|z", ""},
		{"text", nil, "t\u00e9xt", ""}, {"empty", nil, "", ""},
		{"none", nil, "", "returned nothing"}, {"nosuch", nil, "", "no such function"}, {"raise", nil, "", "exception"}, {"number", nil, "", "exception"},
		{"text", []string{"too many"}, "", "exception"}, {"long", nil, "", "too much"}, {"exit", nil, "", "exception"}, {"die", nil, "", "died"}, {"sleep", nil, "", "2s"},
		{"join", []string{strings.Repeat("x", maxArgs)}, "", "bytes of arguments"}, {"join", []string{"still"}, "still", ""},
	} {
		got, err := r.Call(t.Context(), c.name, c.args)
		if got != c.want || c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %.40q %v; want %.40q, %q", c.name, got, err, c.want, c.err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.Call(ctx, "sleep", nil); err == nil {
		t.Error("a call outlives its context")
	}
	eventually(t, "the worker serves again", func() bool { got, _ := r.Call(t.Context(), "text", nil); return got != "" })
}
