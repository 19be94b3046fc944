package serve

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"liege/serve/exchange"
	"liege/vassal"
	"liege/vassal/inifile"
)

// decode is the App of a vassal file with these lines, which must have no
// error; problems are all that was said.
func decode(t testing.TB, lines string) (*vassal.App, vassal.Problems) {
	t.Helper()
	src := inifile.Source{Path: "/etc/vassals/shop.ini", Text: []byte("[uwsgi]\n" + lines), Trust: vassal.Trust{Operator: true}}
	f, ps := inifile.Read(src, inifile.NewOSHost(nil), inifile.ReadOptions{Known: inifile.Known})
	cfg, more := inifile.Decode(f, inifile.Policy{Serve: true})
	if ps = append(ps, more...); ps.Failed() {
		t.Fatalf("%s\n%v", lines, ps)
	}
	cfg.App.Listen, cfg.App.Hostname, cfg.App.Name = cfg.Listen, "shop", "shop"
	for _, h := range cfg.Hooks {
		if h.Phase.Place() == vassal.AtCore {
			cfg.App.Hooks = append(cfg.App.Hooks, h)
		}
	}
	return &cfg.App, ps
}

// site is a directory with the file a.txt.
func site(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.txt"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// ini serves a vassal file with these lines, whose app is h.
func ini(t *testing.T, lines string, h exchange.HandlerFunc) (addrs []string, log *output) {
	t.Helper()
	app, _ := decode(t, lines)
	addrs, log, _ = start(t, app, newFake(h))
	return addrs, log
}

func scgiAsk(path string) string {
	head := strings.Join([]string{"CONTENT_LENGTH", "0", "SCGI", "1", "REQUEST_METHOD", "GET", "PATH_INFO", path, ""}, "\x00")
	return fmt.Sprintf("%d:%s,", len(head), head)
}

func uwsgiAsk(modifier byte, kv ...string) string {
	var b []byte
	for _, s := range kv {
		b = append(binary.LittleEndian.AppendUint16(b, uint16(len(s))), s...)
	}
	return string(binary.LittleEndian.AppendUint16([]byte{modifier}, uint16(len(b)))) + "\x00" + string(b)
}

func fastcgiAsk(path string) string {
	rec := func(kind byte, s string) string {
		return string([]byte{1, kind, 0, 1, byte(len(s) >> 8), byte(len(s)), 0, 0}) + s
	}
	var p string
	for _, kv := range [][2]string{{"REQUEST_METHOD", "GET"}, {"PATH_INFO", path}} {
		p += string([]byte{byte(len(kv[0])), byte(len(kv[1]))}) + kv[0] + kv[1]
	}
	return rec(1, "\x00\x01\x00\x00\x00\x00\x00\x00") + rec(4, p) + rec(4, "") + rec(5, "")
}

// TestListenerLines: each option of a listener for web servers is served in
// its protocol, and so is a socket line by the protocol line.
func TestListenerLines(t *testing.T) {
	dir := site(t)
	for _, c := range []struct{ lines, ask, want string }{
		{"fastcgi-socket = :1", fastcgiAsk("/a.txt"), "Status: 200 OK\r\n"},
		{"fastcgi-nph-socket = :1", fastcgiAsk("/a.txt"), "HTTP/1.1 200 OK\r\n"},
		{"scgi-socket = :1", scgiAsk("/a.txt"), "Status: 200 OK\r\n"},
		{"scgi-nph-socket = :1", scgiAsk("/a.txt"), "HTTP/1.1 200 OK\r\n"},
		{"puwsgi-socket = :1", uwsgiAsk(0, "REQUEST_METHOD", "HEAD", "PATH_INFO", "/a.txt") + uwsgiAsk(5), "HTTP/1.1 200 OK\r\n"},
		{"socket = :1\nprotocol = fastcgi", fastcgiAsk("/a.txt"), "Status: 200 OK\r\n"},
		{"protocol = scgi\nsocket = :1", scgiAsk("/a.txt"), "Status: 200 OK\r\n"},
		{"socket = :1\nprotocol = scgi-nph", scgiAsk("/a.txt"), "HTTP/1.1 200 OK\r\n"},
		{"socket = :1\nremap-modifier = 5:0,7:0", uwsgiAsk(7, "REQUEST_METHOD", "GET", "PATH_INFO", "/a.txt"), "HTTP/1.1 200 OK\r\n"},
		{"socket = :1", uwsgiAsk(7, "REQUEST_METHOD", "GET", "PATH_INFO", "/a.txt"), "HTTP/1.1 501 "},
		{"socket = :1\nallowed-modifiers = 9,30", uwsgiAsk(0, "REQUEST_METHOD", "GET", "PATH_INFO", "/a.txt"), "HTTP/1.1 501 "},
		{"socket = :1\nallowed-modifiers = 0,9", uwsgiAsk(0, "REQUEST_METHOD", "GET", "PATH_INFO", "/a.txt"), "HTTP/1.1 200 OK\r\n"},
	} {
		addrs, _ := ini(t, c.lines+"\ncheck-static = "+dir+"\n", nil)
		if got := ask(t, addrs[0], c.ask); !strings.Contains(got, c.want) {
			t.Errorf("%q: got %q", c.lines, got)
		}
	}
}
