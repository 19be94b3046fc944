"""WSGI under gevent: the part of python.py that is compiled only for that, into
the same names. One greenlet serves each request, as many at once as the worker
has lanes; what waits for the core lets the others run.
"""
import gevent
from gevent import monkey
from gevent.event import Event
from gevent.socket import cancel_wait, wait, wait_read, wait_write

AGAIN = (BlockingIOError, InterruptedError)


FORKER = [None]  # in a process that the application has forked: the greenlet that has
stray_of_one = stray


def rest():
    """Do not return in a process that the application has forked, which has copies of all
    greenlets, but to the greenlet that has forked it: the others are its parent's."""
    if GETPID() != MINE[0] and gevent.getcurrent() is not FORKER[0]:
        Event().wait()


def stray(e=None):
    rest()
    stray_of_one(e)


class GreenLane(object):
    """A lane whose waits are the hub's."""

    def __init__(self, sock, put):
        self.sock = sock
        self.fd = sock.fileno()
        self.put = put

    def fileno(self):
        return self.fd

    def recv(self, size, flags=0):
        while True:
            try:
                return self.sock.recv(size, flags | _socket.MSG_DONTWAIT)
            except AGAIN:
                if flags:
                    raise
                wait_read(self.fd)
                rest()

    def sendall(self, data):
        at = 0
        while at < len(data):
            try:
                at += self.sock.send(data[at:] if at else data, _socket.MSG_DONTWAIT)
            except AGAIN:
                data, at = memoryview(data)[at:], 0
                wait_write(self.fd)
                rest()

    def sendmsg(self, *args):
        return self.sock.sendmsg(*args)


def serve_green(worker):
    """Run the worker to its end."""
    queue = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, QUEUE)
    idle = [(core, GreenLane(sock, Slot(worker.slots + core).put)) for core, sock in enumerate(worker.lanes)]
    idle.reverse()
    freed = Event()
    busy = set()
    state = {'leaving': False}
    packets = gevent.get_hub().loop.io(QUEUE, 1)

    def one(core, lane, env):
        base = dict(worker.base)
        base['wsgi.errors'] = Errors()
        base['uwsgi.core'] = core
        status = serve(worker.app, base, env, lane)
        if status > 0:
            os._exit(status)
        base['wsgi.errors'].flush()
        if status < 0:
            leave()
        idle.append((core, lane))
        freed.set()

    def leave():
        state['leaving'] = True
        cancel_wait(packets, Late())

    worker.base['wsgi.multithread'] = True
    if monkey.is_module_patched('os') and signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL:
        gevent.get_hub().loop.install_sigchld()  # os.fork does so when its first child may have ended
    in_children(lambda: FORKER.__setitem__(0, gevent.getcurrent()))
    worker.greet()
    if LOADED and listens():
        gevent.spawn(hear_signals, leave)
    watch, leaves = worker.life or worker.statm >= 0, True
    while not state['leaving']:
        if not idle:
            freed.clear()
            freed.wait()
            continue
        try:
            wait(packets, 1 if watch else None, Late())
            data = queue.recv(PACKET, _socket.MSG_DONTWAIT)
        except (Late,) + AGAIN:
            if watch and worker.worn():
                break
            continue
        if not data:
            stray()
            leaves = False
            break
        env = marshal.loads(data)
        core, lane = idle.pop()
        lane.put(env['liege.id'])
        if 'liege.probe' in env:
            lane.sendall(HEADER.pack(b'P', 0, 0, 0, env['liege.id']))
        elif 'liege.retire' in env:
            worker.cheap = True
            break
        else:
            task = gevent.spawn(one, core, lane, env)
            busy.add(task)
            task.link(busy.discard)
            if worker.left > 0:
                worker.left -= 1
                if worker.left == 0:
                    break
            continue
        idle.append((core, lane))
    if leaves:
        (idle[-1][1] if idle else lane).sendall(worker.farewell())
    gevent.joinall(list(busy))
    queue.detach()


def hear_signals(leave):
    """Handle the signals that come for this very worker."""
    try:
        while True:
            INBOX.ask(FOR_SIGNALS)
            wait_read(INBOX.fileno())
            rest()
            handle_signal(INBOX.take()[1][0])
    except OSError:
        pass  # the core is gone
    except EXITS as e:
        say(trace(e))
        leave()


class Late(Exception):
    """Nothing came."""
