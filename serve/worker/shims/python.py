"""The program inside a Python worker: see package worker for the protocol.

It runs on Python 3.6 and later. Names that an application may replace at
import (gevent's monkey patches, a default socket timeout) are taken from the C
modules before the application is loaded.
"""
import _signal as signal  # signal.py loads enum, which a small application does without
import _socket
import _struct as struct
import errno
import gc
import io
import marshal
import os
import sys

CONTROL, QUEUE, SLOTS, STDERR = 3, 4, 5, 6
HEADER = struct.Struct('<c3xIII8s')  # type, head bytes, body bytes, argument, request
BIG = 1 << 18  # what is larger is sent in pieces of its own
PACKET = 1 << 15  # longest packet of the queue
SELF = '<liege>'
NO_MEMORY = 23  # the exit status of a worker that ended by a MemoryError


# ---- messages for people

def trace(exc):
    """The traceback of exc as text, without the frames of this program."""
    try:
        import traceback
        tb = exc.__traceback__
        while tb is not None and tb.tb_frame.f_code.co_filename == SELF:
            tb = tb.tb_next
        return ''.join(traceback.format_exception(type(exc), exc, tb))
    except BaseException as e:  # out of memory, out of stack, a hostile __str__
        return '%s (no traceback: %s)\n' % (type(exc).__name__, type(e).__name__)


def summary(exc):
    try:
        text = str(exc)
    except BaseException:
        text = ''
    name = type(exc).__name__
    return name + ': ' + text if text else name


def say(text):
    """Write whole lines to the log with one write, so that they stay whole."""
    data = text.encode('utf-8', 'backslashreplace')
    if not data.endswith(b'\n'):
        data += b'\n'
    try:
        os.write(2, data)
    except OSError:
        pass


class Errors(object):
    """wsgi.errors: the log, line by line."""

    def __init__(self):
        self.rest = ''

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError('wsgi.errors takes str, not ' + type(text).__name__)
        whole, newline, rest = (self.rest + text).rpartition('\n')
        self.rest = rest
        if newline:
            say(whole + newline)
        elif len(rest) > 4000:
            self.flush()
        return len(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        rest, self.rest = self.rest, ''
        if rest:
            say(rest)

    def isatty(self):
        return False


# ---- request bodies

class Empty(object):
    """wsgi.input of a request without a body; one object for all of them."""
    __slots__ = ()

    def read(self, size=-1):
        return b''

    def readline(self, size=-1):
        return b''

    def readlines(self, hint=-1):
        return []

    def readinto(self, buffer):
        return 0

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration

    def close(self):
        pass


class Pulled(io.RawIOBase):
    """A body that the core sends piece by piece, as asked for."""

    def __init__(self, request):
        self.request = request
        self.done = False

    def readable(self):
        return True

    def readinto(self, buffer):
        if self.done:
            return 0
        data = self.request.pull(min(len(buffer), 65536))
        self.done = not data
        buffer[:len(data)] = data
        return len(data)


class FileWrapper(object):
    """wsgi.file_wrapper: returned as it is, the core sends the file itself."""

    def __init__(self, filelike, blksize=8192):
        self.filelike = filelike
        self.blksize = blksize or 8192
        if hasattr(filelike, 'close'):
            self.close = filelike.close

    def __iter__(self):
        return self

    def __next__(self):
        data = self.filelike.read(self.blksize)
        if data:
            return data
        raise StopIteration


# ---- one request

class Aborted(OSError):
    """The client went away."""


class Request(object):
    __slots__ = ('lane', 'id', 'head', 'started', 'left', 'skip', 'aborted', 'over')

    def __init__(self, lane, id, head_only):
        self.lane = lane
        self.id = id
        self.head = None  # the status line and fields, encoded
        self.started = False  # they are on their way
        self.left = -1  # bytes that Content-Length still allows; -1: not said
        self.skip = head_only  # no body is sent
        self.aborted = False
        self.over = False  # the core counts it as answered

    def start_response(self, status, headers, exc_info=None):
        if exc_info:
            try:
                if self.started:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.head is not None:
            raise AssertionError('start_response was called twice without exc_info')
        if not isinstance(status, str) or not status[:3].isdigit():
            raise ValueError('start_response: status %r is not a str such as "200 OK"' % (status,))
        left = -1
        fields = [status]
        for name, value in headers:
            fields.append(name)
            fields.append(value)
            if len(name) == 14 and name.lower() == 'content-length':
                left = int(value)
        try:
            self.head = '\0'.join(fields).encode('latin-1')
        except TypeError:
            raise TypeError('start_response: header names and values must be str')
        self.left = left
        if status[:3] in ('204', '304'):
            self.skip = True
        return self.write

    def write(self, data):
        if not isinstance(data, bytes):
            if not isinstance(data, (bytearray, memoryview)):
                raise TypeError('the body must be bytes, not ' + type(data).__name__)
            data = bytes(data)
        if data:
            self.send(data)

    def send(self, data):
        """Send data, after the head if that is still to come."""
        if self.head is None:
            raise AssertionError('the body began before start_response was called')
        if self.over:
            raise AssertionError('the answer is complete: nothing can be added to it')
        size = len(data)
        if self.left >= 0:
            if size > self.left:
                data = data[:self.left]
                size = self.left
            self.left -= size
        if self.skip:
            data, size = b'', 0
        kind, head = b'D', b''
        if not self.started:
            self.started = True
            kind, head = b'H', self.head
        else:
            self.check()
            if not size:
                return
        piece = data if size <= BIG else data[:BIG]
        self.lane.sendall(b''.join((HEADER.pack(kind, len(head), len(piece), 0, self.id), head, piece)))
        at = BIG
        while at < size:
            self.check()
            piece = data[at:at + BIG]
            self.lane.sendall(HEADER.pack(b'D', 0, len(piece), 0, self.id))
            self.lane.sendall(piece)
            at += BIG

    def whole(self, data):
        """Send an answer of which data is the whole body, in one message."""
        size = len(data)
        if self.left >= 0 and size > self.left:
            data = data[:self.left]
            size = self.left
        if self.skip:
            data = b''
        self.started = self.over = True
        self.lane.sendall(b''.join((HEADER.pack(b'A', len(self.head), len(data), size, self.id), self.head, data)))

    def end(self, failed):
        if self.over:
            return
        self.over = True
        self.lane.sendall(HEADER.pack(b'E', 0, 0, 1 if failed else 0, self.id))

    def frame(self, flags=0):
        """One frame of the core's about this request; others are old news."""
        while True:
            data = self.lane.recv(24, flags)
            if not data:
                os._exit(0)
            while len(data) < 24:
                data += self.lane.recv(24 - len(data))
            kind, _, size, arg, id = HEADER.unpack(data)
            parts = []
            while size > 0:
                piece = self.lane.recv(size)
                if not piece:
                    os._exit(0)
                parts.append(piece)
                size -= len(piece)
            if id != self.id:
                continue
            if kind == b'X':
                self.aborted = True
                raise Aborted(errno.EPIPE, 'the client went away')
            return arg, b''.join(parts)

    def check(self):
        if self.aborted:
            raise Aborted(errno.EPIPE, 'the client went away')
        try:
            self.frame(_socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass

    def pull(self, size):
        """At most size bytes of the request's body; b'' at its end."""
        if self.over:
            raise ValueError('the request is over: its body cannot be read any more')
        self.lane.sendall(HEADER.pack(b'R', 0, 0, size, self.id))
        arg, data = self.frame()
        if arg:
            raise OSError(errno.EIO, 'the request body could not be read: the client went away or was too slow')
        return data

    def environ(self):
        """The variables of a request that does not fit the queue's packet."""
        self.lane.sendall(HEADER.pack(b'V', 0, 0, 0, self.id))
        parts = []
        while True:
            arg, data = self.frame()
            parts.append(data)
            if not arg:
                return marshal.loads(b''.join(parts))

    def file(self, wrapper):
        """Let the core send the file of wrapper; False: it is not one."""
        import stat
        filelike = wrapper.filelike
        try:
            fd = filelike.fileno()
            info = os.fstat(fd)
            at = filelike.tell()
        except (AttributeError, OSError, ValueError, TypeError):
            return False
        if not stat.S_ISREG(info.st_mode) or self.head is None or self.started:
            return False
        count = max(info.st_size - at, 0)
        if 0 <= self.left < count:
            count = self.left
        if self.skip or not count:
            self.send(b'')
            return True
        self.started = True
        self.lane.sendall(HEADER.pack(b'H', len(self.head), 0, 0, self.id) + self.head)
        self.lane.sendall(HEADER.pack(b'F', 0, 16, 0, self.id) + struct.pack('<QQ', at, count))
        self.frame()
        self.lane.sendmsg([b'\0'], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack('i', fd))])
        return True


def run(app, env, request):
    """Call the application and send what it answers."""
    result = app(env, request.start_response)
    try:
        kind = type(result)
        if kind is bytes:  # uWSGI takes it
            result, kind = [result], list
        if kind is FileWrapper and request.file(result):
            request.end(False)
        elif kind is list and len(result) < 2 and not request.started:
            single(result[0] if result else b'', request)
        else:
            stream(result, request)
    finally:
        close = getattr(result, 'close', None)
        if close is not None:
            close()


def single(data, request):
    if type(data) is not bytes:
        raise TypeError('the body must be bytes, not ' + type(data).__name__)
    if request.head is None:
        raise AssertionError('the application returned without calling start_response')
    if len(data) > BIG:
        request.send(data)
        request.end(False)
    else:
        request.whole(data)


def stream(result, request):
    for data in result:
        if not isinstance(data, bytes):
            raise TypeError('the body must be bytes, not ' + type(data).__name__)
        if not data or request.over:
            continue
        if not request.started and request.head is not None and request.left == len(data) <= BIG:
            # The rest of the iteration is the application's own business.
            request.whole(data)
            continue
        request.send(data)
        if request.skip:
            break
    if request.head is None:
        raise AssertionError('the application returned without calling start_response')
    if request.started:
        request.end(False)
    else:
        request.whole(b'')


def serve(app, base, env, lane):
    """Answer one request. The status to exit with, 0 to go on."""
    id = env.pop('liege.id')
    body = env.get('wsgi.input')
    request = Request(lane, id, env.get('REQUEST_METHOD') == 'HEAD')
    if env.get('liege.large'):
        env = request.environ()
        env.pop('liege.id', None)
        request.skip = env.get('REQUEST_METHOD') == 'HEAD'
        body = env.get('wsgi.input')
    env.update(base)
    if body is None:
        env['wsgi.input'] = EMPTY
    elif body is True:
        env['wsgi.input'] = io.BufferedReader(Pulled(request), 65536)
    else:
        env['wsgi.input'] = io.BytesIO(body)
    try:
        run(app, env, request)
    except Aborted:
        request.end(True)
    except BaseException as e:
        say(trace(e))
        try:
            request.end(True)
        except OSError:
            os._exit(1)
        if isinstance(e, MemoryError):
            return NO_MEMORY
        if isinstance(e, (SystemExit, KeyboardInterrupt)):
            return 1
    return 0


EMPTY = Empty()


# ---- the uwsgi module

def uwsgi_module(config):
    """What of uWSGI's API this release has: no function that does nothing."""
    module = type(sys)('uwsgi')
    module.__doc__ = "The part of uWSGI's API that Liege provides."
    node = os.uname()[1].encode()
    module.version = config['version']
    module.hostname = node
    module.numproc = config['processes']
    module.cores = config['threads']
    module.has_threads = 1
    module.buffer_size = config['buffer']
    module.applications = {}
    module.opt = {
        'master': True, 'enable-threads': True, 'py-call-uwsgi-fork-hooks': True,
        'processes': b'%d' % config['processes'], 'threads': b'%d' % config['threads'],
    }
    if config['lazy']:
        module.opt['lazy-apps'] = True
    module.env = {}
    module.masterpid = lambda: config['master']
    module.worker_id = lambda: config.get('worker', 0)
    module.setprocname = set_title
    module.log = lambda text: say(text if isinstance(text, str) else bytes(text).decode('utf-8', 'replace')) or True

    def missing(name):
        if name.startswith('__'):
            raise AttributeError(name)
        raise AttributeError('uwsgi.%s is not provided by Liege' % name)
    module.__getattr__ = missing  # from Python 3.7 on
    return module


# ---- loading

class Failure(Exception):
    """kind, message, detail: why the application cannot be loaded."""


def load_file(path):
    name = path.replace('.', '_').replace('/', '_')
    if name.endswith('_py'):
        name = name[:-3]
    module = type(sys)('uwsgi_file_' + name)
    module.__file__ = path
    try:
        with io.open(path, 'rb') as f:
            text = f.read()
    except OSError as e:
        raise Failure('file', '%s: %s' % (path, e.strerror), '')
    code = compile(text, path, 'exec')
    sys.modules[module.__name__] = module
    exec(code, module.__dict__)
    return module


def load_module(name):
    __import__(name)
    return sys.modules[name]


def find(module, name):
    """The callable called name in module: a.b and name() are understood."""
    call = name.endswith('()')
    value = module
    for part in (name[:-2] if call else name).split('.'):
        try:
            value = getattr(value, part)
        except AttributeError:
            others = [n for n in ('app', 'application', 'wsgi_app') if callable(getattr(module, n, None))]
            raise Failure('callable', '%s has no %r' % (module.__name__, name), others[0] if others else '')
    if call:
        value = value()
    if not callable(value):
        raise Failure('callable', '%s: %r is not callable but of type %s' % (
            module.__name__, name, type(value).__name__), '')
    return value


def load(config):
    """The application, or a Failure."""
    try:
        name = config['callable'] or 'application'
        if config['file']:
            return find(load_file(config['file']), name)
        module, colon, attribute = config['module'].partition(':')
        return find(load_module(module), attribute or name)
    except Failure:
        raise
    except SyntaxError as e:
        raise Failure('syntax', '%s:%s: %s' % (e.filename, e.lineno, summary(e)), trace(e))
    except ImportError as e:
        raise Failure('import', summary(e), trace(e), getattr(e, 'name', None) or '')
    except MemoryError as e:
        raise Failure('memory', summary(e), trace(e))
    except SystemExit as e:
        raise Failure('exit', 'it called sys.exit(%r) while it was loaded' % (e.code,), trace(e))
    except BaseException as e:
        raise Failure('exception', summary(e), trace(e))


def prepare(config):
    """Make the process one that the application expects."""
    os.umask(config['umask']) if config['umask'] >= 0 else None
    if config['nice']:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, config['nice'])
        except OSError as e:
            say('liege: prio %d: %s' % (config['nice'], e.strerror))
    try:
        os.chdir(config['dir'])
    except OSError as e:
        raise Failure('dir', '%s: %s' % (config['dir'], e.strerror), '')
    sys.argv[:] = ['uwsgi'] + config['argv']
    if config['home']:
        import site
        library = os.path.join(config['home'], 'lib', 'python%d.%d' % sys.version_info[:2], 'site-packages')
        known = len(sys.path)
        if os.path.isdir(library):
            site.addsitedir(library)
        sys.path[:] = sys.path[known:] + sys.path[:known]
        sys.prefix = sys.exec_prefix = config['home']
    sys.path.insert(0, '.')
    for path in config['path']:
        sys.path.insert(0, path)
    try:
        sys.stdout.reconfigure(line_buffering=True)
    except AttributeError:
        sys.stdout = io.TextIOWrapper(sys.stdout.detach(), 'utf-8', 'backslashreplace', line_buffering=True)
    sys.modules['uwsgi'] = uwsgi_module(config)


# ---- processes

def set_title(title):
    """Show title in ps. What cannot be done is not worth a word."""
    title = (title if isinstance(title, str) else bytes(title).decode('utf-8', 'replace')).replace('\0', ' ')
    data = title.encode('utf-8', 'replace')
    try:
        with io.open('/proc/self/comm', 'wb', 0) as f:
            f.write(data[:15])
        with io.open('/proc/self/stat', 'rb') as f:
            field = f.read().rpartition(b')')[2].split()
        start, end = int(field[45]), int(field[46])
        # Without a NUL at its end the kernel shows the area up to the first
        # NUL (proc(5), the way of setproctitle).
        room = end - start
        area = data[:room - 2].ljust(room - 1, b'\0') + b'.'
        memory = os.open('/proc/self/mem', os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(memory, area, start)
        finally:
            os.close(memory)
    except (OSError, IndexError, ValueError):
        pass


class Slot(object):
    """Where a thread writes down the request it works on; see package worker."""

    def __init__(self, number):
        self.at = 8 * number
        try:
            import mmap
            self.memory = mmap.mmap(SLOTS, 0)
            self.put = self.put_memory
        except (ImportError, OSError, ValueError):
            pass

    def put(self, id):
        os.pwrite(SLOTS, id, self.at)

    def put_memory(self, id):
        self.memory[self.at:self.at + 8] = id


class Worker(object):
    def __init__(self, config, app, number, slots, lanes):
        self.config = config
        self.app = app
        self.number = number
        self.slots = slots
        self.lanes = lanes
        self.left = config['max_requests']
        self.base = {
            'wsgi.version': (1, 0),
            'wsgi.errors': Errors(),
            'wsgi.multithread': config['threads'] > 1,
            'wsgi.multiprocess': config['processes'] > 1,
            'wsgi.run_once': False,
            'wsgi.file_wrapper': FileWrapper,
            'uwsgi.version': config['version'],
            'uwsgi.node': os.uname()[1].encode(),
        }

    def hello(self, kind, text=b''):
        self.lanes[0].sendall(HEADER.pack(kind, 0, len(text), 0, b'\0' * 8) + text)

    def loop(self, core):
        lane, app = self.lanes[core], self.app
        base = dict(self.base)
        base['wsgi.errors'] = Errors()
        if len(self.lanes) > 1:
            base['uwsgi.core'] = core
        put = Slot(self.slots + core).put
        queue = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, QUEUE)
        queue.setblocking(True)
        receive = self.receiver(queue)
        uwsgi = sys.modules.get('uwsgi')
        loads = marshal.loads
        while True:
            data = receive(PACKET)
            if not data:
                break
            env = loads(data)
            put(env['liege.id'])
            if 'liege.probe' in env:
                lane.sendall(HEADER.pack(b'P', 0, 0, 0, env['liege.id']))
                continue
            status = serve(app, base, env, lane)
            if status:
                os._exit(status)
            if base['wsgi.errors'].rest:
                base['wsgi.errors'].flush()
            hook = uwsgi and uwsgi.__dict__.get('after_req_hook')
            if hook:
                try:
                    hook()
                except Exception as e:
                    say(trace(e))
            if self.left > 0:
                self.left -= 1
                if self.left == 0:
                    self.retire()
                    break
        queue.detach()

    def receiver(self, queue):
        """How a thread takes a request. With max-requests and several threads
        one of them waits at a time, and can be told to stop waiting."""
        if not self.config['max_requests'] or len(self.lanes) == 1:
            return queue.recv
        import select
        lock, wake = self.lock, self.wake[0]

        def receive(size):
            with lock:
                poll = select.poll()
                poll.register(queue.fileno(), select.POLLIN)
                poll.register(wake, select.POLLIN)
                while True:
                    for fd, _ in poll.poll():
                        if fd == wake:
                            return b''
                    try:
                        return queue.recv(size, _socket.MSG_DONTWAIT)
                    except BlockingIOError:
                        pass
        return receive

    def retire(self):
        if len(self.lanes) > 1:
            os.write(self.wake[1], b'.')

    def run(self):
        config = self.config
        if self.app is None:
            try:
                self.app = load(config)
            except Failure as f:
                text = failure_text(f)
                if f.args[2]:
                    say(f.args[2])
                self.hello(b'N', text.encode('utf-8', 'replace')[:60000])
                return
        hook = getattr(sys.modules.get('uwsgi'), '__dict__', {}).get('post_fork_hook')
        if hook:
            try:
                hook()
            except Exception as e:
                say(trace(e))
        threads = []
        if len(self.lanes) > 1:
            import threading
            if config['max_requests']:
                self.lock, self.wake = threading.Lock(), os.pipe()
            for core in range(1, len(self.lanes)):
                t = threading.Thread(target=self.loop, args=(core,), name='uWSGIWorker%dCore%d' % (self.number, core))
                t.daemon = True
                threads.append(t)
        self.hello(b'L')
        for t in threads:
            t.start()
        self.loop(0)
        for t in threads:
            t.join()


def failure_text(f):
    args = f.args
    detail = args[2] if len(args) > 2 else ''
    name = args[3] if len(args) > 3 else ''
    if args[0] == 'callable':
        detail, name = '', args[2]
    return '\0'.join((args[0], args[1][:2000], detail[-8000:], name))


def become_worker(config, app, number, slots, fds):
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    config['worker'] = number
    set_title(config['title'] if config['title_plain'] else '%s worker %d' % (config['title'], number))
    if config['affinity']:
        cpus = sorted(os.sched_getaffinity(0))
        first = (number - 1) * config['affinity']
        os.sched_setaffinity(0, {cpus[(first + i) % len(cpus)] for i in range(config['affinity'])})
    if config['batch']:
        try:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        except OSError:
            pass
    lanes = []
    for fd in fds:
        os.set_inheritable(fd, False)
        lane = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fd)
        lane.setblocking(True)
        lanes.append(lane)
    Worker(config, app, number, slots, lanes).run()


def main(control):
    os.dup2(STDERR, 2)
    os.close(STDERR)
    for number in (signal.SIGUSR2, signal.SIGWINCH, signal.SIGTSTP):  # the core ignores them
        signal.signal(number, signal.SIG_DFL)
    for fd in (CONTROL, QUEUE, SLOTS):
        os.set_inheritable(fd, False)
    config = marshal.loads(control.recv(1 << 18))
    set_title(config['title'] if config['title_plain'] else config['title'] + ' loader')
    app = None
    try:
        prepare(config)
        if not config['lazy']:
            app = load(config)
    except Failure as f:
        if len(f.args) > 2 and f.args[0] != 'callable' and f.args[2]:
            say(f.args[2])
        control.sendall(('failed\0' + failure_text(f)).encode('utf-8', 'replace')[:60000])
        return
    children = set()

    def reap(*_):
        for pid in list(children):
            try:
                done, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                done, status = pid, 0
            if done:
                children.discard(pid)
                try:
                    control.sendall(('exited\0%d\0%d' % (pid, status)).encode())
                except OSError:
                    os._exit(0)
    gc.collect()
    if hasattr(gc, 'freeze'):
        gc.freeze()
    signal.signal(signal.SIGCHLD, reap)
    control.setblocking(True)
    control.sendall(b'loaded')
    while True:
        try:
            data, ancillary, _, _ = control.recvmsg(4096, 4096)
        except ConnectionResetError:
            data = b''
        if not data:
            os._exit(0)  # the core is gone or wants no more workers
        order = marshal.loads(data)
        fds = []
        for level, kind, block in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                fds.extend(struct.unpack('%di' % (len(block) // 4), block[:len(block) // 4 * 4]))
        sys.stdout.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            control.close()
            become_worker(config, app, order['worker'], order['slots'], fds)
            return
        children.add(pid)
        for fd in fds:
            os.close(fd)
        control.sendall(('forked\0%d\0%d' % (order['serial'], pid)).encode())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])


t = None  # of the command line: this program's code
main(c)
