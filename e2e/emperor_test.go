package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"liege/emperor/control"
	"liege/internal/testenv"
	"liege/internal/testnet"
	"liege/vassal"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// patience is how long anything may take on a busy machine before a test
// gives up: no test measures time by it.
const patience = "120s"

// realm is one Emperor with its directories.
type realm struct {
	t    *testing.T
	bin  string
	dir  string // everything of the test, traversable by everybody
	etc  string // the vassals
	run  string
	log  string
	cmd  *exec.Cmd
	said *bytes.Buffer

	ini     string     // emperor.ini
	sources []string   // directories beside etc
	env     []string   // of the Emperor
	net     *os.File   // the network namespace that it runs in; nil: this one
	given   []*os.File // what systemd kept, by the files' names
}

// newRealm starts an Emperor. It ends with the test.
func newRealm(t *testing.T) *realm {
	t.Helper()
	r := layRealm(t)
	r.begin()
	return r
}

// begin starts the Emperor of a realm that was laid out. It ends with the test.
func (r *realm) begin() {
	r.t.Helper()
	r.start()
	r.t.Cleanup(r.stop)
}

// layRealm makes the directories of an Emperor, and leaves it to begin to
// start it.
func layRealm(t *testing.T) *realm {
	t.Helper()
	testenv.Need(t, testenv.Root, testenv.CgroupV2, testenv.Python3, testenv.OpenTree)
	testenv.Leaks(t)
	dir, err := os.MkdirTemp("/srv", "liege-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r := &realm{
		t: t, bin: testenv.Binaries(t), dir: dir, etc: filepath.Join(dir, "vassals"), run: filepath.Join(dir, "run"),
		log: filepath.Join(dir, "log"), ini: "[emperor]\n", env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
	}
	if err := os.Mkdir(r.etc, 0o755); err != nil {
		t.Fatal(err)
	}
	return r
}

// in is the same realm for a subtest.
func (r *realm) in(t *testing.T) *realm {
	sub := *r
	sub.t = t
	return &sub
}

// start starts the Emperor and waits until it answers.
func (r *realm) start() {
	r.t.Helper()
	r.said = &bytes.Buffer{}
	args := []string{"emperor", "--run-dir", r.run, "--log-dir", r.log, "--state-dir", filepath.Join(r.dir, "state"), "--config", r.write("emperor.ini", r.ini), r.etc}
	r.cmd = exec.Command(filepath.Join(r.bin, "liege"), append(args, r.sources...)...)
	r.cmd.Stdout, r.cmd.Stderr = r.said, r.said
	r.cmd.Env = r.env
	if r.given != nil {
		r.gives()
	}
	if err := testnet.Inside(r.net, r.cmd.Start); err != nil {
		r.t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		if _, code := r.try("ls"); code == 0 {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("the Emperor does not answer:\n%s", r.said)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// gives has the Emperor be given what systemd kept (sd_listen_fds(3)), whose
// process number only a shell in its place knows.
func (r *realm) gives() {
	var names []string
	for _, f := range r.given {
		names = append(names, f.Name())
	}
	r.cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, r.cmd.Args...)
	r.cmd.Path, r.cmd.ExtraFiles = "/bin/sh", r.given
	r.cmd.Env = append(slices.Clone(r.env), fmt.Sprintf("LISTEN_FDS=%d", len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
}

// stop ends the Emperor as systemd would.
func (r *realm) stop() {
	if r.cmd == nil {
		return
	}
	r.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan error, 1)
	go func() { done <- r.cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			r.t.Errorf("the Emperor ended with %v:\n%s", err, r.said)
		}
	case <-time.After(60 * time.Second):
		r.cmd.Process.Kill()
		<-done
		r.t.Errorf("the Emperor did not end on SIGTERM:\n%s", r.said)
	}
	r.cmd = nil
}

// kill ends the Emperor as the OOM killer would.
func (r *realm) kill() {
	r.t.Helper()
	if err := r.cmd.Process.Kill(); err != nil {
		r.t.Fatal(err)
	}
	r.cmd.Wait()
}

// try runs a liege command and returns its output and exit code.
func (r *realm) try(args ...string) (string, int) {
	cmd := exec.Command(filepath.Join(r.bin, "liege"), append(args, "--run-dir", r.run)...)
	out, err := cmd.CombinedOutput()
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(out), e.ExitCode()
	}
	if err != nil {
		return err.Error(), -1
	}
	return string(out), 0
}

// liege runs a liege command that must succeed.
func (r *realm) liege(args ...string) string {
	r.t.Helper()
	out, code := r.try(args...)
	if code != 0 {
		status, _ := r.try("status")
		r.t.Fatalf("liege %s: exit %d\n%s\n%s\nEmperor:\n%s", strings.Join(args, " "), code, out, status, r.said)
	}
	return out
}

// write writes a file below the realm's directory, whole or not at all.
func (r *realm) write(name, text string) string {
	r.t.Helper()
	p := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		r.t.Fatal(err)
	}
	tmp := filepath.Join(filepath.Dir(p), "."+filepath.Base(p)+".tmp")
	if err := errors.Join(os.WriteFile(tmp, []byte(text), 0o644), os.Rename(tmp, p)); err != nil {
		r.t.Fatal(err)
	}
	return p
}

// drop writes a vassal file; lines get the section.
func (r *realm) drop(name, lines string) {
	r.t.Helper()
	r.write("vassals/"+name+".ini", "[uwsgi]\n"+strings.ReplaceAll(lines, "DIR", r.dir))
}

// up waits until the file's present content serves.
func (r *realm) up(name string) control.Vassal {
	r.t.Helper()
	r.liege("wait", name, "applied", "--timeout", patience)
	return r.status(name)
}

func (r *realm) status(name string) control.Vassal {
	r.t.Helper()
	var v control.Vassal
	out := r.liege("status", name, "--json")
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		r.t.Fatalf("%v in %s", err, out)
	}
	return v
}

// client speaks to one address of a vassal, a path or host:port.
func client(addr string, keepAlive bool) *http.Client {
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: !keepAlive,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, addr)
		},
	}}
}

// get asks once and returns status and body.
func (r *realm) get(addr, path string) (int, string) {
	r.t.Helper()
	c := client(addr, false)
	resp, err := c.Get("http://vassal" + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// loop asks again and again until told to stop, and reports every request
// that was not answered with 200.
func (r *realm) loop(addr string) (stop func() int) {
	ctx, cancel := context.WithCancel(r.t.Context())
	type tally struct {
		n   int
		bad []string
	}
	done := make(chan tally, 2)
	for _, keepAlive := range []bool{false, true} {
		go func() {
			var seen tally
			c := client(addr, keepAlive)
			defer c.CloseIdleConnections()
			for ctx.Err() == nil {
				resp, err := c.Get("http://vassal/")
				seen.n++
				switch {
				case err != nil:
					seen.bad = append(seen.bad, time.Now().Format("05.000 ")+err.Error())
				case resp.StatusCode != 200:
					seen.bad = append(seen.bad, time.Now().Format("05.000 ")+resp.Status)
				}
				if err == nil {
					if _, err := io.Copy(io.Discard, resp.Body); err != nil {
						seen.bad = append(seen.bad, "body: "+err.Error())
					}
					resp.Body.Close()
				}
			}
			done <- seen
		}()
	}
	return func() int {
		r.t.Helper()
		cancel()
		n := 0
		for range 2 {
			seen := <-done
			n += seen.n
			if len(seen.bad) > 0 {
				r.t.Errorf("%d of %d requests failed: %s", len(seen.bad), seen.n, strings.Join(seen.bad[:min(9, len(seen.bad))], "; "))
			}
		}
		if n == 0 {
			r.t.Error("no request was sent")
		}
		return n
	}
}

// hello is an app that answers with text.
func hello(text string) string {
	return fmt.Sprintf("def application(environ, start_response):\n    start_response('200 OK', [('Content-Type', 'text/plain')])\n    return [%q.encode()]\n", text)
}

func problem(v control.Vassal, code string) *vassal.Problem {
	for i := range v.Problems {
		if v.Problems[i].Code == code {
			return &v.Problems[i]
		}
	}
	return nil
}
