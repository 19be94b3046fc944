package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"liege/emperor/control"
)

// held asks addr and reports what is not the answer wanted.
func (r *realm) held(addr string, status int, page string) {
	r.t.Helper()
	resp, err := client(addr, false).Post("http://vassal/any/path", "text/plain", strings.NewReader("a body"))
	if err != nil {
		r.t.Errorf("%s: %v", addr, err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != status || string(body) != page && page != "" || resp.Header.Get("Retry-After") == "" || err != nil {
		r.t.Errorf("%s: %s, Retry-After %q, %q, %v; want %d %q", addr, resp.Status, resp.Header.Get("Retry-After"), body, err, status, page)
	}
}

// askUWSGI asks once in the uwsgi protocol.
func askUWSGI(t *testing.T, addr string) string {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var vars []byte
	for _, s := range []string{"REQUEST_METHOD", "GET", "PATH_INFO", "/", "SERVER_PROTOCOL", "HTTP/1.1"} {
		vars = append(binary.LittleEndian.AppendUint16(vars, uint16(len(s))), s...)
	}
	packet := append(binary.LittleEndian.AppendUint16([]byte{0}, uint16(len(vars))), 0)
	if _, err := c.Write(append(packet, vars...)); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// processes counts the processes whose real uid is uid.
func processes(t *testing.T, uid int) (n int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(b), fmt.Sprintf("\nUid:\t%d\t", uid)) {
			n++
		}
	}
	return n
}

// answers asks again and again until told to stop, and counts the answers by
// status. A request without an answer is an error.
func (r *realm) answers(addr string) (stop func() map[int]int) {
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan map[int]int, 1)
	go func() {
		seen := map[int]int{}
		for c := client(addr, true); ctx.Err() == nil; time.Sleep(time.Millisecond) {
			resp, err := c.Get("http://vassal/")
			if err != nil {
				r.t.Errorf("no answer: %v", err)
				continue
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				r.t.Errorf("half an answer: %v", err)
			}
			resp.Body.Close()
			seen[resp.StatusCode]++
		}
		done <- seen
	}()
	return func() map[int]int { cancel(); return <-done }
}

// tenant is a uid that nothing else on a machine has.
const tenant = 61234

// TestSuspend: every listener of a suspended vassal answers, nothing of it
// lives, and that outlives the Emperor, ended or killed.
func TestSuspend(t *testing.T) {
	r := newRealm(t)
	r.write("app/hello.py", hello("served"))
	page := r.write("page.html", "<h1>unpaid</h1>\n")
	sock := filepath.Join(r.dir, "sock/s.sock")
	if err := os.Mkdir(filepath.Dir(sock), 0o755); err != nil {
		t.Fatal(err)
	}
	lines := fmt.Sprintf("uid = %d\ngid = %d\nhttp = 127.0.0.1:0\nsocket = 127.0.0.2:0\nhttp-socket = %s\nstats = 127.0.0.3:0\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\nprocesses = 2\n", tenant, tenant, sock)
	r.drop("shop", lines)
	v := r.up("shop")
	var tcp []string
	for _, a := range v.Listen {
		if a[0] != '/' {
			tcp = append(tcp, a)
		}
	}
	if len(v.Listen) != 4 || len(tcp) != 3 {
		t.Fatalf("listens on %v", v.Listen)
	}
	http, uwsgi, stats := tcp[0], tcp[1], tcp[2]
	if n := processes(t, tenant); n < 3 {
		t.Fatalf("%d processes of the vassal, want a core and workers", n)
	}

	stop := r.answers(http)
	r.liege("suspend", "shop", "--status", "402", "--page", page, "--reason", "not paid", "--timeout", patience)
	check := func(when string) control.Vassal {
		t.Helper()
		r.held(http, 402, "<h1>unpaid</h1>\n")
		r.held(sock, 402, "<h1>unpaid</h1>\n")
		if got := askUWSGI(t, uwsgi); !strings.Contains(got, " 402 ") || !strings.Contains(got, "Retry-After: ") || !strings.HasSuffix(got, "<h1>unpaid</h1>\n") {
			t.Errorf("%s: uwsgi protocol: %q", when, got)
		}
		if code, body := r.get(sock, "/"); code != 402 {
			t.Errorf("%s: %d %q", when, code, body)
		}
		if c, err := net.Dial("tcp", stats); err != nil {
			t.Errorf("%s: stats: %v", when, err)
		} else {
			if b, err := io.ReadAll(c); err != nil || !strings.Contains(string(b), `"workers": []`) {
				t.Errorf("%s: stats: %v\n%s", when, err, b)
			}
			c.Close()
		}
		if n := processes(t, tenant); n != 0 {
			t.Errorf("%s: %d processes of the vassal live", when, n)
		}
		s := r.status("shop")
		if s.State != control.Suspended || s.Suspended == nil || s.Suspended.Reason != "not paid" || s.Error != nil || s.Generation != v.Generation || s.Restarts != 0 {
			t.Errorf("%s: %+v", when, s)
		}
		return s
	}
	check("suspended")
	if !strings.Contains(r.said.String(), `reason="not paid"`) {
		t.Errorf("the reason is not in the log:\n%s", r.said)
	}

	r.kill()
	r.held(http, 402, "<h1>unpaid</h1>\n")
	r.start()
	r.liege("wait", "shop", "suspended", "--timeout", patience)
	if s := check("after a kill"); s.Listen[0] != v.Listen[0] {
		t.Errorf("listens on %v, before on %v", s.Listen, v.Listen)
	}
	r.liege("resume", "shop", "--timeout", patience)
	if code, body := r.get(http, "/"); code != 200 || body != "served" {
		t.Errorf("resumed: %d %q", code, body)
	}
	if seen := stop(); seen[200] == 0 || seen[402] == 0 || len(seen) != 2 {
		t.Errorf("answers by status: %v, want 200 and 402", seen)
	}
	if s := r.status("shop"); s.Suspended != nil || s.State != control.Running {
		t.Errorf("resumed: %+v", s)
	}

	// Ended and started again, the listeners are other sockets.
	r.liege("suspend", "shop", "--timeout", patience)
	r.stop()
	if _, err := net.Dial("tcp", http); err == nil {
		t.Error("it still listens without an Emperor that would end it")
	}
	r.start()
	r.liege("wait", "shop", "suspended", "--timeout", patience)
	r.held(sock, 503, "")
	if n := processes(t, tenant); n != 0 {
		t.Errorf("after a restart %d processes of the vassal live", n)
	}
}

// TestBackoffAnswers: who asks an app that does not come up is told so.
func TestBackoffAnswers(t *testing.T) {
	r := newRealm(t)
	r.write("app/shop.py", "import no_such_module_here\n")
	sock := filepath.Join(r.dir, "sock/s.sock")
	if err := os.Mkdir(filepath.Dir(sock), 0o755); err != nil {
		t.Fatal(err)
	}
	r.drop("shop", fmt.Sprintf("uid = nobody\ngid = nogroup\nhttp-socket = %s\nchdir = DIR/app\nwsgi-file = DIR/app/shop.py\n", sock))
	r.until("it answers", func() bool {
		resp, err := client(sock, false).Get("http://vassal/")
		if err != nil {
			return false // not yet: the first failures are not bridged
		}
		resp.Body.Close()
		return resp.StatusCode == 503
	})
	r.held(sock, 503, "")
	r.liege("wait", "shop", "backoff", "--timeout", patience)
	stop := r.answers(sock)
	r.write("app/shop.py", hello("mended"))
	r.liege("start", "shop", "--timeout", patience)
	if code, body := r.get(sock, "/"); code != 200 || body != "mended" {
		t.Errorf("mended: %d %q", code, body)
	}
	if seen := stop(); seen[503] == 0 || len(seen) > 2 {
		t.Errorf("answers by status: %v, want 503, then 200", seen)
	}
}
