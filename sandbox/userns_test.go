package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/sandbox/stage"
	"liege/vassal"
)

// nsRoot is the uid that root of a user namespace has on the host, in tests.
const nsRoot = 1_900_000_123

// inUserNS asks for a start in a user namespace, in which the app is uid: root,
// or nobody as ever.
func (r *rig) inUserNS(name vassal.Name, uid int, args ...string) Spec {
	r.t.Helper()
	testenv.Need(r.t, testenv.UserNS)
	// Root inside goes to its root through the test's own directories.
	for _, dir := range []string{filepath.Dir(r.dir), r.dir} {
		if err := os.Chmod(dir, 0o711); err != nil {
			r.t.Fatal(err)
		}
	}
	spec := r.spec(name, 1, args...)
	spec.Users = &IDMaps{Root: nsRoot}
	if spec.Plan.UID, spec.Plan.GID = uid, uid; uid != 0 {
		spec.Users.Users, spec.Users.Groups = []int{uid}, []int{uid}
	}
	return spec
}

// In a user namespace the sandbox is as it is without: the mounts keep their
// flags, the app its uid, and root inside is nobody on the host.
func TestUserNS(t *testing.T) {
	r := newRig(t)
	spec := r.inUserNS("user", 65534)
	ms := r.mounts(spec)
	if diff := cmp.Diff([]string(nil), violationsInUserNS(ms)); diff != "" {
		t.Errorf("mounts that break the rules (-want +got):\n%s", diff)
	}
	for _, uid := range []int{65534, 0} {
		spec := r.inUserNS(vassal.Name(fmt.Sprintf("ids%d", uid)), uid, "wait")
		b := r.start(spec)
		b.awaitOutput("waiting")
		if err := b.Verify(); err != nil {
			t.Errorf("uid %d: %v", uid, err)
		}
		want := uid
		if uid == 0 {
			want = nsRoot
		}
		status, err := readStatus(b.PID())
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Fields(status["Uid"])[0]; got != fmt.Sprint(want) {
			t.Errorf("uid %d inside is %s on the host, want %d", uid, got, want)
		}
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", b.PID()))
		if err != nil || !strings.Contains(strings.Join(strings.Fields(string(maps)), " "), fmt.Sprint("0 ", nsRoot, " 1")) {
			t.Errorf("uid_map: got %q, %v", maps, err)
		}
	}
	// What root inside may write: nothing of the host's.
	spec = r.inUserNS("writes", 0, "write", "/x", "/etc/passwd", "/usr/x", "/proc/sys/kernel/core_pattern", "/tmp/ok")
	b := r.start(spec)
	b.wait()
	for line := range strings.Lines(b.output()) {
		name, err, _ := strings.Cut(strings.TrimSpace(line), " ")
		if want := strings.HasSuffix(name, "/ok"); want != (err == "<nil>") {
			t.Errorf("write %s: got %s, want success %v", name, err, want)
		}
	}
}

// violationsInUserNS are violations but for devices, which are binds of the
// host's there, and for masks of files, which are one of them without a use.
func violationsInUserNS(ms []seen) []string {
	var bad []string
	for _, v := range violations(ms, ownWritable...) {
		device := strings.HasPrefix(v, "/dev/") && !strings.HasSuffix(v, "nosuid")
		mask := strings.HasPrefix(v, "/proc/") && strings.HasSuffix(v, "writable")
		if !device && !mask {
			bad = append(bad, v)
		}
	}
	return bad
}

// A tree and a user namespace, together with what is attached.
func TestUserNSTree(t *testing.T) {
	r := newRig(t)
	dir := system(t, filepath.Join(r.dir, "tree"))
	spec := r.inTree(dir, "both", "ls", "/srv/app", "/var/cache/app")
	spec.Users = r.inUserNS("x", 65534).Users
	app := filepath.Join(r.dir, "app")
	if err := os.MkdirAll(filepath.Join(app, "thing"), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(app)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	bind, err := DetachedBind(f, BindFlags{Writable: true})
	if err != nil {
		t.Fatal(err)
	}
	defer bind.Close()
	mem, err := DetachedTmpfs(1<<20, 65534, 65534, "")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	spec.Detached = []*os.File{bind, mem}
	spec.Plan.Attach = []stage.Attach{{Mount: 0, Target: "/srv/app"}, {Mount: 1, Target: "/var/cache/app"}}
	b := r.start(spec)
	b.wait()
	if want := "/srv/app thing <nil>\n/var/cache/app  <nil>\n"; b.output() != want {
		t.Errorf("got %q, want %q", b.output(), want)
	}
}

// With an id map the owner on disk is the app, what the app makes belongs to
// that owner, and every other file's owner is nobody.
func TestIDMap(t *testing.T) {
	r := newRig(t)
	app := filepath.Join(r.dir, "app")
	if err := os.Mkdir(app, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(app, 4001, 4002); err != nil {
		t.Fatal(err)
	}
	for _, users := range []bool{false, true} {
		name := fmt.Sprintf("map%v", users)
		spec := r.spec(vassal.Name(name), 1, "write", "/srv/app/"+name)
		uid := 65534
		if users {
			spec, uid = r.inUserNS(vassal.Name(name), 0, "write", "/srv/app/"+name), nsRoot
		}
		f, err := os.Open(app)
		if err != nil {
			t.Fatal(err)
		}
		bind, err := DetachedBind(f, BindFlags{Writable: true, IDMap: &IDMap{DiskUID: 4001, DiskGID: 4002, UID: uid, GID: uid}})
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		spec.Detached, spec.Plan.Attach = []*os.File{bind}, []stage.Attach{{Target: "/srv/app"}}
		b := r.start(spec)
		bind.Close()
		b.wait()
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(app, name), &st); err != nil || st.Uid != 4001 || st.Gid != 4002 {
			t.Errorf("user namespace %v: %v, owner %d:%d, want 4001:4002; log %q", users, err, st.Uid, st.Gid, b.output())
		}
	}
}

// With the host's network a user namespace has the mounts that it has with one of
// its own, and root inside no right over the network.
func TestUserNSHostNet(t *testing.T) {
	r := newRig(t)
	spec := r.inUserNS("hostnet", 65534)
	spec.HostNet = true
	ms := r.mounts(spec)
	if diff := cmp.Diff([]string(nil), violationsInUserNS(ms)); diff != "" {
		t.Errorf("mounts that break the rules (-want +got):\n%s", diff)
	}
	var sys []string
	for _, m := range ms {
		if m.point == "/sys" || strings.HasPrefix(m.point, "/sys/") {
			sys = append(sys, m.point)
		}
	}
	spec = r.inUserNS("own", 65534)
	var own []string
	for _, m := range r.mounts(spec) {
		if m.point == "/sys" || strings.HasPrefix(m.point, "/sys/") {
			own = append(own, m.point)
		}
	}
	if diff := cmp.Diff(own, sys); diff != "" {
		t.Errorf("below /sys (-with a network of its own +with the host's):\n%s", diff)
	}
	spec = r.inUserNS("root", 0, "wait")
	spec.HostNet = true
	b := r.start(spec)
	b.awaitOutput("waiting")
	if err := b.Verify(); err != nil {
		t.Error(err)
	}
	host, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", b.PID())); got != host || err != nil {
		t.Errorf("its network is %s, %v; the host's %s", got, err, host)
	}
}
