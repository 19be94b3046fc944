package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"liege/vassal"
)

// TestReloadNearMemoryMax: where [ceilings] leaves no memory for two generations, a
// reload waits for the end of the old one, whose open request is answered.
func TestReloadNearMemoryMax(t *testing.T) {
	r := newRealm(t)
	r.ini = "[emperor]\n[ceilings]\nmemory-max = 160M\n"
	r.stop()
	r.start()
	r.write("app/app.py", strings.ReplaceAll(`import os, time
kept = bytearray(b"x") * (110 << 20)
def application(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        open("DIR/signs/open", "w").close()
        while not os.path.exists("DIR/signs/go"):
            time.sleep(0.01)
    start_response("200 OK", [])
    return [b"whole"]
`, "DIR", r.dir))
	if err := os.MkdirAll(filepath.Join(r.dir, "signs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(r.dir, "signs"), 0o777); err != nil {
		t.Fatal(err)
	}
	r.drop("full", "uid = nobody\nhttp = 127.0.0.1:0\nmemory-max = 160M\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\nbind = DIR/signs\n")
	v := r.up("full")
	answer := make(chan string, 1)
	go func() {
		resp, err := client(v.Listen[0], false).Get("http://vassal/slow")
		if err != nil {
			answer <- err.Error()
			return
		}
		resp.Body.Close()
		answer <- resp.Status
	}()
	r.until("the request is open", func() bool { _, err := os.Stat(filepath.Join(r.dir, "signs/open")); return err == nil })
	done := make(chan string, 1)
	go func() {
		out, _ := r.try("reload", "full", "--timeout", patience)
		done <- out
	}()
	r.until("it drains or has a successor", func() bool {
		now := r.status("full")
		return now.State == "draining" || now.State == "starting" || now.Generation > v.Generation
	})
	time.AfterFunc(time.Second, func() { r.write("signs/go", "") })
	if got := <-answer; got != "200 OK" {
		t.Errorf("the open request: %s", got)
	}
	t.Log(<-done)
	r.up("full")
	now := r.status("full")
	if now.OOMKills != 0 || now.Generation != v.Generation+1 || !slices.ContainsFunc(now.Problems, func(p vassal.Problem) bool { return p.Code == vassal.CodeNoRoom }) {
		t.Errorf("reloaded: %d killed, generation %d, problems %+v", now.OOMKills, now.Generation, now.Problems)
	}
	if code, body := r.get(v.Listen[0], "/"); code != 200 || body != "whole" {
		t.Errorf("%d %q", code, body)
	}
}
