package guest

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// newer makes a later version of the installed package: the same files.
func (h *host) newer() string {
	h.Helper()
	debs, err := filepath.Glob("/root/liege_*.deb")
	if err != nil || len(debs) != 1 {
		h.Fatalf("%d packages in /root, want one", len(debs))
	}
	tree, deb := filepath.Join(h.TempDir(), "tree"), filepath.Join(h.TempDir(), "newer.deb")
	h.run("dpkg-deb", "--raw-extract", debs[0], tree)
	h.run("sed", "-i", "s/^Version: .*/&+newer/", tree+"/DEBIAN/control")
	h.run("dpkg-deb", "-Znone", "--build", tree, deb)
	return deb
}

// TestUpgrade: an upgrade restarts nothing, says so, and keeps what the
// operator changed; the Emperor reads that at a reload.
func TestUpgrade(t *testing.T) {
	h := newHost(t)
	const settings = "/etc/liege/emperor.ini"
	before, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.write(settings, string(before)); h.run("systemctl", "reload", "liege") })
	v := h.app("foo", "before and after")
	emperor := h.emperor()
	h.write(settings, strings.Replace(string(before), "memory-max = 512M", "memory-max = 96M", 1))

	if said := h.run("dpkg", "--install", h.newer()); !strings.Contains(said, "hint: liege handover") {
		t.Errorf("an upgrade under a running Emperor does not say that it is the old one:\n%s", said)
	}
	if got := h.run("dpkg-query", "--show", "--showformat=${Status} ${Version}", "liege"); !strings.HasPrefix(got, "install ok installed") || !strings.HasSuffix(got, "+newer") {
		t.Errorf("the package is %q", got)
	}
	if now := h.status("foo"); h.emperor() != emperor || *now.PID != *v.PID {
		t.Errorf("Emperor %d and core %d, were %d and %d", h.emperor(), *now.PID, emperor, *v.PID)
	}
	h.answers(v.Listen[0], "/", "before and after")
	for path, typ := range map[string]string{"/usr/libexec/liege/liege-emperor": "liege_emperor_exec_t", "/usr/libexec/liege/liege-core": "liege_core_exec_t", settings: "liege_etc_t"} {
		if got := h.run("stat", "--format=%C", path); !strings.Contains(got, ":"+typ+":") {
			t.Errorf("%s is %s, want %s", path, got, typ)
		}
	}

	h.run("systemctl", "reload", "liege")
	if now := h.status("foo"); h.emperor() != emperor || *now.PID != *v.PID {
		t.Error("a reload replaced the Emperor, or a vassal that did not change")
	}
	h.until("emperor.ini is read again", func() bool { return strings.Contains(h.run("liege", "explain", vassals+"/foo.ini"), "96.0M") })
	h.run("liege", "reload", "foo")
	if got := h.status("foo").MemoryMaxBytes; got == nil || *got != 96<<20 {
		t.Errorf("the next generation's memory-max is %v, want 96M", got)
	}

	// The installed one takes over, and a client notices nothing.
	serving := h.status("foo")
	stop := h.loop(serving.Listen[0])
	h.run("liege", "handover")
	if h.emperor() == emperor {
		t.Error("the Emperor is the same process after liege handover")
	}
	if now := h.replaced(serving); now.Listen[0] != serving.Listen[0] {
		t.Errorf("it listens on %v now, was %v", now.Listen, serving.Listen)
	}
	stop()
}

// TestRemoval: a removal drains the vassals and leaves nothing running, mounted
// or in the cgroups, after a killed Emperor too; what is kept serves again.
func TestRemoval(t *testing.T) {
	h := newHost(t)
	v := h.app("foo", "comes back")
	h.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "liege")
	h.run("dpkg", "--remove", "liege")
	if err := syscall.Kill(*v.PID, 0); err == nil {
		t.Errorf("process %d of the vassal lives", *v.PID)
	}
	if left, _ := h.try("pgrep", "--list-full", "liege-[esc]"); left != "" {
		t.Errorf("still running: %s", left)
	}
	if text, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(text), "/run/liege/") {
		t.Errorf("something is mounted below /run/liege: %v\n%s", err, text)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/liege.slice", "/sys/fs/cgroup/*/liege.slice"} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("cgroups are left: %q", left)
		}
	}
	debs, _ := filepath.Glob("/root/liege_*.deb")
	h.run(append([]string{"dpkg", "--install"}, debs...)...)
	h.answers(h.up("foo").Listen[0], "/", "comes back")
}
