package resolve

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"liege/vassal"
	"liege/vassal/acl"
	"liege/vassal/regular"
)

// treeDirs are what a tree brings itself: no option brings the host's there by
// merely naming a path below one.
var treeDirs = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc"}

// root finds the system that the app sees. Only an operator's line can name
// one, so it is looked at with this process's rights whoever owns the file.
func (r *resolver) root() {
	line := r.cfg.Jail.Root
	if line.Dir == "" || r.host.Caller != nil {
		return
	}
	w, err := walk(OS{}, line.Dir)
	switch {
	case err != nil:
		r.fail(vassal.CodeNoSuchPath, line.At, line.Key, reason(line.Dir, err), "")
		return
	case !w.info.IsDir():
		r.fail(vassal.CodeNoSuchPath, line.At, line.Key, line.Dir+" is not a directory", "")
		return
	case w.path == "/":
		r.fail(vassal.CodeRefusedPath, line.At, line.Key, line.Dir+" leads to the host's own root, which is never shown whole", "rootfs = host")
		return
	}
	for _, dir := range append(slices.Clone(r.host.Reserved), notEver...) {
		if within(w.path, dir) || within(dir, w.path) {
			r.fail(vassal.CodeRefusedPath, line.At, line.Key, fmt.Sprintf("%s cannot be a root: it is, holds or lies in %s", w.path, dir), "a directory that holds another system and nothing else")
			return
		}
	}
	r.tree = &foreignTree{dir: w.path}
	r.res.Root = Bind{Source: w.path, Target: "/", Dir: true, Tenant: w.tenant, Device: w.dev, Inode: w.ino, Why: line.Key, At: line.At}
	if r.res.Foreign = r.tree.foreign(); w.tenant {
		r.res.Foreign = cmp.Or(r.res.Foreign, "a directory on the way to it is not root's alone")
	}
	for _, b := range r.cfg.Jail.Binds {
		if w, err := walk(r.host.FS, r.abs(b.Source)); err == nil {
			r.lines = append(r.lines, Bind{Source: w.path, Target: r.abs(cmp.Or(b.Target, b.Source))})
		}
	}
}

// foreignHooks refuses commands that root would run where others can change what
// it runs, a tree of theirs or one with something of theirs over it: the shell and
// its libraries may be anything (KERNEL 17).
func (r *resolver) foreignHooks() {
	for _, h := range r.cfg.Hooks {
		if h.Action != "exec" || !slices.Contains([]vassal.Phase{vassal.AsRoot, vassal.InJail, vassal.PostJail}, h.Phase) {
			continue
		}
		if r.res.Foreign = r.res.ForeignRoot(); r.res.Foreign != "" {
			r.fail(vassal.CodeBadHook, h.At, "hook-"+string(h.Phase), fmt.Sprintf("root would run a shell of %s, and %s", cmp.Or(r.res.Root.Source, "the sandbox"), r.res.Foreign), "hook-as-user, or chown root the tree")
		}
	}
}

// ForeignRoot says who besides root can change anything that root might run in
// the vassal's root: in its own tree, of which it looks at every file, and in what
// is put over the system's directories; empty: nobody.
func (r *Result) ForeignRoot() string {
	covers := func(target string) bool {
		return slices.ContainsFunc(treeDirs, func(d string) bool { return within(target, d) || within(d, target) })
	}
	for _, b := range r.Binds {
		if (b.Tenant || b.Writable) && b.Source != b.Target && covers(b.Target) {
			return fmt.Sprintf("%s, which others can change, is put over %s", b.Source, b.Target)
		}
	}
	for _, t := range r.Tmpfs {
		if covers(t.Target) {
			return "the app fills a tmpfs at " + t.Target
		}
	}
	if r.Root.Source == "" || r.Foreign != "" {
		return r.Foreign
	}
	return (&foreignTree{dir: r.Root.Source}).foreignBelow()
}

// foreignTree is a system below dir, asked as if dir were the root. The caller
// resolves links (walk): none is followed here, and os.Root leaves dir on no
// way, whatever is renamed meanwhile.
type foreignTree struct{ dir string }

// open opens dir itself. The dot at the end has the kernel refuse what is no
// directory before it is opened: os.OpenRoot looks afterwards, when a device has
// seen it and a FIFO has waited.
func (t *foreignTree) open() (*os.Root, error) { return os.OpenRoot(t.dir + "/.") }

// at opens dir for one question.
func (t *foreignTree) at(p string, ask func(root *os.Root, name string) error) error {
	root, err := t.open()
	if err != nil {
		return err
	}
	defer root.Close()
	name := strings.TrimPrefix(path.Clean("/"+p), "/")
	return inTree(ask(root, cmp.Or(name, ".")), p)
}

// inTree names p as it is inside.
func inTree(err error, p string) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return &fs.PathError{Op: pe.Op, Path: p, Err: pe.Err}
	}
	return err
}

// Lstat implements FS.
func (t *foreignTree) Lstat(p string) (fi fs.FileInfo, err error) {
	err = t.at(p, func(root *os.Root, name string) error {
		fi, err = root.Lstat(name)
		return err
	})
	return fi, err
}

// Readlink implements FS.
func (t *foreignTree) Readlink(p string) (to string, err error) {
	err = t.at(p, func(root *os.Root, name string) error {
		to, err = root.Readlink(name)
		return err
	})
	return to, err
}

// ReadFile implements FS. It reads regular files only and never waits.
func (t *foreignTree) ReadFile(p string) (b []byte, err error) {
	err = t.at(p, func(root *os.Root, name string) error {
		at, err := root.OpenFile(name, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		defer at.Close()
		f, err := regular.Reopen(at)
		if err != nil {
			return err
		}
		defer f.Close()
		b = readSmall(f)
		return nil
	})
	return b, err
}

// foreign says who besides root can change what root would run of the tree:
// the directories and files that a shell is made of. Empty: nobody.
func (t *foreignTree) foreign() string {
	for _, p := range append([]string{"/", "/usr/bin", "/usr/lib", "/bin/sh", "/etc/ld.so.preload", "/etc/ld.so.cache"}, treeDirs...) {
		w, err := walk(t, p)
		if err != nil {
			continue
		}
		st, ok := w.info.Sys().(*syscall.Stat_t)
		switch {
		case !ok || st.Uid != 0:
			return fmt.Sprintf("%s in it belongs to uid %d", p, w.uid)
		case st.Mode&0o022 != 0:
			return fmt.Sprintf("%s in it is writable by others than root (mode %04o)", p, w.info.Mode().Perm())
		case w.tenant:
			return fmt.Sprintf("a directory on the way to %s in it is not root's alone", p)
		}
	}
	return ""
}

// foreignBelow is foreign for all that a command may run or load: it is asked
// only where root runs one, since it looks at every file.
func (t *foreignTree) foreignBelow() string {
	root, err := t.open()
	if err != nil {
		return err.Error()
	}
	defer root.Close()
	found := ""
	for _, dir := range treeDirs {
		err := fs.WalkDir(root.FS(), dir[1:], func(p string, e fs.DirEntry, err error) error {
			if err != nil || e.Type()&fs.ModeSymlink != 0 {
				return nil // a directory that is not there; a link leads to what is looked at elsewhere
			}
			fi, err := e.Info()
			if err != nil {
				return nil
			}
			if st, ok := fi.Sys().(*syscall.Stat_t); !ok || st.Uid != 0 || st.Mode&0o002 != 0 || st.Mode&0o020 != 0 && (st.Gid != 0 || acl.OthersWrite(t.dir+"/"+p, 0, func(gid uint32) bool { return gid == 0 })) {
				found = fmt.Sprintf("/%s in it is not root's alone", p)
				return fs.SkipAll
			}
			return nil
		})
		if err != nil || found != "" {
			return cmp.Or(found, fmt.Sprint(err))
		}
	}
	return ""
}

// find walks to a path that an option names, before the binds are made: on the
// host, from where it is brought; what only the tree has, or a bind line puts
// there, is inside already. Under chroot the host is not looked at.
func (r *resolver) find(p string) (walked, error) {
	if r.tree == nil {
		return walk(r.host.FS, p)
	}
	if !r.cfg.Jail.Root.Inside && !r.visible(p) {
		if w, err := walk(r.host.FS, p); !errors.Is(err, fs.ErrNotExist) {
			return w, err
		}
	}
	return walk(view{r, r.lines}, p)
}

// look walks to a path as the app will.
func (r *resolver) look(p string) (walked, error) { return walk(r.view(), p) }

// below is the end of a message about a program that is not there: where it was
// looked for, if that is not the host's own system.
func (r *resolver) below() string {
	if r.res.Root.Source == "" {
		return ""
	}
	return " below " + r.res.Root.Source
}

// install is the hint that names a package, for the system that lacks it.
func (r *resolver) install(pkg string) string {
	if r.res.Root.Source == "" {
		return "apt install " + pkg
	}
	return "chroot " + r.res.Root.Source + " apt install " + pkg
}

// view is the file system as the app will see it, once the binds are known.
func (r *resolver) view() FS {
	if r.tree == nil {
		return r.host.FS
	}
	return view{r, r.res.Binds}
}

// view is a tree with the binds in it.
type view struct {
	r     *resolver
	binds []Bind
}

// of returns who answers for p, and what it is called there.
func (v view) of(p string) (FS, string) {
	best := -1
	for i, b := range v.binds {
		if within(p, b.Target) && (best < 0 || len(b.Target) > len(v.binds[best].Target)) {
			best = i
		}
	}
	if best < 0 {
		return v.r.tree, p
	}
	b := v.binds[best]
	return v.r.host.FS, b.Source + strings.TrimPrefix(p, b.Target)
}

// Lstat implements FS.
func (v view) Lstat(p string) (fs.FileInfo, error) {
	if v.link(p) != "" {
		return madeLink(path.Base(p)), nil
	}
	f, p := v.of(p)
	fi, err := f.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) && v.leads(p) {
		return v.r.tree.Lstat("/") // a directory that is made on the way to a bind
	}
	return fi, err
}

// leads reports whether p is a directory that something bound lies below.
func (v view) leads(p string) bool {
	return slices.ContainsFunc(v.binds, func(b Bind) bool { return within(b.Target, p) }) ||
		slices.ContainsFunc(v.r.res.Links, func(l Link) bool { return within(l.Path, p) })
}

// Readlink implements FS.
func (v view) Readlink(p string) (string, error) {
	if to := v.link(p); to != "" {
		return to, nil
	}
	f, p := v.of(p)
	return f.Readlink(p)
}

// ReadFile implements FS. What a bind shows is read with the rights that the
// host's files are read with.
func (v view) ReadFile(p string) ([]byte, error) {
	f, p := v.of(p)
	return f.ReadFile(p)
}

// link is where a link that is made inside leads to.
func (v view) link(p string) string {
	for _, l := range v.r.res.Links {
		if l.Path == p {
			return l.Target
		}
	}
	return ""
}

// madeLink is the FileInfo of a link that a start makes.
type madeLink string

func (l madeLink) Name() string     { return string(l) }
func (madeLink) Size() int64        { return 0 }
func (madeLink) Mode() fs.FileMode  { return fs.ModeSymlink | 0o777 }
func (madeLink) ModTime() time.Time { return time.Time{} }
func (madeLink) IsDir() bool        { return false }
func (madeLink) Sys() any           { return &syscall.Stat_t{} }

// ofTree brings a path that an option names from the tree, where it is one of
// the tree's: nothing is bound, but for what the app may write to where all of
// the file's paths are the tree's.
func (r *resolver) ofTree(b vassal.Bind, src string) bool {
	if r.tree == nil {
		return false
	}
	inside := r.cfg.Jail.Root.Inside
	if slices.ContainsFunc(r.lines, func(l Bind) bool { return within(src, l.Target) }) && inside {
		return true // a line brings it
	}
	if !inside {
		if _, err := walk(r.host.FS, src); !errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	w, err := walk(view{r, r.lines}, src)
	switch {
	case err != nil && !inside:
		return false // whoever looks for it says so
	case err != nil:
		r.warn(vassal.CodeNoSuchPath, b.At, b.Key, reason(src, err)+", in "+r.tree.dir, "")
		return true
	case !inside || b.Access == vassal.ReadOnly || w.path == "/" || r.visible(w.path):
		return true
	case slices.ContainsFunc(r.lines, func(l Bind) bool { return within(w.path, l.Target) }):
		return true // a link led to what a line brings
	}
	at, err := walk(OS{}, r.tree.dir+w.path)
	if err != nil || at.path != r.tree.dir+w.path {
		r.fail(vassal.CodeNoSuchPath, b.At, b.Key, w.path+" changes while it is looked at", "")
		return true
	}
	r.res.Binds = append(r.res.Binds, Bind{
		Source: at.path, Target: w.path, Writable: true, Dir: at.info.IsDir(), Tenant: true, Device: at.dev, Inode: at.ino, Why: b.Key, At: b.At,
	})
	return true
}

// placeInTree refuses a target on whose way the tree has a link: mounting
// there would put it somewhere else.
func (r *resolver) placeInTree(at vassal.Origin, key, target string) bool {
	if r.tree == nil {
		return true
	}
	for i := range target {
		if i == 0 || target[i] != '/' {
			continue
		}
		dir := target[:i]
		if slices.ContainsFunc(r.res.Binds, func(b Bind) bool { return within(dir, b.Target) }) {
			return true // below another bind: the start looks
		}
		fi, err := r.tree.Lstat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return true
		}
		if err != nil || !fi.IsDir() {
			what := "no directory"
			if err == nil && fi.Mode()&fs.ModeSymlink != 0 {
				what = "a link"
			}
			r.fail(vassal.CodeRefusedPath, at, key, fmt.Sprintf("nothing can be put at %s: %s is %s in %s", target, dir, what, r.tree.dir), "name the place that it leads to")
			return false
		}
	}
	return true
}

// tmpfs checks where the file systems in memory go.
func (r *resolver) tmpfs() {
	for _, t := range r.cfg.Jail.Tmpfs {
		target := canonRun(t.Target)
		if slices.ContainsFunc(append([]string{"/dev"}, notOver...), func(dir string) bool { return within(target, dir) || within(dir, target) }) {
			r.fail(vassal.CodeRefusedPath, t.At, "tmpfs", "nothing can be put at "+target+", which Liege fills", "name another place for it")
			continue
		}
		if r.cfg.ByUser(t.At) && !r.mayCover(t.At, "tmpfs", target) {
			continue
		}
		if !r.placeInTree(t.At, "tmpfs", target) {
			continue
		}
		if t.Size == 0 {
			t.Size = defaultTmpfs
		}
		t.Target = target
		r.res.Tmpfs = append(r.res.Tmpfs, t)
	}
	slices.SortFunc(r.res.Tmpfs, func(a, b vassal.Tmpfs) int { return cmp.Compare(a.Target, b.Target) })
}

// defaultTmpfs is the size of a tmpfs that names none. It is taken only as
// files fill it, and counts as the vassal's memory.
const defaultTmpfs = 64 << 20

// resolvLine is what a resolv-conf line says.
func (r *resolver) resolvLine() string {
	at := r.cfg.Jail.ResolvAt
	switch p := r.cfg.Jail.Resolv; p {
	case "none":
		return ""
	case "host":
		b, err := OS{}.ReadFile("/etc/resolv.conf")
		if err != nil {
			r.fail(vassal.CodeNoSuchPath, at, "resolv-conf", reason("/etc/resolv.conf", err), "resolv-conf = none")
		}
		return string(b)
	default:
		b, _ := r.rootsFile(p, "resolv-conf", at)
		return string(b)
	}
}

// rootsFile reads a file that a line names. Where the line is the operator's,
// so is what the file says: nobody else may be able to put another in its
// place. A tenant's is read with his rights.
func (r *resolver) rootsFile(p, key string, at vassal.Origin) ([]byte, bool) {
	w, err := walk(r.host.FS, path.Clean(p))
	if err == nil && (w.tenant || movable(w.info)) && r.cfg.Trust.Operator {
		r.fail(vassal.CodeRefusedPath, at, key, p+" can be changed or replaced by others than root, and root would read whatever it leads to", "a file in /etc")
		return nil, false
	}
	var b []byte
	if err == nil {
		b, err = r.host.FS.ReadFile(w.path)
	}
	if err != nil {
		r.fail(vassal.CodeNoSuchPath, at, key, reason(p, err), "")
		return nil, false
	}
	return b, true
}
