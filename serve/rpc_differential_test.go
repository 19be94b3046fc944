package serve

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"liege/internal/testenv"
)

// rpcSite is an app whose functions are called by peers, and which calls
// theirs.
const rpcSite = `
import os, time, uwsgi
uwsgi.register_rpc('join', lambda *a: b'|'.join(a))
uwsgi.register_rpc('none', lambda: None)
uwsgi.register_rpc('empty', lambda: b'')
uwsgi.register_rpc('long', lambda: b'x' * 65535)
uwsgi.register_rpc('fail', lambda: 1 / 0)
def application(environ, start_response):
    start_response('200 OK', [])
    name, node = environ['QUERY_STRING'].split('@')
    return [repr(uwsgi.rpc(node.encode(), *name.encode().split(b','))).encode()]
`

// packetOf is a packet of these words.
func packetOf(modifier1, modifier2 byte, words ...string) []byte {
	b := []byte{modifier1, 0, 0, modifier2}
	for _, w := range words {
		b = append(binary.LittleEndian.AppendUint16(b, uint16(len(w))), w...)
	}
	binary.LittleEndian.PutUint16(b[1:], uint16(len(b)-4))
	return b
}

// peerAsks sends a packet and returns all that comes back.
func peerAsks(t *testing.T, addr string, packet []byte) string {
	t.Helper()
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := c.Write(packet); err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(c) // a reset is the end of what uWSGI says
	return string(b)
}

// TestRemoteCalls: functions are called by peers over a uwsgi listener, and
// those of peers by the app and by rules, as uWSGI does both: in each
// direction, with uWSGI on the other side.
func TestRemoteCalls(t *testing.T) {
	testenv.Need(t, testenv.Uwsgi, testenv.Python3)
	dir := t.TempDir()
	app := filepath.Join(dir, "app.py")
	if err := os.WriteFile(app, []byte(rpcSite), 0o644); err != nil {
		t.Fatal(err)
	}
	theirs, web := filepath.Join(dir, "theirs"), filepath.Join(dir, "web")
	cmd := exec.Command("uwsgi", "--plugins", "python3,rpc", "--master", "--processes", "2", "--socket", theirs, "--http-socket", web, "--wsgi-file", app)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait() // killed
	}()
	s := bareSite(t, "http-socket = 127.0.0.1:1\nsocket = 127.0.0.1:2\nprocesses = 2\nwsgi-file = "+app+"\n"+
		"route = ^/call/(.*) rpc:join@"+theirs+" $1 z\nroute = ^/var rpcvar:GOT join@"+theirs+" a b\nroute = ^/var addheader:X-Got: ${GOT}\nroute = ^/var break:200\n"+
		"route = ^/none rpc:nothere@"+theirs+"\n")
	ours := s.addrs[1]
	s.until("uWSGI serves", func() bool {
		b, _ := os.ReadFile(log.Name())
		return strings.Contains(string(b), "spawned uWSGI worker 2")
	})
	for _, p := range [][]byte{
		packetOf(173, 0, "join", "a", "b"), packetOf(173, 0, "join"), packetOf(173, 0, "none"), packetOf(173, 0, "empty"), packetOf(173, 0, "long"), packetOf(173, 0, "fail"),
		packetOf(173, 0, "nothere", "x"), packetOf(173, 1, "join", "a", "b"), packetOf(173, 1, "none"), packetOf(173, 5, "join", "c"), packetOf(173, 0), packetOf(173, 0, "join", "\x00\xff"),
		{173, 2, 0, 0, 0xff, 0xff}, packetOf(173, 0, append([]string{"join"}, strings.Split(strings.Repeat("a,", 253)+"a", ",")...)...),
	} {
		if got, want := peerAsks(t, ours, p), peerAsks(t, theirs, p); got != want {
			t.Errorf("%.40q: got %.60q, uWSGI says %.60q", p, got, want)
		}
	}
	if got := peerAsks(t, ours, packetOf(173, 0, "\x00signal", "\x01")); got != "" {
		t.Errorf("our own function: %q", got)
	}
	get := func(addr, path string) string {
		return peerAsks(t, addr, []byte("GET "+path+" HTTP/1.0\r\nHost: x\r\n\r\n"))
	}
	for _, name := range []string{"join,a,b", "join", "none", "empty", "fail", "nothere", "long"} {
		_, got, _ := strings.Cut(get(s.addrs[0], "/?"+name+"@"+theirs), "\r\n\r\n")
		_, back, _ := strings.Cut(get(web, "/?"+name+"@"+ours), "\r\n\r\n")
		if got != back {
			t.Errorf("%s: we get %.40q of uWSGI, it gets %.40q of us", name, got, back)
		}
	}
	if _, got, _ := strings.Cut(get(s.addrs[0], "/?join,a@127.0.0.1:1"), "\r\n\r\n"); got != "None" {
		t.Errorf("nobody there: %q", got)
	}
	for path, want := range map[string]string{"/call/x": "x|z", "/var": "X-Got: a|b", "/none": " 500 "} {
		if got := get(s.addrs[0], path); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// TestLyingPeer: whatever a peer answers to a call, the call ends.
func TestLyingPeer(t *testing.T) {
	testenv.Need(t, testenv.Python3)
	dir := t.TempDir()
	app := filepath.Join(dir, "app.py")
	if err := os.WriteFile(app, []byte(rpcSite), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan string, 1)
	served := make(chan struct{})
	go func() {
		defer close(served)
		for answer := range answers {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1<<16))
			_, _ = io.WriteString(c, answer)
			c.Close()
		}
	}()
	defer func() { l.Close(); close(answers); <-served }()
	s := bareSite(t, fmt.Sprintf("http-socket = 127.0.0.1:1\nprocesses = 1\nwsgi-file = %s\nroute = ^/rule rpc:f@%s\n", app, l.Addr()))
	long := string(packetOf(173, 5, "CONTENT_LENGTH", "3")) + "xyz"
	for _, c := range []struct{ answer, want string }{
		{"\xad\x03\x00\x00abc", "abc"}, {long, "xyz"}, {"\xad\x03\x00\x00ab", ""}, {"\xad", ""}, {"", ""}, {"\xad\x00\x00\x00", ""}, {"HTTP/1.1 200 OK\r\n\r\n", ""}, {"\xad\x00\x00\x05", ""},
		{string(packetOf(173, 5, "CONTENT_LENGTH", "99999999999")), ""}, {string(packetOf(173, 5, "CONTENT_LENGTH", "-1")), ""}, {string(packetOf(173, 5, "CONTENT_LENGTH")), ""}, {"\xad\x02\x00\x05\xff\xff", ""},
		{string(packetOf(173, 5, "CONTENT_LENGTH", "9")) + "short", ""}, {"\xad\x01\x00\x07x", ""},
	} {
		for _, path := range []string{"/rule", "/?f@" + l.Addr().String()} {
			answers <- c.answer
			head, got, _ := strings.Cut(peerAsks(t, s.addrs[0], []byte("GET "+path+" HTTP/1.0\r\nHost: x\r\n\r\n")), "\r\n\r\n")
			want, status := c.want, "200"
			if path != "/rule" {
				want = "b'" + want + "'"
			}
			if c.want == "" {
				want = "None"
				if path == "/rule" {
					want, status = "500 Internal Server Error\n", "500"
				}
			}
			if got != want || !strings.Contains(head, " "+status+" ") {
				t.Errorf("%q by %s: %q %q, want %q", c.answer, path, head, got, want)
			}
		}
	}
}
