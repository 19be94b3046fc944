# The part of the uwsgi module that needs the core, run in the globals of
# python.py at the first use of anything that it provides. Its protocol is
# drawn in serve/api/wire.go.

import _operator as operator

DOOR_VERSION = b'\1'
SIZE, NUMBER = struct.Struct('<I'), struct.Struct('<q')
OK, NONE, BAD = 0, 1, 2
FOR_SIGNALS, FOR_MESSAGES, FOR_FARMS, FOR_POKES = 1, 2, 4, 8
LOCAL = _thread._local()
DOORS = []
SIGNALS = {}  # number: (target, function)
PICKED = []  # what came and was not what was waited for


# ---- connections

def connect():
    """A connection of this thread to the core."""
    if not DOORS:
        if not CONFIG['door']:
            raise OSError(errno.ENOTCONN, 'the core offers no services here')
        DOORS.append(_socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, DOOR))
        DOORS[0].setblocking(True)
    mine, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    mine.setblocking(True)
    DOORS[0].sendmsg([DOOR_VERSION], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack('i', theirs.fileno()))])
    theirs.close()
    role, number = ROLE
    send_request(mine, ord('h'), role, NUMBER.pack(number))
    receive_answer(mine)
    return mine


def send_request(conn, op, *fields):
    parts = [b'', bytes((op,))]
    size = 1
    for f in fields:
        parts.append(SIZE.pack(len(f)))
        parts.append(f)
        size += 4 + len(f)
    parts[0] = SIZE.pack(size)
    conn.sendall(b''.join(parts))


def receive_answer(conn):
    data = conn.recv(65536)
    while len(data) < 4:
        more = conn.recv(65536)
        if not more:
            raise OSError(errno.ECONNRESET, 'the core has closed the connection')
        data += more
    size = 4 + SIZE.unpack_from(data)[0]
    if len(data) < size:
        parts, have = [data], len(data)
        while have < size:
            more = conn.recv(min(size - have, 1 << 20))
            if not more:
                raise OSError(errno.ECONNRESET, 'the core has closed the connection')
            parts.append(more)
            have += len(more)
        data = b''.join(parts)
    at, fields = 5, []
    while at < size:
        end = at + 4 + SIZE.unpack_from(data, at)[0]
        fields.append(data[at + 4:end])
        at = end
    if data[4] == BAD:
        raise ValueError(fields[0].decode('utf-8', 'replace'))
    return data[4] == OK, fields


def forget_connections():
    """In a process that was just forked: the connections are its parent's. While it has
    them, what is for the parent's successor would go there, and be read by nobody."""
    LOCAL.__dict__.clear()
    if INBOX.conn is not None:
        disown([], [INBOX.conn.detach()])
        INBOX.conn = None


in_children(forget_connections)


def ask(op, *fields):
    """Ask the core. (whether it said yes, the fields of its answer)."""
    pid = GETPID()
    if getattr(LOCAL, 'pid', 0) != pid:
        LOCAL.conn = connect()
        LOCAL.pid = pid
    try:
        send_request(LOCAL.conn, op, *fields)
        return receive_answer(LOCAL.conn)
    except OSError:
        LOCAL.pid = 0
        raise


def number(n):
    try:
        return NUMBER.pack(operator.index(n))
    except struct.error:
        raise ValueError('%r is not a number of 64 bits' % (n,))


def yes(answer):
    return True if answer[0] else None


def text_of(data):
    return data if isinstance(data, str) else bytes(data).decode('utf-8', 'replace')


# ---- caches

def cache_get(key, cache=b''):
    found, fields = ask(71, as_bytes(cache), as_bytes(key))
    return fields[0] if found else None


def cache_exists(key, cache=b''):
    return yes(ask(88, as_bytes(cache), as_bytes(key)))


def cache_set(key, value, expires=0, cache=b''):
    return yes(ask(83, as_bytes(cache), as_bytes(key), as_bytes(value), number(expires), number(0)))


def cache_update(key, value, expires=0, cache=b''):
    return yes(ask(83, as_bytes(cache), as_bytes(key), as_bytes(value), number(expires), number(1)))


def cache_del(key, cache=b''):
    return yes(ask(68, as_bytes(cache), as_bytes(key)))


def cache_clear(cache=b''):
    return yes(ask(67, as_bytes(cache)))


def cache_keys(cache=b''):
    found, fields = ask(75, as_bytes(cache))
    if not found:
        raise ValueError('no local uWSGI cache available')
    return fields


def cache_number(kind, default):
    def change(key, value=default, expires=0, cache=b''):
        return yes(ask(78, as_bytes(cache), as_bytes(key), kind, number(value), number(expires)))
    return change


def cache_num(key, cache=b''):
    found, fields = ask(110, as_bytes(cache), as_bytes(key))
    return NUMBER.unpack(fields[0])[0] if found else 0


# ---- locks

def lock(n=0):
    """Wait for a lock: it is given back when the thread or the process ends."""
    ask(76, number(n))


def unlock(n=0):
    ask(85, number(n))


def is_locked(n=0):
    return ask(73, number(n))[0]


# ---- the queue

def ring(kind, n=0, message=b''):
    found, fields = ask(81, kind, number(n), message)
    return fields if found else None


def queue_push(message):
    return None if ring(b'+', 0, as_bytes(message)) is None else True


def queue_pop():
    return (ring(b'-') or (None,))[0]


def queue_pull():
    return (ring(b'<') or (None,))[0]


def queue_get(n):
    return (ring(b'=', n) or (None,))[0]


def queue_set(n, message):
    return None if ring(b'!', n, as_bytes(message)) is None else True


def queue_last(n=0):
    """The newest message; of n, the newest first, and None where there is none."""
    last = [message or None for message in ring(b'l', n or 1) or ()]
    return last if n > 0 else (last or (None,))[0]


def queue_place(kind):
    def place():
        fields = ring(kind)
        return NUMBER.unpack(fields[0])[0] if fields else None
    return place


# ---- signals and what raises them

def signal_number(n):
    if not 0 <= operator.index(n) <= 255:
        raise ValueError('a signal is 0 to 255')
    return number(n)


def register_signal(n, target, function):
    if not 0 <= n <= 255 or not callable(function):
        say('uwsgi.register_signal(%r): a signal is 0 to 255 and has a function' % (n,))
        return
    target = text_of(target)
    try:
        ask(82, number(n), target.encode())
    except ValueError as e:
        say('uwsgi.register_signal(%d): %s' % (n, e))
        return
    SIGNALS[n] = (target, function)


def raise_signal(n, node=None):
    if node:
        raise NotImplementedError('signals are not sent to other instances')
    raised = number(operator.index(n) & 255)  # as uWSGI, for which it is one byte
    try:
        ask(115, raised)
    except ValueError as e:
        say('uwsgi.signal(%d): %s' % (n, e))


def signal_registered(n):
    if not 0 <= n <= 255:
        return None
    return yes(ask(114, number(n)))


RECEIVED = [0]


def handle_signal(n):
    """Run the function of a signal that came to this process."""
    RECEIVED[0] = n
    function = SIGNALS.get(n)
    if function is None:
        say('uwsgi: signal %d came here and has no function in this process' % n)
        return
    try:
        guarded(function[1], n)
    except Exception as e:
        say(trace(e))


def called_signal(n):
    handle_signal(n[0])
    return b''


RPC[b'\0signal'] = called_signal


def milliseconds_of(seconds):
    if not isinstance(seconds, float):
        seconds = operator.index(seconds)
    return number(int(seconds * 1000))


def add_timer(n, seconds):
    ask(84, signal_number(n), milliseconds_of(seconds), number(0))


def add_ms_timer(n, milliseconds):
    ask(84, signal_number(n), number(milliseconds), number(0))


def add_rb_timer(n, seconds, iterations=0):
    ask(84, signal_number(n), milliseconds_of(seconds), number(max(iterations, 0)))


def add_cron(n, minute, hour, day, month, week):
    return yes(ask(99, signal_number(n), *[number(v) for v in (minute, hour, day, month, week)]))


def add_file_monitor(n, path):
    ask(70, signal_number(n), os.fsencode(os.path.abspath(path)))


# ---- what the core tells this process

class Inbox(object):
    """The connection on which this process is told what is for it."""

    def __init__(self):
        self.conn = None
        self.pid = 0
        self.asked = False

    def fileno(self):
        return self.conn.fileno()

    def ask(self, mask):
        if self.pid != GETPID():
            self.conn, self.pid, self.asked = connect(), GETPID(), False
        if not self.asked:
            send_request(self.conn, 87, number(mask))
            self.asked = True

    def take(self):
        if self.conn is None:
            stray()  # of a handler that was called in the midst of waiting
        _, (kind, data) = receive_answer(self.conn)
        self.asked = False
        return kind, data

    def next(self, mask, timeout=-1):
        """The next thing for this process: (kind, data), or None in time."""
        import select
        for at, (kind, data) in enumerate(PICKED):
            if MASKS[kind] & mask:
                return PICKED.pop(at)
        until = time.monotonic() + timeout
        while True:
            self.ask(mask)
            poll = select.poll()
            poll.register(self.conn.fileno(), select.POLLIN)
            if not poll.poll(None if timeout < 0 else max(0, int((until - time.monotonic()) * 1000))):
                return None
            kind, data = self.take()
            if MASKS[kind] & mask:
                return kind, data
            PICKED.append((kind, data))


MASKS = {b's': FOR_SIGNALS, b'm': FOR_MESSAGES, b'f': FOR_FARMS, b'p': FOR_POKES}
INBOX = Inbox()


def signal_wait(n=None):
    """Wait for a signal (that signal) and run its function."""
    while True:
        got = INBOX.next(FOR_SIGNALS)[1][0]
        handle_signal(got)
        if n is None or n == got:
            return


def listens():
    """Whether signals may come for this very worker."""
    return any(t not in ('', 'worker', 'worker0') and t.startswith(('worker', 'active')) for t, _ in SIGNALS.values())


GATE = _thread.allocate_lock()  # one thread waits at a time: who takes what is there no more would wait in vain


def listening(queue, wake):
    """How a worker takes a request where signals may come for it: they are handled between
    requests, by one thread while the others take some. What comes from wake ends the waiting."""
    import select

    def next_of(size):
        """A request; or a number, which is a signal's."""
        poll = select.poll()
        INBOX.ask(FOR_SIGNALS)
        for fd in (queue.fileno(), INBOX.fileno(), wake):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if wake in ready:
                return b''
            if INBOX.fileno() in ready:
                return INBOX.take()[1][0]
            try:
                return queue.recv(size, _socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass

    def wait(size):
        while True:
            with GATE:
                got = next_of(size)
            if isinstance(got, bytes):
                return got
            handle_signal(got)
    return wait


# ---- mules and farms

def mule_msg(message, mule=0):
    if not CONFIG['mules']:
        raise ValueError('no mule configured')
    if isinstance(mule, bytes):  # the name of a farm
        if text_of(mule) not in [f.partition(':')[0] for f in CONFIG['farms']]:
            raise ValueError('unknown farm')
        ask(102, mule, as_bytes(message))
        return True
    if isinstance(mule, str):
        raise ValueError('invalid mule: mules are named by their numbers, farms by bytes')
    if not 0 <= mule <= CONFIG['mules']:
        return False
    return ask(77, number(mule), as_bytes(message))[0]


def farm_msg(farm, message):
    try:
        ask(102, as_bytes(farm), as_bytes(message))
    except ValueError as e:
        say('uwsgi.farm_msg: %s' % e)


def in_farm(farm=None):
    if not mule_id():
        return None
    mine = [name for name, _, mules in (f.partition(':') for f in CONFIG['farms']) if str(mule_id()) in mules.split(',')]
    return bool(mine) if farm is None else text_of(farm) in mine


def mule_get_msg(signals=True, farms=True, buffer_size=65536, timeout=-1):
    if not mule_id():
        raise ValueError('you can receive mule messages only in a mule !!!')
    until = time.monotonic() + timeout
    while True:
        left = -1 if timeout < 0 else max(0, until - time.monotonic())
        got = INBOX.next(FOR_MESSAGES | (FOR_SIGNALS if signals else 0) | (FOR_FARMS if farms else 0), left)
        if got is None:
            return b''
        if got[0] != b's':
            return got[1][:buffer_size]
        handle_signal(got[1][0])


def farm_get_msg():
    if not mule_id():
        raise ValueError('you can receive farm messages only in a mule !!!')
    return INBOX.next(FOR_FARMS)[1]


def install_mule_msg_hook(function):
    uwsgi.mule_msg_hook = function


def run_mule(order):
    """The main loop of a mule. It returns only where its program does."""
    program = order['run']
    if program.endswith('.py'):
        note_code(program)
        module = type(sys)('__main__')
        module.__file__ = program
        with io.open(program, 'rb') as f:
            code = compile(f.read(), program, 'exec')
        sys.modules['__main__'] = module
        exec(code, module.__dict__)
        return
    if ':' in program:
        name, _, attribute = program.partition(':')
        find(load_module(name), attribute)()
        return
    while True:
        kind, data = INBOX.next(FOR_SIGNALS | FOR_MESSAGES | FOR_FARMS)
        if kind == b's':
            handle_signal(data[0])
            continue
        hook = uwsgi.__dict__.get('mule_msg_hook')
        if hook is None:
            say('uwsgi: mule %d got a message of %d bytes and has no mule_msg_hook' % (mule_id(), len(data)))
            continue
        try:
            guarded(hook, data)
        except Exception as e:
            say(trace(e))


# ---- the spooler

def spool(*args, **kwargs):
    """Write a task into the spooler's directory. Its file."""
    task = dict(args[0]) if args and isinstance(args[0], dict) else None
    if task is None:
        if not kwargs:
            raise ValueError('The argument of spooler callable must be a dictionary')
        task = {}
    task.update(kwargs)
    pairs = {}
    for key, value in task.items():
        # uWSGI takes bytes only; names are what keyword arguments can be.
        if isinstance(key, str) and key in kwargs:
            key = key.encode()
        if not isinstance(key, bytes) or not isinstance(value, bytes):
            raise ValueError('spooler callable dictionary must contains only bytes')
        pairs[key] = value
    body = pairs.pop(b'body', b'')
    packet = []
    for key, value in pairs.items():
        if len(key) > 65535 or len(value) > 65535:
            raise ValueError('a key or value of a task has more than 65535 bytes; hint: the key body may be longer')
        packet += (struct.pack('<H', len(key)), key, struct.pack('<H', len(value)), value)
    packet = b''.join(packet)
    if len(packet) > 65535:
        raise ValueError('the task has more than 65535 bytes; hint: the key body may be longer')
    path = spool_file(pairs, struct.pack('<BHB', 17, len(packet), 0), packet, body)
    try:
        ask(80, b'')
    except OSError:
        pass  # it is found when the spooler looks for itself
    return os.fsencode(path)


SPOOLED = [0]


def spool_file(pairs, header, packet, body):
    """Write the file of a task: it is there whole or not at all."""
    spoolers = CONFIG['spoolers']
    if not spoolers:
        raise ValueError('no spooler available; hint: spooler = DIR')
    base = os.fsdecode(pairs.get(b'spooler', b'')) or spoolers[0]
    if base not in spoolers:
        raise ValueError('unable to find spooler %r' % base)
    if b'priority' in pairs:
        priority = pairs[b'priority'].decode('ascii', 'replace')
        if not priority.isdigit():
            raise ValueError('priority of a task: %r is not a number' % priority)
        base = os.path.join(base, priority)
        if not os.path.isdir(base):
            os.makedirs(base, exist_ok=True)
    SPOOLED[0] += 1
    now = time.time()
    name = 'uwsgi_spoolfile_on_%s_%d_%d_%d_%d_%d' % (os.uname()[1], GETPID(), SPOOLED[0], int.from_bytes(os.urandom(4), 'little') >> 1,
                                                     int(now), int(now % 1 * 1000000))
    path, draft = os.path.join(base, name), os.path.join(base, '.' + name)
    fd = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        with io.open(fd, 'wb') as f:
            f.write(header + packet)
            f.write(body)
            f.flush()
            if b'at' in pairs:
                at = int(pairs[b'at'].partition(b'.')[0] or 0)
                os.utime(fd, (at, at))
            os.fsync(fd)
        os.rename(draft, path)
    except BaseException:
        try:
            os.unlink(draft)
        except OSError:
            pass
        raise
    return path


def parse_task(data):
    """The task in a spooler's file, or None."""
    if len(data) < 4 or data[0] != 17:
        return None
    size = struct.unpack_from('<H', data, 1)[0]
    if len(data) < 4 + size:
        return None
    task = parse_pairs(data[4:4 + size])
    if task is not None and len(data) > 4 + size:
        task[b'body'] = data[4 + size:]
    return task


def parse_pairs(data):
    """The variables of a packet, or None."""
    at, end, pairs = 0, len(data), {}
    while at < end:
        pair = []
        for _ in (0, 1):
            if at + 2 > end:
                return None
            n = struct.unpack_from('<H', data, at)[0]
            if at + 2 + n > end:
                return None
            pair.append(data[at + 2:at + 2 + n])
            at += 2 + n
        pairs[pair[0]] = pair[1]
    return pairs


def spool_names(base):
    """The files of a spooler's directory, in order if that is wished."""
    ordered = CONFIG['spool_ordered']
    names = os.listdir(base)
    if ordered:
        names.sort(key=lambda n: [(1, int(p), '') if p.isdigit() else (0, 0, p) for p in split_digits(n)])
    for name in names:
        path = os.path.join(base, name)
        if name.startswith('uwsgi_spoolfile_on_'):
            yield path
        elif name.isdigit() and os.path.isdir(path):
            for inner in spool_names(path):
                yield inner


def split_digits(name):
    part, out = '', []
    for c in name:
        if part and c.isdigit() != part[-1].isdigit():
            out.append(part)
            part = ''
        part += c
    return out + [part]


class Spooler(object):
    def __init__(self, order):
        self.dir = order['run']
        self.done = 0
        self.stopping = False
        self.busy = False

    def stop(self, *_):
        self.stopping = True
        if not self.busy:
            sys.exit(0)

    def run(self):
        if not os.path.isdir(self.dir):
            os.makedirs(self.dir, 0o750)
        while not self.stopping:
            self.scan()
            while not self.stopping:
                got = INBOX.next(FOR_SIGNALS | FOR_POKES, FREQUENCY[0])
                if got is None or got[0] != b's':
                    break
                handle_signal(got[1][0])

    def scan(self):
        for path in list(spool_names(self.dir)):
            if self.stopping:
                return
            try:
                self.task(path)
            except OSError as e:
                if e.errno not in (errno.ENOENT, errno.EACCES, errno.EAGAIN):
                    say('spooler: %s: %s' % (path, e.strerror))

    def task(self, path):
        import fcntl
        import stat
        info = os.lstat(path)
        if not stat.S_ISREG(info.st_mode) or info.st_mtime > time.time():
            return
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        with io.open(fd, 'r+b') as f:
            fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as uWSGI does; another process has it: EAGAIN
            if os.fstat(fd).st_nlink == 0:
                return  # it was done meanwhile
            task = parse_task(f.read())
            if task is None:
                if time.time() - info.st_mtime > 60:  # else it may still be written
                    say('spooler: %s is no task' % path)
                return
            self.busy = True
            ask(66, number(1))
            try:
                if self.work(path, task) <= uwsgi.SPOOL_OK:
                    os.unlink(path)
            finally:
                ask(66, number(0))
                self.busy = False
        self.done += 1
        if CONFIG['spool_max_tasks'] and self.done >= CONFIG['spool_max_tasks']:
            self.stopping = True

    def work(self, path, task):
        function = uwsgi.__dict__.get('spooler')
        name = os.path.basename(path)
        if function is None:
            say('spooler: %s: uwsgi.spooler is not set in the spooler process; it is tried again' % name)
            return uwsgi.SPOOL_IGNORE
        if not CONFIG['spool_quiet']:
            say('spooler: %s begins' % name)
        task[b'spooler_task_name'] = os.fsencode(name)
        if CONFIG['spool_dir']:
            os.chdir(CONFIG['spool_dir'])
        started = time.monotonic()
        try:
            result = guarded(function, task)
        except Exception as e:
            say(trace(e))
            return uwsgi.SPOOL_RETRY
        if not isinstance(result, int):
            say('spooler: %s: the function returned %r, no number; it is tried again' % (name, result))
            return uwsgi.SPOOL_RETRY
        if not CONFIG['spool_quiet']:
            say('spooler: %s %s after %d seconds' % (name, 'is done' if result <= uwsgi.SPOOL_OK else 'is kept', time.monotonic() - started))
        return result


FREQUENCY = [CONFIG['spool_frequency'] / 1000.0]


def set_spooler_frequency(seconds):
    FREQUENCY[0] = seconds
    return True


def spooler_jobs():
    return [os.fsencode(path) for base in CONFIG['spoolers'] if os.path.isdir(base) for path in spool_names(base)]


def spooler_get_task(path):
    try:
        with io.open(path, 'rb') as f:
            return parse_task(f.read())
    except OSError:
        return None


# ---- side processes

def held(fork, mask):
    def forked():
        mask(signal.SIG_BLOCK)
        try:
            return fork()
        finally:
            mask(signal.SIG_UNBLOCK)
    return forked


def ends_by(handler):
    """Have handler called at SIGTERM: in this process, and in none that it forks, which
    its parent could not end (multiprocessing's terminate)."""
    signal.signal(signal.SIGTERM, handler)

    def by_default():
        if signal.getsignal(signal.SIGTERM) is handler:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        mask(signal.SIG_UNBLOCK)

    def mask(how):
        signal.pthread_sigmask(how, (signal.SIGTERM,))

    if hasattr(os, 'register_at_fork'):  # Python forgets what comes before this hook in the child
        os.register_at_fork(before=lambda: mask(signal.SIG_BLOCK), after_in_parent=lambda: mask(signal.SIG_UNBLOCK), after_in_child=by_default)
    else:
        in_children(by_default)
        os.fork = held(os.fork, mask)


def run_side(order):
    """A mule or a spooler, to its end."""
    if order['side'] == 'mule':
        ROLE[:] = [b'm', order['number']]
        ends_by(lambda *_: sys.exit(0))
        run_hook('post_fork_hook')
        run_mule(order)
    else:
        ROLE[:] = [b's', order['number']]
        spooler = Spooler(order)
        ends_by(spooler.stop)
        for name in CONFIG['spool_import']:
            load_file(name) if name.endswith('.py') else load_module(name)
        run_hook('post_fork_hook')
        spooler.run()


def mule_id():
    return ROLE[1] if ROLE[0] == b'm' else 0


def i_am_the_spooler():
    return True if ROLE[0] == b's' else None


# ---- numbers

def metric(kind, default=1):
    def change(name, value=default):
        return yes(ask(109, kind, as_bytes(name), number(value)))
    return change


def metric_get(name):
    found, fields = ask(109, b'g', as_bytes(name), number(0))
    return NUMBER.unpack(fields[0])[0] if found else 0


def workers():
    names = ('id', 'pid', 'requests', 'delta_requests', 'exceptions', 'running_time', 'last_spawn', 'respawn_count', 'tx', 'avg_rt', 'rss', 'vsz')
    _, fields = ask(119)
    out = []
    for at in range(0, len(fields), len(names) + 1):
        w = {name: NUMBER.unpack(f)[0] for name, f in zip(names, fields[at:])}
        w['status'] = fields[at + len(names)]
        w['signals'] = 0
        w['apps'] = ({'id': 0, 'modifier1': 0, 'mountpoint': b'', 'startup_time': 0, 'interpreter': 0, 'callable': 0, 'requests': w['requests'],
                      'exceptions': w['exceptions'], 'chdir': os.fsencode(CONFIG['dir'])},)
        out.append(w)
    return tuple(out)


def total_requests():
    return NUMBER.unpack(ask(116)[1][0])[0]


def listen_queue(n=0):
    return NUMBER.unpack(ask(113)[1][0])[0]


def mem():
    with io.open('/proc/self/statm', 'rb') as f:
        size, resident = f.read().split()[:2]
    page = os.sysconf('SC_PAGESIZE')
    return int(resident) * page, int(size) * page


# ---- the request

def own():
    """An object whose attributes are each thread's own; under gevent each greenlet's,
    also where the application has not patched threads."""
    if not CONFIG['gevent']:
        return _thread._local()
    import gevent.local
    return gevent.local.local()


CURRENT = own()
REQUESTS = [0]


def note_request(request, env):
    REQUESTS[0] += 1
    CURRENT.request, CURRENT.environ = request, env
    uwsgi.env = env


def current():
    request = getattr(CURRENT, 'request', None)
    if request is None or request.over:
        raise ValueError('this is possible only while a request is answered')
    return request


def request_fd():
    return current().lane.fileno()


def environ():
    return getattr(CURRENT, 'environ', {})


def set_logvar(name, value):
    """Give the access log's %(name) a value."""
    name, value = as_bytes(name), as_bytes(value)
    request = current()
    if b'\0' in name or len(name) + len(value) > 4096:
        raise ValueError('a variable of the log and its value have at most 4096 bytes')
    request.lane.sendall(HEADER.pack(b'K', 0, len(name) + 1 + len(value), 0, request.id) + name + b'\0' + value)
    environ().setdefault('liege.logvars', {})[name] = value


def get_logvar(name):
    return environ().get('liege.logvars', {}).get(as_bytes(name))


def reload_vassal():
    return yes(ask(108))


def stop_vassal():
    return yes(ask(111))


def sendfile(name, *_):
    """The file as an answer's body: the core sends it."""
    return FileWrapper(io.open(name, 'rb') if isinstance(name, (str, bytes)) else name)


def offload(name):
    """Answer with a file, which the core sends; what the application returns is not sent."""
    request = current()
    with io.open(name, 'rb') as f:
        if not request.file(FileWrapper(f)):
            raise ValueError('uwsgi.offload: start_response was not called, or %r is no file' % (name,))
    request.end(False)
    return b''


def chunked_read(timeout=0):
    """The next piece of a request body of unknown length; b'' at its end."""
    current()
    body = environ()['wsgi.input']
    return body.read1(65536) if hasattr(body, 'read1') else body.read()


def is_connected(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return fd > 2


def side_pids(kind):
    return [NUMBER.unpack(f)[0] for f in ask(112, kind)[1]]


def set_user_harakiri(seconds):
    ask(72, number(max(0, seconds)))


def later(name):
    def function(*_, **__):
        raise NotImplementedError('uwsgi.%s is not provided by Liege' % name)
    function.__name__ = name
    return function


# ---- WebSockets: the core reads and writes frames, see worker/socket.go

class SocketRequest(Request):
    """A request that has become a WebSocket."""
    __slots__ = ()

    def end(self, failed):
        if self.over:
            return
        self.over = True
        self.lane.sendall(HEADER.pack(b'E', 0, 0, 1 if failed else 0, self.id))
        while not CURRENT.heard:  # what the core still had for it
            socket_frame(self)


def read_exactly(lane, size):
    parts = []
    while size > 0:
        piece = lane.recv(size)
        if not piece:
            os._exit(0)
        parts.append(piece)
        size -= len(piece)
    return b''.join(parts)


def socket_frame(request, flags=0):
    """One frame about this WebSocket: (kind, argument, body)."""
    lane = request.lane
    while True:
        head = lane.recv(HEADER.size, flags)
        if not head:
            os._exit(0)
        head += read_exactly(lane, HEADER.size - len(head))
        kind, _, size, arg, id = HEADER.unpack(head)
        body = read_exactly(lane, size)
        if id == request.id:
            if kind == b'C':
                CURRENT.heard = True
            return kind, arg, body


def websocket_handshake(key=b'', origin=b'', protocol=b''):
    request = current()
    if request.started or 'HTTP_SEC_WEBSOCKET_KEY' not in environ():
        raise OSError('unable to complete websocket handshake: the request asks for none, or is answered already')
    if b'\0' in as_bytes(protocol):
        raise ValueError('a NUL in the protocol')
    head = b'Sec-WebSocket-Protocol\0' + as_bytes(protocol) + b'\0' if protocol else b''
    request.__class__ = SocketRequest
    request.started, request.skip, request.head = True, True, b''
    CURRENT.heard, CURRENT.parts = False, []
    request.lane.sendall(HEADER.pack(b'U', len(head), 0, 0, request.id) + head)


def websocket():
    request = current()
    if type(request) is not SocketRequest:
        raise OSError('the request is no websocket: call websocket_handshake first')
    return request


def websocket_recv(request_context=None, flags=0):
    """The next message. OSError when the client has gone."""
    request = websocket()
    while not CURRENT.heard:
        kind, arg, body = socket_frame(request, flags)
        if kind != b'M':
            continue
        CURRENT.parts.append(body)
        if not arg & 4:
            body, CURRENT.parts = b''.join(CURRENT.parts), []
            return body
    raise OSError('unable to receive websocket message: the client has closed it')


def websocket_recv_nb(request_context=None):
    """The next message, or b'' when none is there."""
    try:
        return websocket_recv(flags=_socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b''


def socket_sender(kind):
    def send(message, request_context=None):
        request, message = websocket(), as_bytes(message)
        if CURRENT.heard:
            raise OSError('unable to send websocket message: the client has closed it')
        for at in range(0, max(len(message), 1), 16384):
            piece = message[at:at + 16384]
            arg = kind | (4 if at + 16384 < len(message) else 0)
            request.lane.sendall(HEADER.pack(b'M', 0, len(piece), arg, request.id) + piece)
    return send


# ---- functions of other instances

RPC_TIME, RPC_SIZE = 30, 1 << 20  # for an answer, and of it


def remote_rpc(node, name, *args):
    """Call a function of another instance over the uwsgi protocol (modifier 173)."""
    words = [as_bytes(a) for a in (name,) + args]
    packet = b''.join(struct.pack('<H', len(w)) + w for w in words if len(w) < 65536)
    if len(packet) > 65535 or any(len(w) > 65535 for w in words):
        raise ValueError('the arguments of an rpc function have at most 65535 bytes')
    try:
        return call_remote(text_of(node), struct.pack('<BHB', 173, len(packet), 0) + packet)
    except (OSError, ValueError) as e:
        say('uwsgi.rpc: %s at %s: %s' % (text_of(name), text_of(node), e))
        return None


def call_remote(node, packet):
    end = time.monotonic() + RPC_TIME
    if node.startswith(('/', '@')) or ':' not in node:
        conn = _socket.socket(_socket.AF_UNIX)
        address = '\0' + node[1:] if node.startswith('@') else node
    else:
        import socket
        host, _, port = node.rpartition(':')
        conn, address = socket.create_connection((host.strip('[]') or '127.0.0.1', int(port)), RPC_TIME), None

    def read(size):
        data = b''
        while len(data) < size:
            conn.settimeout(max(0.001, end - time.monotonic()))
            more = conn.recv(min(size - len(data), 65536))
            if not more:
                if data:
                    raise ValueError('the answer is cut')
                return b''
            data += more
        return data

    try:
        conn.settimeout(RPC_TIME)
        if address:
            conn.connect(address)
        conn.sendall(packet)
        head = read(4)
        if not head:
            return None  # not there, failed, or nothing returned
        modifier1, size, modifier2 = struct.unpack('<BHB', head)
        if modifier1 != 173 or modifier2 not in (0, 5):
            raise ValueError('it answers with modifiers %d and %d' % (modifier1, modifier2))
        data = read(size)
        if modifier2 == 5:  # 64 KiB and more: the length is in a variable
            size = int((parse_pairs(data) or {})[b'CONTENT_LENGTH'])
            if not 0 <= size <= RPC_SIZE:
                raise ValueError('the result has %d bytes' % size)
            data = read(size)
        if len(data) < size:
            raise ValueError('the answer is cut')
        return data or None
    except KeyError:
        raise ValueError('the answer does not say how long it is')
    finally:
        conn.close()


# ---- the module

def fill(module):
    """Put into module what this program provides."""
    provided = {name: globals()[name] for name in '''
        cache_get cache_exists cache_set cache_update cache_del cache_clear cache_keys cache_num lock unlock is_locked
        register_signal signal_registered signal_wait add_timer add_ms_timer add_rb_timer add_cron add_file_monitor
        mule_msg mule_get_msg farm_msg farm_get_msg in_farm install_mule_msg_hook mule_id spool set_spooler_frequency
        spooler_jobs spooler_get_task i_am_the_spooler metric_get workers total_requests listen_queue mem sendfile
        websocket_handshake websocket_recv websocket_recv_nb queue_push queue_pop queue_pull queue_get queue_set queue_last
        set_user_harakiri offload chunked_read is_connected set_logvar get_logvar'''.split()}
    for name, kind, default in (('inc', b'+', 1), ('dec', b'-', 1), ('mul', b'*', 2), ('div', b'/', 2)):
        provided['cache_' + name] = cache_number(kind, default)
        provided['metric_' + name] = metric(kind, 1)
    provided.update(
        signal=raise_signal, signal_received=lambda: RECEIVED[0], send_to_spooler=spool, parsefile=spooler_get_task,
        metric_set=metric(b'='), metric_set_max=metric(b'>'), metric_set_min=metric(b'<'),
        websocket_send=socket_sender(1), websocket_send_binary=socket_sender(2), reload=reload_vassal, stop=stop_vassal, connection_fd=request_fd,
        queue_slot=queue_place(b's'), queue_pull_slot=queue_place(b'p'),
        request_id=lambda: REQUESTS[0], cl=lambda: int(environ().get('CONTENT_LENGTH') or 0),
        micros=lambda: int(time.time() * 1000000), alarm=lambda name, text: ask(97, as_bytes(name), as_bytes(text)) and None,
        ready=lambda: True, accepting=lambda on=True: None, suspend=lambda: None, logsize=lambda: 0,
        i_am_the_lord=lambda legion: False, lord_scroll=lambda legion: None, scrolls=lambda legion: None,  # there are no legions
        spooler_pids=lambda: side_pids(b's'), spooler_pid=lambda: (side_pids(b's') or [0])[0],
        set_warning_message=lambda text: say(text_of(text)) or True, mule_msg_recv_size=lambda: CONFIG['mule_msg_size'])
    for name in '''sharedarea_read sharedarea_write sharedarea_read8 sharedarea_write8 sharedarea_read16 sharedarea_write16
            sharedarea_read32 sharedarea_write32 sharedarea_read64 sharedarea_write64 sharedarea_inc8 sharedarea_inc16
            sharedarea_inc32 sharedarea_inc64 sharedarea_dec8 sharedarea_dec16 sharedarea_dec32 sharedarea_dec64
            sharedarea_readbyte sharedarea_writebyte sharedarea_readlong sharedarea_writelong sharedarea_inclong sharedarea_readfast
            sharedarea_rlock sharedarea_wlock sharedarea_unlock sharedarea_memoryview sharedarea_object sharedarea_update
            chunked_read_nb disconnect ready_fd close send recv connect
            async_sleep async_connect wait_fd_read wait_fd_write green_schedule
            log_this_request add_var route extract embedded_data
            snmp_set_community snmp_set_counter32 snmp_set_counter64 snmp_set_gauge snmp_incr_counter32 snmp_incr_counter64
            snmp_incr_gauge snmp_decr_counter32 snmp_decr_counter64 snmp_decr_gauge'''.split():
        provided.setdefault(name, later(name))
    for name, value in provided.items():
        module.__dict__.setdefault(name, value)
    LOADED.append(note_request)
    frame = sys._getframe()  # this may be in the middle of a request
    while frame is not None and frame.f_code is not serve.__code__:
        frame = frame.f_back
    if frame is not None:
        note_request(frame.f_locals['request'], frame.f_locals['env'])
