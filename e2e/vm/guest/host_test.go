package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"liege/emperor/control"
	"liege/internal/testenv"
)

// patience is how long anything may take on an emulated machine before a test
// gives up: no test measures time by it.
const patience = 60 * time.Second

const vassals = "/etc/vassals"

// host is the machine with the Emperor that systemd started.
type host struct {
	*testing.T
	files    []string // to be removed in the end
	expected []string // denials

	tolerated []string // domains whose denials are not looked at
}

// newHost expects the Emperor to serve nothing, and leaves it so. What SELinux
// denies until then and the test did not expect fails it.
func newHost(t *testing.T) *host {
	t.Helper()
	testenv.Need(t, testenv.Guest, testenv.Enforcing)
	h := &host{T: t}
	h.until("the Emperor is up", func() bool { return h.call(control.Request{Verb: control.List}, nil) == nil })
	h.watchDenials(h.auditMark())
	t.Cleanup(h.clear)
	return h
}

// clear removes what the test dropped and waits until it is gone.
func (h *host) clear() {
	if h.Failed() {
		for _, args := range [][]string{{"liege", "status"}, {"systemctl", "status", "--no-pager", "--lines=30", "liege"}} {
			said, _ := h.try(args...)
			h.Logf("%s\n%s", strings.Join(args, " "), said)
		}
	}
	for _, f := range h.files {
		os.Remove(f)
	}
	for _, f := range h.files {
		if name, is := strings.CutSuffix(filepath.Base(f), ".ini"); is {
			if err := h.wait(name, "gone"); err != nil {
				h.Errorf("%s stays: %v", name, err)
			}
		}
	}
}

// try runs a command and returns what it printed and its exit code.
func (h *host) try(args ...string) (string, int) {
	ctx, cancel := h.withPatience()
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(out), e.ExitCode()
	}
	if err != nil {
		return err.Error(), -1
	}
	return strings.TrimRight(string(out), "\n"), 0
}

// withPatience is a context for one thing, in a clean-up too.
func (h *host) withPatience() (context.Context, context.CancelFunc) {
	ctx := h.Context()
	if ctx.Err() != nil {
		ctx = context.Background()
	}
	return context.WithTimeout(ctx, 2*patience)
}

// call asks the Emperor as the command liege does, which would take half a
// second to start here.
func (h *host) call(r control.Request, each func(control.Reply)) error {
	ctx, cancel := h.withPatience()
	defer cancel()
	r.Timeout = patience
	return control.Call(ctx, control.Socket("/run/liege"), r, func(reply control.Reply) error {
		if each != nil {
			each(reply)
		}
		return nil
	})
}

// wait is "liege wait".
func (h *host) wait(name, goal string) error {
	return h.call(control.Request{Verb: control.Wait, Names: []string{name}, Goal: goal}, nil)
}

// look is "liege status", for a vassal that may not be there.
func (h *host) look(name string) (control.Vassal, error) {
	var found *control.Vassal
	err := h.call(control.Request{Verb: control.Status, Names: []string{name}}, func(r control.Reply) { found = r.Vassal })
	if err != nil || found == nil {
		return control.Vassal{}, errors.Join(err, errors.New("no such vassal"))
	}
	return *found, nil
}

// run runs a command that must succeed.
func (h *host) run(args ...string) string {
	h.Helper()
	out, code := h.try(args...)
	if code != 0 {
		h.Fatalf("%s: exit %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// until polls for what no command waits for.
func (h *host) until(what string, ok func() bool) {
	h.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.Fatalf("not in time: %s", what)
		}
	}
}

// write writes a file whole or not at all, labelled as the policy wants it.
func (h *host) write(path, text string) {
	h.Helper()
	h.replace(path, text)
	h.run("restorecon", "-F", path)
}

// replace is write, with the label of the directory.
func (h *host) replace(path, text string) {
	h.Helper()
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(tmp, []byte(text), 0o644), os.Rename(tmp, path)); err != nil {
		h.Fatal(err)
	}
}

// drop writes a vassal file; lines get the section.
func (h *host) drop(name, lines string) {
	h.Helper()
	path := filepath.Join(vassals, name+".ini")
	h.files = append(h.files, path)
	h.replace(path, "[uwsgi]\n"+lines)
}

// dropAs is drop of a file that belongs to a user.
func (h *host) dropAs(user, name, lines string) {
	h.Helper()
	path := filepath.Join(vassals, name+".ini")
	h.files = append(h.files, path)
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte("[uwsgi]\n"+lines), 0o644); err != nil {
		h.Fatal(err)
	}
	h.run("chown", user+":", tmp)
	if err := os.Rename(tmp, path); err != nil {
		h.Fatal(err)
	}
}

// up waits until the file's present content serves.
func (h *host) up(name string) control.Vassal {
	h.Helper()
	if err := h.wait(name, "applied"); err != nil {
		h.Fatalf("%s does not come up: %v", name, err)
	}
	return h.status(name)
}

func (h *host) status(name string) control.Vassal {
	h.Helper()
	v, err := h.look(name)
	if err != nil {
		h.Fatalf("%s: %v", name, err)
	}
	return v
}

// app drops the vassal of a demonstration app, foo or bar, that answers with
// text, and waits until it serves. more are lines of its file.
func (h *host) app(name, text string, more ...string) control.Vassal {
	h.Helper()
	h.write("/srv/"+name+"/app.py", hello(text))
	h.drop(name, appLines(name, more...))
	return h.up(name)
}

func appLines(name string, more ...string) string {
	return fmt.Sprintf("uid = %s\nhttp = 127.0.0.1:0\nchdir = /srv/%[1]s\nwsgi-file = /srv/%[1]s/app.py\n%s\n", name, strings.Join(more, "\n"))
}

// hello is an app that answers with text.
func hello(text string) string {
	return fmt.Sprintf("def application(environ, start_response):\n    start_response('200 OK', [('Content-Type', 'text/plain')])\n    return [%q.encode()]\n", text)
}

// get asks once, on a connection of its own.
func get(addr, path string) (int, string, error) {
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	c := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		}}}
	resp, err := c.Get("http://vassal" + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// answers expects a 200 with text.
func (h *host) answers(addr, path, text string) {
	h.Helper()
	if code, body, err := get(addr, path); err != nil || code != 200 || body != text {
		h.Errorf("%s%s: %d %q, %v; want 200 %q", addr, path, code, body, err, text)
	}
}

// loop asks again and again, with curl, until stop, which reports every
// request that was not answered with 200.
func (h *host) loop(addr string) (stop func()) {
	ctx, cancel := context.WithCancel(h.Context())
	type tally struct {
		n   int
		bad []string
	}
	done := make(chan tally, 1)
	go func() {
		var seen tally
		for ctx.Err() == nil {
			out, err := exec.CommandContext(ctx, "curl", "--silent", "--show-error", "--max-time", "60", "--output", "/dev/null", "--write-out", "%{http_code}", "http://"+addr+"/").CombinedOutput()
			if ctx.Err() != nil {
				break
			}
			seen.n++
			if err != nil || string(out) != "200" {
				seen.bad = append(seen.bad, fmt.Sprintf("%s: %v %s", time.Now().Format("05.000"), err, out))
			}
			time.Sleep(50 * time.Millisecond) // the machine has other things to do
		}
		done <- seen
	}()
	h.Cleanup(cancel)
	return func() {
		h.Helper()
		cancel()
		seen := <-done
		if seen.n == 0 || len(seen.bad) > 0 {
			h.Errorf("%d of %d requests failed: %s", len(seen.bad), seen.n, strings.Join(seen.bad[:min(9, len(seen.bad))], "; "))
		}
	}
}
