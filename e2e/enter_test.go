package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

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
    return [open('/proc/self' + environ['PATH_INFO'], 'rb').read()]
`)
	lines := fmt.Sprintf("uid = %d\ngid = %d\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/status.py\nenv = COLOUR=green\n", tenant, tenant)
	r.drop("shop", lines)
	addr := tcpOf(r.up("shop"))
	before := living(t)

	_, worker := r.get(addr, "/status")
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
		{"", []string{"shop", "kill", "-CONT", "1"}, "", 0}, // the core, though Landlock is around both
		{"", []string{"shop", "sh", "-c", "for n in 3 4 5 6 7; do test ! -e /proc/self/fd/$n || exit 1; done"}, "", 0},
		{"", []string{"shop", "sh", "-c", "(setsid sleep 1000 >/dev/null 2>&1 &); echo left"}, "left\n", 0},
		{"echo typed", []string{"shop.ini"}, "typed\n", 0},
	} {
		if out, code := r.says(tt.in, tt.args...); code != tt.code || !strings.HasPrefix(out, tt.want) {
			t.Errorf("enter %q: %d %q, want %d %q", tt.args, code, out, tt.code, tt.want)
		}
	}
	r.until("no process is left", func() bool { return living(t) <= before })
	for gen := range 2 { // the second has started beside the first
		mine, _ := r.says("", "shop", "cat", "/proc/self/oom_score_adj")
		if _, worker := r.get(addr, "/oom_score_adj"); mine != worker || mine == "" {
			t.Errorf("generation %d: the kernel kills a command by %q, a worker by %q", gen+1, mine, worker)
		}
		r.liege("reload", "shop", "--timeout", patience)
	}
	r.until("one generation is left", func() bool { return living(t) <= before })
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
	if code, _ := r.get(addr, "/status"); code != 200 {
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
	testenv.Need(t, testenv.UserNS)
	r := newRealm(t)
	r.write("app/hello.py", hello("served"))
	app := "http = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\nenv = COLOUR=green\n"
	r.drop("shop", fmt.Sprintf("uid = %d\ngid = %d\nnamespaces = user\n", tenant, tenant)+app)
	r.up("shop")
	status, code := r.says("", "--root", "shop", "cat", "/proc/self/status")
	want := strings.Join([]string{"Umask:\t0022", "Uid:\t0\t0\t0\t0", "Gid:\t0\t0\t0\t0", "Groups:\t ",
		"CapInh:\t00000000000800eb", "CapPrm:\t00000000000800eb", "CapEff:\t00000000000800eb", "CapBnd:\t00000000000800eb", "CapAmb:\t00000000000800eb",
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
		{"cat /proc/1/environ && ls /proc/1/fd", true},
		{"install -m 4755 /bin/true /tmp/own", true}, // of a uid that owns nothing else
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

// TestEnterHostRoot: without a user namespace root inside would be root of the host,
// and is not let in. What a user's file binds of others' is closed to root of one.
func TestEnterHostRoot(t *testing.T) {
	testenv.Need(t, testenv.UserNS)
	r := newRealm(t)
	r.write("app/hello.py", hello("served"))
	for name, uid := range map[string]int{"victim/key": nobody, "roots/tool": 0} {
		f := r.write(name, "theirs\n")
		if err := errors.Join(os.Chown(f, uid, uid), os.Chmod(f, 0o600), os.Chown(filepath.Dir(f), uid, uid), os.Chmod(filepath.Dir(f), 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	lines := fmt.Sprintf("uid = %d\ngid = %d\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\nbind = DIR/victim DIR/roots\n", tenant, tenant)
	r.drop("host", lines)
	r.drop("own", lines+"namespaces = user\n")
	r.up("host")
	r.up("own")
	if out, code := r.says("", "--root", "host", "true"); code != 1 || !strings.Contains(out, "root of the host") || !strings.Contains(out, "namespaces = user") {
		t.Errorf("root of the host: exit %d %s", code, out)
	}
	for _, f := range []string{"victim/key", "roots/tool"} {
		for _, do := range []string{"cat %s", "echo x > %s", "chown 0 %s", "chmod 666 %s"} {
			if out, code := r.says("", "--root", "own", "--", "sh", "-c", fmt.Sprintf(do, r.dir+"/"+f)); code == 0 {
				t.Errorf("%s: root inside may: %s", fmt.Sprintf(do, f), out)
			}
		}
	}
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
