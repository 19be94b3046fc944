import re

NAMES = ('REQUEST_METHOD', 'REQUEST_URI', 'SCRIPT_NAME', 'PATH_INFO', 'QUERY_STRING', 'REMOTE_USER', 'AT', 'SKIPPED', 'SAW', 'A', 'B', 'N', 'H', 'M', 'V', 'C1', 'C2', 'C3',
         'C4', 'C5', 'C6', 'C7', 'C8', 'C9', 'CA', 'U', 'Q', 'HOST1', 'LAST', 'CN', 'CI', 'CB', 'MET')


def application(environ, start_response):
    if 'CN' in environ:  # uWSGI's is always 8 bytes, with what lies behind the number
        environ['CN'] = re.match('-?[0-9]*', environ['CN']).group()
    text = ' '.join('%s=%s' % (n, environ[n]) for n in NAMES if n in environ)
    headers = [('Content-Type', 'text/plain'), ('X-App', 'app'), ('Content-Length', str(len(text)))]
    if environ['PATH_INFO'] == '/color':
        headers.append(('x-color', 'red'))
    start_response('200 OK', headers)
    return [text.encode('latin-1')]
