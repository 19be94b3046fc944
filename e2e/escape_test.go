package e2e

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const hostSecret = "only-for-the-host"

// hostileBin is a directory of Liege's programs of which one, "core" or
// "stage", is the tenant's.
func hostileBin(t *testing.T, bin, which string) string {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(bin), "liege-hostile-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "sbin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"liege", "liege-emperor", "liege-stage", "liege-core", "liege-relay", "sbin/sendmail"} {
		if name == "liege-"+which {
			continue
		}
		if err := os.Link(filepath.Join(bin, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if built := filepath.Join(bin, "hostile"+which); os.Getenv("TEST_BIN") != "" {
		if err := os.Link(built, filepath.Join(dir, "liege-"+which)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "liege-"+which), "./testdata/hostile"+which)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// bait is a server on the host's loopback that tells a secret.
func bait(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, hostSecret)
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

// poke connects, and does not mind what becomes of the connection.
func poke(t *testing.T, addr string) {
	t.Helper()
	c, err := net.Dial("tcp4", addr)
	if errors.Is(err, syscall.ECONNRESET) {
		return // accepted, and taken apart at once
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
}

// TestEscape: a core that its tenant took over cannot leave its network with
// its listener, a connection or anything else that it was given (KERNEL 1).
func TestEscape(t *testing.T) {
	r := layRealm(t)
	r.bin = hostileBin(t, r.bin, "core")
	secret := bait(t)
	r.write("app/attack", "escape "+secret+" 169.254.169.254:80")
	r.begin()
	r.drop("v", "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\ncheck-static = DIR/app\n")
	v := r.up("v")
	poke(t, v.Listen[0])
	var said string
	r.until("the attack is over", func() bool { said = r.liege("logs", "v"); return strings.Contains(said, "attack is over") })
	if strings.Contains(said, hostSecret) || strings.Contains(said, "connected") {
		t.Errorf("the tenant got out:\n%s", said)
	}
	for _, want := range []string{
		"accepted domain 2 type 1 to " + secret + ": operation not permitted",
		"accepted domain 2 type 1 to 169.254.169.254:80: operation not permitted",
		"listener domain 2 type 1 to " + secret + ": operation not permitted",
		"listener domain 2 type 1 to 169.254.169.254:80: operation not permitted",
		"accepted domain 2 type 1 to a port of its choice: operation not permitted",
		"fresh domain 2 type 1 to " + secret + ": connection refused", // its own lo
		"fresh domain 2 type 1 to 169.254.169.254:80: network is unreachable",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("want %q in\n%s", want, said)
		}
	}
	if strings.Contains(said, "domain 1 type 2") {
		t.Errorf("the core was given a unix datagram socket, with which it reaches the host's abstract names:\n%s", said)
	}

	// The negative control: the same program in a network of its own, with a
	// listener that no guard has seen.
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out bytes.Buffer
	cmd := exec.Command(filepath.Join(r.bin, "liege-core"), "--bare", "escape "+secret)
	cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = []*os.File{f}, &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	poke(t, ln.Addr().String())
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"accepted domain 2 type 1 to a port of its choice: bound", "accepted domain 2 type 1 to " + secret + ": connected: " + hostSecret, "listener domain 2 type 1 to " + secret + ": connected: " + hostSecret, "fresh domain 2 type 1 to " + secret + ": network is unreachable"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("without the guard: want %q in\n%s", want, out.String())
		}
	}
}

// escapeApp does with the descriptors of a worker what hostilecore does with
// those of the core. Run as a program it is its own negative control.
const escapeApp = `
import ctypes, json, os, socket, stat, sys

libc = ctypes.CDLL(None, use_errno=True)

def attack(fd, port):
    s = socket.socket(fileno=os.dup(fd))
    try:
        if libc.connect(s.fileno(), b"\0" * 16, 16):
            return "disconnect: " + os.strerror(ctypes.get_errno())
        s.settimeout(5)
        s.connect(("127.0.0.1", port))
        return "connected: " + s.recv(64).decode()
    except OSError as e:
        return str(e)
    finally:
        s.close()

def all(port):
    out = {}
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                domain = socket.socket(fileno=os.dup(fd)).family.name
                out["%d %s" % (fd, domain)] = attack(fd, port)
        except OSError:
            pass
    fresh = socket.socket()
    out["fresh AF_INET"] = attack(fresh.fileno(), port)
    return out

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(all(PORT)).encode()]

if __name__ == "__main__":
    ln = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(ln.getsockname())
    conn, _ = ln.accept()
    if libc.unshare(0x40000000):
        sys.exit("unshare: " + os.strerror(ctypes.get_errno()))
    print(json.dumps({"accepted": attack(conn.fileno(), PORT), "listener": attack(ln.fileno(), PORT)}))
`

// TestWorkerEscape: the same from a WSGI worker, with every socket it has.
func TestWorkerEscape(t *testing.T) {
	r := newRealm(t)
	secret := bait(t)
	_, port, _ := net.SplitHostPort(secret)
	file := r.write("app/app.py", strings.ReplaceAll(escapeApp, "PORT", port))
	r.drop("v", "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\n")
	code, body := r.get(r.up("v").Listen[0], "/")
	if code != 200 || strings.Contains(body, "connected") || !strings.Contains(body, `"fresh AF_INET": "[Errno 111]`) {
		t.Errorf("%d %s", code, body)
	}
	if strings.Count(body, "AF_INET") != 1 {
		t.Errorf("the worker was given a socket of the internet: %s", body)
	}
	out, err := exec.Command("/usr/bin/python3", file).CombinedOutput()
	if want := "connected: " + hostSecret; err != nil || strings.Count(string(out), want) != 2 {
		t.Errorf("without the guard: %v %s; want both %q", err, out, want)
	}
}
