package resolve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testenv"
	"liege/vassal"
	"liege/vassal/inifile"
)

// people is a user database for tests.
type people struct{}

func (people) User(name string) (User, error) {
	for _, u := range []User{{"sammy", 1004, 1004, "/home/sammy"}, {"www-data", 33, 33, "/var/www"}, {"root", 0, 0, "/root"}} {
		if id, numeric := number(name); name == u.Name || numeric && id == u.UID {
			return u, nil
		}
	}
	return User{}, ErrUnknown
}

func (people) Group(name string) (Group, error) {
	for _, g := range []Group{{1004, "sammy"}, {33, "www-data"}, {0, "root"}, {42, "shadow"}, {27, "sudo"}} {
		if id, numeric := number(name); name == g.Name || numeric && id == g.GID {
			return g, nil
		}
	}
	return Group{}, ErrUnknown
}

func (people) Groups(user string) ([]Group, error) {
	if user == "sammy" {
		return []Group{{27, "sudo"}, {33, "www-data"}, {42, "shadow"}}, nil
	}
	return nil, nil
}

func codes(ps vassal.Problems) []string {
	var out []string
	for _, p := range ps {
		out = append(out, string(p.Severity)+" "+p.Code)
	}
	return out
}

func config() vassal.Config {
	return vassal.Config{Name: "shop", File: "/etc/vassals/shop.ini", Trust: vassal.Trust{Operator: true}, Jail: vassal.Jail{AutoBind: true}}
}

func TestIdentity(t *testing.T) {
	for _, tc := range []struct {
		name   string
		cfg    func(*vassal.Config)
		host   Host
		uid    int
		gid    int
		groups []Group
		codes  []string
	}{
		{"groups of the user without the refused ones", func(c *vassal.Config) { c.Ident.User = "sammy" }, Host{},
			1004, 1004, []Group{{33, "www-data"}}, nil},
		{"by number", func(c *vassal.Config) { c.Ident.User = "1004" }, Host{}, 1004, 1004, []Group{{33, "www-data"}}, nil},
		{"no-initgroups and add-gid", func(c *vassal.Config) {
			c.Ident.User, c.Ident.NoInitgroups, c.Ident.AddGroups = "sammy", true, []vassal.AddGroup{{Name: "shadow"}}
		}, Host{}, 1004, 1004, []Group{{42, "shadow"}}, nil},
		{"gid", func(c *vassal.Config) { c.Ident.User, c.Ident.Group = "sammy", "www-data" }, Host{}, 1004, 33, nil, nil},
		{"root's group", func(c *vassal.Config) { c.Ident.User, c.Ident.Group = "sammy", "root" }, Host{}, 1004, 0,
			[]Group{{33, "www-data"}}, []string{"error uid-root"}},
		{"root's group among others", func(c *vassal.Config) {
			c.Ident.User, c.Ident.AddGroups = "www-data", []vassal.AddGroup{{Name: "root"}}
		}, Host{}, 33, 33,
			[]Group{{0, "root"}}, []string{"error uid-root"}},
		{"root's group is allowed", func(c *vassal.Config) { c.Ident.User, c.Ident.Group = "www-data", "root" }, Host{AllowRoot: true}, 33, 0, nil, nil},
		{"no uid", func(*vassal.Config) {}, Host{}, 0, 0, nil, []string{"error no-uid"}},
		{"[defaults] uid", func(*vassal.Config) {}, Host{DefaultUID: "www-data"}, 33, 33, nil, nil},
		{"root", func(c *vassal.Config) { c.Ident.User = "root" }, Host{}, 0, 0, nil, []string{"error uid-root"}},
		{"zero", func(c *vassal.Config) { c.Ident.User = "0" }, Host{}, 0, 0, nil, []string{"error uid-root"}},
		{"number nobody has", func(c *vassal.Config) { c.Ident.User = "7777" }, Host{}, 7777, 65534, nil, []string{"error no-gid"}},
		{"-1", func(c *vassal.Config) { c.Ident.User = "4294967295" }, Host{}, 0, 0, nil, []string{"error no-such-user"}},
		{"overflow", func(c *vassal.Config) { c.Ident.User = "4294967296" }, Host{}, 0, 0, nil, []string{"error no-such-user"}},
		{"unknown", func(c *vassal.Config) { c.Ident.User = "nobody-here" }, Host{}, 0, 0, nil, []string{"error no-such-user"}},
		{"tenant", func(c *vassal.Config) { c.Trust = vassal.Trust{UID: 1004, GID: 42} }, Host{}, 1004, 1004, []Group{{33, "www-data"}}, nil},
		{"tenant repeats", func(c *vassal.Config) {
			c.Trust, c.Ident.User = vassal.Trust{UID: 1004}, "sammy"
		}, Host{}, 1004, 1004, []Group{{33, "www-data"}}, nil},
		{"tenant names another", func(c *vassal.Config) {
			c.Trust, c.Ident.User = vassal.Trust{UID: 1004}, "www-data"
		}, Host{}, 1004, 1004, []Group{{33, "www-data"}}, []string{"error owner"}},
		{"tenant's refused group", func(c *vassal.Config) {
			c.Trust, c.Ident.Group = vassal.Trust{UID: 1004}, "sudo"
		}, Host{}, 1004, 1004, []Group{{33, "www-data"}}, []string{"error owner"}},
		{"tenant's group", func(c *vassal.Config) {
			c.Trust, c.Ident.Group = vassal.Trust{UID: 33}, "sammy"
		}, Host{MinUID: 1}, 33, 33, nil, []string{"error owner"}},
		{"system user's file", func(c *vassal.Config) { c.Trust = vassal.Trust{UID: 33} }, Host{}, 33, 33, nil, []string{"error uid-too-low"}},
		{"auto without the Emperor", func(c *vassal.Config) { c.Ident.User = "auto" }, Host{}, 0, 0, nil, []string{"error no-auto-uid"}},
		{"auto", func(c *vassal.Config) { c.Ident.User = "auto" },
			Host{AutoUID: func(vassal.Name) (int, error) { return 1_900_000_007, nil }}, 1_900_000_007, 1_900_000_007, nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := config()
			tc.cfg(&cfg)
			tc.host.FS, tc.host.Users = OS{}, people{}
			r := Resolve(t.Context(), cfg, tc.host)
			got := []any{r.UID, r.GID, r.Groups, codes(r.Problems)}
			if d := cmp.Diff([]any{tc.uid, tc.gid, tc.groups, tc.codes}, got); d != "" {
				t.Errorf("uid, gid, groups, problems (-want +got):\n%s%v", d, r.Problems)
			}
		})
	}
}

// What is wrong with a further group is told with its line.
func TestAddGroupLines(t *testing.T) {
	cfg := config()
	cfg.Ident.User, cfg.Ident.AddGroups = "sammy", []vassal.AddGroup{{Name: "none-such", At: vassal.Origin{Line: 3}}, {Name: "root", At: vassal.Origin{Line: 4}}}
	ps := Resolve(t.Context(), cfg, Host{FS: OS{}, Users: people{}}).Problems
	for line, code := range map[int]string{3: vassal.CodeNoSuchGroup, 4: vassal.CodeUIDRoot} {
		if !slices.ContainsFunc(ps, func(p vassal.Problem) bool { return p.Line == line && p.Code == code && p.Key == "add-gid" }) {
			t.Errorf("line %d: no %s in %v", line, code, ps)
		}
	}
}

// tree makes directories ("dir/"), files and links ("a -> b") below a new
// temporary directory.
func tree(t *testing.T, names ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, n := range names {
		link, target, isLink := strings.Cut(n, " -> ")
		p := filepath.Join(root, link)
		var err error
		switch {
		case isLink:
			err = os.Symlink(strings.ReplaceAll(target, "ROOT", root), p)
		case strings.HasSuffix(n, "/"):
			err = os.MkdirAll(p, 0o755)
		default:
			if err = os.MkdirAll(filepath.Dir(p), 0o755); err == nil {
				err = os.WriteFile(p, []byte("home = ROOT/base/bin\n"), 0o755)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestBinds(t *testing.T) {
	root := tree(t, "releases/7/media/", "releases/7/app.py", "current -> releases/7", "venv/bin/python3", "other/", "abs -> ROOT/other", "loop -> loop", "file")
	bind := func(src string, a vassal.Access, key string) vassal.Bind {
		if !filepath.IsAbs(src) {
			src = filepath.Join(root, src)
		}
		return vassal.Bind{Source: src, Access: a, Key: key}
	}
	for _, tc := range []struct {
		name         string
		jail         vassal.Jail
		binds, links []string // below root
		codes        []string
	}{
		{"chdir through a link", vassal.Jail{Chdir: root + "/current", AutoBind: true},
			[]string{"releases/7 rw"}, []string{"current -> releases/7"}, nil},
		{"inside the app's directory nothing is bound twice",
			vassal.Jail{Chdir: root + "/current", AutoBind: true, Named: []vassal.Bind{bind("current/media", vassal.AsHost, "check-static")}},
			[]string{"releases/7 rw"}, []string{"current -> releases/7"}, nil},
		{"a bind line narrows it", vassal.Jail{Chdir: root + "/current", AutoBind: true, Binds: []vassal.Bind{bind("current/media", vassal.ReadOnly, "bind")}},
			[]string{"releases/7 rw", "releases/7/media ro"}, []string{"current -> releases/7"}, nil},
		{"auto-bind = false", vassal.Jail{Chdir: root + "/current", Named: []vassal.Bind{bind("other", vassal.AsHost, "check-static")}}, nil, nil, nil},
		{"absolute link", vassal.Jail{AutoBind: true, Named: []vassal.Bind{bind("abs", vassal.AsHost, "check-static")}},
			[]string{"other rw"}, []string{"abs -> ROOT/other"}, nil},
		{"a link loop", vassal.Jail{AutoBind: true, Named: []vassal.Bind{bind("loop", vassal.AsHost, "check-static")}}, nil, nil, []string{"error no-such-path"}},
		{"missing and named", vassal.Jail{AutoBind: true, Named: []vassal.Bind{bind("none", vassal.AsHost, "check-static")}}, nil, nil, []string{"warning no-such-path"}},
		{"missing and bound", vassal.Jail{AutoBind: true, Binds: []vassal.Bind{bind("none", vassal.ReadOnly, "bind")}}, nil, nil, []string{"error no-such-path"}},
		{"below /usr", vassal.Jail{AutoBind: true, Named: []vassal.Bind{bind("/usr/share", vassal.ReadOnly, "pythonpath")}}, nil, nil, nil},
		{"too wide", vassal.Jail{AutoBind: true, Named: []vassal.Bind{bind("/", vassal.ReadOnly, "pythonpath"), bind("/home", vassal.ReadOnly, "pythonpath"), bind("/var/lib", vassal.ReadOnly, "pythonpath")}},
			nil, nil, []string{"error refused-path", "error refused-path", "error refused-path"}},
		{"never", vassal.Jail{AutoBind: true, Binds: []vassal.Bind{bind("/proc/self", vassal.ReadOnly, "bind"), bind("/sys", vassal.ReadOnly, "bind"), bind("/dev", vassal.ReadOnly, "bind")}},
			nil, nil, []string{"error refused-path", "error refused-path", "error refused-path"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := config()
			cfg.Ident.User, cfg.Jail = "sammy", tc.jail
			r := Resolve(t.Context(), cfg, Host{FS: OS{}, Users: people{}, Reserved: []string{"/run/liege"}})
			var binds, links []string
			for _, b := range r.Binds {
				right := " ro"
				if b.Writable {
					right = " rw"
				}
				if !b.Tenant {
					t.Errorf("%s lies below a directory all can write but is not marked so", b.Source)
				}
				binds = append(binds, strings.TrimPrefix(b.Target, root+"/")+right)
			}
			for _, l := range r.Links {
				if p, ok := strings.CutPrefix(l.Path, root+"/"); ok {
					links = append(links, p+" -> "+strings.ReplaceAll(l.Target, root, "ROOT"))
				}
			}
			if d := cmp.Diff([][]string{tc.binds, tc.links, tc.codes}, [][]string{binds, links, codes(r.Problems)}); d != "" {
				t.Errorf("binds, links, problems (-want +got):\n%s%v", d, r.Problems)
			}
		})
	}
}

// Where somebody other than root chose where a path ends, it is opened with the
// vassal's ids: through a link, or through what a virtualenv says of its base.
func TestLed(t *testing.T) {
	root := tree(t, "app/", "current -> app", "base/bin/python3", "venv/bin/python3")
	if err := os.WriteFile(filepath.Join(root, "venv/pyvenv.cfg"), []byte("home = "+root+"/base/bin\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for chdir, want := range map[string][]string{
		"current": {"app true", "base true", "venv false"},
		"app":     {"app false", "base true", "venv false"},
	} {
		cfg := config()
		cfg.Ident.User = "sammy"
		cfg.Jail = vassal.Jail{AutoBind: true, Chdir: filepath.Join(root, chdir), Named: []vassal.Bind{{Source: root + "/venv", Key: "virtualenv"}}}
		cfg.App.Workers = &vassal.Workers{Python: &vassal.Python{Virtualenv: root + "/venv"}}
		var got []string
		for _, b := range Resolve(t.Context(), cfg, Host{FS: OS{}, Users: people{}}).Binds {
			got = append(got, fmt.Sprint(strings.TrimPrefix(b.Target, root+"/"), " ", b.Led))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", chdir, d)
		}
	}
}

func TestReserved(t *testing.T) {
	root := tree(t, "run/liege/x", "vassals/")
	for _, p := range []string{"run/liege", "run/liege/x", "run", "vassals"} {
		cfg := config()
		cfg.Ident.User = "sammy"
		cfg.Jail.Binds = []vassal.Bind{{Source: filepath.Join(root, p), Key: "bind"}}
		r := Resolve(t.Context(), cfg, Host{FS: OS{}, Users: people{}, Reserved: []string{root + "/run/liege", root + "/vassals"}})
		if got := codes(r.Problems); !slices.Equal(got, []string{"error refused-path"}) || len(r.Binds) > 0 {
			t.Errorf("%s: problems %v, binds %v; want it refused", p, got, r.Binds)
		}
	}
}

func TestTenantBinds(t *testing.T) {
	root := tree(t, "mine/", "theirs/")
	cfg := config()
	cfg.Trust = vassal.Trust{UID: 1004}
	cfg.Jail.Binds = []vassal.Bind{{Source: root + "/mine", Key: "bind"}, {Source: root + "/theirs", Key: "bind"}}
	r := Resolve(t.Context(), cfg, Host{FS: OS{}, Users: people{}, Binds: []string{root + "/mine"}})
	if got, want := codes(r.Problems), []string{"error over-ceiling"}; !slices.Equal(got, want) {
		t.Errorf("problems %v, want %v", got, want)
	}
	if len(r.Binds) != 1 || r.Binds[0].Source != root+"/mine" {
		t.Errorf("binds %v, want %s/mine alone", r.Binds, root)
	}
}

func TestAddress(t *testing.T) {
	r := &resolver{cfg: vassal.Config{File: "/etc/vassals/x.ini", Jail: vassal.Jail{Chdir: "/srv/app"}}}
	for in, want := range map[string]string{
		":80": "0.0.0.0:80", "*:80": "0.0.0.0:80", "127.0.0.1:8080": "127.0.0.1:8080", "[::]:80": "[::]:80", "localhost:3031": "127.0.0.1:3031",
		"app.sock": "/srv/app/app.sock", "./run/app.sock": "/srv/app/run/app.sock", "/var/run/uwsgi.sock": "/run/uwsgi.sock",
		"/tmp/../run/x": "/run/x", "@name": "@name", "127.0.0.1:0": "127.0.0.1:0",
		":99999": "error", ":http": "error", "@": "error", "": "error", "/" + strings.Repeat("x", 107): "error", "a:b:c": "error", "http://x:80": "error", "unix:": "error", "300.1.2.3:80": "error", "::1:80": "error", "web1.example:80": "web1.example:80",
	} {
		got, err := r.address(in)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("address(%q) = %q (%v), want %q", in, got, err, want)
		}
	}
}

// A number alone is no port but a file, as for uWSGI, and that is said.
func TestListenNumber(t *testing.T) {
	cfg := config()
	cfg.Listen = []vassal.Listener{{Protocol: "http", Address: "8080", Key: "http-socket"}}
	r := &resolver{cfg: cfg, res: &Result{}}
	r.listeners()
	if ps := r.res.Problems; len(ps) != 1 || ps[0].Severity != vassal.Warning || ps[0].Hint != "http-socket = :8080" || len(r.res.Listen) != 1 {
		t.Errorf("%v, %v", r.res.Listen, ps)
	}
}

func TestListenRule(t *testing.T) {
	for _, tc := range []struct {
		rule, addr string
		want       bool
	}{
		{"127.0.0.1:1024-65535", "127.0.0.1:8080", true},
		{"127.0.0.1:1024-65535", "127.0.0.1:80", false},
		{"127.0.0.1:1024-65535", "0.0.0.0:8080", false},
		{"127.0.0.1:8080", "127.0.0.1:8080", true},
		{"/home/**", "/home/a/x.sock", true},
		{"/home/**", "/homes/x.sock", false},
		{"/home/**", "127.0.0.1:80", false},
		{"/srv/*/app.sock", "/srv/a/app.sock", true},
		{"/srv/*/app.sock", "/srv/a/b/app.sock", false},
		{"127.0.0.1:a-b", "127.0.0.1:80", false},
		{"*:80-90", "10.0.0.1:85", true},
		{"*:80-90", "[::1]:95", false},
		{"[::1]:*", "[::1]:95", true},
		{"[::1]:*", "[::2]:95", false},
		{"*:*", "/etc/cron.d/x:80", false},
		{"*:80-90", "@x:85", false},
		{"*:80", "@x:80", false},
		{"*", "@x", true},
	} {
		if got := listenRule(tc.rule, tc.addr); got != tc.want {
			t.Errorf("listenRule(%q, %q) = %v", tc.rule, tc.addr, got)
		}
	}
}

// What a user's file may listen on: never what is the Emperor's own.
func TestMayListen(t *testing.T) {
	cfg := config()
	cfg.Trust = vassal.Trust{UID: 1004}
	r := &resolver{cfg: cfg, res: &Result{Dir: "/home/sammy/app"}, host: Host{Listen: []string{"/srv/sockets/**"}}}
	for addr, want := range map[string]bool{
		"/run/liege/shop.sock": true, "/run/liege/shop/x.sock": true, "/run/liege/shop.http.sock": true, "/run/liege/shop.uk.sock": false, "/run/liege/shop.x": false, "/home/sammy/app/x.sock": true,
		"/srv/sockets/x.sock": true, "/run/x.sock": false, "/run/liege/other.sock": false, "/run/liege/shop-2.sock": false, "/run/liege/shop": false,
		"/run/liege/control.sock": false, "/run/liege/cgroup": false, "/run/liege/control.sock.new": false, "/run/liege/lock": false,
		"/run/liege/vassals/v-other/log": false, "/run/liege/sandbox/x.sock": false, "/home/sammy/x.sock": false, "127.0.0.1:80": false, "@x": false,
	} {
		if got := r.mayListen(addr, vassal.Origin{}); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
}

// What a file of a user's brings into one that root serves by hand listens where a
// user's file may; who is not root listens with rights of its own.
func TestMayListenServed(t *testing.T) {
	lent := vassal.Origin{File: "/home/sammy/a.ini", Line: 2}
	for uid, want := range map[int]bool{0: false, 1004: true} {
		cfg := config()
		cfg.Lent = []vassal.Origin{lent}
		cfg.Listen = []vassal.Listener{{Protocol: "http", Address: "127.0.0.1:22", At: lent}, {Protocol: "http", Address: "127.0.0.1:80", At: vassal.Origin{Line: 3}}}
		r := &resolver{cfg: cfg, res: &Result{}, host: Host{Caller: &Caller{UID: uid}}}
		r.listeners()
		if got := len(r.res.Listen) == 2; got != want || r.res.Problems.Failed() == want || r.res.Listen[len(r.res.Listen)-1].Address != "127.0.0.1:80" {
			t.Errorf("uid %d: %v, %v", uid, r.res.Listen, r.res.Problems)
		}
	}
}

// A rule that is wider than Liege's directories does not reach into them, and none
// gives what is the Emperor's own or has no name in the run directory but that of
// another vassal; the rule that names the run directory is meant.
func TestMayListenInRun(t *testing.T) {
	cfg := config()
	cfg.Trust = vassal.Trust{UID: 1004}
	for _, tc := range []struct {
		run, rule string
		may, not  []string
	}{
		{"", "/run/**", []string{"/run/liege/shop.sock", "/run/liege/shop.http.sock", "/run/liege/shop/a.sock", "/run/x.sock", "/run/liege-b/x.sock"},
			[]string{"/run/liege/bob.http.sock", "/run/liege/bob.sock", "/run/liege/x", "/run/liege/control.sock", "/run/liege/vassals/v-bob/log"}},
		{"/run/liege-b", "/run/**", []string{"/run/liege-b/shop.sock", "/run/liege-b/shop.stats.sock", "/run/liege-b/shop/a", "/run/x.sock", "/run/liege-c/x"},
			[]string{"/run/liege-b/vassals/v-bob/log", "/run/liege-b/control-users.sock", "/run/liege-b/sandbox/x", "/run/liege-b/bob.sock", "/run/liege-b/bob.http.sock",
				"/run/liege/shop.sock", "/run/liege/control.sock", "/run/liege/vassals/x", "/run/state/x"}},
		{"/run/liege-b", "/run/liege-b/**", []string{"/run/liege-b/shop.sock", "/run/liege-b/bob.sock", "/run/liege-b/x"},
			[]string{"/run/liege-b/vassals/v-bob/log", "/run/liege-b/control-users.sock", "/run/liege-b/control.sock.new", "/run/liege-b/lock", "/run/liege/x"}},
		{"", "/run/liege/**", []string{"/run/liege/shop.sock", "/run/liege/bob.http.sock"}, []string{"/run/liege/control.sock", "/run/liege/sendmail.sock", "/run/liege/cgroup"}},
		{"/run/liege-b", "/run/*/*", []string{"/run/liege-c/x"}, []string{"/run/liege-b/x", "/run/liege-b/control.sock", "/run/liege/x"}},
	} {
		h := Host{Listen: []string{tc.rule}, Reserved: []string{"/run/state"}}
		if tc.run != "" {
			h.RunDirs, h.Reserved = []string{tc.run}, append(h.Reserved, tc.run)
		}
		r := &resolver{cfg: cfg, res: &Result{Dir: "/home/sammy/app"}, host: h}
		for want, addrs := range map[bool][]string{true: tc.may, false: tc.not} {
			for _, addr := range addrs {
				if r.mayListen(addr, vassal.Origin{}) != want {
					t.Errorf("run-dir %q, listen = %s: %s: may %v", tc.run, tc.rule, addr, !want)
				}
			}
		}
	}
}

// The socket that the operator names to wake a user's vassal needs no rule, and no
// rule gives a user the socket that wakes another.
func TestMayListenOnDemand(t *testing.T) {
	for addr, may := range map[string]bool{"/run/sockets/shop.socket": true, "/run/sockets/bob.socket": false, "/run/other/bob.socket": true} {
		cfg := config()
		cfg.Trust = vassal.Trust{UID: 1004}
		cfg.Listen = []vassal.Listener{{Protocol: "http", Address: addr, Key: "http-socket"}}
		r := &resolver{cfg: cfg, res: &Result{}, host: Host{Listen: []string{"/run/sockets/**", "/run/other/**"}, OnDemandDirs: []string{"/run/link", "/run/sockets"}}}
		if r.listeners(); r.res.Problems.Failed() == may {
			t.Errorf("%s: may %v: %v", addr, !may, r.res.Problems)
		}
		cfg.Listen[0].Key = inifile.OnDemandDirectory
		r = &resolver{cfg: cfg, res: &Result{}, host: Host{OnDemandDirs: []string{"/run/link", "/run/sockets"}}}
		if r.listeners(); r.res.Problems.Failed() || len(r.res.Listen) != 1 || !r.res.Listen[0].Tenant || r.res.Listen[0].ByUser {
			t.Errorf("%s: %v, %v", addr, r.res.Listen, r.res.Problems)
		}
	}
}

// What root serves by hand has no name in the run directory, unless it is the
// Emperor's vassal: the name may be that of another one.
func TestMayListenNameless(t *testing.T) {
	for _, nameless := range []bool{false, true} {
		cfg := config()
		cfg.Trust = vassal.Trust{UID: 1004}
		cfg.Listen = []vassal.Listener{{Protocol: "http", Address: "/run/liege/shop.sock"}, {Protocol: "http", Address: "/home/sammy/app/a.sock"}}
		r := &resolver{cfg: cfg, res: &Result{Dir: "/home/sammy/app"}, host: Host{Listen: []string{"/run/liege/**"}, Binds: []string{"/home"}, Nameless: nameless}}
		r.listeners()
		if r.res.Problems.Failed() != nameless || r.res.Listen[len(r.res.Listen)-1].Address != "/home/sammy/app/a.sock" {
			t.Errorf("nameless %v: %v, %v", nameless, r.res.Listen, r.res.Problems)
		}
	}
}

// Liege's directories are known by each of their names.
func TestRunDirs(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(dir+"/real", 0o755), os.Symlink("real", dir+"/link")); err != nil {
		t.Fatal(err)
	}
	real, err := filepath.EvalSymlinks(dir + "/real")
	if err != nil {
		t.Fatal(err)
	}
	cfg := inifile.DefaultEmperorConfig()
	cfg.RunDir, cfg.StateDir = dir+"/link", "/var/run/liege-state/"
	h := FromEmperor(cfg, nil).Host
	if want := []string{dir + "/link", real}; !slices.Equal(h.RunDirs, want) {
		t.Errorf("%q, want %q", h.RunDirs, want)
	}
	for _, want := range []string{dir + "/link", real, "/run/liege-state"} {
		if !slices.Contains(h.Reserved, want) {
			t.Errorf("%s is not in %q", want, h.Reserved)
		}
	}
}

// A user's file chooses the app's directory: root makes nothing in it.
func TestListenInOwn(t *testing.T) {
	cfg := config()
	cfg.Trust = vassal.Trust{UID: 1004}
	for _, tc := range []struct {
		dir, addr   string
		may, byUser bool
	}{
		{"/home/sammy/app", "/home/sammy/app/x.sock", true, true},
		{"/srv", "/srv/x.sock", true, true},
		{"/home/sammy/app", "/run/liege/shop.sock", true, false},
		{"/run", "/run/liege/shop.sock", true, false},
		{"/run", "/run/nscd/socket", false, false},
		{"/run/systemd/userdb", "/run/systemd/userdb/x", false, false},
		{"/usr/share", "/usr/share/x.sock", false, false},
		{"/srv", "/srv/liege/vassals/x.sock", false, false},
		{"/", "/x.sock", false, false},
	} {
		r := &resolver{cfg: cfg, res: &Result{Dir: tc.dir}, host: Host{Reserved: []string{"/srv/liege"}}}
		if may, byUser := r.mayListen(tc.addr, vassal.Origin{}), r.inOwn(tc.addr); may != tc.may || byUser != tc.byUser {
			t.Errorf("%s in %s: may %v, by the user %v; want %v, %v", tc.addr, tc.dir, may, byUser, tc.may, tc.byUser)
		}
	}
	cfg.Trust = vassal.Trust{Operator: true}
	r := &resolver{cfg: cfg, res: &Result{Dir: "/run"}}
	if !r.mayListen("/run/x/socket", vassal.Origin{}) {
		t.Error("an operator's file has root make it")
	}
	r.cfg.Lent = []vassal.Origin{{File: "/home/sammy/app.ini", Line: 3}}
	if r.mayListen("/run/x/socket", r.cfg.Lent[0]) {
		t.Error("a line of a user's file in it has root make it")
	}
}

// An app's directory that a user's line names in an operator's file is the user's:
// the operator's relative paths begin there.
func TestLentDirectory(t *testing.T) {
	for _, tc := range []struct {
		uid  int
		lent bool
		want string
	}{
		{1004, true, ""}, {0, false, ""}, {0, true, "error not-for-tenants"}, {1005, true, "error not-for-tenants"},
	} {
		cfg := config()
		cfg.Jail.Chdir, cfg.Jail.ChdirAt = "/srv/app", vassal.Origin{File: "/home/sammy/a.ini", Line: 2}
		if tc.lent {
			cfg.Lent = []vassal.Origin{cfg.Jail.ChdirAt}
		}
		r := &resolver{cfg: cfg, res: &Result{UID: 1004}, host: Host{FS: owned{"/": 0, "/srv": 0, "/srv/app": tc.uid}}}
		r.directory()
		if got := strings.Join(codes(r.res.Problems), ""); got != tc.want || (r.res.Dir == "") != (tc.want != "") {
			t.Errorf("%+v: %q, %q", tc, got, r.res.Dir)
		}
	}
}

// The directory is the user's word where the line that gives it is, whatever else
// the operator's file says of the app.
func TestLentDirectoryOf(t *testing.T) {
	lent := vassal.Origin{File: "/home/sammy/a.ini", Line: 2}
	for name, app := range map[string]vassal.App{
		"cgi":         {Workers: &vassal.Workers{Python: &vassal.Python{Module: "app"}}, CGI: &vassal.CGI{Mounts: []vassal.CGIMount{{Path: "/srv/app", At: lent}}}},
		"php-docroot": {PHP: &vassal.PHP{App: "/srv/own.php", Docroot: "/srv/app", DocrootAt: lent}},
		"wsgi-file":   {Workers: &vassal.Workers{Python: &vassal.Python{File: "/srv/app/app.py", At: lent}}},
	} {
		cfg := config()
		cfg.App, cfg.Lent = app, []vassal.Origin{lent}
		r := &resolver{cfg: cfg, res: &Result{UID: 1004}, host: Host{FS: owned{"/": 0, "/srv": 0, "/srv/app": 0}}}
		r.directory()
		if got := strings.Join(codes(r.res.Problems), ""); got != "error not-for-tenants" || r.res.Dir != "" || !r.res.BaseByUser {
			t.Errorf("%s: %q, %q", name, got, r.res.Dir)
		}
	}
}

// A socket of the operator's with a relative path, in a directory that a user's
// line names: the user's child makes it.
func TestLentBase(t *testing.T) {
	for _, tc := range []struct {
		addr         string
		lent, byUser bool
	}{{"x.sock", true, true}, {"unix:../x.sock", true, true}, {"x.sock", false, false}, {"/srv/app/x.sock", true, false}, {"127.0.0.1:80", true, false}} {
		cfg := config()
		cfg.Jail.Chdir, cfg.Jail.ChdirAt = "/srv/app", vassal.Origin{File: "/home/sammy/a.ini", Line: 2}
		cfg.Listen = []vassal.Listener{{Protocol: "http", Address: tc.addr, At: vassal.Origin{Line: 9}}}
		if tc.lent {
			cfg.Lent = []vassal.Origin{cfg.Jail.ChdirAt}
		}
		r := &resolver{cfg: cfg, res: &Result{UID: 1004}, host: Host{FS: owned{"/": 0, "/srv": 0, "/srv/app": 1004}}}
		r.directory()
		r.listeners()
		if len(r.res.Listen) != 1 || r.res.Listen[0].ByUser != tc.byUser {
			t.Errorf("%+v: %+v", tc, r.res.Listen)
		}
	}
}

// Who is not root leads an operator's line only to what is theirs, and to where
// files of users may name paths.
func TestMayLead(t *testing.T) {
	testenv.Need(t, testenv.Root)
	root := tree(t, "home/", "run/db/", "own/", "roots/")
	links := map[string]string{"to-run": "run/db", "to-own": "own"}
	for name, to := range links {
		if err := errors.Join(os.Symlink(root+"/"+to, root+"/home/"+name), os.Lchown(root+"/home/"+name, 1004, 1004)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chown(root+"/own", 1004, 1004), os.Chown(root+"/home", 1004, 1004), os.Symlink(root+"/run/db", root+"/roots/to-run")); err != nil {
		t.Fatal(err)
	}
	// A user's own pyvenv.cfg leads to what is the user's; a link to a file that root
	// wrote for another end says nothing.
	if err := errors.Join(os.WriteFile(root+"/home/pyvenv.cfg", nil, 0o644), os.Chown(root+"/home/pyvenv.cfg", 1004, 1004), os.WriteFile(root+"/log", nil, 0o640),
		os.Symlink(root+"/log", root+"/home/link.cfg"), os.Lchown(root+"/home/link.cfg", 1004, 1004)); err != nil {
		t.Fatal(err)
	}
	w := &resolver{cfg: config(), res: &Result{}, host: Host{FS: OS{}}}
	for name, want := range map[string]int{"pyvenv.cfg": 1004, "link.cfg": -1} {
		if got := w.writer(root + "/home/" + name); !got.led || got.leader != want {
			t.Errorf("%s: by %d, want %d", name, got.leader, want)
		}
	}
	for _, tc := range []struct {
		source string
		binds  []string // [ceilings] bind
		want   bool
	}{
		{"/home/to-own", nil, true}, {"/home/to-run", nil, false}, {"/home/to-run/.", []string{root + "/run"}, true}, {"/run/db", nil, true}, {"/roots/to-run", nil, true},
	} {
		cfg := config()
		cfg.Ident.User = "sammy"
		cfg.Jail.Binds = []vassal.Bind{{Source: root + tc.source, Key: "bind"}}
		r := Resolve(t.Context(), cfg, Host{FS: OS{}, Users: people{}, Binds: tc.binds})
		if got := strings.Join(codes(r.Problems), ""); (got == "") != tc.want || (len(r.Binds) == 1) != tc.want {
			t.Errorf("%+v: %q %v", tc, got, r.Binds)
		}
	}
}

// owned is directories and who owns them.
type owned map[string]int

func (o owned) Lstat(p string) (fs.FileInfo, error) {
	uid, ok := o[p]
	if !ok {
		return nil, &fs.PathError{Op: "lstat", Path: p, Err: fs.ErrNotExist}
	}
	return ownedDir{uid: uid}, nil
}
func (o owned) Readlink(string) (string, error) { return "", fs.ErrInvalid }
func (o owned) ReadFile(string) ([]byte, error) { return nil, fs.ErrInvalid }

type ownedDir struct {
	fs.FileInfo
	uid int
}

func (ownedDir) Mode() fs.FileMode { return fs.ModeDir | 0o755 }
func (ownedDir) IsDir() bool       { return true }
func (d ownedDir) Sys() any        { return &syscall.Stat_t{Uid: uint32(d.uid)} }

// What a user's file may put where root of the sandbox looks: nothing.
func TestMayCover(t *testing.T) {
	hook := []vassal.Hook{{Phase: vassal.AsRoot, Action: "mkdir", At: vassal.Origin{File: "/etc/liege/emperor.ini", Layer: vassal.Defaults}}}
	for _, tc := range []struct {
		target string
		hooks  []vassal.Hook
		want   bool
	}{
		{"/srv/data", nil, true},
		{"/json", nil, false},
		{"/dev/null", nil, false},
		{"/run/nscd", nil, false},
		{"/var/lib", nil, false},
		{"/opt/app/data", nil, true},
		{"/usr/bin/dash", nil, false},
		{"/usr/local/bin", nil, false},
		{"/etc", nil, false},
		{"/root/.profile", nil, false},
		{"/.bash_profile", nil, false},
		{"/.local", nil, false},
		{"/x", nil, false},
		{"/srv/data", hook, false},
	} {
		for _, trust := range []vassal.Trust{{UID: 1004}, {Operator: true}} { // its own file, and one that an operator's includes
			cfg := config()
			cfg.Trust, cfg.Hooks, cfg.Lent = trust, tc.hooks, []vassal.Origin{{Line: 9}}
			r := &resolver{cfg: cfg, res: &Result{}}
			if got := r.mayCover(vassal.Origin{Line: 9}, "bind", tc.target); got != tc.want || len(r.res.Problems) > 0 == tc.want {
				t.Errorf("%+v: %s: %v, %v", trust, tc.target, got, r.res.Problems)
			}
		}
	}
}

// An operator's file may put something over the system's directories. Root runs
// nothing of it then, if others can change it.
func TestForeignCover(t *testing.T) {
	for _, tc := range []struct {
		r    Result
		want bool
	}{
		{Result{Binds: []Bind{{Source: "/srv/x", Target: "/srv/x", Tenant: true, Writable: true}}}, false},
		{Result{Binds: []Bind{{Source: "/opt/tools", Target: "/usr/local/bin"}}}, false},
		{Result{Binds: []Bind{{Source: "/srv/x", Target: "/usr/local/bin", Tenant: true}}}, true},
		{Result{Binds: []Bind{{Source: "/opt/tools", Target: "/usr/local/bin", Writable: true}}}, true},
		{Result{Tmpfs: []vassal.Tmpfs{{Target: "/usr/local/bin"}}}, true},
		{Result{Tmpfs: []vassal.Tmpfs{{Target: "/var/cache/app"}}}, false},
	} {
		if got := tc.r.ForeignRoot(); got != "" != tc.want {
			t.Errorf("%+v: %q", tc.r, got)
		}
	}
}

func TestListenersClash(t *testing.T) {
	cfg := config()
	cfg.Ident.User = "sammy"
	cfg.Listen = []vassal.Listener{
		{Protocol: vassal.HTTP, Address: ":8080", Key: "http"}, {Protocol: vassal.HTTP, Address: "0.0.0.0:8080", Key: "http-socket"},
		{Protocol: vassal.UWSGI, Address: "*:8080", Key: "socket"},
	}
	r := Resolve(t.Context(), cfg, Host{FS: OS{}, Users: people{}})
	if d := cmp.Diff([]string{"note listen-in-use", "error listen-in-use"}, codes(r.Problems)); d != "" {
		t.Error(d)
	}
	if len(r.Listen) != 1 {
		t.Errorf("listeners %v, want one", r.Listen)
	}
}

func TestEtc(t *testing.T) {
	cfg := config()
	cfg.Ident.User = "sammy"
	r := Resolve(t.Context(), cfg, Host{FS: OS{}, Users: people{}})
	files := map[string]string{}
	for _, f := range r.Files {
		files[f.Path] = f.Text
	}
	if got, want := files["/etc/group"], "root:x:0:\nsammy:x:1004:\nwww-data:x:33:sammy\nnogroup:x:65534:\n"; got != want {
		t.Errorf("/etc/group:\n%s\nwant:\n%s", got, want)
	}
	if !strings.Contains(files["/etc/passwd"], "\nsammy:x:1004:1004::/:/bin/sh\n") {
		t.Errorf("/etc/passwd: %q", files["/etc/passwd"])
	}
	for _, b := range r.System {
		if b.Writable || within("/etc/shadow", b.Target) || within("/etc/passwd", b.Target) {
			t.Errorf("the host's %s must not be shown", b.Target)
		}
	}
}

func TestAutoUIDs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "auto-uid.json")
	a := NewAutoUIDs(file, 0)
	one, err1 := a.UID("one")
	two, err2 := a.UID("two")
	if err1 != nil || err2 != nil || one != FirstAutoUID || two != one+1 {
		t.Fatalf("got %d %v, %d %v", one, err1, two, err2)
	}
	if again, err := NewAutoUIDs(file, 0).UID("two"); err != nil || again != two {
		t.Errorf("after a restart two has %d (%v), want %d", again, err, two)
	}
	if err := os.WriteFile(file, []byte("{half"), fs.FileMode(0o600)); err != nil {
		t.Fatal(err)
	}
	if uid, err := NewAutoUIDs(file, 0).UID("three"); err == nil {
		t.Errorf("from a broken file: uid %d, want an error", uid)
	}
}

func TestResolveIsAbandoned(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := Resolve(ctx, config(), Host{FS: OS{}, Users: people{}}); !r.Problems.Failed() {
		t.Error("a cancelled Resolve has no error")
	}
}

func TestPrepare(t *testing.T) {
	dir := tree(t, "app.py")
	text := "[uwsgi]\nuid = sammy\nhttp-socket = :8080\nchdir = " + dir + "\nwsgi-file = %(chdir)/app.py\nprocesses = 2 # two\n"
	s := Settings{
		INI: inifile.NewOSHost(nil), Host: Host{FS: OS{}, Users: people{}},
		Read: inifile.ReadOptions{Known: func(key string) bool { _, ok := inifile.Lookup(key); return ok }},
	}
	src := inifile.Source{Path: "/etc/vassals/x.ini", Text: []byte(text), Trust: vassal.Trust{Operator: true}}
	p := Prepare(t.Context(), "alice_x", src, s)
	if p.Problems.Failed() {
		t.Fatal(p.Problems)
	}
	if d := cmp.Diff([]string{"warning trailing-text"}, codes(p.Problems)); d != "" {
		t.Error(d)
	}
	a := p.Result.App
	if a.Name != "alice_x" || a.Workers == nil || a.Workers.Processes != 2 || a.Workers.Python.File != dir+"/app.py" || a.Workers.Interpreter != defaultPython {
		t.Errorf("app %+v, workers %+v", a, a.Workers)
	}
	if len(a.Listen) != 1 || a.Listen[0].Address != "0.0.0.0:8080" || a.Listen[0].At.Line != 3 {
		t.Errorf("listeners %+v", a.Listen)
	}
	src.Text = []byte("[uwsgi\nhttp = :80\n")
	if d := cmp.Diff([]string{"error syntax"}, codes(Prepare(t.Context(), "x", src, s).Problems)); d != "" {
		t.Errorf("what follows from a broken text is told too:\n%s", d)
	}
	src.Text = []byte("uid = sammy\n")
	if p := Prepare(t.Context(), "x", src, s); !p.Problems.Failed() || p.Result != nil {
		t.Errorf("a file without a section: %v, result %v", p.Problems, p.Result)
	}
}

// TestTitle holds what the workers are called: the vassal's name, after what
// procname-prefix says, or what procname says and nothing else.
func TestTitle(t *testing.T) {
	for _, tc := range []struct {
		title string
		plain bool
		want  string
	}{{"", false, "shop"}, {"web-", false, "web-shop"}, {"mine", true, "mine"}} {
		cfg := config()
		cfg.App.Workers = &vassal.Workers{Title: tc.title, TitlePlain: tc.plain}
		r := Resolve(t.Context(), cfg, Host{FS: OS{}, Users: people{}})
		if got := r.App.Workers.Title; got != tc.want {
			t.Errorf("%q, plain %v: %q, want %q", tc.title, tc.plain, got, tc.want)
		}
	}
}

// TestWrittenFile: the app's file is absolute, and how its line has it is kept.
func TestWrittenFile(t *testing.T) {
	dir := tree(t, "app.py", "second.py")
	src := inifile.Source{Path: "/etc/vassals/x.ini", Trust: vassal.Trust{Operator: true},
		Text: []byte("[uwsgi]\nuid = sammy\nhttp-socket = :8080\nchdir = " + dir + "\nmount = /=app.py\nmount = /b=second.py\nmanage-script-name = true\n")}
	p := Prepare(t.Context(), "x", src, Settings{INI: inifile.NewOSHost(nil), Host: Host{FS: OS{}, Users: people{}},
		Read: inifile.ReadOptions{Known: func(key string) bool { _, ok := inifile.Lookup(key); return ok }}})
	if p.Problems.Failed() {
		t.Fatal(p.Problems)
	}
	py, second := p.Result.App.Workers.Python, p.Result.App.Mounting.Mounts[1]
	if py.File != dir+"/app.py" || py.Written != "app.py" || second.File != dir+"/second.py" || second.Written != "second.py" {
		t.Errorf("got %q as %q and %q as %q", py.File, py.Written, second.File, second.Written)
	}
}
