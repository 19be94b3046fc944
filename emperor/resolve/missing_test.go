package resolve

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testenv"
	"liege/vassal"
)

// under is the file system below a directory.
type under struct{ root string }

func (u under) Lstat(p string) (fs.FileInfo, error) { return os.Lstat(u.root + p) }
func (u under) Readlink(p string) (string, error)   { return os.Readlink(u.root + p) }
func (u under) ReadFile(p string) ([]byte, error)   { return OS{}.ReadFile(u.root + p) }
func (u under) List(dir string, max int) []string   { return OS{}.List(u.root+dir, max) }

func messages(ps vassal.Problems) []string {
	var out []string
	for _, p := range ps {
		out = append(out, string(p.Severity)+" "+p.Code+" "+p.Message+" | "+p.Hint)
	}
	return out
}

// A user's links in an operator's file say nothing of what is on the host: not that
// it is there, nor where it leads.
func TestMissingOfUser(t *testing.T) {
	testenv.Need(t, testenv.Root)
	root := tree(t, "srv/app/wsgi.py", "srv/app/there -> /hidden/link", "srv/app/not -> /hidden/none", "srv/app/own -> wsgi.py", "hidden/deep/secret", "hidden/link -> deep/secret")
	for _, name := range []string{"", "/there", "/not", "/own"} {
		if err := os.Lchown(root+"/srv/app"+name, 1004, 1004); err != nil {
			t.Fatal(err)
		}
	}
	cfg := config()
	cfg.Ident.User, cfg.Jail.Chdir = "sammy", "/srv/app"
	want := []string{"warning not-visible /srv/app/not leads to /hidden/none, not visible inside | ", "warning not-visible /srv/app/there leads to /hidden/link, not visible inside | "}
	if d := cmp.Diff(want, messages(Resolve(t.Context(), cfg, Host{FS: under{root}, Users: people{}}).Problems)); d != "" {
		t.Error(d)
	}
}

// TestMissing: what the app will look for and not find is said with the line
// that mends it, and what it will find is not.
func TestMissing(t *testing.T) {
	root := tree(t, "srv/app/wsgi.py", "srv/app/local.py -> /etc/mm3/local.py", "srv/app/inside -> wsgi.py", "srv/app/nowhere -> /no/such", "srv/app/all -> /etc",
		"srv/app/lib -> /srv/shared", "srv/shared/x", "etc/mm3/local.py", "etc/secret.cfg", "tmp/x", "proc/x")
	for _, c := range []struct {
		name string
		cfg  func(*vassal.Config)
		want []string
	}{
		{"links", func(*vassal.Config) {}, []string{
			"warning not-visible /srv/app/all leads to /etc, not visible inside | ",
			`warning not-visible /srv/app/lib leads to /srv/shared, not visible inside | add "bind = /srv/shared:ro"`,
			`warning not-visible /srv/app/local.py leads to /etc/mm3/local.py, not visible inside | add "bind = /etc/mm3:ro"`}},
		{"links that a bind shows", func(c *vassal.Config) {
			c.Jail.Binds = []vassal.Bind{{Source: "/etc/mm3", Key: "bind"}, {Source: "/srv/shared", Key: "bind"}}
		}, []string{"warning not-visible /srv/app/all leads to /etc, not visible inside | "}},
		{"paths in env", func(c *vassal.Config) {
			c.Jail.Chdir = "/srv/shared"
			c.App.Env = []string{"A=/etc/secret.cfg", "B=/srv/shared/x", "C=/no/such", "D=/tmp/x", "E=/proc/x", "F=hello", "A=/etc/secret.cfg"}
			c.EnvAt = []vassal.Origin{{File: "/etc/vassals/shop.ini", Line: 7}, {}, {}, {}, {}, {}, {}}
		}, []string{`warning not-visible A names /etc/secret.cfg, not visible inside | add "bind = /etc/secret.cfg:ro"`}},
		{"addresses in env", func(c *vassal.Config) {
			c.Jail.Chdir = "/srv/shared"
			c.Listen = []vassal.Listener{{Protocol: vassal.HTTP, Address: ":8080"}}
			c.App.Env = []string{"DB=postgres://u:secret@db.internal/x", "Q=redis://127.0.0.1:6380/0", "SITE=https://example.org/", "ME=http://localhost:8080/", "BAD=http://%zz:1"}
		}, []string{
			"warning not-reachable DB names db.internal:5432, which cannot be reached: the network is none | connect = the address of db.internal and :5432",
			"warning not-reachable Q names 127.0.0.1:6380, which cannot be reached: the network is none | connect = 127.0.0.1:6380"}},
		{"open network", func(c *vassal.Config) {
			c.Jail.Chdir, c.Jail.Net = "/srv/shared", "host"
			c.App.Env = []string{"DB=postgres://u:secret@db.internal/x"}
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config()
			cfg.Ident.User, cfg.Jail.Chdir = "sammy", "/srv/app"
			c.cfg(&cfg)
			r := Resolve(t.Context(), cfg, Host{FS: under{root}, Users: people{}})
			if d := cmp.Diff(c.want, messages(r.Problems)); d != "" {
				t.Error(d)
			}
			if c.name == "paths in env" && r.Problems[0].Line != 7 {
				t.Errorf("line %d, want 7", r.Problems[0].Line)
			}
		})
	}
}

// TestReach: who of the web servers' users can connect to a unix socket, and
// what stops them.
func TestReach(t *testing.T) {
	root := tree(t, "srv/open/", "srv/closed/")
	for p, mode := range map[string]fs.FileMode{"": 0o755, "srv": 0o755, "srv/open": 0o755, "srv/closed": 0o700} {
		if err := os.Chmod(filepath.Join(root, p), mode); err != nil {
			t.Fatal(err)
		}
	}
	mode := func(m fs.FileMode) *fs.FileMode { return &m }
	for _, c := range []struct {
		name string
		l    vassal.Listener
		want string // the warning; empty: it can connect
		hint string
	}{
		{"open to all", vassal.Listener{Address: "/srv/open/s", Mode: mode(0o666)}, "", ""},
		{"group", vassal.Listener{Address: "/srv/open/s", Mode: mode(0o660), Chown: "sammy:www-data"}, "", ""},
		{"not yet made", vassal.Listener{Address: "/run/new/s", Mode: mode(0o666)}, "", ""},
		{"inet", vassal.Listener{Address: "127.0.0.1:80"}, "", ""},
		{"mode", vassal.Listener{Address: "/srv/open/s", Mode: mode(0o660)}, "www-data: the socket is 0660 sammy:sammy", "chown-socket = sammy:www-data"},
		{"default mode", vassal.Listener{Address: "/srv/open/s"}, "www-data: the socket is 0755 sammy:sammy", "chown-socket = sammy:www-data and chmod-socket = 660"},
		{"directory", vassal.Listener{Address: "/srv/closed/s", Mode: mode(0o666)}, "www-data: /srv/closed is 0700", "chmod o+x /srv/closed, or a socket in /run/liege/"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config()
			cfg.Ident.User, cfg.Jail.Umask = "sammy", 0o022
			c.l.Protocol = vassal.UWSGI
			cfg.Listen = []vassal.Listener{c.l}
			r := Resolve(t.Context(), cfg, Host{FS: under{root}, Users: people{}})
			got := messages(r.Problems)
			if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || !strings.Contains(got[0], c.want) || !strings.HasSuffix(got[0], " | "+c.hint)) {
				t.Errorf("%q, want %q with %q", got, c.want, c.hint)
			}
			if all := r.Reach[c.l.Address]; c.l.Address[0] == '/' && (len(all) != 1 || (all[0].Why == "") != (c.want == "")) {
				t.Errorf("reach %+v", all)
			}
		})
	}
}

// TestCaller: liege serve without root skips nothing silently that the file
// asks for its safety.
func TestCaller(t *testing.T) {
	caller := &Caller{UID: 1004, GID: 1004, Cwd: "/"}
	for _, c := range []struct {
		name string
		cfg  func(*vassal.Config)
		want string
	}{
		{"nothing special", func(*vassal.Config) {}, ""},
		{"hook", func(c *vassal.Config) { c.Hooks = []vassal.Hook{{Phase: vassal.AsRoot, Action: "exec", Arg: "id"}} }, "error needs-root"},
		{"context", func(c *vassal.Config) { c.Ident.Context = "u:r:t:s0" }, "error needs-root"},
		{"network", func(c *vassal.Config) { c.Jail.Net, c.Jail.NetAt.Line = "none", 3 }, "error needs-root"},
		{"no network of its own", func(c *vassal.Config) { c.Jail.Net, c.Jail.NetAt.Line = "host", 3 }, ""},
		{"limit", func(c *vassal.Config) { c.Limits.MemoryMax = 1 << 20 }, "warning needs-root"},
		{"no swap", func(c *vassal.Config) { c.Limits.SwapMax = new(int64) }, "warning needs-root"},
		{"all at once", func(c *vassal.Config) { c.Limits.OOMGroup = true }, "warning needs-root"},
		{"filter", func(c *vassal.Config) { c.Guard.Seccomp = "strict" }, "warning needs-root"},
		{"no filter", func(c *vassal.Config) { c.Guard.Seccomp = "off" }, ""},
		{"capability", func(c *vassal.Config) { c.Guard.Caps = []int{10} }, "warning needs-root"},
		{"processes", func(c *vassal.Config) { c.Jail.HidePID = true }, "warning needs-root"},
		{"names", func(c *vassal.Config) { c.Jail.Resolv = "none" }, "warning needs-root"},
		{"bind", func(c *vassal.Config) { c.Jail.Binds = []vassal.Bind{{Source: "/usr", Key: "bind"}} }, "warning needs-root"},
	} {
		cfg := config()
		c.cfg(&cfg)
		h := Host{FS: OS{}, Users: people{}, Caller: caller, SELinux: SELinux{Enter: func(c string, _ bool) (string, error) { return c, nil }}}
		if got := strings.Join(codes(Resolve(t.Context(), cfg, h).Problems), ","); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	cfg := config()
	cfg.Hooks = []vassal.Hook{{Phase: vassal.AsRoot, Action: "exec", Arg: "id"}}
	caller.UID = 0
	if got := codes(Resolve(t.Context(), cfg, Host{FS: OS{}, Users: people{}, Caller: caller}).Problems); strings.Contains(strings.Join(got, ","), "needs-root") {
		t.Errorf("root is refused: %v", got)
	}
}

// TestServerElsewhere: a server that is there, but not in PATH, is found for the hint.
func TestServerElsewhere(t *testing.T) {
	root := tree(t, "srv/app/serve", "usr/sbin/httpd")
	for _, p := range []string{"/srv/app/serve", "/usr/sbin/httpd"} {
		if err := os.Chmod(root+p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, hint := range map[string]string{"serve": "exec = ./serve -D", "httpd": "exec = /usr/sbin/httpd -D", "other": "install it, or name it by its path"} {
		cfg := config()
		cfg.Ident.User, cfg.Jail.Chdir = "sammy", "/srv/app"
		cfg.App.Workers, cfg.App.Exec = nil, &vassal.Exec{Command: []string{name, "-D"}}
		want := []string{"error " + vassal.CodeNoInterpreter + " " + name + " is not found in /usr/local/bin:/usr/bin:/bin | " + hint}
		if d := cmp.Diff(want, messages(Resolve(t.Context(), cfg, Host{FS: under{root}, Users: people{}}).Problems)); d != "" {
			t.Error(d)
		}
	}
}
