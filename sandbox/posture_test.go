package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/sandbox/stage"
	"liege/vassal"
)

type seen struct {
	point, fstype, source string
	flags                 []string // of the mount
	super                 []string // of the file system
}

func (s seen) has(flag string) bool { return slices.Contains(s.flags, flag) }

// mounts runs a core that prints its mounts.
func (r *rig) mounts(spec Spec) []seen {
	r.t.Helper()
	spec.Plan.Args = []string{"cat", "/proc/self/mountinfo"}
	b := r.start(spec)
	if e := b.wait(); e.Code != 0 {
		r.t.Fatalf("exit: got %+v; log %q", e, b.output())
	}
	var out []seen
	for line := range strings.Lines(b.output()) {
		head, tail, ok := strings.Cut(line, " - ")
		if !ok {
			continue
		}
		h, f := strings.Fields(head), strings.Fields(tail)
		out = append(out, seen{h[4], f[0], f[1], strings.Split(h[5], ","), strings.Split(f[2], ",")})
	}
	return out
}

// violations are the mounts that break the posture: all nosuid, all but /dev
// nodev, all of the host read-only but those in writable.
func violations(ms []seen, writable ...string) []string {
	var bad []string
	for _, m := range ms {
		device := m.point == "/dev" || m.fstype == "devpts"
		if !m.has("nosuid") {
			bad = append(bad, m.point+": not nosuid")
		}
		if !m.has("nodev") && !device {
			bad = append(bad, m.point+": not nodev")
		}
		host := m.fstype != "proc" && m.fstype != "devpts" && m.fstype != "mqueue" && m.point != "/run"
		if host && !m.has("ro") && !slices.Contains(m.super, "ro") && !slices.Contains(writable, m.point) {
			bad = append(bad, m.point+": writable")
		}
	}
	return bad
}

var ownWritable = []string{"/tmp", "/var/tmp", "/dev/shm"}

func TestPosture(t *testing.T) {
	r := newRig(t)
	// A directory with a file system mounted below it.
	src := filepath.Join(r.dir, "src")
	if err := os.MkdirAll(filepath.Join(src, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", filepath.Join(src, "sub"), "tmpfs", 0, "size=4k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(filepath.Join(src, "sub"), 0)

	// One that the host has mounted so that nobody writes in it or executes it.
	shut := filepath.Join(r.dir, "shut")
	if err := os.Mkdir(shut, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(shut, shut, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(shut, 0)
	if err := unix.Mount("", shut, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOEXEC, ""); err != nil {
		t.Fatal(err)
	}

	spec := r.spec("posture", 1)
	spec.Root = append(spec.Root,
		Mount{Source: shut, Target: "/srv/shut", Writable: true, Exec: true},
		Mount{Source: src, Target: "/srv/flat"},
		Mount{Source: src, Target: "/srv/deep", Recursive: true},
		Mount{Source: src, Target: "/srv/rw", Writable: true})
	spec.Masked = []string{"/usr/share/doc", "/no/such"}
	ms := r.mounts(spec)
	if diff := cmp.Diff([]string(nil), violations(ms, append(ownWritable, "/srv/rw")...)); diff != "" {
		t.Errorf("mounts that break the rules (-want +got):\n%s", diff)
	}
	points := map[string]bool{}
	for _, m := range ms {
		points[m.point] = true
		if m.point == "/srv/shut" && (!m.has("ro") || !m.has("noexec")) {
			t.Errorf("what the host shows read-only and noexec is %v", m.flags)
		}
	}
	for point, want := range map[string]bool{
		"/srv/flat": true, "/srv/flat/sub": false, "/srv/deep/sub": true, "/srv/rw/sub": false, "/srv/shut": true,
		"/usr": true, "/proc": true, "/sys": true, "/dev/mqueue": true, "/sys/firmware": true, "/usr/share/doc": true,
	} {
		if points[point] != want {
			t.Errorf("mount on %s: got %v, want %v", point, points[point], want)
		}
	}
	// The rules see a mount that breaks them.
	plain := []seen{{point: "/srv/deep/sub", fstype: "tmpfs", source: "none", flags: []string{"rw"}, super: []string{"rw"}}}
	if got := len(violations(plain)); got != 3 {
		t.Errorf("a plain mount: got %d violations, want 3", got)
	}
}

// Root itself cannot write where a tenant must not: the root directory, a
// bind, the cgroup files, the liege binaries.
func TestReadOnly(t *testing.T) {
	r := newRig(t)
	spec := r.spec("ro", 1, "write",
		"/x", "/etc/passwd", "/usr/x", StagePath, "/proc/1/exe", "/proc/sys/kernel/core_pattern",
		"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/x", "/dev/x", "/tmp/ok", "/dev/shm/ok", "/var/tmp/ok")
	spec.Plan.UID, spec.Plan.GID = 0, 0
	spec.Plan.HookEnv = []string{"skip=caps", "skip=bounding", "skip=uid"}
	b := r.start(spec)
	b.wait()
	for line := range strings.Lines(b.output()) {
		name, err, _ := strings.Cut(strings.TrimSpace(line), " ")
		if want := strings.HasSuffix(name, "/ok"); want != (err == "<nil>") {
			t.Errorf("write %s: got %s, want success %v", name, err, want)
		}
	}
	if n := strings.Count(b.output(), "\n"); n != 12 {
		t.Errorf("got %d answers, want 12: %q", n, b.output())
	}
}

// The private directories live as long as the vassal; another vassal and the
// next one of the name see nothing of them.
func TestPrivateDirectories(t *testing.T) {
	r := newRig(t)
	run := func(name vassal.Name, gen int, args ...string) string {
		b := r.start(r.spec(name, gen, args...))
		b.wait()
		return b.output()
	}
	run("a", 1, "write", "/tmp/kept", "/var/tmp/kept", "/dev/shm/kept")
	const look = "/tmp/kept true\n/var/tmp/kept true\n/dev/shm/kept true\n"
	if got := run("a", 2, "exists", "/tmp/kept", "/var/tmp/kept", "/dev/shm/kept"); got != look {
		t.Errorf("next generation: got %q, want %q", got, look)
	}
	if got := run("b", 1, "exists", "/tmp/kept"); got != "/tmp/kept false\n" {
		t.Errorf("another vassal: got %q", got)
	}
	v, err := r.m.Vassal("a")
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if got := run("a", 3, "exists", "/tmp/kept"); got != "/tmp/kept false\n" {
		t.Errorf("after the vassal was closed: got %q", got)
	}
}

// A detached mount appears where the plan says, below /tmp too, and a root
// bind below it is not covered by it.
func TestAttach(t *testing.T) {
	r := newRig(t)
	testenv.Need(t, testenv.OpenTree)
	app := filepath.Join(r.dir, "app")
	static := filepath.Join(r.dir, "static")
	for _, d := range []string{filepath.Join(app, "static"), static} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{filepath.Join(app, "mine"), filepath.Join(static, "theirs")} {
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, target := range []string{"/srv/app", "/tmp/x/y/app"} {
		spec := r.spec(vassal.SuggestName(target[1:4]), 1, "ls", target, target+"/static")
		spec.Root = append(spec.Root, Mount{Source: static, Target: target + "/static"})
		spec.Plan.Attach = []stage.Attach{{Mount: 0, Target: target}}
		dir, err := os.Open(app)
		if err != nil {
			t.Fatal(err)
		}
		mount, err := DetachedBind(dir, BindFlags{Writable: true})
		dir.Close()
		if err != nil {
			t.Fatal(err)
		}
		spec.Detached = []*os.File{mount}
		// Whoever may move the path changes nothing any more.
		if err := os.Rename(app, app+".moved"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/etc", app); err != nil {
			t.Fatal(err)
		}
		b := r.start(spec)
		if err := errors.Join(os.Remove(app), os.Rename(app+".moved", app)); err != nil {
			t.Fatal(err)
		}
		mount.Close()
		b.wait()
		want := target + " mine static <nil>\n" + target + "/static theirs <nil>\n"
		if diff := cmp.Diff(want, b.output()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", target, diff)
		}
	}
}

// A link that a tenant put into its /tmp leads root nowhere.
func TestMakeBeneath(t *testing.T) {
	dir, victim := t.TempDir(), t.TempDir()
	if err := os.Symlink(victim, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(victim, "file"), filepath.Join(dir, "last")); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name       string
		isDir, bad bool
	}{
		{"a/b/c", true, false}, {"a/b/c", true, false}, {"a/b/f", false, false},
		{"link/x", true, true}, {"link/f", false, true}, {"link", true, true}, {"last", false, true}, {"../x", true, true},
	} {
		err := makeBeneath(dir, tc.name, tc.isDir)
		if (err != nil) != tc.bad {
			t.Errorf("%s: got %v, want an error %v", tc.name, err, tc.bad)
		}
		if st, err := os.Lstat(filepath.Join(dir, tc.name)); !tc.bad && (err != nil || st.IsDir() != tc.isDir) {
			t.Errorf("%s: got %v, %v", tc.name, st, err)
		}
	}
	if left := entries(victim); len(left) > 0 {
		t.Errorf("made through a link: %v", left)
	}
}

// A masked file of /proc cannot be read, and a masked directory is empty.
func TestMasks(t *testing.T) {
	r := newRig(t)
	spec := r.spec("masks", 1, "cat", "/proc/interrupts", "/usr/share/doc/x", "/proc/self/stat", "/proc/sys/kernel/ostype")
	spec.Masked = []string{"/usr/share/doc"}
	b := r.start(spec)
	b.wait()
	got := b.output()
	for _, want := range []string{"interrupts: permission denied", "/usr/share/doc/x: no such file", "\n1 (", "Linux\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
	}
}
