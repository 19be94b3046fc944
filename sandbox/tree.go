package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"liege/sandbox/stage"
)

// overTree lays the root over the tree: an overlay whose lower layer is the
// tree and whose upper layer is the file system that is mounted on st.root
// already. What is made for the start (mount points, generated files) is made
// there, so that the tree may be on read-only storage and is never written
// (KERNEL 17). The lower layer is the directory that the descriptor refers to,
// without what is mounted below it.
func (st *starting) overTree() error {
	for _, layer := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(st.root, layer), 0o755); err != nil {
			return fmt.Errorf("root: %w", err)
		}
	}
	// The options keep the kernel from believing what attributes of a
	// stranger's files say about other layers.
	data := fmt.Sprintf("lowerdir=/proc/self/fd/%[1]d,upperdir=%[2]s/upper,workdir=%[2]s/work,redirect_dir=nofollow,metacopy=off,index=off,xino=off",
		st.spec.Tree.Fd(), st.root)
	err := unix.Mount("liege", st.root, "overlay", rootFlags&^unix.MS_NOEXEC, data)
	if errors.Is(err, unix.ENODEV) {
		err = fmt.Errorf("%w: overlay file systems", ErrNotSupported)
	}
	if err != nil {
		return fmt.Errorf("root over %s: %w", st.spec.Tree.Name(), err)
	}
	return nil
}

// claimPoints makes the mount points of the root before anybody looks for them:
// over a tree they must be ours.
func (st *starting) claimPoints(root *os.Root) error {
	var made []string
	all := st.mounts()
	if st.ownBinds() {
		all = append(all, st.bindMounts()...)
	}
	for _, m := range all {
		inOther := false
		for _, over := range made {
			inOther = inOther || inside(m.Destination, over)
		}
		made = append(made, m.Destination)
		if inOther {
			continue
		}
		isDir := true
		if m.Device == "bind" {
			fi, err := os.Stat(m.Source)
			if err != nil {
				return err
			}
			isDir = fi.IsDir()
		}
		if err := claim(root, m.Destination, isDir); err != nil {
			return fmt.Errorf("mount point %s: %w", m.Destination, err)
		}
	}
	return nil
}

// claim makes name, a directory or an empty file, in root and makes it ours:
// each directory on the way is copied into the upper layer, so that nothing
// that happens in the tree from now on changes what a mount lands on. A link or
// a file of the tree in the place itself is covered; one on the way is an
// error, since the mount would land where the tree says.
func claim(root *os.Root, name string, isDir bool) error {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if err := claimWay(root, path.Dir(name)); err != nil {
		return err
	}
	if isDir {
		return claimDir(root, name, true)
	}
	if err := clearName(root, name); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// claimWay makes the directory dir and each on the way to it.
func claimWay(root *os.Root, dir string) error {
	if dir == "." {
		return nil
	}
	if err := claimWay(root, path.Dir(dir)); err != nil {
		return err
	}
	return claimDir(root, dir, false)
}

// claimDir makes dir a directory of the upper layer; over says that it may
// take the place of something else.
func claimDir(root *os.Root, dir string, over bool) error {
	fi, err := root.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case fi.IsDir():
		// A change of mode, be it to the same, copies it up.
		if err := root.Chmod(dir, fi.Mode()); err != nil {
			return err
		}
		if fi, err = root.Lstat(dir); err != nil || !fi.IsDir() {
			return fmt.Errorf("/%s changes in the tree while the root is made", dir)
		}
		return nil
	case !over && fi.Mode()&fs.ModeSymlink != 0:
		return fmt.Errorf("/%s is a link in the tree: nothing is mounted through it", dir)
	case !over:
		return fmt.Errorf("/%s is no directory in the tree", dir)
	default:
		if err := clearName(root, dir); err != nil {
			return err
		}
	}
	return root.Mkdir(dir, 0o755)
}

// clearName makes room for a file or a link of ours. A directory of the tree
// stays: nobody asked to hide it.
func clearName(root *os.Root, name string) error {
	fi, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && fi.IsDir() {
		err = fmt.Errorf("/%s is a directory in the tree", name)
	}
	if err != nil {
		return err
	}
	return root.Remove(name)
}

// targetIsDir tells whether the mount of an Attach is one of a directory.
func (st *starting) targetIsDir(a stage.Attach) (bool, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(st.spec.Detached[a.Mount].Fd()), &stat); err != nil {
		return false, os.NewSyscallError("fstat", err)
	}
	return stat.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}
