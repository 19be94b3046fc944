from pprint import pprint

def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return ['It Works!']

def auth_kafka(request_uri, http_cookie, http_authorization):
    return 'true'

import uwsgi
uwsgi.register_rpc('auth_kafka', auth_kafka)
