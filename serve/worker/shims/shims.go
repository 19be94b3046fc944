// Package shims holds the small programs that run inside the interpreters of
// the applications' languages: they load the application, fork the workers and
// speak the protocol of package worker. They need nothing but the language's
// standard library, and reach the interpreter over a socket, never through a
// file.
package shims

import _ "embed"

// Python is the program of Python workers, for every Python from 3.6 on.
//
//go:embed python.py
var Python string

// PythonBoot is what the interpreter is told on its command line: wait for the
// program on file descriptor 3 and run it. The wait is what lets the core set
// limits before anything of the application runs. The blanks at its end are
// room for the process title, which is written over the command line.
const PythonBoot = `import _socket as s;c=s.socket(s.AF_UNIX,s.SOCK_SEQPACKET,0,3);` +
	`exec(compile(c.recv(1<<18),"<liege>","exec"))` + "                                " +
	"                                                                                 "
