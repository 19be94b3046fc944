package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"liege/emperor/asuser"
	"liege/emperor/control"
	"liege/internal/testenv"
	"liege/vassal"
)

func TestMain(m *testing.M) {
	asuser.Main()
	testscript.Main(m, map[string]func(){
		"liege": func() {
			os.Exit(run(context.Background(), os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr}))
		},
	})
}

// TestScripts is the command's behaviour as text: one file, one story.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", UpdateScripts: os.Getenv("UPDATE") != "",
		Setup: func(e *testscript.Env) error {
			e.Vars = append(e.Vars, "LIEGE_RUN_DIR="+filepath.Join(e.WorkDir, "run"), "ME="+me(t))
			return nil
		},
		Condition: func(cond string) (bool, error) { return cond == "root" && os.Geteuid() == 0, nil },
	})
}

func me(t *testing.T) string {
	if os.Geteuid() == 0 {
		return "nobody"
	}
	return os.Getenv("USER")
}

func vassalOf(t *testing.T, text string) control.Vassal {
	t.Helper()
	var v control.Vassal
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestHints(t *testing.T) {
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "app/env"), 0o755))
	must(os.WriteFile(filepath.Join(dir, "app/env/pyvenv.cfg"), nil, 0o644))
	must(os.MkdirAll(filepath.Join(dir, "app/src/site"), 0o755))
	must(os.WriteFile(filepath.Join(dir, "app/src/site/__init__.py"), nil, 0o644))
	must(os.WriteFile(filepath.Join(dir, "x.ini"), []byte("[uwsgi]\nchdir = "+dir+"/app\n"), 0o644))
	outside := filepath.Join(dir, "outside")
	must(os.WriteFile(outside, nil, 0o644))
	for _, tc := range []struct{ name, log, net, want string }{
		{"a module of the venv", "ModuleNotFoundError: No module named 'flask'", "none", "virtualenv = DIR/app/env"},
		{"a path of the host", "FileNotFoundError: [Errno 2] No such file or directory: '" + outside + "'", "none", outside + " exists on the host and is not visible inside: bind = " + outside + ":ro"},
		{"a path that is nowhere", "No such file or directory: '/nowhere/at/all'", "none", ""},
		{"read-only", "OSError: [Errno 30] Read-only file system: '/srv/shop/media/x.png'", "none", "bind = /srv/shop/media"},
		{"closed network", "psycopg2.OperationalError: connection failed: Connection refused", "none", closedWay},
		{"open network", "Connection refused", "host", ""},
		{"a terminal escape is no hint", "\x1b[31mhello", "none", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			log := filepath.Join(t.TempDir(), "x.log")
			must(os.WriteFile(log, []byte("first\n"+tc.log+"\n"), 0o644))
			v := vassalOf(t, `{"name":"x","state":"backoff","file":"`+dir+`/x.ini","log":"`+log+`","net":"`+tc.net+`"}`)
			got := strings.Join((&app{}).hints(v), "\n")
			if want := strings.ReplaceAll(tc.want, "DIR", dir); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	if err := os.Remove(filepath.Join(dir, "app/env/pyvenv.cfg")); err != nil {
		t.Fatal(err)
	}
	if got := moduleHint([]string{"", "site.wsgi"}, control.Vassal{}, filepath.Join(dir, "app")); got != "pythonpath = "+dir+"/app/src" {
		t.Errorf("a package beside chdir: %q", got)
	}
}

func TestLastLines(t *testing.T) {
	for _, tc := range []struct {
		text string
		n    int
		want string
	}{
		{"a\nb\nc\n", 2, "b\nc\n"}, {"a\nb\nc", 2, "b\nc"}, {"a\nb\n", 5, "a\nb\n"}, {"", 3, ""}, {"\n\n\n", 1, "\n"}, {"a\nb\n", 0, ""},
	} {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(tc.text); err != nil {
			t.Fatal(err)
		}
		got, err := lastLines(f, tc.n)
		if err != nil || string(got) != tc.want {
			t.Errorf("the last %d lines of %q: %q %v, want %q", tc.n, tc.text, got, err, tc.want)
		}
	}
}

// A vassal that could not start shows what it printed, beside the reason.
func TestStatusShowsLastLines(t *testing.T) {
	v := vassalOf(t, `{"name":"shop","state":"backoff","file":"/none","listen":[],"problems":[
		{"severity":"error","code":"import-error","file":"/none","line":4,"key":"module","message":"SyntaxError","hint":"mend it"},
		{"severity":"note","code":"last-lines","step":"log","message":"line 1\nSyntaxError"}]}`)
	var out bytes.Buffer
	(&app{stdio: stdio{out: &out}}).one(v)
	want := "\nerror  /none:4: module: SyntaxError\n  hint: mend it\n\nwhat it printed last:\n  line 1\n  SyntaxError\n"
	if !strings.HasSuffix(out.String(), want) {
		t.Errorf("got\n%s\nwant at the end\n%s", &out, want)
	}
}

func TestTable(t *testing.T) {
	v := vassalOf(t, `{"name":"shop","state":"running","applied":true,"generation":3,"user":"shop","listen":["/run/shop.sock"],"memory_bytes":15728640,"requests":7}`)
	old := vassalOf(t, `{"name":"old","state":"running","applied":false,"generation":1,"uid":33,"listen":[],"error":{"severity":"error","code":"bad-value","file":"/etc/vassals/old.ini","line":3,"key":"processes","message":"\"x\" is not a number","hint":"processes = 2"}}`)
	var out bytes.Buffer
	(&app{stdio: stdio{out: &out}}).table([]control.Vassal{v, old})
	want := `NAME  STATE         FOR  GEN  USER  MEMORY  REQUESTS  LISTENS
shop  running       -    3    shop  15.0M   7         /run/shop.sock
old   running, old  -    1    33    -       0         
old: /etc/vassals/old.ini:3: processes: "x" is not a number
  hint: processes = 2
2 vassals: 2 running; 15.0M
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Error(d)
	}
}

func TestParseServe(t *testing.T) {
	testenv.Leaks(t)
	for _, tc := range []struct {
		args string
		text string // of the settings; empty: an error
	}{
		{"--http :8080 app.ini", "[uwsgi]\nhttp = :8080\nini = CWD/app.ini\n"},
		{"app.ini:two --processes=4", "[uwsgi]\nini = CWD/app.ini:two\nprocesses = 4\n"},
		{"-M -p 4 -s /x.sock", "[uwsgi]\nmaster\nprocesses = 4\nsocket = /x.sock\n"},
		{"--master app.ini", "[uwsgi]\nmaster\nini = CWD/app.ini\n"},
		{"app.py", "[uwsgi]\nwsgi-file = app.py\nhttp = 127.0.0.1:8080\n"},
		{"--http :1 app.py", "[uwsgi]\nhttp = :1\nwsgi-file = app.py\n"},
		{"--chmod-socket -s x", "[uwsgi]\nchmod-socket\nsocket = x\n"},
		{"-C664 -s x", "[uwsgi]\nchmod-socket = 664\nsocket = x\n"},
		{"--proceses 4", ""}, {"--http", ""}, {"", ""}, {"a.ini b.ini", ""}, {"-", ""}, {"--no-such=1", ""}, {"config.ru", ""},
	} {
		l, err := parseServe(strings.Fields(tc.args))
		if err != nil {
			if tc.text != "" {
				t.Errorf("%s: %v", tc.args, err)
			} else if e, ok := errors.AsType[*exit](err); !ok || e.code != exitUsage {
				t.Errorf("%s: %v, want a usage error", tc.args, err)
			}
			continue
		}
		if d := cmp.Diff(strings.ReplaceAll(tc.text, "CWD", l.cwd), string(l.text())); d != "" {
			t.Errorf("%s (-want +got):\n%s", tc.args, d)
		}
		for n, line := range strings.Split(strings.TrimSpace(string(l.text())), "\n") {
			given := l.setting(n + 1)
			if key, _, _ := strings.Cut(line, " "); (given == nil) != (n == 0 || key == "ini") || given != nil && given.key != key {
				t.Errorf("%s: line %d, %q, is setting %+v", tc.args, n+1, line, given)
			}
		}
	}
}

func TestFromEnviron(t *testing.T) {
	got := fromEnviron([]string{"UWSGI_HTTP_SOCKET=:80", "PATH=x", "UWSGI_EMPEROR_FD=3", "UWSGI_=x", "UWSGI_ENV=a\nb"})
	if len(got) != 1 || got[0].key != "http-socket" || got[0].layer != vassal.Environ {
		t.Errorf("%+v", got)
	}
}
