package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"liege/internal/testcert"
)

// handover has the Emperor end for the next one, which it starts.
func (r *realm) handover() {
	r.t.Helper()
	told := make(chan string, 1)
	go func() {
		out, code := r.try("handover", "--timeout", patience)
		told <- fmt.Sprint(code, " ", out)
	}()
	if err := r.cmd.Wait(); err != nil {
		r.t.Errorf("the Emperor ended with %v", err)
	}
	r.start()
	if got := <-told; !strings.HasPrefix(got, "0 ") {
		r.t.Errorf("liege handover: exit %s", got)
	}
}

// TestHeldOverTLS: who holds an https listener has its certificate, whatever became
// of the Emperor, and of the file.
func TestHeldOverTLS(t *testing.T) {
	r := newRealm(t)
	certs := vault(t)
	site := testcert.New(t, testcert.Cert{Name: "localhost"})
	site.Write(t, certs, "site")
	r.write("app/hello.py", hello("served"))
	good := fmt.Sprintf("uid = nobody\nhttps = 127.0.0.1:0,%[1]s/site.crt,%[1]s/site.key\nhttp = 127.0.0.2:0\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\n", certs)
	r.drop("shop", good)
	v := r.up("shop")
	secure, plain := v.Listen[0], v.Listen[1]
	check := func(when string, status int) {
		t.Helper()
		if res, err := secureClient(t, secure, false, false, site).Get("https://localhost/"); err != nil {
			t.Errorf("%s: %v", when, err)
		} else if res.Body.Close(); res.StatusCode != status {
			t.Errorf("%s: over TLS %d, want %d", when, res.StatusCode, status)
		}
		r.held(plain, status, "")
	}
	held := func(when string) {
		t.Helper()
		r.liege("wait", "shop", "suspended", "--timeout", patience)
		check(when, 402)
	}
	r.liege("suspend", "shop", "--status", "402", "--timeout", patience)
	held("suspended")
	r.kill()
	check("killed", 402)
	r.start()
	held("after a kill")
	r.handover()
	held("after a handover")

	r.kill()
	r.drop("shop", good+"processes = many\n")
	r.start()
	held("after a kill, with a file that cannot be used")
	r.kill()
	r.start()
	held("once more")
	r.liege("suspend", "shop", "--status", "410", "--timeout", patience)
	check("another answer", 410)

	// A name of its own changes nothing of that.
	if err := os.Rename(filepath.Join(r.etc, "shop.ini"), filepath.Join(r.etc, "store.ini")); err != nil {
		t.Fatal(err)
	}
	r.until("the vassal of another name answers", func() bool {
		code, _ := r.get(plain, "/")
		return code == 503
	})
	check("renamed", 503)
}
