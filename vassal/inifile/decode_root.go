package inifile

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"liege/vassal"
	"liege/vassal/action"
)

// root handles what the app's file system and namespaces are made of.
func (d *decoder) root(v value) bool {
	j := &d.cfg.Jail
	switch v.opt.Name {
	case "rootfs":
		d.rootfs(v)
	case "tmpfs":
		for word := range strings.FieldsSeq(v.Value) {
			d.tmpfs(v, word)
		}
	case "hide-pid":
		j.HidePID = v.on
	case "resolv-conf":
		j.Resolv, j.ResolvAt = strings.TrimSpace(v.Value), v.Origin
		if r := j.Resolv; r != "host" && r != "none" && !path.IsAbs(r) {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is neither host nor none nor an absolute path", clip(r)), "resolv-conf = host")
		}
	case "namespaces":
		d.namespaces(v)
	default:
		return d.jailing(v)
	}
	return true
}

// rootfs names the system that the app sees.
func (d *decoder) rootfs(v value) {
	dir := strings.TrimSpace(v.Value)
	switch old := d.cfg.Jail.Root; {
	case old.Inside:
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%s (line %d) names a root already", old.Key, old.At.Line), "keep one of them")
	case dir == "host":
		d.cfg.Jail.Root = vassal.Root{}
	case !path.IsAbs(dir):
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is neither host nor an absolute path", clip(dir)), "rootfs = /distros/bookworm")
	case path.Clean(dir) == "/":
		d.err(vassal.CodeBadValue, v.Setting, "the host's own root is never shown whole", "rootfs = host, and bind lines for what else is needed")
	default:
		d.cfg.Jail.Root = vassal.Root{Dir: path.Clean(dir), Key: v.Key, At: v.Origin}
	}
}

// Bounds of tmpfs lines: the kernel keeps some memory for each mount.
const (
	maxTmpfs   = 32
	leastTmpfs = 4096
	mostTmpfs  = 1 << 40
)

// tmpfs reads /path and /path:SIZE.
func (d *decoder) tmpfs(v value, word string) {
	target, size, sized := strings.Cut(word, ":")
	t := vassal.Tmpfs{Target: path.Clean(target), At: v.Origin}
	if sized {
		n, ok := wordSize(size)
		if !ok || n < leastTmpfs || n > mostTmpfs {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not a size from %d bytes to 1T", clip(size), leastTmpfs), "tmpfs = /var/cache/app:64M")
			return
		}
		t.Size = n
	}
	if !path.IsAbs(target) || t.Target == "/" {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not an absolute path below the root", clip(target)), "tmpfs = /var/cache/app:64M")
		return
	}
	j := &d.cfg.Jail
	if slices.ContainsFunc(j.Tmpfs, func(o vassal.Tmpfs) bool { return o.Target == t.Target }) {
		d.err(vassal.CodeBadValue, v.Setting, "a tmpfs at "+t.Target+" is named twice", "keep one of them")
		return
	}
	if len(j.Tmpfs) == maxTmpfs {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("at most %d of them are mounted", maxTmpfs), "put directories into one")
		return
	}
	j.Tmpfs = append(j.Tmpfs, t)
}

// everyNamespace are those that every vassal has, in their several spellings.
var everyNamespace = []string{"mount", "mnt", "fs", "pid", "ipc", "uts", "net", "cgroup"}

// namespaces reads the namespaces that a vassal has beside the usual ones.
func (d *decoder) namespaces(v value) {
	for word := range strings.FieldsSeq(strings.ReplaceAll(v.Value, ",", " ")) {
		switch {
		case slices.Contains(everyNamespace, word):
		case word == "time":
			d.cfg.Jail.TimeNS = v.Origin
		case word == "user":
			d.cfg.Jail.UserNS = v.Origin
		default:
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not a namespace that can be added", clip(word)), "namespaces = user time; mount, pid, ipc, uts, net and cgroup are there without a line")
		}
	}
}

// bindWords are the options of a bind, the last part of its word.
var bindWords = []string{"ro", "rw", "rec", "noexec", "idmap"}

// bind reads SRC[:DST][:OPTIONS]: PATH, PATH:ro, SRC:DST, SRC:DST:ro,rec …
func (d *decoder) bind(v value, word string) {
	b := vassal.Bind{Access: vassal.ReadWrite, Key: v.Key, At: v.Origin}
	parts := strings.Split(word, ":")
	if opts := strings.Split(parts[len(parts)-1], ","); len(parts) > 1 && !slices.ContainsFunc(opts, func(o string) bool { return !slices.Contains(bindWords, o) }) {
		parts = parts[:len(parts)-1]
		b.Recursive, b.NoExec, b.IDMap = slices.Contains(opts, "rec"), slices.Contains(opts, "noexec"), slices.Contains(opts, "idmap")
		if slices.Contains(opts, "ro") {
			b.Access = vassal.ReadOnly
		}
		if slices.Contains(opts, "ro") && slices.Contains(opts, "rw") {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is both read-only and writable", clip(word)), "keep ro or rw")
			return
		}
	}
	if len(parts) > 2 || parts[0] == "" || parts[len(parts)-1] == "" {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not a path to bind", clip(word)), "bind = PATH, PATH:ro, or SOURCE:TARGET:ro; options are "+strings.Join(bindWords, " ")+", joined by commas")
		return
	}
	b.Source, b.Target = parts[0], parts[len(parts)-1]
	if len(parts) == 2 && !path.IsAbs(b.Target) {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("the target %q is not an absolute path", clip(b.Target)), "bind = SOURCE:/where/it/appears")
		return
	}
	switch {
	case b.Recursive && d.tenant(v.Setting):
		d.err(vassal.CodeNotForTenants, v.Setting, "only a file that belongs to root may bind what is mounted below a directory (rec)", "bind each of them")
		return
	case b.IDMap && d.tenant(v.Setting):
		d.err(vassal.CodeNotForTenants, v.Setting, "only a file that belongs to root may act as the owner of a directory (idmap)", "")
		return
	case b.IDMap && b.Recursive:
		d.err(vassal.CodeBadValue, v.Setting, "idmap is for one file system: rec cannot be with it", "bind each of them")
		return
	}
	d.cfg.Jail.Binds = append(d.cfg.Jail.Binds, b)
}

// wordSize is the size that is all of word: 4096, 64M.
func wordSize(word string) (int64, bool) {
	end := leading(word, true)
	if end == 0 {
		return 0, false
	}
	x, err := strconv.ParseFloat(word[:end], 64)
	scale, used := unit(Size, word[end:])
	if err != nil || end+used < len(word) || x*scale > 1<<53 || x < 0 {
		return 0, false
	}
	return int64(x * scale), true
}

// jailing handles uWSGI's own ways into another root. All of them become a
// Root: the sandbox is made with it, and no process changes its root or its
// namespaces afterwards (KERNEL 2).
func (d *decoder) jailing(v value) bool {
	text := strings.TrimSpace(v.Value)
	switch v.opt.Name {
	case "chroot":
		d.newRoot(v, text)
	case "pivot-root":
		f := strings.Fields(text)
		if len(f) != 2 {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not the new root and the place of the old one", clip(text)), "pivot_root = /ns /ns/.old_root")
			return true
		}
		if d.newRoot(v, f[0]) {
			rest, below := strings.CutPrefix(path.Clean(f[1]), path.Clean(f[0])+"/")
			if !path.IsAbs(f[1]) {
				rest, below = path.Clean(f[1]), true
			}
			if !below {
				d.err(vassal.CodeBadValue, v.Setting, f[1]+" does not lie in "+f[0], "pivot_root = /ns /ns/.old_root")
				return true
			}
			d.oldRoot = "/" + rest
		}
	case "namespace":
		dir, host, named := strings.Cut(text, ":")
		if d.newRoot(v, dir) && named {
			d.hostname(v, host)
		}
	case "namespace-keep-mount":
		d.keepMount(v, text)
	case "unshare", "unshare2", "emperor-use-clone":
		d.unshared(v)
	default:
		return false
	}
	return true
}

// newRoot makes dir the root that the file's other paths are paths in.
func (d *decoder) newRoot(v value, dir string) bool {
	switch old := d.cfg.Jail.Root; {
	case old.Dir != "" && old.Key != v.Key:
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%s (line %d) names a root already", old.Key, old.At.Line), "keep one of them")
		return false
	case !path.IsAbs(dir) || path.Clean(dir) == "/":
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not a directory that can become the root", clip(dir)), v.Key+" = /distros/bookworm")
		return false
	}
	d.cfg.Jail.Root = vassal.Root{Dir: path.Clean(dir), Key: v.Key, At: v.Origin, Inside: true}
	return true
}

// keepMount is PATH or SOURCE:TARGET, of the host's tree and of the new root.
func (d *decoder) keepMount(v value, text string) {
	src, dst, named := strings.Cut(text, ":")
	if !named {
		dst = src
	}
	if !path.IsAbs(src) || !path.IsAbs(dst) {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is neither a path nor SOURCE:TARGET", clip(text)), "namespace-keep-mount = /srv/data:/data")
		return
	}
	d.cfg.Jail.Binds = append(d.cfg.Jail.Binds, vassal.Bind{Source: src, Target: dst, Access: vassal.ReadWrite, Key: v.Key, At: v.Origin})
}

// otherUnshared are words of uWSGI's unshare that name no namespace, but what
// threads share: nothing of it is shared with the Emperor; and its other name of
// the mount namespace.
var otherUnshared = []string{"files", "io", "parent", "sysvsem", "ns"}

// unshared reads a list of namespaces: those that every vassal has anyway, and
// time. A word that it does not know ends uWSGI too ("unknown namespace subsystem").
func (d *decoder) unshared(v value) {
	for word := range strings.FieldsFuncSeq(v.Value, func(r rune) bool { return r == ',' || r == ' ' }) {
		switch {
		case slices.Contains(everyNamespace, word), slices.Contains(otherUnshared, word):
		case word == "time":
			d.cfg.Jail.TimeNS = v.Origin
		case word == "user" && v.opt.Name != "emperor-use-clone": // there uWSGI makes one without a map
			d.cfg.Jail.UserNS = v.Origin
		case word == "user":
			d.note(vassal.CodeDoneOtherwise, v.Setting, "no user namespace is made for this word: namespaces = user")
		default:
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not a namespace", clip(word)), "fs, pid, ipc, uts, net, cgroup are there without a line")
		}
	}
}

// finishRoot makes lines of the mounts that hooks put into the new root before
// the jail, as uWSGI's recipes do: the root of the sandbox is made of them, so
// they are not mounted on the host's tree first.
func (d *decoder) finishRoot() {
	root := &d.cfg.Jail.Root
	if !root.Inside {
		d.mountsBefore()
		return
	}
	named := root.Dir
	d.cfg.Hooks = slices.DeleteFunc(d.cfg.Hooks, func(h vassal.Hook) bool {
		c, err := action.Parse(h)
		if err != nil {
			return false
		}
		s := Setting{Key: h.Key, Origin: h.At}
		switch before := h.Phase == vassal.Asap || h.Phase == vassal.PreJail; {
		case c.Kind == action.Umount && !before && d.oldRoot != "" && path.Clean(c.Path) == d.oldRoot:
			d.note(vassal.CodeDoneOtherwise, s, "the old root is not there: nothing has to be unmounted")
		case c.Kind == action.Mount && before && (path.Clean(c.Path) == named || strings.HasPrefix(path.Clean(c.Path), named+"/")):
			d.mountInRoot(s, h, c, strings.TrimPrefix(path.Clean(c.Path), named))
		default:
			return false
		}
		return true
	})
}

// mountsBefore makes what hooks mount before the root is entered be in it too, as
// uWSGI's users expect, whose process goes on in the same tree. The hook stays:
// those after it find the mount where they are.
func (d *decoder) mountsBefore() {
	j := &d.cfg.Jail
	for _, h := range d.cfg.Hooks {
		c, err := action.Parse(h)
		if err != nil || h.Phase.Place() != vassal.AtHost || c.Kind != action.Mount {
			continue
		}
		s, target := Setting{Key: h.Key, Origin: h.At}, path.Clean(c.Path)
		has := func(flag string) bool { return slices.Contains(c.Flags, flag) }
		switch {
		case has("remount"), has("private"), slices.Contains(ownMounts, target):
			d.note(vassal.CodeDoneOtherwise, s, "it is for the hooks before the sandbox's own root is entered, in which "+target+" is as it is without")
		case has("bind") && !has("move") && path.IsAbs(c.Source) && path.IsAbs(target):
			d.bindMounted(s, h, c, target)
		case c.FSType == "tmpfs" && path.IsAbs(target):
			size, _ := wordSize(mountOption(c.Text, "size"))
			j.Tmpfs = append(j.Tmpfs, vassal.Tmpfs{Target: target, Size: size, At: h.At})
			d.note(vassal.CodeDoneOtherwise, s, "inside too, as tmpfs = "+target+": an empty one of its own")
		default:
			d.err(vassal.CodeBadHook, s, target+": this mount cannot be brought into the sandbox, whose own root is entered after it", "hook-as-root = mount:…, or bind and tmpfs lines")
		}
	}
}

// ownMounts are what every sandbox has of its own.
var ownMounts = []string{"/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/tmp", "/run"}

// bindMounted makes a bind of what a hook has bound at target.
func (d *decoder) bindMounted(s Setting, h vassal.Hook, c action.Call, target string) {
	has := func(flag string) bool { return slices.Contains(c.Flags, flag) }
	b := vassal.Bind{Source: path.Clean(c.Source), Target: target, Access: vassal.ReadWrite, Recursive: has("rec"), NoExec: has("noexec"), Key: h.Key, At: h.At}
	if has("ro") {
		b.Access = vassal.ReadOnly
	}
	d.cfg.Jail.Binds = append(d.cfg.Jail.Binds, b)
	d.note(vassal.CodeDoneOtherwise, s, fmt.Sprintf("as bind = %s:%s", b.Source, target))
}

// mountOption is the value of an option in the data of a mount; empty: it has
// none.
func mountOption(data, name string) string {
	for word := range strings.SplitSeq(data, ",") {
		if value, ok := strings.CutPrefix(strings.TrimSpace(word), name+"="); ok {
			return value
		}
	}
	return ""
}

// mountInRoot makes of a mount at target in the new root what it means for the
// sandbox.
func (d *decoder) mountInRoot(s Setting, h vassal.Hook, c action.Call, target string) {
	has := func(flag string) bool { return slices.Contains(c.Flags, flag) }
	j := &d.cfg.Jail
	switch {
	case has("bind") && !path.IsAbs(c.Source):
		d.err(vassal.CodeBadHook, s, fmt.Sprintf("%q is not an absolute path", clip(c.Source)), "")
	case has("bind") && target == "":
		j.Root.Dir, j.Root.Key, j.Root.At = path.Clean(c.Source), h.Key, h.At
		d.note(vassal.CodeDoneOtherwise, s, "as rootfs = "+j.Root.Dir)
	case has("bind"):
		d.bindMounted(s, h, c, target)
	case has("remount"):
		d.note(vassal.CodeDoneOtherwise, s, "the root is read-only in any case")
	case slices.Contains(ownMounts, target):
		d.note(vassal.CodeDoneOtherwise, s, "the sandbox has a "+target+" of its own")
	case c.FSType == "tmpfs" && target != "":
		j.Tmpfs = append(j.Tmpfs, vassal.Tmpfs{Target: target, At: h.At})
		d.note(vassal.CodeDoneOtherwise, s, "as tmpfs = "+target)
	default:
		d.err(vassal.CodeBadHook, s, "this mount cannot become part of the root", "bind and tmpfs lines, or hook-as-root")
	}
}
