// Package shims holds the small programs that run inside the interpreters of
// the applications' languages: they load the application, fork the workers and
// speak the protocol of package worker. They need nothing but the language's
// standard library, and reach the interpreter over a socket, never through a
// file.
package shims

import _ "embed"

// PythonSource is the program of Python workers, for every Python from 3.6 on.
//
//go:embed python.py
var PythonSource string

// PythonUwsgiSource is the part of it that is the uwsgi module, for
// applications that use more of it than a few numbers.
//
//go:embed python_uwsgi.py
var PythonUwsgiSource string

// PythonDecoratorsSource is the module uwsgidecorators.
//
//go:embed uwsgidecorators.py
var PythonDecoratorsSource string

// ASGISource is the part of it that only asynchronous applications need.
//
//go:embed asgi.py
var ASGISource string

// GreenSource is the part of it that only gevent needs.
//
//go:embed green.py
var GreenSource string

// PythonBoot is what the interpreter is told on its command line: wait for the
// program, as Pack makes it, on file descriptor 3 and run it. The wait is what lets the
// core set limits before anything of the application runs. Where the program
// has to be compiled a child does it, because what the compiler needs is never
// given back: 2.4 MB in each process (measured, 3.11). The blanks at the end
// are room for the process title, which is written over the command line.
const PythonBoot = `import _socket as s,marshal as m,os,sys
if sys.hexversion<0x3060000:sys.exit("Python 3.6 or later is needed; this is "+sys.version.split()[0])
import _frozen_importlib_external as b
c=s.socket(s.AF_UNIX,s.SOCK_SEQPACKET,0,3)
t=c.recv(1<<18)
n=8+int.from_bytes(t[4:8],"big")
if t[:4]==b.MAGIC_NUMBER:t=t[8:n]
else:
 r,w=os.pipe()
 p=os.fork()
 if p==0:
  os.write(w,m.dumps(compile(t[n:],"<liege>","exec")));os._exit(0)
 os.close(w)
 t=b"".join(iter(lambda:os.read(r,65536),b""))
 os.close(r);os.waitpid(p,0)
t=m.loads(t)
exec(t)                                                                                    `

// Ruby is the program of Ruby workers, for every Ruby from 1.9.3 on.
//
//go:embed ruby.rb
var Ruby string

// Perl is the program of Perl workers, for every Perl from 5.10.1 on.
//
//go:embed perl.pl
var Perl string

// PerlBoot is what a Perl interpreter is told on its command line, as
// PythonBoot. The socket carries bytes, also where PERL_UNICODE or PERL5OPT makes
// every file a text: Perl ends at a recv on such a one (since 5.30).
const PerlBoot = `open$Liege::c,"+<&=3";binmode$Liege::c;recv$Liege::c,my$t,1<<18,0;eval qq{#line 1 "<liege>"\n$t};die$@if$@`

// RubyBoot is what a Ruby interpreter is told on its command line, as
// PythonBoot.
const RubyBoot = `require "socket";c=Socket.for_fd(3);eval(c.recv(1<<18).force_encoding("UTF-8"),binding,"<liege>")`
