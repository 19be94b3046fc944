package e2e

import (
	"io"
	"strings"
	"testing"
)

// greed takes of one thing until it is refused, and keeps it until told otherwise.
const greed = `
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

def aio():
    call(libc.syscall, 206 if os.uname().machine == "x86_64" else 0, 2000, ctypes.byref(ctypes.c_ulong()))

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
    "aio": (aio, 100),
    "log": (lambda: os.write(2, b"x" * 4095 + b"\n"), 5000),
}

def taken(take, most):
    n = 0
    try:
        while n < most:
            held.append(take())
            n += 1
    except OSError as e:
        return "%s after %d" % (errno.errorcode[e.errno], n)
    except MemoryError:
        return "MemoryError after %d" % n
    return "no end after %d" % n

def child(what):
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os.write(w, taken(*takes[what]).encode())
        while True:
            signal.pause()
    os.close(w)
    return pid, os.fdopen(r, "rb", 0).read(4096) or b"ended"

taker = None

def application(environ, start_response):
    global taker
    start_response("200 OK", [("Content-Type", "text/plain")])
    path = environ["PATH_INFO"][1:]
    if path == "release":
        if taker:
            os.killpg(taker, signal.SIGKILL)
            os.waitpid(taker, 0)
    elif path:
        taker, said = child(path)
        return [said]
    return [b"serves"]
`

// TestExhaustion: one vassal takes all it can get of one thing after the other.
// It is refused, or ended; of the requests to another vassal none is lost, and
// the Emperor starts what is dropped meanwhile.
func TestExhaustion(t *testing.T) {
	r := newRealm(t)
	r.write("app/app.py", greed)
	r.write("calm/app.py", hello("calm"))
	r.drop("calm", "uid = www-data\nhttp = 127.0.0.1:0\nchdir = DIR/calm\nwsgi-file = DIR/calm/app.py\n")
	r.drop("greedy", "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\nprocesses = 1\n"+
		"memory-max = 200M\npids-max = 60\nlimit-nofile = 2000\n")
	calm, greedy := r.up("calm"), r.up("greedy").Listen[0]
	for what, bound := range map[string]string{
		"memory": "ended", "tmp": "ENOSPC", "shm": "ENOSPC", "processes": "EAGAIN ended", "threads": "EAGAIN ended", "descriptors": "EMFILE",
		"inotify": "EMFILE", "terminals": "ENOSPC", "sockets": "EMFILE", "netlink": "EMFILE", "queues": "ENOSPC EMFILE", "keys": "EPERM", "aio": "ENOSYS", "log": "no",
	} {
		stop := r.loop(calm.Listen[0])
		got := ask(greedy, "/"+what)
		if word, _, _ := strings.Cut(got, " "); !strings.Contains(bound, word) {
			t.Errorf("%s: %q, want %s", what, got, bound)
		}
		if what == "processes" || what == "inotify" { // it is held meanwhile
			r.drop("dropped-"+what, "uid = nobody\nhttp = 127.0.0.1:0\ncheck-static = DIR/calm\n")
			r.up("dropped-" + what)
		}
		t.Logf("%s: %s; %d requests of another were answered", what, got, stop())
		r.until("the greedy one serves again after "+what, func() bool { return ask(greedy, "/release") == "serves" })
	}
	if now := r.status("calm"); now.Generation != calm.Generation || now.Restarts != calm.Restarts || *now.PID != *calm.PID {
		t.Errorf("the other one started again: generation %d, was %d", now.Generation, calm.Generation)
	}
}

// ask asks once; "ended": no answer came, as when its own limits ended the vassal.
func ask(addr, path string) string {
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
