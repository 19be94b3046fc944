import os


def application(environ, start_response):
    path = environ['PATH_INFO']
    headers = [('Content-Type', 'text/x-app'), ('Set-Cookie', 'app=1')]
    if path.startswith('/get/'):
        headers.append(('X-Sendfile', 'DIR/private/' + path[5:]))
    elif path == '/away':
        headers.append(('X-Sendfile', '/etc/passwd'))
    elif path == '/up':
        headers.append(('X-Sendfile', 'DIR/private/../site/app.py'))
    start_response('200 OK', headers)
    return [b'the app, pid %d' % os.getpid()]
