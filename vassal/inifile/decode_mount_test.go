package inifile

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"liege/vassal"
)

func decodeText(lines string) (vassal.Config, vassal.Problems) {
	return chain(&txtar.Archive{Files: []txtar.File{{Name: "/etc/vassals/shop.ini", Data: []byte("[uwsgi]\nhttp-socket = :80\n" + lines)}}})
}

func TestMounts(t *testing.T) {
	cfg, ps := decodeText("mount = /a=a.py\nmount = /b/=pkg.mod:make()\nmount = /c=pkg.other\ncallable = app\nmanage-script-name = 1\nno-default-app = 1\nsingle-interpreter = 1\nignore-script-name = true\n")
	if len(ps) > 0 {
		t.Error(ps)
	}
	want := &vassal.Mounting{Default: -1, Manage: true, Ignore: true, OneForAll: true, Mounts: []vassal.Mount{
		{Point: "/a", File: "a.py", Callable: "app"}, {Point: "/b", Module: "pkg.mod", Callable: "make()"}, {Point: "/c", Module: "pkg.other", Callable: "app"}}}
	got := cfg.App.Mounting
	for i := range got.Mounts {
		got.Mounts[i].At = vassal.Origin{}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if p := cfg.App.Workers.Python; p.File != "a.py" || p.Callable != "app" || p.Key != "mount" {
		t.Errorf("the first is not the vassal's: %+v", p)
	}
	// A line that names the app is the first and the default; / is the default
	// wherever it stands.
	cfg, _ = decodeText("mount = /a=a.py\nwsgi-file = main.py\n")
	if m := cfg.App.Mounting; len(m.Mounts) != 2 || m.Mounts[0].File != "main.py" || m.Default != 0 || cfg.App.Workers.Python.File != "main.py" {
		t.Errorf("with wsgi-file: %+v", m)
	}
	cfg, _ = decodeText("mount = /a=a.py\nmount = /=b.py\nno-default-app = true\n")
	if m := cfg.App.Mounting; m.Default != 1 {
		t.Errorf("with /: %+v", m)
	}
	cfg, ps = decodeText("worker-mount = /a=/srv/x/a.py\n")
	if m := cfg.App.Mounting; len(m.Mounts) != 1 || len(ps) != 1 || ps[0].Code != vassal.CodeDoneOtherwise || len(cfg.Jail.Named) != 1 || cfg.Jail.Named[0].Source != "/srv/x" {
		t.Errorf("worker-mount: %+v %v %v", m, ps, cfg.Jail.Named)
	}
}

// TestMountsOfOthers: files of Ruby and of Perl are mounted as Python's are.
func TestMountsOfOthers(t *testing.T) {
	cfg, ps := decodeText("mount = /a=a.ru\nmount = /b=/srv/b/b.ru\nrb-lib = lib\nsingle-interpreter = true\n")
	w, m := cfg.App.Workers, cfg.App.Mounting
	if len(ps) != 1 || ps[0].Code != vassal.CodeDoneOtherwise || w.Language != "ruby" || w.Ruby.File != "a.ru" || w.Ruby.Key != "mount" || len(m.Mounts) != 2 || m.OneForAll || m.Default != 0 {
		t.Errorf("%+v %+v %v", w, m, ps)
	}
	if b := m.Mounts[1].Workers(*w); b.Ruby.File != "/srv/b/b.ru" || b.Ruby.At.Line != 4 || len(b.Ruby.Lib) != 1 || w.Ruby.File != "a.ru" {
		t.Errorf("the second is %+v", b.Ruby)
	}
	cfg, ps = decodeText("psgi = main.psgi\nmount = /a=a.pl\nno-default-app = true\n")
	w, m = cfg.App.Workers, cfg.App.Mounting
	if len(ps) > 0 || w.Language != "perl" || w.Perl.File != "main.psgi" || w.Perl.Key != "" || len(m.Mounts) != 2 || m.Mounts[0].File != "main.psgi" || m.Mounts[0].Language != "perl" || m.Default != 0 {
		t.Errorf("%+v %+v %v", w, m, ps)
	}
}

func TestMountsRefused(t *testing.T) {
	for lines, want := range map[string]string{
		"mount = /":                         `"/" is not written as a=b`,
		"mount = host=a.py":                 "does not begin with a slash",
		"mount = /a=a.lua":                  "a file .lua is not mounted",
		"mount = /a=a.ru\nmount = /b=b.py":  "line 3 mounts an app of another language",
		"psgi = a.psgi\nmount = /b=b.ru":    "line 3 names an app of another language",
		"rack = a.ru\nmount = /=b.ru":       "line 3 names the app of / already",
		"mount = /a=b c":                    "neither a file nor a module",
		"mount = /a=a.py\nmount = /a/=b.py": `line 3 has mounted an app at "/a" already`,
		"wsgi-file = x.py\nmount = /=b.py":  "line 3 names the app of / already",
		"mount = /a=a.py\nmount = /b":       `"/b" is not written as a=b`,
	} {
		_, ps := decodeText(lines + "\n")
		var all []string
		for _, p := range ps {
			all = append(all, p.Message)
		}
		if !ps.Failed() || !strings.Contains(strings.Join(all, "\n"), want) {
			t.Errorf("%q: got %v, want %q", lines, ps, want)
		}
	}
}

func TestMountFind(t *testing.T) {
	m := &vassal.Mounting{Mounts: []vassal.Mount{{Point: "/app1"}, {Point: "/app1/sub"}, {Point: "/b"}}}
	for path, want := range map[string]int{"/app1": 0, "/app1/": 0, "/app1/x": 0, "/app10": -1, "/app1/sub": 1, "/app1/sub/y": 1, "/app1/subs": 0, "": -1, "/": -1, "/b": 2, "/B": -1} {
		if got := m.Find(path); got != want {
			t.Errorf("Find(%q) = %d, want %d", path, got, want)
		}
	}
	for _, c := range []struct {
		id, script string
		want       int
	}{{"", "", 0}, {"", "/b", 2}, {"", "/b/", 2}, {"/app1", "/b", 0}, {"", "/none", 0}, {"/none", "/b", 2}} {
		if got := m.Choose(c.id, c.script); got != c.want {
			t.Errorf("Choose(%q, %q) = %d, want %d", c.id, c.script, got, c.want)
		}
	}
	m.Default = -1
	if got := m.Choose("", "/none"); got != -1 {
		t.Errorf("without a default: %d", got)
	}
}
