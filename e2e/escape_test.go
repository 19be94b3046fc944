package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"liege/internal/testescape"
)

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

// TestEscape: a core that its tenant took over cannot leave its network with
// its listener, a connection or anything else that it was given (KERNEL 1).
func TestEscape(t *testing.T) {
	r := layRealm(t)
	r.bin = hostileBin(t, r.bin, "core")
	bait := testescape.Bait(t, "127.0.0.1:0")
	r.write("app/attack", testescape.Attack(bait))
	r.begin()
	r.drop("v", "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\ncheck-static = DIR/app\n")
	testescape.Poke(t, r.up("v").Listen[0])
	var said string
	r.until("the attack is over", func() bool { said = r.liege("logs", "v"); return testescape.Over(said) })
	testescape.Guarded(t, said, bait)
	testescape.Unguarded(t, filepath.Join(r.bin, "liege-core"), bait)
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
	_, port, _ := net.SplitHostPort(testescape.Bait(t, "127.0.0.1:0"))
	file := r.write("app/app.py", strings.ReplaceAll(escapeApp, "PORT", port))
	r.drop("v", "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\n")
	code, body := r.get(r.up("v").Listen[0], "/")
	if code != 200 || testescape.Told(body) || !strings.Contains(body, `"fresh AF_INET": "[Errno 111]`) {
		t.Errorf("%d %s", code, body)
	}
	if strings.Count(body, "AF_INET") != 1 {
		t.Errorf("the worker was given a socket of the internet: %s", body)
	}
	out, err := exec.Command("/usr/bin/python3", file).CombinedOutput()
	if err != nil || strings.Count(string(out), testescape.Secret) != 2 {
		t.Errorf("without the guard: %v %s; want the secret twice", err, out)
	}
}
