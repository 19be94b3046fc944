"""A WSGI application: what a vassal sees of the machine it runs on."""

import html
import os
import socket


def application(environ, start_response):
    seen = [
        ("greeting", os.environ.get("GREETING", "Hello")),
        ("host name", socket.gethostname()),
        ("worker", "pid %d of this vassal's own, uid %d, gid %d" % (os.getpid(), os.getuid(), os.getgid())),
        ("processes it sees", ", ".join(sorted((p for p in os.listdir("/proc") if p.isdigit()), key=int))),
        ("request", "%s %s" % (environ["REQUEST_METHOD"], environ.get("REQUEST_URI", environ["PATH_INFO"]))),
    ]
    rows = "".join("<tr><th>%s<td>%s" % (html.escape(k), html.escape(v)) for k, v in seen)
    page = "<!doctype html><meta charset=utf-8><title>%s from Liege</title><h1>%s from Liege</h1><table>%s</table>\n"
    greeting = html.escape(seen[0][1])
    body = (page % (greeting, greeting, rows)).encode("utf-8")
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
