package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"liege/internal/testenv"
)

// Root that checks a user's file reads what the user may read, and follows no link
// of the user's to a file of its own.
func TestCheckAsOwner(t *testing.T) {
	testenv.Need(t, testenv.Root)
	testenv.Leaks(t)
	dir, err := os.MkdirTemp("/srv", "liege-check-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	const secret, nobody = "s3cret", 65534
	hidden, home := filepath.Join(dir, "hidden"), filepath.Join(dir, "home")
	app := "[vassal]\nchdir = " + home + "\nhttp-socket = " + home + "/s.sock\nwsgi-file = " + home + "/app.py\n"
	asks := app + "for-readline = " + hidden + "/key\nthreads = %(_)\nendfor =\nenv = A=@(" + hidden + "/key)\nif-exists = " + hidden + "/key\nprocesses = there\nendif =\n"
	err = errors.Join(os.Chmod(dir, 0o755), os.Mkdir(hidden, 0o700), os.WriteFile(hidden+"/key", []byte(secret+"\n"), 0o600), os.WriteFile(hidden+"/own.ini", []byte(app+"threads = "+secret+"\n"), 0o600),
		os.Mkdir(home, 0o755), os.WriteFile(home+"/asks.ini", []byte(asks), 0o644), os.WriteFile(home+"/app.py", nil, 0o644), os.Symlink(hidden+"/own.ini", home+"/link.ini"), os.Symlink(home+"/asks.ini", dir+"/linked.ini"))
	for _, f := range []string{home, home + "/asks.ini", home + "/app.py", home + "/link.ini"} {
		err = errors.Join(err, os.Lchown(f, nobody, nobody))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		want string
		told bool // the secret, to root about its own file
	}{
		{[]string{"check", home + "/asks.ini"}, "may read only below its own directory", false},
		{[]string{"check", "--json", dir + "/linked.ini"}, "permission denied", false},
		{[]string{"explain", "--show-secrets", home + "/asks.ini"}, "may read only below its own directory", false},
		{[]string{"check", "--tenant", "nobody", hidden + "/own.ini"}, secret, true},
		{[]string{"check", home + "/link.ini"}, "owns a directory or link on the way", false},
		{[]string{"check", hidden + "/own.ini"}, secret, true},
	} {
		var out bytes.Buffer
		run(t.Context(), tc.args, stdio{strings.NewReader(""), &out, &out})
		if got := out.String(); !strings.Contains(got, tc.want) || strings.Contains(got, secret) != tc.told || strings.Contains(got, `"there"`) {
			t.Errorf("%v: want %q in\n%s", tc.args, tc.want, got)
		}
	}
}
