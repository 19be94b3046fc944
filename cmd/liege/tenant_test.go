package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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

// A file that others than its owner can write is nobody's word: root that checks,
// explains or serves it, wherever it lies, reads nothing for it.
func TestCheckShared(t *testing.T) {
	testenv.Need(t, testenv.Root)
	testenv.Leaks(t)
	dir, err := os.MkdirTemp("/srv", "liege-check-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	const secret, nobody = "s3cret", 65534
	key := filepath.Join(dir, "key")
	text := "[vassal]\nuid = nobody\nhttp-socket = 127.0.0.1:8080\ncheck-static = /usr/share\nchdir = /@(" + key + ")\n"
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(key, []byte(secret+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		uid, gid int
		mode     os.FileMode
		list     bool // an access control list lets the user nobody write
		read     bool
	}{
		"root's":              {0, 0, 0o644, false, true},
		"root's group's":      {0, 0, 0o664, false, true},
		"another group's":     {0, nobody, 0o664, false, false},
		"everybody's":         {0, 0, 0o666, false, false},
		"a list's":            {0, 0, 0o664, true, false},
		"a user's and more's": {nobody, nobody, 0o666, false, false},
	} {
		file := filepath.Join(dir, "site.ini")
		os.Remove(file)
		if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.Chown(file, tc.uid, tc.gid), os.Chmod(file, tc.mode)); err != nil {
			t.Fatal(err)
		}
		if tc.list {
			letWrite(t, file, nobody)
		}
		for _, args := range [][]string{{"check", file}, {"check", "--json", file}, {"check", "--syntax", file}, {"explain", file}, {"check", "--as", "/etc/vassals/site.ini", file}, {"serve", file}} {
			if args[0] == "serve" && tc.read {
				continue
			}
			var out bytes.Buffer
			run(t.Context(), args, stdio{strings.NewReader(""), &out, &out})
			got := out.String()
			if strings.Contains(got, "others than its owner can write it") == tc.read || strings.Contains(got, secret) && !tc.read {
				t.Errorf("%s: %v:\n%s", name, args, got)
			}
		}
		var out bytes.Buffer
		if run(t.Context(), []string{"explain", file}, stdio{strings.NewReader(""), &out, &out}); strings.Contains(out.String(), secret) != tc.read {
			t.Errorf("%s: the control:\n%s", name, &out)
		}
	}
}

// letWrite gives file an access control list that lets uid write it, as
// linux/posix_acl_xattr.h has it.
func letWrite(t *testing.T, file string, uid uint32) {
	t.Helper()
	list := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{0x01, 6, ^uint32(0)}, {0x02, 6, uid}, {0x04, 4, ^uint32(0)}, {0x10, 6, ^uint32(0)}, {0x20, 4, ^uint32(0)}} {
		list = binary.LittleEndian.AppendUint16(list, e.tag)
		list = binary.LittleEndian.AppendUint16(list, e.perm)
		list = binary.LittleEndian.AppendUint32(list, e.id)
	}
	if err := unix.Setxattr(file, "system.posix_acl_access", list, 0); err != nil {
		t.Fatal(err)
	}
}

// Whether there is something behind a link of the user's that only root can follow
// is not told.
func TestCheckListensAsOwner(t *testing.T) {
	testenv.Need(t, testenv.Root)
	testenv.Leaks(t)
	dir, err := os.MkdirTemp("/srv", "liege-check-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	const nobody = 65534
	hidden, home := filepath.Join(dir, "hidden"), filepath.Join(dir, "home")
	err = errors.Join(os.Chmod(dir, 0o755), os.Mkdir(hidden, 0o700), os.Mkdir(hidden+"/there", 0o755), os.WriteFile(hidden+"/file", nil, 0o644), os.Mkdir(home, 0o755), os.Mkdir(home+"/own", 0o755))
	for _, name := range []string{"there", "missing", "file"} {
		err = errors.Join(err, os.Symlink(filepath.Join(hidden, name), filepath.Join(home, name)))
	}
	if err != nil {
		t.Fatal(err)
	}
	says := func(sub string, uid int, more string) string {
		file := filepath.Join(home, "shop.ini")
		text := "[vassal]\nchdir = " + home + "\ncheck-static = " + home + "\nhttp-socket = " + home + "/" + sub + "/a.sock\n" + more
		if err := errors.Join(os.RemoveAll(file), os.WriteFile(file, []byte(text), 0o644), os.Lchown(file, uid, uid)); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		run(t.Context(), []string{"check", file}, stdio{strings.NewReader(""), &out, &out})
		return strings.ReplaceAll(out.String(), "/"+sub+"/", "/SUB/")
	}
	if err := os.Lchown(home, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	there := says("there", nobody, "")
	for _, sub := range []string{"missing", "file"} {
		if got := says(sub, nobody, ""); got != there {
			t.Errorf("%s: %q, and of a directory %q", sub, got, there)
		}
	}
	if got := says("none", nobody, ""); !strings.Contains(got, "there is no directory") {
		t.Errorf("what the user can see is not told: %q", got)
	}
	if err := os.Lchown(home, 0, 0); err != nil { // the operator's own
		t.Fatal(err)
	}
	if got := says("missing", 0, "uid = nobody\n"); !strings.Contains(got, "there is no directory") {
		t.Errorf("the operator is not told: %q", got)
	}
}
