package deploy

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"liege/e2e/vm"
	"liege/internal/testenv"
)

// A tree is a Debian system that nobody booted: packages are installed there in
// a chroot, without systemd and with an SELinux policy that no kernel has
// loaded.
type tree struct {
	t    *testing.T
	root string
}

func newTree(t *testing.T) tree {
	t.Helper()
	testenv.Need(t, testenv.Root, testenv.Mmdebstrap)
	testenv.Leaks(t)
	w, err := vm.NewWork()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	base, err := w.Base(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(w.Dir, "root")
	output(t, "cp", "--archive", "--reflink=auto", base, root)
	return tree{t, root}
}

func (r tree) path(name string) string { return filepath.Join(r.root, name) }

// try runs a command in the tree.
func (r tree) try(args ...string) (string, error) {
	cmd := exec.CommandContext(r.t.Context(), "chroot", append([]string{r.root}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (r tree) run(args ...string) string {
	r.t.Helper()
	out, err := r.try(args...)
	if err != nil {
		r.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// put copies a file into the tree's /root and returns its path there.
func (r tree) put(file string) string {
	r.t.Helper()
	output(r.t, "cp", file, r.path("root"))
	return "/root/" + filepath.Base(file)
}

func (r tree) write(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(r.path(name), []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r tree) has(name string) bool {
	_, err := os.Lstat(r.path(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.t.Fatal(err)
	}
	return err == nil
}

// snapshot lists the tree's paths with mode and owner, but what package
// managers and the policy store write for themselves.
func (r tree) snapshot() map[string]string {
	r.t.Helper()
	all := map[string]string{}
	for line := range strings.Lines(output(r.t, "find", r.root, "-printf", "%P %M %u:%g\n")) {
		path, what, _ := strings.Cut(strings.TrimSpace(line), " ")
		ours := func(dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
		if !slices.ContainsFunc([]string{"root", "tmp", "var/lib/dpkg", "var/lib/apt", "var/lib/rpm", "var/cache", "var/log/apt", "var/log/dpkg.log", "var/lib/selinux", "etc/selinux"}, ours) {
			all[path] = what
		}
	}
	return all
}

// since are the paths that are new, gone or changed since before.
func (r tree) since(before map[string]string) []string {
	r.t.Helper()
	var diff []string
	now := r.snapshot()
	for path, what := range now {
		if before[path] != what {
			diff = append(diff, path)
		}
	}
	for path := range maps.Keys(before) {
		if now[path] == "" {
			diff = append(diff, path+" is gone")
		}
	}
	slices.Sort(diff)
	return diff
}

const goodVassal = "[uwsgi]\nuid = nobody\nhttp-socket = 127.0.0.1:8081\nchdir = /srv/x\nstatic-map = /=/srv/x\n"

// TestDebLife: install, use, upgrade, remove and purge, in one tree.
func TestDebLife(t *testing.T) {
	old, newer := packages(t, "deb", first), packages(t, "deb", second)
	r := newTree(t)
	before := r.snapshot()

	if out := r.run("apt-get", "install", "--yes", "--no-install-recommends", r.put(old)); strings.Contains(out, "liege: ") {
		t.Errorf("a first installation complains:\n%s", out)
	}
	r.installed(debEntries(t, old))
	if !slices.Contains(strings.Fields(r.run("semodule", "-l")), "liege") {
		t.Error("the SELinux module is not installed")
	}
	r.labelled()
	r.usable()

	r.write("etc/liege/emperor.ini", "[emperor]\ncontrol-group = liege\n; mine\n")
	r.run("dpkg", "--install", r.put(newer))
	if text := r.read("etc/liege/emperor.ini"); !strings.Contains(text, "; mine") {
		t.Errorf("after an upgrade emperor.ini is\n%s", text)
	}
	if got := r.run("dpkg-query", "--show", "--showformat=${Version} ${Status}", "liege"); got != "9.8.0+3.gabcdef0 install ok installed" {
		t.Errorf("after an upgrade: %s", got)
	}

	r.write("var/log/liege/x.log", "")
	r.write("var/lib/liege/v-x.json", "{}")
	r.write("var/lib/liege/auto-uid.json", "{\n\t\"-hold\": 1900000000\n}\n")
	r.run("dpkg", "--remove", "liege")
	for _, kept := range []string{"etc/liege/emperor.ini", "etc/vassals/x.ini", "var/log/liege/x.log", "var/lib/liege/v-x.json"} {
		if !r.has(kept) {
			t.Errorf("a removal took %s", kept)
		}
	}
	if r.has("usr/bin/liege") || r.has("usr/libexec/liege") || r.has("usr/lib/systemd/system/liege.service") {
		t.Error("a removal left programs or units")
	}

	r.run("dpkg", "--purge", "liege")
	got := slices.DeleteFunc(r.since(before), func(p string) bool { return strings.HasPrefix(p, "etc/g") }) // group, gshadow and their backups
	if want := []string{"etc/vassals", "etc/vassals/x.ini", "srv/x"}; !slices.Equal(got, want) {
		t.Errorf("a purge left %q, want %q", got, want)
	}
	if modules := r.run("semodule", "-l"); strings.Contains(modules, "liege") {
		t.Error("a purge left the SELinux module")
	}
	if group := r.read("etc/group"); !strings.Contains(group, "\nliege:") {
		t.Error("a purge took the group, whose number somebody else may get")
	}
}

// installed checks that the tree has what the package has, and what the scripts
// make.
func (r tree) installed(list []entry) {
	r.t.Helper()
	for _, e := range list {
		path := strings.TrimSuffix(e.path, "/")
		if strings.HasPrefix(path, "/usr/share/doc/") {
			continue // the tree is made without documentation
		}
		if fi, err := os.Lstat(r.path(path)); err != nil {
			r.t.Error(err)
		} else if got := fi.Mode().String(); contents[path] != "" && got != contents[path] {
			r.t.Errorf("%s is %s, want %s", path, got, contents[path])
		}
	}
	if !strings.Contains(r.read("etc/group"), "\nliege:") {
		r.t.Error("there is no group liege")
	}
	if !r.has("etc/systemd/system/multi-user.target.wants/liege.service") {
		r.t.Error("the service is not enabled")
	}
}

// labelled asks the distribution's policy together with ours for the labels of
// what is installed and made at run time.
func (r tree) labelled() {
	r.t.Helper()
	want := map[string]string{
		"/usr/libexec/liege/liege-emperor": "liege_emperor_exec_t", "/usr/libexec/liege/liege-stage": "liege_stage_exec_t",
		"/usr/libexec/liege/liege-core": "liege_core_exec_t", "/usr/libexec/liege/liege-relay": "liege_relay_exec_t", "/usr/bin/liege": "bin_t",
		"/usr/libexec/liege/sbin/sendmail": "bin_t",
		"/etc/liege/emperor.ini":           "liege_etc_t", "/etc/vassals": "liege_etc_t", "/etc/vassals/x.ini": "liege_etc_t",
		"/run/liege": "liege_run_t", "/var/lib/liege": "liege_var_lib_t",
		"/var/log/liege/x.log": "liege_log_t", "/usr/share/liege/policy/liege.cil": "usr_t",
		"/usr/lib/systemd/system/liege.service": "systemd_unit_t", "/usr/lib/systemd/system/liege-vassals.service": "systemd_unit_t",
	}
	for path, typ := range want {
		out := strings.Fields(r.run("matchpathcon", "-f", "/etc/selinux/default/contexts/files/file_contexts", path))
		if got := out[len(out)-1]; !strings.Contains(got, ":"+typ+":") {
			r.t.Errorf("%s is %s, want %s", path, got, typ)
		}
	}
	// A vassal's log and sockets have the vassal's type from the kernel.
	for _, path := range []string{"/run/liege/vassals/v-x/log", "/run/liege/x.sock"} {
		if out := r.run("matchpathcon", "-f", "/etc/selinux/default/contexts/files/file_contexts", path); !strings.Contains(out, "<<none>>") {
			r.t.Errorf("restorecon takes from its vassal: %s", out)
		}
	}
}

// usable runs what was installed.
func (r tree) usable() {
	r.t.Helper()
	if out := r.run("liege", "version"); !strings.Contains(out, "no Emperor runs at /run/liege") {
		r.t.Errorf("liege version:\n%s", out)
	}
	if err := os.Mkdir(r.path("srv/x"), 0o755); err != nil {
		r.t.Fatal(err)
	}
	r.write("etc/vassals/x.ini", goodVassal)
	if out, err := r.try("liege", "check", "/etc/vassals"); err != nil {
		r.t.Errorf("liege check: %v\n%s", err, out)
	}
	if out := r.run("liege", "explain", "/etc/vassals/x.ini"); !strings.Contains(out, "512.0M") {
		r.t.Errorf("emperor.ini bounds nobody's memory:\n%s", out)
	}
	if out, err := r.try("liege", "emperor", "--help"); err != nil {
		r.t.Errorf("liege emperor: %v\n%s", err, out)
	}
}

// mount mounts a file system on a directory of the tree and returns the name
// of a file to be in it.
func (r tree) mount(dir string) string {
	r.t.Helper()
	if err := os.MkdirAll(r.path(dir), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := unix.Mount("none", r.path(dir), "tmpfs", 0, "size=64k"); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := unix.Unmount(r.path(dir), 0); err != nil {
			r.t.Error(err)
		}
	})
	return filepath.Join(dir, "file")
}

func (r tree) read(name string) string {
	r.t.Helper()
	b, err := os.ReadFile(r.path(name))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

// TestDebFaults: where the policy cannot be installed the package is, and says
// loudly what is missing. A purge forgets no user who may own files, and does
// not reach into what is mounted.
func TestDebFaults(t *testing.T) {
	r := newTree(t)
	deb := r.put(packages(t, "deb", first))
	store := r.path("var/lib/selinux/default/active/modules/100/base")
	if err := os.Rename(store, r.path("root/base")); err != nil {
		t.Fatal(err)
	}
	out := r.run("dpkg", "--install", deb)
	if !strings.Contains(out, "THE SELINUX POLICY WAS NOT INSTALLED") || !strings.Contains(out, "hint: liege policy install") {
		t.Errorf("a policy that cannot be installed:\n%s", out)
	}
	if got := r.run("dpkg-query", "--show", "--showformat=${Status}", "liege"); got != "install ok installed" {
		t.Errorf("then the package is %q", got)
	}
	if err := os.Rename(r.path("root/base"), store); err != nil {
		t.Fatal(err)
	}
	r.write("var/lib/liege/v-x.json", "{}")
	r.write("var/lib/liege/auto-uid.json", "{\n\t\"-hold\": 1900000000,\n\t\"shop\": 1900000001\n}\n")
	mounted := r.mount("run/liege/sandbox/v-shop")
	r.write(mounted, "somebody's")
	out = r.run("dpkg", "--purge", "liege")
	if !r.has(mounted) || !strings.Contains(out, "umount it") {
		t.Errorf("a purge with a mount:\n%s", out)
	}
	if !r.has("var/lib/liege/auto-uid.json") || r.has("var/lib/liege/v-x.json") || !strings.Contains(out, "kept /var/lib/liege/auto-uid.json") {
		t.Errorf("a purge with allotted users:\n%s", out)
	}
}

// TestRPM: what the .rpm holds, and its scripts as rpm runs them, on a host
// without SELinux. The tree is Debian's; its own helpers of services are taken
// away.
func TestRPM(t *testing.T) {
	testenv.Need(t, testenv.RPM)
	old, newer := packages(t, "rpm", first), packages(t, "rpm", second)
	var list []entry
	for line := range strings.Lines(output(t, "rpm", "--query", "--package", "--queryformat", "[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES}\n]", newer)) {
		f := strings.Fields(line)
		list = append(list, entry{f[0], f[1], f[2]})
	}
	checkContents(t, "rpm", list)
	if got := strings.TrimSpace(output(t, "rpm", "--query", "--package", "--configfiles", newer)); got != "/etc/liege/emperor.ini" {
		t.Errorf("configuration files %q", got)
	}
	if got := output(t, "rpm", "--query", "--package", "--requires", newer); !strings.Contains(got, "libc.so.6(GLIBC_2.") || !strings.Contains(got, "systemd") {
		t.Errorf("requires\n%s", got)
	}

	r := newTree(t)
	for _, name := range []string{"usr/bin/deb-systemd-helper", "usr/bin/deb-systemd-invoke", "usr/sbin/semodule"} {
		if err := os.Remove(r.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	before := r.snapshot()
	rpm := func(args ...string) string {
		t.Helper()
		return output(t, "rpm", append([]string{"--root", r.root, "--nodeps"}, args...)...)
	}
	rpm("--install", old)
	r.installed(nil)
	r.usable()
	r.write("etc/liege/emperor.ini", "[emperor]\n; mine\n")
	rpm("--upgrade", newer)
	if !r.has("etc/systemd/system/multi-user.target.wants/liege.service") || !strings.Contains(r.read("etc/liege/emperor.ini"), "; mine") {
		t.Error("an upgrade disabled the service or replaced emperor.ini")
	}
	r.write("var/log/liege/x.log", "")
	rpm("--erase", "liege")
	got := slices.DeleteFunc(r.since(before), func(p string) bool {
		return strings.HasPrefix(p, "etc/g") || strings.HasPrefix(p, "usr/share/fish") || strings.HasPrefix(p, "usr/share/zsh")
	})
	if want := []string{"etc/liege", "etc/liege/emperor.ini.rpmsave", "etc/vassals", "etc/vassals/x.ini", "srv/x", "var/log/liege", "var/log/liege/x.log"}; !slices.Equal(got, want) {
		t.Errorf("an erasure left %q, want %q", got, want)
	}
}
