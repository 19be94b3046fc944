package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestConnectMany: a thousand connections at once.
func TestConnectMany(t *testing.T) {
	r := layRealm(t)
	r.write("app/many.py", manyApp)
	tcp, sock := newPeer(t, "127.0.0.1:0"), newPeer(t, runDir(t)+"/db.sock")
	r.begin()
	r.drop("v", "uid = www-data\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = many.py\nconnect = "+tcp.at+" "+sock.at+"\n")
	v := r.up("v")
	for _, p := range []*peer{tcp, sock} {
		if _, got := r.get(v.Listen[0], "/?"+p.at); got != "1000 answers" {
			t.Errorf("%s: %s", p.at, got)
		}
		if n := p.served.Load(); n != 1000 {
			t.Errorf("%s: %d connections came", p.at, n)
		}
	}
}

const manyApp = `
import socket, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)

def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    to, all, n = environ['QUERY_STRING'], [], 0
    if not to:
        return [b'hello']
    for i in range(1000):
        s = socket.socket(socket.AF_UNIX if to.startswith('unix:') else socket.AF_INET)
        s.settimeout(30)
        s.connect(to[5:] if to.startswith('unix:') else (to.rsplit(':', 1)[0], int(to.rsplit(':', 1)[1])))
        all.append(s)
    for i, s in enumerate(all):
        s.sendall(b'number %d' % i)
        s.shutdown(socket.SHUT_WR)
    for i, s in enumerate(all):
        b = b''
        while True:
            more = s.recv(4096)
            if not more:
                break
            b += more
        n += b.endswith(b' number %d' % i)
        s.close()
    return [b'%d answers' % n]
`

// holder is an app that keeps one connection and says one word on it for each
// request.
const holder = `
import socket
s = None

def application(environ, start_response):
    global s
    to = environ['QUERY_STRING']
    start_response('200 OK', [('Content-Type', 'text/plain')])
    if not to:
        return [b'hello']
    if s is None:
        s = socket.create_connection((to.rsplit(':', 1)[0], int(to.rsplit(':', 1)[1])), 20)
        s.settimeout(20)
    try:
        s.sendall(b'word\n')
        return [s.recv(100)]
    except OSError as e:
        s = None
        return [type(e).__name__.encode()]
`

// words answers each line at once with the number of lines of the connection.
func words(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(2 * time.Minute))
				br := bufio.NewReader(c)
				for n := 1; ; n++ {
					if _, err := br.ReadString('\n'); err != nil {
						return
					}
					fmt.Fprint(c, n)
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); all.Wait() })
	return ln.Addr().String()
}

// TestRelayLife: a killed relay comes again, a reload keeps the old one until
// the old generation has drained, and a killed Emperor leaves it serving.
func TestRelayLife(t *testing.T) {
	r := layRealm(t)
	r.write("app/holder.py", holder)
	to := words(t)
	r.begin()
	lines := "uid = www-data\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = holder.py\nconnect = " + to + "\n"
	r.drop("v", lines)
	v := r.up("v")
	say := func(want string) {
		t.Helper()
		if _, got := r.get(v.Listen[0], "/?"+to); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	say("1")
	say("2")
	// Killed: what it carried breaks, and what comes finds the next one.
	old := relays(t)
	if len(old) != 1 {
		t.Fatalf("relays %v", old)
	}
	syscall.Kill(old[0], syscall.SIGKILL)
	r.until("another relay runs", func() bool { now := relays(t); return len(now) == 1 && now[0] != old[0] })
	if _, got := r.get(v.Listen[0], "/?"+to); got != "ConnectionResetError" && got != "BrokenPipeError" && got != "" {
		t.Errorf("the broken connection: %q", got)
	}
	last := ""
	for deadline := time.Now().Add(20 * time.Second); last != "1"; time.Sleep(20 * time.Millisecond) {
		if _, last = r.get(v.Listen[0], "/?"+to); time.Now().After(deadline) {
			t.Fatalf("the app does not reach the service again: %q\n%s", last, r.liege("logs", "v"))
		}
	}
	if log := r.liege("logs", "v"); !strings.Contains(log, "the relay ended (signal: killed) and is started again") {
		t.Errorf("nothing is said of it:\n%s", log)
	}
	// A reload: under traffic, each generation with a relay of its own.
	stop := r.loop(v.Listen[0])
	for range 3 {
		r.liege("reload", "v")
		say("1")
		say("2")
	}
	stop()
	r.until("one relay is left", func() bool { return len(relays(t)) == 1 })
	// The Emperor is killed.
	before := relays(t)
	r.kill()
	say("3")
	if now := relays(t); len(now) != 1 || now[0] != before[0] {
		t.Errorf("relays %v, were %v", now, before)
	}
	r.start()
	r.until("the survivor is replaced", func() bool {
		now := relays(t)
		return len(now) == 1 && now[0] != before[0]
	})
	r.up("v")
	say("1")
	// A start that fails leaves none.
	r.drop("v", lines+"hook-as-root = exec:false\n")
	r.until("the start failed", func() bool { return r.status("v").Error != nil })
	r.until("one relay is left", func() bool { return len(relays(t)) == 1 })
	say("2")
	if err := os.Remove(filepath.Join(r.etc, "v.ini")); err != nil {
		t.Fatal(err)
	}
	r.liege("wait", "v", "gone", "--timeout", patience)
	if left := relays(t); len(left) != 0 {
		t.Errorf("relays %v are left", left)
	}
	if left, _ := filepath.Glob(r.run + "/sandbox/doors/*"); len(left) != 0 {
		t.Errorf("%v are left", left)
	}
}

// TestEmperorGoneWithRelay: the vassal's file goes while no Emperor is there.
func TestEmperorGoneWithRelay(t *testing.T) {
	r := layRealm(t)
	r.caller()
	tcp := newPeer(t, "127.0.0.1:0")
	r.begin()
	for i := range 3 {
		r.drop(fmt.Sprintf("v%d", i), callerLines+"connect = "+tcp.at+"\n")
		r.up(fmt.Sprintf("v%d", i))
	}
	r.kill()
	if got := len(relays(t)); got != 3 {
		t.Errorf("%d relays", got)
	}
	if err := os.Remove(filepath.Join(r.etc, "v0.ini")); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.until("two relays are left", func() bool { return len(relays(t)) == 2 })
	r.up("v1")
	r.up("v2")
}

// attacker is an app that goes for the relay: it looks for it among its
// processes, signals and traces all that it can name, and floods it.
const attacker = `
import ctypes, os, signal, socket, time

libc = ctypes.CDLL(None, use_errno=True)

def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    to = environ['QUERY_STRING']
    if not to:
        return [b'hello']
    said = []
    names = {}
    for p in os.listdir('/proc'):
        if p.isdigit():
            with open('/proc/%s/comm' % p) as f:
                names[p] = f.read().strip()
    said.append('sees %s' % [n for n in names.values() if 'relay' in n or 'emperor' in n])
    host = int(environ['HTTP_X_RELAY'])
    try:
        os.kill(host, signal.SIGTERM)
        said.append('signalled')
    except OSError as e:
        said.append('kill: ' + e.strerror)
    if libc.ptrace(16, host, 0, 0) == 0:
        said.append('traced')
    else:
        said.append('ptrace: ' + os.strerror(ctypes.get_errno()))
    all = []
    try:
        for i in range(4000):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex((to.rsplit(':', 1)[0], int(to.rsplit(':', 1)[1])))
            all.append(s)
    except OSError as e:
        pass
    time.sleep(1)
    said.append('flooded' if len(all) > 900 else 'only %d' % len(all))
    for s in all:
        s.close()
    s = socket.create_connection((to.rsplit(':', 1)[0], int(to.rsplit(':', 1)[1])), 20)
    s.settimeout(20)
    s.sendall(b'after')
    s.shutdown(socket.SHUT_WR)
    said.append(s.recv(100).decode())
    return ['; '.join(said).encode()]
`

// TestRelayAttacked: a tenant cannot see, signal or trace its relay, and a flood
// of connections hurts nobody else.
func TestRelayAttacked(t *testing.T) {
	r := layRealm(t)
	r.caller()
	r.write("app/attacker.py", attacker)
	tcp, other := newPeer(t, "127.0.0.1:0"), newPeer(t, "127.0.0.1:0")
	r.begin()
	r.drop("m", "uid = www-data\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = attacker.py\nconnect = "+tcp.at+"\n")
	m := r.up("m")
	mine := relays(t)
	if len(mine) != 1 {
		t.Fatalf("relays %v", mine)
	}
	r.drop("v", callerLines+"connect = "+other.at+"\n")
	v := r.up("v")
	answer := make(chan string, 1)
	go func() {
		req, _ := http.NewRequest("GET", "http://vassal/?"+tcp.at, nil)
		req.Header.Set("X-Relay", strconv.Itoa(mine[0]))
		c := client(m.Listen[0], false)
		c.Timeout = time.Minute
		res, err := c.Do(req)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		answer <- string(b)
	}()
	for done := false; !done; {
		if _, got := r.get(v.Listen[0], "/?to="+other.at); got != "tcp hello" {
			t.Errorf("meanwhile another vassal: %q", got)
		}
		select {
		case got := <-answer:
			done = true
			if want := "sees []; kill: No such process; ptrace: No such process; flooded; tcp after"; got != want {
				t.Errorf("%q, want %q", got, want)
			}
		default:
		}
	}
	if !slices.Contains(relays(t), mine[0]) {
		t.Error("the relay is gone")
	}
}
