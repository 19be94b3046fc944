package serve

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"liege/serve/exchange"
)

// TestOnePath: a rule that keeps strangers away from a path keeps them away
// however they write it, by whatever listener, and whoever would answer: files,
// mounts, CGI programs, the application. The control: with a password the same
// requests are answered, and the application sees the path as it was written.
func TestOnePath(t *testing.T) {
	www, programs := t.TempDir(), t.TempDir()
	if err := errors.Join(os.MkdirAll(www+"/private", 0o755), os.WriteFile(www+"/private/s.txt", []byte("secret"), 0o644), os.WriteFile(www+"/private/index.html", []byte("secret"), 0o644),
		os.WriteFile(programs+"/echo.sh", []byte("#!/bin/sh\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	addrs, _ := ini(t, `
plugins = cgi,python
module = app
http-socket = :1
socket = :2
scgi-socket = :3
fastcgi-socket = :4
check-static = `+www+`
static-map = /static=`+www+`
static-index = index.html
cgi = /cgi=`+programs+`
route = ^/(private|static/private|cgi/echo|admin) basicauth:R,joe:pw
route = ^/cgi setmodifier1:9
`, func(_ context.Context, r *exchange.Request, w exchange.Response) error {
		if err := w.Head(200, "", nil); err != nil {
			return err
		}
		_, err := io.WriteString(w, "app "+r.Get("PATH_INFO"))
		return err
	})
	auth := "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("joe:pw")) + "\r\n"
	for _, c := range []struct{ target, want string }{ // what joe gets
		{"/private/s.txt", "secret"}, {"//private/s.txt", "secret"}, {"/%2fprivate/s.txt", "secret"}, {"/x/..//private/s.txt", "secret"}, {"/private//s.txt", "secret"},
		{"/%2e/private/s.txt", "secret"}, {"/private%2Fs.txt", "secret"}, {"///private/", "secret"}, {"//private", "secret"}, {"/x/%2e%2e/%2f/private/./s.txt", "secret"},
		{"/static/private/s.txt", "secret"}, {"/static//private/s.txt", "secret"}, {"//static/private//s.txt", "secret"}, {"/static/x/../private/s.txt", "secret"},
		{"/cgi/echo.sh", "500"}, {"/cgi//echo.sh", "500"}, {"//cgi/echo.sh", "500"}, {"/cgi/echo.sh/x", "500"}, {"/cgi/%2fecho.sh", "500"}, // found, but no program starts here
		{"/private/x//../s.txt", "secret"}, {"/x//../private/s.txt", "secret"},
		{"//admin//x", "app //admin//x"}, {"/%2fadmin", "app //admin"},
	} {
		get := "GET " + c.target + " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
		if got := ask(t, addrs[0], get+"\r\n"); !strings.HasPrefix(got, "HTTP/1.1 401 ") {
			t.Errorf("%s: got %.60q", c.target, got)
		}
		if got := ask(t, addrs[0], get+auth+"\r\n"); !strings.Contains(got, c.want) {
			t.Errorf("%s with a password: got %q, want %q", c.target, got, c.want)
		}
	}
	if got := ask(t, addrs[0], "GET /staticprivate/s.txt HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); !strings.HasSuffix(got, "app /staticprivate/s.txt") {
		t.Errorf("a mount is taken for another: got %q", got)
	}
	for _, p := range []string{"/private/s.txt", "//private/s.txt", "/./private/s.txt", "/x/../private/s.txt", "private/s.txt", "/static//private/s.txt", "/cgi//echo.sh", "//admin"} {
		for i, packet := range []string{uwsgiAsk(0, "REQUEST_METHOD", "GET", "PATH_INFO", p), scgiAsk(p), fastcgiAsk(p)} {
			if got := ask(t, addrs[i+1], packet); !strings.Contains(got, " 401 ") {
				t.Errorf("listener %d, %s: got %.80q", i+1, p, got)
			}
		}
	}
}
