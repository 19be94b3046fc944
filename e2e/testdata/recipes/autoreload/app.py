import helper


def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    if environ['PATH_INFO'] == '/late':
        import late
        return [late.WORD.encode()]
    return [helper.WORD.encode()]
