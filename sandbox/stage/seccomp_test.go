package stage_test

import (
	"errors"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/sandbox/seccomp"
	"liege/sandbox/stage"
)

// Real interpreters work under the filter: threads, children, sockets, files.
func TestInterpreters(t *testing.T) {
	testenv.Leaks(t)
	for _, c := range []struct {
		program, script string
		need            testenv.Feature // none: each system has it
	}{
		{"/bin/sh", "-c;x=$(echo ok | cat); echo $x", ""},
		{"/usr/bin/python3", `-c;
import threading, subprocess, socket, tempfile, multiprocessing
t = threading.Thread(target=lambda: None); t.start(); t.join()
a, b = socket.socketpair(); a.send(b'x'); b.recv(1)
l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen()
c = socket.create_connection(l.getsockname()); l.accept()
tempfile.TemporaryFile(dir='/dev/shm').write(b'x')
p = multiprocessing.get_context('fork').Process(target=lambda: None); p.start(); p.join(); assert p.exitcode == 0
print(subprocess.check_output(['echo', 'ok']).decode(), end='')`, testenv.Python3},
		{"/usr/bin/perl", `-e;my $x = ` + "`echo ok`" + `; if (my $p = fork) { waitpid $p, 0 } else { exit 0 } print $x`, testenv.Perl},
		{"/usr/bin/node", `-e;const c = require('child_process'); require('fs').readdirSync('/'); setTimeout(() => process.stdout.write(c.execSync('echo ok').toString()), 1)`, testenv.Node},
		{"/usr/bin/ruby", `-e;Thread.new { 1 }.join; puts ` + "`echo ok`", testenv.Ruby},
	} {
		t.Run(c.program, func(t *testing.T) {
			if c.need != "" {
				testenv.Need(t, c.need)
			}
			flag, script, _ := strings.Cut(c.script, ";")
			for _, strict := range []bool{false, true} {
				p := newPlan(t, "")
				p.Seccomp = must(seccomp.Compile(seccomp.Profile{Strict: strict}))
				p.Landlock = &stage.Landlock{}
				p.Exec, p.Args = c.program, []string{c.program, flag, script}
				if r := start(t, p, launch{}); r.failure != nil || r.err != nil || r.out != "ok\n" {
					t.Errorf("strict %v: %v, %v, %q", strict, r.failure, r.err, r.out)
				}
			}
		})
	}
}

// What is refused is refused by the real kernel too, with the errno that the
// C library expects.
func TestRefusedCalls(t *testing.T) {
	testenv.Need(t, testenv.Python3)
	testenv.Leaks(t)
	const script = `
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    ctypes.set_errno(0)
    r = libc.syscall(*args)
    print(name, 'ok' if r >= 0 else os.strerror(ctypes.get_errno()))
call('unshare user', 272, 0x10000000)
call('clone user', 56, 0x10000000 | 17, 0, 0, 0, 0)
call('clone3', 435, 0, 0)
call('new', 999)
call('mount', 165, 0, 0, 0, 0, 0)
call('io_uring_setup', 425, 1, 0)
call('getpid', 39)
`
	p := newPlan(t, "")
	p.Exec, p.Args = testenv.SystemPython, []string{"python3", "-u", "-c", script}
	r := start(t, p, launch{})
	if r.failure != nil || r.err != nil {
		t.Fatalf("%v, %v\n%s", r.failure, r.err, r.out)
	}
	diff(t, `unshare user Operation not permitted
clone user Operation not permitted
clone3 Function not implemented
new Function not implemented
mount Operation not permitted
io_uring_setup Operation not permitted
getpid ok
`, r.out)

	// The x32 twin of getpid is not EPERM: the process is gone. A stage without
	// the filter shows that the test can tell.
	p = newPlan(t, "")
	p.Exec, p.Args = testenv.SystemPython, []string{"python3", "-c", "import ctypes; ctypes.CDLL(None).syscall(0x40000000 | 39); print('lives')"}
	r = start(t, p, launch{noPIDNS: true})
	exit, ok := errors.AsType[*exec.ExitError](r.err)
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGSYS {
		t.Errorf("x32 call: %v, %q", r.err, r.out)
	}
	r = start(t, p, launch{noPIDNS: true, without: "seccomp"})
	if r.err != nil || r.out != "lives\n" {
		t.Errorf("x32 call without filter: %v, %q", r.err, r.out)
	}
}
