package e2e

import (
	"encoding/json"
	"net"
	"strings"
	"testing"

	"liege/internal/testenv"
)

// TestRecipeMounts: three Flask applications on mount points, asked over HTTP
// and, through nginx, over the uwsgi protocol. What belongs to no mount point
// goes to the first.
func TestRecipeMounts(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Python3, testenv.Flask, testenv.Nginx)
	stats, _ := freeAddr(t)
	for _, mode := range []string{"", "single-interpreter = true\n"} {
		cook(t, "mounts", "site.ini", nil, "http-socket = 127.0.0.1:0\nstats = "+stats+"\nchmod-socket = 666\n"+mode, func(r *recipe) {
			// Flask leads to its own root, of which it knows by SCRIPT_NAME.
			if res, _ := r.ask("GET", "/app1"); res.StatusCode != 308 || !strings.HasSuffix(res.Header.Get("Location"), "/app1/") {
				r.t.Errorf("/app1: got %d %q", res.StatusCode, res.Header.Get("Location"))
			}
			// A point ends with its segment: the first application has no such page.
			if res, _ := r.ask("GET", "/app20/"); res.StatusCode != 404 {
				r.t.Errorf("/app20/: got %d", res.StatusCode)
			}
			nr := &realm{t: r.t, dir: r.dir}
			pass := "uwsgi_pass unix:" + r.dir + "/site/uwsgi.sock; include /etc/nginx/uwsgi_params; "
			addr := nginx(r.t, nr, pass)
			for path, want := range map[string]string{
				"/app1/": "Hello World! i am app1", "/app2/": "Hello World! i am app2", "/app3/": "Hello World! i am app3", "/": "Hello World! i am app1",
			} {
				if res, got := r.ask("GET", path); res.StatusCode != 200 || got != want {
					r.t.Errorf("%s: got %d %q, want %q", path, res.StatusCode, got, want)
				}
				if code, got := nr.get(addr, path); code != 200 || got != want {
					r.t.Errorf("through nginx, %s: got %d %q, want %q", path, code, got, want)
				}
			}
			checkMountStats(r.t, stats)
		})
	}
}

// checkMountStats: each worker has an entry per application.
func checkMountStats(t *testing.T, addr string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var doc struct {
		Workers []struct {
			Requests int
			Apps     []struct {
				ID         int
				Mountpoint string
				Requests   int
			}
		}
	}
	if err := json.NewDecoder(conn).Decode(&doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Workers) != 1 || len(doc.Workers[0].Apps) != 3 {
		t.Fatalf("stats: %+v", doc)
	}
	sum := 0
	for i, a := range doc.Workers[0].Apps {
		sum += a.Requests
		if a.ID != i || a.Mountpoint != []string{"/app1", "/app2", "/app3"}[i] || a.Requests < 2 {
			t.Errorf("app %d: %+v", i, a)
		}
	}
	if doc.Workers[0].Requests != sum || sum != 10 {
		t.Errorf("%d requests, of the apps %d; want 10", doc.Workers[0].Requests, sum)
	}
}
