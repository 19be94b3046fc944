package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"liege/internal/testenv"
)

// served is one "liege serve" in the foreground.
type served struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan error

	mu   sync.Mutex
	said bytes.Buffer
}

func (s *served) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said.Write(b)
}

func (s *served) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said.String()
}

// serve starts it in dir; uid 0: as the caller.
func serve(t *testing.T, dir string, uid uint32, args ...string) *served {
	t.Helper()
	s := &served{t: t, done: make(chan error, 1)}
	s.cmd = exec.Command(filepath.Join(testenv.Binaries(t), "liege"), append([]string{"serve"}, args...)...)
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = dir, s, s
	s.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	if uid != 0 {
		s.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.done <- s.cmd.Wait() }()
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		<-s.done
	})
	return s
}

// await waits for a pattern in what it prints and returns its last match.
func (s *served) await(pattern string, n int) string {
	s.t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if found := re.FindAllString(s.text(), -1); len(found) >= n {
			return found[len(found)-1]
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%q was not said %d times:\n%s", pattern, n, s.text())
		}
	}
}

// exit waits for the end and returns the exit code.
func (s *served) exit() int {
	s.t.Helper()
	select {
	case err := <-s.done:
		s.done <- err
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			return e.ExitCode()
		}
		return 0
	case <-time.After(60 * time.Second):
		s.t.Fatalf("it does not end:\n%s", s.text())
		return -1
	}
}

const loopURL = `http://127\.0\.0\.1:[0-9]+/`

func fetch(t *testing.T, url string) string {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("%s: %d %v", url, res.StatusCode, err)
	}
	return string(b)
}

// kitchen is a directory that everybody can enter, with an app in it.
func kitchen(t *testing.T) string {
	t.Helper()
	testenv.Need(t, testenv.Root, testenv.Python3)
	dir, err := os.MkdirTemp("/srv", "liege-serve-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	app := "import os\ndef application(e, s):\n    s('200 OK', [])\n    return [('uid %d' % os.getuid()).encode()]\n"
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "app.py"), []byte(app), 0o644)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestServeTouch: liege serve reloads when a file of touch-reload is touched, its
// own too, which nobody else watches; what cannot be loaded is tried once.
func TestServeTouch(t *testing.T) {
	dir := kitchen(t)
	ini, flag := filepath.Join(dir, "app.ini"), filepath.Join(dir, "flag")
	text := "[uwsgi]\nhttp-socket = 127.0.0.1:0\nwsgi-file = app.py\ntouch-reload = %p\ntouch-workers-reload = flag\n"
	if err := errors.Join(os.WriteFile(ini, []byte(text), 0o644), os.Chown(ini, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	s := serve(t, dir, nobody, ini)
	s.await(loopURL, 1)
	if err := os.WriteFile(flag, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s.await(loopURL, 2)
	if err := os.WriteFile(ini, []byte("[uwsgi]\nhttp-socket = 127.0.0.1:0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.await("the old generation still serves", 1)
	if err := os.WriteFile(ini, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := fetch(t, s.await(loopURL, 3)); got != "uid 65534" {
		t.Errorf("got %q", got)
	}
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil || s.exit() != 0 || strings.Count(s.text(), "still serves") != 1 {
		t.Error(s.text())
	}
}

// TestServePidFile: the pid is that of liege serve, by which HUP reloads it; the
// file is gone with it.
func TestServePidFile(t *testing.T) {
	for uid, at := range map[uint32]string{0: "root", nobody: "own"} {
		dir := kitchen(t)
		ini, pid := filepath.Join(dir, "app.ini"), filepath.Join(dir, at, "app.pid")
		text := "[uwsgi]\nhttp-socket = 127.0.0.1:0\nwsgi-file = app.py\nuid = nobody\npidfile = " + at + "/app.pid\n"
		if err := errors.Join(os.WriteFile(ini, []byte(text), 0o644), os.Chown(ini, int(uid), int(uid)),
			os.Mkdir(filepath.Join(dir, at), 0o755), os.Chown(filepath.Join(dir, at), int(uid), int(uid))); err != nil {
			t.Fatal(err)
		}
		s := serve(t, dir, uid, ini)
		s.await(loopURL, 1)
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			b, err := os.ReadFile(pid)
			if err == nil && string(b) == fmt.Sprintf("%d\n", s.cmd.Process.Pid) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%q %v, want %d:\n%s", b, err, s.cmd.Process.Pid, s.text())
			}
		}
		if err := s.cmd.Process.Signal(os.Interrupt); err != nil || s.exit() != 0 {
			t.Error(s.text())
		}
		if _, err := os.Lstat(pid); err == nil {
			t.Error("the pid file is left")
		}
	}
}

// TestServeOfUser: root that serves a user's file serves it as that user, in a
// sandbox, with no name that is one of the Emperor's vassals', and refuses it where a
// file of root's brings it in and the app would be root's.
func TestServeOfUser(t *testing.T) {
	dir := kitchen(t)
	home := filepath.Join(dir, "home")
	app := "[uwsgi]\nchdir = " + home + "\nwsgi-file = " + dir + "/app.py\nhttp-socket = s.sock\nchmod-socket = 666\n"
	err := errors.Join(os.Mkdir(home, 0o755), os.WriteFile(home+"/shop.ini", []byte(app), 0o644), os.Chown(home, nobody, nobody), os.Chown(home+"/shop.ini", nobody, nobody),
		os.WriteFile(home+"/named.ini", []byte(app+"socket = /run/liege/named.sock\n"), 0o644), os.Chown(home+"/named.ini", nobody, nobody),
		os.WriteFile(dir+"/roots.ini", []byte("[uwsgi]\nchdir = /usr\ninclude = "+home+"/part.ini\n"), 0o644),
		os.WriteFile(home+"/part.ini", []byte("[uwsgi]\nwsgi-file = "+dir+"/app.py\nhttp-socket = 127.0.0.1:0\n"), 0o644), os.Chown(home+"/part.ini", nobody, nobody),
		os.WriteFile(dir+"/log", []byte("[uwsgi]\nhook-as-root = exec:id\n"), 0o600), os.Symlink(dir+"/log", home+"/link.ini"), os.Lchown(home+"/link.ini", nobody, nobody),
		os.WriteFile(dir+"/linked.ini", []byte("[uwsgi]\nchdir = /usr\ninclude = "+home+"/link.ini\n"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, dir, 0, home+"/shop.ini")
	s.await("msg=ready", 1)
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", home+"/s.sock")
	}}}
	defer client.CloseIdleConnections()
	res, err := client.Get("http://shop/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "uid 65534" {
		t.Errorf("a user's file: %q, %v", b, err)
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := s.exit(); code != 0 {
		t.Errorf("exit %d: %s", code, s.text())
	}
	for file, want := range map[string]string{"roots": "run as root", "linked": "owns a directory or link", "home/named": "and this file is none"} {
		s = serve(t, dir, 0, dir+"/"+file+".ini")
		if code := s.exit(); code != 78 || !strings.Contains(s.text(), want) {
			t.Errorf("%s.ini: exit %d: %s", file, code, s.text())
		}
	}
}

// TestServeSection: the section that the line names is the one that is served, also
// where a sandbox is made for it.
func TestServeSection(t *testing.T) {
	dir := kitchen(t)
	app := "uid = nobody\nchdir = " + dir + "\nwsgi-file = app.py\nmemory-max = 128M\nhttp-socket = /run/" + filepath.Base(dir) + "/"
	if err := os.WriteFile(dir+"/site.ini", []byte("[vassal]\n"+app+"other.sock\n[prod]\n"+app+"prod.sock\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := serve(t, dir, 0, dir+"/site.ini:prod")
	if got := s.await(`listen=\S+\.sock`, 1); !strings.HasSuffix(got, "/prod.sock") {
		t.Errorf("serves %s", got)
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := s.exit(); code != 0 {
		t.Errorf("exit %d: %s", code, s.text())
	}
}

// TestServeAsUser: a developer without root serves an app, reloads it, and
// ends it with Ctrl-C; what needs root is refused, not skipped.
func TestServeAsUser(t *testing.T) {
	dir := kitchen(t)
	s := serve(t, dir, nobody, "--http", "127.0.0.1:0", "app.py")
	url := s.await(loopURL, 1)
	if got := fetch(t, url); got != "uid 65534" {
		t.Errorf("got %q", got)
	}
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if again := s.await(loopURL, 2); again != url {
		t.Errorf("after HUP at %s, was %s", again, url)
	}
	fetch(t, url)
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := s.exit(); code != 0 {
		t.Errorf("exit %d after Ctrl-C:\n%s", code, s.text())
	}
	if strings.Contains(s.text(), "Traceback") {
		t.Error(s.text())
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--http", ":80", "app.py"}, 1, "hint: --http :8080"},
		{[]string{"--hook-as-root", "exec:id", "app.py"}, 78, "hint: sudo"},
		{[]string{"--net", "none", "app.py"}, 78, "hint: sudo"},
		{[]string{"-w", "app"}, 78, "hint: --http :8080"},
		{[]string{"none.ini", "--http=:0"}, 66, "none.ini: no such file"},
		{[]string{"--callable", "nothing", "app.py"}, 1, "has no 'nothing'"},
	} {
		if c.args[1] == ":80" && mayBindLow(t) {
			continue
		}
		s := serve(t, dir, nobody, c.args...)
		if code := s.exit(); code != c.code || !strings.Contains(s.text(), c.want) {
			t.Errorf("%v: exit %d, want %d with %q:\n%s", c.args, code, c.code, c.want, s.text())
		}
	}
}

// mayBindLow reports whether every user may bind port 80 here.
func mayBindLow(t *testing.T) bool {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	return err == nil && len(strings.TrimSpace(string(b))) < 3
}

// TestServeAsRoot: root's liege serve drops to the file's user, runs its hooks
// and binds its socket with that user's rights.
func TestServeAsRoot(t *testing.T) {
	dir := kitchen(t)
	own := filepath.Join(dir, "own")
	if err := errors.Join(os.Mkdir(own, 0o755), os.Chown(own, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	ini := filepath.Join(dir, "app.ini")
	text := "[uwsgi]\nchdir = " + own + "\nwsgi-file = " + dir + "/app.py\nuid = nobody\nsocket = app.sock\nhttp = 127.0.0.1:0\n" +
		"logto = " + own + "/app.log\nhook-as-root = write:" + own + "/root hook\nhook-as-user = exec:id -u > " + own + "/user\n"
	if err := os.WriteFile(ini, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s := serve(t, dir, 0, ini)
	url := s.await(loopURL, 1)
	if got := fetch(t, url); got != "uid 65534" {
		t.Errorf("got %q", got)
	}
	var st syscall.Stat_t
	sock := filepath.Join(own, "app.sock")
	if err := syscall.Stat(sock, &st); err != nil || st.Uid != nobody {
		t.Errorf("the socket: %v, owner %d", err, st.Uid)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if c, err := new(net.Dialer).DialContext(ctx, "unix", sock); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	if b, err := os.ReadFile(filepath.Join(own, "user")); err != nil || strings.TrimSpace(string(b)) != "65534" {
		t.Errorf("hook-as-user: %q %v", b, err)
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := s.exit(); code != 0 {
		t.Errorf("exit %d:\n%s", code, s.text())
	}
	if b, err := os.ReadFile(filepath.Join(own, "app.log")); err != nil || !strings.Contains(string(b), "GET / =>") {
		t.Errorf("logto: %q %v", b, err)
	}
	if _, err := os.Lstat(sock); err == nil {
		t.Error("the socket is left")
	}
}
