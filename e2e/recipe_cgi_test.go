package e2e

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"liege/internal/testenv"
)

// The recipe "Full-Stack CGI setup": its file as it is, but for the place
// (/var), the ports and the address.

// cgiKitchen copies the recipe's files to a directory that everybody can
// enter, and returns it with the text of its file.
func cgiKitchen(t *testing.T, port, stats string) (dir, text string) {
	t.Helper()
	testenv.Need(t, testenv.Root, testenv.Lua)
	dir, err := os.MkdirTemp("/srv", "liege-cgi-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.CopyFS(dir, os.DirFS("testdata/recipes/cgi")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "recipe.ini"))
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{"workdir = /var\n", "ipaddress = 0.0.0.0\n", ":8080\n", "127.0.0.1:9191\n"} {
		if strings.Count(string(b), out) != 1 {
			t.Fatalf("%q is not in the recipe once", out)
		}
	}
	text = strings.NewReplacer("workdir = /var\n", "workdir = "+dir+"\n", "ipaddress = 0.0.0.0\n", "ipaddress = 127.0.0.1\n",
		":8080\n", ":"+port+"\n", "127.0.0.1:9191\n", stats+"\n").Replace(string(b))
	return dir, text
}

// checkCGI asks the recipe at addr what it should answer.
func checkCGI(t *testing.T, addr string) {
	t.Helper()
	ask := func(method, path, body string) (*http.Response, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Test", "yes")
		req.Header.Set("Proxy", "http://evil") // CVE-2016-5385
		c := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(b)
	}
	for _, c := range []struct {
		method, path, body string
		status             int
		want, location     string
	}{
		{"GET", "/", "", 200, "<h1>static</h1>\n", ""}, {"GET", "/leak.lua", "", 404, "404 Not Found\n", ""},
		{"GET", "/cgi-bin/", "", 200, "index of /cgi-bin/index.lua\n", ""}, {"GET", "/cgi-bin/sub", "", 301, "", "/cgi-bin/sub/"},
		{"GET", "/cgi-bin/sub/", "", 200, "index of /cgi-bin/sub/index.lua\n", ""}, {"GET", "/cgi-bin/none.lua", "", 404, "404 Not Found\n", ""},
		{"GET", "/cgi-bin/no.sh", "", 403, "403 Forbidden\n", ""}, {"GET", "/cgi-bin/../../../../bin/sh", "", 400, "400 Bad Request: invalid path\n", ""},
		{"GET", "/cgi-bin/%2e%2e/www/leak.lua", "", 404, "404 Not Found\n", ""}, {"GET", "/cgi-bin/move.lua", "", 302, "", "http://example.org/"},
		{"POST", "/cgi-bin/foo.lua/extra/path?q=1&r", "hello", 201, "GATEWAY_INTERFACE=CGI/1.1\nSERVER_PROTOCOL=HTTP/1.1\nREQUEST_METHOD=POST\nQUERY_STRING=q=1&r\n" +
			"SCRIPT_NAME=/cgi-bin/foo.lua\nCONTENT_LENGTH=5\nHTTP_X_TEST=yes\nbody=hello\n", ""},
	} {
		resp, got := ask(c.method, c.path, c.body)
		if resp.StatusCode != c.status || got != c.want || resp.Header.Get("Location") != c.location {
			t.Errorf("%s %s: got %d %q %q, want %d %q %q", c.method, c.path, resp.StatusCode, got, resp.Header.Get("Location"), c.status, c.want, c.location)
		}
	}
	resp, body := ask("POST", "/cgi-bin/foo.lua/extra/path", strings.Repeat("x", 1<<20))
	if resp.Header.Get("X-Extra") != "/extra/path" || !strings.HasSuffix(body, strings.Repeat("x", 1<<20)+"\n") || strings.Contains(body, "evil") {
		t.Errorf("POST of 1 MB: got %d bytes, %v", len(body), resp.Header)
	}
}

// checkCGIStats asks the recipe's stats.
func checkCGIStats(t *testing.T, addr string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var doc struct {
		Workers []struct {
			Requests int
			Status   string
		}
	}
	if err := json.NewDecoder(conn).Decode(&doc); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, w := range doc.Workers {
		n += w.Requests
	}
	if len(doc.Workers) != 4 || n < 5 {
		t.Errorf("stats name %d workers with %d requests, want 4 with at least 5", len(doc.Workers), n)
	}
}

func freeAddr(t *testing.T) (addr, port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr = l.Addr().String()
	_, port, _ = net.SplitHostPort(addr)
	return addr, port
}

func TestRecipeCGIServe(t *testing.T) {
	addr, port := freeAddr(t)
	stats, _ := freeAddr(t)
	dir, text := cgiKitchen(t, port, stats)
	ini := filepath.Join(dir, "recipe.ini")
	if err := os.WriteFile(ini, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s := serve(t, dir, 0, ini)
	t.Cleanup(func() {
		if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil || s.exit() != 0 {
			t.Errorf("it does not end as it should: %v\n%s", err, s.text())
		}
	})
	s.await(loopURL, 1)
	checkCGI(t, addr)
	checkCGIStats(t, stats)
	s.await("foo.lua was here", 2)
}

func TestRecipeCGIVassal(t *testing.T) {
	r := newRealm(t)
	addr, port := freeAddr(t)
	stats, _ := freeAddr(t)
	_, text := cgiKitchen(t, port, stats)
	r.write("vassals/recipe.ini", text)
	if v := r.up("recipe"); len(v.Problems) > 0 {
		t.Errorf("the recipe has problems: %v", v.Problems)
	}
	checkCGI(t, addr)
	checkCGIStats(t, stats)
	// With limits the core's own program sets them on itself, and then
	// executes the other.
	limited, port := freeAddr(t)
	_, text = cgiKitchen(t, port, "127.0.0.1:0")
	r.write("vassals/limited.ini", text+"limit-as = 1024\nprio = 5\n")
	r.up("limited")
	checkCGI(t, limited)
}

// TestCheckCGI: a directory or a helper that is not there is found before the
// start, by its line.
func TestCheckCGI(t *testing.T) {
	dir, text := cgiKitchen(t, "8080", "127.0.0.1:9191")
	ini := filepath.Join(dir, "recipe.ini")
	text = strings.Replace(text, "%(workdir)/cgi\n", "%(workdir)/gone\n", 1)
	text = strings.Replace(text, ".lua=lua\n", ".lua=no-such-lua\n", 1)
	if err := os.WriteFile(ini, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(testenv.Binaries(t), "liege"), "check", ini).CombinedOutput()
	if err == nil {
		t.Errorf("check finds nothing: %s", out)
	}
	for _, want := range []string{"recipe.ini:27: cgi: " + dir + "/gone does not exist", "recipe.ini:31: cgi-helper: no-such-lua is not found in "} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is not in:\n%s", want, out)
		}
	}
}
