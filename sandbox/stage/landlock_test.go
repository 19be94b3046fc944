package stage_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testenv"
	"liege/sandbox/stage"
	"liege/vassal"
)

// fenced tries what Landlock keeps from a vassal. A root process of a hook's
// makes a mount writable meanwhile, which stands for whoever gets round its
// flags.
const fenced = `
import os, signal, socket, sys, time
abstract, port, pid = sys.argv[1:4]
def attempt(name, do):
    try:
        do()
        print(name, 'ok')
    except OSError as e:
        print(name, os.strerror(e.errno))
def connect(family, address):
    s = socket.socket(family)
    s.settimeout(30)
    s.connect(address)
open('/dev/shm/%s/go' % abstract, 'w').close()
end = time.time() + 60
while not any(' /mnt rw' in l for l in open('/proc/self/mountinfo')) and time.time() < end:
    time.sleep(0.01)
attempt('write', lambda: open('/mnt/x', 'w').write('x'))
attempt('read', lambda: open('/mnt/there').read())
attempt('own', lambda: open('/dev/shm/%s/own' % abstract, 'w').write('x'))
attempt('rename', lambda: (os.mkdir('/dev/shm/%s/a' % abstract), os.rename('/dev/shm/%s/own' % abstract, '/dev/shm/%s/a/own' % abstract)))
attempt('null', lambda: open('/dev/null', 'w').write('x'))
attempt('full', lambda: open('/dev/full', 'w').close())
attempt('comm', lambda: open('/proc/self/comm', 'w').write('x'))
attempt('fifo', lambda: os.mkfifo('/dev/shm/%s/fifo' % abstract))
attempt('run', lambda: os.spawnv(os.P_WAIT, '/bin/true', ['true']))
attempt('abstract', lambda: connect(socket.AF_UNIX, '\0' + abstract))
attempt('tcp', lambda: connect(socket.AF_INET, ('127.0.0.1', int(port))))
attempt('signal', lambda: os.kill(int(pid), 0))
`

func TestLandlock(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Landlock, testenv.Python3)
	testenv.Leaks(t)
	name := fmt.Sprintf("liege-landlock-%d", os.Getpid())
	abstract, err := net.Listen("unix", "@"+name)
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	other := exec.Command("sleep", "1000")
	other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	_, port, _ := net.SplitHostPort(tcp.Addr().String())
	var number int
	if _, err := fmt.Sscan(port, &number); err != nil {
		t.Fatal(err)
	}
	const inside = "own ok\nrename ok\nnull ok\nfull ok\ncomm ok\nfifo ok\nrun ok\n"
	for _, tc := range []struct {
		name string
		land *stage.Landlock
		want string
	}{
		{"none: the negative control", nil, "write ok\nread ok\n" + inside + "abstract ok\ntcp ok\nsignal ok\n"},
		{"files and scopes", &stage.Landlock{}, "write Permission denied\nread ok\n" + inside + "abstract Operation not permitted\ntcp ok\nsignal Operation not permitted\n"},
		{"no TCP", &stage.Landlock{NoTCP: true}, "write Permission denied\nread ok\n" + inside + "abstract Operation not permitted\ntcp Permission denied\nsignal Operation not permitted\n"},
		{"one port", &stage.Landlock{NoTCP: true, Ports: []uint16{uint16(number)}}, "write Permission denied\nread ok\n" + inside + "abstract Operation not permitted\ntcp ok\nsignal Operation not permitted\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPlan(t, "")
			p.Landlock, p.KeepDaemons = tc.land, true
			p.Exec, p.Args = testenv.SystemPython, []string{"python3", "-u", "-c", fenced, name, port, fmt.Sprint(other.Process.Pid)}
			p.Hooks = []vassal.Hook{
				hook(vassal.AsRoot, 2, "exec", "mount -o bind / / && mount -o remount,bind,ro / && mount -t tmpfs none /dev/shm && mkdir -m 777 /dev/shm/"+name),
				hook(vassal.AsRoot, 3, "exec", "mount -t tmpfs -o mode=777 none /mnt && echo x >/mnt/there && mount -o remount,bind,ro /mnt"),
				hook(vassal.AsRoot, 4, "exec", "(while [ ! -e /dev/shm/"+name+"/go ]; do sleep 0.02; done; mount -o remount,bind,rw /mnt) </dev/null >/dev/null 2>&1 &"),
			}
			r := start(t, p, launch{noPIDNS: true})
			if r.failure != nil || r.err != nil {
				t.Fatalf("%v, %v, %q", r.failure, r.err, r.out)
			}
			if d := cmp.Diff(tc.want, r.out); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// What the operator lets a vassal keep is kept over every exec, and nothing
// else: the port below 1024 is the use of it.
func TestKeptCapability(t *testing.T) {
	testenv.Need(t, testenv.Python3)
	testenv.Leaks(t)
	const script = `
import socket
for l in open('/proc/self/status'):
    if l.startswith('Cap'): print(l.split()[1])
try:
    socket.socket().bind(('127.0.0.1', 999))
    print('bound')
except OSError as e:
    print(e.strerror)
`
	const bind, none = "0000000000000400", "0000000000000000"
	for _, tc := range []struct {
		caps []int
		want string
	}{
		{[]int{10}, strings.Repeat(bind+"\n", 5) + "bound\n"},
		{nil, strings.Repeat(none+"\n", 5) + "Permission denied\n"},
	} {
		p := newPlan(t, "")
		p.Caps = tc.caps
		p.Exec, p.Args = testenv.SystemPython, []string{"python3", "-u", "-c", script}
		p.Hooks = []vassal.Hook{hook(vassal.AsUser, 2, "exec", "true")}
		if r := start(t, p, launch{}); r.failure != nil || r.err != nil || r.out != tc.want {
			t.Errorf("%v: %v, %v, got %q, want %q", tc.caps, r.failure, r.err, r.out, tc.want)
		}
	}
}
