package resolve

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestAsked: the same question is asked once in a while, and another at once.
func TestAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		var a Asked
		get := func(q string) {
			t.Helper()
			text, ok := a.get(q, func() ([]byte, bool) { asked = append(asked, q); return []byte(q), q != "nobody" })
			if string(text) != q || ok != (q != "nobody") {
				t.Errorf("%s: %q %t", q, text, ok)
			}
		}
		get("nobody")
		get("nobody")
		get("alice")
		time.Sleep(askedFor)
		get("nobody")
		if got := strings.Join(asked, " "); got != "nobody alice nobody" {
			t.Errorf("asked %s", got)
		}
	})
}

// TestFilesKept: the files are read once, and anew when they have changed.
func TestFilesKept(t *testing.T) {
	passwd := filepath.Join(t.TempDir(), "passwd")
	put := func(text string, age time.Duration) {
		t.Helper()
		tmp := passwd + ".new"
		if err := errors.Join(os.WriteFile(tmp, []byte(text), 0o644), os.Rename(tmp, passwd)); err != nil {
			t.Fatal(err)
		}
		for fi, err := os.Stat(passwd); age > 0; fi, err = os.Stat(passwd) { // its ctime cannot be set
			if err != nil {
				t.Fatal(err)
			}
			if _, calm := stateOf(passwd, fi); calm {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	users := Files{PasswdFile: passwd, NoGetent: true, Asked: &Asked{}}
	want := func(name string, uid int) {
		t.Helper()
		if u, err := users.User(name); err != nil || u.UID != uid {
			t.Errorf("%s: %v, %v, want uid %d", name, u, err, uid)
		}
	}
	put("a:x:1:1::/:/bin/sh\n", restless)
	want("a", 1)
	first := users.Asked.users.all
	want("a", 1)
	if now := users.Asked.users.all; len(first) != 1 || &first[0] != &now[0] {
		t.Error("a file that has not changed is read again")
	}
	put("a:x:2:2::/:/bin/sh\n", 0)
	want("a", 2)
	put("a:x:3:3::/:/bin/sh\n", 0) // of the same size, and a moment later
	want("a", 3)
}
