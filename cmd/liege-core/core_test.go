package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/vassal"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// core is a running liege-core with the Emperor's end of its channel.
type core struct {
	t       *testing.T
	cmd     *exec.Cmd
	control *net.UnixConn
	addr    string
	log     *bytes.Buffer
}

// run starts the binary as the stage does: listeners, control, app.
func run(t *testing.T, app vassal.App, l net.Listener) *core {
	t.Helper()
	if l == nil {
		var err error
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	lf, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	app.Name, app.Hostname, app.Drain = "shop", "shop", 5*time.Second
	app.HTTP.KeepAlive = true
	app.Listen = []vassal.Listener{{Protocol: vassal.HTTP, Address: l.Addr().String(), Key: "http-socket"}}
	b, err := json.Marshal(app)
	if err != nil {
		t.Fatal(err)
	}
	appFile := filepath.Join(t.TempDir(), "app")
	if err := os.WriteFile(appFile, b, 0o600); err != nil {
		t.Fatal(err)
	}
	af, err := os.Open(appFile)
	if err != nil {
		t.Fatal(err)
	}
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	mine, theirs := os.NewFile(uintptr(fds[0]), "mine"), os.NewFile(uintptr(fds[1]), "theirs")
	conn, err := net.FileConn(mine)
	if err != nil {
		t.Fatal(err)
	}
	mine.Close()
	c := &core{t: t, control: conn.(*net.UnixConn), addr: l.Addr().String(), log: &bytes.Buffer{}}
	c.cmd = exec.Command(filepath.Join(testenv.Binaries(t), "liege-core"), "--control=4", "--app=5")
	c.cmd.Args[0] = "liege-core shop"
	c.cmd.ExtraFiles = []*os.File{lf, theirs, af}
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	c.cmd.Env = []string{"PATH=/usr/bin:/bin"}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range c.cmd.ExtraFiles {
		f.Close()
	}
	t.Cleanup(func() {
		c.cmd.Process.Kill()
		c.cmd.Wait()
		conn.Close()
		l.Close()
		if t.Failed() {
			t.Logf("core: %s", c.log)
		}
	})
	return c
}

// expect returns the next message, which must be of type want.
func (c *core) expect(want vassal.MessageType) vassal.Message {
	c.t.Helper()
	c.control.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		b := make([]byte, vassal.MaxMessage)
		n, err := c.control.Read(b)
		if err != nil {
			c.t.Fatalf("waiting for %s: %v\n%s", want, err, c.log)
		}
		var m vassal.Message
		if err := json.Unmarshal(b[:n], &m); err != nil {
			c.t.Fatal(err)
		}
		if m.Type != want && (m.Type == vassal.Counters || m.Type == vassal.Closed || m.Type == vassal.Rested) {
			continue
		}
		if m.Type != want {
			c.t.Fatalf("got %s %+v, want %s\n%s", m.Type, m.Reason, want, c.log)
		}
		return m
	}
}

func (c *core) send(m vassal.MessageType) {
	c.t.Helper()
	b, err := json.Marshal(vassal.Message{V: vassal.MessageVersion, Type: m})
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.control.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

// exit waits for the end and returns the exit code.
func (c *core) exit() int {
	c.t.Helper()
	t := time.AfterFunc(20*time.Second, func() { c.cmd.Process.Kill() })
	defer t.Stop()
	c.cmd.Wait()
	return c.cmd.ProcessState.ExitCode()
}

func get(t *testing.T, addr, path string) (int, string) {
	t.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	a, err := client.Get("http://" + addr + path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return a.StatusCode, string(b)
}

func site(t *testing.T) vassal.App {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/f", []byte("file"), 0o644); err != nil {
		t.Fatal(err)
	}
	return vassal.App{Dir: dir, Static: vassal.Static{Check: []string{dir}}}
}

func TestLife(t *testing.T) {
	testenv.Leaks(t)
	c := run(t, site(t), nil)
	c.expect(vassal.Hello)
	// Not verified: it serves nothing, and has read nothing but its arguments.
	conn, err := net.Dial("tcp", c.addr)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	io.WriteString(conn, "GET /f HTTP/1.0\r\n\r\n")
	if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Error("it serves before it is verified")
	}
	c.send(vassal.Verified)
	c.expect(vassal.Ready)
	if status, body := get(t, c.addr, "/f"); status != 200 || body != "file" {
		t.Errorf("got %d %q", status, body)
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if b, _ := io.ReadAll(conn); !strings.HasSuffix(string(b), "file") {
		t.Errorf("the connection that waited in the queue got %q", b)
	}
	conn.Close()
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", c.cmd.Process.Pid)); err != nil || !strings.HasPrefix(string(b), "liege-core shop\x00") {
		t.Errorf("title %q, %v", b, err)
	}
	c.send(vassal.Drain)
	var last vassal.Message
	for last.Counts == nil || last.Counts.Requests != 2 {
		last = c.expect(vassal.Counters)
	}
	if code := c.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if n := strings.Count(c.log.String(), "GET /f =>"); n != 2 {
		t.Errorf("%d lines in the access log:\n%s", n, c.log)
	}
}

func TestSignals(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT} {
		c := run(t, site(t), nil)
		c.expect(vassal.Hello)
		c.send(vassal.Verified)
		c.expect(vassal.Ready)
		for _, harmless := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH, syscall.SIGURG, syscall.SIGTSTP, syscall.SIGPIPE} {
			c.cmd.Process.Signal(harmless)
		}
		if status, _ := get(t, c.addr, "/f"); status != 200 {
			t.Errorf("%v: got %d", s, status)
		}
		c.cmd.Process.Signal(syscall.SIGHUP)
		c.expect(vassal.Reload)
		if status, _ := get(t, c.addr, "/f"); status != 200 {
			t.Errorf("%v: after SIGHUP: got %d", s, status)
		}
		c.cmd.Process.Signal(s)
		c.expect(vassal.Closed)
		if code := c.exit(); code != 0 {
			t.Errorf("%v: exit code %d\n%s", s, code, c.log)
		}
	}
}

// TestEndBeforeVerified: a signal, or a drain message, ends a core that waits
// to be verified.
func TestEndBeforeVerified(t *testing.T) {
	for _, how := range []string{"signal", "message"} {
		c := run(t, site(t), nil)
		c.expect(vassal.Hello)
		if how == "signal" {
			c.cmd.Process.Signal(syscall.SIGTERM)
		} else {
			c.send(vassal.Drain)
		}
		if code := c.exit(); code != 0 || c.log.Len() > 0 {
			t.Errorf("%s: exit code %d\n%s", how, code, c.log)
		}
	}
}

// TestOrphan: without an Emperor the core goes on.
func TestOrphan(t *testing.T) {
	c := run(t, site(t), nil)
	c.expect(vassal.Hello)
	c.send(vassal.Verified)
	c.expect(vassal.Ready)
	c.control.Close()
	for range 3 {
		if status, _ := get(t, c.addr, "/f"); status != 200 {
			t.Errorf("got %d", status)
		}
	}
	c.cmd.Process.Signal(syscall.SIGTERM)
	if code := c.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	// But one that was never verified ends.
	c = run(t, site(t), nil)
	c.expect(vassal.Hello)
	c.control.Close()
	if code := c.exit(); code != 1 {
		t.Errorf("not verified: exit code %d", code)
	}
}

func TestFailures(t *testing.T) {
	for _, c := range []struct {
		name string
		app  vassal.App
		want string
	}{
		{"directory", vassal.App{Dir: "/does/not/exist"}, "chdir /does/not/exist: no such file or directory"},
		{"language", vassal.App{Workers: &vassal.Workers{Language: "cobol", Processes: 1, Threads: 1}}, "cobol"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := run(t, c.app, nil)
			p.expect(vassal.Hello)
			p.send(vassal.Verified)
			m := p.expect(vassal.Failed)
			if m.Reason == nil || !strings.Contains(m.Reason.Error(), c.want) {
				t.Errorf("got %+v, want %q", m.Reason, c.want)
			}
			if code := p.exit(); code != 1 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// TestLoading: a core that loads is not idle, and one that is given up meanwhile ends
// soon, and is no vassal that was stopped.
func TestLoading(t *testing.T) {
	testenv.Leaks(t)
	app := site(t)
	stopped := app.Dir + "/stopped"
	app.Sleep, app.Drain = time.Second, time.Minute
	app.Hooks = []vassal.Hook{{Phase: vassal.PreApp, Action: "exec", Arg: "sleep 3"}, {Phase: vassal.EmperorStop, Action: "exec", Arg: "touch " + stopped}}
	c := run(t, app, nil)
	c.expect(vassal.Hello)
	c.send(vassal.Verified)
	c.expect(vassal.Ready) // before any Idle
	since := time.Now()
	c.expect(vassal.Idle)
	if quiet := time.Since(since); quiet < 900*time.Millisecond {
		t.Errorf("idle after %v", quiet)
	}
	c.send(vassal.Drain)
	if code := c.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if err := os.Remove(stopped); err != nil {
		t.Errorf("the hook of a vassal that is stopped: %v", err)
	}
	app.Hooks[0].Arg = "sleep 60"
	c = run(t, app, nil)
	c.expect(vassal.Hello)
	c.send(vassal.Verified)
	began := time.Now()
	time.Sleep(300 * time.Millisecond)
	c.send(vassal.Drain)
	if code, took := c.exit(), time.Since(began); code != 0 || took > 4*time.Second {
		t.Errorf("given up: exit code %d after %v", code, took)
	}
	if _, err := os.Stat(stopped); err == nil {
		t.Error("the hook of a vassal that is stopped ran for one that was given up")
	}
}

// TestSuccession: two generations on one listener, as at a reload; no request
// of a client that asks all the time fails.
func TestSuccession(t *testing.T) {
	testenv.Leaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	app := site(t)
	up := func() *core {
		c := run(t, app, l)
		c.expect(vassal.Hello)
		c.send(vassal.Verified)
		c.expect(vassal.Ready)
		return c
	}
	old := up()
	stop, ended := make(chan struct{}), make(chan error, 2)
	var asked [2]int
	for i, keep := range []bool{false, true} {
		go func() {
			tr := &http.Transport{DisableKeepAlives: !keep}
			defer tr.CloseIdleConnections()
			client := http.Client{Timeout: 10 * time.Second, Transport: tr}
			for {
				select {
				case <-stop:
					ended <- nil
					return
				default:
				}
				// POST: a client never repeats it by itself.
				a, err := client.Post("http://"+l.Addr().String()+"/f", "text/plain", strings.NewReader("x"))
				if err != nil {
					ended <- fmt.Errorf("keep-alive %t, request %d: %w", keep, asked[i], err)
					return
				}
				io.Copy(io.Discard, a.Body)
				a.Body.Close()
				asked[i]++
			}
		}()
	}
	for range 3 {
		next := up()
		old.send(vassal.Drain)
		if code := old.exit(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		old = next
	}
	close(stop)
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if asked[0] < 10 || asked[1] < 10 {
		t.Errorf("only %v requests", asked)
	}
}

// TestWarnings: the Emperor knows what it warned of; the log shows it once, and
// no notes.
func TestWarnings(t *testing.T) {
	app := site(t)
	app.Warnings = vassal.Problems{{Severity: vassal.Warning, Message: "odd value"}, {Severity: vassal.Note, Message: "a note"}}
	c := run(t, app, nil)
	c.expect(vassal.Hello)
	c.send(vassal.Verified)
	if m := c.expect(vassal.Ready); len(m.Notes) != 0 {
		t.Errorf("ready says %v", m.Notes)
	}
	c.send(vassal.Drain)
	c.exit()
	if got := c.log.String(); strings.Count(got, "odd value") != 1 || strings.Contains(got, "a note") {
		t.Errorf("log:\n%s", got)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range []string{"", "--app=2", "--app=5 --control=5", "--app=5 --control=1", "--app=x", "--app=5 more", "--app=5 --x"} {
		if a, err := parse(strings.Fields(args)); err == nil {
			t.Errorf("%q is accepted: %+v", args, a)
		}
	}
	if a, err := parse([]string{"--control=4", "--app=5"}); err != nil || a != (arguments{app: 5, control: 4}) {
		t.Errorf("got %+v, %v", a, err)
	}
}

// --run executes the program that follows with the arguments after it, in the
// same process, and says why it cannot.
func TestRun(t *testing.T) {
	bin := filepath.Join(testenv.Binaries(t), "liege-core")
	cmd := exec.Command(bin, argRun, "/bin/sh", "sh", "-c", "echo $$ $0 $1; exit 7", "name", "arg")
	out, err := cmd.CombinedOutput()
	if want := fmt.Sprintf("%d name arg\n", cmd.Process.Pid); string(out) != want || cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("%q, %v; want %q and status 7", out, err, want)
	}
	cmd = exec.Command(bin, argRun, "/nowhere", "nowhere")
	out, _ = cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != cannotRun || !strings.Contains(string(out), "/nowhere: no such file") {
		t.Errorf("a program that is not there: status %d, %q", cmd.ProcessState.ExitCode(), out)
	}
}
