package inifile

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"liege/vassal"
)

// Mounts that hooks put into the new root before the jail become its parts.
func TestMountsBeforeTheJail(t *testing.T) {
	hook := func(phase vassal.Phase, arg string) vassal.Hook {
		return vassal.Hook{Phase: phase, Action: "mount", Arg: arg, Key: "hook-" + string(phase)}
	}
	d := &decoder{f: &File{}, oldRoot: "/.old_root"}
	d.cfg.Jail.Root = vassal.Root{Dir: "/ns", Key: "pivot_root", Inside: true}
	d.cfg.Hooks = []vassal.Hook{
		{Phase: vassal.Asap, Action: "mkdir", Arg: "/ns"},
		hook(vassal.Asap, "none /distros/bookworm /ns bind"),
		hook(vassal.PreJail, "none /srv/shop /ns/app bind,rec,ro"),
		hook(vassal.PreJail, "proc none /ns/proc"),
		hook(vassal.PreJail, "tmpfs none /ns/var/cache"),
		hook(vassal.PreJail, "none none /ns remount,ro"),
		hook(vassal.PreJail, "none /srv/x /elsewhere bind"),
		hook(vassal.AsRoot, "none /a /b bind"),
		{Phase: vassal.AsRoot, Action: "umount", Arg: "/.old_root rec,detach"},
	}
	d.finishRoot()
	want := vassal.Jail{
		Root:  vassal.Root{Dir: "/distros/bookworm", Key: "hook-asap", Inside: true},
		Binds: []vassal.Bind{{Source: "/srv/shop", Target: "/app", Recursive: true, Key: "hook-pre-jail"}},
		Tmpfs: []vassal.Tmpfs{{Target: "/var/cache"}},
	}
	if diff := cmp.Diff(want, d.cfg.Jail); diff != "" {
		t.Errorf("jail (-want +got):\n%s", diff)
	}
	var left []string
	for _, h := range d.cfg.Hooks {
		left = append(left, h.Action+" "+h.Arg)
	}
	if diff := cmp.Diff([]string{"mkdir /ns", "mount none /srv/x /elsewhere bind", "mount none /a /b bind"}, left); diff != "" {
		t.Errorf("hooks that stay (-want +got):\n%s", diff)
	}
	d.cfg.Jail.Root = vassal.Root{Dir: "/ns", Key: "pivot_root", Inside: true}
	d.cfg.Hooks = []vassal.Hook{hook(vassal.PreJail, "ext4 /dev/vdb /ns/data")}
	if d.finishRoot(); !d.ps.Failed() {
		t.Errorf("a mount that nothing stands for: got %v, want an error", d.ps)
	}
}

// Where the file names no root, what hooks mount before that of the sandbox is
// entered is in it too, and stays where it was for the hooks after it.
func TestMountsBeforeTheRoot(t *testing.T) {
	hook := func(phase vassal.Phase, arg string) vassal.Hook {
		return vassal.Hook{Phase: phase, Action: "mount", Arg: arg, Key: "hook-" + string(phase)}
	}
	d := &decoder{f: &File{}}
	d.cfg.Hooks = []vassal.Hook{
		hook(vassal.AsVassal, "none /srv/data /srv/shop/data bind,ro,noexec"),
		hook(vassal.Asap, "tmpfs none /srv/cache nosuid mode=700,size=16m"),
		hook(vassal.PreJail, "proc none /proc"),
		hook(vassal.PreJail, "none none /srv/cache remount,ro"),
		hook(vassal.AsRoot, "tmpfs none /x"),
		hook(vassal.AsEmperor, "tmpfs none /mnt"),
	}
	hooks := len(d.cfg.Hooks)
	d.finishRoot()
	want := vassal.Jail{
		Binds: []vassal.Bind{{Source: "/srv/data", Target: "/srv/shop/data", NoExec: true, Key: "hook-as-vassal"}},
		Tmpfs: []vassal.Tmpfs{{Target: "/srv/cache", Size: 16 << 20}},
	}
	if diff := cmp.Diff(want, d.cfg.Jail); diff != "" || len(d.cfg.Hooks) != hooks || d.ps.Failed() {
		t.Errorf("%d hooks of %d, %v; jail (-want +got):\n%s", len(d.cfg.Hooks), hooks, d.ps, diff)
	}
	for _, arg := range []string{"ext4 /dev/vdb /srv/data", "none relative /srv/data bind", "none /srv/x /srv/y bind,move"} {
		d := &decoder{f: &File{}}
		d.cfg.Hooks = []vassal.Hook{hook(vassal.Asap, arg)}
		if d.finishRoot(); !d.ps.Failed() {
			t.Errorf("mount:%s: got %v, want an error", arg, d.ps)
		}
	}
}
