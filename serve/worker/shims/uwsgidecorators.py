"""uWSGI's decorators, provided by Liege where the application has none of its own."""

import functools
import pickle
import sys
import threading
import traceback

import uwsgi

spooler_functions = {}
mule_functions = {}
postfork_chain = []


def get_free_signal():
    for number in range(256):
        if not uwsgi.signal_registered(number):
            return number
    raise Exception('No free uwsgi signal available')


def manage_spool_request(task):
    # A task that @spool has written has names that are bytes; the function gets text.
    function = spooler_functions[_text(task[b'ud_spool_func'])]
    raw = getattr(function, '_liege_raw', False)
    arguments = {_text(k): _text(v) for k, v in task.items()} if not raw else dict(task)
    if b'args' in task and b'kwargs' in task and getattr(function, '_liege_pickled', False):
        result = function(*pickle.loads(task[b'args']), **pickle.loads(task[b'kwargs']))
    else:
        result = function(arguments)
    if b'ud_spool_ret' in task:
        return int(task[b'ud_spool_ret'])
    return result


def _text(data):
    try:
        return data.decode() if isinstance(data, bytes) else data
    except UnicodeDecodeError:
        return data


def _bytes(value):
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else str(value).encode()


def postfork_chain_hook():
    for function in postfork_chain:
        function()


uwsgi.spooler = manage_spool_request
uwsgi.post_fork_hook = postfork_chain_hook


def postfork(f=None, **_):
    """The function runs in each process after the fork; with a number in that worker alone."""
    if f is None:
        return postfork
    if callable(f):
        postfork_chain.append(f)
        return f

    def decorate(function):
        postfork_chain.append(lambda: function() if uwsgi.worker_id() == f else None)
        return function
    return decorate


class _Spool(object):
    """Calling it writes a task; f is the function, which runs in the spooler."""

    result = None  # what the function returns counts

    def __init__(self, f=None, pass_arguments=False):
        if 'spooler' not in uwsgi.opt:
            raise Exception('you have to enable the uWSGI spooler to use the @%s decorator' % type(self).__name__)
        self.pass_arguments = pass_arguments
        self.f = None
        if callable(f):
            self.take(f)

    def take(self, f):
        functools.update_wrapper(self, f)
        self.f = f
        f._liege_pickled = self.pass_arguments
        spooler_functions[f.__name__] = f

    def __call__(self, *args, **kwargs):
        if self.f is None:
            self.take(args[0])
            return self
        return self.spool(*args, **kwargs)

    def spool(self, *args, **kwargs):  # its name before uWSGI 1.9.13
        task = {b'ud_spool_func': self.f.__name__.encode()}
        if self.result is not None:
            task[b'ud_spool_ret'] = str(self.result).encode()
        if self.pass_arguments:
            for name in ('spooler', 'priority', 'at', 'body'):
                if name in kwargs:
                    task[name.encode()] = _bytes(kwargs.pop(name))
            task[b'args'], task[b'kwargs'] = pickle.dumps(args), pickle.dumps(kwargs)
            return uwsgi.spool(task)
        for arguments in args[:1] + (kwargs,):
            task.update((_bytes(k), _bytes(v)) for k, v in arguments.items())
        return uwsgi.spool(task)


class spool(_Spool):
    result = uwsgi.SPOOL_OK


class spoolforever(_Spool):
    result = uwsgi.SPOOL_RETRY


class spoolraw(_Spool):
    pass


class mulefunc(object):
    """The function runs in a mule: any, or the one with the number given."""

    def __init__(self, f):
        self.mule = 0
        self.name = None
        if callable(f):
            self.take(f)
        else:
            self.mule = f

    def take(self, f):
        functools.update_wrapper(self, f)
        self.name = f.__name__
        mule_functions[self.name] = f

    def __call__(self, *args, **kwargs):
        if self.name is None:
            self.take(args[0])
            return self
        return uwsgi.mule_msg(pickle.dumps(
            {'service': 'uwsgi_mulefunc', 'func': self.name, 'args': args, 'kwargs': kwargs}), self.mule)


def mule_msg_dispatcher(message):
    # Whoever may send to a mule runs this application's code already.
    message = pickle.loads(message)
    if message['service'] == 'uwsgi_mulefunc':
        return mule_functions[message['func']](*message['args'], **message['kwargs'])


uwsgi.mule_msg_hook = mule_msg_dispatcher


def rpc(name):
    def decorate(f):
        uwsgi.register_rpc(name, f)
        return f
    return decorate


def _handle(f, message):
    """Call the function of messages: one that it raises at does not keep the next from it."""
    try:
        uwsgi._guarded(f, message)
    except Exception:
        traceback.print_exc()


class farm_loop(object):
    def __init__(self, f, farm):
        self.f, self.farm = f, farm

    def __call__(self):
        if uwsgi.mule_id() == 0 or not uwsgi.in_farm(self.farm):
            return
        while True:
            message = uwsgi.farm_get_msg()
            if message:
                _handle(self.f, message)


class farm(object):
    def __init__(self, name=None, **_):
        self.name = name

    def __call__(self, f):
        postfork_chain.append(farm_loop(f, self.name))
        return f


class mule_brain(object):
    def __init__(self, f, num):
        self.f, self.num = f, num

    def __call__(self):
        if uwsgi.mule_id() != self.num:
            return
        try:
            self.run()
        except Exception:
            traceback.print_exc()
            sys.exit(1)  # another mule takes it up

    def run(self):
        self.f()


class mule_brainloop(mule_brain):
    def run(self):
        while True:
            uwsgi._guarded(self.f)


class mule(object):
    """The function is what the mule with that number does."""

    def __init__(self, num):
        self.num = num

    def __call__(self, f):
        postfork_chain.append(mule_brain(f, self.num))
        return f


class muleloop(mule):
    def __call__(self, f):
        postfork_chain.append(mule_brainloop(f, self.num))
        return f


class mulemsg_loop(object):
    def __init__(self, f, num):
        self.f, self.num = f, num

    def __call__(self):
        if uwsgi.mule_id() == self.num:
            while True:
                message = uwsgi.mule_get_msg()
                if message:
                    _handle(self.f, message)


class mulemsg(object):
    def __init__(self, num):
        self.num = num

    def __call__(self, f):
        postfork_chain.append(mulemsg_loop(f, self.num))
        return f


mule_msg_loop = mulemsg


class signal(object):
    def __init__(self, num, **kwargs):
        self.num, self.target = num, kwargs.get('target', '')

    def __call__(self, f):
        uwsgi.register_signal(self.num, self.target, f)
        return f


class _Raised(object):
    """A function that is run by a signal which something raises."""

    def __init__(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs
        self.num = kwargs['signum'] if 'signum' in kwargs else None
        self.target = kwargs.get('target', '')

    def __call__(self, f):
        if self.num is None:
            self.num = get_free_signal()
        uwsgi.register_signal(self.num, self.target, f)
        self.add()
        return f


class timer(_Raised):
    def add(self):
        uwsgi.add_timer(self.num, *self.args)


class mstimer(_Raised):
    def add(self):
        uwsgi.add_ms_timer(self.num, *self.args)


class rbtimer(_Raised):
    def add(self):
        uwsgi.add_rb_timer(self.num, *self.args)


class cron(_Raised):
    def add(self):
        uwsgi.add_cron(self.num, *self.args)


class filemon(_Raised):
    def add(self):
        uwsgi.add_file_monitor(self.num, *self.args)


def lock(f):
    @functools.wraps(f)
    def locked(*args, **kwargs):
        if uwsgi.i_am_the_spooler():  # as uWSGI: the spooler never waits for it
            return None
        uwsgi.lock()
        try:
            return f(*args, **kwargs)
        finally:
            uwsgi.unlock()
    return locked


def thread(f):
    @functools.wraps(f)
    def start(*args, **kwargs):
        t = threading.Thread(target=f, args=args, kwargs=kwargs)
        t.daemon = True
        t.start()
        return f
    return start


class harakiri(object):
    def __init__(self, seconds):
        self.seconds = seconds

    def __call__(self, f):
        @functools.wraps(f)
        def bounded(*args, **kwargs):
            uwsgi.set_user_harakiri(self.seconds)
            try:
                return f(*args, **kwargs)
            finally:
                uwsgi.set_user_harakiri(0)
        return bounded
