# A tenant's app that does whatever it is told: the body of a request is Python,
# and the answer is "ok" with what it printed, or why it could not.
import contextlib
import errno
import io


def attempt(code):
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            exec(code, {"__name__": "probe"})
        return "ok " + out.getvalue()
    except OSError as e:
        return "%s: %s" % (errno.errorcode.get(e.errno, "OSError"), e)
    except BaseException as e:
        return "%s: %s" % (type(e).__name__, e)


def application(environ, start_response):
    answer = attempt(environ["wsgi.input"].read().decode())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [answer.encode()]


if __name__ == "__main__":
    # The same attempts outside of any vassal, each in a process of its own:
    # those in DIRECTORY/*.code, whose answers go to *.result.
    import glob
    import os
    import sys

    for path in sorted(glob.glob(sys.argv[1] + "/*.code")):
        pid = os.fork()
        if pid == 0:
            try:
                answer = attempt(open(path).read())
                with open(path[: -len("code")] + "result", "w") as f:
                    f.write(answer)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
