package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
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

	"liege/internal/testcert"
	"liege/internal/testenv"
)

// vault is a directory of certificates that only root can write.
func vault(t *testing.T) string {
	t.Helper()
	testenv.Need(t, testenv.Root)
	dir, err := os.MkdirTemp("/srv", "liege-certs-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// secureClient speaks to addr over TLS, by HTTP/2 or HTTP/1.1, and trusts ca.
func secureClient(t *testing.T, addr string, h2, keepAlive bool, ca *testcert.Made) *http.Client {
	conf := testcert.Trusting(ca)
	tr := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: h2, DisableKeepAlives: !keepAlive, DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		}}
	if !h2 {
		tr.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// read asks once.
func read(t *testing.T, c *http.Client, url string, pairs ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(pairs); i += 2 {
		req.Header.Set(pairs[i], pairs[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

// TestRecipeForceHTTPS: the recipes that lead to https, with https served.
func TestRecipeForceHTTPS(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Python3)
	certs := vault(t)
	site := testcert.New(t, testcert.Cert{Name: "localhost"})
	site.Write(t, certs, "site")
	large := bytes.Repeat([]byte("0123456789"), 100_000)
	if err := os.Mkdir(filepath.Join(certs, "www"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(certs, "www/file"), large, 0o644); err != nil {
		t.Fatal(err)
	}
	secure, port := freeAddr(t)
	leads, _ := freeAddr(t)
	words := map[string]string{"SECURE": secure, "PORT": port, "LEADS": leads, "CERTS": certs, "UPSTREAM": kafka(t)}
	cook(t, "tls", "site.ini", words, "", func(r *recipe) {
		res, _ := r.ask("GET", "/a/b?c=d", "HTTPS", "on", "X-Forwarded-Proto", "https", "Https", "on")
		if res.StatusCode != 301 || res.Header.Get("Location") != "https://"+r.addr+"/a/b?c=d" || res.Header.Get("Strict-Transport-Security") != "" {
			r.t.Errorf("%d %v", res.StatusCode, res.Header)
		}
		res, _ = (&recipe{r.t, r.dir, leads}).ask("GET", "/a/b?c=d")
		if res.StatusCode != 301 || res.Header.Get("Location") != "https://127.0.0.1:"+port+"/a/b?c=d" {
			r.t.Errorf("http-to-https: %d %v", res.StatusCode, res.Header)
		}
		for _, h2 := range []bool{false, true} {
			c := secureClient(r.t, secure, h2, true, site)
			res, got := read(r.t, c, "https://localhost/a", "HTTPS", "off")
			if res.StatusCode != 200 || got != "app /a on" || res.Header.Get("Strict-Transport-Security") != "max-age=31536000" || (res.ProtoMajor == 2) != h2 {
				r.t.Errorf("%s: %d %q %v", res.Proto, res.StatusCode, got, res.Header)
			}
			if res, got := read(r.t, c, "https://localhost/file"); res.StatusCode != 200 || got != string(large) {
				r.t.Errorf("%s: a file: %d, %d bytes", res.Proto, res.StatusCode, len(got))
			}
			if res, got := read(r.t, c, "https://localhost/file", "Range", "bytes=500000-599999"); res.StatusCode != 206 || got != string(large[:100_000]) {
				r.t.Errorf("%s: a range: %d, %d bytes", res.Proto, res.StatusCode, len(got))
			}
			c.CloseIdleConnections()
		}
		webSocketOverTLS(r.t, secure, site)
		curl(r.t, secure, port, filepath.Join(certs, "site.crt"))
	})
	cook(t, "tls", "admin.ini", words, "", func(r *recipe) {
		if res, _ := r.ask("GET", "/admin/x", "HTTPS", "on"); res.StatusCode != 301 || res.Header.Get("Location") != "https://"+r.addr+"/admin/x" {
			r.t.Errorf("%d %v", res.StatusCode, res.Header)
		}
		if res, got := r.ask("GET", "/other", "HTTPS", "on"); res.StatusCode != 200 || got != "app /other -" {
			r.t.Errorf("%d %q", res.StatusCode, got)
		}
		if res, got := read(r.t, secureClient(r.t, secure, true, false, site), "https://localhost/admin"); res.StatusCode != 200 || got != "app /admin on" {
			r.t.Errorf("%d %q", res.StatusCode, got)
		}
	})
}

// webSocketOverTLS makes a tunnel and uses it in both directions.
func webSocketOverTLS(t *testing.T, addr string, ca *testcert.Made) {
	t.Helper()
	conf := testcert.Trusting(ca)
	conf.ServerName, conf.NextProtos = "localhost", []string{"http/1.1"}
	c, err := tls.Dial("tcp", addr, conf)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: key\r\n\r\n")
	br := bufio.NewReader(c)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != 101 {
		t.Fatalf("%v %+v", err, res)
	}
	line, err := br.ReadString('\n')
	if want := "GET /ws|WebSocket|Upgrade|key\n"; line != want || err != nil {
		t.Errorf("%q %v", line, err)
	}
	for _, text := range []string{"hello", strings.Repeat("again", 50_000)} {
		go io.WriteString(c, text)
		buf := make([]byte, len(text))
		if _, err := io.ReadFull(br, buf); err != nil || string(buf) != text {
			t.Errorf("%v %.20q", err, buf)
		}
	}
}

// curl is a client of somebody else's.
func curl(t *testing.T, addr, port, ca string) {
	t.Helper()
	testenv.Need(t, testenv.Curl)
	for _, arg := range []string{"--http1.1", "--http2"} {
		out, err := exec.CommandContext(t.Context(), "curl", "-sS", arg, "--cacert", ca, "--resolve", "localhost:"+port+":127.0.0.1",
			"-w", " %{http_version}", "--data-binary", "abc", "https://localhost:"+port+"/c").CombinedOutput()
		want := "app /c on " + map[string]string{"--http1.1": "1.1", "--http2": "2"}[arg]
		if err != nil || string(out) != want {
			t.Errorf("curl %s %s: %q %v", arg, addr, out, err)
		}
	}
}

// load asks over TLS without pause, on new connections and on kept ones of both
// versions, and counts whose certificate was met. A request that fails is an
// error.
func load(t *testing.T, addr string, cas ...*testcert.Made) (stop func() map[string]int) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan map[string]int, 3)
	for i := range 3 {
		conf := testcert.Trusting(cas...)
		tr := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: i == 2, DisableKeepAlives: i == 0,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "tcp", addr)
			}}
		c := &http.Client{Transport: tr, Timeout: 30 * time.Second}
		go func() {
			seen := map[string]int{}
			for ctx.Err() == nil {
				res, err := c.Get("https://localhost/")
				if err != nil {
					t.Errorf("after %v: %v", seen, err)
					break
				}
				if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != 200 {
					t.Errorf("after %v: %s %v", seen, res.Status, err)
				}
				res.Body.Close()
				seen[res.TLS.PeerCertificates[0].Subject.Organization[0]]++
			}
			tr.CloseIdleConnections()
			done <- seen
		}()
	}
	return func() map[string]int {
		cancel()
		all := map[string]int{}
		for range 3 {
			for k, n := range <-done {
				all[k] += n
			}
		}
		return all
	}
}

// met is whose certificate a client meets at addr that asks for name.
func met(t *testing.T, addr, name string) string {
	t.Helper()
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 30 * time.Second}, "tcp", addr, &tls.Config{InsecureSkipVerify: true, ServerName: name})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if org := c.ConnectionState().PeerCertificates[0].Subject.Organization; len(org) > 0 {
		return org[0]
	}
	return ""
}

func local(t *testing.T, org string, end time.Time) *testcert.Made {
	return testcert.New(t, testcert.Cert{Name: "localhost", Org: org, NotAfter: end})
}

// TestRenewal: certificates that are renewed, as tools do it, are taken over
// without a new generation and without a failed request; what cannot be served
// with is shown and leaves the old one.
func TestRenewal(t *testing.T) {
	certs := vault(t)
	r := newRealm(t)
	r.write("app/hello.py", hello("served"))
	first, second, third := local(t, "first", time.Time{}), local(t, "second", time.Time{}), local(t, "third", time.Time{})
	// As certbot has it: links in one directory lead to files in another.
	for _, d := range []string{"archive", "live"} {
		if err := os.Mkdir(filepath.Join(certs, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	link := func(n string) {
		t.Helper()
		for _, kind := range []string{"crt", "key"} {
			at := filepath.Join(certs, "live/site."+kind)
			if err := os.Symlink("../archive/"+n+"."+kind, at+".new"); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(at+".new", at); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond) // one after the other, as they do
		}
	}
	first.Write(t, filepath.Join(certs, "archive"), "1")
	second.Write(t, filepath.Join(certs, "archive"), "2")
	link("1")
	r.drop("shop", "uid = nobody\nhttps = 127.0.0.1:0,"+certs+"/live/site.crt,"+certs+"/live/site.key\nsni-dir = "+certs+"/archive\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\n")
	v := r.up("shop")
	addr := v.Listen[0]
	// Who may not trace the core sees it as root's (proc(5)): its user's other
	// processes do not read the key out of its memory.
	var st syscall.Stat_t
	if err := syscall.Stat(fmt.Sprintf("/proc/%d/mem", *v.PID), &st); err != nil || st.Uid != 0 {
		t.Errorf("the core's memory is uid %d's: %v", st.Uid, err)
	}
	stop := load(t, addr, first, second, third)
	link("2")
	r.until("the second certificate", func() bool { return met(t, addr, "localhost") == "second" })
	third.Write(t, filepath.Join(certs, "archive"), "2") // in place, by rename
	r.until("the third certificate", func() bool { return met(t, addr, "localhost") == "third" })
	seen := stop()
	for _, org := range []string{"first", "second", "third"} {
		if seen[org] == 0 {
			t.Errorf("nobody met the %s: %v", org, seen)
		}
	}

	about := func(want string) func() bool {
		return func() bool {
			for _, p := range r.status("shop").Problems {
				if p.Code == "bad-certificate" && strings.Contains(p.Message, want) && p.Line > 0 {
					return true
				}
			}
			return false
		}
	}
	if err := os.WriteFile(filepath.Join(certs, "archive/2.crt"), first.Cert, 0o600); err != nil { // and not its key
		t.Fatal(err)
	}
	r.until("the mismatch is shown", about("does not belong"))
	if got := met(t, addr, "localhost"); got != "third" {
		t.Errorf("a half renewal: %s serves", got)
	}
	old := local(t, "old", time.Now().Add(-time.Hour))
	old.Write(t, filepath.Join(certs, "archive"), "2")
	r.until("the expired one is shown", about("is still valid and stays"))
	if got := met(t, addr, "localhost"); got != "third" {
		t.Errorf("an expired renewal: %s serves", got)
	}
	if err := os.Remove(filepath.Join(certs, "archive/2.key")); err != nil {
		t.Fatal(err)
	}
	r.until("the missing file is shown", about("does not exist"))
	testcert.New(t, testcert.Cert{Name: "inner.example", Org: "inner"}).Write(t, filepath.Join(certs, "archive"), "inner.example")
	second.Write(t, filepath.Join(certs, "archive"), "2")
	r.until("it is mended", func() bool { return met(t, addr, "localhost") == "second" })
	r.until("a new file of sni-dir", func() bool { return met(t, addr, "inner.example") == "inner" })
	r.until("nothing is wrong any more", func() bool { return !about("")() })
	if now := r.status("shop"); now.Generation != v.Generation {
		t.Errorf("generation %d, before %d", now.Generation, v.Generation)
	}

	// While it is suspended the same certificate answers.
	r.liege("suspend", "shop", "--timeout", patience)
	res, _ := read(t, secureClient(t, addr, true, false, second), "https://localhost/any")
	if res.StatusCode != 503 || res.ProtoMajor != 2 {
		t.Errorf("suspended: %d %s", res.StatusCode, res.Proto)
	}
	r.liege("resume", "shop", "--timeout", patience)
	if res, _ := read(t, secureClient(t, addr, false, false, second), "https://localhost/"); res.StatusCode != 200 {
		t.Errorf("resumed: %d", res.StatusCode)
	}
	// Reload under load: both versions lose nothing.
	stop = load(t, addr, second)
	r.liege("reload", "shop", "--timeout", patience)
	if seen := stop(); seen["second"] == 0 {
		t.Error("no request was sent")
	}
}

// TestTenantsCertificate: a tenant's file serves with the tenant's key, and
// with nobody else's; the operator's file with one that leads elsewhere by a
// tenant's link is refused.
func TestTenantsCertificate(t *testing.T) {
	r := layRealm(t)
	r.ini = "[emperor]\n[ceilings]\nmin-uid = 1\nlisten = 127.0.0.1:0\n"
	r.begin()
	r.write("app/hello.py", hello("served"))
	own, roots := local(t, "own", time.Time{}), local(t, "roots", time.Time{})
	app := filepath.Join(r.dir, "app")
	own.Write(t, app, "own")
	roots.Write(t, app, "roots")
	r.give("app", tenant, tenant)
	for _, f := range []string{"own.crt", "own.key", "roots.crt"} {
		r.give("app/"+f, tenant, tenant)
	}
	if err := os.Symlink("roots.key", filepath.Join(app, "link.key")); err != nil {
		t.Fatal(err)
	}
	r.give("app/link.key", tenant, tenant)
	lines := func(key string) string {
		return fmt.Sprintf("https = 127.0.0.1:0,%s.crt,%s.key\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\n", strings.Replace(key, "link", "roots", 1), key)
	}
	users := exec.Command("useradd", "--uid", fmt.Sprint(tenant), "--no-create-home", "--user-group", "liege-e2e-tls")
	if out, err := users.CombinedOutput(); err != nil {
		t.Fatalf("useradd: %s", out)
	}
	t.Cleanup(func() { exec.Command("userdel", "liege-e2e-tls").Run() })
	r.dropAs(tenant, tenant, "own", lines("own"))
	r.dropAs(tenant, tenant, "theirs", lines("roots"))
	r.drop("led", "uid = nobody\n"+lines("link"))
	v := r.up("own")
	if got := met(t, v.Listen[0], "localhost"); got != "own" {
		t.Errorf("met %q", got)
	}
	for _, name := range []string{"theirs", "led"} {
		r.until(name+" says why", func() bool {
			p := problem(r.status(name), "bad-certificate")
			return p != nil && p.Line > 0 && strings.Contains(p.Message, map[string]string{"theirs": "permission denied", "led": "owns a directory or link"}[name])
		})
	}
	second := local(t, "second", time.Time{})
	second.Write(t, app, "own")
	r.give("app/own.crt", tenant, tenant)
	r.give("app/own.key", tenant, tenant)
	r.until("the tenant's renewal", func() bool { return met(t, v.Listen[0], "localhost") == "second" })
}

// TestServeRenewal: liege serve takes new certificates over, too.
func TestServeRenewal(t *testing.T) {
	certs := vault(t)
	dir := kitchen(t)
	first, second := local(t, "first", time.Time{}), local(t, "second", time.Time{})
	first.Write(t, certs, "site")
	s := serve(t, dir, 0, "--https", "127.0.0.1:0,"+certs+"/site.crt,"+certs+"/site.key", "--wsgi-file", "app.py")
	addr := strings.Trim(strings.TrimPrefix(s.await(`https://127\.0\.0\.1:[0-9]+/`, 1), "https://"), "/")
	stop := load(t, addr, first, second)
	second.Write(t, certs, "site")
	for end := time.Now().Add(60 * time.Second); met(t, addr, "") != "second"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(s.text())
		}
	}
	stop()
	if err := os.WriteFile(filepath.Join(certs, "site.key"), []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.await("there is no private key in it", 1)
	if got := met(t, addr, ""); got != "second" {
		t.Errorf("%s serves", got)
	}
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil || s.exit() != 0 {
		t.Error(s.text())
	}
}
