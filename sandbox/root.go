package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"liege/sandbox/stage"
	"liege/selinux"
)

// rootFlags are those of the composed root: it holds generated files only.
const rootFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// makeRoot makes the composed root: a small file system with the generated
// files and the mount points of what the stage attaches, over a tree if there
// is one. libcontainer makes the other mount points in it; then it becomes
// read-only for good, and the host's mount of it goes.
func (st *starting) makeRoot() error {
	st.root = filepath.Join(st.m.rootDir(), st.spec.ID)
	if err := os.Mkdir(st.root, 0o755); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	st.undo = append(st.undo, st.dropRoot)
	data := "mode=0755,size=16m,nr_inodes=64k"
	if label := selinux.MountOption(st.spec.RootLabel); label != "" {
		data += "," + label
	}
	if err := unix.Mount("liege", st.root, "tmpfs", rootFlags, data); err != nil {
		return fmt.Errorf("root: mount %s: %w", st.root, err)
	}
	if st.spec.Tree != nil {
		if err := st.overTree(); err != nil {
			return err
		}
	}
	if err := st.divert(); err != nil {
		return err
	}
	st.looksUp("")
	root, err := os.OpenRoot(st.root)
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	defer root.Close()
	for _, f := range slices.SortedFunc(slices.Values(st.spec.Files), linksFirst) {
		if err := makeFile(root, f); err != nil {
			return fmt.Errorf("root: %w", err)
		}
	}
	// Root of a user namespace may make nothing in the root.
	if st.spec.Tree != nil || st.spec.Users != nil {
		if err := st.claimPoints(root); err != nil {
			return fmt.Errorf("root: %w", err)
		}
	}
	for _, a := range st.spec.Plan.Attach {
		if err := st.makeTarget(root, a); err != nil {
			return fmt.Errorf("mount point %s: %w", a.Target, err)
		}
	}
	if st.hostSys() {
		if err := st.bindSys(root); err != nil {
			return fmt.Errorf("root: /sys: %w", err)
		}
	}
	return nil
}

// hostSys tells whether /sys is the host's own mount: it belongs to a network
// namespace, and a user namespace may mount only that of one which it owns.
func (st *starting) hostSys() bool { return st.spec.Users != nil && st.spec.HostNet }

// bindSys puts the host's /sys into the root, read-only and without what is
// mounted below it, which a user namespace could not leave out.
func (st *starting) bindSys(root *os.Root) error {
	if err := claim(root, "/sys", true); err != nil {
		return err
	}
	at := filepath.Join(st.root, "sys")
	if err := unix.Mount("/sys", at, "", unix.MS_BIND, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	return os.NewSyscallError("mount", unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|tmpfsRO, ""))
}

// dropRoot removes the host's mount of the root. The sandbox has its own.
func (st *starting) dropRoot() error {
	if st.root == "" {
		return nil
	}
	for range 2 { // an overlay lies over its upper layer
		if mounted, err := isMount(st.root); err != nil || !mounted {
			break
		}
		if err := unix.Unmount(st.root, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("root: unmount %s: %w", st.root, err)
		}
	}
	if err := os.Remove(st.root); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("root: %w", err)
	}
	st.root = ""
	return nil
}

// sealRoot makes the root's file system itself read-only, in the sandbox too.
func (st *starting) sealRoot() error {
	flags := uintptr(unix.MS_REMOUNT | unix.MS_RDONLY | rootFlags)
	if st.spec.Tree != nil {
		flags &^= unix.MS_NOEXEC
	}
	if err := unix.Mount("", st.root, "", flags, ""); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	return nil
}

func linksFirst(a, b GenFile) int {
	if (a.Link == "") != (b.Link == "") {
		if a.Link != "" {
			return -1
		}
		return 1
	}
	return strings.Compare(a.Path, b.Path)
}

func makeFile(root *os.Root, f GenFile) error {
	name := strings.TrimPrefix(path.Clean("/"+f.Path), "/")
	if name == "" {
		return errors.New("a generated file has no name")
	}
	if err := claimWay(root, path.Dir(name)); err != nil {
		return err
	}
	if err := clearName(root, name); err != nil {
		return err
	}
	if f.Link != "" {
		return root.Symlink(f.Link, name)
	}
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(f.Text)
	return errors.Join(err, file.Chmod(f.Mode.Perm()), file.Close())
}

// divert turns the binds that libcontainer cannot make into detached ones for
// the stage: below a private directory, where an earlier generation may have
// put a link; below an attached mount, which would cover them; and below
// another bind, in whose source libcontainer would make the mount point. The
// stage attaches the shallow before the deep.
func (st *starting) divert() error {
	spec := &st.spec
	rest := make([]Mount, 0, len(spec.Root))
	for _, b := range spec.Root {
		st.looksUp(b.Source)
		if _, err := os.Stat(b.Source); err != nil {
			return fmt.Errorf("bind %s: %w", b.Target, err)
		}
		if !st.covered(b.Target) {
			rest = append(rest, b)
			continue
		}
		src, err := os.OpenFile(b.Source, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err != nil {
			return fmt.Errorf("bind: %w", err)
		}
		mount, err := DetachedBind(src, BindFlags{Writable: b.Writable, Exec: b.Exec, Recursive: b.Recursive})
		src.Close()
		if err != nil {
			return err
		}
		st.own = append(st.own, mount)
		spec.Plan.Attach = append(spec.Plan.Attach, stage.Attach{Mount: len(spec.Detached), Target: b.Target})
		spec.Detached = append(spec.Detached, mount)
	}
	slices.SortStableFunc(rest, func(a, b Mount) int { return shallowFirst(a.Target, b.Target) })
	slices.SortStableFunc(spec.Plan.Attach, func(a, b stage.Attach) int { return shallowFirst(a.Target, b.Target) })
	spec.Root = rest
	return nil
}

func shallowFirst(a, b string) int {
	return cmp.Compare(strings.Count(path.Clean(a), "/"), strings.Count(path.Clean(b), "/"))
}

func (st *starting) covered(target string) bool {
	for _, p := range private {
		if inside(target, p.target) {
			return true
		}
	}
	for _, b := range st.spec.Root {
		if inside(target, b.Target) {
			return true
		}
	}
	for _, a := range st.spec.Plan.Attach {
		if inside(target, a.Target) {
			return true
		}
	}
	return false
}

// inside tells whether p is below dir; both are absolute.
func inside(p, dir string) bool {
	return strings.HasPrefix(path.Clean(p), strings.TrimSuffix(path.Clean(dir), "/")+"/")
}

// makeTarget makes the mount point of an attached mount where that is ours to
// make: in the root, or in a private directory. Below another bind it has to
// exist, and the stage says so if it does not.
func (st *starting) makeTarget(root *os.Root, a stage.Attach) error {
	isDir, err := st.targetIsDir(a)
	if err != nil {
		return err
	}
	target := path.Clean(a.Target)
	for _, p := range private {
		if inside(target, p.target) {
			return makeBeneath(st.v.private(p.dir), strings.TrimPrefix(target, p.target+"/"), isDir)
		}
	}
	for _, b := range st.spec.Root {
		if inside(target, b.Target) {
			return nil
		}
	}
	for _, other := range st.spec.Plan.Attach {
		if inside(target, other.Target) {
			return nil
		}
	}
	return claim(root, target, isDir)
}

// makeBeneath makes a directory or an empty file below dir, where a tenant can
// write: step by step, through no link.
func makeBeneath(dir, name string, isDir bool) error {
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return makeBelow(at, name, isDir)
}

// makeBelow is makeBeneath in an open directory, which it closes.
func makeBelow(at int, name string, isDir bool) error {
	defer func() { unix.Close(at) }()
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	parts := strings.Split(name, "/")
	for i, part := range parts {
		if i == len(parts)-1 && !isDir {
			fd, err := unix.Openat(at, part, unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o644)
			if err != nil {
				return &os.PathError{Op: "open", Path: part, Err: err}
			}
			return unix.Close(fd)
		}
		if err := unix.Mkdirat(at, part, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			return &os.PathError{Op: "mkdir", Path: part, Err: err}
		}
		next, err := unix.Openat2(at, part, &how)
		if err != nil {
			return &os.PathError{Op: "open", Path: part, Err: err}
		}
		unix.Close(at)
		at = next
	}
	return nil
}
