package expand

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"liege/emperor"
	"liege/emperor/asuser"
	"liege/emperor/resolve"
	"liege/internal/testenv"
	"liege/vassal"
	"liege/vassal/inifile"
)

func TestMain(m *testing.M) {
	asuser.Main()
	os.Exit(testenv.Main(m))
}

const nobody = 65534

func expander(env map[string]string) *Expander {
	cfg := inifile.DefaultEmperorConfig()
	cfg.Ceilings.MinUID = 1
	return New(Settings{Prepare: resolve.FromEmperor(cfg, inifile.NewOSHost(func(k string) (string, bool) { v, ok := env[k]; return v, ok }))})
}

// A file is read by the section that was named, if one was.
func TestSection(t *testing.T) {
	const text = "[vassal]\nuid = nobody\ncheck-static = /usr/share\nhttp-socket = 127.0.0.1:8097\n[prod]\nuid = nobody\ncheck-static = /usr/share\nhttp-socket = 127.0.0.1:8098\n"
	for section, want := range map[string]string{"": "127.0.0.1:8097", "prod": "127.0.0.1:8098"} {
		f := emperor.File{Name: "a", Path: "/etc/vassals/a.ini", Section: section, Text: []byte(text), Trust: vassal.Trust{Operator: true}}
		x := expander(nil).Expand(t.Context(), f)
		if l := x.Config.Listen; x.Problems.Failed() || len(l) != 1 || l[0].Address != want {
			t.Errorf("%q: %v, %v", section, l, x.Problems)
		}
	}
}

// place is a directory of nobody's with a site.
func place(t *testing.T) string {
	t.Helper()
	testenv.Need(t, testenv.Root)
	dir, err := os.MkdirTemp("/srv", "liege-expand-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for name, text := range map[string]string{"extra.inc": "[vassal]\nenv = A=1\n", "secret/key": "root's\n", "www/index.html": "hello"} {
		f := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir+"/secret", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	return dir
}

func file(dir, lines string, uid int) emperor.File {
	text := "[vassal]\nchdir = DIR\nhttp-socket = DIR/s.sock\ncheck-static = DIR/www\n" + lines
	return emperor.File{
		Name: "site", Path: dir + "/site.ini", Text: []byte(strings.ReplaceAll(text, "DIR", dir)),
		Trust: vassal.Trust{Operator: uid == 0, UID: uid, GID: uid},
	}
}

// What root may read, a tenant's file may not (KERNEL test 20); the same lines
// in an operator's file are the control.
func TestTenantReads(t *testing.T) {
	dir := place(t)
	x := expander(map[string]string{"SECRET": "s3cret"})
	for _, tt := range []struct{ name, lines, env string }{
		{"a 0600 file of root", "env = K=@(DIR/secret/key)\n", "K=root's"},
		{"an oracle", "if-exists = DIR/secret/key\nenv = K=there\nendif =\n", "K=there"},
		{"a glob", "for-glob = DIR/secret/*\nenv = K=%(_)\nendfor =\n", "K=" + dir + "/secret/key"},
		{"the environment", "env = K=$(SECRET)\n", "K=s3cret"},
		{"the kernel", "env = K=@(/proc/sys/kernel/ostype)\n", "K=Linux"},
		{"a file of root elsewhere", "env = K=@(/etc/debian_version)\n", "K=1"},
	} {
		lines := strings.ReplaceAll(tt.lines, "DIR", dir)
		has := func(f emperor.File) bool {
			e := x.Expand(t.Context(), f)
			for _, v := range e.Config.App.Env {
				if strings.HasPrefix(v, tt.env) {
					return true
				}
			}
			return false
		}
		if !has(file(dir, "uid = nobody\n"+lines, 0)) && tt.name != "the kernel" {
			t.Errorf("%s: the operator's file does not see it either", tt.name)
		}
		if has(file(dir, lines, nobody)) {
			t.Errorf("%s: the tenant's file sees it", tt.name)
		}
	}
}

// children tells how much the children of this process that ended have worked.
func children(t *testing.T) int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &u); err != nil {
		t.Fatal(err)
	}
	return u.Minflt
}

// What an include says belongs to the vassal: a change of it is noticed.
func TestChanged(t *testing.T) {
	dir := place(t)
	x := expander(nil)
	for _, uid := range []int{0, nobody} {
		lines := "include = " + dir + "/extra.inc\n"
		if uid == 0 {
			lines += "uid = nobody\n"
		}
		e := x.Expand(t.Context(), file(dir, lines, uid))
		if e.Problems.Failed() || e.Changed == nil || e.Digest == (vassal.Digest{}) {
			t.Fatalf("uid %d: %v, digest %v", uid, e.Problems, e.Digest)
		}
		for look := range 4 {
			before := children(t)
			if e.Changed(t.Context()) {
				t.Errorf("uid %d: changed, although nothing was", uid)
			}
			if ran, want := children(t) > before, uid != 0 && look < 2; ran != want {
				t.Errorf("uid %d, look %d: a child read: %v, want %v", uid, look, ran, want)
			}
		}
		extra := dir + "/extra.inc"
		was, err := os.ReadFile(extra)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(extra, append(was, "env = B=2\n"...), 0o644); err != nil {
			t.Fatal(err)
		}
		if !e.Changed(t.Context()) {
			t.Errorf("uid %d: the change of an include is not noticed", uid)
		}
	}
	// What is not read anew costs nothing worth the name; names in a directory are.
	for lines, most := range map[string]float64{"include = DIR/extra.inc\n": 30, "for-glob = DIR/*.inc\nenv = K=%(_)\nendfor =\n": 1000} {
		e := x.Expand(t.Context(), file(dir, "uid = nobody\n"+strings.ReplaceAll(lines, "DIR", dir), 0))
		e.Changed(t.Context())
		e.Changed(t.Context())
		if n := testing.AllocsPerRun(20, func() { e.Changed(t.Context()) }); n > most {
			t.Errorf("%q: %v allocations a look", lines, n)
		}
	}
	e := x.Expand(t.Context(), file(dir, "uid = nobody\n", 0))
	if e.Changed != nil {
		t.Error("a file that reads nothing else can change by itself")
	}
}
