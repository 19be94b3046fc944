package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"liege/emperor/control"
)

const (
	nobody = 65534 // nobody and nogroup of Debian
	shadow = 42    // a group that nobody may have
)

// whoami is an app that tells its ids.
const whoami = `
import os
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [("%d %d %s" % (os.getuid(), os.getgid(), sorted(os.getgroups()))).encode()]
`

// refused waits until a file is refused, and returns the code of the reason.
func (r *realm) refused(name string) string {
	r.t.Helper()
	r.liege("wait", name, "failed", "--timeout", patience)
	v := r.status(name)
	if v.Error == nil {
		r.t.Fatalf("%s failed without a reason", name)
	}
	return v.Error.Code
}

// give makes a file or directory of the realm a user's.
func (r *realm) give(name string, uid, gid int) string {
	r.t.Helper()
	p := filepath.Join(r.dir, name)
	if err := os.Lchown(p, uid, gid); err != nil {
		r.t.Fatal(err)
	}
	return p
}

// dropAs writes the vassal file of a user.
func (r *realm) dropAs(uid, gid int, name, lines string) {
	r.t.Helper()
	tmp := r.write("."+name+".tmp", "[uwsgi]\n"+strings.ReplaceAll(lines, "DIR", r.dir))
	if err := os.Lchown(tmp, uid, gid); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(r.etc, name+".ini")); err != nil {
		r.t.Fatal(err)
	}
}

// TestIdentity: nothing runs as root because nobody said otherwise, and the
// group of a file is not the group of its vassal (KERNEL 4).
func TestIdentity(t *testing.T) {
	r := newRealm(t)
	r.write("app/app.py", whoami)
	r.give("app", nobody, nobody)
	app := "http = DIR/app/%n.sock\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\n"
	r.drop("none", app)
	r.drop("zero", app+"uid = 0\n")
	r.drop("named", app+"uid = root\n")
	// A setgid directory hands its group to every file made in it.
	if err := os.Chown(r.etc, 0, shadow); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(r.etc, 0o755|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	made := filepath.Join(r.etc, ".made")
	if err := os.WriteFile(made, []byte("[uwsgi]\n"+strings.ReplaceAll(app, "DIR", r.dir)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Lchown(made, nobody, -1); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(made, filepath.Join(r.etc, "tenant.ini")); err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join(r.etc, "tenant.ini"), &st); err != nil || st.Gid != shadow {
		t.Fatalf("the file's group is %d, %v: the test shows nothing", st.Gid, err)
	}
	r.dropAs(nobody, nobody, "wish", app+"gid = shadow\n")
	r.dropAs(nobody, nobody, "rootwish", app+"uid = root\n")
	r.drop("operator", app+"uid = nobody\ngid = shadow\n") // the negative control: gid 42 can be had and is seen

	for name, want := range map[string]string{"none": "no-uid", "zero": "uid-root", "named": "uid-root", "wish": "owner", "rootwish": "owner"} {
		if got := r.refused(name); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	for name, want := range map[string]string{"tenant": "65534 65534 []", "operator": "65534 42 []"} {
		if _, got := r.get(r.up(name).Listen[0], "/"); got != want && got != strings.Replace(want, "[]", "["+strings.Fields(want)[1]+"]", 1) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

// TestTenantsFile: a user's file reads what its owner can read, and learns
// nothing else (KERNEL 26). The negative control is the same text of root's.
func TestTenantsFile(t *testing.T) {
	r := layRealm(t)
	r.env = append(r.env, "SECRET=of-the-emperor")
	r.begin()
	secret := r.write("secret/key", "[uwsgi]\nenv = STOLEN=of-the-file\n")
	if err := os.Chmod(filepath.Dir(secret), 0o700); err != nil {
		t.Fatal(err)
	}
	open := r.write("open/key.ini", "[uwsgi]\nenv = STOLEN=of-the-file\n")
	if err := os.Chmod(open, 0o600); err != nil {
		t.Fatal(err)
	}
	r.write("app/app.py", "import os\ndef application(e, s):\n    s('200 OK', [])\n    return [repr(sorted((k, v) for k, v in os.environ.items() if k in ('STOLEN', 'THERE', 'NOT'))).encode()]\n")
	r.give("app", nobody, nobody)
	app := "http = DIR/app/%n.sock\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\n"
	texts := map[string]string{
		"include": app + "include = DIR/open/key.ini\n",
		"ini":     app + "ini = DIR/open/key.ini\n",
		"quote":   app + "env = STOLEN=@(DIR/open/key.ini)\n",
		"environ": app + "env = STOLEN=$(SECRET)\n",
		"oracle":  app + "if-exists = DIR/secret/key\nenv = THERE=yes\nendif =\nif-exists = DIR/secret/none\nenv = NOT=yes\nendif =\n",
		"glob":    app + "for-glob = DIR/secret/*\nenv = THERE=%(_)\nendfor =\n",
		"each":    app + "for-readline = DIR/open/key.ini\nenv = STOLEN=%(_)\nendfor =\n",
	}
	control := map[string]string{
		"include": "of-the-file", "ini": "of-the-file", "quote": "of-the-file", "environ": "of-the-emperor", "oracle": "('THERE', 'yes')", "glob": "secret/key", "each": "STOLEN",
	}
	for name, text := range texts {
		r.dropAs(nobody, nobody, name, text)
		r.drop("root-"+name, text+"uid = nobody\n")
	}
	for name := range texts {
		t.Run(name, func(t *testing.T) {
			r := r.in(t)
			r.liege("wait", "root-"+name, "applied", "--timeout", patience)
			if _, got := r.get(r.status("root-" + name).Listen[0], "/"); !strings.Contains(got, control[name]) || strings.Contains(got, "NOT") {
				t.Errorf("root's file: got %q, want %q: the test shows nothing", got, control[name])
			}
			r.until("the tenant's file is judged", func() bool { v := r.status(name); return v.Applied || v.Error != nil })
			shown := r.liege("status", name, "--json") + r.liege("status", name)
			for _, leak := range []string{"of-the-file", "of-the-emperor"} {
				if strings.Contains(shown, leak) {
					t.Errorf("status shows %q:\n%s", leak, shown)
				}
			}
			// Whether an unreadable file exists makes no difference at all.
			v := r.status(name)
			if name == "oracle" && !v.Applied {
				t.Errorf("refused: %v", v.Error)
			}
			if v.Applied {
				if _, got := r.get(v.Listen[0], "/"); got != "[]" && !strings.Contains(got, "secret/*") { // for-glob gives the pattern where nothing matches
					t.Errorf("the tenant's app was told %s", got)
				}
			}
		})
	}
}

// TestConditionsOfAnotherStart: a file is expanded anew for each start, so a
// hook that makes a directory is not run again after a crash (KERNEL 26).
func TestConditionsOfAnotherStart(t *testing.T) {
	r := newRealm(t)
	r.write("app/app.py", hello("here"))
	r.give("app", nobody, nobody)
	lines := "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\n"
	r.drop("once", lines+"if-not-dir = DIR/app/made\nhook-as-user = exec:mkdir DIR/app/made\nendif =\n")
	// The negative control: the hook without the condition fails the second time.
	r.drop("always", lines+"hook-as-user = exec:mkdir DIR/app/always\n")
	for _, name := range []string{"once", "always"} {
		v := r.up(name)
		if err := syscall.Kill(*v.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		r.until(name+" starts again", func() bool {
			now := r.status(name)
			return now.Generation > v.Generation && (now.State == control.Running && *now.PID != *v.PID || now.State == control.Backoff)
		})
		if now := r.status(name); (now.State == control.Running) != (name == "once") {
			t.Errorf("%s after a crash: %s, %v", name, now.State, now.Error)
		}
	}
	if _, got := r.get(r.status("once").Listen[0], "/"); got != "here" {
		t.Errorf("after a crash: %q", got)
	}
}

// TestAppsEnabled: a link out of root's directory of vassals works, one in a
// directory where a tenant can write is refused (KERNEL 27).
func TestAppsEnabled(t *testing.T) {
	r := layRealm(t)
	tenants := filepath.Join(r.dir, "tenants")
	if err := os.Mkdir(tenants, 0o755); err != nil {
		t.Fatal(err)
	}
	r.give("tenants", nobody, nobody)
	r.sources = []string{tenants}
	r.write("app/index.html", "a site")
	available := r.write("apps-available/x.ini", strings.ReplaceAll("[uwsgi]\nuid = nobody\nhttp = 127.0.0.1:0\ncheck-static = DIR/app\nstatic-index = index.html\n", "DIR", r.dir))
	if err := os.Symlink("../apps-available/x.ini", filepath.Join(r.etc, "x.ini")); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(tenants, "y.ini")
	if err := os.Symlink("../apps-available/x.ini", link); err != nil {
		t.Fatal(err)
	}
	r.give("tenants/y.ini", nobody, nobody)
	r.begin()
	v := r.up("x")
	if _, got := r.get(v.Listen[0], "/"); got != "a site" {
		t.Errorf("got %q", got)
	}
	if got := r.refused("y"); got != "untrusted-file" {
		t.Errorf("a link in a tenant's directory: got %s, want untrusted-file", got)
	}
	// A touch of the target reloads.
	if err := os.Chtimes(available, time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	r.until("a touch of the link's target reloads", func() bool { now := r.status("x"); return now.Generation > v.Generation && now.Applied })
}
