package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"liege/e2e/vm"
	"liege/internal/testenv"
)

// debian is an unpacked Debian with Python, the one that the machines of e2e/vm
// are made of. It is unpacked once and kept in the user's cache.
func debian(t *testing.T) string {
	t.Helper()
	testenv.Need(t, testenv.Mmdebstrap)
	w, err := vm.NewWork()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	dir, err := w.Base(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// findSum is what `find -ls` would show of a tree, access times left out.
func findSum(t *testing.T, dir string) string {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		fmt.Fprintln(h, p, st.Ino, st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Mtim, st.Ctim)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// inRoot tells which system it runs in.
const inRoot = `
import os, subprocess, sys, socket

def ls(p):
    try:
        return ",".join(sorted(os.listdir(p)))
    except OSError as e:
        return e.strerror

def touch(p):
    try:
        open(p, "w").close()
        return "written"
    except OSError as e:
        return e.strerror

def application(env, start_response):
    start_response("200 OK", [])
    out = [
        "python " + sys.executable + " " + str(os.stat(sys.executable).st_ino),
        "passwd " + ",".join(line.split(":")[0] for line in open("/etc/passwd")),
        "resolv " + open("/etc/resolv.conf").read().strip(),
        "host " + socket.gethostname(),
        "dpkg " + str(os.path.exists("/var/lib/dpkg/status")),
        "root " + touch("/x"), "etc " + touch("/etc/passwd"), "app " + touch("DIR/x"), "tmp " + touch("/tmp/x"),
        "cache " + touch("/var/cache/app/x"), "extra " + ls("/opt/extra"), "extra " + touch("/opt/extra/x"),
        "deep " + ls("/opt/deep/sub"), "deep " + touch("/opt/deep/sub/x"),
        "mail %d" % subprocess.call(["/usr/sbin/sendmail", "a@b"], stdin=subprocess.DEVNULL),
    ]
    return ["\n".join(out).encode()]
`

// A Python app in another Debian: its interpreter, its libraries and its /etc,
// the host's app directory, nothing written to the tree.
func TestRootfs(t *testing.T) {
	r := newRealm(t)
	tree := debian(t)
	python, err := filepath.EvalSymlinks(filepath.Join(tree, "usr/bin/python3"))
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(python, &st); err != nil {
		t.Fatal(err)
	}
	before := findSum(t, tree)
	r.write("extra/thing", "")
	r.write("deep/sub/thing", "")
	sub := filepath.Join(r.dir, "deep/sub")
	if err := unix.Mount("none", sub, "tmpfs", 0, "size=16k,mode=0777"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(sub, unix.MNT_DETACH) })
	r.write("app/app.py", strings.ReplaceAll(inRoot, "DIR", r.dir+"/app"))
	if err := os.Chown(filepath.Join(r.dir, "app"), 33, 33); err != nil {
		t.Fatal(err)
	}
	r.drop("distro", "uid = www-data\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\nrootfs = "+tree+
		"\ntmpfs = /var/cache/app:1M\nbind = DIR/extra:/opt/extra:ro DIR/deep:/opt/deep:ro,rec\nresolv-conf = none\nhostname = other\nnamespaces = time\nhide-pid = true\n")
	v := r.up("distro")
	want := fmt.Sprintf(`python /usr/bin/python3 %d
passwd root,www-data,nobody
resolv 
host other
dpkg True
root Read-only file system
etc Read-only file system
app written
tmp written
cache written
extra thing
extra Read-only file system
deep 
deep Read-only file system
mail 69`, st.Ino)
	if code, body := r.get(v.Listen[0], "/"); code != 200 || body != want {
		t.Errorf("got %d %s\nwant %s", code, body, want)
	}
	for range 5 {
		r.liege("reload", "distro")
	}
	if code, body := r.get(v.Listen[0], "/"); code != 200 || body != want {
		t.Errorf("after reloads: got %d %s", code, body)
	}
	if after := findSum(t, tree); after != before {
		t.Error("the tree is not what it was before")
	}
}

// uWSGI's recipe for another root runs unchanged: the file's paths are paths
// in it, the app's directory is brought by a kept mount.
func TestPivotRoot(t *testing.T) {
	r := newRealm(t)
	tree := debian(t)
	before := findSum(t, tree)
	r.write("app/app.py", strings.ReplaceAll(inRoot, "DIR", "/home/app"))
	if err := os.Chown(filepath.Join(r.dir, "app"), 33, 33); err != nil {
		t.Fatal(err)
	}
	const common = "uid = www-data\nhttp = 127.0.0.1:0\nchdir = /home/app\nwsgi-file = /home/app/app.py\nnamespace-keep-mount = DIR/app:/home/app\nunshare = fs,ipc,uts,pid\n"
	for name, lines := range map[string]string{
		"chroot":    "chroot = " + tree + "\n",
		"pivot":     "pivot_root = " + tree + " " + tree + "/.old_root\nhook-as-root = umount:/.old_root rec,detach\n",
		"namespace": "namespace = " + tree + ":inside\n",
	} {
		r.drop(name, common+lines)
	}
	for _, name := range []string{"chroot", "pivot", "namespace"} {
		v := r.up(name)
		code, body := r.get(v.Listen[0], "/")
		for _, want := range []string{"python /usr/bin/python3 ", "dpkg True", "root Read-only", "app written", "tmp written"} {
			if code != 200 || !strings.Contains(body, want) {
				t.Errorf("%s: got %d %s, want %q in it", name, code, body, want)
			}
		}
		if name == "namespace" && !strings.Contains(body, "host inside") {
			t.Errorf("%s: got %s, want its host name", name, body)
		}
	}
	if after := findSum(t, tree); after != before {
		t.Error("the tree is not what it was before")
	}
}

// whoAmI tells its ids, its maps and what it may write.
const whoAmI = `
import os
def touch(p):
    try:
        open(p, "w").close()
        return "written by %d" % os.stat(p).st_uid
    except OSError as e:
        return e.strerror

def application(env, start_response):
    start_response("200 OK", [])
    caps = [l.split()[1] for l in open("/proc/self/status") if l.startswith("Cap")]
    out = ["ids %d:%d %s" % (os.getuid(), os.getgid(), os.getgroups()), "map " + " ".join(open("/proc/self/uid_map").read().split()),
           "caps " + " ".join(sorted(set(caps))), "app " + touch("DIR/app/x"), "mapped " + touch("/mapped/x"), "root " + touch("/x"), "core " + touch("/proc/sys/kernel/core_pattern")]
    return ["\n".join(out).encode()]
`

// User namespaces: an app of its usual user, and one that is root inside, to
// which a directory of somebody else's is mapped.
func TestUserNamespace(t *testing.T) {
	r := layRealm(t)
	testenv.Need(t, testenv.UserNS)
	r.ini += "[ceilings]\nroot = true\n"
	r.begin()
	r.write("app/app.py", strings.ReplaceAll(whoAmI, "DIR", r.dir))
	r.write("mapped/thing", "")
	if err := errors.Join(os.Chown(filepath.Join(r.dir, "app"), 33, 33), os.Chown(filepath.Join(r.dir, "mapped"), 4001, 4002)); err != nil {
		t.Fatal(err)
	}
	const app = "http = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\nnamespaces = user\nbind = DIR/mapped:/mapped:idmap\n"
	r.drop("user", "uid = www-data\nhook-as-root = exec:id -u >/tmp/id\n"+app)
	r.drop("root", "uid = root\n"+app)
	for name, want := range map[string][]string{
		"user": {"ids 33:33 ", "map 0 19000000", " 33 33 1", "caps 0000000000000000\n", "app written by 33", "mapped written by 33", "root Read-only", "core Read-only"},
		"root": {"ids 0:0 []", "map 0 19000000", "caps 0000000000000000\n", "app Permission denied", "mapped written by 0", "root Read-only", "core Read-only"},
	} {
		v := r.up(name)
		code, body := r.get(v.Listen[0], "/")
		for _, w := range want {
			if code != 200 || !strings.Contains(body, w) {
				t.Errorf("%s: got %d %s, want %q in it", name, code, body, w)
			}
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(r.dir, "mapped/x"), &st); err != nil || st.Uid != 4001 || st.Gid != 4002 {
			t.Errorf("%s: on disk %d:%d, %v; want 4001:4002", name, st.Uid, st.Gid, err)
		}
		if err := os.Remove(filepath.Join(r.dir, "mapped/x")); err != nil {
			t.Error(err)
		}
	}
	if v := r.status("root"); v.UID == nil || *v.UID < 1_900_000_000 {
		t.Errorf("root inside is uid %v on the host", v.UID)
	}
}

// Each mistake is told with its line, by check and by the start, and nothing is
// left behind.
func TestRootfsMistakes(t *testing.T) {
	r := newRealm(t)
	r.write("app/app.py", hello("here"))
	r.write("tree/usr/thing", "")
	for _, link := range []string{"etc", "opt"} {
		if err := os.Symlink("/usr", filepath.Join(r.dir, "tree", link)); err != nil {
			t.Fatal(err)
		}
	}
	const app = "[vassal]\nuid = www-data\nhttp = 127.0.0.1:0\ncheck-static = DIR/app\n"
	for _, tc := range []struct{ name, line, want string }{
		{"nothing", "rootfs = DIR/none", ":5: rootfs: "},
		{"file", "rootfs = DIR/app/app.py", "app.py is not a directory"},
		{"run", "rootfs = DIR", ":5: rootfs: "},
		{"proc", "bind = /proc/sys:/x", ":5: bind: "},
		{"overproc", "bind = DIR/app:/proc", ":5: bind: nothing can be put at /proc"},
		{"oversys", "bind = DIR/app:/sys/fs", ":5: bind: nothing can be put at /sys/fs"},
		{"overdev", "bind = DIR/app:/dev", ":5: bind: nothing can be put at /dev"},
		{"overroot", "bind = DIR/app:/", ":5: bind: nothing can be put at /"},
		{"overliege", "bind = DIR/app:/.liege/x", ":5: bind: nothing can be put at /.liege/x"},
		{"links", "rootfs = DIR/tree\nbind = DIR/app:/opt/x", ":6: bind: nothing can be put at /opt/x: /opt is a link in "},
		{"etclink", "rootfs = DIR/tree", "/etc is a link in the tree"},
		{"vanished", "bind = DIR/app:DIR/app/inner", "DIR/app/inner"},
	} {
		r.write("vassals/"+tc.name+".ini", strings.ReplaceAll(app+tc.line+"\n", "DIR", r.dir))
		want := strings.ReplaceAll(tc.want, "DIR", r.dir)
		r.until(tc.name+" says "+want, func() bool {
			out, _ := r.try("status", tc.name)
			return strings.Contains(out, want)
		})
		if err := os.Remove(filepath.Join(r.etc, tc.name+".ini")); err != nil {
			t.Fatal(err)
		}
	}
}
