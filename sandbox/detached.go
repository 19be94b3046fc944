package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// BindFlags are what a DetachedBind allows. nosuid and nodev are always set, and
// what the host has mounted read-only or noexec stays so.
type BindFlags struct {
	Writable  bool
	Exec      bool
	IDMap     *IDMap
	Recursive bool // with the mounts below it, which get the same flags
}

// DetachedBind makes a mount of what f refers to (a directory or a file, an
// O_PATH descriptor is enough) that is not attached anywhere. The stage attaches it inside the sandbox: however the path
// is moved meanwhile, the mount is of the inode that was checked (KERNEL 14).
// The caller closes both files; the mount is gone with the last descriptor if
// it was never attached. Needs Linux 5.12 and CAP_SYS_ADMIN.
func DetachedBind(f *os.File, flags BindFlags) (*os.File, error) {
	fd, err := detach(int(f.Fd()), "", f.Name(), flags)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// detach makes the mount of path below the descriptor at, or of at itself.
func detach(at int, path, name string, flags BindFlags) (int, error) {
	which := uint(unix.AT_EMPTY_PATH)
	if flags.Recursive {
		which |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(at, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|which)
	if err != nil {
		return -1, bindError(name, "open_tree", err)
	}
	attr := unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV,
		Propagation: unix.MS_PRIVATE,
	}
	if !flags.Writable {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if !flags.Exec {
		attr.Attr_set |= unix.MOUNT_ATTR_NOEXEC
	}
	if flags.IDMap != nil {
		space, err := flags.IDMap.open()
		if err != nil {
			unix.Close(fd)
			return -1, bindError(name, "user namespace", err)
		}
		defer space.Close()
		attr.Attr_set |= unix.MOUNT_ATTR_IDMAP
		attr.Userns_fd = uint64(space.Fd())
	}
	if err := unix.MountSetattr(fd, "", which, &attr); err != nil {
		unix.Close(fd)
		return -1, bindError(name, "mount_setattr", err)
	}
	return fd, nil
}

func bindError(name, call string, err error) error {
	if errors.Is(err, unix.ENOSYS) {
		err = fmt.Errorf("%w: %s needs Linux 5.12", ErrNotSupported, call)
	}
	return fmt.Errorf("bind %s: %s: %w", name, call, err)
}

// DetachedTmpfs makes an empty file system in memory that is attached nowhere
// yet, for a directory of the user uid; label is its SELinux context, empty:
// the policy's. The stage attaches it, as a DetachedBind.
func DetachedTmpfs(size int64, uid, gid int, label string) (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("tmpfs: fsopen: %w", err)
	}
	defer unix.Close(fs)
	options := [][2]string{
		{"source", "liege"}, {"mode", "0755"}, {"nr_inodes", "1m"},
		{"size", strconv.FormatInt(size, 10)}, {"uid", strconv.Itoa(uid)}, {"gid", strconv.Itoa(gid)},
	}
	if label != "" {
		options = append(options, [2]string{"rootcontext", label})
	}
	for _, o := range options {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return nil, fmt.Errorf("tmpfs: option %s=%s: %w", o[0], o[1], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("tmpfs: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return nil, fmt.Errorf("tmpfs: fsmount: %w", err)
	}
	return os.NewFile(uintptr(fd), "tmpfs"), nil
}

// DetachedUnion makes a mount, attached nowhere, that shows the files of two
// directories of root's, read-only; where both have a name, upper's. What is put
// in their place later may be seen or not.
func DetachedUnion(upper, lower string) (*os.File, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("overlay: %w", err)
	}
	defer unix.Close(fs)
	plain := strings.NewReplacer(`\`, `\\`, ":", `\:`)
	err = unix.FsconfigSetString(fs, "lowerdir", plain.Replace(upper)+":"+plain.Replace(lower))
	if err == nil {
		err = unix.FsconfigCreate(fs)
	}
	if err != nil {
		return nil, fmt.Errorf("overlay of %s: %w", lower, err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return nil, fmt.Errorf("overlay of %s: %w", lower, err)
	}
	return os.NewFile(uintptr(fd), lower), nil
}
