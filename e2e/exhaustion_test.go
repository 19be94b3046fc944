package e2e

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// greedy takes of one thing until it is refused, and keeps it.
const greedy = `
import ctypes, errno, os, signal, socket, threading

libc = ctypes.CDLL(None, use_errno=True)
held = []

def call(f, *args):
    r = f(*args)
    if r < 0:
        raise OSError(ctypes.get_errno(), f.__name__)
    return r

def forked():
    pid = os.fork()
    if pid == 0:
        signal.pause()
    return pid

def big(path):
    f = open(path + str(len(held)), "xb", 0)
    os.unlink(f.name)  # so that it is free when the worker ends
    if f.write(bytes(1 << 20)) < 1 << 20:
        f.write(b"the rest")
    return f

def thread():
    t = threading.Thread(target=threading.Event().wait, daemon=True)
    try:
        t.start()
    except RuntimeError:
        raise OSError(errno.EAGAIN, "thread")
    return t

takes = {
    "memory": (lambda: bytearray(b"x") * (16 << 20), 100),
    "processes": (forked, 5000),
    "threads": (thread, 5000),
    "tmp": (lambda: big("/tmp/big"), 4000),
    "shm": (lambda: big("/dev/shm/big"), 4000),
    "descriptors": (lambda: os.open("/dev/null", os.O_RDONLY), 5000),
    "inotify": (lambda: call(libc.inotify_init1, 0), 5000),
    "terminals": (os.openpty, 5000),
    "sockets": (socket.socketpair, 5000),
    "netlink": (lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0), 5000),
    "queues": (lambda: call(libc.mq_open, b"/q%d" % len(held), os.O_CREAT | os.O_RDWR, 0o600, None), 5000),
    "keys": (lambda: call(libc.syscall, 248 if os.uname().machine == "x86_64" else 217, b"user", b"k%d" % len(held), b"x", 1, -3), 5000),
    "log": (lambda: os.write(2, b"x" * 4095 + b"\n"), 5000),
}

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/":
        return [b"serves"]
    take, most = takes[environ["PATH_INFO"][1:]]
    n = 0
    try:
        while n < most:
            held.append(take())
            n += 1
    except (OSError, MemoryError) as e:
        return [errno.errorcode[e.errno].encode() if isinstance(e, OSError) else b"MemoryError", b" after %d" % n]
    return [b"no end after %d" % n]
`

// TestExhaustion: one vassal takes all it can get of one thing after the other.
// It is refused, or ended; of the requests to another vassal none is lost, and
// the Emperor starts what is dropped meanwhile.
func TestExhaustion(t *testing.T) {
	r := newRealm(t)
	r.write("app/app.py", greedy)
	r.write("calm/app.py", hello("calm"))
	r.drop("calm", "uid = www-data\nhttp = 127.0.0.1:0\nchdir = DIR/calm\nwsgi-file = DIR/calm/app.py\n")
	r.drop("greedy", "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\nprocesses = 1\n"+
		"memory-max = 200M\npids-max = 60\nlimit-nofile = 2000\n")
	calm := r.up("calm")
	r.up("greedy")
	for what, bound := range map[string]string{
		"memory": "ended", "tmp": "ENOSPC", "shm": "ENOSPC", "processes": "EAGAIN", "threads": "EAGAIN", "descriptors": "EMFILE",
		"inotify": "EMFILE", "terminals": "ENOSPC", "sockets": "EMFILE", "netlink": "EMFILE", "queues": "ENOSPC EMFILE", "keys": "EPERM", "log": "no",
	} {
		t.Run(what, func(t *testing.T) {
			r := r.in(t)
			stop := r.loop(calm.Listen[0])
			got := greed(r.status("greedy").Listen[0], "/"+what)
			if word, _, _ := strings.Cut(got, " "); !strings.Contains(bound, word) {
				t.Errorf("%s: %q, want %s", what, got, bound)
			}
			r.drop("dropped", "uid = nobody\nhttp = 127.0.0.1:0\ncheck-static = DIR/calm\n")
			r.up("dropped")
			if err := os.Remove(filepath.Join(r.etc, "dropped.ini")); err != nil {
				t.Fatal(err)
			}
			r.liege("wait", "dropped", "gone", "--timeout", patience)
			t.Logf("%s: %s; %d requests of another were answered", what, got, stop())
			r.liege("reload", "greedy", "--timeout", patience) // and is given back
			if _, body := r.get(r.status("greedy").Listen[0], "/"); body != "serves" {
				t.Errorf("after %s: %q", what, body)
			}
		})
	}
	if now := r.status("calm"); now.Generation != calm.Generation || now.Restarts != calm.Restarts || *now.PID != *calm.PID {
		t.Errorf("the other one started again: generation %d, was %d", now.Generation, calm.Generation)
	}
}

// greed asks once; "ended": no answer came.
func greed(addr, path string) string {
	resp, err := client(addr, false).Get("http://vassal" + path)
	if err != nil {
		return "ended"
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		return "ended"
	}
	return string(body)
}
