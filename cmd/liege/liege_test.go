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
			return writeCertificates(t, e.WorkDir)
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
	must(os.Chmod(filepath.Dir(dir), 0o755))
	must(os.WriteFile(filepath.Join(dir, "secret"), nil, 0o600))
	must(os.Mkdir(filepath.Join(dir, "shut"), 0o700))
	must(os.WriteFile(filepath.Join(dir, "shut/x"), nil, 0o644))
	const threads = "it got no more processes or threads: pids-max = 16 in the file counts both, of all that the vassal runs"
	const mysql = "ERROR 2002 (HY000): Can't connect to local MySQL server through socket '/var/run/mysqld/mysqld.sock' (2)"
	for _, tc := range []struct{ name, log, net, want string }{
		{"MySQL's socket", mysql, "none", "connect = unix:/run/mysqld/mysqld.sock"},
		{"MariaDB's", "Can't connect to local server through socket '/run/db/x.sock' (2)", "host", "connect = unix:/run/db/x.sock"},
		{"PHP's", "PHP Warning:  mysqli_real_connect(): (HY000/2002): No such file or directory in /x.php", "none", "connect = unix:/run/mysqld/mysqld.sock"},
		{"PDO's", "PDOException: SQLSTATE[HY000] [2002] No such file or directory", "none", "connect = unix:/run/mysqld/mysqld.sock"},
		{"PostgreSQL's", `connection to server on socket "/var/run/postgresql/.s.PGSQL.5432" failed: No such file or directory`, "none", "connect = unix:/run/postgresql/.s.PGSQL.5432"},
		{"a socket with a terminal escape", "Can't connect to local server through socket '/run/\x1b[31m' (2)", "none", ""},
		{"a module of the venv", "ModuleNotFoundError: No module named 'flask'", "none", "virtualenv = DIR/app/env"},
		{"a path of the host", "FileNotFoundError: [Errno 2] No such file or directory: '" + outside + "'", "none", outside + " exists on the host and is not visible inside: bind = " + outside + ":ro"},
		{"a path that is root's", "FileNotFoundError: [Errno 2] No such file or directory: '/etc/shadow'", "none", ""},
		{"a file not for everybody", "FileNotFoundError: [Errno 2] No such file or directory: '" + dir + "/secret'", "none", ""},
		{"in a directory not for everybody", "FileNotFoundError: [Errno 2] No such file or directory: '" + dir + "/shut/x'", "none", ""},
		{"read-only, the system's", "OSError: [Errno 30] Read-only file system: '/etc/shadow'", "none", "/etc/shadow is in a directory of the system's: let the app write elsewhere"},
		{"a path that is nowhere", "No such file or directory: '/nowhere/at/all'", "none", ""},
		{"read-only", "OSError: [Errno 30] Read-only file system: '/srv/shop/media/x.png'", "none", "bind = /srv/shop/media"},
		{"closed network", "psycopg2.OperationalError: connection failed: Connection refused", "none", closedWay},
		{"a network with rules", "ConnectionRefusedError: Connection refused", "nat", closedNAT},
		{"open network", "Connection refused", "host", ""},
		{"a service that is down", "liege: connect 127.0.0.1:5432: connection refused", "none", "127.0.0.1:5432 is named by the file, and was not reached from outside either (connection refused): does the service run there, and may the vassal's user connect?"},
		{"ruby's words for a path", "No such file or directory @ rb_sysopen - " + outside + " (Errno::ENOENT)", "none", outside + " exists on the host and is not visible inside: bind = " + outside + ":ro"},
		{"node's", "Error: ENOENT: no such file or directory, open '" + outside + "'", "none", outside + " exists on the host and is not visible inside: bind = " + outside + ":ro"},
		{"php's", "PHP Warning:  require(" + outside + "): Failed to open stream: No such file or directory in x", "none", outside + " exists on the host and is not visible inside: bind = " + outside + ":ro"},
		{"node on a read-only place", "Error: EROFS: read-only file system, mkdir '/srv/shop/cache'", "none", "bind = /srv/shop"},
		{"node's memory", "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory", "none", "a limit on memory was met: limit-as (MB, each process) or memory-max (the whole vassal) in the file; liege explain shows both"},
		{"a JVM's memory", "Exception in thread \"main\" java.lang.OutOfMemoryError: Java heap space", "none", "a limit on memory was met: limit-as (MB, each process) or memory-max (the whole vassal) in the file; liege explain shows both"},
		{"a JVM's threads", "java.lang.OutOfMemoryError: unable to create native thread: possibly out of memory or process/resource limits reached", "none", threads},
		{"Python's threads", "RuntimeError: can't start new thread", "none", threads},
		{"Go's threads", "runtime: failed to create new OS thread (have 9 already; errno=11)", "none", threads},
		{"PHP's processes", "php (pre-forking): Resource temporarily unavailable", "none", threads},
		{"a socket without data", "read: Resource temporarily unavailable", "none", ""},
		{"glibc", "./server: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by ./server)", "none", "the program was built on a system with glibc 2.38, which is newer than this one: build it here, or statically (Go: CGO_ENABLED=0)"},
		{"a library", "./server: error while loading shared libraries: libpq.so.5: cannot open shared object file", "none", "apt-file search libpq.so.5 names the package; for a library elsewhere: bind = its directory, env = LD_LIBRARY_PATH=that"},
		{"a gem", "Could not find rack-3.1.0 in locally installed gems", "none", "bundle install, in the directory of the Gemfile, with the ruby that runs the app"},
		{"rails' pid file", "A server is already running. Check /srv/shop/tmp/pids/server.pid.\nExiting", "none", "rails server takes a pid file for a server that runs, be it another generation's or an old one: -P $LIEGE_SOCKET.pid behind its command, which each copy has for itself"},
		{"perl's other build", "Cookie.c: loadable library and perl binaries are mismatched (got first handshake key)", "none", "the module was compiled for another Perl: install it again with the perl that runs the app, or name that one"},
		{"a class of PHP", "PHP Fatal error:  Uncaught Error: Class \"IntlDateFormatter\" not found in", "none", "apt install php-intl, which has that extension; then liege reload"},
		{"a class of the app", "PHP Fatal error:  Uncaught Error: Class \"App\\Kernel\" not found in", "none", ""},
		{"composer", "Failed opening required '/srv/shop/vendor/autoload.php'", "none", "composer install, in the app's directory"},
		{"a low port", "listen tcp :80: bind: permission denied", "none", "the vassal has no right to ports below 1024: let the program listen on $PORT or at $LIEGE_SOCKET; who connects from outside is a matter of http = :80"},
		{"a socket's place", "bind() to /run/x.sock failed: Permission denied", "none", ""},
		{"a taken address", "listen tcp 127.0.0.1:8080: bind: address already in use", "none", "the address that the program wants is taken, perhaps by another copy of it: let it listen on $PORT or at $LIEGE_SOCKET, which each copy has for itself, or write exec-port = its port and processes = 1"},
		{"a terminal escape is no hint", "\x1b[31mhello", "none", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			log := filepath.Join(t.TempDir(), "x.log")
			must(os.WriteFile(log, []byte("first\n"+tc.log+"\n"), 0o644))
			v := vassalOf(t, `{"name":"x","state":"backoff","file":"`+dir+`/x.ini","log":"`+log+`","uid":0,"gid":0,"pids_max":16,"net":"`+tc.net+`"}`)
			got := strings.Join((&app{}).hints(t.Context(), v), "\n")
			if want := strings.ReplaceAll(tc.want, "DIR", dir); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	log := filepath.Join(dir, "log")
	must(os.WriteFile(log, []byte("Connection refused\n"+mysql+"\n"), 0o644))
	for members, want := range map[string]string{`"state":"running"`: "connect = unix:/run/mysqld/mysqld.sock", `"state":"running","connect":["unix:/run/mysqld/mysqld.sock"]`: ""} {
		if got := strings.Join((&app{}).hints(t.Context(), vassalOf(t, `{"name":"x","uid":0,"gid":0,"log":"`+log+`",`+members+`}`)), "\n"); got != want {
			t.Errorf("one that serves: %q, want %q", got, want)
		}
	}
	killed := vassalOf(t, `{"name":"x","file":"/v/x.ini","state":"running","uid":0,"gid":0,"oom_kills":2,"memory_max_bytes":1048576}`)
	if got := strings.Join((&app{}).hints(t.Context(), killed), "\n"); got != "2 of its processes were killed for want of memory so far; now memory-max = 1.0M in /v/x.ini" {
		t.Errorf("one with kills, perhaps under another limit: %q", got)
	}
	if err := os.Remove(filepath.Join(dir, "app/env/pyvenv.cfg")); err != nil {
		t.Fatal(err)
	}
	e := &eyes{ctx: t.Context(), v: vassalOf(t, `{"uid":0,"gid":0}`)}
	defer e.close()
	if got := moduleHint(e, []string{"", "site.wsgi"}, filepath.Join(dir, "app")); got != "pythonpath = "+dir+"/app/src" {
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
	(&app{stdio: stdio{out: &out}}).one(t.Context(), v)
	want := "\nerror  /none:4: module: SyntaxError\n  hint: mend it\n\nwhat it printed last:\n  line 1\n  SyntaxError\n"
	if !strings.HasSuffix(out.String(), want) {
		t.Errorf("got\n%s\nwant at the end\n%s", &out, want)
	}
}

// An exit whose code nobody could ask for has none.
func TestExitText(t *testing.T) {
	for said, want := range map[string]string{
		`{"code":3,"reason":"exited with status 3"}`:       "code 3: exited with status 3, ",
		`{"code":137,"signal":"SIGKILL","oom":true}`:       "SIGKILL, out of memory, ",
		`{"code":null,"signal":null}`:                      "its code is not known, ",
		`{"code":null,"signal":null,"reason":"not known"}`: "not known, ",
	} {
		var e control.Exit
		if err := json.Unmarshal([]byte(said), &e); err != nil {
			t.Fatal(err)
		}
		if got := exitText(e); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", said, got, want)
		}
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
		{"app.py --http :9000", "[uwsgi]\nwsgi-file = app.py\nhttp = :9000\n"},
		{"app.py", "[uwsgi]\nwsgi-file = app.py\nhttp = 127.0.0.1:8080\n"},
		{"--http :1 app.py", "[uwsgi]\nhttp = :1\nwsgi-file = app.py\n"},
		{"--chmod-socket -s x", "[uwsgi]\nchmod-socket\nsocket = x\n"},
		{"--mule --mule=jobs.py --check-cache app.py", "[uwsgi]\nmule\nmule = jobs.py\ncheck-cache\nwsgi-file = app.py\nhttp = 127.0.0.1:8080\n"}, // uWSGI's optional arguments
		{"-C664 -s x", "[uwsgi]\nchmod-socket = 664\nsocket = x\n"},
		{"--proceses 4", ""}, {"--http", ""}, {"", ""}, {"a.ini b.ini", ""}, {"-", ""}, {"--no-such=1", ""}, {"config.ru", "[uwsgi]\nrack = config.ru\nhttp = 127.0.0.1:8080\n"}, {"x/app.psgi", "[uwsgi]\npsgi = x/app.psgi\nhttp = 127.0.0.1:8080\n"},
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
