package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
)

// caller is an app that connects where its query says, says what the query
// says, and tells what it heard until the end.
const caller = `
import errno, socket, urllib.parse

def connect(to):
    if to.startswith('unix:'):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(20)
        s.connect(to[5:])
        return s
    host, port = to.rsplit(':', 1)
    host = host.strip('[]')
    s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
    s.settimeout(20)
    s.connect((host, int(port)))
    return s

def application(environ, start_response):
    q = urllib.parse.parse_qs(environ['QUERY_STRING'])
    heard = b''
    start_response('200 OK', [('Content-Type', 'text/plain')])
    if 'to' not in q:
        return [b'hello']
    try:
        s = connect(q['to'][0])
        s.sendall(q.get('say', ['hello'])[0].encode() * int(q.get('times', ['1'])[0]))
        try:
            s.shutdown(socket.SHUT_WR)
        except OSError as e:
            if e.errno != errno.ENOTCONN: # cut off already: recv says how
                raise
        while True:
            b = s.recv(65536)
            if not b:
                break
            heard += b
        s.close()
    except OSError as e:
        return [('%s: %s' % (type(e).__name__, e.strerror)).encode()]
    return [heard if len(heard) < 4096 else ('%d bytes' % len(heard)).encode()]
`

// peer is a service of the host.
type peer struct {
	t      *testing.T
	at     string // as a connect line names it
	ln     net.Listener
	served atomic.Int64
	all    sync.WaitGroup
}

// newPeer serves at a TCP address, or a unix socket that begins with /, with
// "uid:gid text" to who said text.
func newPeer(t *testing.T, at string) *peer {
	t.Helper()
	network := "tcp"
	if at[0] == '/' {
		network = "unix"
	}
	ln, err := net.Listen(network, at)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, at: ln.Addr().String(), ln: ln}
	if network == "unix" {
		p.at = "unix:" + at
		if err := os.Chmod(at, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	p.all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			p.served.Add(1)
			p.all.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(p.stop)
	return p
}

func (p *peer) stop() { p.ln.Close(); p.all.Wait() }

func (p *peer) serve(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	who := p.client(c)
	text, err := io.ReadAll(c)
	if err != nil {
		return
	}
	fmt.Fprintf(c, "%s %s", who, text)
}

// client is who the kernel says is at the other end.
func (p *peer) client(c net.Conn) string {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return "tcp"
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return err.Error()
	}
	var who string
	raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		who = fmt.Sprint(err)
		if err == nil {
			who = fmt.Sprintf("%d:%d", cred.Uid, cred.Gid)
		}
	})
	return who
}

// runDir is a directory of the host's /run, where services have their sockets.
func runDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "liege-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (r *realm) caller() {
	r.t.Helper()
	r.write("app/caller.py", caller)
}

const callerLines = "uid = www-data\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = caller.py\nprocesses = 2\nthreads = 8\n"

// relays are the pids of the relays that run. A survivor of a killed Emperor ends
// as a child of this process, which does not wait for it.
func relays(t *testing.T) (pids []int) {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if b, err := os.ReadFile(f); err != nil || string(b) != "liege-relay\n" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(filepath.Dir(f), "status"))
		if err == nil && !strings.Contains(string(b), "\nState:\tZ") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestConnect: an app reaches what its file names, as itself, and nothing
// else.
func TestConnect(t *testing.T) {
	r := layRealm(t)
	r.caller()
	other, otherPort := hostListener(t)
	dir := runDir(t)
	tcp, sock, hidden := newPeer(t, "127.0.0.1:0"), newPeer(t, dir+"/db.sock"), newPeer(t, dir+"/other.sock")
	tmp := newPeer(t, filepath.Join(os.TempDir(), filepath.Base(dir)+".sock"))
	r.begin()
	r.drop("v", callerLines+"connect = "+tcp.at+" "+sock.at+"\nconnect = "+tmp.at+"\nconnect = 127.0.0.1:1\n")
	v := r.up("v")
	ask := func(query string) string {
		t.Helper()
		code, body := r.get(v.Listen[0], "/?"+query)
		if code != 200 {
			t.Fatalf("%s: %d %s", query, code, body)
		}
		return body
	}
	for _, tc := range []struct{ query, want string }{
		{"to=" + tcp.at, "tcp hello"},
		{"to=" + sock.at, "33:33 hello"},
		{"to=" + tmp.at, "33:33 hello"},
		{"to=" + strings.Replace(sock.at, "/run/", "/var/run/", 1), "33:33 hello"},
		{"to=" + tcp.at + "&times=1000000", "5000004 bytes"},
		{"to=" + sock.at + "&times=1000000", "5000006 bytes"},
		{"to=127.0.0.1:1", "ConnectionResetError: Connection reset by peer"},
		{"to=127.0.0.1:" + otherPort, "ConnectionRefusedError: Connection refused"},
		{"to=" + hidden.at, "FileNotFoundError: No such file or directory"},
		{"to=10.11.12.13:80", "OSError: Network is unreachable"},
	} {
		if got := ask(tc.query); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.query, got, tc.want)
		}
	}
	if other.hits() != 0 || hidden.served.Load() != 0 {
		t.Error("something that was not named was reached")
	}
	log := r.liege("logs", "v")
	for _, want := range []string{"network: none, may connect to: " + tcp.at + " " + sock.at + " " + tmp.at + " 127.0.0.1:1\n", "connect 127.0.0.1:1: connection refused"} {
		if !strings.Contains(log, want) {
			t.Errorf("want %q in\n%s", want, log)
		}
	}
	// The service ends and another one comes.
	tcp.stop()
	if got := ask("to=" + tcp.at); got != "ConnectionResetError: Connection reset by peer" {
		t.Errorf("nobody is there: %q", got)
	}
	again := newPeer(t, tcp.at)
	if got := ask("to=" + again.at); got != "tcp hello" {
		t.Errorf("the new one: %q", got)
	}
	if got := len(relays(t)); got != 1 {
		t.Errorf("%d relays", got)
	}
}

// TestRelayPosture: what the relay is, from outside, and that it can be neither
// seen nor signalled from inside.
func TestRelayPosture(t *testing.T) {
	r := layRealm(t)
	r.caller()
	tcp := newPeer(t, "127.0.0.1:0")
	r.begin()
	r.drop("v", callerLines+"connect = "+tcp.at+"\n")
	r.up("v")
	pids := relays(t)
	if len(pids) != 1 {
		t.Fatalf("relays %v", pids)
	}
	status := procStatus(t, pids[0])
	for field, want := range map[string]string{
		"Uid": "33 33 33 33", "Gid": "33 33 33 33", "CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000",
		"CapBnd": "0000000000000000", "CapAmb": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2",
	} {
		if got := strings.Join(strings.Fields(status[field]), " "); got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
	if threads, err := strconv.Atoi(status["Threads"]); err != nil || threads > 12 {
		t.Errorf("threads %q: more than are added to pids-max", status["Threads"])
	}
	t.Logf("VmRSS %s, RssAnon %s, threads %s", status["VmRSS"], status["RssAnon"], status["Threads"])
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/environ", pids[0]), &st); err != nil || st.Uid != 0 {
		t.Errorf("its /proc belongs to %d, so it is dumpable (%v)", st.Uid, err)
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pids[0]))
	var open []string
	for _, fd := range fds {
		to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pids[0], fd.Name()))
		open = append(open, to)
	}
	// Standard ones, the channel, a listener; the runtime's poller.
	if err != nil || len(open) > 7 {
		t.Errorf("descriptors %q, %v", open, err)
	}
	cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pids[0]))
	if err != nil || !strings.Contains(string(cgroup), "/v-v/r1\n") {
		t.Errorf("%s %v", cgroup, err)
	}
}

func procStatus(t *testing.T, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(line, ":")
		out[k] = strings.TrimSpace(v)
	}
	return out
}

// TestConnectAddresses: an address that is not lo's own, and IPv6.
func TestConnectAddresses(t *testing.T) {
	testenv.Need(t, testenv.IPv6)
	r := layRealm(t)
	r.caller()
	six := newPeer(t, "[::1]:0")
	lines, at := "connect = "+six.at+"\n", []string{six.at}
	if own := ownAddress(t); own != "" {
		p := newPeer(t, own+":0")
		lines, at = lines+"connect = "+p.at+"\n", append(at, p.at)
	}
	r.begin()
	r.drop("v", callerLines+lines)
	v := r.up("v")
	for _, a := range at {
		if _, got := r.get(v.Listen[0], "/?to="+a); got != "tcp hello" {
			t.Errorf("%s: %q", a, got)
		}
	}
}

// ownAddress is an IPv4 address of this machine besides 127.0.0.1.
func ownAddress(t *testing.T) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			return n.IP.String()
		}
	}
	return ""
}

// TestConnectCalls: an app calls a function of another vassal's, over a connect
// line that leads to its uwsgi listener; without the line it reaches nobody.
func TestConnectCalls(t *testing.T) {
	r := newRealm(t)
	r.write("app/stock.py", "import uwsgi\nuwsgi.register_rpc('left', lambda item: b'7 of ' + item)\ndef application(e, s):\n    s('200 OK', [])\n    return [b'stock']\n")
	r.write("app/shop.py", "import uwsgi\ndef application(e, s):\n    s('200 OK', [])\n    return [repr(uwsgi.rpc(e['QUERY_STRING'].encode(), b'left', b'socks')).encode()]\n")
	r.drop("stock", "uid = nobody\nchdir = DIR/app\nwsgi-file = stock.py\nsocket = 127.0.0.1:0\n")
	at := r.up("stock").Listen[0]
	shop := "uid = www-data\nchdir = DIR/app\nwsgi-file = shop.py\nhttp-socket = 127.0.0.1:0\n"
	r.drop("shop", shop+"connect = "+at+"\n")
	r.drop("stranger", shop)
	for name, want := range map[string]string{"shop": "b'7 of socks'", "stranger": "None"} {
		if status, got := r.get(r.up(name).Listen[0], "/?"+at); status != 200 || got != want {
			t.Errorf("%s: %d %q, want %q", name, status, got, want)
		}
	}
}

// TestConnectByLink: [ceilings] connect allows a path, and a link that its user
// puts there leads to no other. The control is the socket itself in its place.
func TestConnectByLink(t *testing.T) {
	r := layRealm(t)
	r.caller()
	dir := runDir(t)
	secret := newPeer(t, dir+"/secret.sock")
	home := filepath.Join(dir, "home")
	if err := errors.Join(os.Mkdir(home, 0o755), os.Chown(home, nobody, nobody), os.Symlink(secret.ln.Addr().String(), home+"/db.sock")); err != nil {
		t.Fatal(err)
	}
	r.ini = "[emperor]\n[ceilings]\nmin-uid = 1\nlisten = 127.0.0.1:0\nconnect = unix:" + home + "/*\n"
	r.begin()
	at := "unix:" + home + "/db.sock"
	r.dropAs(nobody, nobody, "v", strings.Replace(callerLines, "uid = www-data\n", "", 1)+"connect = "+at+"\n")
	v := r.up("v")
	_, got := r.get(v.Listen[0], "/?to="+at)
	if secret.served.Load() != 0 {
		t.Errorf("the link led to the host's socket: %q", got)
	}
	r.until("the log says why", func() bool { return strings.Contains(r.liege("logs", "v"), "a link is on the way") })
	if err := os.Remove(home + "/db.sock"); err != nil {
		t.Fatal(err)
	}
	newPeer(t, home+"/db.sock")
	if _, got := r.get(v.Listen[0], "/?to="+at); got != fmt.Sprintf("%d:%d hello", nobody, nobody) {
		t.Errorf("the socket itself: %q", got)
	}
}
