package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"liege/internal/testenv"
	"liege/vassal"
)

// The recipe "Several Ruby versions": two files that differ in their plugin
// line, with the interpreters that liege plugin build has registered.

// rubies installs two interpreters below dir: the system's ruby, which says
// that it is another version.
func rubies(t *testing.T, dir string) {
	t.Helper()
	for _, v := range []string{"1.9.3", "2.1.5"} {
		bin := filepath.Join(dir, "versions", v, "bin")
		err := errors.Join(os.MkdirAll(bin, 0o755),
			os.WriteFile(filepath.Join(bin, "ruby"), []byte("#!/bin/sh\nexec /usr/bin/ruby -I\"${0%/*}\" -rclaim \"$@\"\n"), 0o755),
			os.WriteFile(filepath.Join(bin, "claim.rb"), fmt.Appendf(nil, "Object.send(:remove_const, :RUBY_VERSION)\nRUBY_VERSION = '%s'\n", v), 0o644))
		if err != nil {
			t.Fatal(err)
		}
	}
}

// build runs liege plugin build in dir.
func build(t *testing.T, dir, path string, args ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(testenv.Binaries(t), "liege"), append([]string{"plugin", "build"}, args...)...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + path + ":/usr/bin:/bin"}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "written") {
		t.Fatalf("liege plugin build: %v\n%s", err, out)
	}
}

// rubyFiles lays the recipe's files into dir/site and registers both rubies,
// one by the PATH and one by a flag; it returns the two ini files' text.
func rubyFiles(t *testing.T, dir string, ports [2]string) (old, young string) {
	t.Helper()
	rubies(t, dir)
	site := filepath.Join(dir, "site")
	if err := os.CopyFS(site, os.DirFS("testdata/recipes/rubies")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(site, 0o755), os.MkdirAll(filepath.Join(dir, "foobar"), 0o755)); err != nil {
		t.Fatal(err)
	}
	build(t, site, filepath.Join(dir, "versions/1.9.3/bin"), "plugins/rack rack_193")
	build(t, dir, "/nonexistent", "rack", "rack_215", "--ruby", filepath.Join(dir, "versions/2.1.5/bin/ruby"), "--plugins-dir", filepath.Join(dir, "foobar"))
	read := func(name string, pairs ...string) string {
		b, err := os.ReadFile(filepath.Join(site, name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.NewReplacer(pairs...).Replace(string(b))
	}
	return read("old.ini", ":9090", "127.0.0.1:"+ports[0]), read("new.ini", ":9091", "127.0.0.1:"+ports[1], "/foobar", filepath.Join(dir, "foobar"))
}

func TestRecipeRubiesServe(t *testing.T) {
	testenv.Need(t, testenv.Ruby)
	dir := kitchen(t)
	one, port1 := freeAddr(t)
	two, port2 := freeAddr(t)
	old, young := rubyFiles(t, dir, [2]string{port1, port2})
	for name, text := range map[string]string{"old.ini": old, "new.ini": young} {
		file := filepath.Join(dir, "site", name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		s := serve(t, filepath.Join(dir, "site"), 0, file)
		t.Cleanup(func() {
			if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil || s.exit() != 0 {
				t.Errorf("it does not end as it should: %v\n%s", err, s.text())
			}
		})
		s.await(loopURL, 1)
	}
	for addr, want := range map[string]string{one: "Ruby 1.9.3 for /a\n", two: "Ruby 2.1.5 for /a\n"} {
		if got := fetch(t, "http://"+addr+"/a"); got != want {
			t.Errorf("%s: %q, want %q", addr, got, want)
		}
	}
}

func TestRecipeRubiesVassal(t *testing.T) {
	testenv.Need(t, testenv.Ruby)
	r := layRealm(t)
	r.ini = "[emperor]\n[ceilings]\nnet = host\n"
	r.begin()
	one, port1 := freeAddr(t)
	two, port2 := freeAddr(t)
	old, young := rubyFiles(t, r.dir, [2]string{port1, port2})
	further := "\n[vassal]\nuid = nobody\nnet = host\nchdir = " + r.dir + "/site\n"
	r.write("vassals/old.ini", old+further+"plugins-dir = "+r.dir+"/site\n")
	r.write("vassals/new.ini", young+further)
	for name, addr := range map[string]string{"old": one, "new": two} {
		if v := r.up(name); len(v.Problems) > 0 {
			t.Errorf("%s has problems: %v", name, v.Problems)
		}
		want := map[string]string{"old": "Ruby 1.9.3 for /a\n", "new": "Ruby 2.1.5 for /a\n"}[name]
		if status, got := r.get(addr, "/a"); status != 200 || got != want {
			t.Errorf("%s: %d %q, want %q", name, status, got, want)
		}
	}
	// The registration is part of the file: another one is a new generation.
	build(t, r.dir+"/site", filepath.Join(r.dir, "versions/2.1.5/bin"), "rack", "rack_193")
	r.liege("reload", "old")
	if status, got := r.get(one, "/a"); status != 200 || got != "Ruby 2.1.5 for /a\n" {
		t.Errorf("after another registration: %d %q", status, got)
	}
	// What does not run says why, with the line and a hint.
	r.write("site/broken/config.ru", "require 'sinatra'\nrun Sinatra::Application\n")
	r.write("vassals/broken.ini", "[uwsgi]\nuid = nobody\nrack = "+r.dir+"/site/broken/config.ru\nhttp-socket = 127.0.0.1:0\n")
	r.liege("wait", "broken", "backoff", "--timeout", patience)
	p := problem(r.status("broken"), vassal.CodeImportError)
	if p == nil || !strings.Contains(p.Message, "sinatra") || !strings.Contains(p.Message, "config.ru:1") || !strings.HasSuffix(p.File, "broken.ini") || p.Line != 3 ||
		p.Hint != "gem install sinatra" {
		t.Errorf("the problem is %+v", p)
	}
}
