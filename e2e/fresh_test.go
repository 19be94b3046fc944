package e2e

import (
	"fmt"
	"testing"
)

// TestFresh: when a reload is done, no new client meets the old generation.
func TestFresh(t *testing.T) {
	r := newRealm(t)
	r.write("app/hello.py", "import os\ndef application(e, s):\n    s('200 OK', [])\n    return [os.environ['V'].encode()]\n")
	drop := func(i int) {
		r.drop("hello", fmt.Sprintf("uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/hello.py\nenv = V=%d\n", i))
	}
	drop(0)
	addr := r.up("hello").Listen[0]
	for i := 1; i <= 25; i++ {
		drop(i)
		r.liege("reload", "hello", "--timeout", patience)
		for range 3 {
			if _, body := r.get(addr, "/"); body != fmt.Sprint(i) {
				t.Errorf("after reload %d: %q", i, body)
			}
		}
	}
}
