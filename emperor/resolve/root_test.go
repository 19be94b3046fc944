package resolve

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testenv"
	"liege/vassal"
)

// foreign is a config over a tree, of sammy's.
func foreign(dir string, more func(*vassal.Config)) vassal.Config {
	cfg := config()
	cfg.Ident.User = "sammy"
	cfg.Jail.Root = vassal.Root{Dir: dir, Key: "rootfs", At: vassal.Origin{File: cfg.File, Line: 5}}
	if more != nil {
		more(&cfg)
	}
	return cfg
}

// What the tree lacks is missing there, and installed there.
func TestRootLacks(t *testing.T) {
	host, dir := tree(t, "app/app.py"), tree(t, "usr/bin/")
	for _, more := range []func(*vassal.Config){
		func(c *vassal.Config) {
			c.App.Workers = &vassal.Workers{Language: "python", Python: &vassal.Python{File: host + "/app/app.py"}}
		},
		func(c *vassal.Config) { c.App.Workers = &vassal.Workers{Language: "perl", Perl: &vassal.Perl{}} },
		func(c *vassal.Config) { c.App.Exec = &vassal.Exec{Command: []string{"node"}} },
		func(c *vassal.Config) { c.App.PHP = &vassal.PHP{} },
	} {
		r := Resolve(t.Context(), foreign(dir, more), Host{FS: OS{}, Users: people{}})
		found := slices.ContainsFunc(r.Problems, func(p vassal.Problem) bool {
			return p.Code == vassal.CodeNoInterpreter && strings.Contains(p.Message, " below "+dir) && strings.HasPrefix(p.Hint, "chroot "+dir+" apt install ")
		})
		if !found {
			t.Error(r.Problems)
		}
	}
}

// Programs are looked for in the tree, through links that the tree has and
// through binds; paths that options name come from the host, or else from the
// tree.
func TestRootLookups(t *testing.T) {
	host := tree(t, "app/app.py", "venv/bin/", "venv/bin/python3 -> /usr/bin/python3", "venv/pyvenv.cfg")
	dir := tree(t, "usr/bin/python3.11", "usr/bin/python3 -> python3.11", "bin -> usr/bin", "opt/own/app.py", "own/tool", "own/up -> /own/tool")
	worker := func(file, venv string) func(*vassal.Config) {
		return func(c *vassal.Config) {
			c.App.Workers = &vassal.Workers{Language: "python", Python: &vassal.Python{File: file, Virtualenv: venv, Key: "wsgi-file"}}
			for _, p := range []string{filepath.Dir(file), venv} {
				if p != "" {
					c.Jail.Named = append(c.Jail.Named, vassal.Bind{Source: p, Key: "wsgi-file"})
				}
			}
		}
	}
	for _, tc := range []struct {
		name, interpreter string
		more              func(*vassal.Config)
		binds, codes      []string
	}{
		{"the host's app", "/usr/bin/python3", worker(host+"/app/app.py", ""), []string{host + "/app"}, nil},
		{"a virtualenv whose python is the tree's", host + "/venv/bin/python3", worker(host+"/app/app.py", host+"/venv"), []string{host + "/app", host + "/venv"}, nil},
		{"the tree's own app", "/usr/bin/python3", worker("/opt/own/app.py", ""), nil, nil},
		{"an app that neither has", "/usr/bin/python3", worker("/opt/none/app.py", ""), nil,
			[]string{"error no-such-path", "error no-such-path"}},
		{"a program of the tree", "", func(c *vassal.Config) {
			c.App.Exec = &vassal.Exec{Command: []string{"/own/up"}}
		}, nil, nil},
		{"a program of the host alone", "", func(c *vassal.Config) {
			c.App.Exec = &vassal.Exec{Command: []string{"/usr/bin/env"}}
		}, nil, []string{"error interpreter-missing"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := Resolve(t.Context(), foreign(dir, tc.more), Host{FS: OS{}, Users: people{}})
			var binds []string
			for _, b := range r.Binds {
				binds = append(binds, b.Source)
			}
			interpreter := ""
			if w := r.App.Workers; w != nil {
				interpreter = w.Interpreter
			}
			if d := cmp.Diff([]any{tc.interpreter, tc.binds, tc.codes}, []any{interpreter, binds, codes(r.Problems)}); d != "" {
				t.Errorf("interpreter, binds, problems (-want +got):\n%s%v", d, r.Problems)
			}
			if r.Root.Source != dir || len(r.System) > 0 {
				t.Errorf("root %+v, of the host %v", r.Root, r.System)
			}
		})
	}
}

// What cannot be a root, and what cannot be put into one.
func TestRootRefused(t *testing.T) {
	outer := tree(t, "tree/usr/", "tree/srv -> /usr", "tree/file", "file", "run/liege/", "up -> /", "link -> tree")
	dir := outer + "/tree"
	bind := func(target string) func(*vassal.Config) {
		return func(c *vassal.Config) {
			c.Jail.Binds = []vassal.Bind{{Source: outer + "/file", Target: target, Key: "bind"}}
		}
	}
	tmpfs := func(target string) func(*vassal.Config) {
		return func(c *vassal.Config) { c.Jail.Tmpfs = []vassal.Tmpfs{{Target: target}} }
	}
	for _, tc := range []struct {
		dir   string
		more  func(*vassal.Config)
		codes []string
	}{
		{outer + "/none", nil, []string{"error no-such-path"}},
		{outer + "/file", nil, []string{"error no-such-path"}},
		{outer + "/up", nil, []string{"error refused-path"}},
		{outer + "/up/etc", nil, nil},
		{outer, nil, []string{"error refused-path"}},
		{outer + "/run/liege", nil, []string{"error refused-path"}},
		{"/proc/self", nil, []string{"error refused-path"}},
		{"/dev", nil, []string{"error refused-path"}},
		{outer + "/link", nil, nil},
		{dir, bind("/srv/x"), []string{"error refused-path"}},
		{dir, bind("/file/x"), []string{"error refused-path"}},
		{dir, bind("/opt/x"), nil},
		{dir, bind("/proc/x"), []string{"error refused-path"}},
		{dir, bind("/.liege"), []string{"error refused-path"}},
		{dir, bind("/"), []string{"error refused-path"}},
		{dir, tmpfs("/srv/x"), []string{"error refused-path"}},
		{dir, tmpfs("/proc"), []string{"error refused-path"}},
		{dir, tmpfs("/.liege/x"), []string{"error refused-path"}},
		{dir, tmpfs("/sys/fs"), []string{"error refused-path"}},
		{dir, tmpfs("/dev"), []string{"error refused-path"}},
		{dir, tmpfs("/var/cache"), nil},
	} {
		cfg := foreign(tc.dir, tc.more)
		if r := Resolve(t.Context(), cfg, Host{FS: OS{}, Users: people{}, Reserved: []string{outer + "/run/liege"}}); !slices.Equal(codes(r.Problems), tc.codes) {
			t.Errorf("%s: got %v, want %v", tc.dir, r.Problems, tc.codes)
		}
	}
}

// Root runs no shell of a tree that somebody else can change.
func TestForeignHooks(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(dir string) error
		want   string
	}{
		{"root's", func(string) error { return nil }, ""},
		{"somebody's", func(dir string) error { return os.Chown(dir, 1004, 1004) }, "belongs to uid 1004"},
		{"somebody's shell", func(dir string) error { return os.Lchown(dir+"/usr/bin/sh", 1004, 1004) }, "belongs to uid 1004"},
		{"everybody's libraries", func(dir string) error { return os.Chmod(dir+"/usr/lib", 0o777) }, "writable by others"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			testenv.Need(t, testenv.Root) // only root can give a tree to root
			dir, err := os.MkdirTemp("/srv", "liege-tree-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			for _, d := range []string{"usr/bin", "usr/lib"} {
				if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(dir+"/usr/bin/sh", nil, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("usr/bin", dir+"/bin"); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := tc.change(dir); err != nil {
				t.Fatal(err)
			}
			r := Resolve(t.Context(), foreign(dir, func(c *vassal.Config) {
				c.Hooks = []vassal.Hook{{Phase: vassal.AsRoot, Action: "exec", Arg: "id", At: vassal.Origin{File: c.File, Line: 9}}, {Phase: vassal.AsUser, Action: "exec", Arg: "id"}}
			}), Host{FS: OS{}, Users: people{}})
			text := fmt.Sprint(r.Problems)
			if (tc.want == "") != (len(r.Problems) == 0) || !strings.Contains(text, tc.want) || tc.want != "" && !strings.Contains(text, ":9: hook-as-root") {
				t.Errorf("got %v, want %q", r.Problems, tc.want)
			}
		})
	}
}

// A resolv-conf line: a file that others can exchange is not read by root.
func TestResolvLine(t *testing.T) {
	dir := tree(t, "resolv.conf") // in a directory that all can write
	for _, tc := range []struct {
		line, want string
		codes      []string
	}{
		{"none", "", nil},
		{dir + "/resolv.conf", "", []string{"error refused-path"}},
		{"/no/such", "", []string{"error no-such-path"}},
	} {
		cfg := config()
		cfg.Ident.User, cfg.Jail.Resolv = "sammy", tc.line
		r := Resolve(t.Context(), cfg, Host{FS: OS{}, Users: people{}})
		i := slices.IndexFunc(r.Files, func(f File) bool { return f.Path == "/etc/resolv.conf" })
		if !slices.Equal(codes(r.Problems), tc.codes) || i < 0 || r.Files[i].Text != tc.want {
			t.Errorf("%s: got %v, %v", tc.line, r.Files, r.Problems)
		}
	}
}

// A profile of seccomp that others can exchange or rewrite is not taken for the
// operator's; a tenant's own is read with his rights.
func TestProfileFile(t *testing.T) {
	testenv.Need(t, testenv.Root)
	const text = `{"defaultAction": "SCMP_ACT_ALLOW"}`
	for _, tc := range []struct {
		name      string
		dir, file int // owners
		mode      os.FileMode
		operator  bool
		codes     []string
	}{
		{"root's", 0, 0, 0o644, true, nil},
		{"in a directory of somebody's", 1000, 0, 0o644, true, []string{"error refused-path"}},
		{"somebody's", 0, 1000, 0o644, true, []string{"error refused-path"}},
		{"a group may write", 0, 0, 0o664, true, []string{"error refused-path"}},
		{"named by a tenant", 1000, 1000, 0o644, false, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir, err := os.MkdirTemp("/srv", "liege-profile-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			file := filepath.Join(dir, "profile.json")
			err = os.WriteFile(file, []byte(text), 0o600)
			if err := errors.Join(err, os.Chmod(file, tc.mode), os.Chown(file, tc.file, 0), os.Chown(dir, tc.dir, 0)); err != nil {
				t.Fatal(err)
			}
			cfg := config()
			cfg.Trust.Operator = tc.operator
			cfg.Guard.Seccomp, cfg.Guard.SeccompAt = file, vassal.Origin{File: cfg.File, Line: 3}
			r := &resolver{cfg: cfg, res: &Result{}, host: Host{FS: OS{}}}
			r.guard()
			if !slices.Equal(codes(r.res.Problems), tc.codes) || (r.res.Plan.Seccomp != nil) != (tc.codes == nil) {
				t.Errorf("got %v and a filter of %d instructions, want %v", r.res.Problems, len(r.res.Plan.Seccomp), tc.codes)
			}
		})
	}
}

// Under chroot the file's paths are paths inside: in the tree, or in what a
// line puts there. What the app may write to is bound from the tree.
func TestRootInside(t *testing.T) {
	host := tree(t, "real/app.py", "link -> real")
	dir := tree(t, "usr/bin/python3", "srv/own/app.py", "srv/now -> /srv/own", "opt/", "opt/up -> ../../../../etc")
	for _, tc := range []struct {
		name, chdir, line string
		dir               string
		binds, codes      []string
	}{
		{"the tree's", "/srv/own", "", "/srv/own", []string{dir + "/srv/own /srv/own true"}, nil},
		{"through a link of the tree's", "/srv/now", "", "/srv/own", []string{dir + "/srv/own /srv/own true"}, nil},
		{"the host has it, the tree has not", host + "/real", "", "", nil, []string{"error no-such-path"}},
		{"brought by a line", "/home/app", host + "/link:/home/app", "/home/app", []string{host + "/real /home/app true"}, nil},
		{"a link upwards stays inside", "/opt/up", "", "", nil, []string{"error no-such-path"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := Resolve(t.Context(), foreign(dir, func(c *vassal.Config) {
				c.Jail.Root.Inside, c.Jail.Root.Key = true, "chroot"
				c.Jail.Chdir = tc.chdir
				if src, dst, ok := strings.Cut(tc.line, ":"); ok {
					c.Jail.Binds = []vassal.Bind{{Source: src, Target: dst, Access: vassal.ReadWrite, Key: "bind"}}
				}
				c.App.Workers = &vassal.Workers{Language: "python", Python: &vassal.Python{Module: "app"}}
			}), Host{FS: OS{}, Users: people{}})
			var binds []string
			for _, b := range r.Binds {
				binds = append(binds, fmt.Sprint(b.Source, " ", b.Target, " ", b.Writable))
				if !b.Tenant {
					t.Errorf("%s would be mounted by its name", b.Source)
				}
			}
			if d := cmp.Diff([]any{tc.dir, tc.binds, tc.codes}, []any{r.Dir, binds, codes(r.Problems)}); d != "" {
				t.Errorf("directory, binds, problems (-want +got):\n%s%v", d, r.Problems)
			}
		})
	}
}
