"""The program inside a Python worker: see package worker for the protocol.

It runs on Python 3.6 and later. Names that an application may replace at
import (gevent's monkey patches, a default socket timeout) are taken from the C
modules before the application is loaded.
"""
import _signal as signal  # signal.py loads enum, which a small application does without
import _socket
import _struct as struct
import _thread
import errno
import gc
import io
import marshal
import os
import sys
import time
from _frozen_importlib_external import MAGIC_NUMBER

CONTROL, QUEUE, SLOTS, STDERR, DOOR = 3, 4, 5, 6, 7
HEADER = struct.Struct('<c3xIII8s')  # type, head bytes, body bytes, argument, request
BIG = 1 << 18  # what is larger is sent in pieces of its own
PACKET = 1 << 15  # longest packet of the queue
SELF = '<liege>'
PROTOCOL = 1  # lang.Protocol
CHEAP = 15  # of one that was not needed any more
NO_MEMORY = 23  # the exit status of a worker that ended by a MemoryError


# ---- parts of this program, sent as shims/packed.go says

def part(packed):
    """What this interpreter runs of a part: its code, or else its text, a str."""
    end = 8 + int.from_bytes(packed[4:8], 'big')
    return packed[8:end] if packed[:4] == MAGIC_NUMBER else packed[end:].decode()


def code(program, name):
    return compile(program, name, 'exec') if isinstance(program, str) else marshal.loads(program)


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


def places(exc):
    """The same of what a child raised, without source: an import waits for ever in a child
    for one that was under way in another thread as it was forked."""
    lines, tb = ['Traceback (most recent call last):'], exc.__traceback__
    while tb is not None:
        code = tb.tb_frame.f_code
        if code.co_filename != SELF:
            lines.append('  File "%s", line %d, in %s' % (code.co_filename, tb.tb_lineno, code.co_name))
        tb = tb.tb_next
    return '\n'.join(lines + [summary(exc)])


def say(text):
    """Write whole lines to the log with one write, so that they stay whole."""
    data = text.encode('utf-8', 'backslashreplace')
    if not data.endswith(b'\n'):
        data += b'\n'
    try:
        os.write(2, data)
    except OSError:
        pass


# ---- children that the application forks

# gevent's, once an application has it patch os, want SIGCHLD and the children for themselves.
FORK, WAITPID, GETPID = os.fork, os.waitpid, os.getpid
MINE = [GETPID()]  # the number of this process; a child of the application's has another
EXITS = (SystemExit, KeyboardInterrupt)


def stray(e=None):
    """End this process if the application has forked it: it came back from the
    application's code, or raised e. The requests, signals and tasks are its parent's."""
    if GETPID() == MINE[0]:
        return
    status = 1
    if isinstance(e, SystemExit):
        status = e.code
        if status is not None and not isinstance(status, int):
            say(str(status))
            status = 1
    elif e is not None:
        say(places(e))
    else:
        say('a process that the application has forked ends where it would go on as its parent; hint: end it with os._exit()')
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass
    os._exit((status or 0) & 255)


def guarded(function, *args):
    """Call what is the application's. A process that it forks does not come back."""
    try:
        result = function(*args)
    except BaseException as e:
        stray(e)
        raise
    stray()
    return result


class Lane(_socket.socket):
    """A lane of this worker."""


class LostLane(Lane):
    """What a lane is in a process that the application has forked."""

    def lost(self, *_):
        raise OSError(errno.EBADF, 'only the worker can answer its request, and not a process that it has forked')

    recv = send = sendall = sendmsg = lost


def in_children(function):
    """Have function called in each process that the application forks."""
    if hasattr(os, 'register_at_fork'):
        return os.register_at_fork(after_in_child=function)
    for name in ('fork', 'forkpty'):  # Python 3.6
        setattr(os, name, forking(getattr(os, name), function))


def forking(fork, function):
    def forked():
        result = fork()
        if result == 0 or type(result) is tuple and result[0] == 0:
            function()
        return result
    return forked


def disown(lanes, fds):
    """Leave to the parent what is its own. Reading from one of fds is at its end; none is
    closed, for libev ends a process that waits for one which is."""
    end, other = _socket.socketpair()
    other.close()
    for lane in lanes:
        lane.__class__ = LostLane
    for fd in [lane.detach() for lane in lanes] + fds:
        if fd >= 0:  # else a child's child
            os.dup2(end.fileno(), fd, False)
    end.close()


class Errors(object):
    """wsgi.errors: the log, line by line."""
    encoding, errors, closed = 'UTF-8', 'backslashreplace', False

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

    def writable(self):
        return True

    def fileno(self):
        return 2


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

    def tell(self):
        return 0

    def seek(self, offset, whence=0):
        return 0  # its beginning and its end

    def readable(self):
        return True

    def seekable(self):
        return True

    def fileno(self):
        raise io.UnsupportedOperation('fileno')

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


MANNERS = {'delay': True, 'show': False, 'reload_on': []}
RELOAD, LEAVE = -1, -2  # of serve: the worker shall be replaced; the application has ended it


def replaces(exc):
    """Whether a worker is replaced after this exception."""
    if not MANNERS['reload_on']:
        return False
    kind = type(exc)
    names = (kind.__name__, '%s.%s' % (kind.__module__, kind.__name__))
    try:
        text = str(exc)
    except Exception:
        text = ''
    for wish in MANNERS['reload_on']:
        by, _, value = wish.partition(' ')
        if by == 'any' or by == 'type' and value in names or by == 'value' and value == text \
                or by == 'repr' and value in ('%s: %s' % (names[0], text), repr(exc)):
            return True
    return False


class Request(object):
    __slots__ = ('lane', 'id', 'head', 'started', 'left', 'bare', 'skip', 'aborted', 'over')

    def __init__(self, lane, id, head_only):
        self.lane = lane
        self.id = id
        self.head = None  # the status line and fields, encoded
        self.started = False  # they are on their way
        self.left = -1  # bytes that Content-Length still allows; -1: not said
        self.bare = head_only  # whatever the status
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
            head = '\0'.join(fields).encode('latin-1')
        except TypeError:
            raise TypeError('start_response: header names and values must be str')
        if head.count(b'\0') >= len(fields):
            raise ValueError('start_response: a NUL in a header field')  # behind it would be a field of its own
        self.head = head
        self.left = left
        self.skip = self.bare or status[:3] in ('204', '304')
        if not MANNERS['delay'] and not self.started:
            self.started = True
            self.lane.sendall(HEADER.pack(b'H', len(self.head), 0, 0, self.id) + self.head)
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
            for _ in range(3):  # Django's FieldFile has a File, which has one; so do tempfile's
                filelike = getattr(filelike, 'file', filelike)
            kinds = [type(f).__module__ for f in (filelike, getattr(filelike, 'raw', getattr(filelike, 'buffer', None)))]
        except (AttributeError, OSError, ValueError, TypeError):
            return False
        if not {'gzip', 'bz2', 'lzma'}.isdisjoint(kinds):
            return False  # the descriptor's bytes are not what read() gives
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


told = []


def from_text(data):
    """A body that is str, as programs written for Python 2 return it."""
    if not isinstance(data, str):
        raise TypeError('the body must be bytes, not ' + type(data).__name__)
    if not told:
        told.append(True)
        say('the application returned a body of str, which is sent as UTF-8; WSGI wants bytes (PEP 3333)')
    return data.encode('utf-8', 'surrogateescape')


def single(data, request):
    if not isinstance(data, bytes):
        data = from_text(data)
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
            data = from_text(data)
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
    """Answer one request. The status to exit with, 0 to go on; or RELOAD, or LEAVE."""
    id = env.pop('liege.id')
    body = env.get('wsgi.input')
    request = Request(lane, id, env.get('REQUEST_METHOD') == 'HEAD')
    if env.get('liege.large'):
        env = request.environ()
        env.pop('liege.id', None)
        request.bare = request.skip = env.get('REQUEST_METHOD') == 'HEAD'
        body = env.get('wsgi.input')
    if LOADED:
        LOADED[0](request, env)
    if 'liege.rpc' in env:
        return answer_call(request, env['liege.rpc'], env['liege.args'])
    env.update(base)
    if body is None:
        env['wsgi.input'] = EMPTY
    elif body is True:
        env['wsgi.input'] = io.BufferedReader(Pulled(request), 65536)
    else:
        env['wsgi.input'] = io.BytesIO(body)
    try:
        guarded(run, app, env, request)
    except Aborted:
        request.end(True)
    except BaseException as e:
        text = trace(e)
        say(text)
        try:
            if MANNERS['show'] and not request.started:
                request.head = b'500 Internal Server Error\0Content-Type\0text/plain; charset=utf-8'
                request.left, request.skip = -1, env.get('REQUEST_METHOD') == 'HEAD'
                request.whole(text.encode('utf-8', 'backslashreplace')[:BIG])
            request.end(True)
        except OSError:
            os._exit(1)
        if isinstance(e, MemoryError):
            return NO_MEMORY
        if isinstance(e, EXITS):
            return LEAVE
        if replaces(e):
            return RELOAD
    return 0


def after_request(hook):
    """Call the application's after_req_hook. The same as of serve."""
    try:
        guarded(hook)
    except Exception as e:
        say(trace(e))
    except EXITS as e:
        say(trace(e))
        return LEAVE
    return 0


EMPTY = Empty()


# ---- functions that routing rules call

RPC = {}  # name, as bytes: function


def as_bytes(text):
    # bytes(7) would be seven NULs
    return text.encode() if isinstance(text, str) else bytes(memoryview(text))


def register_rpc(name, func, args=0):
    name = as_bytes(name)
    if not 0 < len(name) < 255 or name[0] == 0:
        raise ValueError('the name of an rpc function has 1 to 254 bytes')
    if not callable(func):
        raise ValueError('an rpc function must be callable')
    RPC[name] = func
    return True


def call_rpc(name, *args):
    func = RPC.get(as_bytes(name))
    if func is None:
        say('uwsgi.rpc: %r is not registered' % (name,))
        return None
    try:
        result = func(*[as_bytes(a) for a in args])
        return None if result is None else as_bytes(result)
    except Exception as e:
        say(trace(e))
        return None


def rpc(node, name, *args):
    if node:
        sys.modules['uwsgi'].cache_get  # loads the program that can
        return remote_rpc(node, name, *args)
    return call_rpc(name, *args)


def answer_call(request, name, args):
    """Call a function for the core. The same as of serve."""
    try:
        if name not in RPC:
            request.head = b'404 no such function'
            request.whole(b'')
            return 0
        result = guarded(RPC[name], *args)
        if result is not None and not isinstance(result, (str, bytes)):
            raise TypeError('rpc function %r returned %s, not str or bytes' % (name, type(result).__name__))
        request.head = b'204 nothing' if result is None else b'200 OK'
        request.whole(b'' if result is None else as_bytes(result))
    except BaseException as e:
        say(trace(e))
        request.end(True)
        if isinstance(e, MemoryError):
            return NO_MEMORY
        if isinstance(e, EXITS):
            return LEAVE
    return 0


# ---- the uwsgi module

ROLE = [b'l', 0]  # what this process is: l(oader), w(orker), m(ule), s(pooler), and its number
LOADED = []  # once the program is: what is told of each request
PROVIDING = _thread.allocate_lock()


class Uwsgi(type(sys)):
    """The module. What needs the core is a program of its own, run when it is asked for."""

    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)
        with PROVIDING:
            program = self._config.pop('uwsgi_program', None)
            if program is not None:
                globals().update(CONFIG=self._config, uwsgi=self)
                exec(code(program, SELF), globals())
                fill(self)
        try:
            return self.__dict__[name]
        except KeyError:
            raise AttributeError('uwsgi.%s is not provided by Liege' % name)

    def __dir__(self):
        self.cache_get
        return sorted(name for name in self.__dict__ if name[0] != '_')


class Decorators(object):
    """Finds uwsgidecorators, where the application has no such module of its own."""

    def __init__(self, program):
        self.program = program

    def find_spec(self, name, path=None, target=None):
        if name == 'uwsgidecorators':
            return type(sys.__spec__)(name, self)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(code(self.program, '<uwsgidecorators>'), module.__dict__)


def uwsgi_module(config):
    """uWSGI's API: no function that does nothing."""
    module = Uwsgi('uwsgi')
    module._config, module._guarded = config, guarded
    sys.meta_path.append(Decorators(config.pop('decorators_program')))
    module.__doc__ = "The part of uWSGI's API that Liege provides."
    node = os.uname()[1].encode()
    module.version = config['version']
    module.hostname = node
    module.numproc = config['processes']
    module.cores = config['threads']
    module.has_threads = 1
    module.buffer_size = config['buffer']
    module.applications = {}
    module.SPOOL_OK, module.SPOOL_RETRY, module.SPOOL_IGNORE = -2, -1, 0
    module.version_info = (2, 0, 21, 0, b'liege')
    module.started_on = int(time.time())
    module.magic_table = {}
    module.spoolers = tuple(os.fsencode(d) for d in config['spoolers'])
    module.is_a_reload = config['again']
    if config['queue']:
        module.queue_size = config['queue']
    module.unbit = module.loop = None
    module.sockets = []
    module.opt = {
        'master': True, 'enable-threads': True, 'py-call-uwsgi-fork-hooks': True,
        'processes': b'%d' % config['processes'], 'threads': b'%d' % config['threads'],
    }
    if config['lazy']:
        module.opt['lazy-apps'] = True
    if config['mules']:
        module.opt['mules'] = b'%d' % config['mules']
    if module.spoolers:
        module.opt['spooler'] = module.spoolers[-1]
    keys = config.pop('keys')  # of names that are there several times the last counts, as in uWSGI
    module.opt.update(zip((os.fsdecode(name) for name in keys[::2]), keys[1::2]))
    module.opt.update(dict.fromkeys(config.pop('flags'), True))
    module.env = {}
    module.masterpid = lambda: config['master']
    module.worker_id = lambda: config.get('worker', 0)
    module.setprocname = set_title
    module.register_rpc = register_rpc
    module.rpc = rpc
    module.call = call_rpc
    module.rpc_list = lambda: tuple(name for name in RPC if name[0])
    module.log = lambda text: say(text if isinstance(text, str) else bytes(text).decode('utf-8', 'replace')) or True
    return module


# ---- code that changes (py-autoreload): the core looks at the files

SEEN = {}  # source file: its mtime in ns before it was read
TOLD = set()
sleep = time.sleep


def note_code(path):
    try:
        SEEN.setdefault(os.path.abspath(path), os.stat(path).st_mtime_ns)
    except (OSError, ValueError):
        pass


def watch_imports():
    """Note what a module's file was when it was read, not what it is later."""
    # Bytecode knows its source by length and second: what is saved twice within
    # one would be loaded as it was.
    sys.dont_write_bytecode = True
    loader = sys.modules['_frozen_importlib_external'].SourceFileLoader
    original = loader.path_stats

    def path_stats(self, path):
        note_code(path)
        return original(self, path)
    loader.path_stats = path_stats


def report_code(config, control):
    """Tell the core which files have been loaded since the last time."""
    words = []
    for name, module in list(sys.modules.items()):
        path = getattr(module, '__dict__', {}).get('__file__')
        if not isinstance(path, str) or name in config['unwatched']:
            continue
        path = os.path.abspath(path[:-1] if path.endswith(('.pyc', '.pyo')) else path)
        if path in TOLD:
            continue
        TOLD.add(path)
        note_code(path)
        if path in SEEN:
            words.append(('%s\0%d' % (path, SEEN[path])).encode('utf-8', 'surrogateescape'))
    for at in range(0, len(words), 8):
        control.sendall(b'files\0' + b'\0'.join(words[at:at + 8]))


def keep_reporting(config, control):
    while True:
        try:
            report_code(config, control)
        except OSError:
            return  # the core is gone
        except Exception as e:
            say(trace(e))
        sleep(config['watch'] / 2000.0)


# ---- loading

class Failure(Exception):
    """kind, message, detail: why the application cannot be loaded."""


def load_file(path, written=''):
    """The module of a file. Its name is that of the line that names the file: with a
    directory that changes it would be another one in what the application has stored."""
    name = (written or path).replace('.', '_').replace('/', '_')
    if name.endswith('_py'):
        name = name[:-3]
    module = type(sys)('uwsgi_file_' + name)
    module.__file__ = path
    try:
        note_code(path)
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
    place = module.__name__
    if place.startswith('uwsgi_file_'):
        place = getattr(module, '__file__', place)
    call = name.endswith('()')
    value = module
    for part in (name[:-2] if call else name).split('.'):
        try:
            value = getattr(value, part)
        except AttributeError:
            others = [n for n in ('app', 'application', 'wsgi_app') if callable(getattr(module, n, None))]
            raise Failure('callable', '%s has no %r' % (place, name), others[0] if others else '')
    if call:
        value = value()
    if not callable(value):
        raise Failure('callable', '%s: %r is not callable but of type %s' % (
            place, name, type(value).__name__), '')
    return value


def load_one(file, module, name, written=''):
    name = name or 'application'
    if file:
        return find(load_file(file, written), name)
    module, colon, attribute = module.partition(':')
    return find(load_module(module), attribute or name)


def is_asgi(app, config):
    """Whether app is to be called as ASGI 3 asks for: the file says so, it is a
    coroutine function, or it takes what only such an application takes."""
    if config['asgi']:
        return True
    while hasattr(app, 'func') and hasattr(app, 'keywords'):  # functools.partial
        app = app.func
    for function in (app, getattr(type(app), '__call__', None)):
        code = getattr(getattr(function, '__func__', function), '__code__', None)
        if code is not None:
            names = code.co_varnames[:code.co_argcount]
            return bool(code.co_flags & 0x80) or names[-3:] == ('scope', 'receive', 'send')  # CO_COROUTINE
    return False


LOADING = ['']  # which of several applications


def load_mounts(config):
    """All mounted applications in one: the core says which a request is for."""
    apps, words = [], config['mounts']
    for at in range(0, len(words), 5):
        LOADING[:] = [str(at // 5)]
        apps.append(load_one(*words[at + 1:at + 5]))
        if is_asgi(apps[-1], config):
            raise Failure('asgi', 'with single-interpreter the apps of mount lines are WSGI applications; this is an ASGI one', '')
    sys.modules['uwsgi'].applications.update(zip(words[::5], apps))

    def mounted(environ, start_response):
        return apps[int(environ.pop('liege.app'))](environ, start_response)
    return mounted


def load_form(form, text, config):
    """An application that is neither in a file nor a module's."""
    if form == 'eval':
        module = type(sys)('uwsgi_eval')
        sys.modules['uwsgi_eval'] = module
        exec(compile(text, '<eval>', 'exec'), module.__dict__)
        return find(module, config['callable'] or 'application')
    if form == 'pecan':
        from pecan.deploy import deploy
        return deploy(text)
    from paste.deploy import loadapp
    if config['paste_logger'] and text.startswith('config:'):
        from logging.config import fileConfig
        fileConfig(text[7:].partition('#')[0])
    return loadapp(text, relative_to=config['dir'])


def import_one(name):
    """A module, or a file."""
    return load_file(name) if name.endswith('.py') else load_module(name)


def alias(pairs):
    for pair in pairs:
        name, _, target = pair.partition('=')
        sys.modules[name] = import_one(target)


def shared(config):
    """What is done once, before the workers are forked."""
    if config['gevent']:
        import gevent  # so that its absence is found
    if config['patch']:
        from gevent import monkey
        # Processes and signals are this program's business.
        monkey.patch_all(os=False, signal=False)
    for name in config['shared_import']:
        import_one(name)


def load_app(config):
    alias(config['alias'])
    for name in config['import']:
        import_one(name)
    if config['mounts']:
        app = load_mounts(config)
    elif config['form']:
        app = load_form(config['form'], config['module'], config)
    else:
        app = load_one(config['file'], config['module'], config['callable'], config['written'])
    alias(config['post_alias'])
    return app


def load(config, what=load_app):
    """The application, or a Failure."""
    try:
        return guarded(what, config)
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
    if config['executable']:
        sys.executable = config['executable']
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

def renew_gevent():
    """Make the hub that loading may have begun fit for this process."""
    if 'gevent' not in sys.modules:
        return
    sys.modules['gevent'].reinit()
    local = sys.modules.get('gevent._hub_local')  # since gevent 1.3
    hub = local and local.get_hub_if_exists()
    if hub:  # its handler of SIGCHLD is not there any more, and it would wait for ever for children
        hub.loop.reset_sigchld()


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
        if self.left:
            self.left += config['max_requests_delta'] * (number - 1)
        self.cheap = self.leaving = False
        self.queues = []
        self.born = time.monotonic()
        self.life = config['life'] and (config['life'] + config['life_delta'] * (number - 1)) / 1000.0
        self.drain = config['drain'] / 1000.0
        self.statm = -1
        if config['rss'] or config['as']:
            try:
                self.statm = os.open('/proc/self/statm', os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                pass
        self.page = os.sysconf('SC_PAGESIZE')
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
        if config['no_file_wrapper']:
            del self.base['wsgi.file_wrapper']
        MANNERS.update(delay=not config['no_delay'], show=config['show'], reload_on=config['reload_on'])

    def hello(self, kind, text=b''):
        self.lanes[0].sendall(HEADER.pack(kind, 0, len(text), 0, b'\0' * 8) + text)

    def greet(self):
        """The worker is ready."""
        self.hello(b'L')
        if self.config['watch']:
            import _thread
            _thread.start_new_thread(keep_reporting, (self.config, self.control))

    def loop(self, core):
        lane, app = self.lanes[core], self.app
        base = dict(self.base)
        base['wsgi.errors'] = Errors()
        if len(self.lanes) > 1:
            base['uwsgi.core'] = core
        put = Slot(self.slots + core).put
        queue = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, QUEUE)
        queue.setblocking(True)
        self.queues.append(queue)  # an exception would close it, for all threads
        receive = self.receiver(queue)
        if LOADED and listens():  # signals come for this very worker
            receive = listening(queue, self.wake[0] if len(self.lanes) > 1 else -1)
        uwsgi = sys.modules.get('uwsgi')
        loads = marshal.loads
        check = self.life or self.statm >= 0
        while True:
            data = receive(PACKET)
            if not data:
                stray()
                break
            env = loads(data)
            put(env['liege.id'])
            if 'liege.probe' in env:
                lane.sendall(HEADER.pack(b'P', 0, 0, 0, env['liege.id']))
                continue
            if 'liege.retire' in env:
                self.cheap = True
                self.retire(lane)
                break
            status = serve(app, base, env, lane)
            if status > 0:
                os._exit(status)
            if base['wsgi.errors'].rest:
                base['wsgi.errors'].flush()
            hook = uwsgi and uwsgi.__dict__.get('after_req_hook')
            if hook:
                status = min(status, after_request(hook))
            if status == LEAVE:
                if len(self.lanes) == 1:
                    os._exit(1)
                self.retire(lane)  # the requests of other threads have no part in it
                break
            if self.left > 0:
                self.left -= 1
                if self.left == 0:
                    self.retire(lane)
                    break
            if status == RELOAD or check and self.worn():
                self.retire(lane)
                break
        queue.detach()

    def worn(self):
        """Whether this worker has run or grown for long enough."""
        age = time.monotonic() - self.born
        if self.life and age >= self.life:
            return True
        if self.statm < 0 or age * 1000 < self.config['youth']:
            return False
        size, resident = os.pread(self.statm, 64, 0).split()[:2]
        config = self.config
        return bool(config['rss'] and int(resident) * self.page >= config['rss'] or config['as'] and int(size) * self.page >= config['as'])

    def receiver(self, queue):
        """How a thread takes a request. Where workers retire and have several threads
        one of them waits at a time, and can be told to stop waiting."""
        if not self.config['retire'] or len(self.lanes) == 1:
            return queue.recv
        import select
        lock, wake, take, poll = self.lock, self.wake[0], queue.recv, select.poll()
        poll.register(queue.fileno(), select.POLLIN)
        poll.register(wake, select.POLLIN)

        def receive(size):
            if not self.leaving:
                try:
                    return take(size, _socket.MSG_DONTWAIT)
                except BlockingIOError:
                    pass
            with lock:
                while True:
                    if wake in [fd for fd, _ in poll.poll()]:  # also where there is a request
                        return b''
                    try:
                        return take(size, _socket.MSG_DONTWAIT)
                    except BlockingIOError:
                        pass
        return receive

    def farewell(self):
        """What tells the core that this worker takes no more requests."""
        return HEADER.pack(b'Q', 0, 0, 1 if self.cheap else 0, b'\0' * 8)

    def retire(self, lane):
        lane.sendall(self.farewell())
        self.leaving = True
        if len(self.lanes) > 1:
            os.write(self.wake[1], b'.')
            if not self.config['retire']:
                self.rouse()

    def rouse(self):
        """Have threads that wait for a request hear that there are no more: in this
        process the queue is at its end, and a signal has them look."""
        import _thread
        disown([], [QUEUE])
        with self.serving_lock:
            for ident in self.serving - {_thread.get_ident()}:
                signal.pthread_kill(ident, signal.SIGURG)

    def threaded(self, core):
        """The loop of one of several threads. A signal goes to no thread that has ended."""
        import _thread
        ident = _thread.get_ident()
        with self.serving_lock:
            self.serving.add(ident)
        try:
            self.loop(core)
        except EXITS as e:  # the function of a signal raised it
            stray(e)
            say(trace(e))
            self.retire(self.lanes[core])
        finally:
            with self.serving_lock:
                self.serving.discard(ident)

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
        asynchronous = not config['gevent'] and is_asgi(self.app, config)
        run_hook('post_fork_hook')
        if asynchronous:
            if len(self.lanes) == 1:
                say('liege: with lazy-apps it is known too late that this is an ASGI application: one request is served at a time; write asgi = MODULE:APP')
            exec(code(config['further'], SELF), globals())
            serve_asgi(self)
            return
        if config['gevent']:
            exec(code(config['further'], SELF), globals())
            serve_green(self)
            return
        threads = []
        if len(self.lanes) > 1:
            import threading
            self.lock, self.wake = threading.Lock(), os.pipe()  # of receiver
            self.serving_lock, self.serving = threading.Lock(), set()  # the threads
            if not config['retire'] and signal.getsignal(signal.SIGURG) == signal.SIG_DFL:
                signal.signal(signal.SIGURG, lambda *_: None)  # of rouse
            for core in range(1, len(self.lanes)):
                t = threading.Thread(target=self.threaded, args=(core,), name='uWSGIWorker%dCore%d' % (self.number, core))
                t.daemon = True
                threads.append(t)
        self.greet()
        for t in threads:
            t.start()
        try:
            if threads:
                self.threaded(0)
            else:
                self.loop(0)
        except EXITS as e:
            stray(e)
            raise
        for t in threads:
            t.join()


def failure_text(f):
    args = f.args
    detail = args[2] if len(args) > 2 else ''
    name = args[3] if len(args) > 3 else ''
    if args[0] == 'callable':
        detail, name = '', args[2]
    return '\0'.join((args[0], args[1][:2000], detail[-8000:], name, LOADING[0]))


def become_worker(config, app, number, slots, fds, control):
    MINE[0] = GETPID()
    config['worker'] = number
    ROLE[:] = [b'w', number]
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
        lane = Lane(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fd)
        lane.setblocking(True)
        lanes.append(lane)
    in_children(lambda: disown(lanes, [QUEUE]))
    worker = Worker(config, app, number, slots, lanes)
    worker.control = control
    try:
        worker.run()
        run_hook('atexit')
    finally:
        # in_children keeps them longer than Python 3.7 to 3.9 can do without what a
        # socket asks for as it goes: they crash.
        for lane in lanes:
            lane.detach()
    if worker.cheap:
        sys.exit(CHEAP)


def run_hook(name):
    """Call what the application has put into the uwsgi module by that name."""
    hook = getattr(sys.modules.get('uwsgi'), '__dict__', {}).get(name)
    if hook:
        try:
            guarded(hook)
        except Exception as e:
            say(trace(e))


def become_side(config, app, order, fds):
    """A mule or a spooler: see package worker, side.go."""
    MINE[0] = GETPID()
    for fd in fds:  # its end tells the core of this process's
        os.set_inheritable(fd, False)
    in_children(lambda: disown([], fds))
    os.close(QUEUE)
    set_title('%s %s %d' % (config['title'], order['side'], order['number']))
    try:
        if app is None:
            load(config)
        sys.modules['uwsgi'].cache_get  # loads the program
        run_side(order)
    except Failure as f:
        say('%s: %s\n%s' % (order['side'], f.args[1], f.args[2] if len(f.args) > 2 else ''))
        sys.exit(1)
    finally:
        if GETPID() == MINE[0]:
            run_hook('atexit')


def main(control):
    os.dup2(STDERR, 2)
    os.close(STDERR)
    for number in (signal.SIGUSR2, signal.SIGWINCH, signal.SIGTSTP):  # the core ignores them
        signal.signal(number, signal.SIG_DFL)
    config = {}
    while 'protocol' not in config:
        config.update(marshal.loads(control.recv(1 << 18)))
    for name in ('uwsgi_program', 'decorators_program', 'further'):
        config[name] = part(config[name])
    for fd in (CONTROL, QUEUE, SLOTS) + ((DOOR,) if config['door'] else ()):
        os.set_inheritable(fd, False)
    if config['protocol'] != PROTOCOL:
        control.sendall(b'failed\0protocol\0the core speaks another protocol than the worker')
        return
    set_title(config['title'] if config['title_plain'] else config['title'] + ' loader')
    app = None
    try:
        prepare(config)
        if config['watch']:
            watch_imports()
        if config['shared_import'] or config['gevent'] or config['patch']:
            load(config, shared)
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
                done, status = WAITPID(pid, os.WNOHANG)
            except ChildProcessError:
                done, status = pid, 0
            if done:
                children.discard(pid)
                try:
                    control.sendall(('exited\0%d\0%d' % (pid, status)).encode())
                except OSError:
                    os._exit(0)
    if app is not None and not config['gevent'] and not is_asgi(app, config):
        del config['further']
    gc.collect()
    if hasattr(gc, 'freeze'):
        gc.freeze()
    ended = signal.signal(signal.SIGCHLD, reap)  # as the application has it: ignored, or a handler
    control.setblocking(True)
    if config['watch']:
        report_code(config, control)
    control.sendall(b'loaded\0asgi' if app is not None and not config['gevent'] and is_asgi(app, config) else b'loaded')
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
        pid = FORK()
        if pid == 0:
            renew_gevent()
            signal.signal(signal.SIGCHLD, ended or signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            if not config['watch']:
                control.close()
            if 'side' in order:
                become_side(config, app, order, fds)
            else:
                become_worker(config, app, order['worker'], order['slots'], fds, control)
            return
        children.add(pid)
        for fd in fds:
            os.close(fd)
        control.sendall(('forked\0%d\0%d' % (order['serial'], pid)).encode())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])


t = None  # of the command line: this program's code
main(c)
