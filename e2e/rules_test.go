package e2e

import (
	"fmt"
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
)

// TestRulesBesideUWSGI: one file of rules under uWSGI and under Liege answers
// every request the same.
func TestRulesBesideUWSGI(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Python3, testenv.Uwsgi)
	dir := kitchen(t)
	if err := os.Mkdir(dir+"/site", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"site.ini", "app.py"} {
		b, err := os.ReadFile(filepath.Join("testdata/recipes/rules", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "site", name), []byte(strings.ReplaceAll(string(b), "DIR", dir)), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	file := dir + "/site/site.ini"
	ours := serve(t, dir, 0, "--http", "127.0.0.1:0", "--uid", "nobody", file)
	defer func() { ours.cmd.Process.Signal(syscall.SIGTERM); ours.exit() }()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	theirs := l.Addr().String()
	l.Close()
	log, err := os.Create(dir + "/uwsgi.log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("uwsgi", "--ini", file, "--http-socket", theirs, "--uid", "nobody", "--die-on-term")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() }()
	a := &recipe{t: t, addr: strings.Trim(strings.TrimPrefix(ours.await(loopURL, 1), "http://"), "/")}
	b := &recipe{t: t, addr: theirs}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", theirs); err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(dir + "/uwsgi.log")
			t.Fatalf("uWSGI does not start:\n%s", text)
		}
	}
	for _, q := range []string{
		"/", "/goto/a", "/goto/b", "/goto/num", "/redirect/a/b/c", "/redirect/a b/c%20d", "/gone?a=b", "/gone", "/break", "/return", "/rewrite/x?old=2", "/rewrite/x", "/rewrite/a%2Fb",
		"/vars?q=1&c=2", "/vars?q=%41", "/math", "/hash?alice", "/hash?bob", "/hash?", "/hash?abcdefg", "/hash?abcdefgh1", "/cond?x", "/cond/end", "/header", "/set", "/auth", "/uri?a=bc", "/x?k=v&a=b", "/x?a=b&k=",
		"/color", "/late/one", "/late/", "//double", "/dot/./x/../y",
		"/cache/inc", "/cache/inc", "/cache/item", "/cache/none", "/cache/page/a", "/cache/page/a", "/cache/page/b", "/cache/mime", "/metric", "/metric",
	} {
		for _, fields := range [][]string{nil, {"X-Test", "v12.7", "Cookie", "c=d; e=f"}, {"Authorization", "Basic am9lOnNlY3JldA=="}, {"Authorization", "Basic am9lOndyb25n"}} {
			if got, want := look(a, q, fields), look(b, q, fields); got != want {
				t.Errorf("%s %v:\nLiege %s\nuWSGI %s", q, fields, got, want)
			}
		}
	}
}

// look asks and returns what both must agree on.
func look(r *recipe, path string, fields []string) string {
	res, body := r.ask("GET", path, fields...)
	out := fmt.Sprintf("%d", res.StatusCode)
	for _, name := range []string{"Location", "Www-Authenticate", "X-One", "X-All", "X-App", "X-Was", "X-Late", "X-Color"} {
		if v := strings.Join(res.Header.Values(name), ","); v != "" {
			out += " | " + name + ": " + strings.ReplaceAll(v, r.addr, "ADDR")
		}
	}
	if res.StatusCode == http.StatusOK {
		out += " | Content-Type: " + res.Header.Get("Content-Type") + " | " + strings.ReplaceAll(body, r.addr, "ADDR")
	}
	return out
}
