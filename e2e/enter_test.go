package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"liege/internal/testenv"
)

// enter is liege enter with args, not started yet.
func (r *realm) enter(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(r.bin, "liege"), append([]string{"enter"}, args...)...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "TERM=xterm", "LIEGE_RUN_DIR=" + r.run}
	return cmd
}

// says runs liege enter and returns what it wrote and its exit code.
func (r *realm) says(in string, args ...string) (string, int) {
	r.t.Helper()
	cmd := r.enter(args...)
	cmd.Stdin = strings.NewReader(in)
	out, _ := cmd.CombinedOutput() // the code says it
	return string(out), cmd.ProcessState.ExitCode()
}

// living counts the tenant's processes that are no zombies.
func living(t *testing.T) (n int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(b), fmt.Sprintf("\nUid:\t%d\t", tenant)) && !strings.Contains(string(b), "\nState:\tZ") {
			n++
		}
	}
	return n
}

// posture is what of a /proc/PID/status says what a process may.
func posture(status string) string {
	var out []string
	for line := range strings.Lines(status) {
		for _, field := range []string{"Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:", "Seccomp", "Umask:"} {
			if strings.HasPrefix(line, field) {
				out = append(out, line)
			}
		}
	}
	return strings.Join(out, "")
}

func TestEnter(t *testing.T) {
	r := newRealm(t)
	r.write("app/status.py", `def application(environ, start):
    start('200 OK', [('Content-Type', 'text/plain')])
    return [open('/proc/self/status', 'rb').read()]
`)
	lines := fmt.Sprintf("uid = %d\ngid = %d\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/status.py\nenv = COLOUR=green\n", tenant, tenant)
	r.drop("shop", lines)
	addr := tcpOf(r.up("shop"))
	before := living(t)

	_, worker := r.get(addr, "/")
	inside, code := r.says("", "shop", "--", "cat", "/proc/self/status")
	if got, want := posture(inside), posture(worker); got != want || code != 0 || strings.Count(got, "\n") < 10 {
		t.Errorf("a command is not what a worker is (%d):\n%s\nthe worker:\n%s", code, got, want)
	}
	for _, tt := range []struct {
		in   string
		args []string
		want string
		code int
	}{
		{"", []string{"shop", "--", "sh", "-c", "echo $COLOUR $PWD; exit 7"}, "green " + r.dir + "/app\n", 7},
		{"through a pipe", []string{"shop", "cat"}, "through a pipe", 0},
		{"", []string{"shop", "sh", "-c", "kill -9 $$"}, "", 137},
		{"", []string{"shop", "test", "-e", "/etc/shadow"}, "", 1},
		{"", []string{"shop", "sh", "-c", "for n in 3 4 5 6 7; do test ! -e /proc/self/fd/$n || exit 1; done"}, "", 0},
		{"", []string{"shop", "sh", "-c", "(setsid sleep 1000 >/dev/null 2>&1 &); echo left"}, "left\n", 0},
		{"echo typed", []string{"shop.ini"}, "typed\n", 0},
	} {
		if out, code := r.says(tt.in, tt.args...); code != tt.code || !strings.HasPrefix(out, tt.want) {
			t.Errorf("enter %q: %d %q, want %d %q", tt.args, code, out, tt.code, tt.want)
		}
	}
	r.until("no process is left", func() bool { return living(t) <= before })
	if out, code := r.says("", "shop", "nosuch"); code != 127 || !strings.Contains(out, "not found") {
		t.Errorf("no such program: %d %q", code, out)
	}
	if out, code := r.says("", "nobody", "true"); code != 66 {
		t.Errorf("no such vassal: %d %q", code, out)
	}

	cmd := r.enter("shop", "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.until("the command runs", func() bool { return living(t) > before })
	if code, _ := r.get(addr, "/"); code != 200 {
		t.Errorf("beside it the vassal answers %d", code)
	}
	cmd.Process.Kill()
	cmd.Wait()
	r.until("nothing is left of it", func() bool { return living(t) == before })

	stranger := r.enter("shop", "true")
	stranger.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: tenant, Gid: tenant, Groups: []uint32{}}}
	if out, _ := stranger.CombinedOutput(); stranger.ProcessState.ExitCode() != 77 {
		t.Errorf("a tenant enters: %d %s", stranger.ProcessState.ExitCode(), out)
	}
	r.liege("suspend", "shop", "--timeout", patience)
	if out, code := r.says("", "shop", "true"); code != 1 || !strings.Contains(out, "is suspended") {
		t.Errorf("suspended: %d %q", code, out)
	}
	r.liege("resume", "shop", "--timeout", patience)

	r.drowsy("lazy", "http = 127.0.0.1:0\n")
	r.sleeps("lazy")
	if out, code := r.says("", "lazy", "echo", "awake"); code != 0 || out != "awake\n" {
		t.Errorf("asleep: %d %q", code, out)
	}
}

// TestEnterRoot: root of the sandbox has what docs/enter.md says, nothing of the
// file's environment, and no way out that the vassal's user has not.
func TestEnterRoot(t *testing.T) {
	r := newRealm(t)
	r.write("app/hello.py", hello("served"))
	app := "http = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\nenv = COLOUR=green\n"
	r.drop("shop", fmt.Sprintf("uid = %d\ngid = %d\n", tenant, tenant)+app)
	r.up("shop")
	status, code := r.says("", "--root", "shop", "cat", "/proc/self/status")
	want := strings.Join([]string{"Umask:\t0022", "Uid:\t0\t0\t0\t0", "Gid:\t0\t0\t0\t0", "Groups:\t ",
		"CapInh:\t00000000000000eb", "CapPrm:\t00000000000000eb", "CapEff:\t00000000000000eb", "CapBnd:\t00000000000000eb", "CapAmb:\t00000000000000eb",
		"NoNewPrivs:\t1", "Seccomp:\t2", "Seccomp_filters:\t1", ""}, "\n")
	if got := posture(status); got != want || code != 0 {
		t.Errorf("root inside (%d) is\n%swant\n%s", code, got, want)
	}
	for _, tt := range []struct {
		script string
		works  bool
	}{
		{`touch /tmp/x && chown ` + fmt.Sprint(tenant) + ` /tmp/x && test "$(stat -c %u /tmp/x)" = ` + fmt.Sprint(tenant), true},
		{"kill -0 1", true}, // the core
		{"cat /proc/1/environ", false},
		{`test -z "$COLOUR" && test "$PWD" = / && test "$HOME" = /root`, true},
		{"test -n \"$LIEGE_VASSAL\"", true},
		{"mount -t tmpfs none /tmp", false},
		{"echo x > /usr/x", false},
		{"echo 1 > /proc/sys/kernel/core_pattern", false},
		{"mknod /tmp/disk b 8 0", false},
		{"ip link set lo down 2>/dev/null || python3 -c 'import socket; socket.sethostname(\"x\")'", false},
		{"unshare -m true", false},
	} {
		if out, code := r.says("", "--root", "shop", "--", "sh", "-c", tt.script); (code == 0) != tt.works {
			t.Errorf("%s: exit %d %q, want success %v", tt.script, code, out, tt.works)
		}
		// The negative control: what it may is more than what the user may.
		if _, code := r.says("", "shop", "--", "sh", "-c", tt.script); code == 0 && !tt.works {
			t.Errorf("%s: the user may", tt.script)
		}
	}
	if _, code := r.says("", "shop", "--", "sh", "-c", "touch /tmp/y && chown 0 /tmp/y"); code == 0 {
		t.Error("the user gives a file away: what root may proves nothing")
	}
	stranger := r.enter("--root", "shop", "true")
	stranger.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: tenant, Gid: tenant, Groups: []uint32{}}}
	if out, _ := stranger.CombinedOutput(); stranger.ProcessState.ExitCode() != 77 {
		t.Errorf("a tenant enters: %d %s", stranger.ProcessState.ExitCode(), out)
	}
}

// leaver tries, in a directory, all that makes of a file a program that is its
// owner's for whoever starts it, and some of what looks like it and is harmless.
const leaver = `import ctypes, errno, os, stat, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
def raw(*args):
    if libc.syscall(*args) < 0:
        raise OSError(ctypes.get_errno(), "")
def tool(*args):
    p = subprocess.run(args, stderr=subprocess.PIPE, text=True)
    if p.returncode:
        raise OSError(errno.EPERM if "not permitted" in p.stderr else errno.EIO, p.stderr)
def attempt(name, do, *args, **more):
    try:
        do(*args, **more)
        print(name + ": ok")
    except OSError as e:
        print(name + ": " + errno.errorcode[e.errno])
os.chdir(sys.argv[1])
os.umask(0)
new, here = os.O_CREAT | os.O_WRONLY, os.open(".", os.O_RDONLY)
file = os.open("plain", new, 0o644)
attempt("chmod 755", os.chmod, "plain", 0o755)
attempt("chmod(1) 755", tool, "chmod", "755", "plain")
attempt("fchmod 1755", os.fchmod, file, 0o1755)
attempt("mkdir 1777", os.mkdir, "shared", 0o1777)
attempt("install(1) 755", tool, "install", "-m", "755", "plain", "installed")
print("--")
attempt("chmod(1) u+s", tool, "chmod", "u+s", "plain")
attempt("install(1) 4755", tool, "install", "-m", "4755", "plain", "copy")
attempt("chmod 2755", os.chmod, "plain", 0o2755)
attempt("chmod of a directory", os.chmod, "shared", 0o2755)
attempt("fchmod", os.fchmod, file, 0o6755)
attempt("fchmodat", os.chmod, "plain", 0o4755, dir_fd=here)
attempt("fchmodat2", raw, 452, here, b"plain", 0o4755, 0)
attempt("openat", os.open, "opened", new, 0o4755)
attempt("mkdir", os.mkdir, "directory", 0o2755)
attempt("mknod", os.mknod, "node", stat.S_IFREG | 0o4755)
attempt("capabilities", os.setxattr, "plain", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 21, 0, 0, 0))
os.setgroups([os.stat("lists").st_gid, 6])
os.chown("lists", 0, 6) # keeps the bit, since nobody of its group may execute it
entry = lambda tag, perm: struct.pack("<HHI", tag, perm, 0xffffffff)
attempt("access list", os.setxattr, "lists", "system.posix_acl_access", struct.pack("<I", 2) + entry(1, 7) + entry(4, 5) + entry(32, 5))
attempt("openat2", raw, 437, here, b"opened2", struct.pack("QQQ", new, 0o4755, 0), 24)
os.write(os.open("roots", os.O_WRONLY), b"other")
print("what is written to is " + oct(os.stat("roots").st_mode & 0o7777))
os.chown("tenants", 0, 0)
`

// What the leaver says where it may do as it likes, and as root of the host in a
// sandbox.
const (
	harmless = "chmod 755: ok\nchmod(1) 755: ok\nfchmod 1755: ok\nmkdir 1777: ok\ninstall(1) 755: ok\n--\n"
	leaves   = harmless + "chmod(1) u+s: ok\ninstall(1) 4755: ok\nchmod 2755: ok\nchmod of a directory: ok\nfchmod: ok\nfchmodat: ok\nfchmodat2: ok\n" +
		"openat: ok\nmkdir: ok\nmknod: ok\ncapabilities: ok\naccess list: ok\nopenat2: ok\nwhat is written to is 0o6755\n"
	leavesNothing = harmless + "chmod(1) u+s: EPERM\ninstall(1) 4755: EPERM\nchmod 2755: EPERM\nchmod of a directory: EPERM\nfchmod: EPERM\nfchmodat: EPERM\nfchmodat2: EPERM\n" +
		"openat: EPERM\nmkdir: EPERM\nmknod: EPERM\ncapabilities: ENOTSUP\naccess list: ENOTSUP\nopenat2: ENOSYS\nwhat is written to is 0o755\n"
)

// TestEnterRootLeaves: root of a sandbox that is root of the host leaves no
// program in the app's directory that is root's for whoever starts it there,
// whatever the file's seccomp. The same attempts outside are the negative
// control.
func TestEnterRootLeaves(t *testing.T) {
	r := newRealm(t)
	dir := func(name string) string {
		r.write(name+"/hello.py", hello("served"))
		r.write(name+"/leaver.py", leaver)
		for _, f := range []struct {
			name string
			uid  int
			mode uint32
		}{{"roots", 0, 0o6755}, {"tenants", tenant, 0o6755}, {"lists", tenant, 0o2604}} {
			path := r.write(name+"/"+f.name, "#!/bin/sh\n")
			if err := errors.Join(os.Chown(path, f.uid, f.uid), unix.Chmod(path, f.mode)); err != nil {
				t.Fatal(err)
			}
		}
		return filepath.Join(r.dir, name)
	}
	outside := dir("outside")
	out, err := exec.Command(testenv.SystemPython, outside+"/leaver.py", outside).CombinedOutput()
	// Linux 6.6 has fchmodat2.
	if got := strings.Replace(string(out), "fchmodat2: ENOSYS", "fchmodat2: ok", 1); got != leaves || err != nil {
		t.Fatalf("outside: the attempts prove nothing: %v\n%s", err, out)
	}
	if n := len(ofRoots(t, outside)); n < 5 {
		t.Fatalf("outside %d files were left", n)
	}
	for name, line := range map[string]string{"default": "", "strict": "seccomp = strict\n", "off": "seccomp = off\n"} {
		app := dir(name)
		r.drop(name, fmt.Sprintf("uid = %d\ngid = %d\nhttp = 127.0.0.1:0\nchdir = %s\nwsgi-file = %s/hello.py\n%s", tenant, tenant, app, app, line))
		r.up(name)
		out, code := r.says("", "--root", name, "--", "python3", app+"/leaver.py", app)
		if d := cmp.Diff(leavesNothing, out); d != "" || code != 0 {
			t.Errorf("%s: exit %d (-want +got):\n%s", name, code, d)
		}
		if left := ofRoots(t, app); len(left) > 0 {
			t.Errorf("%s: left as root's: %q", name, left)
		}
		// A process of another ABI would have other numbers for the same calls.
		if _, code := r.says("", "--root", name, "--", "python3", "-c", "import ctypes; ctypes.CDLL(None).syscall(0x40000000 | 39)"); runtime.GOARCH == "amd64" && code != 128+int(unix.SIGSYS) {
			t.Errorf("%s: a call of x32: exit %d", name, code)
		}
	}
}

// TestEnterRootUserNS: root of a user namespace is nobody on the host, and may
// make such programs.
func TestEnterRootUserNS(t *testing.T) {
	testenv.Need(t, testenv.UserNS)
	r := newRealm(t)
	r.write("app/hello.py", hello("served"))
	r.drop("shop", fmt.Sprintf("uid = %d\ngid = %d\nnamespaces = user\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\n", tenant, tenant))
	r.up("shop")
	if out, code := r.says("", "--root", "shop", "--", "sh", "-c", "cat /proc/1/environ >/dev/null && ls /proc/1/fd"); code != 0 {
		t.Errorf("it looks into the core: exit %d: %s", code, out)
	}
	out, code := r.says("", "--root", "shop", "--", "sh", "-c", "id -u && install -m 4755 /bin/true /tmp/own && stat -c %a /tmp/own")
	if out != "0\n4755\n" || code != 0 {
		t.Errorf("exit %d: %s", code, out)
	}
}

// TestEnterRootHelped: a program of the tenant's that root inside is made to run gets
// no further with help from outside, nor by way of who enters next.
func TestEnterRootHelped(t *testing.T) {
	r := newRealm(t)
	r.write("app/hello.py", hello("served"))
	secret := r.write("secret", "of the host's root\n")
	if err := errors.Join(os.Chmod(secret, 0o600), os.Chown(r.dir+"/app", tenant, tenant)); err != nil {
		t.Fatal(err)
	}
	r.drop("shop", fmt.Sprintf("uid = %d\ngid = %d\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\n", tenant, tenant))
	r.up("shop")
	helper := exec.Command(testenv.SystemPython, "-c", `import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1] + "/door"); s.listen()
print("open", flush=True)
while True:
    c, _ = s.accept(); socket.send_fds(c, [b"x"], [os.open("/", os.O_RDONLY)]); c.recv(1)`, r.dir+"/app")
	helper.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: tenant, Gid: tenant, Groups: []uint32{}}}
	opened, err := helper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := helper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { helper.Process.Kill(); helper.Wait() })
	if _, err := io.ReadFull(opened, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	const handed = `import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1] + "/app/door")
fds = socket.recv_fds(s, 1, 1)[1]
os.chmod("/proc/self/fd/%d" % os.open(sys.argv[1].lstrip("/") + "/secret", os.O_PATH, dir_fd=fds[0]), 0o640)
print(open(os.open(sys.argv[1].lstrip("/") + "/secret", os.O_RDWR, dir_fd=fds[0])).read())`
	out, err := exec.Command(testenv.SystemPython, "-c", handed, r.dir).CombinedOutput() // the control: root outside
	if err != nil || !strings.Contains(string(out), "of the host's root") {
		t.Fatalf("a descriptor from outside proves nothing: %v %s", err, out)
	}
	// Landlock has no say over the mode, nor over a socket that is connected to.
	if out, code := r.says("", "--root", "shop", "--", "python3", "-c", handed, r.dir); code == 0 || !strings.Contains(out, "Address family not supported") {
		t.Errorf("with a descriptor from outside root inside: exit %d %s", code, out)
	}
	const attach = `import ctypes, os, sys
e = ctypes.CDLL(None, use_errno=True).ptrace(0x4206, ctypes.c_long(int(sys.argv[1])), 0, 0) # PTRACE_SEIZE
print(os.strerror(ctypes.get_errno()) if e else "attached")`
	if out, code := r.says("", "--root", "shop", "--", "python3", "-c", attach, "1"); code != 0 || out != "Operation not permitted\n" {
		t.Errorf("root inside takes over another process: exit %d %s", code, out)
	}
}

// ofRoots are the files below dir that are root's for whoever starts them.
func ofRoots(t *testing.T, dir string) (left []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		_, err = unix.Lgetxattr(path, "security.capability", nil)
		const group = unix.S_ISGID | unix.S_IXGRP // without the second the first means nothing
		if st.Uid == 0 && st.Mode&unix.S_ISUID != 0 || st.Gid != tenant && st.Mode&group == group || err == nil {
			left = append(left, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// TestEnterTerminalHeld: a terminal that the app has opened does not keep the caller
// there when the command has ended, and nothing that is typed afterwards reaches it.
func TestEnterTerminalHeld(t *testing.T) {
	r := newRealm(t)
	r.write("app/hello.py", `import os, threading, time
def hold():
    while True:
        for n in os.listdir("/dev/pts"):
            if n.isdigit():
                try:
                    os.open("/dev/pts/" + n, os.O_RDWR | os.O_NOCTTY)
                    open("held", "w").close()
                    return
                except OSError: pass
        time.sleep(0.01)
threading.Thread(target=hold, daemon=True).start()
def application(environ, start):
    start("200 OK", [])
    return [b"served"]
`)
	if err := os.Chown(r.dir+"/app", tenant, tenant); err != nil {
		t.Fatal(err)
	}
	r.drop("shop", fmt.Sprintf("uid = %d\ngid = %d\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\nenable-threads = true\nlazy-apps = true\n", tenant, tenant))
	r.up("shop")
	near, far := terminal(t)
	cmd := r.enter("shop", "--", "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do test -e "+r.dir+"/app/held || sleep 0.3; done; echo last")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = far, far, far
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		cmd.Process.Kill()
		<-ended
		t.Error("it does not end with its command")
	}
	if _, err := os.Stat(r.dir + "/app/held"); err != nil {
		t.Errorf("the app has not opened the terminal, so this proves nothing: %v", err)
	}
	b := make([]byte, 4096)
	if n, err := near.Read(b); err != nil || !strings.Contains(string(b[:n]), "last") {
		t.Errorf("%q, %v", b[:n], err)
	}
}

// TestEnterTerminal: a shell on a terminal of its own, which has the size, the
// keys and the jobs of one, and leaves the caller's as it was.
func TestEnterTerminal(t *testing.T) {
	r := newRealm(t)
	r.write("app/hello.py", hello("served"))
	r.drop("shop", fmt.Sprintf("uid = %d\ngid = %d\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\n", tenant, tenant))
	r.up("shop")

	near, far := terminal(t)
	if err := unix.IoctlSetWinsize(int(far.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 41, Col: 123}); err != nil {
		t.Fatal(err)
	}
	was, err := unix.IoctlGetTermios(int(far.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	cmd := r.enter("shop")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = far, far, far
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make(chan []byte, 100)
	go func() {
		for {
			b := make([]byte, 4096)
			n, err := near.Read(b)
			if err != nil {
				close(said)
				return
			}
			said <- b[:n]
		}
	}()
	var all bytes.Buffer
	expect := func(typed, want string) {
		t.Helper()
		if _, err := near.WriteString(typed); err != nil {
			t.Fatal(err)
		}
		late := time.After(60 * time.Second)
		for from := all.Len(); !strings.Contains(all.String()[from:], want); {
			select {
			case b, ok := <-said:
				if !ok {
					t.Fatalf("it ended: %q", all.String())
				}
				all.Write(b)
			case <-late:
				t.Fatalf("%q: no %q in %q", typed, want, all.String()[from:])
			}
		}
	}
	expect("stty size; tty\n", "41 123")
	expect("echo on-$(tty)\n", "on-/dev/pts/")
	expect("sh -c 'echo st$((1+1))arted; exec sleep 1000'\n", "st2arted")
	expect("\x03", "$ ") // ^C reached it and not us; what is typed before the prompt may be dropped with it
	expect("echo a$((40+2))b\n", "a42b")
	if err := unix.IoctlSetWinsize(int(near.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 99}); err != nil {
		t.Fatal(err)
	}
	expect("while [ \"$(stty size)\" != '50 99' ]; do sleep 0.1; done; echo re$((1+1))sized\n", "re2sized")
	if _, err := near.WriteString("exit 9\n"); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 9 {
		t.Errorf("it ended with %v: %q", err, all.String())
	}
	is, err := unix.IoctlGetTermios(int(far.Fd()), unix.TCGETS)
	if err != nil || *is != *was {
		t.Errorf("the terminal is %+v after it was %+v (%v)", is, was, err)
	}
}

// terminal is a new pseudo-terminal.
func terminal(t *testing.T) (near, far *os.File) {
	t.Helper()
	near, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	n, err := unix.IoctlGetInt(int(near.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(near.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if far, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	return near, far
}
