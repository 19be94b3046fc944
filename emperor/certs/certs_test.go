package certs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"liege/emperor/asuser"
	"liege/internal/testcert"
	"liege/internal/testenv"
	"liege/vassal"
)

func TestMain(m *testing.M) {
	asuser.Main()
	os.Exit(testenv.Main(m))
}

func app(dir string) *vassal.App {
	p := vassal.KeyPair{Cert: dir + "/a.crt", Key: dir + "/a.key", OptionKey: "https", At: vassal.Origin{File: "x.ini", Line: 3}}
	return &vassal.App{Listen: []vassal.Listener{{Protocol: vassal.HTTPS, TLS: &p}}, TLS: &vassal.TLS{Dir: dir + "/sni", DirAt: vassal.Origin{File: "x.ini", Line: 4}}}
}

// place is a directory with the certificate a, and two for sni-dir, of which
// one has no key.
func place(t *testing.T) (dir string, a *testcert.Made) {
	t.Helper()
	dir = t.TempDir()
	if err := os.Mkdir(dir+"/sni", 0o755); err != nil {
		t.Fatal(err)
	}
	a = testcert.New(t, testcert.Cert{Name: "a"})
	a.Write(t, dir, "a")
	a.Write(t, dir+"/sni", "b.example")
	a.Write(t, dir+"/sni", "c.example")
	if err := os.Remove(dir + "/sni/c.example.key"); err != nil {
		t.Fatal(err)
	}
	return dir, a
}

func froms(t *testing.T) map[string]From {
	f := map[string]From{"caller": Caller{}}
	if os.Geteuid() == 0 {
		f["root"] = Root{}
	}
	s, err := asuser.Start(t.Context(), asuser.Who{UID: os.Geteuid(), GID: os.Getegid()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	f["user"] = User{s}
	return f
}

// TestRead: who reads makes no difference to what is read, and each file that
// cannot be has its line.
func TestRead(t *testing.T) {
	testenv.Leaks(t)
	dir, _ := place(t)
	for name, from := range froms(t) {
		files, ps := Read(from, app(dir))
		if len(ps) > 0 || len(files) != 4 || files[dir+"/sni/b.example.key"] == nil || files[dir+"/sni/c.example.crt"] != nil {
			t.Errorf("%s: %d files, %v", name, len(files), ps)
		}
		for what, broken := range map[string]func(){
			"missing":     func() { os.Remove(dir + "/a.key") },
			"a FIFO":      func() { syscall.Mkfifo(dir+"/a.key", 0o600) },
			"a directory": func() { os.Mkdir(dir+"/a.key", 0o700) },
			"too large":   func() { os.WriteFile(dir+"/a.key", make([]byte, vassal.MaxCertFile+1), 0o600) },
		} {
			os.Remove(dir + "/a.key")
			broken()
			_, ps := Read(from, app(dir))
			if p := ps.First(); p == nil || p.File != "x.ini" || p.Line != 3 || p.Key != "https" || !strings.HasPrefix(p.Message, dir+"/a.key: ") {
				t.Errorf("%s, %s: %v", name, what, ps)
			}
		}
		os.Remove(dir + "/a.key")
		testcert.New(t, testcert.Cert{Name: "a"}).Write(t, dir, "a")
	}
	if _, ps := Read(Caller{}, &vassal.App{Listen: []vassal.Listener{{Protocol: vassal.HTTP}}}); ps != nil {
		t.Error("a vassal without TLS:", ps)
	}
}

// TestUnreadableCA: a NAME.ca that is there and cannot be read is not taken for
// one that is not there.
func TestUnreadableCA(t *testing.T) {
	dir, _ := place(t)
	ca := dir + "/sni/b.example.ca"
	if err := os.Mkdir(ca, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, from := range froms(t) {
		files, ps := Read(from, app(dir))
		b, there := files[ca]
		if b != nil || !there || len(ps) != 1 || ps[0].Severity != vassal.Warning || !strings.HasPrefix(ps[0].Message, ca+": ") {
			t.Errorf("%s: %q %t, %v", name, b, there, ps)
		}
	}
}

// TestUnreadableInDirectory: a file of sni-dir that cannot be read is said, keeps its
// place, harms no other, and is taken up when it can be read.
func TestUnreadableInDirectory(t *testing.T) {
	for _, end := range []string{".crt", ".key"} {
		dir, _ := place(t)
		testcert.New(t, testcert.Cert{Name: "a"}).Write(t, dir+"/sni", "a.example")
		file := dir + "/sni/b.example" + end
		if err := errors.Join(os.Rename(file, file+".old"), os.Mkdir(file, 0o700)); err != nil {
			t.Fatal(err)
		}
		for name, from := range froms(t) {
			files, ps := Read(from, app(dir))
			b, there := files[file]
			if b != nil || !there || len(ps) != 1 || ps[0].Severity != vassal.Warning || !strings.HasPrefix(ps[0].Message, file+": ") || ps[0].Key != "sni-dir" {
				t.Errorf("%s%s: %q %t, %v", name, end, b, there, ps)
			}
			if files[dir+"/sni/a.example.crt"] == nil {
				t.Errorf("%s%s: another is not read", name, end)
			}
		}
		look := func(paths []string) []string { return asuser.Looks(asuser.Who{}, paths) }
		w := NewWatch(look, app(dir))
		files, _ := Read(Caller{}, app(dir))
		w.Taken(app(dir), files)
		if err := os.Chmod(file, 0o755); err != nil { // a change of the file, not of its directory
			t.Fatal(err)
		}
		if w.Changed(); !w.Changed() {
			t.Errorf("%s: not watched", end)
		}
	}
}

// TestOpenKey: a key that everybody can read is worth a word.
func TestOpenKey(t *testing.T) {
	dir, _ := place(t)
	if err := os.Chmod(dir+"/a.key", 0o604); err != nil {
		t.Fatal(err)
	}
	for name, from := range froms(t) {
		if _, ps := Read(from, app(dir)); ps.Failed() || len(ps) != 1 || !strings.Contains(ps[0].Message, "mode 0604") {
			t.Errorf("%s: %v", name, ps)
		}
	}
}

// TestWatch: a change is reported once it is calm, until it is taken, and a
// change that comes between two steps is not lost.
func TestWatch(t *testing.T) {
	dir, a := place(t)
	look := func(paths []string) []string { return asuser.Looks(asuser.Who{}, paths) }
	w := NewWatch(look, app(dir))
	read := func() {
		t.Helper()
		files, ps := Read(Caller{}, app(dir))
		if ps.Failed() {
			t.Fatal(ps)
		}
		w.Taken(app(dir), files)
	}
	read()
	expect := func(when string, want ...bool) {
		t.Helper()
		for i, x := range want {
			if got := w.Changed(); got != x {
				t.Errorf("%s, look %d: %t", when, i, got)
			}
		}
	}
	write := func(name string) {
		t.Helper()
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), a.Key, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	expect("nothing happened", false, false)
	write("a.key")
	expect("the key changed", false, true, true)
	read()
	expect("it was taken", false, false)
	write("a.key")
	expect("the key again", false)
	write("a.crt")
	expect("and then the certificate", false, true)
	write("a.key") // after the last look and before it is read
	read()
	expect("a change before the reading", true)
	read()
	write("sni/c.example.key")
	expect("a new file of sni-dir", false, true)
	read()
	expect("it was taken", false)
	write("sni/c.example.key") // in place: the directory may look the same
	expect("a known file of sni-dir", false, true)
	read()
	if err := os.Remove(dir + "/a.crt"); err != nil {
		t.Fatal(err)
	}
	expect("a file is gone", false, true)
}
