package expand

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
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
	for name, to := range map[string]string{
		"mounts": "/proc/self/mounts", "sockets": "/proc/net/unix", "kernel": "/proc/sys/kernel/ostype", "procs": "/proc", "first": "/proc/1",
		"class": "/sys/class", "version": "/etc/debian_version", "devices": "/dev",
	} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	x := expander(map[string]string{"SECRET": "s3cret"})
	for _, tt := range []struct{ name, lines, env string }{
		{"a 0600 file of root", "env = K=@(DIR/secret/key)\n", "K=root's"},
		{"an oracle", "if-exists = DIR/secret/key\nenv = K=there\nendif =\n", "K=there"},
		{"a glob", "for-glob = DIR/secret/*\nenv = K=%(_)\nendfor =\n", "K=" + dir + "/secret/key"},
		{"the environment", "env = K=$(SECRET)\n", "K=s3cret"},
		{"the kernel", "env = K=@(/proc/sys/kernel/ostype)\n", "K=Linux"},
		{"a file of root elsewhere", "env = K=@(/etc/debian_version)\n", "K=1"},
		{"the kernel, by a link", "env = K=@(DIR/kernel)\n", "K=Linux"},
		{"the kernel's mounts, by a link", "env = K=@(DIR/mounts)\n", "K=" + string(mounts[:8])},
		{"the kernel's lines, by a link", "for-readline = DIR/sockets\nenv = K=%(_)\nendfor =\n", "K=Num"},
		{"the kernel, through a link", "env = K=@(DIR/procs/sys/kernel/ostype)\n", "K=Linux"},
		{"an oracle of processes", "if-exists = DIR/first\nenv = K=there\nendif =\n", "K=there"},
		{"an oracle of processes, through a link", "if-exists = DIR/procs/1/stat\nenv = K=there\nendif =\n", "K=there"},
		{"processes by a pattern", "for-glob = /pro[c]/[0-9]*\nenv = K=%(_)\nendfor =\n", "K=/proc/"},
		{"a process by a pattern", "for-glob = /pro?/1/stat\nenv = K=%(_)\nendfor =\n", "K=/proc/1/stat"},
		{"processes by a link and a pattern", "for-glob = DIR/procs/[0-9]*\nenv = K=%(_)\nendfor =\n", "K=" + dir + "/procs/1"},
		{"a link to a process by a pattern", "for-glob = DIR/firs[t]\nenv = K=%(_)\nendfor =\n", "K=" + dir + "/first"},
		{"sysfs by a link and a pattern", "for-glob = DIR/class/*\nenv = K=%(_)\nendfor =\n", "K=" + dir + "/class/net/"},
		{"devices by a link and a pattern", "for-glob = DIR/devices/*\nenv = K=%(_)\nendfor =\n", "K=" + dir + "/devices/null"},
		{"a file of root elsewhere, by a link", "env = K=@(DIR/version)\n", "K=1"},
		{"an oracle of the host", "if-exists = /etc/debian_version\nenv = K=there\nendif =\n", "K=there"},
		{"an oracle of the host, by a link", "if-file = DIR/version\nenv = K=there\nendif =\n", "K=there"},
		{"homes by a pattern", "for-glob = /ho[m]e\nenv = K=%(_)\nendfor =\n", "K=/home"},
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
		answers := strings.Contains(tt.lines, "@(") || strings.Contains(tt.lines, "for-readline") // of the kernel, which root's file does not read either
		if !has(file(dir, "uid = nobody\n"+lines, 0)) && !(answers && strings.HasPrefix(tt.name, "the kernel")) {
			t.Errorf("%s: the operator's file does not see it either", tt.name)
		}
		if has(file(dir, lines, nobody)) {
			t.Errorf("%s: the tenant's file sees it", tt.name)
		}
	}
}

// What is its user's a tenant's file reads, wherever it lies and whatever links lead
// there.
func TestTenantReadsOwn(t *testing.T) {
	dir := place(t)
	other := place(t)
	for link, to := range map[string]string{"key": other + "/own", "up": "../" + filepath.Base(dir) + "/www/index.html", "www2": "www", "here": dir} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(other+"/own", []byte("mine"), 0o600), os.Chown(other+"/own", nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	x := expander(nil)
	for lines, want := range map[string]string{
		"env = K=@(OTHER/own)\n":                                      "K=mine",
		"env = K=@(DIR/key)\n":                                        "K=mine",
		"env = K=@(DIR/up)\n":                                         "K=hello",
		"env = K=@(DIR/www2/index.html)\n":                            "K=hello",
		"env = K=@(DIR/here/here/www/index.html)\n":                   "K=hello",
		"if-dir = DIR/www2\nenv = K=there\nendif =\n":                 "K=there",
		"if-exists = DIR\nenv = K=there\nendif =\n":                   "K=there",
		"if-exists = OTHER/own\nenv = K=there\nendif =\n":             "K=there",
		"for-glob = DIR/w*2\nenv = K=%(_)\nendfor =\n":                "K=" + dir + "/www2/",
		"for-glob = DIR/www/*\nenv = K=%(_)\nendfor =\n":              "K=" + dir + "/www/index.html",
		"for-readline = DIR/www/index.html\nenv = K=%(_)\nendfor =\n": "K=hello",
	} {
		lines = strings.NewReplacer("DIR", dir, "OTHER", other).Replace(lines)
		e := x.Expand(t.Context(), file(dir, lines, nobody))
		if !slices.Contains(e.Config.App.Env, want) {
			t.Errorf("%q: %q, %v; want %q", lines, e.Config.App.Env, e.Problems, want)
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
