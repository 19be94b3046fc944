package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"liege/internal/testenv"
)

// TestServeHurry: who is told twice to end leaves nothing behind, not even what
// a CGI program has started.
func TestServeHurry(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"cgi/hang.sh": "#!/bin/sh\nsh -c 'echo $$ > " + dir + "/pid; exec sleep 300'\n",
		"hurry.ini":   "[uwsgi]\nhttp-socket = 127.0.0.1:0\ncgi = " + dir + "/cgi\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := serve(t, dir, 0, filepath.Join(dir, "hurry.ini"))
	url := s.await(loopURL, 1)
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		if resp, err := c.Get(url + "hang.sh"); err == nil {
			resp.Body.Close()
		}
	}()
	pid := 0
	for end := time.Now().Add(10 * time.Second); pid == 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		b, _ := os.ReadFile(filepath.Join(dir, "pid"))
		pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	if pid == 0 {
		t.Fatalf("the program did not start:\n%s", s.text())
	}
	defer func() { <-asked }()
	s.hurry()
	for end := time.Now().Add(30 * time.Second); testenv.Alive(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("process %d of the program lives on", pid)
		}
	}
}

// TestServeToldTwice: what timeout(1) sends, a signal to the process and one to
// its group, is one wish: requests under way are answered.
func TestServeToldTwice(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "slow.sh"), []byte("#!/bin/sh\n: > "+dir+"/began\nsleep 1\necho\necho done\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := serve(t, dir, 0, "--http-socket", "127.0.0.1:0", "--cgi", dir)
	url := s.await(loopURL, 1)
	answer := make(chan string, 1)
	go func() {
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(url + "slow.sh")
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		answer <- fmt.Sprint(string(b), err)
	}()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "began")); err == nil {
			break
		}
	}
	for range 3 {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		time.Sleep(20 * time.Millisecond) // signals of one kind that wait are one
	}
	if got := <-answer; got != "done\n<nil>" {
		t.Errorf("%q\n%s", got, s.text())
	}
	if code := s.exit(); code != 0 {
		t.Errorf("exit %d", code)
	}
}

// TestServeToldEarly: one that is told to end before it serves leaves no
// directory of PHP's.
func TestServeToldEarly(t *testing.T) {
	testenv.Need(t, testenv.PHP)
	testenv.Need(t, testenv.Root) // for a user whose directories are nobody else's
	dir := kitchen(t)
	s := serve(t, dir, nobody, "--http-socket", "127.0.0.1:0", "--php-docroot", dir)
	left := func() (out []string) {
		found, _ := filepath.Glob("/tmp/liege-php-*")
		for _, f := range found {
			if fi, err := os.Stat(f); err == nil && fi.Sys().(*syscall.Stat_t).Uid == nobody {
				out = append(out, f)
			}
		}
		return out
	}
	for end := time.Now().Add(20 * time.Second); len(left()) == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	s.exit()
	if l := left(); len(l) != 0 {
		t.Errorf("%v is left\n%s", l, s.text())
	}
}

// TestServeToldWhileReloading: a signal that comes while another generation
// loads is for all of it.
func TestServeToldWhileReloading(t *testing.T) {
	dir := kitchen(t)
	app := "import os, time\nif os.path.exists('" + dir + "/slow'):\n    open('" + dir + "/loading', 'w').close()\n    time.sleep(60)\n" +
		"def application(environ, start_response):\n    start_response('200 OK', [])\n    return [b'here']\n"
	if err := os.WriteFile(filepath.Join(dir, "late.py"), []byte(app), 0o644); err != nil {
		t.Fatal(err)
	}
	s := serve(t, dir, 0, "--http", "127.0.0.1:0", "late.py")
	s.await(loopURL, 1)
	if err := os.WriteFile(filepath.Join(dir, "slow"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Process.Signal(syscall.SIGHUP)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "loading")); err == nil {
			break
		}
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.done:
		s.done <- err
	case <-time.After(20 * time.Second):
		t.Errorf("it serves on:\n%s", s.text())
	}
}

// hurry tells it to end until it has: signals of one kind that wait are one.
func (s *served) hurry() {
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for late := time.After(60 * time.Second); ; {
		_ = s.cmd.Process.Signal(syscall.SIGTERM) // os.ErrProcessDone: it has ended
		select {
		case err := <-s.done:
			s.done <- err
			return
		case <-again.C:
		case <-late:
			s.t.Fatalf("it does not end:\n%s", s.text())
		}
	}
}

// TestServeKilled: a core whose liege serve was killed drains, and leaves the port.
func TestServeKilled(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte("here"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := serve(t, dir, 0, "--http-socket", "127.0.0.1:0", "--check-static", dir, "--static-index", "index.html")
	addr := strings.Trim(strings.TrimPrefix(s.await(loopURL, 1), "http:"), "/")
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		c.Close()
		if time.Now().After(end) {
			t.Fatal("the port is still taken")
		}
	}
}
