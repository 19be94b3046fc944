package stage_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/sandbox/stage"
	"liege/vassal"
)

// A daemon that a hook leaves is gone before the core runs: in a pid namespace
// of its own and without one, whichever phase it was of, whatever session it
// made for itself.
func TestLeftovers(t *testing.T) {
	testenv.Leaks(t)
	for _, c := range []struct {
		name    string
		phase   vassal.Phase
		noPIDNS bool
	}{
		{"as-root", vassal.AsRoot, false},
		{"as-user", vassal.AsUser, false},
		{"as-root without namespace", vassal.AsRoot, true},
		{"as-user without namespace", vassal.AsUser, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlan(t, leftScript(t, c.phase))
			r := start(t, addDaemon(p, c.phase), launch{noPIDNS: c.noPIDNS})
			if r.failure != nil || r.err != nil || r.out != "gone\n" {
				t.Errorf("%v, %v, %q", r.failure, r.err, r.out)
			}
		})
	}
}

func TestLeftoversWithoutStep(t *testing.T) {
	for _, phase := range []vassal.Phase{vassal.AsRoot, vassal.AsUser} {
		p := newPlan(t, leftScript(t, phase))
		p.HookTime = 1
		r := start(t, addDaemon(p, phase), launch{without: "leftovers of " + string(phase)})
		if phase == vassal.AsUser && r.out != "lives\n" {
			t.Errorf("%s: %v, %q", phase, r.failure, r.out)
		}
		// The second kill finds a process that it may not end.
		if phase == vassal.AsRoot && (r.failure == nil || !strings.Contains(r.failure.Msg, "they do not die")) {
			t.Errorf("%s: %v, %q", phase, r.failure, r.out)
		}
	}
}

// leftScript says whether the process of the pid file lives.
func leftScript(t *testing.T, phase vassal.Phase) string {
	t.Helper()
	return "read -r pid </mnt/left." + string(phase) + "; if [ -d /proc/$pid ]; then echo lives; else echo gone; fi"
}

// addDaemon adds a hook whose grandchild stays, in a session of its own and
// without any descriptor.
func addDaemon(p *stage.Plan, phase vassal.Phase) *stage.Plan {
	file := "/mnt/left." + string(phase)
	p.Hooks = []vassal.Hook{
		hook(vassal.AsRoot, 2, "mount", "tmpfs tmpfs /mnt rw mode=1777"),
		hook(phase, 3, "exec", "setsid sh -c 'echo $$ >"+file+".new; chmod 666 "+file+".new; mv "+file+".new "+file+"; exec sleep 600 </dev/null >/dev/null 2>&1' & while [ ! -e "+file+" ]; do :; done"),
	}
	return p
}

func TestHookFailures(t *testing.T) {
	testenv.Leaks(t)
	for _, c := range []struct {
		name string
		hook vassal.Hook
		want stage.Failure
	}{
		{"exit status", hook(vassal.AsRoot, 7, "exec", "echo one; echo two >&2; exit 3"),
			stage.Failure{Step: stage.HookStep(vassal.AsRoot), What: "hook-as-root = exec:echo one; echo two >&2; exit 3", Msg: "exit status 3", Output: "one\ntwo"}},
		{"signal", hook(vassal.AsUser, 7, "exec", "kill -TERM $$"),
			stage.Failure{Step: stage.HookStep(vassal.AsUser), What: "hook-as-user = exec:kill -TERM $$", Msg: "was killed by SIGTERM"}},
		{"private", vassal.Hook{Phase: vassal.AsUser, Action: "exec", Arg: "echo secret; false", Private: true, At: vassal.Origin{File: "/etc/vassals/shop.ini", Line: 7}},
			stage.Failure{Step: stage.HookStep(vassal.AsUser), What: "hook-as-user = !exec:…", Msg: "exit status 1"}},
		{"private path", vassal.Hook{Phase: vassal.AsRoot, Action: "write", Arg: "/secret/path x", Private: true, At: vassal.Origin{File: "/etc/vassals/shop.ini", Line: 7}},
			stage.Failure{Step: stage.HookStep(vassal.AsRoot), What: "hook-as-root = !write:…", Msg: "no such file or directory", Errno: int(unix.ENOENT)}},
		{"too slow", hook(vassal.AsRoot, 7, "exec", "echo begun; sleep 600"),
			stage.Failure{Step: stage.HookStep(vassal.AsRoot), What: "hook-as-root = exec:echo begun; sleep 600", Msg: "took longer than 1 s and was killed", Output: "begun"}},
		{"no directory", hook(vassal.AsRoot, 7, "write", "/nowhere/file text"),
			stage.Failure{Step: stage.HookStep(vassal.AsRoot), What: "hook-as-root = write:/nowhere/file text", Msg: "/nowhere/file: no such file or directory", Errno: int(unix.ENOENT)}},
		{"not the tenant's", hook(vassal.AsUser, 7, "writen", "/etc/motd hello"),
			stage.Failure{Step: stage.HookStep(vassal.AsUser), What: "hook-as-user = writen:/etc/motd hello", Msg: "permission denied", Errno: int(unix.EACCES)}},
		{"mount point", hook(vassal.AsRoot, 7, "mount", "tmpfs tmpfs /nowhere"),
			stage.Failure{Step: stage.HookStep(vassal.AsRoot), What: "hook-as-root = mount:tmpfs tmpfs /nowhere", Msg: `/nowhere: no such file or directory: a mount needs a directory that is there; hint: the line "tmpfs = /nowhere" makes it, and needs no hook`, Errno: int(unix.ENOENT)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlan(t, "echo the core runs")
			p.HookTime = 30
			if c.name == "too slow" {
				p.HookTime = 1
			}
			p.Hooks = []vassal.Hook{c.hook}
			r := start(t, p, launch{})
			c.want.At = c.hook.At
			if r.failure == nil || *r.failure != c.want {
				t.Errorf("got %+v, want %+v", r.failure, c.want)
			}
			if r.err == nil || strings.Contains(r.out, "the core runs") || c.hook.Private && strings.Contains(r.failure.Output, "secret") {
				t.Errorf("exit %v, output %q", r.err, r.out)
			}
		})
	}
}

func TestMounts(t *testing.T) {
	testenv.Leaks(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "inside"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p := newPlan(t, `
opts() { while read -r _ _ _ _ at o _; do [ "$at" = "$1" ] && echo "$at $o"; done </proc/self/mountinfo; }
opts /tmp; opts /tmp/b; opts /tmp/gone; opts /tmp/pts; ls /tmp/b; cat /tmp/file; (echo x >/tmp/b/y) 2>/dev/null || echo read-only; hostname`)
	p.Hooks = []vassal.Hook{
		hook(vassal.AsRoot, 2, "hostname", "shop.example"),
		hook(vassal.AsRoot, 2, "mount", "tmpfs tmpfs /mnt"),
		hook(vassal.AsRoot, 3, "mkdir", "/mnt/source"),
		hook(vassal.AsRoot, 3, "mount", "none "+dir+" /mnt/source bind"),
		hook(vassal.AsRoot, 3, "mount", "tmpfs tmpfs /tmp noexec size=1m,mode=755"),
		hook(vassal.AsRoot, 4, "mkdir", "/tmp/b"),
		hook(vassal.AsRoot, 4, "mkdir", "/tmp/b"),
		hook(vassal.AsRoot, 4, "mkdir", "/tmp/gone"),
		hook(vassal.AsRoot, 4, "mkdir", "/tmp/pts"),
		hook(vassal.AsRoot, 5, "mount", "none /mnt/source /tmp/b bind,ro"),
		hook(vassal.AsRoot, 6, "mount", "tmpfs tmpfs /tmp/gone"),
		hook(vassal.AsRoot, 7, "umount", "/tmp/gone"),
		hook(vassal.AsRoot, 8, "umount", "/mnt rec"),
		hook(vassal.AsRoot, 8, "mount", "devpts devpts /tmp/pts noexec newinstance"),
		hook(vassal.AsRoot, 9, "writen", "/tmp/file some text"),
		hook(vassal.AsRoot, 9, "chmod", "/tmp/file 0644"),
		hook(vassal.AsRoot, 9, "mount", "none none /tmp remount,ro"),
	}
	r := start(t, p, launch{})
	if r.failure != nil || r.err != nil {
		t.Fatalf("%v, %v\n%s", r.failure, r.err, r.out)
	}
	diff(t, `/tmp ro,nosuid,nodev,noexec,relatime
/tmp/b ro,nosuid,nodev,relatime
/tmp/pts rw,nosuid,noexec,relatime
inside
some text
read-only
shop.example
`, r.out)
}

// Attached mounts keep their flags; a link on the way, a missing place and a
// mount that would carry devices or setuid programs are refused.
func TestAttach(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.OpenTree)
	testenv.Leaks(t)
	dir := t.TempDir()
	if err := os.Symlink("/usr/share", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "app.py"), []byte("hello\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const safe = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	for _, c := range []struct {
		name, target string
		attrs        uint64
		want         string // output, or part of the failure
	}{
		{"attached", "/usr/share", safe, "hello\n"},
		{"through a link", filepath.Join(dir, "link", "doc"), safe, "its place: too many levels of symbolic links"},
		{"no place", "/nowhere", safe, "its place: no such file or directory"},
		{"dangerous", "/usr/share", unix.MOUNT_ATTR_NODEV, "the mount is not nosuid and nodev"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: c.attrs}); err != nil {
				t.Fatal(err)
			}
			p := newPlan(t, "cat "+c.target+"/app.py")
			p.Attach = []stage.Attach{{Mount: 0, Target: c.target, At: vassal.Origin{File: "shop.ini", Line: 12}}}
			r := start(t, p, launch{mounts: []*os.File{os.NewFile(uintptr(fd), "mount")}})
			got := r.out
			if r.failure != nil {
				got = r.failure.Error()
			}
			if !strings.Contains(got, c.want) || r.failure != nil && !strings.HasPrefix(got, "shop.ini:12: mount: "+c.target) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// Nobody but root looks into the stage while hooks run: it is not dumpable
// from before its first Go instruction, which shows in who owns its /proc.
func TestNotDumpable(t *testing.T) {
	testenv.Leaks(t)
	for without, want := range map[string]string{"": "0", "umask": "65534"} { // the test binary has no constructor
		p := newPlan(t, "true")
		p.Hooks = []vassal.Hook{hook(vassal.AsRoot, 2, "exec", "stat -c %u /proc/$PPID/environ")}
		r := start(t, p, launch{noPIDNS: true, without: without, unprivileged: true})
		if r.failure == nil || r.failure.Step == stage.HookStep(vassal.AsRoot) {
			t.Errorf("without privileges it went on: %v", r.failure)
		}
		if got := strings.TrimSpace(r.out); got != want {
			t.Errorf("without %q: /proc/PID/environ belongs to %s, want %s", without, got, want)
		}
	}
}
