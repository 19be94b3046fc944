"""ASGI 3 in a Python worker: the part of python.py that is compiled only where
the application is an asynchronous one, into the same names.

One event loop serves as many requests at once as the worker has lanes. What a
lane carries is drawn in worker/lane.go and worker/socket.go.
"""
import asyncio
from collections import deque

AGAIN = (BlockingIOError, InterruptedError)
ASGI = {'version': '3.0', 'spec_version': '2.4'}
HELD = 16  # messages of a WebSocket that the application has not asked for
RESTART = 1012
VERSIONS = {'HTTP/1.0': '1.0', 'HTTP/2.0': '2', 'HTTP/2': '2', 'HTTP/3.0': '3', 'HTTP/3': '3'}


async def guarded_task(app, *args):
    """The same as guarded, of an application that is waited for."""
    try:
        await app(*args)
    except BaseException as e:
        stray(e)
        raise
    stray()


class LoopLane(object):
    """A lane under the event loop. One request uses it at a time."""

    def __init__(self, loop, sock, put):
        self.loop = loop
        self.sock = sock
        self.fd = sock.fileno()
        self.put = put
        self.buffer = b''
        self.reads = False
        self.request = None
        self.flushing = None

    # what the core says

    def listen(self):
        if not self.reads:
            self.reads = True
            self.loop.add_reader(self.fd, self.readable)

    def deaf(self):
        if self.reads:
            self.reads = False
            self.loop.remove_reader(self.fd)

    def readable(self):
        stray()
        try:
            data = self.sock.recv(1 << 17, _socket.MSG_DONTWAIT)
        except AGAIN:
            return
        except OSError:
            data = b''
        if not data:
            os._exit(0)  # the core is gone
        self.buffer += data
        while len(self.buffer) >= 24:
            kind, _, size, arg, id = HEADER.unpack_from(self.buffer)
            if len(self.buffer) < 24 + size:
                break
            body = self.buffer[24:24 + size]
            self.buffer = self.buffer[24 + size:]
            request = self.request
            if request is not None and request.id == id:  # else it is old news
                request.hear(kind, arg, body)

    # what the worker says

    async def send(self, data):
        """Send whole frames. One that is cancelled has sent them nevertheless:
        half a frame would be the end of the worker."""
        while self.flushing is not None:  # another task of the application's is at it
            await asyncio.shield(self.flushing)
        at = 0
        try:
            at = self.sock.send(data, _socket.MSG_DONTWAIT)
        except AGAIN:
            pass
        if at < len(data):
            self.flushing = self.loop.create_task(self.flush(memoryview(data)[at:]))
            await asyncio.shield(self.flushing)

    async def flush(self, data):
        ready = asyncio.Event()
        self.loop.add_writer(self.fd, ready.set)
        try:
            while data:
                await ready.wait()
                ready.clear()
                try:
                    data = data[self.sock.send(data, _socket.MSG_DONTWAIT):]
                except AGAIN:
                    pass
        finally:
            self.loop.remove_writer(self.fd)
            self.flushing = None


def scope_of(env, kind, state):
    """The connection scope of the variables of a request."""
    fields = []
    for name, value in env.items():
        if name.startswith('HTTP_'):
            if name in ('HTTP_CONTENT_TYPE', 'HTTP_CONTENT_LENGTH') and name[5:] in env:
                continue  # a web server says it twice: nginx's uwsgi_params
            fields.append((name[5:].replace('_', '-').lower().encode('latin-1'), value.encode('latin-1')))
        elif name in ('CONTENT_TYPE', 'CONTENT_LENGTH') and value:
            fields.append((name.replace('_', '-').lower().encode('latin-1'), value.encode('latin-1')))
    root = env.get('SCRIPT_NAME', '')
    path = (root + env.get('PATH_INFO', '')).encode('latin-1').decode('utf-8', 'replace')
    scheme = env.get('wsgi.url_scheme', 'http')
    scope = {
        'type': kind, 'asgi': dict(ASGI), 'http_version': VERSIONS.get(env.get('SERVER_PROTOCOL'), '1.1'),
        'scheme': scheme, 'path': path, 'raw_path': env.get('REQUEST_URI', '').partition('?')[0].encode('latin-1'),
        'query_string': env.get('QUERY_STRING', '').encode('latin-1'),
        'root_path': root.encode('latin-1').decode('utf-8', 'replace'), 'headers': fields,
        'client': address(env, 'REMOTE_ADDR', 'REMOTE_PORT'), 'server': address(env, 'SERVER_NAME', 'SERVER_PORT'),
        'state': dict(state),
    }
    if kind == 'http':
        scope['method'] = env.get('REQUEST_METHOD', 'GET')
        scope['extensions'] = {'http.response.pathsend': {}}
        if 'liege.trailing' in env:
            scope['extensions']['http.response.trailers'] = {}  # others get none
    else:
        scope['scheme'] = 'wss' if scheme == 'https' else 'ws'
        names = env.get('HTTP_SEC_WEBSOCKET_PROTOCOL', '')
        scope['subprotocols'] = [n.strip() for n in names.split(',') if n.strip()]
        scope['extensions'] = {'websocket.http.response': {}}
    return scope


def address(env, host, port):
    try:
        return env[host], int(env.get(port) or 0)
    except (KeyError, ValueError):
        return None


def words_of(fields):
    """The names and values of header fields."""
    words = [bytes(word) for name, value in fields or () for word in (name, value)]
    if any(b'\0' in word for word in words):
        raise ValueError('a NUL in a header field')  # behind it would be a field of its own
    return words


def encode_head(message):
    """The status line and fields of a response, as the core takes them."""
    return b'\0'.join([b'%d' % message['status']] + words_of(message.get('headers')))


class Answer(object):
    """What a request and a refused WebSocket have in common: a response."""

    def begin(self, server, lane, env):
        self.server = server
        self.lane = lane
        self.id = env['liege.id']
        self.skip = env.get('REQUEST_METHOD') == 'HEAD'
        self.head = None
        self.started = self.over = self.gone = False
        self.waiter = None
        self.passing = None  # the task that hands a file over
        self.news = []  # what the core said and nobody waited for
        lane.request = self

    def frame(self, kind, arg=0, head=b'', body=b''):
        return HEADER.pack(kind, len(head), len(body), arg, self.id) + head + body

    def hear(self, kind, arg, body):
        if kind == b'X':
            self.gone = True
        self.news.append((kind, arg, body))
        self.wake()

    def wake(self):
        if self.waiter is not None:
            waiter, self.waiter = self.waiter, None
            waiter.set_result(None)

    async def wait(self):
        """Wait until there is news. Several tasks may."""
        self.lane.listen()
        if self.waiter is None:
            self.waiter = self.server.loop.create_future()
        await asyncio.shield(self.waiter)

    async def expect(self, kind):
        """Wait for the answer of the core to a question."""
        while True:
            for i, item in enumerate(self.news):
                if item[0] == kind:
                    del self.news[i]
                    return item
            if self.gone and kind == b'B':
                return b'X', 1, b''
            await self.wait()

    async def respond(self, data, more):
        """Send a piece of the body, after the head if that is still to come."""
        if self.started and not self.gone:
            self.lane.readable()
            await asyncio.sleep(0)  # an application that only writes is not alone
        if self.gone or self.over:  # ended by another task meanwhile
            raise Aborted(errno.EPIPE, 'the client went away')
        size = len(data)
        if self.skip:
            data = b''
        if not self.started and not more and size <= BIG:
            self.started = self.over = True
            await self.lane.send(self.frame(b'A', size, self.head, data))
            return
        if not self.started:
            self.started = True
            await self.lane.send(self.frame(b'H', 0, self.head, data[:BIG]))
            data = data[BIG:]
        while data:
            await self.lane.send(self.frame(b'D', 0, b'', data[:BIG]))
            data = data[BIG:]
        if not more:
            self.over = True
            await self.lane.send(self.frame(b'E'))

    def settled(self):
        """Whether nothing more comes of this request, in either direction."""
        return self.over

    async def failed(self):
        if self.passing is not None:  # the core waits for a descriptor, and takes nothing else
            await asyncio.wait([self.passing])
        if not self.over:
            self.over = True
            await self.lane.send(self.frame(b'E', 1))
        self.wake()


class Http(Answer):
    def __init__(self, server, lane, env):
        self.begin(server, lane, env)
        self.body = env.get('wsgi.input')
        self.length = int(env.get('CONTENT_LENGTH') or -1)
        self.watched = False
        self.trailers = None  # fields to come behind the body
        self.bodied = False  # the body is complete, and they are to come

    async def receive(self):
        if self.body is not False:
            if self.body is not True:
                data, self.body = self.body or b'', False
                return {'type': 'http.request', 'body': data, 'more_body': False}
            await self.lane.send(self.frame(b'R', 65536))
            kind, arg, data = await self.expect(b'B')
            if arg:
                self.gone, self.body = True, False
                return {'type': 'http.disconnect'}
            self.length -= len(data)
            more = bool(data) and self.length != 0
            if not more:
                self.body = False
            return {'type': 'http.request', 'body': data, 'more_body': more}
        if not self.watched and not self.over:
            self.watched = True
            self.lane.listen()
            await self.lane.send(self.frame(b'W'))
        while not self.gone and not self.over:
            await self.wait()
        return {'type': 'http.disconnect'}

    async def send(self, message):
        kind = message['type']
        if kind == 'http.response.start':
            if self.head is not None:
                raise RuntimeError('http.response.start was sent twice')
            self.head = encode_head(message)
            if message['status'] in (204, 304):
                self.skip = True
            if message.get('trailers'):
                self.trailers = []
            return
        if self.head is None:
            raise RuntimeError('%s came before http.response.start' % kind)
        if self.over:
            raise RuntimeError('%s came after the end of the response' % kind)
        if self.bodied != (kind == 'http.response.trailers'):
            raise RuntimeError('%s came out of turn' % kind)
        if kind == 'http.response.body':
            more = message.get('more_body', False)
            self.bodied = not more and self.trailers is not None
            await self.respond(bytes(message.get('body', b'')), more or self.bodied)
        elif kind == 'http.response.trailers':
            await self.trail(message)
        elif kind == 'http.response.pathsend':
            await self.file(message['path'])
        else:
            raise RuntimeError('a message %s is not understood' % kind)
        if self.over:
            self.wake()

    async def trail(self, message):
        """Send the fields behind the body, once all of them are there."""
        self.trailers += words_of(message.get('headers'))
        if not message.get('more_trailers', False):
            self.over = True
            await self.lane.send(self.frame(b'T', 0, b'', b'\0'.join(self.trailers)) + self.frame(b'E'))

    async def file(self, path):
        """Let the core send a file."""
        import stat
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would have all wait
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise ValueError('http.response.pathsend: %r is no regular file' % (path,))
            size = info.st_size
            if self.skip or not size:
                return await self.respond(b'', False)
            self.started = True
            self.passing = self.server.loop.create_task(self.pass_file(os.dup(fd), size))
            await asyncio.shield(self.passing)
        finally:
            os.close(fd)

    async def pass_file(self, fd, size):
        try:
            self.lane.listen()
            await self.lane.send(self.frame(b'H', 0, self.head) + self.frame(b'F', 0, b'', struct.pack('<QQ', 0, size)))
            await self.expect(b'G')
            self.lane.sock.sendmsg([b'\0'], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack('i', fd))])
        finally:
            os.close(fd)
        self.over = True
        await self.lane.send(self.frame(b'E'))

    async def ended(self):
        if not self.over:
            if self.head is None or not self.started:
                say('the ASGI application returned without a response')
            await self.failed()


def close_code(code):
    """The code that a close is sent with (RFC 6455 7.4): 1005 and 1006 are those of a
    close that had none, which an application may have from its own disconnect."""
    if code in (None, 1005, 1006):
        return 1000
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise ValueError('websocket.close: %r is no code to close with' % (code,))
    return code


class WebSocket(Answer):
    """States: asked, open, closed (by whom does not matter)."""

    def __init__(self, server, lane, env):
        self.begin(server, lane, env)
        self.state = 'new'
        self.parts = []
        self.accepted = False  # the core was told so
        self.said = False  # the client's end was handed to the application
        self.heard = False  # the core has sent the last of it

    def hear(self, kind, arg, body):
        if kind == b'C':
            self.heard = True
        if self.over:
            self.wake()
            return
        if kind == b'M' and arg & 4:
            self.parts.append(body)
            return
        if kind == b'M' and self.parts:
            body = b''.join(self.parts) + body
            self.parts = []
        self.news.append((kind, arg, body))
        if len(self.news) >= HELD:
            self.lane.deaf()
        self.wake()

    def restart(self):
        """The worker is about to end."""
        if self.state == 'open':
            self.news.append((b'C', RESTART, b''))
            self.wake()

    async def receive(self):
        if self.state == 'new':
            self.state = 'asked'
            return {'type': 'websocket.connect'}
        while not self.news:
            if self.said or self.state == 'closed':
                raise RuntimeError('the WebSocket is closed')
            await self.wait()
        kind, arg, body = self.news.pop(0)
        if kind == b'M':
            if self.state == 'open':
                self.lane.listen()
            if arg & 3 == 1:
                return {'type': 'websocket.receive', 'text': body.decode('utf-8')}
            return {'type': 'websocket.receive', 'bytes': body}
        self.said = True
        code = arg if kind == b'C' else 1006
        if code == RESTART and self.state == 'open':
            await self.close(RESTART, b'')
        self.state = 'closed'
        return {'type': 'websocket.disconnect', 'code': code, 'reason': body.decode('utf-8', 'replace')}

    async def send(self, message):
        kind = message['type']
        if self.state in ('new', 'asked'):
            return await self.answer(kind, message)
        if self.state == 'refusing' and kind == 'websocket.http.response.body':
            return await self.respond(bytes(message.get('body', b'')), message.get('more_body', False))
        if self.state != 'open':
            if kind == 'websocket.close':
                return
            raise Aborted(errno.EPIPE, 'the WebSocket is closed')
        if kind == 'websocket.send':
            data, arg = message.get('bytes'), 2
            if data is None:
                data, arg = message['text'].encode('utf-8'), 1
            await self.message(bytes(data), arg)
        elif kind == 'websocket.close':
            await self.close(close_code(message.get('code')), (message.get('reason') or '').encode('utf-8'))
        else:
            raise RuntimeError('a message %s is not understood' % kind)

    async def message(self, data, arg):
        # One write for all of it: tasks may send at once.
        frames = []
        for at in range(0, max(len(data), 1), 16384):
            more = 4 if at + 16384 < len(data) else 0
            frames.append(self.frame(b'M', arg | more, b'', data[at:at + 16384]))
        await self.lane.send(b''.join(frames))

    async def close(self, code, reason):
        self.state = 'closed'
        await self.lane.send(self.frame(b'C', code, b'', reason[:123]))

    async def answer(self, kind, message):
        if kind == 'websocket.accept':
            fields = list(message.get('headers') or ())
            if message.get('subprotocol'):
                fields.insert(0, (b'Sec-WebSocket-Protocol', message['subprotocol'].encode('latin-1')))
            parts = words_of(fields)
            self.state = 'open'
            self.accepted = True
            self.lane.listen()
            await self.lane.send(self.frame(b'U', 0, b''.join(p + b'\0' for p in parts)))
            if self.server.leaving:
                self.restart()
        elif kind == 'websocket.close':
            self.state = 'closed'
            self.head = b'403 Forbidden'
            await self.respond(b'', False)
        elif kind == 'websocket.http.response.start':
            self.state = 'refusing'
            self.head = encode_head(message)
        else:
            raise RuntimeError('%s came before websocket.accept' % kind)

    def settled(self):
        return self.over and (self.heard or not self.accepted)

    async def failed(self):
        if self.state in ('open', 'closed'):
            await self.part(1)
        else:
            await Answer.failed(self)

    async def part(self, failed):
        """End an open WebSocket: the lane is free when the core has sent the last of it."""
        if not self.over:
            self.over = True
            await self.lane.send(self.frame(b'E', failed))
        while self.accepted and not self.heard:
            await self.wait()

    async def ended(self):
        if self.state in ('open', 'closed'):
            await self.part(0)
        elif not self.over:
            say('the ASGI application returned without an answer to the WebSocket')
            await self.failed()


class Lifespan(object):
    """The application's startup and shutdown; one that knows of neither does without."""

    def __init__(self, app, loop, exits):
        self.app = app
        self.loop = loop
        self.exits = exits  # called when the application ends itself after the start
        self.state = {}
        self.events = asyncio.Queue()
        self.started = loop.create_future()
        self.stopped = loop.create_future()
        self.task = None
        self.known = False

    async def receive(self):
        return await self.events.get()

    async def send(self, message):
        kind, future = message['type'], None
        if kind.startswith('lifespan.startup.'):
            future, self.known = self.started, True
        elif kind.startswith('lifespan.shutdown.'):
            future = self.stopped
        if future is not None and not future.done():
            future.set_result(message.get('message', '') if kind.endswith('.failed') else None)

    async def run(self):
        scope = {'type': 'lifespan', 'asgi': {'version': '3.0', 'spec_version': '2.0'}, 'state': self.state}
        try:
            await guarded_task(self.app, scope, self.receive, self.send)
        except EXITS as e:  # means that there shall be no worker, also of one that knows no lifespan
            say(trace(e))
            if self.started.done():
                self.exits()
            else:
                self.started.set_result('it ended itself: ' + summary(e))
        except (Exception, asyncio.CancelledError) as e:
            if self.known:
                say(trace(e))
            elif not self.started.done():
                say('the ASGI application takes no lifespan, and is served without: ' + summary(e))
        for future in (self.started, self.stopped):
            if not future.done():
                future.set_result(None)

    async def startup(self):
        """Why the application does not start; None: it does."""
        self.events.put_nowait({'type': 'lifespan.startup'})
        self.task = self.loop.create_task(self.run())
        return await self.started

    async def shutdown(self, most):
        """Wait until the application has shut down, at most this long (seconds)."""
        if self.task is not None and not self.task.done():
            self.events.put_nowait({'type': 'lifespan.shutdown'})
            await asyncio.wait([self.stopped], timeout=most)
            if not self.stopped.done():
                say('lifespan shutdown has not ended within %g s (worker-reload-mercy)' % most)
                return
            why = self.stopped.result()
            if why:
                say('lifespan shutdown failed: ' + why)
            await asyncio.wait([self.task], timeout=5)


class Server(object):
    def __init__(self, worker, loop):
        self.worker = worker
        self.loop = loop
        self.app = worker.app
        self.lifespan = Lifespan(self.app, loop, self.leave)
        self.queue = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, QUEUE)
        self.lanes = [LoopLane(loop, sock, Slot(worker.slots + i).put) for i, sock in enumerate(worker.lanes)]
        self.idle = deque(self.lanes)  # the longest unused first: the last may still be full for a client that does not read
        self.tasks = set()
        self.sockets = set()
        self.ready = self.leaving = self.taking = self.owed = False
        self.left = loop.create_future()

    async def run(self):
        why = await self.lifespan.startup()
        if why is not None:
            text = '\0'.join(('lifespan', why.strip()[-2000:], '', '', LOADING[0]))
            self.worker.hello(b'N', text.encode('utf-8', 'replace')[:60000])
            return
        self.worker.greet()
        self.ready = True
        self.take()
        if LOADED and listens():
            INBOX.ask(FOR_SIGNALS)
            self.loop.add_reader(INBOX.fileno(), self.signalled)
        if self.worker.life or self.worker.statm >= 0:
            self.loop.call_later(1, self.age)
        await self.left
        while self.tasks:
            await asyncio.wait(list(self.tasks))
        await self.lifespan.shutdown(self.worker.drain)

    def signalled(self):
        """Handle a signal that came for this very worker."""
        stray()
        try:
            handle_signal(INBOX.take()[1][0])
            INBOX.ask(FOR_SIGNALS)
        except OSError:  # the core is gone
            self.loop.remove_reader(INBOX.fileno())

    def age(self):
        if self.worker.worn():
            self.leave()
        elif not self.leaving:
            self.loop.call_later(1, self.age)

    def take(self):
        if not self.taking and self.idle and not self.leaving:
            self.taking = True
            self.loop.add_reader(QUEUE, self.readable)

    def rest(self):
        if self.taking:
            self.taking = False
            self.loop.remove_reader(QUEUE)

    def leave(self, told=False):
        """Take no more requests, and end when those that are here have ended. Unless
        the core has said so, it is told, so that another worker comes."""
        if not self.leaving:
            self.leaving = True
            self.rest()
            self.left.set_result(None)
            self.owed = not told
            self.farewell()
            for s in list(self.sockets):
                s.restart()

    def farewell(self):
        """Say it on a lane that nothing is under way on: in a request it would wait
        behind what a client does not read, and in a WebSocket or before a descriptor
        it would be a breach."""
        if self.owed and self.idle:
            self.owed = False
            self.idle[0].sock.sendall(self.worker.farewell())

    def readable(self):
        # One packet in each turn of the loop: a worker that has less to do
        # gets the next one.
        stray()
        try:
            data = self.queue.recv(PACKET, _socket.MSG_DONTWAIT)
        except AGAIN:
            return
        except OSError:
            data = b''
        if not data:
            return self.leave(True)
        env = marshal.loads(data)
        lane = self.idle.popleft()
        lane.put(env['liege.id'])
        if 'liege.probe' in env:
            lane.sock.sendall(HEADER.pack(b'P', 0, 0, 0, env['liege.id']))
            self.idle.append(lane)
        elif 'liege.retire' in env:
            self.worker.cheap = True
            self.idle.append(lane)
            self.leave()
        else:
            if not self.idle:
                self.rest()
            self.track(self.serve(lane, env))
            if self.worker.left > 0:
                self.worker.left -= 1
                if self.worker.left == 0:
                    self.leave()

    async def serve(self, lane, env):
        """Answer one request."""
        request, id, called = None, env['liege.id'], False
        try:
            if env.get('liege.large'):
                env = await self.variables(lane, env)
            if 'liege.rpc' in env:
                status = answer_call(Request(lane.sock, id, False), env['liege.rpc'], env['liege.args'])
                if status > 0:
                    os._exit(status)
                if status == LEAVE:
                    self.leave()
                called = True
                return
            if env.get('HTTP_UPGRADE', '').lower() == 'websocket' and env.get('REQUEST_METHOD') == 'GET':
                request, kind = WebSocket(self, lane, env), 'websocket'
                self.sockets.add(request)
            else:
                request, kind = Http(self, lane, env), 'http'
            await self.call(request, scope_of(env, kind, self.lifespan.state))
        except Aborted:
            pass
        except MemoryError as e:
            say(trace(e))
            os._exit(NO_MEMORY)
        except (Exception, asyncio.CancelledError) as e:
            say(trace(e))
        finally:
            self.sockets.discard(request)
            if called or lane.flushing is None and request is not None and request.settled():
                self.free(lane)
            else:  # in a task of its own: this one may be cancelled again
                self.track(self.settle(lane, id, request))

    async def settle(self, lane, id, request):
        """End a request that the application has left open."""
        try:
            if request is None:
                await lane.send(HEADER.pack(b'E', 0, 0, 1, id))
            else:
                await request.failed()
            while lane.flushing is not None:
                await asyncio.shield(lane.flushing)
        except OSError as e:
            say(trace(e))  # the core is gone, or will end this worker
        self.free(lane)

    def free(self, lane):
        lane.request = None
        lane.deaf()
        self.idle.append(lane)
        self.farewell()
        self.take()

    def track(self, work):
        """Run work, which the worker waits for before it ends."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def call(self, request, scope):
        try:
            await guarded_task(self.app, scope, request.receive, request.send)
        except Aborted:
            pass
        except GeneratorExit:  # the loop has ended
            raise
        except BaseException as e:  # CancelledError is no Exception since 3.8
            if not (isinstance(e, (OSError, asyncio.CancelledError)) and request.gone):
                say(trace(e))
                if replaces(e) or isinstance(e, EXITS):
                    self.leave()
            if not isinstance(request, WebSocket) or request.state not in ('open', 'closed'):
                if MANNERS['show'] and not request.started:
                    request.head = b'500 Internal Server Error\0content-type\0text/plain; charset=utf-8'
                    await request.respond(trace(e).encode('utf-8', 'backslashreplace'), False)
                return await request.failed()
            if request.state == 'open':
                await request.close(1011, b'')
        await request.ended()

    async def variables(self, lane, env):
        """The variables of a request that does not fit the queue's packet."""
        request = Answer()
        request.begin(self, lane, env)
        lane.listen()
        await lane.send(request.frame(b'V'))
        parts = []
        while True:
            kind, more, data = await request.expect(b'B')
            if kind == b'X':
                raise Aborted(errno.EPIPE, 'the client went away')
            parts.append(data)
            if not more:
                break
        large = marshal.loads(b''.join(parts))
        large['liege.id'] = env['liege.id']
        return large


def serve_asgi(worker):
    """Run the worker of an asynchronous application to its end."""
    try:
        import uvloop
        loop = uvloop.new_event_loop()
    except ImportError:
        loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    server = Server(worker, loop)
    try:
        task = loop.create_task(server.run())
        while not task.done():
            try:
                loop.run_until_complete(task)
            except EXITS as e:
                stray(e)
                # Of a task or callback of the application's own: asyncio lets it end
                # the loop. The requests of others in this worker have no part in it.
                if not server.ready or task.done():
                    raise
                say('liege: the application has ended its worker from a task of its own: %s' % trace(e))
                server.leave()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
