package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestCacheSurvives: what rules keep in a cache is there when the worker is
// gone, and with a store after a reload and a restart.
func TestCacheSurvives(t *testing.T) {
	dir := kitchen(t)
	app := "import os\ndef application(e, s):\n    if e['PATH_INFO'] == '/die': os._exit(1)\n    s('200 OK', [])\n    return [b'app']\n"
	ini := `[uwsgi]
http = 127.0.0.1:0
wsgi-file = app.py
processes = 1
cache2 = name=kept,items=10,store=store
cache2 = name=lost,items=10
route = ^/count cacheinc:key=n,name=kept
route = ^/count cacheinc:key=n,name=lost
route = ^/count cachevar:key=n,name=kept,num=1,var=KEPT
route = ^/count cachevar:key=n,name=lost,num=1,var=LOST
route = ^/count addheader:X-Count: ${KEPT} ${LOST}
`
	for name, text := range map[string]string{"app.py": app, "site.ini": ini} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(dir, int(nobody), int(nobody)); err != nil {
		t.Fatal(err)
	}
	count := func(url, want string) {
		t.Helper()
		res, err := http.Get(url + "count")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if got := res.Header.Get("X-Count"); got != want {
			t.Errorf("counted %q, want %q", got, want)
		}
	}
	s := serve(t, dir, nobody, "site.ini")
	url := s.await(loopURL, 1)
	count(url, "1 1")
	if res, err := http.Get(url + "die"); err == nil {
		res.Body.Close()
	}
	count(url, "2 2")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if b, err := os.ReadFile(dir + "/store"); err == nil && strings.Contains(string(b), "n\x02") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the store is not written")
		}
	}
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.await(loopURL, 2)
	count(url, "3 1")
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := s.exit(); code != 0 {
		t.Errorf("exit %d:\n%s", code, s.text())
	}
	again := serve(t, dir, nobody, "site.ini")
	count(again.await(loopURL, 1), "4 1")
	again.cmd.Process.Signal(syscall.SIGTERM)
	again.exit()
}
