package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testenv"
	"liege/vassal"
)

// small makes a system with the smallest policy that the base module can be
// loaded into, and an app's files: what Install does, without its cost.
func small(t *testing.T, root string) *Store {
	t.Helper()
	testenv.Need(t, testenv.Root, testenv.Semodule)
	for _, d := range []string{"etc/selinux/small/contexts/files", "etc/selinux/small/policy", "var/lib/selinux/small", "srv/shop/var", "home/al/www", "srv/other"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"etc/selinux/config": "# a comment\nSELINUX=enforcing\nSELINUXTYPE=small\n", "etc/selinux/semanage.conf": "module-store = direct\nexpand-check = 0\n",
		"srv/shop/app.py": "1\n", "srv/shop/var/data": "2\n", "home/al/www/index": "3\n", "srv/other/file": "4\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	base, err := os.ReadFile("testdata/minimal.cil")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "base.cil")
	if err := os.WriteFile(file, base, 0o644); err != nil {
		t.Fatal(err)
	}
	tool(t, "semodule", "-N", "-p", root, "-s", "small", "-X", "100", "-i", file)
	s := open(t, root)
	tool(t, "setfiles", "-r", root, s.contexts(), root+"/srv", root+"/home")
	return s
}

func open(t *testing.T, root string) *Store {
	t.Helper()
	s, err := Open(Config{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := find(name)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// shop is an app's module, in two versions: the second has other paths.
func shop(t *testing.T, version int) Module {
	t.Helper()
	a := App{ID: "shop", Ports: []int{8071}, Paths: []Path{{"/srv/shop", ReadOnly}, {"/srv/shop/var", ReadWrite}}}
	if version == 2 {
		a.Paths = []Path{{"/srv/shop", ReadWrite}, {"/home/al/www", ReadOnly}}
	}
	return module(t, a)
}

func module(t *testing.T, a App) Module {
	t.Helper()
	m, err := New(a)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := m.Write(dir, false); err != nil {
		t.Fatal(err)
	}
	if m, err = Read(filepath.Join(dir, m.Name+".cil")); err != nil {
		t.Fatal(err)
	}
	return m
}

// state is what matters of a system: installed modules, local file contexts,
// labels, and what Liege keeps.
func state(t *testing.T, s *Store) string {
	t.Helper()
	var b strings.Builder
	installed, err := s.modules()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range installed {
		text, err := m.cil()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "module %s, %d bytes\n", m.name, len(text))
	}
	for _, f := range s.local() {
		text, err := os.ReadFile(f)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "contexts %q\n", text)
	}
	for _, dir := range []string{"/srv", "/home", StateDir} {
		err := filepath.WalkDir(s.path(dir), func(p string, _ fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || strings.HasSuffix(p, "/policy/lock") || p == s.path(StateDir) {
				return nil
			}
			fmt.Fprint(&b, strings.TrimPrefix(p, s.cfg.Root))
			if dir != StateDir {
				fmt.Fprint(&b, " ", typeOf(p))
			}
			b.WriteByte('\n')
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// typeOf is the type in a file's label.
func typeOf(p string) string {
	buf := make([]byte, 256)
	n, err := syscall.Getxattr(p, "security.selinux", buf)
	if err != nil {
		return "-"
	}
	if f := strings.Split(string(buf[:n]), ":"); len(f) > 2 {
		return f[2]
	}
	return string(buf[:n])
}

// valid: what lies there can be built and loaded, and another program's change
// goes through. A store that names a type which no module has would refuse it.
func valid(t *testing.T, s *Store) {
	t.Helper()
	tool(t, "semodule", "-N", "-p", s.cfg.Root, "-s", s.kind, "-B")
}

// withBase is the state of a system with the base module and nothing else.
func withBase(t *testing.T, s *Store) string {
	t.Helper()
	if err := s.Install(t.Context(), Base()); err != nil {
		t.Fatal(err)
	}
	return state(t, s)
}

func TestInstall(t *testing.T) {
	s := small(t, t.TempDir())
	empty := withBase(t, s)
	label := func(path, want string) {
		t.Helper()
		if got := typeOf(s.path(path)); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	if err := s.Install(t.Context(), shop(t, 1)); err != nil {
		t.Fatal(err)
	}
	one := state(t, s)
	label("/srv/shop/app.py", "webapp_shop_content_t")
	label("/srv/shop/var/data", "webapp_shop_rw_t")
	label("/home/al/www/index", "home_t")
	label("/srv/other/file", "file_t")
	valid(t, s)

	// The second version has other paths; what only the first had gets back the
	// label that it has without.
	if err := s.Install(t.Context(), shop(t, 2)); err != nil {
		t.Fatal(err)
	}
	label("/srv/shop/var/data", "webapp_shop_rw_t")
	label("/srv/shop/app.py", "webapp_shop_rw_t")
	label("/home/al/www/index", "webapp_shop_content_t")
	if err := s.Install(t.Context(), shop(t, 1)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(one, state(t, s)); diff != "" {
		t.Errorf("back to the first version: -want +got:\n%s", diff)
	}

	// Two apps; a file is one of them only once.
	other := module(t, App{ID: "other", Paths: []Path{{"/srv/other", ReadOnly}}})
	if err := s.Install(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	label("/srv/other/file", "webapp_other_content_t")
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("check of what is installed: %v", err)
	}
	for _, id := range []string{"other", "shop"} {
		if err := s.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(empty, state(t, s)); diff != "" {
		t.Errorf("after removal: -want +got:\n%s", diff)
	}
	valid(t, s)
	err := s.Remove(t.Context(), "shop")
	if p, ok := errors.AsType[*vassal.Problem](err); !ok || p.Code != vassal.CodeNoModule {
		t.Errorf("removed twice: %v", err)
	}
}

// TestKilledAnywhere: an Install or Remove that is killed at any step leaves a
// policy that can be changed, and the next one of them undoes or finishes it.
func TestKilledAnywhere(t *testing.T) {
	s := small(t, t.TempDir())
	empty := withBase(t, s)
	if err := s.Install(t.Context(), shop(t, 1)); err != nil {
		t.Fatal(err)
	}
	one := state(t, s)
	if err := s.Install(t.Context(), shop(t, 2)); err != nil {
		t.Fatal(err)
	}
	two := state(t, s)
	if one == two || one == empty {
		t.Fatal("the states to tell apart are the same")
	}
	steps := map[string][]string{
		opInstall: {"journal", "keep", "module", "contexts", "relabel", "commit", "end"},
		opRemove:  {"journal", "contexts", "relabel", "module", "end"},
	}
	for _, c := range []struct {
		name, op      string
		before, after string // states of the system
		set           func() error
	}{
		{"first", opInstall, empty, two, func() error {
			if m, err := s.Installed("shop"); m == nil {
				return err
			}
			return s.Remove(t.Context(), "shop")
		}},
		{"upgrade", opInstall, one, two, func() error { return s.Install(t.Context(), shop(t, 1)) }},
		{"remove", opRemove, one, empty, func() error { return s.Install(t.Context(), shop(t, 1)) }},
	} {
		for _, step := range steps[c.op] {
			t.Run(c.name+" "+step, func(t *testing.T) {
				if err := c.set(); err != nil {
					t.Fatal(err)
				}
				if got := state(t, s); got != c.before {
					t.Fatalf("before: %s", cmp.Diff(c.before, got))
				}
				kill(t, s, c.op, step)
				valid(t, s)
				// Whoever comes next, for whatever app, puts it right.
				if err := s.Install(t.Context(), Base()); err != nil {
					t.Fatal(err)
				}
				if got := state(t, s); got != c.before && got != c.after {
					t.Errorf("neither as before nor done:\n-before +got:\n%s-done +got:\n%s", cmp.Diff(c.before, got), cmp.Diff(c.after, got))
				}
				valid(t, s)
			})
		}
	}
}

// kill begins op in a child, which is killed at a step.
func kill(t *testing.T, s *Store, op, step string) {
	t.Helper()
	arg := "shop"
	if op == opInstall {
		arg = shop(t, 2).CILFile
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", s.cfg.Root, op, arg, step)
	cmd.Env = append(os.Environ(), killEnv+"=1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child was not killed at %s: %v\n%s", step, err, out)
	}
}

// TestNoTools: a missing program is named, with its package, before anything is
// done.
func TestNoTools(t *testing.T) {
	if packages["nothing"] != "" {
		t.Fatal("a program of this name is known")
	}
	err := need("nothing", "semodule-of-another-name")
	ps, ok := errors.AsType[vassal.Problems](err)
	if !ok || len(ps) != 2 || ps[0].Message != "nothing: not found" {
		t.Errorf("need: %v", err)
	}
}

func TestOpen(t *testing.T) {
	root := t.TempDir()
	_, err := Open(Config{Root: root})
	if p, ok := errors.AsType[*vassal.Problem](err); !ok || p.Code != vassal.CodeNoPolicy || !strings.Contains(p.Hint, "selinux-policy-default") {
		t.Errorf("an empty tree: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(root, "etc/selinux"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "SELINUXTYPE=\n", "SELINUXTYPE=../x\n", "SELINUXTYPE=none\n"} {
		if err := os.WriteFile(filepath.Join(root, "etc/selinux/config"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Open(Config{Root: root})
		if p, ok := errors.AsType[*vassal.Problem](err); !ok || p.Code != vassal.CodeNoPolicy {
			t.Errorf("config %q: %v", text, err)
		}
	}
}

// TestPriorities: of two modules of a name the higher counts, and a disabled one
// does not.
func TestPriorities(t *testing.T) {
	s := small(t, t.TempDir())
	add := func(priority, text string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "extra.cil")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		tool(t, "semodule", "-N", "-p", s.cfg.Root, "-s", s.kind, "-X", priority, "-i", file)
	}
	find := func() string {
		t.Helper()
		all, err := s.modules()
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(all, func(m stored) bool { return m.name == "extra" })
		if i < 0 {
			return ""
		}
		text, err := all[i].cil()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	add("300", "(type low_t)\n")
	add("500", "(type high_t)\n")
	if got := find(); got != "(type high_t)" {
		t.Errorf("in force: %q", got)
	}
	tool(t, "semodule", "-N", "-p", s.cfg.Root, "-s", s.kind, "-d", "extra")
	if got := find(); got != "" {
		t.Errorf("disabled, and in force: %q", got)
	}
}
