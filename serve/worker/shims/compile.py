"""Compiles the programs of Python workers for the Python that runs it.

    PYTHONHASHSEED=0 python3 compile.py DIRECTORY

See packed.go for the files. The seed makes the same code each time, and a file
that is right already is left alone: another build may be reading it.
"""
import hashlib
import importlib.util
import marshal
import os
import sys

NAMES = {'uwsgidecorators.py': '<uwsgidecorators>'}


def main(here, out):
    for name in ('python.py', 'python_uwsgi.py', 'uwsgidecorators.py', 'asgi.py', 'green.py'):
        with open(os.path.join(here, name), 'rb') as f:
            text = f.read()
        code = marshal.dumps(compile(text, NAMES.get(name, '<liege>'), 'exec'))
        keep(os.path.join(out, name[:-3] + '.code'), hashlib.sha256(text).digest() + importlib.util.MAGIC_NUMBER + code)


def keep(path, data):
    try:
        with open(path, 'rb') as f:
            if f.read() == data:
                return
    except FileNotFoundError:
        pass
    with open(path + '.new', 'wb') as f:
        f.write(data)
    os.replace(path + '.new', path)


main(os.path.dirname(os.path.abspath(__file__)), sys.argv[1])
