"""What the tests of jobs serve: expressions, and functions that note what they did."""
import multiprocessing
import os
import sys
import time

import uwsgi
from uwsgidecorators import cron, filemon, lock, mule, mulefunc, muleloop, mulemsg, postfork, rpc, signal, spool, spoolraw, timer

ROOT = os.environ['ROOT']


def role():
    if uwsgi.mule_id():
        return 'mule%d' % uwsgi.mule_id()
    return 'spooler' if uwsgi.i_am_the_spooler() else 'worker%d' % uwsgi.worker_id()


def note(text):
    with open(os.path.join(ROOT, 'notes'), 'a') as f:
        f.write(text + '\n')


def handler(n):
    note('signal %d in %s' % (n, role()))


for number, target in ((10, ''), (11, 'workers'), (12, 'mule1'), (13, 'mules'), (14, 'spooler'), (15, 'worker2'), (16, 'farm_f')):
    uwsgi.register_signal(number, target, handler)


def meet(name, count):
    """Wait for others that are at this at the same time; whether they came."""
    note('at ' + name)
    for _ in range(300):
        with open(os.path.join(ROOT, 'notes')) as f:
            if f.read().count('at %s\n' % name) >= count:
                return True
        time.sleep(.02)
    return False


uwsgi.register_signal(43, 'worker1', lambda n: sys.exit('of a signal'))
rounds = []
uwsgi.register_signal(42, 'workers', lambda n: rounds.append(n) or meet('end', 3 * len(rounds)) and note('slow ends'))
uwsgi.register_signal(41, 'workers', lambda n: splits('return'))


@timer(1, signum=20, target='mule1')
def tick(n):
    note('tick in ' + role())


@filemon(os.path.join(ROOT, 'watched'), signum=21, target='mule2')
def changed(n):
    note('changed in ' + role())


@cron(-1, -1, -1, -1, -1, signum=22)
def minutely(n):
    note('minutely')


@spool
def task(arguments):
    if 'slow' in arguments:
        note('begins %s' % os.getpid())
        time.sleep(float(arguments['slow']))
    note('task %s in %s' % (arguments['name'], role()))


@spoolraw
def twice(arguments):
    name = arguments['name']
    if not os.path.exists(os.path.join(ROOT, 'tried')):
        open(os.path.join(ROOT, 'tried'), 'w').close()
        note('retry ' + name)
        return uwsgi.SPOOL_RETRY
    note('done ' + name)
    return uwsgi.SPOOL_OK


@mulefunc
def work(name, seconds=0):
    note('begins work %s in %s' % (name, role()))
    time.sleep(seconds)
    note('work %s in %s' % (name, role()))


def splits(how):
    """Fork a child that comes back; only the process itself notes that it is here."""
    pid = os.fork()
    if pid == 0:
        if how == 'raise':
            raise ValueError('of a child')
        if how == 'exit':
            sys.exit(0)
        return uwsgi.SPOOL_OK
    os.waitpid(pid, 0)
    time.sleep(.1)
    note('%s by %d' % (how, os.getpid()))
    return uwsgi.SPOOL_OK


def shares():
    """Ask the core from a child while its parent does; whether each got its own answers."""
    for name in ('c', 'p'):
        uwsgi.cache_update(name, name * 9)
    pid = os.fork()
    mine = b'p' * 9 if pid else b'c' * 9
    right = all(uwsgi.cache_get('p' if pid else 'c') == mine for _ in range(500))
    if pid == 0:
        os._exit(not right)
    return right, os.waitpid(pid, 0)[1]


splitting = mulefunc(splits)


@spool
def split_task(arguments):
    return splits(arguments['how'])


def pools(where):
    """End children as multiprocessing does, by SIGTERM."""
    with multiprocessing.Pool(1) as p:
        note('pool in %s %s' % (where, p.map(len, ['a', 'bb'])))
    p = multiprocessing.Process(target=time.sleep, args=(60,))
    p.start()
    p.terminate()
    p.join()
    note('process in %s %s' % (where, p.exitcode))


pooling = mulefunc(pools)


@spool
def pool_task(arguments):
    pools('spooler')


@mulefunc
def leaves_child():
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    note('left %d' % pid)


@spool
def kinds(arguments):
    note('kinds %s' % sorted((k, type(v).__name__) for k, v in arguments.items() if k in ('body', 'a')))


@spool(pass_arguments=True)
def pickled(*args, **kwargs):
    note('pickled %r %r' % (args, kwargs))


@postfork(2)
def second():
    note('second in ' + role())


@mulemsg(6)
def heard(message):
    note('heard %r' % message)
    if message == b'bad':
        raise ValueError('of a message')


@mule(4)
def once():
    note('mule 4 runs')
    while not os.path.exists(os.path.join(ROOT, 'fail')):
        time.sleep(.02)
    os.unlink(os.path.join(ROOT, 'fail'))
    raise ValueError('of a mule')


@muleloop(5)
def again():
    note('mule 5 runs')
    while not os.path.exists(os.path.join(ROOT, 'fail5')):
        time.sleep(.02)
    os.unlink(os.path.join(ROOT, 'fail5'))
    raise ValueError('of a mule')


@rpc('join')
def join(*args):
    return b'-'.join(args)


@lock
def locked():
    return uwsgi.is_locked()


@postfork
def forked():
    note('forked ' + role())


def leave():
    note('exit of ' + role())


uwsgi.atexit = leave


def echo(environ):
    uwsgi.websocket_handshake()
    while True:
        message = uwsgi.websocket_recv()
        if message == b'quit':
            return []
        if message == b'poll':
            message = repr(uwsgi.websocket_recv_nb())
        uwsgi.websocket_send(message)


async def served(scope, receive, send):
    assert scope['type'] == 'http'
    value = repr(eval(scope['query_string'].decode().replace('%20', ' ')))
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    await send({'type': 'http.response.body', 'body': value.encode()})


def application(environ, start_response):
    if environ['PATH_INFO'] == '/echo':
        return echo(environ)
    try:
        value = repr(eval(environ['QUERY_STRING'].replace('%20', ' ')))
    except Exception as e:
        value = 'raise %s: %s' % (type(e).__name__, e)
    body = value.encode()
    start_response('200 OK', [('Content-Length', str(len(body)))])
    return [body]
