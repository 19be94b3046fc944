package serve

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/vassal"
)

func TestJSONLog(t *testing.T) {
	l := newAccessLog(vassal.LogFormat{JSON: true, Forwarded: true}, io.Discard)
	l.pid = 7
	r := &exchange.Request{Start: time.Date(2026, 1, 2, 3, 4, 5, 6_000_000, time.UTC), Vars: []exchange.Var{{Name: "REQUEST_METHOD", Value: "GET"},
		{Name: "REQUEST_URI", Value: "/\xff\"\n\u2028ü"}, {Name: "REMOTE_ADDR", Value: "10.0.0.1"}, {Name: "HTTP_X_FORWARDED_FOR", Value: `1.2.3.4", "status":"1`}},
		Info: exchange.Info{Status: 502, Bytes: 3, Head: 9, Worker: 2, Thread: 1, PID: 8, Backend: "python", Err: errors.New("it\nbroke")}}
	l.request(r, 3, 1500*time.Microsecond)
	line := string(l.pending)
	if strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "\n") {
		t.Errorf("%q is not one line", line)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatalf("%v in %s", err, line)
	}
	want := map[string]any{"time": "2026-01-02T03:04:05.006Z", "request": 3.0, "pid": 8.0, "worker": 2.0, "thread": 1.0, "by": "python",
		"addr": `1.2.3.4", "status":"1`, "method": "GET", "uri": "/\u00ff\"\n\u2028ü", "status": 502.0, "bytes": 3.0, "head_bytes": 9.0, "micros": 1500.0, "err": "it\nbroke"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestFormatJSON: a log-format that is an object stays one, whatever a client
// or a logvar rule puts in.
func TestFormatJSON(t *testing.T) {
	l := newAccessLog(vassal.LogFormat{Format: `{"uri":"%(uri)","agent":"%(var.HTTP_USER_AGENT)","who":"%(who)"}`}, io.Discard)
	evil := "a\", \"status\":\"200\\\n\xff"
	l.request(&exchange.Request{Vars: []exchange.Var{{Name: "REQUEST_URI", Value: evil}, {Name: "HTTP_USER_AGENT", Value: evil}},
		Info: exchange.Info{Extra: []exchange.Var{{Name: "who", Value: evil}}}}, 1, 0)
	var got map[string]string
	if err := json.Unmarshal(l.pending, &got); err != nil || len(got) != 3 || got["who"] != got["uri"] || got["who"] != got["agent"] {
		t.Errorf("%v in %s", err, l.pending)
	}
}

// FuzzJSONLog: whatever a client sends, a line is one JSON object.
func FuzzJSONLog(f *testing.F) {
	f.Add("/a", "b")
	f.Fuzz(func(t *testing.T, uri, agent string) {
		l := newAccessLog(vassal.LogFormat{JSON: true}, io.Discard)
		l.request(&exchange.Request{Vars: []exchange.Var{{Name: "REQUEST_URI", Value: uri}, {Name: "HTTP_USER_AGENT", Value: agent}}}, 1, 0)
		if !json.Valid(l.pending) || strings.Count(string(l.pending), "\n") != 1 {
			t.Errorf("%q", l.pending)
		}
	})
}

// TestLogOnly: with disable-logging, what the file asks for is logged.
func TestLogOnly(t *testing.T) {
	for _, c := range []struct {
		only vassal.LogOnly
		yes  exchange.Info
		took time.Duration
	}{
		{vassal.LogOnly{Client: true}, exchange.Info{Status: 404, Bytes: 1}, 0}, {vassal.LogOnly{Slow: time.Second}, exchange.Info{Status: 200, Bytes: 1}, time.Second},
		{vassal.LogOnly{Zero: true}, exchange.Info{Status: 200}, 0}, {vassal.LogOnly{Big: 10}, exchange.Info{Status: 200, Bytes: 10}, 0},
		{vassal.LogOnly{Sendfile: true}, exchange.Info{Status: 200, Bytes: 1, File: true}, 0},
		{vassal.LogOnly{IOError: true}, exchange.Info{Status: 200, Bytes: 1, Err: errors.New("client gone")}, 0},
		{vassal.LogOnly{}, exchange.Info{Status: 500, Bytes: 1}, 0},
	} {
		l := newAccessLog(vassal.LogFormat{Disable: true, Only: c.only}, io.Discard)
		l.request(&exchange.Request{Info: exchange.Info{Status: 200, Bytes: 1}}, 1, 0)
		if len(l.pending) > 0 {
			t.Errorf("%+v: a plain request is logged", c.only)
		}
		if l.request(&exchange.Request{Info: c.yes}, 1, c.took); len(l.pending) == 0 {
			t.Errorf("%+v: %+v is not logged", c.only, c.yes)
		}
	}
}

// TestStatsSchema: every member of the real server's document is in ours, with
// the same type.
func TestStatsSchema(t *testing.T) {
	testenv.Need(t, testenv.Uwsgi, testenv.Python3)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "app.py"), []byte("def application(e, s):\n    s('200 OK', [])\n    return [b'x']\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(dir, "stats")
	uwsgi := exec.Command("uwsgi", "--plugin", "python3", "--master", "--processes", "1", "--threads", "2", "--http-socket", "127.0.0.1:0",
		"--cache2", "name=a,items=5", "--enable-metrics", "--metric", "name=x,type=gauge", "--stats", sock, "--wsgi-file", filepath.Join(dir, "app.py"), "--die-on-term")
	if err := uwsgi.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = uwsgi.Process.Signal(syscall.SIGINT)
		_ = uwsgi.Wait()
	}()
	var theirs any
	for deadline := time.Now().Add(20 * time.Second); theirs == nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("uWSGI's stats do not answer")
		}
		if c, err := net.Dial("unix", sock); err == nil {
			_ = json.NewDecoder(c).Decode(&theirs)
			c.Close()
		}
	}
	app := &vassal.App{Name: "a", Dir: "/srv", Workers: &vassal.Workers{Processes: 1, Threads: 2},
		Metrics: &vassal.Metrics{Own: []vassal.Metric{{Name: "x", Type: vassal.MetricGauge}}},
		Caches:  []vassal.Cache{{Name: "a", Items: 5, Blocks: 5, BlockSize: 10, KeySize: 10}},
		Listen:  []vassal.Listener{{Protocol: vassal.HTTP, Address: "127.0.0.1:1"}, {Protocol: vassal.Stats, Address: "127.0.0.1:2"}}}
	addrs, _, _ := start(t, app, newFake(nil))
	var ours any
	if err := json.Unmarshal([]byte(ask(t, addrs[1], "")), &ours); err != nil {
		t.Fatal(err)
	}
	want, got := map[string]string{}, map[string]string{}
	shape(want, "", theirs)
	shape(got, "", ours)
	for _, path := range slices.Sorted(maps.Keys(want)) {
		// Its locks differ from build to build, and a lock's name is the key.
		if !strings.HasPrefix(path, ".locks[]") && got[path] != want[path] {
			t.Errorf("%s: uWSGI has a %s, we a %q", path, want[path], got[path])
		}
	}
	if len(want) < 40 {
		t.Errorf("only %d members were compared", len(want))
	}
}

// shape notes the type of every member of v.
func shape(out map[string]string, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		out[path] = "object"
		for name, m := range v {
			shape(out, path+"."+name, m)
		}
	case []any:
		out[path] = "array"
		for _, m := range v {
			shape(out, path+"[]", m)
		}
	case string:
		out[path] = "string"
	default:
		out[path] = "number"
	}
}

// TestToCGI: requests with CGI's modifier go to the programs, others to the
// application; without an application all go to the programs.
func TestToCGI(t *testing.T) {
	dir := t.TempDir()
	cgi := &vassal.CGI{Mounts: []vassal.CGIMount{{Path: dir}}, Processes: 1, Threads: 1, Timeout: time.Second}
	pool := newFake(func(_ context.Context, _ *exchange.Request, w exchange.Response) error { return w.Head(204, "", nil) })
	addrs, _, _ := start(t, &vassal.App{Name: "a", Workers: &vassal.Workers{}, CGI: cgi, Listen: []vassal.Listener{
		{Protocol: vassal.HTTP}, {Protocol: vassal.HTTP, Modifier1: exchange.ToCGI}, {Protocol: vassal.UWSGI}, {Protocol: vassal.Stats}}}, pool)
	alone, _, _ := start(t, &vassal.App{Name: "b", CGI: cgi, Listen: []vassal.Listener{{Protocol: vassal.HTTP}, {Protocol: vassal.Stats}}}, newFake(nil))
	packet := func(modifier byte) string {
		vars := "\x0e\x00REQUEST_METHOD\x03\x00GET\x09\x00PATH_INFO\x05\x00/none"
		return string([]byte{modifier, byte(len(vars)), 0, 0}) + vars
	}
	const get = "GET /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	for _, c := range []struct{ addr, ask, want string }{
		{addrs[0], get, "204"}, {addrs[1], get, "404"}, {addrs[2], packet(0), "204"}, {addrs[2], packet(9), "404"}, {addrs[2], packet(5), "501"}, {alone[0], get, "404"},
	} {
		if got := ask(t, c.addr, c.ask); !strings.HasPrefix(got, "HTTP/1.1 "+c.want) {
			t.Errorf("%q: got %.60q, want %s", c.ask, got, c.want)
		}
	}
	var both struct {
		Queue   int `json:"listen_queue"`
		Workers []struct {
			ID   int
			Apps []struct{ Modifier1 int }
		}
	}
	if err := json.Unmarshal([]byte(ask(t, addrs[3], "")), &both); err != nil || len(both.Workers) != 2 || both.Workers[0].ID != 1 || both.Workers[1].ID != 2 ||
		both.Workers[0].Apps[0].Modifier1 != exchange.ToApplication || both.Workers[1].Apps[0].Modifier1 != exchange.ToCGI || both.Queue != 2 {
		t.Errorf("stats of an application and programs: %+v, %v", both, err)
	}
	var st struct{ Workers []any }
	if err := json.Unmarshal([]byte(ask(t, alone[1], "")), &st); err != nil || len(st.Workers) != 1 {
		t.Errorf("stats of programs alone: %+v, %v", st, err)
	}
}
