"""What the tests of jobs serve: expressions, and functions that note what they did."""
import os
import sys
import time

import uwsgi
from uwsgidecorators import cron, filemon, lock, mulefunc, postfork, rpc, signal, spool, spoolraw, timer

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
