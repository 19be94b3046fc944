package serve

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"liege/vassal"
)

// linesOf are the lines of a file, once it has n.
func linesOf(t *testing.T, file string, n int) []string {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		b, _ := os.ReadFile(file)
		got := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
		if len(b) > 0 && len(got) >= n {
			return got
		}
		if time.Now().After(end) {
			t.Fatalf("%s: got %q, want %d lines", file, b, n)
		}
	}
}

// TestLogRenamed: after logrotate has renamed the file the lines go into a new
// one, with nobody told.
func TestLogRenamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access.log")
	addrs, _ := ini(t, "http-socket = :1\nwsgi-file = a.py\nreq-logger = file:"+file+"\nlog-format = %(uri)\n", hello)
	ask(t, addrs[0], "GET /one HTTP/1.0\r\n\r\n")
	if got := linesOf(t, file, 1); got[0] != "/one" {
		t.Errorf("got %q", got)
	}
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; {
		ask(t, addrs[0], "GET /more HTTP/1.0\r\n\r\n")
		if b, err := os.ReadFile(file); err == nil && len(b) > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no new file")
		}
	}
}

// TestLogRotated: a file that has reached its size is renamed; no line is lost.
func TestLogRotated(t *testing.T) {
	for _, backup := range []string{"", "old.log"} {
		dir := t.TempDir()
		file := filepath.Join(dir, "access.log")
		name := ""
		if backup != "" {
			name = ",backupname=" + filepath.Join(dir, backup)
		}
		addrs, _ := ini(t, "http-socket = :1\nwsgi-file = a.py\nreq-logger = file:logfile="+file+",maxsize=100"+name+"\nlog-format = %(uri)\n", hello)
		for range 12 {
			ask(t, addrs[0], "GET /a/request/of/twenty HTTP/1.0\r\n\r\n")
		}
		pattern := filepath.Join(dir, "access.log.*")
		if backup != "" {
			pattern = filepath.Join(dir, backup)
		}
		for end := time.Now().Add(10 * time.Second); ; {
			if found, _ := filepath.Glob(pattern); len(found) > 0 {
				break
			}
			if time.Now().After(end) {
				t.Fatal("nothing was rotated")
			}
			ask(t, addrs[0], "GET /a/request/of/twenty HTTP/1.0\r\n\r\n")
		}
	}
	app, _ := decode(t, "http-socket = :1\nwsgi-file = a.py\nreq-logger = file:/srv/x.log\nlog-maxsize = 200000\nlog-backupname = /srv/x.old\n")
	if app.Log.MaxSize != 200000 || app.Log.Backup != "/srv/x.old" {
		t.Errorf("got %+v", app.Log)
	}
}

// TestLogRotatedOften: however much comes in a second, and whatever names are
// taken, no line is lost.
func TestLogRotatedOften(t *testing.T) {
	for _, backup := range []string{"", "old.log"} {
		dir := t.TempDir()
		l := &accessLog{path: filepath.Join(dir, "access.log"), max: 10, fallback: io.Discard}
		if backup != "" {
			l.backupName = filepath.Join(dir, backup)
		}
		if err := l.open(); err != nil {
			t.Fatal(err)
		}
		now, want := time.Now(), 0
		for i := range 12 {
			l.pending = []byte("a line of twenty\n")
			want += len(l.pending)
			l.write() // looks after it at most once in all of this
			if i%4 == 0 {
				l.looked = time.Time{}
				l.lookAfter(now) // all in one second
			}
		}
		got, files := 0, 0
		names, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, name := range names {
			b, _ := os.ReadFile(name)
			got, files = got+len(b), files+1
		}
		if got != want || files < 4 || files > 5 {
			t.Errorf("%d bytes in %q, want %d", got, names, want)
		}
	}
}

func TestLogEncoders(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access.log")
	addrs, _ := ini(t, "http-socket = :1\nwsgi-file = a.py\nreq-logger = file:"+file+"\nlog-format = %(uri) \"x\"\n"+
		`log-req-encoder = json {"at":${unix},"ms":${millis},"day":"${strftime:%%Y-%%m-%%d}","line":"${msg}"}`+"\nlog-req-encoder = prefix >\nlog-req-encoder = nl\n", hello)
	ask(t, addrs[0], "GET /one HTTP/1.0\r\n\r\n")
	got := linesOf(t, file, 1)[0]
	var v struct {
		At, Ms    int64
		Day, Line string
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(got, ">")), &v); err != nil || got[0] != '>' || v.Line != `/one "x"` || v.At == 0 || v.Ms/1000 != v.At || !regexp.MustCompile(`^\d{4}-\d\d-\d\d$`).MatchString(v.Day) {
		t.Errorf("got %s, %v", got, err)
	}
}

// TestLogSieve: log-drain and log-filter, in the vassal's log alone.
func TestLogSieve(t *testing.T) {
	base := "http-socket = :1\nwsgi-file = a.py\nlog-format = %(uri)\nlog-drain = ^/health\nlog-drain = \\.ico$\nlog-filter = a\n"
	addrs, log := ini(t, base, hello)
	for _, path := range []string{"/health", "/a/health", "/favicon.ico", "/b", "/a"} {
		ask(t, addrs[0], "GET "+path+" HTTP/1.0\r\n\r\n")
	}
	for end := time.Now().Add(10 * time.Second); !strings.HasSuffix(log.String(), "/a\n"); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			break
		}
	}
	if got := log.String(); got != "/a/health\n/a\n" {
		t.Errorf("got %q", got)
	}
	app, _ := decode(t, base+"req-logger = file:/srv/x.log\n")
	if len(app.Log.Drain)+len(app.Log.Filter) != 0 {
		t.Errorf("got %+v", app.Log)
	}
}

// TestLogUnopened: a file that cannot be opened is said with the ready line,
// and the lines are not lost.
func TestLogUnopened(t *testing.T) {
	app, _ := decode(t, "http-socket = :1\nwsgi-file = a.py\nlog-format = %(uri)\nreq-logger = file:"+t.TempDir()+"/none/x.log\n")
	c, err := New(app, newFake(hello), io.Discard, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var said vassal.Problems
	if err := c.Run(ctx, []net.Listener{l}, func(ps vassal.Problems) { said = ps; cancel() }); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(said, func(p vassal.Problem) bool {
		return p.Key == "req-logger" && p.Line == 5 && p.Severity == vassal.Warning
	}) {
		t.Errorf("got %v", said)
	}
}
