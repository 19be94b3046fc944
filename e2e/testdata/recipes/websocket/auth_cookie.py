# The same with an answer that depends on who asks.

def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'It Works! ' + environ['REQUEST_URI'].encode()]

def auth_kafka(request_uri, http_cookie, http_authorization):
    return b'true' if http_cookie == b'session=good' and request_uri.startswith(b'/ws') else ''

import uwsgi
uwsgi.register_rpc('auth_kafka', auth_kafka)
